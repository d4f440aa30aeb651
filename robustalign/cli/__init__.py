"""The commands: each ``main`` is a script's and an entry point's alike."""
