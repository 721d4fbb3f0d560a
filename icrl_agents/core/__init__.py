"""Step records, the rollout loop, task splits and input checks; imports no torch."""

__version__ = "0.1.0"  # of the package, in its metadata, checkpoints and stores
