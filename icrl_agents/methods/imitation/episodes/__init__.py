"""Methods that act from the current episode, and the demonstrations that may precede it."""
