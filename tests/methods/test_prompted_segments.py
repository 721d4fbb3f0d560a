"""Prompted DT with `demo_steps`: demonstrations are random segments of episodes, in training and in acting."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.steps import Steps, stack_steps
from icrl_agents.methods import METHODS
from icrl_agents.methods.base.predictor import CODE
from icrl_agents.methods.base.trainable import LABELLED, TASK
from icrl_agents.training.loop import train
from tests.conftest import one_line
from tests.fakes import Variant, statistics
from tests.methods.test_prompted_dt import close, episodes, joined, labelled, policy, trained

SIZE = 3  # demo_steps of these agents
OWN = (("demo_steps", SIZE), ("prompt", 16))
SEGMENTS = Variant("prompted-dt", OWN)
RETURNS = Variant("prompted-dt", (*OWN, ("return_to_go", True)))
LATENTS = Variant("prompted-dt", (*OWN, ("latent", 4), ("codes", 6)))
ALL = pytest.mark.parametrize("variant", [SEGMENTS, RETURNS, LATENTS], ids=str)
CARD = Path(__file__).parents[2] / "model_cards" / "prompted-dt-pixel-grid"


def begun(variant: Variant, demo: Steps | None, live: Steps, seed: int = 0, **changes: object) -> ICAgent:
    agent = variant.build(**changes)
    if agent.config.latent:
        agent.method.latent.read(live, "prompted-dt")
    told = {"target_return": live.reward.sum(1)} if agent.config.return_to_go else {}
    agent.reset(num_envs=len(live.mask), demo=demo, autoreset_mode="Disabled", seed=seed, **told)
    return agent


def segment(episode: Steps, start: int, size: int = SIZE) -> Steps:
    """Steps of an episode from `start` on, as a short episode at whose end all the rest is earned."""
    whole, part = episode.mask.shape[1], episode.window(start, start + size)
    columns = {name: part.columns[name].copy() for name in ("obs", "action", "reward", "next_obs")}
    columns["reward"][:, -1] = episode.reward[:, min(start + size, whole) - 1 :].sum(1)
    ended = np.arange(part.mask.shape[1]) == part.mask.shape[1] - 1
    ended = np.broadcast_to(ended, part.mask.shape)
    return stack_steps(**columns, terminated=ended, truncated=ended & False, extras=part.extras)


def sequence(*parts: Steps) -> Steps:
    """Episodes one after the other, with the columns that each of them has."""
    whole = joined(*parts)
    extras = {name: np.concatenate([part.extras[name] for part in parts], 1) for name in parts[0].extras}
    return whole._replace(extras=extras)


def numbers(*lengths: int) -> np.ndarray:
    return np.repeat(np.arange(len(lengths)), lengths)


def shown(agent: ICAgent) -> list[list[list[int]]]:
    """Timesteps of each segment that the agent has been shown, by row."""
    demos = agent.context.memory.demos
    rows = zip(demos.timestep, demos.segment, demos.length, strict=True)
    return [
        [row[:n][number[:n] == i].tolist() for i in range(number[:n].max(initial=-1) + 1)] for row, number, n in rows
    ]


def parts(*lengths: int) -> list[Steps]:
    """Episodes of these lengths, of three rows."""
    whole = labelled(episodes(lengths, seed=3), seed=3)
    ends = np.cumsum(lengths)
    return [whole.window(end - length, end) for end, length in zip(ends, lengths, strict=True)]


class TestActing:
    @pytest.mark.parametrize("slide", [1, 4])
    @ALL
    @torch.no_grad()
    def test_equals_the_forward_pass_of_training(self, variant: Variant, slide: int):
        """Each row has drawn segments of its own; a live episode of two windows follows."""
        first, second, live = *parts(7, 5), labelled(episodes((18,)))
        agent = begun(variant, sequence(first, second), live, slide=slide)
        starts = [[part[0] for part in row] for row in shown(agent)]
        assert len({tuple(row) for row in starts}) > 1
        whole_window = 1 if agent.config.latent else 9  # later, latent actions of its own are those of its actions
        for t in range(whole_window):
            found = policy(agent, live.obs[:, t])
            for row, places in enumerate(starts):
                told = [segment(one.rows([row]), place) for one, place in zip((first, second), places, strict=True)]
                whole = sequence(*told, live.rows([row]))
                wanted = trained(agent, whole, numbers(SIZE, SIZE, 18)[None])[0, 2 * SIZE + t]
                torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=1e-5)
            close(agent, live, t)
        before = shown(agent)
        for t in range(whole_window, 18):  # its oldest steps leave the window, the segments stay
            policy(agent, live.obs[:, t])
            close(agent, live, t)
        assert shown(agent) == before

    def test_consecutive_steps_of_each_episode_keep_their_timesteps(self):
        agent = begun(SEGMENTS, sequence(*parts(7, 5)), episodes((4,)))
        for row in shown(agent):
            assert len(row) == 2
            for steps, length in zip(row, (7, 5), strict=True):
                assert steps == list(range(steps[0], steps[0] + SIZE))
                assert steps[-1] < length

    def test_every_start_is_as_probable(self):
        whole = episodes((5, 4), rows=1).rows(np.zeros(3000, int))
        agent = begun(SEGMENTS, whole, whole)
        starts = np.array([[part[0] for part in row] for row in shown(agent)])
        for column, count in ((0, 3), (1, 2)):
            share = np.bincount(starts[:, column], minlength=count) / len(starts)
            np.testing.assert_allclose(share, 1 / count, atol=0.04)
        assert abs(np.corrcoef(starts.T)[0, 1]) < 0.06

    def test_the_seed_draws_them(self):
        whole = episodes((7, 5)).rows(np.arange(12) % 3)
        one, same, other = (shown(begun(SEGMENTS, whole, whole, seed=seed)) for seed in (0, 0, 1))
        assert one == same
        assert one != other

    def test_new_tasks_draw_anew(self):
        whole = episodes((7, 7)).rows(np.arange(12) % 3)
        agent = begun(SEGMENTS, whole, whole)
        before, mask = shown(agent), np.arange(12) < 6
        agent.reset(mask=mask, demo=whole.rows(np.arange(6)))
        assert shown(agent)[6:] == before[6:]
        assert shown(agent)[:6] != before[:6]

    @ALL
    @torch.no_grad()
    def test_short_episodes_are_shown_whole(self, variant: Variant):
        demo, live = sequence(*parts(2, 3)), labelled(episodes((4,)))
        found = policy(begun(variant, demo, live), live.obs[:, 0])
        wanted = policy(begun(variant, demo, live, demo_steps=0), live.obs[:, 0])
        torch.testing.assert_close(found, wanted)

    @torch.no_grad()
    def test_what_is_left_of_the_return_is_that_of_the_whole_episode(self):
        first, live = parts(7)[0], episodes((4,))
        agent = begun(RETURNS, first, live)
        for row, ((start, *_),) in enumerate(shown(agent)):
            left = first.reward[row, ::-1].cumsum()[::-1][start : start + SIZE]
            np.testing.assert_allclose(agent.context.memory.demos.to_go[row, :SIZE], left, rtol=1e-5)

    @torch.no_grad()
    def test_rows_may_have_none(self):
        demo, live = sequence(*parts(7, 5)), episodes((4,))
        lengths = np.array([12, 0, 5])
        agent = begun(SEGMENTS, demo._replace(mask=np.arange(12) < lengths[:, None]), live)
        assert [len(row) for row in shown(agent)] == [2, 0, 1]
        alone = begun(SEGMENTS, None, live)
        found, wanted = (policy(one, live.obs[:, 0])[1] for one in (agent, alone))
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        agent.reset(num_envs=3, demo=episodes(()))
        assert shown(agent) == [[], [], []]

    @torch.no_grad()
    def test_segments_outlive_files(self, tmp_path):
        demo, live = sequence(*parts(7, 5)), episodes((6,))
        agent = begun(SEGMENTS, demo, live)
        agent.save_context(tmp_path / "a")
        other = SEGMENTS.build()
        other.load_context(tmp_path / "a")
        assert shown(other) == shown(agent)
        torch.testing.assert_close(policy(other, live.obs[:, 0]), policy(agent, live.obs[:, 0]))

    def test_limits_are_of_the_episodes_they_are_drawn_from(self):
        live = episodes((4,))
        agent = begun(SEGMENTS, episodes((8, 8)), live)
        one_line(lambda: agent.reset(num_envs=3, demo=episodes((8, 9))), ValueError, "17 steps", "prompt=16")
        one_line(lambda: agent.reset(num_envs=3, demo=episodes((1, 1, 1))), ValueError, "3 episodes", "demos=2")


class TestSequences:
    lengths = (4, 7, 2, 5, 6)

    def batch(self, rows: int = 3) -> Steps:
        return labelled(episodes(self.lengths, rows=rows))

    def split(self, steps: Steps, row: int) -> list[list[list[int]]]:
        """Timesteps of the parts of each sequence of a row."""
        count = steps.mask[row].sum()
        first, number = steps.first[row, :count], steps.extras["segment"][row, :count]
        found: list[list[list[int]]] = []
        for part in np.split(np.arange(count), np.flatnonzero(first)[1:]):
            if number[part[0]] == 0:
                found.append([])
            found[-1] = [*found[-1], steps.extras["timestep"][row, part].tolist()]
        return found

    def prepared(self, variant: Variant, steps: Steps, seed: int = 0, **changes: object) -> tuple[ICAgent, Steps]:
        agent = variant.build(**changes)
        return agent, agent.method.prepare_batch(steps, np.random.default_rng(seed))

    def test_each_episode_follows_segments_of_those_before_it(self):
        _, found = self.prepared(SEGMENTS, self.batch())
        counts = [[4], [3, 7], [3, 3, 2], [5], [3, 6]]  # two demonstrations at most
        for row in range(3):
            rows = self.split(found, row)
            assert [[len(part) for part in one] for one in rows] == counts
            for one in rows:
                assert one[-1] == list(range(len(one[-1])))  # whole
                assert all(part == list(range(part[0], part[0] + SIZE)) for part in one[:-1])
        assert (found.mask.sum(1) == sum(map(sum, counts))).all()

    def test_every_start_is_as_probable_in_every_sequence(self):
        batch = self.batch(rows=1).rows(np.zeros(2000, int))
        _, found = self.prepared(SEGMENTS, batch)
        rows = [self.split(found, row) for row in range(2000)]
        of_second = np.array([row[2][1][0] for row in rows])  # of 7 steps: 5 starts
        np.testing.assert_allclose(np.bincount(of_second, minlength=5) / 2000, 0.2, atol=0.04)
        again = np.array([(row[1][0][0], row[2][0][0]) for row in rows])  # the first episode, drawn twice
        np.testing.assert_allclose(again.mean(0), 0.5, atol=0.05)
        assert abs(np.corrcoef(again.T)[0, 1]) < 0.07

    @ALL
    @torch.no_grad()
    def test_the_forward_pass_is_that_of_each_sequence_alone(self, variant: Variant):
        """With the returns to go of whole episodes, and the last action of each segment told after it."""
        batch = self.batch()
        agent, found = self.prepared(variant, batch)
        told, learned = agent.method.told(agent.method.tensors(found))
        whole = statistics(agent.method.action_distribution(agent.method.hidden(told)[:, :, 0], {}))
        ends = np.cumsum(self.lengths)
        own = [batch.window(end - length, end) for end, length in zip(ends, self.lengths, strict=True)]
        for row in range(3):
            column, query = 0, 0
            for one in self.split(found, row):
                sources = own[query - len(one) + 1 : query]
                drawn = [segment(ep.rows([row]), part[0]) for ep, part in zip(sources, one, strict=False)]
                alone = sequence(*drawn, own[query].rows([row]))
                lengths = [len(part) for part in one]
                wanted = trained(agent, alone, numbers(*lengths)[None])[0]
                stop = column + sum(lengths)
                torch.testing.assert_close(whole[row, column:stop], wanted, atol=1e-5, rtol=1e-5)
                live = np.arange(column, stop) >= stop - lengths[-1]
                np.testing.assert_array_equal(learned[row, column:stop], live)
                column, query = stop, query + 1

    @ALL
    def test_only_the_actions_of_live_episodes_are_learned(self, variant: Variant):
        agent, found = self.prepared(variant, self.batch())
        noise = agent.method.draw_noise(found, np.random.default_rng(0))
        tensors = agent.method.tensors(noise)
        _, learned = agent.method.told(tensors)
        name = "latent" if agent.config.latent else "action"
        before = agent.method.loss(tensors)[name]
        changed = tensors._replace(action=torch.where(learned, tensors.action, (tensors.action + 1) % 5))
        if agent.config.latent:
            code = torch.where(learned[..., None], tensors.extras[CODE], (tensors.extras[CODE] + 1) % 6)
            changed = changed._replace(extras={**tensors.extras, CODE: code})
        late = agent.method.hidden  # actions also are inputs: those stay
        agent.method.hidden = lambda steps: late(tensors._replace(extras={**tensors.extras}))
        torch.testing.assert_close(agent.method.loss(changed)[name], before)

    def test_the_default_target_is_the_return_of_a_whole_episode(self):
        """Rewards are negative, so the rest of an episode has a higher return than all of it."""
        batch = self.batch()
        batch = batch._replace(reward=-np.ones_like(batch.reward))
        agent, found = self.prepared(RETURNS, batch)
        agent.method.fit_normalization(agent.method.tensors(found))
        assert agent.method.best_return.item() == -2

    @torch.no_grad()
    def test_whole_demonstrations_have_the_losses_of_today(self):
        """Segments as long as every episode: the same distributions at the live steps."""
        batch = self.batch()
        agent, found = self.prepared(RETURNS, batch, demo_steps=16)
        told, learned = agent.method.told(agent.method.tensors(found))
        live = statistics(agent.method.action_distribution(agent.method.hidden(told)[:, :, 0], {}))[learned]
        whole = trained(RETURNS.build(demo_steps=0), batch)
        torch.testing.assert_close(live, whole.flatten(0, 1), atol=1e-5, rtol=1e-5)

    def test_an_unfinished_episode_is_no_demonstration_and_its_return_unknown(self):
        batch = self.batch().window(0, 20)  # 2 of the last 6 steps are beyond the window of 22
        agent, found = self.prepared(RETURNS, batch)
        _, learned = agent.method.told(agent.method.tensors(found))
        assert [[len(part) for part in one] for one in self.split(found, 0)] == [[4], [3, 7], [3, 3, 2], [5], [3, 2]]
        assert learned.sum(1).tolist() == [18] * 3
        plain, found = self.prepared(SEGMENTS, batch)
        assert plain.method.told(plain.method.tensors(found))[1].sum(1).tolist() == [20] * 3

    def test_padding_is_neither_shown_nor_learned(self):
        batch = self.batch()
        batch = batch._replace(mask=np.arange(24) < np.array([24, 9, 4])[:, None])
        agent, found = self.prepared(SEGMENTS, batch)
        assert found.mask.sum(1).tolist() == [36, 4 + 3 + 5, 4]
        assert (found.mask[:, 1:] <= found.mask[:, :-1]).all()
        assert agent.method.told(found)[1].sum(1).tolist() == [24, 9, 4]

    def test_mixed_sequences_show_segments_of_other_tasks(self):
        batch = self.batch(rows=8)
        obs = np.broadcast_to((np.arange(8) // 2)[:, None, None], batch.obs.shape).astype(np.int32)
        batch = batch._replace(obs=obs, static={TASK: np.arange(8) // 2})
        _, found = self.prepared(SEGMENTS, batch, burstiness=0.0)
        begins = found.first & found.mask & (found.extras["segment"] == 0)
        for row in range(8):
            ids = begins[row].cumsum()
            lasts = []
            for one in range(1, ids.max() + 1):
                part = (ids == one) & found.mask[row]
                tasks = found.obs[row, part & found.first[row], 0]
                assert len(set(tasks)) == len(tasks)
                lasts.append(tasks[-1])
            assert lasts[0] != row // 2  # queries are of other tasks, too
            assert row // 2 in lasts

    def test_known_steps_stay_as_they_are(self):
        batch = self.batch(rows=4)
        weight = np.zeros(batch.mask.shape, np.float32)
        weight[3] = 4.0
        batch = batch._replace(extras={**batch.extras, LABELLED: weight})
        agent, found = self.prepared(LATENTS, batch)
        np.testing.assert_array_equal(found.obs[3, :24], batch.obs[3])
        assert found.mask.sum(1).tolist() == [36, 36, 36, 24]
        losses = agent.method.loss(agent.method.tensors(found))
        tensors = agent.method.tensors(found)
        tensors.extras[CODE][3] = (tensors.extras[CODE][3] + 1) % 6
        assert agent.method.loss(tensors)["latent"] == losses["latent"]

    def test_without_demonstrations_nothing_is_rearranged(self):
        batch = self.batch()
        _, found = self.prepared(SEGMENTS, batch, demos=0)
        assert found.mask.shape == batch.mask.shape


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"demo_steps": -1}, ["demo_steps=-1", "0"]),
        ({"demo_steps": 2.5}, ["demo_steps", "int"]),
        ({"demo_steps": 61, "prompt": 60}, ["demo_steps=61", "prompt=60"]),
    ],
    ids=["negative", "type", "more than fit"],
)
def test_bad_lengths_are_refused(settings, words):
    one_line(lambda: METHODS["prompted-dt"].Config(**settings), ValueError, *words)


def test_agents_of_before_show_whole_episodes():
    data = json.loads((CARD / "config.json").read_text())["config"]
    assert "demo_steps" not in data
    config = METHODS["prompted-dt"].Config.from_json(data)
    assert config.demo_steps == 0
    assert config == METHODS["prompted-dt"].Config(**data)


@pytest.mark.slow
def test_trains_on_segments_and_takes_whole_episodes(tmp_path):
    quick = {"updates": 2, "batch_size": 6, "width": 16, "heads": 2, "layers": 1, "inner": 16, "window": 20, "slide": 5}
    settings = {**quick, "episodes": 4, "demos": 2, "prompt": 40, "eval_every": 0, "demo_steps": 5, "source": "noise"}
    agent = train("prompted-dt", "icrl/Darkroom-v0", tmp_path / "run", settings=settings, quiet=True, device="cpu")
    agent.reset(demo=episodes((20, 20), rows=1))
    assert [len(part) for part in shown(agent)[0]] == [5, 5]
    assert 0 <= agent.act(np.zeros(2, np.int32)) < 5
    loaded = ICAgent.from_pretrained(tmp_path / "run", device="cpu")
    assert loaded.config.demo_steps == 5
