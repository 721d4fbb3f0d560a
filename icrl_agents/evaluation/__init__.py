"""Evaluation: curves, intervals, results tables and figures."""
