"""Runs as jobs of Slurm: the batch script, what Slurm's queue says of it, stopping it."""
