"""Procgen's 16 games: spaces, time limits and published returns, known without the package."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gymnasium import spaces

SIDE = 64  # pixels of an observation along each axis
ACTIONS = 15
OBSERVATION_BOX = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
ACTION_SPACE = spaces.Discrete(ACTIONS)
MODES = ("easy", "hard")


class Game(NamedTuple):
    """A game; returns are means over all levels of mode "easy", by LAPO (Schmidt and Jiang 2024) for its scores."""

    horizon: int  # Procgen's own time limit, in both modes
    random_return: float  # of uniformly random actions
    expert_return: float  # of PPO after 50 million steps; not the highest return


GAMES: dict[str, Game] = {
    "bigfish": Game(6000, 0.87, 36.34),
    "bossfight": Game(4000, 0.05, 11.63),
    "caveflyer": Game(1000, 2.60, 9.18),
    "chaser": Game(1000, 0.66, 9.96),
    "climber": Game(1000, 2.22, 10.23),
    "coinrun": Game(1000, 2.70, 9.93),
    "dodgeball": Game(1000, 0.61, 13.49),
    "fruitbot": Game(1000, -2.53, 29.93),
    "heist": Game(1000, 3.08, 9.69),
    "jumper": Game(1000, 3.41, 8.46),
    "leaper": Game(500, 2.51, 7.41),
    "maze": Game(500, 4.27, 9.97),
    "miner": Game(1000, 1.25, 11.89),
    "ninja": Game(1000, 2.56, 9.47),
    "plunder": Game(4000, 4.32, 11.46),
    "starpilot": Game(1000, 1.53, 66.99),
}
