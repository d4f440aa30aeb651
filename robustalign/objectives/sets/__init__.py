"""Ambiguity sets: from the losses of a batch to the worst law near the nominal one."""
