"""Learners of bandits, where an action influences its own reward and nothing else."""
