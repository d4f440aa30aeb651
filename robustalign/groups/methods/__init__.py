"""One module a grouping."""
