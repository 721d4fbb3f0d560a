"""Studies: tables over many trainings or measurements (seeds, windows, action sets, memory, marks, comparison)."""
