"""Codecs: how a value of a space becomes a vector, and a hidden vector a distribution over that space.

This is the one place that asks for a space's type, besides `core/spaces.py`, which writes spaces as JSON.
"""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces

from icrl_agents.core.printable import printable
from icrl_agents.nn.codecs.box import BoxCodec
from icrl_agents.nn.codecs.codec import Codec
from icrl_agents.nn.codecs.integers import DiscreteCodec, IntegerVectorCodec, is_integer_box


def make_codec(space: gymnasium.Space, width: int, predicts: bool = True) -> Codec:
    """The codec for `space` with vectors of `width`; only with `predicts` has it a head.

    Raises:
        ValueError: the space has no codec; the message lists those that have.
    """
    if isinstance(space, spaces.Discrete):
        return DiscreteCodec(space, width, predicts)
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary) or is_integer_box(space):
        return IntegerVectorCodec(space, width, predicts)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return BoxCodec(space, width, predicts)
    raise ValueError(
        f"no codec for {printable(space)}: use Discrete, MultiDiscrete, MultiBinary or a bounded int or a float Box"
    )
