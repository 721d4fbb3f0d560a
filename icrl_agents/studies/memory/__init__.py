"""The study of memory: how long agents remember rewards."""
