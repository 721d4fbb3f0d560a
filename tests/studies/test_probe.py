"""The memory probe: what an agent sees in it, and that it tells who remembers from who does not."""

import json

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image

from icrl_agents import METHODS, ICAgent, evaluate, train
from icrl_agents.core.families import env_spaces
from icrl_agents.sources.collection import lifetimes as lifetimes_of
from icrl_agents.studies.memory import probe as probing
from icrl_agents.studies.memory.latents import INTERVENTIONS, LatentIntervention
from icrl_agents.studies.memory.probe import changes_of, make_history, probe, usual_histories
from icrl_agents.studies.memory.walks import WALKS, make_walk
from icrl_agents.training.augment import hide_rewards
from tests.cli.test_cli import done, refused
from tests.conftest import one_line
from tests.fakes import Variant, close, lifetimes, statistics

ENV = "icrl/Darkroom3x3-v0"


class TestHiddenRewards:
    @pytest.mark.slow
    def test_rewards_are_seen_for_a_while_after_the_first_one(self):
        steps = lifetimes(rows=200, count=30, ends=0.1)
        steps = steps._replace(reward=np.where(np.arange(30) < 5, 0, 1 + steps.reward).astype(np.float32))
        steps = steps._replace(prev_reward=np.pad(steps.reward[:, :-1], ((0, 0), (1, 0))))
        found = hide_rewards(steps, np.random.default_rng(0), share=0.5, most=8)
        seen = (found.reward != 0).sum(1)
        whole = seen == 25
        assert 0.4 < whole.mean() < 0.6
        assert set(seen[~whole]) == set(range(1, 9))
        for row in range(200):
            kept = np.arange(30) < 5 + seen[row]
            np.testing.assert_array_equal(found.reward[row], np.where(kept, steps.reward[row], 0))
        np.testing.assert_array_equal(found.prev_reward[:, 1:], found.reward[:, :-1])
        np.testing.assert_array_equal(found.action, steps.action)

    def test_who_never_saw_one_keeps_what_there_is(self):
        steps = lifetimes(rows=20, count=9)
        nothing = steps._replace(reward=np.zeros_like(steps.reward))
        found = hide_rewards(nothing, np.random.default_rng(0), share=1.0, most=1)
        np.testing.assert_array_equal(found.prev_reward, steps.prev_reward)
        assert hide_rewards(steps, np.random.default_rng(0), 0.0, 5).reward.tolist() == steps.reward.tolist()

    def test_where_the_task_changes_every_reward_is_seen(self):
        steps = lifetimes(rows=20, count=9)
        changed = np.zeros((20, 9), bool)
        changed[::2, 5:] = True
        found = hide_rewards(
            steps._replace(extras={**steps.extras, "task_changed": changed}), np.random.default_rng(0), 1.0, 2
        )
        np.testing.assert_array_equal((found.reward == steps.reward).all(1), np.arange(20) % 2 == 0)

    def test_a_training_sees_it(self, tmp_path):
        losses = []
        for blind in (0.0, 1.0):
            settings = {"width": 16, "layers": 1, "heads": 2, "inner": 16, "window": 24, "slide": 6, "episodes": 4,
                        "updates": 1, "batch_size": 8, "eval_every": 0, "blind": blind, "blind_after": 1}  # fmt: skip
            train("ad", ENV, tmp_path / str(blind), settings=settings, device="cpu", quiet=True)
            losses.append(json.loads((tmp_path / str(blind) / "metrics.jsonl").read_text())["loss"])
        assert losses[0] != losses[1]


class Knowing:
    """Walks to the goal if it saw one rewarded in its history, else stays; only forgets what it is told to."""

    def __init__(self, memory: int):
        self.memory, self.rewards = memory, list[np.ndarray]()

    def reset(self, env, *, seed=None, history=None):
        steps, self.env = history.mask.sum(1)[0], env
        first = max(0, steps - self.memory)
        self.knows = (history.reward * history.mask)[:, first:].any(1)

    def act(self, obs):
        return np.where(self.knows, self.env.unwrapped.expert_action(), 4)

    def observe(self, obs, reward, terminated, truncated, info):
        self.rewards.append(reward)


