"""What all families share: tasks, splits, capabilities, array rules, the Gymnasium shell around them, the registry."""
