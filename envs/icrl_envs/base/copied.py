"""Rows whose final observations outlast a reset."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium


class Copied(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Copies what a step returns.

    Gymnasium resets a row before it reads the final observation and info, and environments may write the next ones
    into the same objects.
    """

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return copy.deepcopy(obs), reward, terminated, truncated, dict(info)
