"""When a planner overrides the policy, and how long a plan is followed."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor

from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.interop.wrappers import ObserveVectorWrapper
from icrl_agents.agents.planning.search import PLANNERS, Path, Planner, SearchResult, make_planner
from icrl_agents.methods import METHODS
from tests.agents.planning.scenarios import AD, DREAMERS, alike, open_window, scripted
from tests.fakes import SMALL, SPACES, Variant, lifetimes


def test_a_row_without_a_reward_acts_as_without_a_planner():
    planner, asked = scripted(action=-1)
    agent, steps = alike()
    policy = agent.act(steps.obs[:, 4], plan=None)
    agent, steps = alike()
    assert agent.act(steps.obs[:, 4], plan=planner).tolist() == [policy[0], -1, -1]
    assert [len(left) for left, _ in asked] == [2]  # not even searched


@pytest.mark.slow
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("variant", DREAMERS, ids=str)
def test_who_never_saw_a_reward_never_plans(variant: Variant, deterministic: bool):
    """Whole lifetimes of sampled actions are the same."""
    steps, lived = lifetimes(count=25), []
    for plan in (None, "lookahead"):
        agent, actions = variant.build(), []
        agent.use_plan(plan, plan and {"trust": 0.0})
        agent.reset(num_envs=3, seed=1)
        for t in range(25):
            actions.append(agent.act(steps.obs[:, t], deterministic).tolist())
            ends = steps.terminated[:, t], steps.truncated[:, t]
            agent.observe(steps.next_obs[:, t], np.zeros(3, np.float32), *ends, {})
        lived.append(actions)
    assert lived[0] == lived[1]
    assert len({tuple(actions) for actions in lived[0]}) > 1


@pytest.mark.parametrize(("when", "known", "heard"), [("known", False, False), ("known", True, True),
                                                      ("always", False, True)])  # fmt: skip
def test_a_search_that_knows_nothing_is_not_heard(when: str, known: bool, heard: bool):
    agent, steps = alike(count=8, rewards=1)
    policy = agent.act(steps.obs[:, 8], plan=None).tolist()
    agent, steps = alike(count=8, rewards=1)
    planner, asked = scripted(-1, known, when=when)
    assert agent.act(steps.obs[:, 8], plan=planner).tolist() == ([-1] * 3 if heard else policy)
    assert len(asked) == 1


@torch.no_grad()
def test_equal_rewards_ahead_leave_the_policy_alone():
    """All rows have seen one, but none of their actions is likelier to earn it than others."""
    found = {}
    for plan in (None, "lookahead"):
        agent, steps = alike(rewards=1)
        agent.method.reward.outputs.weight.zero_()
        found[plan] = agent.act(steps.obs[:, 4], plan=plan).tolist()
    assert found[None] == found["lookahead"]


def follower(rows: int, follow: int, count: int = 4, known: bool = True) -> tuple[ICAgent, list[int]]:
    """An agent whose planner wants actions 1, 2, 3, ... through cells (1, 1), (2, 2), ... and a reward for the second.

    Also the list of how many rows it is asked to search.
    """
    asked = []

    class Scripted(Planner):
        def search(self, imagination: Any, ctx: Any, left: Tensor, ends: Tensor, generator: Any = None) -> SearchResult:
            asked.append(len(left))
            action = torch.arange(1, 5).expand(len(left), 4)
            path = Path(action, (action == 2).float(), action[..., None].expand(-1, -1, 2))
            return SearchResult(path, torch.full_like(left, count), torch.full_like(ends, known))

    agent = AD.build(rewards="fixed")  # the script names rewards as they are
    agent.use_plan(Scripted(follow=follow, when="known" if not known else "always"))
    agent.reset(num_envs=rows, seed=0, autoreset_mode="Disabled")
    return agent, asked


def observe(agent: ICAgent, cells: list[int], reward: Any = 0.0, ended: Any = False) -> np.ndarray:
    """What came of the action; the next obs (B, 2)."""
    obs = np.repeat(np.array(cells, np.int32)[:, None], 2, 1)
    reward, ended = (np.broadcast_to(np.asarray(x), len(obs)) for x in (np.float32(reward), ended))
    agent.observe(obs, reward, np.zeros(len(obs), bool), ended, {})
    return obs


@pytest.mark.parametrize(("follow", "count", "searched"), [(1, 4, 6), (2, 4, 3), (3, 4, 2), (9, 4, 2), (9, 2, 3)])
def test_a_plan_is_followed_as_long_as_it_comes_true(follow: int, count: int, searched: int):
    """For `follow` steps, or to its end; in all rows alike."""
    agent, asked = follower(2, follow, count)
    steps, cells = min(follow, count), [0, 0]
    for t in range(6):
        wanted = t % steps + 1
        action = agent.act(np.repeat(np.array(cells, np.int32)[:, None], 2, 1))
        assert action.tolist() == [wanted] * 2
        cells = [wanted] * 2
        observe(agent, cells, wanted == 2)
    assert asked == [2] * searched


def test_a_plan_is_given_up_where_it_does_not_come_true():
    """Another obs, another reward, the end of the episode, a new task."""
    agent, asked = follower(5, 4)
    assert agent.act(observed := np.zeros((5, 2), np.int32)).tolist() == [1] * 5
    observed = observe(agent, [1, 3, 1, 1, 1], [0, 0, 0.5, 0, 0], np.arange(5) == 3)
    agent.reset(mask=np.arange(5) == 4)
    assert agent.act(observed).tolist() == [2, 1, 1, 1, 1]
    assert asked == [5, 4]
    observed = observe(agent, [2, 1, 1, 1, 1], [1, 0, 0, 0, 0])
    assert agent.act(observed).tolist() == [3, 2, 2, 2, 2]
    assert asked == [5, 4]


def test_what_is_not_heard_is_not_followed():
    agent, asked = follower(1, 4, known=False)
    obs = np.zeros((1, 2), np.int32)
    for cell in (1, 2, 3, 4):
        agent.act(obs)
        obs = observe(agent, [cell], 1.0 if cell < 3 else 0.0)
    assert asked == [1, 1, 1]  # once a reward was seen


def test_the_first_steps_of_each_episode_are_left_to_the_policy():
    """In each row for itself: episodes of 4 and of 3 steps."""
    agent, obs = AD.build(window=8, slide=3), np.zeros((2, 2), np.int32)
    planner, asked = scripted(when="always", after=2)
    agent.use_plan(planner)
    agent.reset(num_envs=2, seed=0, autoreset_mode="Disabled")
    for t in range(12):  # the window slides
        agent.act(obs)
        agent.observe(obs, np.zeros(2, np.float32), np.zeros(2, bool), np.array([t % 4 == 3, t % 3 == 2]), {})
    planned = [(t % 4 >= 2) + (t % 3 >= 2) for t in range(12)]
    assert [len(left) for left, _ in asked] == [rows for rows in planned if rows]


def test_steps_that_are_not_recorded_are_not_counted():
    agent, steps = alike()
    agent.reset(num_envs=3, history=steps.window(0, 4), learn=False)
    with pytest.raises(ValueError, match=r"after=2.*learn=False"):
        agent.act(steps.obs[:, 4], plan=scripted(after=2)[0])
    agent.act(steps.obs[:, 4], plan=scripted()[0])


def test_nobody_follows_the_plan_of_another_planner():
    agent, _ = follower(1, 4)
    planner, asked = scripted(-1, when="always")
    agent.act(np.zeros((1, 2), np.int32))
    assert agent.act(observe(agent, [1]), plan=planner).tolist() == [-1]
    assert len(asked) == 1


@pytest.mark.slow
@pytest.mark.parametrize("variant", DREAMERS, ids=str)
def test_full_is_silent_until_the_window_is_full(variant: Variant):
    """And from then on it is heard, however few steps are left after a slide."""
    planner, asked = scripted(-1, known=False, when="full")
    agent, steps, heard = variant.build(), lifetimes(count=25), []
    agent.method.on_action = lambda *given: None  # what the script wants is no action
    agent.use_plan(planner)
    agent.reset(num_envs=3, seed=0, autoreset_mode="Disabled")
    for t in range(25):
        action = agent.act(steps.obs[:, t])
        heard.append((action == -1).tolist())
        assert heard[-1] == [t >= 9] * 3
        agent.session.acted = steps.action[:, t]  # what the script wants is no action
        rest = (getattr(steps, name)[:, t] for name in ("next_obs", "reward", "terminated", "truncated"))
        agent.observe(*rest)
    assert sum(len(left) for left, _ in asked) == np.sum(heard)
    assert heard[9] == [True] * 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("plan", PLANNERS)
def test_planned_actions_are_in_the_space(plan: str, kind: str):
    agent, steps = alike(kind, count=7)
    agent.use_plan(plan, {"when": "always", "depth": 2})
    for t in (7, 6, 5):
        action = agent.act(steps.obs[:, t])
        assert all(agent.action_space.contains(one) for one in action)
        agent.observe(steps.obs[:, t - 1], np.ones(3, np.float32), *np.zeros((2, 3), bool))


@pytest.mark.parametrize("prior", [0.0, 0.5])
@torch.no_grad()
def test_best_of_n_executes_the_candidate_that_promises_most(prior: float):
    """By what the training-time view predicts for each of them."""
    agent, steps = alike("vector", count=6)
    found = agent.act(steps.obs[:, 6], plan=make_planner("best-of-n", {"prior": prior}))
    again, _ = alike("vector", count=6)
    generator = again.session.planning
    policy = again.method.action.head(again.method.encode(again.context, steps.obs[:, 6]))
    candidates, log_prob = policy.candidates(10, generator)
    assert candidates.shape == (3, 10, 2)
    for row in range(3):
        hidden = again.method.hidden(open_window(again, row))[:, -1, 0].expand(10, -1)
        promised = again.method.outcomes(hidden, candidates[row])[0].mode() + prior * log_prob[row]
        np.testing.assert_array_equal(found[row], candidates[row, promised.argmax()])
        assert promised.std() > 1e-3


@pytest.mark.slow
def test_a_planner_given_at_every_call_follows_its_plans_too():
    told, named = (alike(rewards=1) for _ in range(2))
    chosen = []
    for agent, steps in (told, named):
        planner = make_planner("lookahead", {"trust": 0.0})
        agent.use_plan(planner if agent is told[0] else None)
        actions = []
        for t in (4, 3, 4):
            actions.append(agent.act(steps.obs[:, t], plan=True if agent is told[0] else planner).tolist())
            agent.observe(steps.obs[:, 7 - t], np.ones(3, np.float32), *np.zeros((2, 3), bool))
        chosen.append((actions, agent.session.plans.place.tolist()))
    assert chosen[0] == chosen[1]


def test_unsigned_observations_can_be_planned_with():
    space = spaces.Box(0, 5, (2,), np.uint16)
    config = METHODS["ad"].Config(**{**SMALL, "dynamics": True})
    agent = ICAgent(METHODS["ad"](space, spaces.Discrete(3), config)).eval()
    agent.reset(num_envs=2, seed=0)
    agent.use_plan("lookahead", {"when": "always", "depth": 2, "trust": 0.0})
    for _ in range(4):
        agent.act(np.ones((2, 2), np.uint16))
        agent.observe(np.ones((2, 2), np.uint16), np.ones(2, np.float32), *np.zeros((2, 2), bool))


class TestTrust:
    """A planner is heard where the agent's imagination has mostly come true; here it is told what comes true."""

    def lived(self, right: list[bool], trust: float = 0.9) -> tuple[list[bool], ICAgent]:
        """Whether the planner was heard at each step of a life whose predictions come true or not."""
        agent, steps = alike(rewards=1)
        planner, asked = scripted(2, True, when="always", trust=trust)
        held = agent.session.plans
        heard = []
        for came_true in right:
            before = len(asked)
            action = agent.act(steps.obs[:, 0], plan=planner)
            heard.append(len(asked) > before)
            assert not heard[-1] or action.tolist() == [2, 2, 2]
            assert held.reliable(planner).tolist() == [heard[-1]] * 3
            imagined = agent.method.obs.array(held.predicted) if trust else steps.obs[:, 1]
            obs = imagined if came_true else (imagined + 1) % 9
            agent.observe(obs, np.zeros(3, np.float32), *np.zeros((2, 3), bool))
        return heard, agent

    @pytest.mark.slow
    def test_it_is_won_by_being_right_and_lost_by_being_wrong(self):
        heard, _ = self.lived([True] * 13)
        assert heard == [False] * 12 + [True]  # weights fade to 0.95: 12 of them are more than 9
        heard, _ = self.lived([True] * 40 + [False] * 3 + [True] * 40)
        assert heard[12:41] == [True] * 29
        assert not any(heard[43:60])
        assert heard[-1]

    def test_only_what_was_predicted_is_judged(self):
        """Steps without the planner, and actions from a fixed history, are compared with nothing else."""
        agent, steps = alike(rewards=1)
        planner, _ = scripted(2, True, when="always", trust=0.9)
        held = agent.session.plans
        for t in range(6):
            agent.act(steps.obs[:, 0], plan=None if t % 2 else planner)
            obs = steps.obs[:, 1] if t % 2 else agent.method.obs.array(held.predicted)
            agent.observe(obs, np.zeros(3, np.float32), *np.zeros((2, 3), bool))
        assert held.right.tolist() == held.total.tolist() == [1 + 0.95 + 0.95**2] * 3
        agent.reset(num_envs=3, history=steps.window(0, 4), learn=False)
        for _ in range(14):
            agent.act(steps.obs[:, 0], plan=planner)
            imagined = agent.method.obs.array(agent.session.plans.predicted)
            agent.observe(imagined, np.zeros(3, np.float32), *np.zeros((2, 3), bool))
        assert agent.session.plans.reliable(planner).all()

    def test_rows_whose_outcomes_come_in_parts_are_judged_alike(self):
        found = []
        for parts in ([[0, 1, 2]], [[1], [2, 0]]):
            agent, steps = alike(rewards=1)
            planner, _ = scripted(2, True, when="always", trust=0.9)
            for t in range(4):
                agent.act(steps.obs[:, 0], plan=planner)
                seen = agent.method.obs.array(agent.session.plans.predicted).copy()
                seen[1] = (seen[1] + t) % 9  # right at first only
                for rows in parts:
                    over = np.zeros((2, len(rows)), bool)
                    agent.observe(seen[rows], np.zeros(len(rows), np.float32), *over, rows=rows)
            found.append((agent.session.plans.right.tolist(), agent.session.plans.total.tolist()))
        assert found[0] == found[1]
        assert found[0][0][1] < found[0][0][0] == found[0][1][0]

    @pytest.mark.parametrize("rows", [None, [1]])
    def test_an_action_that_was_never_taken_is_not_judged_by_the_next_one(self, rows):
        """The env was reset between them, or the step before only reset a row."""
        agent, _ = alike(rewards=1)
        env = ObserveVectorWrapper(gymnasium.make_vec("icrl/Darkroom-v0", num_envs=3), agent, seed=0)
        obs, _ = env.reset(seed=0)
        agent.act(obs, plan=scripted(2, True, when="always", trust=0.9)[0])
        obs, _ = env.reset()
        chosen = [0, 1, 2] if rows is None else rows
        agent.act(obs[chosen], plan=None, rows=rows)
        over = np.zeros((2, len(chosen)), bool)
        agent.observe(obs[chosen], np.zeros(len(chosen), np.float32), *over, {}, rows=rows)
        assert not agent.session.plans.total.any()

    def test_decisions_that_wait_are_not_judged(self):
        """Their outcomes come in any order, and only the last prediction is known."""
        agent, steps = alike(rewards=1)
        agent.use_plan(scripted(2, True, when="always", trust=0.9)[0])
        waiting = [agent.decide(steps.obs[:, t]) for t in range(2)]
        for one in waiting:
            agent.observe(steps.obs[:, 3], np.zeros(3, np.float32), *np.zeros((2, 3), bool), decision=one.id)
        assert not agent.session.plans.total.any()

    def test_a_saved_context_keeps_what_was_won(self, tmp_path):
        _, agent = self.lived([True] * 30)
        agent.save_context(tmp_path)
        other = ICAgent(agent.method)
        other.load_context(tmp_path)
        for name in ("right", "total"):
            np.testing.assert_array_equal(getattr(other.session.plans, name), getattr(agent.session.plans, name))
        (file,) = tmp_path.glob("*.safetensors")
        arrays = {name: value for name, value in load_file(file).items() if not name.startswith("plans/")}
        with safe_open(file, "numpy") as held:
            facts = held.metadata()
        save_file(arrays, file, facts)  # as an older version wrote it
        other.load_context(tmp_path)
        assert not other.session.plans.total.any()

    @pytest.mark.slow
    def test_whether_a_plan_comes_true_does_not_depend_on_the_unit_of_rewards(self):
        chosen = []
        for scale, shift in ((1.0, 0.0), (1 / 2048, 0.0), (1.2e6, -7.8e5)):
            agent = ICAgent.from_pretrained("icrl/ad-darkroom", plan="lookahead", device="cpu")
            env = gymnasium.make("icrl/Darkroom-v0", goal=(5, 4))
            obs, _ = env.reset(seed=0)
            agent.reset(env, seed=0)
            taken, searched = [], []
            for _ in range(160):
                taken.append(int(agent.act(obs)))
                searched.append(agent.session.plans.place.tolist())
                obs, reward, *ends, info = env.step(taken[-1])
                agent.observe(obs, reward * scale + shift, *ends, info)
                if any(ends):
                    obs, _ = env.reset()
            chosen.append((taken, searched))
        assert chosen[0] == chosen[1] == chosen[2]

    def test_without_it_the_planner_is_always_heard(self):
        assert all(self.lived([False] * 5, trust=0.0)[0])

    def test_a_new_task_has_to_win_it_again(self):
        _, agent = self.lived([True] * 30)
        agent.reset(mask=np.array([False, True, False]))
        planner, _ = scripted(2, True, when="always", trust=0.9)
        agent.act(np.zeros((3, 2), np.int32), plan=planner)
        assert agent.session.plans.reliable(planner).tolist() == [True, False, True]

    def test_real_numbers_need_not_be_equal(self):
        agent, steps = Variant("ad", (("dynamics", True),)).build("vector"), lifetimes("vector", count=3)
        agent.reset(num_envs=3, seed=0)
        planner = make_planner("best-of-n", {"trust": 0.5})
        agent.act(steps.obs[:, 0], plan=planner)
        held = agent.session.plans
        off = np.array([0.0, 0.05, 1.0], np.float32)[:, None]
        held.predicted = torch.as_tensor(np.clip(steps.obs[:, 1] + off, -4, 4))
        agent.observe(steps.obs[:, 1], np.zeros(3, np.float32), *np.zeros((2, 3), bool))
        assert held.right.tolist() == [1, 1, 0]


