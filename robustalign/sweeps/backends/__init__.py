"""What starts the runs of a sweep: a pool on this machine, or a SLURM job array."""
