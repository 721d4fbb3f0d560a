"""Process-level services: terminal output, signals, worker processes, optional packages."""
