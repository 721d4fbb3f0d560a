"""The version of the package, which its metadata, checkpoints and stores carry."""

__version__ = "0.1.0"
