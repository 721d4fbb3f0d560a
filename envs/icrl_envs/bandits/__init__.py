"""Families of bandits."""
