"""Doctor: checks of an environment and its tasks before anything long starts."""