def test_histories_show_rewards_first_and_nothing_later():
    history = make_history(ENV, np.tile(np.arange(9), 20), shown=2, episodes=5, seed=0)
    assert history.reward.shape == (180, 30)
    assert (history.reward[:, :12].sum(1) > 0).mean() > 0.95
    assert history.reward[:, 12:].sum() == 0
    assert history.prev_reward[:, 13:].sum() == 0
    np.testing.assert_array_equal(history.prev_action[:, 1:], history.action[:, :-1])
    np.testing.assert_array_equal(history.first[0], np.arange(30) % 6 == 0)
    later = np.bincount(history.action[:, 12:].ravel(), minlength=5) / history.action[:, 12:].size
    assert abs(later - 0.2).max() < 0.03


@pytest.mark.parametrize("env_id", [ENV, "icrl/DarkKeyToDoor-v0"])
def test_an_unrewarded_walk_passes_no_goal(env_id):
    """Whereas a random one does; both go everywhere else."""
    tasks = np.tile(np.arange(9), 20)
    walked, random = (lifetimes_of(env_id, make_walk(name, env_id), tasks, 5, seed=0) for name in WALKS[::-1])
    assert not walked.reward.any()
    assert random.reward.any(1).mean() > 0.2
    there, everywhere = (len(np.unique(steps.obs.reshape(-1, 2), axis=0)) for steps in (walked, random))
    assert there >= everywhere - 1  # the tasks 0 to 8 of Key-to-Door have the same key
    free = walked.action[~np.isin(tasks, (1, 3, 5, 7))] if env_id == ENV else walked.action  # far from goals
    assert abs(np.bincount(free.ravel(), minlength=5) / free.size - 0.2).max() < 0.06


def test_an_unrewarded_walk_takes_legal_actions_only():
    env_id = "icrl/GaussianBandit-v0"
    env = gymnasium.make_vec(env_id, num_envs=4)
    tasks = np.arange(4)
    walked = lifetimes_of(env_id, make_walk("unrewarded", env_id), tasks, 1, seed=0)
    _, info = env.reset(seed=0, options={"task": tasks})
    allowed = info["action_mask"].astype(bool)
    assert np.take_along_axis(allowed, walked.action, 1).all()


def test_an_unrewarded_walk_needs_actions_to_try():
    one_line(lambda: make_walk("unrewarded", "icrl/PointRobot-v0"), ValueError, "unrewarded", "Box", "walk='random'")


def test_a_random_walk_is_random_where_actions_are_real():
    """The preset of noise for Box actions, which spreads its share over lifetimes, is not meant here."""
    expert = lifetimes_of("icrl/PointRobot-v0", make_walk("random", "icrl/PointRobot-v0"), np.arange(40), 2, seed=0)
    low, high = expert.action.min((0, 1)), expert.action.max((0, 1))
    assert (low == -1).all()
    assert (high == 1).all()
    toward = (expert.action * expert.extras["expert_action"]).sum(-1)
    assert toward.mean() < 0.1  # it drifts away, and the expert points back


def test_the_share_of_costs_is_scaled_from_random_play_to_the_optimum():
    class Expert(Knowing):
        def act(self, obs):
            return self.env.unwrapped.expert_action()

    class Random(Knowing):
        def act(self, obs):
            return self.env.action_space.sample()

    found = {who: probe(who(1000), "icrl/PointRobot-v0", episodes=(2,), num_seeds=1)[0] for who in (Expert, Random)}
    assert found[Expert].random == found[Random].random == pytest.approx(0, abs=1e-6)
    assert found[Expert].share.value == pytest.approx(1, abs=0.02)
    assert found[Random].share.value == pytest.approx(0, abs=0.1)


def test_parts_of_a_history_have_random_numbers_of_their_own():
    """Start cells: of the two shown episodes, of the walk, and of the agent's episode, in each row."""
    env_id, tasks = "icrl/DarkroomRandomStart-v0", np.arange(60)
    history = make_history(env_id, tasks, shown=2, episodes=4, seed=0)
    starts = history.obs[:, ::20] @ [9, 1]  # (B, 4)
    env = gymnasium.make_vec(env_id, num_envs=60)
    own = env.reset(seed=0, options={"task": tasks})[0] @ [9, 1]
    cells = [*starts.T, own]
    for i, one in enumerate(cells):
        for other in cells[i + 1 :]:
            for shift in (0, 1):
                assert (one[shift:] == other[: 60 - shift]).mean() < 0.15


