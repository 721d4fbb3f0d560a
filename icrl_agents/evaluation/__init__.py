"""Evaluation: learning curves, bootstrap intervals, results tables, figures and live play."""
