"""One optimiser for every method: a pair loss, an ambiguity set, a plain loop."""
