"""Training: batches of windows in, a checkpoint folder out."""
