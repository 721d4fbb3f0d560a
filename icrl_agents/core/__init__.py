"""The domain's records and the one rollout loop; no torch."""
