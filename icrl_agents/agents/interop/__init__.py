"""Agents in other libraries' loops: wrappers that call `observe`, and Stable-Baselines3."""
