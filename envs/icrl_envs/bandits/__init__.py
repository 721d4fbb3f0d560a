"""Bandit families: Bernoulli, contextual and Gaussian."""
