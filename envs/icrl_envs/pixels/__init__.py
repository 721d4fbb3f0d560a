"""Families with image observations."""
