"""Planning with the method's own dynamics predictions (DICP)."""
