"""Codecs: embeddings of space values, and output heads that predict distributions over a space.

`make_codec` selects the codec by the type of the space; besides it only `core/spaces.py` (JSON) checks that type.
"""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces

from icrl_agents.core.spaces import check_coded, is_integer_box
from icrl_agents.nn.codecs.box import BoxCodec
from icrl_agents.nn.codecs.codec import Codec
from icrl_agents.nn.codecs.flow import FlowCodec
from icrl_agents.nn.codecs.image import ImageCodec
from icrl_agents.nn.codecs.integers import DiscreteCodec, IntegerVectorCodec
from icrl_agents.nn.codecs.mixture import MixtureCodec

BOX_HEADS: dict[str, type[BoxCodec]] = {"gaussian": BoxCodec, "mixture": MixtureCodec, "flow": FlowCodec}


def make_codec(
    space: gymnasium.Space,
    width: int,
    predicts: bool = True,
    head: str = "gaussian",
    bins: int = 0,
    embeds: bool = True,
) -> Codec:
    """Codec of `space` with embeddings of size `width` if `embeds`, and with an output head if `predicts`.

    Args:
        head: distribution of a float Box, a name in `BOX_HEADS`; other spaces have one kind of head.
        bins: quantile bins in the embedding of a float Box, see `BinnedLinear`; 0: the embedding is linear.

    Raises:
        ValueError: no codec supports the space; the message lists the supported ones.
    """
    check_coded(space)
    if isinstance(space, spaces.Discrete):
        return DiscreteCodec(space, width, predicts, embeds)
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary) or is_integer_box(space):
        return IntegerVectorCodec(space, width, predicts, embeds)
    assert isinstance(space, spaces.Box)
    if np.issubdtype(space.dtype, np.floating):
        return BOX_HEADS[head](space, width, predicts, embeds, bins)
    return ImageCodec(space, width, predicts)
