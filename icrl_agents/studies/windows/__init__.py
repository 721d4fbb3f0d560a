"""Study of windows: AD and CAD with equal numbers of visible tokens."""
