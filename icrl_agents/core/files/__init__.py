"""Files that appear whole, and JSON from other people."""
