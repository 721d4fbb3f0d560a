"""Bins of real numbers: the encoding, its edges, and agents that have it."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from icrl_agents import ICAgent
from icrl_agents.nn.codecs import make_codec
from icrl_agents.nn.codecs.bins import BinnedLinear, number_layer
from icrl_agents.nn.codecs.rewards import REWARD_CODECS
from tests.conftest import same_weights
from tests.fakes import Variant


def encoded(edges: list[float], x: list[float]) -> np.ndarray:
    """Encodings (M, 1 + K) of numbers (M,)."""
    layer = BinnedLinear(1, 1 + len(edges) - 1, len(edges) - 1)
    with torch.no_grad():
        layer.edges.copy_(torch.tensor([edges]))
        layer.weight.copy_(torch.eye(len(edges)))
        layer.bias.zero_()
        return layer(torch.tensor(x)[:, None]).numpy()


def test_the_encoding_is_the_number_and_its_place_in_each_bin():
    found = encoded([0.0, 1.0, 3.0], [-2.0, 0.25, 1.0, 2.0, 7.0])
    np.testing.assert_allclose(found, [[-2, 0, 0], [0.25, 0.25, 0], [1, 1, 0], [2, 1, 0.5], [7, 1, 1]])


def test_bins_are_equally_frequent():
    layer, rng = BinnedLinear(2, 3, 8), np.random.default_rng(0)
    data = np.stack([rng.exponential(size=4001), -(rng.random(4001) ** 2)], 1)
    layer.fit(torch.as_tensor(data, dtype=torch.float32))
    for edges, column in zip(layer.edges.numpy(), data.T, strict=True):
        counts, _ = np.histogram(column, edges)
        np.testing.assert_allclose(counts[1:-1], 500, atol=2)


@pytest.mark.parametrize(
    "data",
    [[0.0] * 50, [10.0] * 49 + [3.0], [0.0] * 30 + [1.0] * 20, [3e7] * 50, [1.0]],
    ids=["zero", "most at the top", "two values", "large", "one number"],
)
def test_equal_values_make_no_bin_without_a_width(data):
    layer, column = BinnedLinear(1, 4, 16), torch.tensor(data)[:, None]
    layer.fit(column)
    assert (layer.edges.diff(dim=1) > 0).all()
    for x in (column, column - 100, column + 100, -column):
        assert layer(x).isfinite().all()
    with torch.no_grad():
        layer.weight[:, 0], layer.weight[:, 1:] = 0, 1  # outputs are sums of the places in the bins
    assert (layer(column + 1e-7 * column.abs()) - layer(column)).abs().max() < 0.2  # rounding does not leave a bin


def test_close_values_are_as_easy_to_tell_apart_as_any():
    """Half of the rewards lie between 9.9 and 10: they get half of the bins."""
    codec = REWARD_CODECS["fixed"](8, predicts=False, bins=16)
    rewards = torch.cat([torch.linspace(0, 9.9, 500), torch.linspace(9.9, 10, 500)])
    codec.fit_normalization(rewards)
    assert 7 <= int((codec.linear.edges[0] >= 9.9).sum()) - 1 <= 9


@pytest.mark.parametrize("unit", REWARD_CODECS)
def test_rewards_of_every_unit_have_bins(unit):
    codec = REWARD_CODECS[unit](8, predicts=True, bins=4)
    codec.fit_normalization(torch.rand(3, 40))
    varied = torch.tensor([True, False, True])
    assert codec.embed(torch.rand(3), varied).shape == (3, 8)
    assert codec.embed(torch.rand(3)).shape == (3, 8)


def test_only_inputs_of_floats_have_bins():
    box, width = spaces.Box(-1, 1, (3,), np.float32), 8
    assert make_codec(box, width, bins=5).linear.weight.shape == (8, 3 * 6)
    assert not hasattr(make_codec(spaces.Discrete(4), width, bins=5), "linear")
    assert type(number_layer(3, width, 0)) is torch.nn.Linear


@pytest.mark.parametrize("broken", [[0.0, 2.0, 1.0], [0.0, 1.0, 1.0], [0.0, 1.0, np.inf], [np.nan, 1.0, 2.0]], ids=str)
def test_broken_edges_are_refused(broken):
    for codec in (make_codec(spaces.Box(-1, 1, (1,), np.float32), 4, bins=2), REWARD_CODECS["fixed"](4, True, bins=2)):
        codec.validate()
        codec.linear.edges.copy_(torch.tensor([broken]))
        with pytest.raises(ValueError, match="checkpoint is damaged"):
            codec.validate()


def test_an_agent_without_bins_has_none_in_its_checkpoint_and_one_with_them_loads(tmp_path):
    for bins in (0, 4):
        agent = Variant("ad", (("bins", bins),), "vector").build()
        agent.save_pretrained(tmp_path / str(bins))
        assert any("edges" in name for name in agent.state_dict()) == bool(bins)
        again = ICAgent.from_pretrained(tmp_path / str(bins), device="cpu")
        assert again.config.bins == bins
        assert same_weights(again, agent)
