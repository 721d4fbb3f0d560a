"""Grid-world families: square rooms with a hidden goal."""
