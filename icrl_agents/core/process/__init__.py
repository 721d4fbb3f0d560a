"""The running process: terminal, signals, workers, optional packages."""
