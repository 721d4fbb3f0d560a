"""The study of windows: AD and CAD at equal visible tokens."""
