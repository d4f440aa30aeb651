"""Pair losses: from the margin of a pair, and whatever else it declares, to its loss."""
