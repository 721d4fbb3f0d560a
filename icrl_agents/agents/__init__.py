"""Agents: acting (reset, act, observe), planning, loading and saving."""
