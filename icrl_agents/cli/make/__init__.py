"""Commands that make histories and agents."""
