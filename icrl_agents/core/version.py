"""Package version, recorded in the metadata, checkpoints and stores."""

__version__ = "0.1.0"
