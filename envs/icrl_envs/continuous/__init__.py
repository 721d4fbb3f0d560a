"""Families with real-valued observations and actions."""
