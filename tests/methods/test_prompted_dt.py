"""Prompted DT: demonstrations stay before the current episode, and training sequences are what they are said to be."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from icrl_agents import HistoryStore, collect
from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.shown import usual_demos
from icrl_agents.core.families import env_spaces
from icrl_agents.core.reward_range import with_timesteps
from icrl_agents.core.steps import Steps, stack_steps
from icrl_agents.evaluation.evaluate import evaluate
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.evaluation.results import measure
from icrl_agents.methods import METHODS
from icrl_agents.methods.base.predictor import CODE, LATENT, SKILL
from icrl_agents.methods.base.trainable import LABELLED, TASK
from icrl_agents.sources.demonstrations import Demonstrations
from icrl_agents.training.loop import train
from tests.conftest import one_line
from tests.fakes import LATENT_PROMPTS, SMALL, SPACES, Variant, close, lifetimes, statistics

PROMPTED = Variant("prompted-dt")  # up to 2 demonstrations of 8 steps together, a window of 9
RETURNS = Variant("prompted-dt", (("return_to_go", True),))
BOTH = pytest.mark.parametrize("variant", [PROMPTED, RETURNS], ids=str)
ENV = "icrl/Darkroom-v0"
COUNTS = {0: (), 1: (4,), 2: (3, 5)}  # number of demonstrations -> their lengths
DEMO_LENGTHS = pytest.mark.parametrize("lengths", COUNTS.values(), ids=lambda lengths: f"{len(lengths)} demos")
ALL = np.ones(3, bool)


def episodes(lengths: tuple[int, ...], seed: int = 0, rows: int = 3) -> Steps:
    """Arbitrary episodes of these lengths."""
    steps = lifetimes(rows=rows, count=max(1, sum(lengths)), seed=seed, ends=0).window(0, sum(lengths))
    ended = np.tile(np.isin(np.arange(sum(lengths)), np.cumsum(lengths) - 1), (rows, 1))
    names = ("obs", "action", "reward", "next_obs")
    return with_timesteps(stack_steps(**{n: getattr(steps, n) for n in names}, terminated=ended, truncated=ended))


def joined(*parts: Steps) -> Steps:
    """Steps of the same rows one after the other."""
    columns = {name: np.concatenate([part.columns[name] for part in parts], 1) for name in parts[0].columns}
    extras = {"timestep": np.concatenate([part.extras["timestep"] for part in parts], 1)}
    return Steps(**columns, extras=extras)


def policy(agent: ICAgent, obs: np.ndarray) -> torch.Tensor:
    return statistics(agent.policy(agent.context, obs))


def trained(agent: ICAgent, steps: Steps, segment: np.ndarray | None = None) -> torch.Tensor:
    """Statistics (B, T, ...) of the policy as the loss computes it, with the true returns to go."""
    told, _ = agent.method.told(agent.method.tensors(steps))
    if segment is not None:
        told = told._replace(extras={**told.extras, "segment": torch.as_tensor(np.array(segment))})
    return statistics(agent.method.action_distribution(agent.method.hidden(told)[:, :, 0], {}))


def follow(agent: ICAgent, demo: Steps | None, live: Steps, t: int) -> torch.Tensor:
    """What the loss computes for step `t` of `live`, given the demonstrations and the visible steps of its episode."""
    seen = int(agent.visible(agent.context).mask.sum(1)[0])
    part = live.window(t - seen, None)
    end = np.flatnonzero((part.terminated | part.truncated)[0, seen:])[0] + seen + 1  # for the return to go
    part = part.window(0, int(end))
    if demo is None or not demo.mask.size:
        return trained(agent, part, np.zeros(part.mask.shape, int))[:, seen]
    numbers = np.cumsum(demo.first, 1) - 1
    segment = np.concatenate([numbers, np.broadcast_to(numbers[:, -1:] + 1, part.mask.shape)], 1)
    return trained(agent, joined(demo, part), segment)[:, demo.mask.shape[1] + seen]


def begun(variant: Variant, demo: Steps | None, live: Steps, **changes: object) -> ICAgent:
    agent = variant.build(**changes)
    told = {"target_return": live.reward.sum(1)} if agent.config.return_to_go else {}
    agent.reset(num_envs=len(live.mask), demo=demo, autoreset_mode="Disabled", **told)
    return agent


class TestActing:
    @pytest.mark.parametrize("slide", [1, 4])
    @DEMO_LENGTHS
    @BOTH
    @torch.no_grad()
    def test_past_the_window_equals_recomputation(self, variant: Variant, lengths: tuple[int, ...], slide: int):
        """One live episode of three windows; the demonstrations stay."""
        demo, live = episodes(lengths, seed=3), episodes((27,))
        agent = begun(variant, demo, live, slide=slide)
        for t in range(27):
            found = policy(agent, live.obs[:, t])
            torch.testing.assert_close(found, follow(agent, demo, live, t), atol=1e-5, rtol=1e-5)
            close(agent, live, t)

    @torch.no_grad()
    def test_each_episode_follows_the_demonstrations(self):
        demo, live = episodes((3, 5), seed=3), episodes((4, 1, 1, 7, 2, 13))
        agent = begun(PROMPTED, demo, live)
        for t in range(28):
            found = policy(agent, live.obs[:, t])
            torch.testing.assert_close(found, follow(agent, demo, live, t), atol=1e-5, rtol=1e-5)
            if live.first[0, t]:
                fresh = begun(PROMPTED, demo, live)
                torch.testing.assert_close(found, policy(fresh, live.obs[:, t]), atol=1e-5, rtol=1e-5)
            close(agent, live, t)

    @torch.no_grad()
    def test_the_last_action_of_a_demonstration_is_told(self):
        demo, live = episodes((3, 5), seed=3), episodes((4, 6))
        other = demo._replace(action=demo.action.copy())
        other.action[:, -1] = (demo.action[:, -1] + 1) % 5
        one, two = begun(PROMPTED, demo, live), begun(PROMPTED, other, live)
        for t in range(6):
            found = [policy(agent, live.obs[:, t]) for agent in (one, two)]
            assert (found[0] - found[1]).abs().amax() > 1e-4  # also in the second live episode
            for agent in (one, two):
                close(agent, live, t)

    @torch.no_grad()
    def test_a_demonstration_may_begin_in_the_middle_of_an_episode(self):
        """Its first step is told what was done before it, and not what it does."""
        whole, live = episodes((6,), seed=3), episodes((4,))
        part, other = whole.window(2, None), whole.window(2, None).map(np.copy)
        changed = whole.window(2, None).map(np.copy)
        other.action[:, 0], changed.prev_action[:, 0] = (other.action[:, 0] + 1) % 5, (part.prev_action[:, 0] + 1) % 5
        one, two, three = (begun(PROMPTED, demo, live) for demo in (part, other, changed))
        told = [agent.context.memory.demos.before[:, 0] for agent in (one, two, three)]
        np.testing.assert_array_equal(told[0], part.prev_action[:, 0])
        np.testing.assert_array_equal(told[1], told[0])
        assert (policy(one, live.obs[:, 0]) - policy(three, live.obs[:, 0])).abs().amax() > 1e-4

    @torch.no_grad()
    def test_the_prompt_is_read_once(self, monkeypatch):
        demo, live = episodes((3, 5), seed=3), episodes((4, 1, 1, 7, 2, 13))
        agent, told = begun(PROMPTED, demo, live), []
        tokens = agent.method.tokens
        monkeypatch.setattr(agent.method, "tokens", lambda steps: told.append(steps) or tokens(steps))
        for t in range(28):
            policy(agent, live.obs[:, t])
            close(agent, live, t)
        sizes = [steps.mask.shape[1] for steps in told if "segment" in steps.extras]
        assert (sizes, len(told)) == ([8], 29)

    @torch.no_grad()
    def test_the_return_to_go_of_a_demonstration_is_its_own(self):
        demo, live = episodes((3, 5), seed=3), episodes((5,))
        better = demo._replace(reward=demo.reward + np.arange(8, dtype=np.float32))
        first, second = (policy(begun(RETURNS, one, live), live.obs[:, 0]) for one in (demo, better))
        assert not torch.allclose(first, second)
        first, second = (policy(begun(PROMPTED, one, live), live.obs[:, 0]) for one in (demo, better))
        assert torch.equal(first, second)

    @torch.no_grad()
    def test_rows_may_have_different_demonstrations(self):
        demo, live = episodes((3, 5), seed=3), episodes((12,))
        lengths = np.array([8, 0, 3])
        demo = demo._replace(mask=np.arange(8) < lengths[:, None])
        agent = begun(PROMPTED, demo, live)
        alone = [
            begun(PROMPTED, demo.rows([row]).window(0, lengths[row]) if lengths[row] else None, live.rows([row]))
            for row in range(3)
        ]
        for t in range(12):
            found = policy(agent, live.obs[:, t])
            for row, single in enumerate(alone):
                wanted = policy(single, live.obs[row : row + 1, t])[0]
                torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=1e-5)
                close(single, live.rows([row]), t)
            close(agent, live, t)

    @torch.no_grad()
    def test_new_tasks_in_some_rows_bring_their_own(self):
        demo, other, live = episodes((3, 5), seed=3), episodes((2,), seed=4), episodes((12,))
        agent = begun(PROMPTED, demo, live)
        for t in range(4):
            policy(agent, live.obs[:, t])
            close(agent, live, t)
        wanted = follow(agent, demo, live, 4)[1]
        agent.reset(mask=np.array([True, False, True]), demo=other.rows([0, 1]))
        found = policy(agent, live.obs[:, 4])
        torch.testing.assert_close(found[1], wanted, atol=1e-5, rtol=1e-5)
        fresh = begun(PROMPTED, other.rows([0, 1]), live.rows([0, 2]))
        torch.testing.assert_close(found[[0, 2]], policy(fresh, live.obs[[0, 2], 4]), atol=1e-5, rtol=1e-5)
        agent.reset(mask=np.array([False, True, False]))  # not told: none
        fresh = begun(PROMPTED, None, live.rows([1]))
        torch.testing.assert_close(policy(agent, live.obs[:, 4])[1], policy(fresh, live.obs[[1], 4])[0])

    def test_a_single_env_takes_one_row(self):
        agent, demo = PROMPTED.build(), episodes((3, 5))
        agent.reset(demo=demo.rows([0]))
        assert 0 <= agent.act(np.zeros(2, np.int32)) < 5
        one_line(lambda: agent.reset(demo=demo), ValueError, "demo has 3 rows", "one row for each")
        later = demo.window(1, None).map(np.copy)
        later.prev_action[0, 0] = 5
        one_line(lambda: agent.reset(num_envs=3, demo=later), ValueError, "demo: prev_action 5", "0..4")

    @torch.no_grad()
    def test_a_history_is_of_the_live_episode(self):
        demo, live = episodes((3, 5), seed=3), episodes((6, 6))
        agent = PROMPTED.build()
        agent.reset(num_envs=3, history=live.window(0, 9), demo=demo)
        found = policy(agent, live.obs[:, 9])
        torch.testing.assert_close(found, follow(agent, demo, live, 9), atol=1e-5, rtol=1e-5)
        still = PROMPTED.build()
        still.reset(num_envs=3, history=live.window(0, 9), demo=demo, learn=False)
        still.act(live.obs[:, 9])
        torch.testing.assert_close(policy(still, live.obs[:, 9]), found, atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_demonstrations_outlive_files_copies_and_branches(self, tmp_path):
        demo, live = episodes((3, 5), seed=3), episodes((6, 20))
        agent = begun(PROMPTED, demo, live)
        for t in range(26):
            if t in (0, 5, 6, 17):  # before the first action, at the end of an episode, past the window
                agent.save_context(tmp_path / "a")
                other = PROMPTED.build()
                other.load_context(tmp_path / "a")
                other.save_context(tmp_path / "b")
                files = [(tmp_path / name / "context.safetensors").read_bytes() for name in "ab"]
                assert files[0] == files[1]
                twin, branch = agent.clone(), agent.context.repeat(2)
                found = [policy(one, live.obs[:, t]) for one in (other, twin)]
                found.append(statistics(agent.policy(branch, np.repeat(live.obs[:, t], 2, 0)))[::2])
                for one in found:
                    torch.testing.assert_close(one, follow(agent, demo, live, t), atol=1e-5, rtol=1e-5)
            agent.act(live.obs[[0, 2], t], rows=[0, 2])
            agent.act(live.obs[[1], t], rows=[1])
            agent.session.acted = live.action[:, t]
            agent.observe(live.next_obs[:, t], live.reward[:, t], live.terminated[:, t], ~ALL, {})

    @torch.no_grad()
    def test_a_failed_call_leaves_nothing_of_a_new_episode(self, monkeypatch):
        """Attention masks hide what rows do not see, but not NaN: at the place where the live episode began."""
        demo, live = episodes((3, 5), seed=3), episodes((3, 9))
        agent = begun(PROMPTED, demo, live)
        for t in range(3):
            policy(agent, live.obs[:, t])
            close(agent, live, t)
        wanted = follow(agent, demo, live, 3)
        with monkeypatch.context() as broken:
            tokens = agent.method.tokens
            broken.setattr(agent.method, "tokens", lambda steps: tokens(steps) * np.nan)
            with pytest.raises(ValueError, match="not finite"):
                policy(agent, live.obs[:, 3])
        agent.reset(mask=np.array([True, False, False]))
        torch.testing.assert_close(policy(agent, live.obs[:, 3])[1:], wanted[1:], atol=1e-5, rtol=1e-5)
        fresh = begun(PROMPTED, None, live.rows([0]))
        torch.testing.assert_close(policy(agent, live.obs[:, 3])[0], policy(fresh, live.obs[[0], 3])[0])

    @pytest.mark.parametrize(
        ("demo", "words"),
        [
            (episodes((1, 1, 1)), ["3 episodes", "demos=2", "fewer"]),
            (episodes((4, 5)), ["9 steps", "prompt=8", "shorter"]),
            (episodes((4,), rows=2), ["demo has 2 rows"]),
            (lifetimes("vector", count=4), ["demo", "obs"]),
            ([1, 2], ["demo is a list", "Steps"]),
        ],
        ids=["too many", "too long", "rows", "space", "type"],
    )
    def test_what_does_not_fit_is_refused(self, demo, words):
        agent = begun(PROMPTED, episodes((3, 5), seed=3), live := episodes((4,)))
        before, wanted = agent.session, policy(agent.clone(), live.obs[:, 0])
        one_line(lambda: agent.reset(num_envs=3, demo=demo), ValueError, *words)
        rows = np.array([True, True, True])
        one_line(lambda: agent.reset(mask=rows, demo=demo), ValueError, *words)
        assert agent.session is before
        assert torch.equal(policy(agent, live.obs[:, 0]), wanted)

    def test_none_are_allowed_where_there_is_no_room(self):
        agent, live = PROMPTED.build(demos=0), episodes((4,))
        agent.reset(num_envs=3, demo=episodes(()))
        policy(agent, live.obs[:, 0])
        one_line(lambda: agent.reset(num_envs=3, demo=live), ValueError, "1 episodes", "demos=0")
        assert agent.config.span == agent.config.window

    def test_damaged_demonstrations_are_refused(self, tmp_path):
        from safetensors import safe_open
        from safetensors.numpy import load_file, save_file

        agent = begun(PROMPTED, episodes((3, 5)), episodes((4,)))
        agent.save_context(tmp_path)
        path = tmp_path / "context.safetensors"
        with safe_open(path, "np") as file:
            metadata = file.metadata()
        arrays = load_file(path)
        for name, value in {"demo_obs": 99, "demo_segment": 2, "demo_length": 9, "demo_before": 7}.items():
            damaged = {**arrays, f"memory/{name}": np.full_like(arrays[f"memory/{name}"], value)}
            save_file(damaged, path, metadata)
            one_line(lambda: PROMPTED.build().load_context(tmp_path), ValueError, "damaged")
        save_file({**arrays, "static/demos": np.full(3, 3)}, path, metadata)
        one_line(lambda: PROMPTED.build().load_context(tmp_path), ValueError, "3 demonstrations", "0..2")


class TestSequences:
    @torch.no_grad()
    def test_nothing_of_a_step_or_later_reaches_its_action(self):
        agent, steps = PROMPTED.build(), episodes((3, 4, 5))
        wanted, other = trained(agent, steps), episodes((3, 4, 5), seed=9)
        for t in range(12):
            changed = {}
            for name, known in (("obs", 1), ("prev_action", 1), ("action", 0), ("reward", 0), ("next_obs", 0)):
                changed[name] = steps.columns[name].copy()
                changed[name][:, t + known :] = other.columns[name][:, t + known :]
            found = trained(agent, steps._replace(**changed))
            torch.testing.assert_close(found[:, : t + 1], wanted[:, : t + 1])
            assert t == 11 or not torch.allclose(found[:, t + 1], wanted[:, t + 1])

    @torch.no_grad()
    def test_each_has_the_episodes_before_it_as_demonstrations(self):
        """Up to two of them; the fourth episode begins another sequence."""
        agent, steps = PROMPTED.build(), episodes((3, 4, 5, 2, 3))
        whole = trained(agent, steps)
        starts = np.cumsum((0, 3, 4, 5, 2, 3)).tolist()
        for begin, stop, query in ((0, 3, 0), (0, 7, 3), (0, 12, 7), (12, 14, 12), (12, 17, 14)):
            part = steps.window(begin, stop)
            numbers = np.searchsorted(starts, np.arange(begin, stop), "right") - 1 - starts.index(begin)
            segment = np.broadcast_to(numbers, part.mask.shape)
            found = trained(agent, part, segment)[:, query - begin :]
            torch.testing.assert_close(found, whole[:, query:stop], atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_demonstrations_and_their_number_matter(self):
        agent, steps = PROMPTED.build(), episodes((3, 4))
        whole, alone = trained(agent, steps), steps.window(3, 7)
        assert not torch.allclose(trained(agent, alone), whole[:, 3:])
        numbers = [np.full((3, 4), number) for number in (0, 1)]
        assert not torch.allclose(*(trained(agent, alone, number) for number in numbers))

    def test_timesteps_restart(self):
        steps = episodes((3, 4, 1))
        assert steps.extras["timestep"][0].tolist() == [0, 1, 2, 0, 1, 2, 3, 0]


class TestBurstiness:
    @staticmethod
    def batch(tasks: list[int], count: int = 24, seed: int = 0) -> Steps:
        """Windows of episodes of 1 to 5 steps, each step of which shows its task, and its row as the action."""
        rows, rng = len(tasks), np.random.default_rng(seed)
        lengths = rng.integers(1, 6, (rows, count)).cumsum(1)
        ended = (np.arange(count) == lengths[:, :, None] - 1).any(1)
        task, row = (np.broadcast_to(np.asarray(x)[:, None], (rows, count)) for x in (tasks, np.arange(rows)))
        place = with_timesteps(stack_steps(row, row, row * 1.0, row, ended, ended)).extras["timestep"]
        obs = np.stack([task, place], -1).astype(np.int32)
        steps = stack_steps(obs, row, np.ones((rows, count), np.float32), obs, ended, ended & False)
        return with_timesteps(steps)._replace(static={TASK: np.asarray(tasks)})

    @staticmethod
    def sequences(steps: Steps, size: int = 3) -> list[list[list[int]]]:
        """Tasks of the episodes of each sequence, by row."""
        numbers = steps.extras.get("segment", (np.cumsum(steps.first, 1) - 1) % size)
        found = []
        for first, number, obs, mask in zip(steps.first, numbers, steps.obs, steps.mask, strict=True):
            places = np.flatnonzero(first & mask)
            groups = np.split(obs[places, 0], np.flatnonzero(number[places] == 0)[1:])
            found.append([group.tolist() for group in groups])
        return found

    @staticmethod
    def prepared(steps: Steps, burstiness: float, seed: int = 0) -> Steps:
        method = PROMPTED.build(burstiness=burstiness).method
        return method.prepare_batch(steps, np.random.default_rng(seed))

    def test_at_1_every_sequence_is_of_one_task(self):
        steps = self.batch([0, 1, 2, 3] * 8)
        found = self.prepared(steps, 1.0)
        assert all(np.array_equal(found.columns[name], steps.columns[name]) for name in steps.columns)
        rows = self.sequences(found)
        assert all(
            set(sequence) == {task} for row, task in zip(rows, [0, 1, 2, 3] * 8, strict=True) for sequence in row
        )
        assert all(len(sequence) == 3 for row in rows for sequence in row[:-1])

    def test_at_0_no_two_episodes_of_a_sequence_share_a_task(self):
        found = self.prepared(self.batch([0, 1, 2, 3] * 8), 0.0)
        rows = self.sequences(found)
        assert all(len(set(sequence)) == len(sequence) for row in rows for sequence in row)
        assert all(len(sequence) == 3 for row in rows for sequence in row[:-1])
        assert found.mask.all()

    @pytest.mark.parametrize("burstiness", [0.25, 0.5])
    def test_between_them_it_is_the_share_of_rows(self, burstiness: float):
        steps = self.batch([0, 1, 2, 3] * 8)
        bursty = []
        for seed in range(40):
            for row, task in zip(self.sequences(self.prepared(steps, burstiness, seed)), [0, 1, 2, 3] * 8, strict=True):
                own = [set(sequence) == {task} for sequence in row if len(sequence) > 1]
                different = [len(set(sequence)) == len(sequence) for sequence in row if len(sequence) > 1]
                assert all(own) or all(different)
                bursty.append(all(own))
        assert np.mean(bursty) == pytest.approx(burstiness, abs=0.04)

    def test_its_last_episode_is_of_the_row_and_all_are_whole(self):
        steps = self.batch([0, 1, 2, 3] * 8)
        found = self.prepared(steps, 0.0)
        ended = found.terminated | found.truncated
        assert (found.first[:, 1:] == ended[:, :-1]).all()
        np.testing.assert_array_equal(found.obs[..., 1], found.extras["timestep"])
        restarted = with_timesteps(found).extras["timestep"]
        np.testing.assert_array_equal(restarted, found.extras["timestep"])
        for row, task in zip(self.sequences(found), [0, 1, 2, 3] * 8, strict=True):
            assert all(sequence[-1] == task for sequence in row[:-1])

    def test_few_tasks_make_short_sequences(self):
        rows = self.sequences(self.prepared(self.batch([0, 1] * 4), 0.0))
        assert {len(sequence) for row in rows for sequence in row[:-1]} == {2}
        rows = self.sequences(self.prepared(self.batch([5] * 4), 0.0))
        assert all(sequence == [5] for row in rows for sequence in row)

    def test_no_model_sees_the_task(self):
        for burstiness in (0.0, 0.5, 1.0):
            assert TASK not in self.prepared(self.batch([0, 1]), burstiness).static

    def test_what_cannot_be_mixed_is_refused(self):
        steps = self.batch([0, 1])
        masks = steps._replace(static={**steps.static, "action_mask": np.ones((2, 5), bool)})
        one_line(lambda: self.prepared(masks, 0.5), ValueError, "legal actions", "burstiness=1")
        one_line(lambda: self.prepared(steps._replace(static={}), 0.5), ValueError, "unknown", "burstiness=1")

    @torch.no_grad()
    def test_the_loss_reads_the_sequences(self):
        """That of a row is that of its sequences alone, whose numbers are those of the column."""
        agent = PROMPTED.build(burstiness=0.0)
        found = agent.method.prepare_batch(self.batch([0, 1] * 2), np.random.default_rng(0))
        found = found._replace(action=found.action % 5, prev_action=found.prev_action % 5)
        row = found.rows([0])
        cut = int(np.flatnonzero((row.extras["segment"] == 0) & row.first)[1])
        whole = trained(agent, row)
        torch.testing.assert_close(trained(agent, row.window(0, cut)), whole[:, :cut])
        torch.testing.assert_close(trained(agent, row.window(cut, None)), whole[:, cut:], atol=1e-5, rtol=1e-5)


class TestKnownSteps:
    """Rows of single steps whose actions are known, beside sequences: they have no return, and other actions no say."""

    settings = (("latent", 4), ("codes", 5), ("return_to_go", True))

    def batch(self, unknown: float | None = None, reward: float = 1.0) -> Steps:
        steps = lifetimes("vector", rows=8, count=12, ends=0)
        ended = np.tile(np.arange(12) % 4 == 3, (8, 1))
        weight = np.zeros((8, 12), np.float32)
        weight[6:] = 4
        action = steps.action.copy()
        if unknown is not None:
            action[:6] = unknown
        rewards = np.where(weight > 0, 10 * reward, reward)
        extras = {LATENT: steps.extras[LATENT], CODE: steps.extras[CODE]}
        columns = (steps.obs, action, rewards, steps.next_obs, ended, np.zeros_like(ended))
        made = stack_steps(*columns, extras={**extras, LABELLED: weight}, static={TASK: np.arange(8)})
        return with_timesteps(made)

    def fitted(self, method: str, batch: Steps):
        torch.manual_seed(0)
        variant = Variant(method, self.settings if method == "prompted-dt" else self.settings[:2], "vector")
        built = variant.build()
        anything = spaces.Box(-np.inf, np.inf, (2,), np.float32)  # actions whose unit is fitted
        model = type(built.method)(built.observation_space, anything, built.config)
        rng = np.random.default_rng(0)
        steps = model.tensors(model.draw_noise(model.prepare_batch(batch, rng), rng))
        model.fit_normalization(steps)
        return model, steps

    def test_their_rewards_are_no_returns(self):
        model, _ = self.fitted("prompted-dt", self.batch())
        assert model.best_return.item() == pytest.approx(4)

    def test_the_weight_of_a_part_is_that_of_its_loss(self):
        model, steps = self.fitted("prompted-dt", self.batch())
        whole = {name: value.item() for name, value in model.loss(steps).items()}
        parts = [steps.rows(np.arange(start, start + 4)) for start in (0, 4)]
        weights = [float(model.loss_weight(part)) for part in parts]
        for name, value in whole.items():
            losses = [model.loss(part)[name].item() for part in parts]
            assert np.average(losses, weights=weights) == pytest.approx(value, rel=1e-4)

    @pytest.mark.parametrize("method", ["prompted-dt", "la-bc"])
    def test_unknown_actions_set_no_unit(self, method):
        units = [self.fitted(method, self.batch(unknown))[0].action for unknown in (None, 0.0, 7.0)]
        for other in units[1:]:
            torch.testing.assert_close(other.state_dict(), units[0].state_dict())


def test_the_demonstration_tells_the_goal():
    """Each task has one right action; the first one of an episode without demonstrations is a guess."""
    torch.manual_seed(0)
    config = METHODS["prompted-dt"].Config(**{**SMALL, "width": 32}, demos=1, prompt=4)
    method = METHODS["prompted-dt"](*SPACES["grid"], config)
    rng = np.random.default_rng(0)

    def draw(rows: int) -> Steps:
        action, obs = np.repeat(rng.integers(0, 5, (rows, 1)), 8, 1), rng.integers(0, 9, (rows, 8, 2)).astype(np.int32)
        ended = np.tile(np.arange(8) % 4 == 3, (rows, 1))
        return stack_steps(obs, action, np.ones((rows, 8), np.float32), obs, ended, ended & False)

    method.fit_normalization(method.tensors(draw(64)))
    optimizer = torch.optim.Adam(method.parameters(), lr=5e-3)
    for _ in range(80):
        loss = method.loss(method.tensors(draw(64)))["action"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    agent, steps = ICAgent(method).eval(), draw(200)
    right = {}
    for name, demo in (("demo", steps.window(0, 4)), ("none", None)):
        agent.reset(num_envs=200, demo=demo, seed=0)
        right[name] = (agent.act(steps.obs[:, 4], deterministic=True) == steps.action[:, 4]).mean()
    assert right["demo"] > 0.9
    assert right["none"] < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("burstiness", [0.5, 1.0])
def test_trains_on_experts_and_takes_their_episodes(tmp_path, burstiness: float):
    quick = {"updates": 2, "batch_size": 6, "width": 16, "heads": 2, "layers": 1, "inner": 16, "window": 20, "slide": 5}
    settings = {**quick, "episodes": 4, "demos": 2, "prompt": 40, "eval_every": 0, "burstiness": burstiness}
    agent = train("prompted-dt", ENV, tmp_path / "run", settings={**settings, "source": "noise"}, quiet=True)
    assert agent.config.span == 60
    agent.reset(demo=episodes((20, 20), rows=1))
    assert 0 <= agent.act(np.zeros(2, np.int32)) < 5


# ---- latent actions ---------------------------------------------------------------------------------------------


def labelled(steps: Steps, seed: int = 0) -> Steps:
    """The steps with codes, one vector for each."""
    table = np.random.default_rng(7).normal(size=(6, 4)).astype(np.float32)
    code = np.random.default_rng(seed).integers(6, size=(*steps.mask.shape, 1))
    return steps._replace(extras={**steps.extras, LATENT: table[code[..., 0]], CODE: code})


@torch.no_grad()
def test_demonstrations_without_actions_are_told_by_their_latent_actions():
    """Acting after them is what the loss computes, and no action of theirs is read."""
    demo, live = labelled(episodes((3, 5), seed=3)), labelled(episodes((4,)))
    agent = begun(LATENT_PROMPTS, demo, live)
    agent.method.latent.read(demo, "prompted-dt")
    found = policy(agent, live.obs[:, 0])
    whole = joined(demo, live)
    extras = {name: np.concatenate([demo.extras[name], live.extras[name]], 1) for name in (LATENT, CODE)}
    segment = np.broadcast_to(np.repeat([0, 1, 2], [3, 5, 4]), whole.mask.shape)
    expected = trained(agent, whole._replace(extras={**whole.extras, **extras}), segment)[:, 8]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    blind = demo._replace(action=np.zeros_like(demo.action), prev_action=np.zeros_like(demo.action))
    again = begun(LATENT_PROMPTS, blind, live)
    again.method.latent.read(demo, "prompted-dt")
    torch.testing.assert_close(policy(again, live.obs[:, 0]), found)
    changed = demo._replace(extras={**demo.extras, LATENT: demo.extras[LATENT] + 1})
    other = begun(LATENT_PROMPTS, changed, live)
    other.method.latent.read(demo, "prompted-dt")
    assert (policy(other, live.obs[:, 0]) - found).abs().amax() > 1e-4


@torch.no_grad()
def test_unknown_actions_of_a_demonstration_may_be_none_of_the_space():
    agent, steps = LATENT_PROMPTS.build("discrete"), lifetimes("discrete", rows=1, count=6, ends=0)
    blind = steps._replace(action=np.zeros_like(steps.action))  # the actions are 1, 2 and 3
    agent.reset(seed=0, demo=blind)
    assert agent.act(steps.obs[0, 0]) in agent.action_space
    told = Variant("prompted-dt").build("discrete")
    one_line(lambda: told.reset(seed=0, demo=blind), ValueError, "demo: action 0 is outside 1..3")


def test_own_actions_stand_for_the_latent_actions_that_mean_them():
    agent = begun(LATENT_PROMPTS, None, episodes((4,)))
    latent, actions = agent.method.latent, agent.method.action
    latent.vectors.copy_(torch.eye(6)[:, :4] + 1)
    latent.vectors[5] = 0  # a code that no history has
    found = latent.of_actions(torch.tensor([[0, 3]]), actions)
    fit = actions.head(latent.decoder(latent.vectors)).logits[:5, [0, 3]].softmax(0)  # of the codes, for each action
    torch.testing.assert_close(found[0], fit.T @ latent.vectors[:5])


def test_latent_actions_are_trained_with_few_labels(tmp_path):
    path = collect(ENV, "noise", tmp_path / "h.h5", tasks=range(6), streams=1, episodes=6)
    table = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    with HistoryStore(path) as store:  # perfect labels
        store.annotate([LATENT, CODE], lambda steps: {LATENT: table[steps.action], CODE: steps.action[..., None]})
        demo = store[0, :1]
    settings = {**SMALL, "demos": 2, "prompt": 40, "updates": 2, "batch_size": 4, "eval_every": 0, "burstiness": 0.5}
    latents = {"latent": 4, "codes": 5, "labels": 7}
    how = {"histories": path, "quiet": True, "device": "cpu"}
    agent = train("prompted-dt", ENV, tmp_path / "latent", settings={**settings, **latents}, **how)
    np.testing.assert_array_equal(agent.method.latent.vectors.numpy(), table)
    agent.reset(demo=demo.window(0, 20), seed=0)
    assert 0 <= agent.act(demo.obs[0, 0]) < 5
    plain = demo.window(0, 20)._replace(extras={})
    one_line(lambda: agent.reset(demo=plain), ValueError, "demo has no latent_action", "Annotator")
    with HistoryStore(path) as store:
        store.annotate(SKILL, lambda steps: np.zeros((*steps.mask.shape, 4), np.float32))
    one_line(
        lambda: train("prompted-dt", ENV, tmp_path / "x", settings={**settings, **latents}, **how),
        *(ValueError, SKILL, "without hierarchy"),
    )
    other = {**settings, "labels": 7}
    one_line(
        lambda: train("prompted-dt", ENV, tmp_path / "x", settings=other, **how), ValueError, "give latent, or leave"
    )
    one_line(lambda: METHODS["prompted-dt"].Config(latent=4, predicts="latents"), ValueError, "acts in codes")


# ---- evaluation -------------------------------------------------------------------------------------------------


def test_evaluations_show_demonstrations_first():
    """Those of the expert on the very tasks, from starts of their own; or what a function returns."""
    seen: list[Steps] = []
    space = gymnasium.make(ENV)
    agent = PROMPTED.build()
    agent = ICAgent(METHODS["prompted-dt"](space.observation_space, space.action_space, agent.config)).eval()

    def own(tasks: np.ndarray, seed: int) -> Steps:
        seen.append(Demonstrations(ENV, 1)(tasks, seed))
        return seen[-1].window(0, 8)  # the prompt's capacity

    curve = evaluate(agent, ENV, episodes=1, tasks=[3, 40], demos=own)
    assert curve.facts["demos"] == "own"
    assert (seen[0].reward.sum(1) > 0).all()  # it knows the goals
    assert len(seen[0].mask) == 2
    assert "demos" not in evaluate(agent, ENV, episodes=1, tasks=[3]).facts
    one_line(lambda: evaluate(agent, ENV, tasks=[3], demos=3), ValueError, "demos=3", "at most 2")
    one_line(lambda: evaluate(Variant("ad").build(), ENV, tasks=[3], demos=1), ValueError, "takes no demonstrations")
    latents = LATENT_PROMPTS.build()
    one_line(lambda: evaluate(latents, ENV, tasks=[3], demos=1), ValueError, "latent actions", "give a function")


def test_known_steps_are_in_no_sequence():
    """Rows of single steps whose actions are known stay as they are, and other rows draw none of their episodes."""
    steps = labelled(episodes((3, 5, 4), rows=4))
    weight = np.zeros(steps.mask.shape, np.float32)
    weight[3] = 4.0
    steps = steps._replace(reward=np.full(steps.mask.shape, 0.0, np.float32), static={TASK: np.array([5, 6, 7, 5])})
    steps.reward[3] = 9.0
    steps = steps._replace(extras={**steps.extras, LABELLED: weight})
    agent = LATENT_PROMPTS.build(burstiness=0.0)
    found = agent.method.prepare_batch(steps, np.random.default_rng(0))
    np.testing.assert_array_equal(found.obs[3], steps.obs[3])
    assert (found.reward[:3] == 0).all()
    assert found.reward[3].tolist() == [9.0] * 12
    tensors = agent.method.tensors(found)
    one = agent.method.loss(tensors)
    tensors.extras[CODE][3] = (tensors.extras[CODE][3] + 1) % 6
    assert agent.method.loss(tensors)["latent"] == one["latent"]
    tensors.extras[CODE][0] = (tensors.extras[CODE][0] + 1) % 6
    assert agent.method.loss(tensors)["latent"] != one["latent"]


def test_as_many_demonstrations_as_fit():
    space = gymnasium.make(ENV)
    config = METHODS["prompted-dt"].Config(**{**SMALL, "demos": 3, "prompt": 50})
    agent = ICAgent(METHODS["prompted-dt"](space.observation_space, space.action_space, config)).eval()
    assert usual_demos(agent, ENV) == 2  # of 20 steps each
    assert usual_demos(agent, "icrl/Procgen-maze-v0") == 0  # without an expert
    assert usual_demos(LATENT_PROMPTS.build(), ENV) == 0
    assert usual_demos(Variant("ad").build(), ENV) == 0


@pytest.mark.parametrize("env_id", ["icrl/PointRobot-v0", "icrl/PendulumMass-v0"])
def test_demonstrations_of_real_actions_are_the_experts_own(env_id):
    shown = Demonstrations(env_id, 3)(np.arange(20), seed=0)
    best = shown.extras["expert_action"]
    np.testing.assert_allclose(shown.action, np.clip(best, -1, 1), atol=1e-6)


def test_all_rows_of_a_report_and_of_a_training_have_as_many_demonstrations(tmp_path):
    env_id = "icrl/Darkroom3x3-v0"
    spaces = env_spaces(env_id)
    config = METHODS["prompted-dt"].Config(**{**SMALL, "demos": 3, "prompt": 18})
    method = METHODS["prompted-dt"](*spaces, config).eval()
    curves = measure(ICAgent(method), env_id, EvalSpec(episodes=1, num_seeds=1))
    assert [(curve.split, curve.facts.get("demos")) for curve in curves if curve.split == "all"] == [("all", 3)]
    few = measure(ICAgent(method), env_id, EvalSpec(episodes=1, num_seeds=1, demos=1))
    assert [curve.facts.get("demos") for curve in few if curve.split == "all"] == [1]
    counts, made = [], Demonstrations.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Demonstrations, "__call__", lambda self, *a: counts.append(self.episodes) or made(self, *a))
        settings = {**SMALL, "demos": 3, "prompt": 18, "updates": 1, "batch_size": 2, "eval_episodes": 1}
        train("prompted-dt", env_id, tmp_path / "a", settings=settings, device="cpu", quiet=True)
    assert counts == [3]


def test_a_prompted_agent_is_measured_with_and_without_demonstrations():
    space = gymnasium.make("icrl/PixelGridCells-v0")
    config = METHODS["prompted-dt"].Config(**{**SMALL, "demos": 2, "prompt": 40})
    agent = ICAgent(METHODS["prompted-dt"](space.observation_space, space.action_space, config)).eval()
    curves = measure(agent, "icrl/PixelGridCells-v0", EvalSpec(episodes=1, num_seeds=1))
    assert [curve.name for curve in curves[:3]] == ["prompted-dt", "0 demonstrations", "1 demonstration"]
    assert [curve.facts.get("demos") for curve in curves[:3]] == [2, None, 1]
    assert len(measure(agent, "icrl/PixelGridCells-v0", EvalSpec(episodes=1, num_seeds=1, demos=0))) == 1
