"""Agents: reset, act, observe, load and save."""
