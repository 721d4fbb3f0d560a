"""Families of Gymnasium environments that exist already."""
