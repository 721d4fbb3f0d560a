"""Randomness as a function: the numbers drawn at a position are a hash of it, the same for one row as for thousands.

A stochastic family keeps its position in its state, so that its rules still draw nothing and copies of a row have the
same future. Two rows share no number unless their positions, 2**56 of them, come together.
"""

from __future__ import annotations

import numpy as np

DRAWS = 4  # numbers that may be drawn at one position
FARTHEST = 9.0  # no normal number is larger: sqrt(-2 log(2**-54)) is 8.65


def uniform(position: np.ndarray, number: int) -> np.ndarray:
    """Give the uniform numbers, above 0 and below 1, that are the `number`-th (0 to 3) at positions (B,) int64."""
    z = (position.astype(np.uint64) * np.uint64(DRAWS) + np.uint64(number)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64 (Steele et al. 2014)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(11)) + 0.5) * 2.0**-53


def normals(position: np.ndarray, number: int) -> np.ndarray:
    """Give pairs (B, 2) of standard normal numbers (Box and Muller 1958), made of the `number`-th and the one after."""
    radius, angle = np.sqrt(-2 * np.log(uniform(position, number))), 2 * np.pi * uniform(position, number + 1)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
