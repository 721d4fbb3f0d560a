"""IDT: what it asks for, what it learns from, what its levels tell each other; and slips, which it does not copy."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from icrl_agents import HistoryStore, collect
from icrl_agents.core.reward_range import UNSEEN, with_reward_range
from icrl_agents.core.steps import Steps
from icrl_agents.methods import METHODS
from icrl_agents.methods.base.transforms import best_return, sort_by_return
from icrl_agents.methods.idt import IDTConfig
from icrl_agents.sources import make_source
from icrl_agents.sources.collection import lifetimes as live
from icrl_agents.training.windows import FreshWindows, StoreWindows, WindowSpec
from tests.conftest import one_line
from tests.fakes import LATENT_PROMPTS, SMALL, Variant, close, given, lifetimes, statistics, variants

IDT = [variant for variant in variants() if variant.method == "idt"]
ENV = "icrl/Darkroom3x3-v0"
ALL = np.ones(3, bool)


def whole_rewards(steps: Steps, seed: int = 0) -> Steps:
    """The same with small whole rewards of both signs."""
    reward = np.random.default_rng(seed).integers(-3, 4, steps.reward.shape).astype(np.float32)
    late = np.concatenate([np.zeros((len(reward), 1), np.float32), reward[:, :-1]], 1)
    extras = {name: value for name, value in steps.extras.items() if name not in UNSEEN}
    return with_reward_range(steps._replace(reward=reward, prev_reward=late, extras=extras))


def now(agent, obs: np.ndarray) -> torch.Tensor:
    """The distribution at `obs`, leaving no trace."""
    return statistics(agent.policy(agent.context.select(np.arange(agent.context.rows)), obs))


class TestTargetReturn:
    def test_asking_for_more_changes_what_is_done(self):
        agent, obs, found = Variant("idt").build(), lifetimes(count=1).obs[:, 0], []
        for target in (0, 3.5, -3.5):
            agent.reset(num_envs=3, target_return=target)
            found.append(now(agent, obs))
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert ((found[one] - found[other]).abs().amax(1) > 1e-3).all()

    def test_one_number_asks_in_every_row(self):
        agent, obs, found = Variant("idt").build(), lifetimes(count=1).obs[:, 0], []
        for target in (2, 2.0, np.float32(2), np.full(3, 2), [2, 2.0, 2]):
            agent.reset(num_envs=3, target_return=target)
            found.append(now(agent, obs))
        assert all(torch.equal(found[0], other) for other in found)

    def test_every_row_may_ask_for_its_own(self):
        steps, targets = lifetimes(count=14), [0.0, 5.0, -2.0]
        agent, alone = Variant("idt").build(), [Variant("idt").build() for _ in range(3)]
        agent.reset(num_envs=3, target_return=np.array(targets))
        for single, target in zip(alone, targets, strict=True):
            single.reset(num_envs=1, target_return=target)
        for t in range(14):  # the window slides on the way
            found = statistics(agent.policy(agent.context, steps.obs[:, t]))
            close(agent, steps, t)
            for row, single in enumerate(alone):
                wanted = statistics(single.policy(single.context, steps.obs[row : row + 1, t]))[0]
                torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=1e-5)
                close(single, steps.rows(slice(row, row + 1)), t)

    @pytest.mark.parametrize("target", [5.0, np.array([7.0, 5.0, 7.0])], ids=["number", "rows"])
    def test_a_new_task_in_some_rows_leaves_the_others_asking(self, target):
        agent, fresh, obs = Variant("idt").build(), Variant("idt").build(), lifetimes(count=1).obs[:, 0]
        agent.reset(num_envs=3, target_return=2.0)
        agent.reset(mask=np.array([False, True, False]), target_return=target)
        fresh.reset(num_envs=3, target_return=np.array([2.0, 5.0, 2.0]))
        torch.testing.assert_close(now(agent, obs), now(fresh, obs))
        agent.reset(mask=np.array([True, False, False]))  # not told: it asks for the best it has seen, 0
        fresh.reset(num_envs=3, target_return=np.array([0.0, 5.0, 2.0]))
        torch.testing.assert_close(now(agent, obs), now(fresh, obs))

    @pytest.mark.parametrize(
        "target",
        [np.nan, -np.inf, [1.0, np.nan, 1.0], "3", True, [1, 2], np.zeros((3, 1)), [[1], [2, 3]], 1j, 1e39, 10**400],
        ids=lambda target: re.sub(r"\s+", " ", str(target))[:16],
    )
    @pytest.mark.filterwarnings("error")
    def test_what_is_no_number_is_refused(self, target):
        agent = Variant("idt").build()
        agent.reset(num_envs=3)
        for arguments in ({"num_envs": 3}, {"mask": np.array([False, True, False])}):
            one_line(lambda a=arguments: agent.reset(**a, target_return=target), ValueError, "target_return", "finite")

    @pytest.mark.parametrize(
        "arguments", [{"num_envs": 3}, {"mask": np.array([False, True, False])}], ids=["all", "mask"]
    )
    def test_what_is_refused_loses_nothing(self, arguments: dict):
        agent, obs = Variant("idt").build(), lifetimes(count=1).obs[:, 0]
        agent.reset(num_envs=3, target_return=2.0, seed=0)
        agent.act(obs)
        agent.observe(obs, np.zeros(3), ~ALL, ~ALL, {})
        before = now(agent, obs)
        with pytest.raises(ValueError, match="target_return=nan"):
            agent.reset(**arguments, target_return=np.nan)
        assert agent.context.length.tolist() == [1, 1, 1]
        torch.testing.assert_close(now(agent, obs), before)

    def test_a_list_must_fit_the_rows_even_of_a_single_env(self):
        agent = Variant("idt").build()
        one_line(lambda: agent.reset(target_return=[1.0, 2.0]), ValueError, "each of the 1 rows")
        agent.reset(target_return=[1.0])

    @pytest.mark.slow
    @torch.no_grad()
    def test_told_nothing_it_asks_for_the_best_complete_return_in_sight(self):
        """As if told that number, by a high level that cannot look back at what was asked for before."""
        agent, told = (Variant("idt").build(window=20, slide=6, rewards="fixed") for _ in range(2))
        for model in (agent, told):
            for block in model.method.high.blocks:
                torch.nn.init.zeros_(block.out.weight)
                torch.nn.init.zeros_(block.out.bias)
        steps = whole_rewards(lifetimes(count=50, ends=0.4))
        agent.reset(num_envs=3)
        asked = []
        for t in range(50):
            obs = steps.obs[:, t]
            found = statistics(agent.policy(agent.context, obs))
            seen = agent.context.visible()
            best = np.array([best_complete(seen, row) for row in range(3)])
            history = seen if t else None
            told.reset(num_envs=3, history=history, target_return=best)
            torch.testing.assert_close(found, now(told, obs), atol=1e-5, rtol=1e-5)
            told.reset(num_envs=3, history=history, target_return=best + 3)
            assert (found - now(told, obs)).abs().max() > 1e-4
            asked += best.tolist()
            close(agent, steps, t)
        assert min(asked) < 0 < max(asked)

    def test_told_nothing_it_asks_for_nothing_while_there_was_no_reward(self):
        """The whole of the agent, as it is, when asking for 0 is what it did in all chunks before."""
        agent, told = Variant("idt").build(), Variant("idt").build()
        steps = lifetimes(count=24)
        steps = steps._replace(reward=np.zeros((3, 24), np.float32))
        steps.reward[:, 16] = 1.0
        agent.reset(num_envs=3)
        told.reset(num_envs=3, target_return=0.0)
        gaps = []
        for t in range(24):
            found, wanted = (statistics(a.policy(a.context, steps.obs[:, t])) for a in (agent, told))
            gaps.append(float((found - wanted).abs().max()))
            for a in (agent, told):
                close(a, steps, t)
        assert max(gaps[:17]) < 1e-5
        assert max(gaps[17:]) > 1e-3


def best_complete(steps: Steps, row: int) -> float:
    """The best return among the complete episodes of a row, 0 where there is none."""
    found, total = [], 0.0
    for t in range(int(steps.mask[row].sum())):
        total += float(steps.reward[row, t])
        if steps.terminated[row, t] or steps.truncated[row, t]:
            found.append(total)
            total = 0.0
    return max(found, default=0.0)


class TestTraining:
    def test_fresh_windows_begin_with_an_episode(self):
        source = make_source("posterior", ENV)
        assert METHODS["idt"].episode_aligned
        for aligned in (True, False):
            windows = FreshWindows(ENV, source, [1, 2, 3], 5, WindowSpec(8, 64, 0, episode_aligned=aligned))
            batch = windows.batch(0)
            check_windows(batch, aligned)
            assert batch.mask[:, :6].all()  # the last episode, of six steps, is shorter than the window
            assert batch.mask.all() != aligned

    def test_windows_of_a_store_begin_with_an_episode(self, tmp_path):
        path = collect(ENV, "posterior", tmp_path / "h.h5", tasks=[1, 2, 3], streams=2, episodes=5, seed=0)
        with HistoryStore(path) as store:
            for aligned in (True, False):
                batch = StoreWindows(store, [1, 2, 3], WindowSpec(8, 64, 0, episode_aligned=aligned)).batch(0)
                check_windows(batch, aligned)
                assert batch.mask[:, :6].all()
                assert batch.mask.all() != aligned
            batch = StoreWindows(store, [1, 2, 3], WindowSpec(40, 8, 0, episode_aligned=True)).batch(
                0
            )  # longer than the histories
            assert batch.first[:, 0].all()
            assert (batch.mask.sum(1) == 30).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("order", ["return", "time"])
    @pytest.mark.parametrize("variant", IDT, ids=str)
    def test_prepare_sorts_and_asks_for_the_best_in_half_of_the_windows(self, variant: Variant, order: str):
        agent = variant.build(order=order)
        steps = whole_rewards(lifetimes(rows=1000, count=9, ends=0.4))
        found, same, other = (agent.method.prepare_batch(steps, np.random.default_rng(seed)) for seed in (0, 0, 1))
        wanted = sort_by_return(steps) if order == "return" else steps
        for name, mine in found.columns.items():
            np.testing.assert_array_equal(mine, wanted.columns[name], err_msg=name)
        np.testing.assert_array_equal(found.extras["expert_action"], wanted.extras["expert_action"])
        column = found.extras["target_return"]
        assert column.shape == (1000, 9)
        assert column.dtype == np.float32
        np.testing.assert_array_equal(column, np.repeat(column[:, :1], 9, 1))
        told = ~np.isnan(column[:, 0])
        best = best_return(agent.method.reward.seen(found.map(torch.as_tensor)))  # in the unit that the model sees
        np.testing.assert_array_equal(column[told, 0], best[told])
        assert 0.45 < told.mean() < 0.55
        np.testing.assert_array_equal(column, same.extras["target_return"])
        assert (told != ~np.isnan(other.extras["target_return"][:, 0])).any()

    @pytest.mark.slow
    @pytest.mark.parametrize("target", [None, 2.0, [1.0, -3.0, 0.0]], ids=str)
    @pytest.mark.parametrize("variant", IDT, ids=str)
    @torch.no_grad()
    def test_the_loss_is_what_an_agent_that_asks_for_it_would_be_charged(self, variant: Variant, target):
        """Step by step from an empty context; padding counts nowhere."""
        agent, steps = variant.build(window=13), whole_rewards(lifetimes(count=12))
        mask = np.arange(12) < np.array([[12], [7], [1]])
        asked = np.broadcast_to(np.nan if target is None else np.array(target, np.float32)[..., None], (3, 12))
        batch = steps._replace(mask=mask, extras={"target_return": asked.astype(np.float32)})
        agent.reset(num_envs=3, target_return=target)
        terms = []
        for t in range(12):
            distribution = agent.policy(agent.context, steps.obs[:, t])
            terms += (-distribution.log_prob(torch.as_tensor(steps.action[:, t])))[mask[:, t]].tolist()
            close(agent, steps, t)
        assert float(agent.method.loss(agent.method.tensors(batch))["action"]) == pytest.approx(
            np.mean(terms), rel=1e-4
        )

    @torch.no_grad()
    def test_the_loss_knows_what_is_asked_for(self):
        agent, steps = Variant("idt").build(), whole_rewards(lifetimes(count=9))
        losses = []
        for target in (np.nan, 0.0, 4.0):
            extras = {"target_return": np.full((3, 9), target, np.float32)}
            losses.append(float(agent.method.loss(agent.method.tensors(steps._replace(extras=extras)))["action"]))
        assert len({round(loss, 3) for loss in losses}) == 3

    @pytest.mark.parametrize("variant", IDT, ids=str)
    @torch.no_grad()
    def test_chunks_tell_later_ones_nothing_but_the_latent(self, variant: Variant):
        agent, steps = variant.build(), lifetimes(count=9, ends=0.0)  # three chunks of three steps
        noisy = other_chunks(steps, begin=0, end=3)
        plain, changed = (agent.method.hidden(agent.method.tensors(s))[:, 3:] for s in (steps, noisy))
        assert (plain - changed).abs().max() > 1e-3  # by way of the review and the high level
        latent = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0))
        agent.method.decide = lambda hidden: (latent[:, : hidden.shape[1]], torch.zeros(()))
        plain, changed = (agent.method.hidden(agent.method.tensors(s)) for s in (steps, noisy))
        torch.testing.assert_close(plain[:, 3:], changed[:, 3:], atol=1e-6, rtol=1e-6)
        assert (plain[:, :3] - changed[:, :3]).abs().max() > 1e-3
        latent[:, 1] += 1.0
        moved = agent.method.hidden(agent.method.tensors(steps))
        assert (moved - plain)[:, 3:6].abs().amax((0, 2, 3)).min() > 1e-3
        torch.testing.assert_close(moved[:, [0, 1, 2, 6, 7, 8]], plain[:, [0, 1, 2, 6, 7, 8]])

    @torch.no_grad()
    def test_a_decision_does_not_know_what_its_own_chunk_brings(self):
        """Only where the chunk begins, and what the ones before it brought."""
        agent, steps = Variant("idt").build(), lifetimes(count=9, ends=0.0)
        decided = []
        decide = agent.method.decide
        agent.method.decide = lambda hidden: decided.append(decide(hidden)[0]) or decide(hidden)
        for changed in (steps, other_chunks(steps, begin=4, end=6), other_chunks(steps, begin=3, end=6)):
            agent.method.hidden(agent.method.tensors(changed._replace(reward=steps.reward)))
        plain, later, first = decided
        torch.testing.assert_close(plain[:, :2], later[:, :2])
        assert (plain[:, 2] - later[:, 2]).abs().max() > 1e-3
        assert (plain[:, 1] - first[:, 1]).abs().max() > 1e-3

    @pytest.mark.parametrize("variant", IDT, ids=str)
    def test_decisions_are_drawn_while_training_only(self, variant: Variant):
        agent, steps = variant.build(), lifetimes(count=9)
        batches = [
            agent.method.tensors(agent.method.prepare_batch(steps, np.random.default_rng(seed))) for seed in range(2)
        ]
        same = batches[1].extras["target_return"]
        batches[0] = batches[0]._replace(extras={**batches[0].extras, "target_return": same})
        with torch.no_grad():
            one, other = (agent.method.loss(batch)["action"] for batch in batches)
            assert one == other
            agent.train()
            one, other = (agent.method.loss(batch)["action"] for batch in batches)
            assert one != other


def check_windows(batch: Steps, aligned: bool) -> None:
    """Pieces of Darkroom lifetimes, episodes of 6 steps, (B, 8): half of them beginnings, the rest from anywhere."""
    assert batch.first[:, 0].all() == aligned
    assert len({tuple(row) for row in batch.first}) > (0 if aligned else 3)
    inside = ~batch.truncated[:, :-1]
    np.testing.assert_array_equal(batch.obs[:, 1:][inside], batch.next_obs[:, :-1][inside])
    np.testing.assert_array_equal(batch.prev_action[:, 1:], batch.action[:, :-1])
    beginning = (batch.prev_action[:, 0] == 0) & (batch.prev_reward[:, 0] == 0)
    assert 0.4 < beginning.mean() < 0.99  # not only beginnings


def other_chunks(steps: Steps, begin: int, end: int) -> Steps:
    """The same but for other values of everything in the columns begin:end."""
    changed, other = steps.map(np.copy), lifetimes(count=9, ends=0.0, seed=7)
    for name in ("obs", "prev_action", "prev_reward", "action", "reward", "next_obs"):
        getattr(changed, name)[:, begin:end] = getattr(other, name)[:, begin:end]
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants(), ids=str)
def test_a_row_that_pauses_when_its_window_is_full_goes_on_as_before(variant: Variant):
    """As a row of a vector env does that is being reset when an episode's end has filled the window."""
    agent, single = (variant.build(window=16, **({"chunk": 2} if variant.method == "idt" else {})) for _ in range(2))
    steps, paused = lifetimes(count=40), 0
    agent.reset(num_envs=3)
    single.reset(num_envs=1)
    known = agent.context.steps.static.items()
    single.context.steps.static.update({name: value[1:2] for name, value in known})  # it may be drawn at random
    for t in range(40):
        full = 16 - (getattr(agent.config, "latents", 0) if paused else 0)  # latents take the place of steps
        live = np.array([True, agent.context.length[1] < full, True])
        found = statistics(agent.policy(agent.context, steps.obs[:, t], live))[1]
        if live[1]:
            wanted = statistics(single.policy(single.context, steps.obs[1:2, t]))[0]
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
            close(single, steps.rows(slice(1, 2)), t)
        paused += not live[1]
        close(agent, steps, t, live)
    assert paused > 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"chunk": 0}, ["chunk=0", "1..1000"]),
        ({"chunk": 1001, "window": 5000}, ["chunk=1001", "1..1000"]),
        ({"chunk": 2.5}, ["chunk='2.5'", "int"]),
        ({"chunk": True}, ["chunk='True'", "int"]),
        ({"latent": 0}, ["latent=0", "1..4096"]),
        ({"latent": "8"}, ["latent='8'", "int"]),
        ({"chunk": 6, "window": 9, "slide": 4}, ["chunk=6", "slide=4", "window=9", "lower"]),
        ({"layout": "steps"}, ["layout"]),
    ],
    ids=str,
)
def test_bad_config(settings: dict, words: list[str]):
    kind = TypeError if "layout" in settings else ValueError
    one_line(lambda: IDTConfig(**settings), kind, *words)
    IDTConfig(**{**SMALL, "chunk": 5, "slide": 4, "window": 9})


