"""One run as one process: its folder, journal, identity, worker and ranks."""
