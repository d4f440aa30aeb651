"""The straight line from a config to results, and the sweeps made of many such lines."""