@pytest.mark.parametrize(
    "env_id", ["icrl/DarkroomTurns-v0", "icrl/DarkroomMixedTurns-v0", "icrl/DarkroomFixedStart-v0"]
)
def test_episodes_that_share_more_than_the_task_are_refused(env_id):
    agent = ICAgent(METHODS["ad"](*env_spaces(env_id), METHODS["ad"].Config(width=16, heads=2)))
    one_line(lambda: probe(agent, env_id), ValueError, env_id, "put together from lifetimes")


def test_an_unknown_optimum_is_refused(monkeypatch):
    monkeypatch.setattr(probing, "optimal_returns", lambda env_id, ids: np.full(len(ids), np.nan))
    one_line(lambda: probe(Knowing(9), ENV), ValueError, ENV, "best return")


def test_histories_of_episodes_that_end_early_have_their_padding_at_the_end():
    history = make_history("icrl/DarkroomMacro-v0", np.arange(12), shown=2, episodes=4, seed=0)
    count = history.mask.sum(1)
    assert len(set(count.tolist())) > 1  # episodes end at the goal
    assert (history.mask == (np.arange(history.mask.shape[1]) < count[:, None])).all()
    assert ((history.terminated | history.truncated).sum(1) == 4).all()
    assert (history.first[history.mask].sum()) == 4 * 12
    late = Variant("cad").build(window=60, slide=16, latents=8)
    macro = ICAgent(METHODS["cad"](*env_spaces("icrl/DarkroomMacro-v0"), late.config)).eval()
    (recall,) = probe(macro, "icrl/DarkroomMacro-v0", episodes=(3,), shown=2, num_seeds=1)
    assert recall.steps <= 60
    change = {"episodes": (3,), "shown": 2, "num_seeds": 1, "change": "zeroed"}
    one_line(
        lambda: probe(macro, "icrl/DarkroomMacro-v0", **change), ValueError, "zeroed", "before a fold", "ask later"
    )


def test_it_tells_who_remembers():
    forgetful, lasting = Knowing(memory=18), Knowing(memory=1000)
    found = [probe(agent, ENV, episodes=(2, 4, 9), num_seeds=40) for agent in (forgetful, lasting)]
    assert [recall.steps for recall in found[0]] == [12, 24, 54]
    assert found[1][0].share.value > 0.95
    assert found[1][2].share == found[1][0].share
    assert 0 < found[0][1].share.value < found[0][0].share.value  # part of the shown episodes is still known
    assert found[0][2].share.value == 0
    assert 0.05 < found[0][0].random < 0.5
    assert not np.concatenate(forgetful.rewards).any()


def test_an_agent_sees_its_own_rewards_unless_those_of_the_walk_were_hidden():
    hidden, truthful = Knowing(memory=1000), Knowing(memory=1000)
    for agent, walk in ((hidden, "random"), (truthful, "unrewarded")):
        (recall,) = probe(agent, ENV, episodes=(4,), num_seeds=10, walk=walk)
        assert recall.share.value > 0.95
    assert not np.concatenate(hidden.rewards).any()
    assert np.concatenate(truthful.rewards).mean() > 0.3


@pytest.mark.slow
def test_latents_are_changed_as_told():
    agent = Variant("cad").build(window=12, slide=5)
    given = torch.arange(24.0).reshape(3, 2, 4)
    first = -given
    assert torch.equal(INTERVENTIONS["none"](given, first), given)
    assert not INTERVENTIONS["zeroed"](given, first).any()
    assert torch.equal(INTERVENTIONS["swapped"](given, first)[1], given[0])
    assert torch.equal(INTERVENTIONS["shuffled"](given, first)[:, 0], given[:, 1])
    assert torch.equal(INTERVENTIONS["frozen"](given, first), first)
    shares = {}
    for change in INTERVENTIONS:
        recalls = probe(agent, "icrl/Darkroom-v0", episodes=(2, 4), change=change, shown=2, num_seeds=2)
        assert [recall.folds for recall in recalls] == [
            agent.method.schedule.folds(41),
            agent.method.schedule.folds(81),
        ]
        shares[change] = [recall.share for recall in recalls]
        seen = agent.context.memory.latents
        assert seen.isfinite().all()


