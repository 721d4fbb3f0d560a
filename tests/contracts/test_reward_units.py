"""What an agent does is the same in every unit of the rewards, unless it was made for one unit."""

import numpy as np
import pytest
import torch

from icrl_agents.agents.planning.imagination import search
from icrl_agents.agents.planning.search import Planner
from icrl_agents.core.reward_range import with_reward_range
from icrl_agents.core.steps import Steps, stack_steps
from icrl_agents.training.augment import hide_rewards
from tests.fakes import Variant, given, lifetimes, statistics, variants

UNITS = [(10.0, 0.0), (0.1, 0.0), (1.0, -0.5), (3.0, 2.0)]
RUNNING = [variant for variant in variants() if dict(variant.settings).get("rewards") != "fixed"]
FIXED = [variant for variant in variants() if dict(variant.settings).get("rewards") == "fixed"]
KINDS = ["grid", "vector"]


def in_unit(steps: Steps, scale: float, offset: float) -> Steps:
    """The same lifetimes with rewards scale * reward + offset, which are few and often equal."""
    reward = (np.floor(4 * lifetimes(count=steps.mask.shape[1]).reward) / 4 * scale + offset).astype(np.float32)
    reward[0, :6] = reward[0, 0]  # nothing differs for a while
    names = ("obs", "action", "next_obs", "terminated", "truncated", "mask")
    extras = {name: value for name, value in steps.extras.items() if not name.startswith("reward_")}
    return with_reward_range(
        stack_steps(**{name: getattr(steps, name) for name in names}, reward=reward, extras=extras)
    )


def policies(variant: Variant, kind: str, scale: float, offset: float, learn: bool = True) -> torch.Tensor:
    """Statistics (T, B, ...) of the policy at every step of an acting agent, longer than its window."""
    agent, found = variant.build(kind), []
    steps = in_unit(lifetimes(kind, count=24), scale, offset)
    history = steps.window(0, 12)
    history = history._replace(extras={"log_prob": history.extras["log_prob"]})
    agent.reset(num_envs=3, seed=0, history=history, learn=learn)
    for t in range(12, 24):
        agent.session.acted = None
        agent.act(steps.obs[:, t])
        context = agent.context.select(np.arange(3))
        found.append(statistics(agent.policy(context, steps.obs[:, t])))
        agent.session.acted = steps.action[:, t]
        agent.observe(steps.next_obs[:, t], steps.reward[:, t], np.zeros(3, bool), np.zeros(3, bool), {})
    return torch.stack(found)


def takes(variant: Variant, kind: str) -> bool:
    return kind == "grid" or variant.method != "headless-ad"


cases = pytest.mark.parametrize(
    ("variant", "kind"), [(v, k) for v in RUNNING for k in KINDS if takes(v, k)], ids=lambda value: str(value)
)


@pytest.mark.slow
@cases
@torch.no_grad()
def test_acting_is_the_same_in_every_unit(variant: Variant, kind: str):
    """After a history longer than the window, and on from there."""
    plain = policies(variant, kind, 1.0, 0.0)
    for unit in UNITS if kind == "grid" else UNITS[3:]:
        torch.testing.assert_close(policies(variant, kind, *unit), plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_acting_is_the_same_in_every_unit_without_learning():
    variant = Variant("ad")
    plain = policies(variant, "grid", 1.0, 0.0, learn=False)
    for unit in UNITS:
        torch.testing.assert_close(policies(variant, "grid", *unit, learn=False), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", FIXED, ids=str)
@torch.no_grad()
def test_fixed_rewards_mean_what_they_are(variant: Variant):
    plain = policies(variant, "grid", 1.0, 0.0)
    for unit in UNITS[1:3]:
        assert (policies(variant, "grid", *unit) - plain).abs().max() > 1e-3


@pytest.mark.slow
@cases
def test_the_loss_is_the_same_in_every_unit(variant: Variant, kind: str):
    """With normalisation statistics of the batch, which returns have; IDT sorts episodes by return, as before."""
    losses = []
    for scale, offset in [(1.0, 0.0), (10.0, 0.0), (0.1, 0.0)]:
        agent, rng = variant.build(kind), np.random.default_rng(0)
        steps = in_unit(given(agent, lifetimes(kind, count=agent.config.span, ends=0.15)), scale, offset)
        batch = agent.method.tensors(agent.method.prepare_batch(steps, rng))
        agent.method.fit_normalization(batch)
        losses.append(agent.method.loss(batch))
    for other in losses[1:]:
        for name, value in losses[0].items():
            torch.testing.assert_close(other[name], value, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_planners_plan_the_same_in_every_unit_and_name_rewards_in_that_of_the_environment():
    plans, planner = [], Planner(depth=3, width=6)
    for scale, offset in [(1.0, 0.0), *UNITS]:
        agent = Variant("ad", (("dynamics", True),)).build()
        steps = in_unit(lifetimes(count=10), scale, offset)
        agent.reset(num_envs=3, seed=0, history=steps.window(0, 9))
        hidden = agent.method.encode(agent.context, steps.obs[:, 9])
        found = search(agent.method, planner, agent.context, hidden, torch.Generator().manual_seed(0))
        plans.append((found.action, (found.path.reward - offset) / scale))
        seen = torch.as_tensor(agent.visible(agent.context).reward)
        assert (found.path.reward[..., None] - seen[:, None]).abs().amin(-1).max() < 1e-5 * scale
    for action, reward in plans[1:]:
        assert torch.equal(action, plans[0][0])
        torch.testing.assert_close(reward, plans[0][1], atol=1e-5, rtol=1e-5)


def test_hidden_rewards_are_not_in_the_range():
    steps = in_unit(lifetimes(count=30), 1.0, 1.0)
    steps.reward[:, 20] = 100.0
    hidden = hide_rewards(with_reward_range(steps), np.random.default_rng(0), share=1.0, most=5)
    assert with_reward_range(steps).extras["reward_high"][:, 21:].min() == 100
    assert hidden.extras["reward_high"].max() <= 2


def test_a_window_remembers_the_rewards_before_it():
    steps = in_unit(lifetimes(count=30), 1.0, 0.0)
    cut = steps.window(12, 20)
    again = with_reward_range(cut)
    for name, reduce in (("reward_low", np.min), ("reward_high", np.max)):
        wanted = np.stack([reduce(steps.reward[:, :t], 1) for t in range(12, 20)], 1)
        np.testing.assert_array_equal(cut.extras[name], wanted)
        np.testing.assert_array_equal(again.extras[name], wanted)
    assert np.isinf(steps.extras["reward_low"][:, 0]).all()