class TestStalePlans:
    """A plan of three steps, in a world that always looks as it was imagined."""

    def begun(self, **settings: Any) -> tuple[ICAgent, Planner, np.ndarray, list[int]]:
        agent, steps = alike(rewards=1)
        obs, asked = steps.obs[:, 0], []

        class Long(Planner):
            def search(
                self, imagination: Any, ctx: Any, left: Tensor, ends: Tensor, generator: Any = None
            ) -> SearchResult:
                asked.append(len(left))
                actions = torch.tensor([2, 3, 4]).expand(len(left), 3)
                path = Path(actions, torch.zeros(len(left), 3), torch.as_tensor(obs).long()[:, None].expand(-1, 3, -1))
                return SearchResult(path, torch.full_like(left, 3), torch.ones_like(ends))

        planner = Long(when="always", follow=3, **settings)
        agent.session.plans.right, agent.session.plans.total = np.full(3, 10.0), np.full(3, 10.0)
        assert self.step(agent, planner, obs) == [2, 2, 2]
        return agent, planner, obs, asked

    def step(self, agent: ICAgent, planner: Planner | None, obs: np.ndarray) -> list[int]:
        action = agent.act(obs, plan=planner).tolist()
        agent.observe(obs, np.zeros(3, np.float32), *np.zeros((2, 3), bool))
        return action

    def test_it_is_followed(self):
        agent, planner, obs, asked = self.begun()
        assert [self.step(agent, planner, obs) for _ in range(3)] == [[3] * 3, [4] * 3, [2] * 3]
        assert asked == [3, 3]

    def test_an_action_without_the_planner_ends_it(self):
        agent, planner, obs, asked = self.begun()
        self.step(agent, None, obs)
        assert self.step(agent, planner, obs) == [2, 2, 2]
        assert asked == [3, 3]

    def test_lost_trust_ends_it(self):
        agent, planner, obs, asked = self.begun(trust=0.5)
        held = agent.session.plans
        held.right = np.zeros(3)
        self.step(agent, planner, obs)
        held.right = held.total.copy()
        assert self.step(agent, planner, obs) == [2, 2, 2]
        assert asked == [3, 3]
