"""Step records, the rollout loop, task splits and input checks; imports no torch."""
