"""Training: from batches of windows to a checkpoint folder."""