class TestSlips:
    """Of the source `posterior`: actions that it did not mean, and what the methods make of them."""

    ROOM = "icrl/Darkroom-v0"

    def histories(self, **settings: float) -> Steps:
        source = make_source("posterior", self.ROOM, settings)
        return live(self.ROOM, source, np.arange(400) % 81, 3, 0)

    def test_every_lifetime_slips_at_its_own_rate(self):
        """Uniform from 0 to the setting; one in five random actions is the one that was meant."""
        steps = self.histories(slips=0.5)
        meant = steps.extras["intended_action"]
        slipped = meant != steps.action
        assert abs(slipped.mean() - 0.5 / 2 * 4 / 5) < 0.03
        rates = np.sort(slipped.mean(1))
        np.testing.assert_allclose(rates[[100, 200, 300]], [0.1, 0.2, 0.3], atol=0.06)
        assert rates[0] < 0.05
        assert rates[-1] > 0.35
        assert rates[-1] < 0.65
        turned = np.bincount((steps.action - meant)[slipped] % 5, minlength=5) / slipped.sum()
        np.testing.assert_allclose(turned, [0, 0.25, 0.25, 0.25, 0.25], atol=0.06)

    def test_what_it_meant_still_finds_the_goal(self):
        """What is taught is better than what was done: at the goal it means to stay, as the expert does."""
        steps = self.histories(slips=1.0)
        paid = (steps.prev_reward > 0) & ~steps.first
        expert, meant = steps.extras["expert_action"], steps.extras["intended_action"]
        assert (meant == expert)[paid].mean() > 0.95
        assert (steps.action == expert)[paid].mean() < 0.85

    def test_without_slips_nothing_changes(self):
        plain, none = self.histories(), self.histories(slips=0.0)
        assert "intended_action" not in plain.extras
        assert "intended_action" not in none.extras
        np.testing.assert_array_equal(plain.action, none.action)

    @pytest.mark.parametrize("slips", [-0.1, 1.5, "0.1"])
    def test_a_rate_is_a_probability(self, slips):
        one_line(lambda: make_source("posterior", self.ROOM, {"slips": slips}), ValueError, "slips", "0.0", "1.0")

    @pytest.mark.parametrize("variant", variants(), ids=str)
    @torch.no_grad()
    def test_the_intention_is_the_label_of_all_but_dpt(self, variant: Variant):
        """And of those that predict latent actions, which say what was done."""
        agent = variant.build()
        steps, losses = given(agent, lifetimes(count=9)), []
        for meant in (None, steps.action, (steps.action + 1) % 5):
            extras = {**steps.extras, **({} if meant is None else {"intended_action": meant})}
            losses.append(agent.method.loss(agent.method.tensors(steps._replace(extras=extras))))
        plain, same, other = losses
        assert plain == same
        changed = {name for name in plain if plain[name] != other[name]}
        other_labels = variant.method in ("dpt", "la-bc") or variant == LATENT_PROMPTS
        assert changed == (set() if other_labels else {"action"})

    @pytest.mark.parametrize("variant", variants(), ids=str)
    @torch.no_grad()
    def test_the_intention_moves_with_its_step(self, variant: Variant):
        """Whatever order a method brings the steps into: with the same change at every step no order shows."""
        agent, steps = variant.build(), whole_rewards(lifetimes(count=9))
        extras = {**steps.extras, "intended_action": (steps.action + 2) % 5}
        found = agent.method.prepare_batch(steps._replace(extras=extras), np.random.default_rng(0))
        np.testing.assert_array_equal(found.extras["intended_action"], (found.action + 2) % 5)
