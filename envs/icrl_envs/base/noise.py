"""Counter-based random numbers: hashes of a position, equal for single rows and batches. Axis letter: B rows.

A stochastic family keeps its noise position in its state, so its rules need no generator and copies of a row have the
same future. Rows share numbers only if their positions, out of about 2**56, overlap.
"""

from __future__ import annotations

import numpy as np

DRAWS = 4  # number of random numbers per position
FARTHEST = 9.0  # bound of normal numbers: the maximum is sqrt(-2 log(2**-54)) = 8.65


def uniform(position: np.ndarray, number: int) -> np.ndarray:
    """Return uniform numbers (B,) in (0, 1): the `number`-th (0 to 3) at positions (B,) int64."""
    z = (position.astype(np.uint64) * np.uint64(DRAWS) + np.uint64(number)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64 (Steele et al. 2014)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(11)) + 0.5) * 2.0**-53  # the upper 53 bits


def normals(position: np.ndarray, number: int) -> np.ndarray:
    """Return pairs (B, 2) of standard normal numbers (Box and Muller 1958), from the `number`-th and the next one."""
    radius, angle = np.sqrt(-2 * np.log(uniform(position, number))), 2 * np.pi * uniform(position, number + 1)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
