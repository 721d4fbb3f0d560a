"""Base of all families: tasks, splits, capabilities, array rules with their Gymnasium environments, the registry."""