@pytest.mark.slow
@torch.no_grad()
def test_what_is_seen_is_changed_after_every_fold_and_what_is_folded_is_not():
    agent, steps = Variant("cad").build(window=12, slide=5, latents=2), lifetimes(count=40)
    lives: dict[str, list] = {}
    for change in INTERVENTIONS:
        learner, lives[change] = LatentIntervention(agent, change), []
        agent.reset(num_envs=3, seed=0)
        learner.begin()
        for t in range(40):
            learner.change_new()
            policy = statistics(agent.policy(agent.context, steps.obs[:, t]))
            memory = agent.context.memory
            lives[change].append((int(memory.folds[0]), memory.latents.clone(), learner.shown.clone(), policy))
            close(agent, steps, t)
    first = next(true for folds, true, *_ in lives["none"] if folds)
    assert lives["none"][-1][0] == agent.method.schedule.folds(40) == 6
    for change, life in lives.items():
        for (folds, true, shown, policy), (_, wanted, _, plain) in zip(life, lives["none"], strict=True):
            torch.testing.assert_close(true, wanted)
            if folds:
                torch.testing.assert_close(shown, INTERVENTIONS[change](wanted, first))
            same = change == "none" or folds == 0 or (change == "frozen" and folds == 1)
            assert torch.allclose(policy, plain, atol=1e-5) == same


def test_changes_that_would_do_nothing_are_refused():
    one_line(lambda: LatentIntervention(Variant("ad").build(), "zeroed"), ValueError, "zeroed", "agents with latents")
    one_line(lambda: LatentIntervention(Variant("cad").build(), "zero"), ValueError, "zero", "zeroed")
    one_line(lambda: probe(Variant("ad").build(), "icrl/Darkroom-v0", shown="2"), ValueError, "shown='2'")


@pytest.mark.slow
def test_whole_lives_with_changed_latents(tmp_path):
    agent = Variant("cad").build(window=12, slide=5, latents=2)
    curves = [
        evaluate(who, "icrl/Darkroom-v0", episodes=3, num_seeds=2)
        for who in (agent, *(LatentIntervention(agent, change) for change in ("none", "swapped")))
    ]
    assert np.array_equal(curves[0].runs, curves[1].runs)
    assert curves[2].runs.shape == curves[0].runs.shape
    agent.facts = {"env_id": "icrl/Darkroom-v0"}
    agent.save_pretrained(tmp_path)
    told = json.loads(done("evaluate", tmp_path, "--episodes", 2, "--seeds", 1, "--change", "frozen", "--json"))
    assert "frozen" in json.dumps(told)
    small = ("evaluate", tmp_path, "--env", "icrl/Darkroom3x3-v0", "--change", "swapped")
    assert "latents of another task" in refused(*small)


def test_what_cannot_be_asked_is_told_in_a_line():
    agent = Variant("ad").build()
    one_line(lambda: probe(agent, "icrl/Darkroom-v0", change="zeroed"), ValueError, "zeroed", "latents")
    one_line(lambda: probe(agent, "icrl/Darkroom-v0", change="gone"), ValueError, "gone", "frozen")
    one_line(lambda: probe(agent, "icrl/Darkroom-v0", episodes=(1, 5)), ValueError, "[1, 5]", "shown=2")

    alone = Variant("cad").build()
    one_line(lambda: probe(alone, "icrl/Darkroom3x3-v0", (6,), "swapped"), ValueError, "another task", "split")
    assert "swapped" not in changes_of(alone, "all", 1)
    assert changes_of(alone, "all", 2) == list(INTERVENTIONS)
    late = Variant("cad").build(window=60, slide=50, latents=4)
    one_line(lambda: probe(late, "icrl/Darkroom-v0", (2,), "zeroed"), ValueError, "after 60 steps", "ask later")
    early = Variant("cad").build(window=12, slide=5)
    one_line(lambda: probe(early, "icrl/Darkroom-v0"), ValueError, "less than an episode of 20", "shown=1")


@pytest.mark.slow
def test_the_command_adds_to_a_card(tmp_path):
    folder, agent = tmp_path / "cad", Variant("cad").build()
    agent.facts = {"env_id": "icrl/Darkroom-v0"}
    agent.save_pretrained(folder)
    words = ("probe", folder, "--episodes", "2,3", "--shown", 1, "--seeds", 1, "--change", "none")
    assert f"evaluate {folder}" in refused(*words, "--write")
    done("evaluate", folder, "--episodes", 1, "--seeds", 1, "--write")
    other = "icrl/DarkroomFixedStart-v0"
    assert f"these would be of {other}: leave --write out" in refused(*words, "--write", "--env", other)
    done(*words, "--write")
    card = (folder / "README.md").read_text()
    assert "remembered after 40 steps |" in card
    assert "1 episode with rewards, test tasks;" in card


