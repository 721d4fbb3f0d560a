"""Study of action sets: agents on task sets with more, fewer, unseen and renumbered actions."""
