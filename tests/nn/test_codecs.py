"""Every space that `make_codec` takes is embedded, predicted and sampled inside its bounds."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.spaces import space_from_json, space_to_json
from icrl_agents.core.steps import Steps
from icrl_agents.methods.ad import AD
from icrl_agents.nn.codecs import make_codec
from icrl_agents.nn.codecs.decoded import decoded, greedy
from icrl_agents.nn.codecs.distributions import Categorical, Independent
from icrl_agents.nn.codecs.rewards import RewardCodec
from tests.conftest import one_line
from tests.fakes import SMALL, Variant, lifetimes, sample

CPU = torch.device("cpu")
UNUSUAL = [
    spaces.Discrete(3, start=-5),
    spaces.Discrete(3, start=2),
    spaces.MultiBinary([2, 3]),
    spaces.MultiDiscrete([[2, 3, 4], [3, 2, 2]]),
    spaces.MultiDiscrete([2, 3], start=[-4, 5]),
    spaces.Box(-5, -3, (2,), np.int32),
    spaces.Box(1, 6, (2, 2), np.uint64),
    spaces.Box(2**60, 2**60 + 3, (2,), np.int64),
    spaces.Box(-0.1, 0.1, (1,), np.float64),
    spaces.Box(-3.0, 70000.0, (2,), np.float64),
    spaces.Box(-1.0, 1.0, (), np.float32),
    spaces.Box(-1.0, 1.0, (2, 3), np.float32),
    spaces.Box(-0.1, 0.1, (2,), np.float16),
]


@pytest.mark.parametrize("space", UNUSUAL, ids=str)
@torch.no_grad()
def test_what_the_head_gives_lies_in_the_space(space):
    codec, generator = make_codec(space, 8), torch.Generator().manual_seed(0)
    hidden = 30 * torch.randn(4, 7, 8, generator=generator)
    distribution = codec.head(hidden)
    for value in (distribution.sample(generator), distribution.mode()):
        array = codec.array(value)
        assert array.shape == (4, 7, *space.shape)
        assert array.dtype == space.dtype
        assert all(space.contains(np.asarray(one)) or space.contains(one) for row in array for one in row)
        assert np.array_equal(codec.check(array[0], 7, "x"), array[0])
        again = codec.tensor(array, CPU)
        assert codec.embed(again).shape == (4, 7, 8)
        score = distribution.log_prob(again)
        assert score.shape == (4, 7)
        assert score.isfinite().all()


@pytest.mark.parametrize("space", UNUSUAL, ids=str)
def test_the_previous_action_before_the_first_step_has_a_vector(space):
    codec = make_codec(space, 8)
    zeros = np.zeros((2, *space.shape), space.dtype)
    assert codec.embed(codec.tensor(zeros, CPU)).shape == (2, 8)
    values = sample(space, 2, 5, seed=0)
    assert np.array_equal(codec.tensor(values, CPU).numpy(), values.astype(codec.tensor(values, CPU).numpy().dtype))


@pytest.mark.parametrize("space", UNUSUAL, ids=str)
def test_agents_train_on_it_and_it_survives_json(space):
    assert space_from_json(space_to_json(space)) == space
    agent: ICAgent = ICAgent(AD(space, space, AD.Config(**SMALL, dynamics=True)))
    values, flags, zeros = sample(space, 2, 6, seed=0), np.zeros((2, 5), bool), np.zeros((2, 5), np.float32)
    before = np.zeros_like(values[:, :5])
    steps = agent.method.tensors(_steps(values, before, flags, zeros))
    terms = agent.method.loss(steps)
    assert set(terms) == {"action", "reward", "next_obs", "return_to_go"}
    assert all(term.isfinite() for term in terms.values())


def _steps(values, before, flags, zeros):
    obs, after = values[:, :5], values[:, 1:]
    return Steps(obs, np.zeros_like(obs), before, zeros, flags, flags, obs, zeros, after, flags, flags, ~flags)


def test_joint_probability_is_the_sum_over_all_entries():
    codec = make_codec(spaces.MultiDiscrete([[2, 3], [3, 2]]), 8)
    distribution = codec.head(torch.randn(1, 8).expand(36, 8))
    every = torch.cartesian_prod(*(torch.arange(n) for n in (2, 3, 3, 2))).reshape(-1, 2, 2)
    assert distribution.log_prob(every).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_a_box_is_checked_against_its_own_bounds():
    codec = make_codec(spaces.Box(0, 16777217, (1,), np.float64), 4)
    codec.check(np.array([16777217.0]), None, "obs")
    with pytest.raises(ValueError, match="outside its Box"):
        codec.check(np.array([16777300.0]), None, "obs")
    small = make_codec(spaces.Box(-0.1, 0.1, (1,), np.float64), 4)
    small.check(np.array([0.1], np.float32), None, "obs")  # float32(0.1) > 0.1
    with pytest.raises(ValueError, match="outside its Box"):
        small.check(np.array([0.10001]), None, "obs")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-(2**63), 2**63 - 1, (2,), np.int64),
        spaces.Box(0, 2**64 - 1, (2,), np.uint64),
        spaces.Box(2**63, 2**63 + 3, (2,), np.uint64),
        spaces.Box(0, 3, (), np.int64),
    ],
    ids=str,
)
def test_integers_without_a_table_are_refused(space):
    with pytest.raises(ValueError, match="no codec for"):
        make_codec(space, 4)
    assert space_from_json(space_to_json(space)) == space


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (0,), np.float32),
        spaces.Box(0, 3, (0,), np.int64),
        spaces.Box(0, 1, (3,), np.bool_),
        spaces.Box(0, 255, (1024, 1024, 2), np.uint8),
        spaces.Discrete(2**21),
        spaces.Discrete(3, start=2**62),
        spaces.MultiBinary(5000),
    ],
    ids=lambda space: str(space)[:40],
)
def test_what_cannot_be_read_is_not_written(space):
    one_line(lambda: space_to_json(space), ValueError, type(space).__name__)


def test_a_box_without_entries_has_no_codec():
    one_line(lambda: make_codec(spaces.Box(-1, 1, (0,), np.float32), 4), ValueError, "no codec for Box", "(0,)")


def test_fit_normalises_and_leaves_constant_entries():
    space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    codec, rng = make_codec(space, 4), np.random.default_rng(0)
    data = torch.as_tensor(rng.normal([5, -2, 7], [100, 0.01, 0], (40, 25, 3)), dtype=torch.float32)
    codec.fit_normalization(data)
    unit = (data - codec.mean) / codec.std
    torch.testing.assert_close(unit.mean((0, 1)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(unit.std((0, 1), correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-3, rtol=0)
    assert codec.std[2] == 1
    codec.validate()
    assert {"mean", "std"} <= set(codec.state_dict())


def test_fit_changes_neither_rewards_nor_tables():
    for codec in (RewardCodec(4, True), make_codec(spaces.Box(0, 8, (2,), np.int32), 4)):
        before = {name: value.clone() for name, value in codec.state_dict().items()}
        codec.fit_normalization(torch.arange(20).reshape(2, 5, 2))
        codec.validate()
        assert all(torch.equal(value, before[name]) for name, value in codec.state_dict().items())


@pytest.mark.parametrize(("name", "value"), [("std", 0.0), ("std", -1.0), ("std", np.inf), ("mean", np.nan)])
def test_broken_statistics_are_refused(name, value):
    for codec in (make_codec(spaces.Box(-1, 1, (2,), np.float32), 4), RewardCodec(4, True)):
        codec.get_buffer(name).fill_(value)
        with pytest.raises(ValueError, match="checkpoint is damaged"):
            codec.validate()


# ---- the most probable value -----------------------------------------------------------------------------------------

TIED, SURE = [0.4, 0.39, 0.11, 0.09, 0.01], [0.02, 0.9, 0.04, 0.04, 0.0]  # 0.4 / 4 is below 0.11 and above 0.09


def test_the_best_integer_is_one_of_those_about_as_probable_as_the_mode():
    draws = 4000
    tied, sure = (Categorical(torch.tensor(p).log().expand(draws, -1), start=3) for p in (TIED, SURE))
    found = tied.best(torch.Generator().manual_seed(0))
    share = np.bincount(found - 3, minlength=5) / draws
    np.testing.assert_allclose(share, np.array([0.4, 0.39, 0.11, 0, 0]) / 0.9, atol=0.03)
    assert (sure.best(torch.Generator().manual_seed(0)) == 4).all()
    torch.testing.assert_close(tied.best(torch.Generator().manual_seed(0)), found)  # the same for the same seed


def test_every_entry_and_every_code_has_a_best_value():
    tied, sure = (Categorical(torch.tensor(p).log().expand(500, -1)) for p in (TIED, SURE))
    both = Independent([tied, sure], (2,)).best(torch.Generator().manual_seed(0))
    assert set(both[:, 0].tolist()) == {0, 1, 2}
    assert set(both[:, 1].tolist()) == {1}
    of_codes = Independent([Categorical(torch.eye(5).log().expand(500, 5, 5))] * 2, (2,))  # code k stands for (k, k)
    found = decoded(tied, of_codes).best(torch.Generator().manual_seed(0))
    assert set(map(tuple, found.tolist())) == {(0, 0), (1, 1), (2, 2)}
    assert (greedy(tied).best(torch.Generator().manual_seed(0)) == 0).all()


def test_the_most_probable_actions_are_the_same_every_time():
    def actions_of(seed: int | None) -> list[list[int]]:
        agent = Variant("ad").build()
        agent.reset(num_envs=3, seed=seed)
        actions = []
        for t in range(12):
            actions.append(agent.act(steps.obs[:, t], deterministic=True).tolist())
            agent.observe(steps.next_obs[:, t], steps.reward[:, t], none, none, {})
        return actions

    steps, none = lifetimes(count=12), np.zeros(3, bool)
    assert actions_of(None) == actions_of(None) != actions_of(5)
    assert actions_of(5) == actions_of(5) != actions_of(6)
