"""What a policy is worth to each target population, on held-out prompts."""
