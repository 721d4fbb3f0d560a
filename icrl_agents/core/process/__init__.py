"""Process-level services: terminal output, signals, where jobs run, optional packages."""
