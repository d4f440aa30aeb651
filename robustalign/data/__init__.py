"""From prompts to preference pairs: sources, tokenising, candidates, pairs, collating."""
