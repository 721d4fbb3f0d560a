"""Commands that use agents and environments as they are."""
