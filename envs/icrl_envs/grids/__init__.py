"""Families of square rooms with a hidden goal."""
