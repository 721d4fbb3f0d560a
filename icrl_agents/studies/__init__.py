"""Studies: many trainings or many measurements behind one table."""