def test_agents_of_other_held_out_tasks_are_not_compared(tmp_path):
    for seed in (0, 1):
        agent = Variant("ad").build()
        agent.facts = {"env_id": "icrl/Darkroom-v0", "split_seed": seed}
        agent.save_pretrained(tmp_path / str(seed))
    words = ("probe", tmp_path / "0", tmp_path / "1", "--episodes", "1", "--shown", 1, "--seeds", 1)
    assert f"{tmp_path / '1'} has other test tasks than {tmp_path / '0'}" in refused(*words)


def test_histories_fit_the_folds():
    blind = ICAgent.from_pretrained("icrl/cad-blind-darkroom")
    assert usual_histories(blind, "icrl/Darkroom-v0") == (2, (3, 10, 36))
    assert usual_histories(Variant("ad").build(), "icrl/Darkroom-v0") == (2, (3, 10, 36))
    assert usual_histories(blind, "icrl/Darkroom-v0", shown=5) == (5, (5, 10, 36))  # none is shorter
    assert usual_histories(blind, "icrl/Darkroom-v0", shown=1) == (1, (3, 10, 36))
    agent = Variant("cad").build(window=60, slide=50, latents=4)
    assert agent.method.schedule.begin(1) == 54
    assert usual_histories(agent, "icrl/DarkKeyToDoor-v0") == (1, (2, 6, 21))  # 60, 260 and 1010 steps
    for folds, count in zip((1, 5, 20), (2, 6, 21), strict=True):
        assert agent.method.schedule.folds(count * 50) >= folds
    one_line(lambda: probe(agent, "icrl/BernoulliBandit-v0"), ValueError, "lifetimes of one episode")
    one_line(lambda: probe(agent, "icrl/Nope-v0"), ValueError, "icrl/Nope-v0", "did you mean")
    assert "CartPole-v1" in refused("probe", "icrl/ad-darkroom", "--env", "CartPole-v1")


@pytest.mark.slow
def test_many_rows_are_asked_in_blocks(monkeypatch):
    """Of every task each, so that latents can be swapped with another one's."""
    seen = []
    ask = probing.ask
    monkeypatch.setattr(probing, "ask", lambda *how: seen.append(how) or ask(*how))
    whole = probe(Knowing(memory=1000), "icrl/Darkroom-v0", episodes=(2, 9), num_seeds=5)
    monkeypatch.setattr("icrl_agents.evaluation.evaluate.MAX_ROWS", 17)
    parts = probe(Knowing(memory=1000), "icrl/Darkroom-v0", episodes=(2, 9), num_seeds=5)
    assert [len(how[2]) for how in seen] == [40, 40, 16, 16, 8, 16, 16, 8]
    assert all(len(set(how[2][:8])) == 8 for how in seen)
    assert len({how[-2] for how in seen[2:5]}) == 3  # seeds
    assert [(one.steps, one.random) for one in parts] == [(one.steps, one.random) for one in whole]
    assert all(one.share.value > 0.9 for one in parts)


@pytest.mark.slow
def test_the_command(tmp_path):
    words = "probe", "icrl/cad-darkroom", "icrl/ad-darkroom", "--episodes", "2,4", "--seeds", 1, "--change", "all"
    said = json.loads(done(*words, "--json", "-o", tmp_path))
    assert json.loads((tmp_path / "probe.json").read_text()) == said
    asked = [(recall["agent"], recall["latents"], recall["episodes"]) for recall in said["recalls"]]
    mine = [("icrl/cad-darkroom", change, count) for change in INTERVENTIONS for count in (2, 4)]
    assert asked == [*mine, ("icrl/ad-darkroom", "none", 2), ("icrl/ad-darkroom", "none", 4)]
    assert {recall["shown"] for recall in said["recalls"]} == {1}  # the first fold takes 28 steps
    assert Image.open(tmp_path / "probe.png").size[0] > 500
    assert "--overwrite" in refused(*words, "-o", tmp_path)
    table = done(*words)
    assert all(name in table for name in INTERVENTIONS)
    assert "gone" in refused("probe", "icrl/cad-darkroom", "--change", "gone")
    assert "random, unrewarded" in refused("probe", "icrl/cad-darkroom", "--walk", "gone")
    assert "one environment" in refused("probe", "icrl/cad-darkroom", "icrl/ad-dark-key-to-door")
