"""Jobs: functions of their arguments alone, run in worker processes, on a Ray cluster or on SLURM."""
