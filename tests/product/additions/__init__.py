"""A method and an environment, one file each, that a test adds to a copy of the package."""
