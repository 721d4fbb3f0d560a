"""Learners of environments with few observations and actions, in tables."""
