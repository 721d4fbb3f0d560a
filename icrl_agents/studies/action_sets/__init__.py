"""The study of action sets: more, fewer and renumbered actions."""
