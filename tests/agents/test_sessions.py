"""Sessions: clones in threads, some of the rows, decisions whose outcomes arrive late."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from icrl_agents.agents.agent import ICAgent
from tests.conftest import one_line
from tests.fakes import Variant, lifetimes, statistics, variants

ROWS = 3
STEPS = lifetimes(rows=ROWS, count=40, ends=0.2)


def observe(agent: ICAgent, t: int) -> None:
    agent.observe(STEPS.next_obs[:, t], STEPS.reward[:, t], STEPS.terminated[:, t], STEPS.truncated[:, t], {})


def started(variant: Variant, rows: int | None = ROWS, seed: int = 0) -> ICAgent:
    agent = variant.build()
    agent.reset(num_envs=rows, seed=seed, autoreset_mode="Disabled")
    return agent


# ---- clones and threads -----------------------------------------------------------------------------------------


USERS = [lifetimes(rows=ROWS, count=60, seed=number, ends=0.1) for number in range(4)]


def user(agent: ICAgent, number: int) -> list[np.ndarray]:
    """One user's session: 60 actions, over windows that slide."""
    mine = USERS[number]
    agent.reset(num_envs=ROWS, seed=number, autoreset_mode="Disabled")
    actions = []
    for t in range(60):
        actions.append(agent.act(mine.obs[:, t]))
        agent.observe(mine.next_obs[:, t], mine.reward[:, t], mine.terminated[:, t], mine.truncated[:, t], {})
    with torch.no_grad():
        return [*actions, statistics(agent.policy(agent.context, mine.obs[:, 0])).numpy()]


@pytest.mark.slow
@pytest.mark.parametrize("variant", [Variant("ad", (("dynamics", True),)), Variant("cad")], ids=str)
def test_clones_in_four_threads_act_as_in_one(variant: Variant):
    agent = variant.build()
    expected = [user(agent.clone(), number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: user(agent.clone(), number), range(4)))
    for mine, theirs in zip(found, expected, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_second_thread_in_the_same_agent_is_refused(tmp_path: Path):
    """Also in each of the other calls; afterwards the agent goes on."""
    agent = started(Variant("ad"))
    inside, leave = threading.Event(), threading.Event()

    def hold(*_) -> None:
        inside.set()
        leave.wait(10)

    agent.save_context(tmp_path)
    before = agent.method.handle_overflow
    agent.method.handle_overflow = lambda context: (hold(), before(context))[1]
    thread = threading.Thread(target=lambda: agent.act(STEPS.obs[:, 0]))
    thread.start()
    assert inside.wait(10)
    calls = [
        lambda: agent.act(STEPS.obs[:, 0]),
        lambda: agent.decide(STEPS.obs[:, 0]),
        lambda: observe(agent, 0),
        lambda: agent.reset(mask=np.ones(ROWS, bool)),
        lambda: agent.reset(num_envs=ROWS),
        lambda: agent.save_context("nowhere"),
        lambda: agent.load_context(tmp_path),
        lambda: agent.policy(agent.context, STEPS.obs[:, 0]),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match=r"two threads called the same agent at once: .* agent\.clone\(\)"):
            call()
    with ThreadPoolExecutor(3) as pool:
        ways = (agent.clone, lambda: copy.deepcopy(agent), lambda: pickle.loads(pickle.dumps(agent.session)))
        copies = [pool.submit(way) for way in ways]
        threading.Timer(0.2, leave.set).start()
    for made in copies:  # made after the call, not in the middle of it
        assert getattr(made.result(), "session", made.result()).waiting.all()
    thread.join()
    agent.method.handle_overflow = before
    observe(agent, 0)
    assert agent.context.length.tolist() == [1] * ROWS


def test_a_thread_that_is_refused_stays_so_in_the_next_task():
    """A reset makes a new session; the agent is still one."""
    agent = started(Variant("ad"))
    inside, leave = threading.Event(), threading.Event()
    before = agent.method.begin
    agent.method.begin = lambda *given: (inside.set(), leave.wait(10), before(*given))
    thread = threading.Thread(target=lambda: agent.reset(num_envs=1, seed=0))
    thread.start()
    assert inside.wait(10)
    with pytest.raises(RuntimeError, match="two threads called the same agent at once"):
        agent.act(STEPS.obs[:, 0])
    leave.set()
    thread.join()
    agent.method.begin = before
    agent.act(STEPS.obs[:1, 0])


def test_a_seed_decides_what_new_tasks_of_all_rows_are_given():
    found = []
    for first in (0, 1):
        agent = Variant("headless-ad").build()
        agent.reset(num_envs=ROWS, num_actions=5, seed=first)
        agent.reset(mask=np.ones(ROWS, bool), num_actions=5, seed=5)
        found.append(agent.context.steps.static["action_vectors"])
    np.testing.assert_array_equal(*found)


def test_rows_that_do_not_learn_begin_no_tasks():
    agent = Variant("ad").build()
    agent.reset(num_envs=ROWS, history=STEPS.window(0, 4), learn=False)
    one_line(lambda: agent.reset(mask=np.ones(ROWS, bool)), ValueError, "learn=False", "reset() all rows")


# ---- some of the rows -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants(), ids=str)
@torch.no_grad()
def test_rows_that_act_at_times_of_their_own_equal_singles(variant: Variant):
    """Over windows that slide; between a row's act and observe other rows act."""
    agent, alone = started(variant), [started(variant, 1) for _ in range(ROWS)]
    for row, single in enumerate(alone):  # what a lifetime is given may be drawn at random
        known = agent.context.steps.static
        single.context.steps.static.update({name: value[row : row + 1] for name, value in known.items()})
    rng, place = np.random.default_rng(0), np.zeros(ROWS, int)
    for _ in range(25):
        rows = rng.permutation(ROWS)[: rng.integers(1, ROWS + 1)]
        first, second = rows[:1], rows[1:]
        for part in (first, second):
            if len(part):
                agent.act(STEPS.obs[part, place[part]], rows=part)
        for part in (second, first):
            if len(part):
                at = part, place[part]
                outcome = STEPS.reward[at], STEPS.terminated[at], STEPS.truncated[at]
                taken = agent.session.acted[part]
                agent.observe(STEPS.next_obs[at], *outcome, {}, rows=part)
                for row, action in zip(part, taken, strict=True):
                    step(alone[row], row, place[row], action)
        place[rows] += 1
    assert [int(single.context.length[0]) for single in alone] == agent.context.length.tolist()
    chosen = statistics(agent.policy(agent.context, STEPS.obs[:, 7]))
    for row, single in enumerate(alone):
        expected = statistics(single.policy(single.context, STEPS.obs[row : row + 1, 7]))
        torch.testing.assert_close(chosen[row], expected[0], atol=1e-5, rtol=1e-5)


def step(single: ICAgent, row: int, t: int, action: np.ndarray) -> None:
    """One step of a single row with a given action."""
    one = slice(row, row + 1)
    chosen = single.policy(single.context, STEPS.obs[one, t])
    single.method.on_action(single.context, chosen, single.method.action.tensor(action[None], single.device))
    single.session.acted = action[None]
    single.observe(STEPS.next_obs[one, t], STEPS.reward[one, t], STEPS.terminated[one, t], STEPS.truncated[one, t], {})


def test_other_rows_are_untouched():
    agent = started(Variant("ad"))
    for t in range(8):
        agent.act(STEPS.obs[:, t])
        observe(agent, t)
    before = agent.context.select(np.array([0, 2]))
    for t in range(8, 16):
        agent.act(STEPS.obs[[1], t], rows=[1])
        agent.observe(STEPS.next_obs[[1], t], [0.0], [False], [False], {}, rows=[1])
    after = agent.context.select(np.array([0, 2]))
    assert agent.context.length.tolist() == [8, before.window - 4 + 3, 8]
    for name, value in before.visible().columns.items():
        np.testing.assert_array_equal(after.visible().columns[name], value)
    for name, value in before.memory.arrays().items():
        np.testing.assert_array_equal(after.memory.arrays()[name], value)


def test_episode_ends_of_some_rows():
    """Without a known autoreset mode, a changed observation of a row shows that the row was reset."""
    agent = Variant("ad").build()
    agent.reset(num_envs=2)
    ended, obs = np.array([[3, 3]], np.int32), np.array([[1, 1]], np.int32)
    agent.act(obs, rows=[0])
    agent.observe(ended, [1.0], [True], [False], {}, rows=[0])
    agent.act(obs, rows=[1])
    agent.observe(obs, [0.0], [False], [False], {}, rows=[1])
    one_line(lambda: agent.act(ended, rows=[0]), ValueError, "row 0 ended its episode and was not reset")
    agent.act(obs, rows=[0])
    assert agent.context.steps.first[0, 1]


def test_calls_for_rows_that_are_refused():
    agent, single = started(Variant("ad", (("dynamics", True),))), started(Variant("ad"), None)
    obs = STEPS.obs[:2, 0]
    for rows in ([0, 0], [3], [-1, 0], [0.5, 1.5], [True, False], [[0, 1]], [], "ab"):
        one_line(lambda rows=rows: agent.act(obs, rows=rows), ValueError, "give different row numbers from 0 to 2")
    one_line(lambda: single.act(obs[0], rows=[0]), ValueError, "rows is for batches")
    one_line(lambda: agent.act(obs, rows=[0]), ValueError, "obs has shape (2, 2), expected (1, 2)")
    agent.use_plan("lookahead")
    one_line(lambda: agent.act(obs, rows=[0, 2]), ValueError, "act with plan=None")
    agent.act(obs, plan=None, rows=[0, 2])
    twice = "act() was called twice"
    one_line(lambda: agent.act(obs, plan=None, rows=[2, 1]), RuntimeError, twice)
    one_line(lambda: agent.act(STEPS.obs[:, 0], plan=None), RuntimeError, twice)
    outcome = [0.0, 0.0], [False] * 2, [False] * 2, {}
    one_line(lambda: agent.observe(obs, *outcome, rows=[0, 1]), RuntimeError, "before act()")
    one_line(lambda: observe(agent, 0), RuntimeError, "observe(rows=...) answers act(rows=...)")
    one_line(lambda: agent.reset(mask=np.array([True, False, False])), RuntimeError, "between act and observe")
    agent.reset(mask=np.array([False, True, False]))
    agent.observe(obs, *outcome, rows=[2, 0])
    assert agent.context.length.tolist() == [1, 0, 1]


# ---- late outcomes ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants(), ids=str)
@torch.no_grad()
def test_late_outcomes_are_steps_in_the_order_of_arrival(variant: Variant):
    """The policy is that of an agent that met only the steps that have arrived, over windows that slide."""
    agent, other = started(variant, None), started(variant, None)
    other.context.steps.static.update(agent.context.steps.static)
    rng, waiting, arrived = np.random.default_rng(0), [], 0
    for t in range(24):
        waiting.append((agent.decide(STEPS.obs[0, t]), t))
        while len(waiting) > 2 and rng.random() < 0.7:
            choice, made = waiting.pop(rng.integers(len(waiting)))
            result = STEPS.next_obs[0, made], STEPS.reward[0, made], False, False
            agent.observe(*result, decision=choice.id)
            found = other.policy(other.context, STEPS.obs[:1, made])
            action = np.array(choice.action)[None]
            other.method.on_action(other.context, found, other.method.action.tensor(action, other.device))
            other.session.acted = action
            other.observe(*result)
            arrived += 1
    assert arrived > 12
    assert len(waiting) > 1
    assert agent.context.length == other.context.length
    probe = STEPS.obs[:1, 35]
    expected, found = (statistics(one.policy(one.context, probe)) for one in (other, agent))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["ad", "headless-ad"])
@torch.no_grad()
def test_late_outcomes_of_a_batch(method: str):
    """Ids are one a row; some rows' outcomes arrive together, others later, others never."""
    agent, alone = started(Variant(method)), started(Variant(method), 1)
    first, second = agent.decide(STEPS.obs[:, 0]), agent.decide(STEPS.obs[[2, 0], 1], rows=[2, 0])
    assert [*first.id, *second.id] == [0, 1, 2, 3, 4]
    twice = [int(first.id[2]), int(second.id[0])]
    obs, flags = STEPS.next_obs[[2, 1], 0], ([False] * 2, [False] * 2)
    one_line(lambda: agent.observe(obs, [1.0, 0.0], *flags, decision=twice), ValueError, "two decisions of one row")
    agent.observe(obs, [1.0, 0.0], *flags, decision=[second.id[0], first.id[1]])
    assert agent.context.length.tolist() == [0, 1, 1]
    assert agent.context.steps.obs[2, 0].tolist() == STEPS.obs[2, 1].tolist()
    known = {name: value[2:] for name, value in agent.context.steps.static.items()}
    alone.context.steps.static.update(known)
    alone.policy(alone.context, STEPS.obs[2:, 1])
    alone.session.acted = second.action[:1]
    alone.observe(obs[:1], [1.0], [False], [False], {})
    expected = statistics(alone.policy(alone.context, STEPS.obs[2:, 5]))
    found = statistics(agent.policy(agent.context, STEPS.obs[:, 5]))
    torch.testing.assert_close(found[2:], expected, atol=1e-5, rtol=1e-5)
    agent.reset(mask=np.array([True, False, False]))  # its decisions are void
    late = [1.0], [False], [False]
    one_line(lambda: agent.observe(obs[:1], *late, decision=first.id[:1]), ValueError, "it is not waiting")
    agent.observe(obs[:1], *late, decision=first.id[2:])
    assert agent.context.length.tolist() == [0, 1, 2]
    assert agent.session.late == {}


def test_late_outcomes_that_are_refused():
    agent = started(Variant("ad"), None)
    obs = STEPS.obs[0, 0]
    choices = [agent.decide(obs) for _ in range(3)]
    agent.observe(obs, 0.0, False, False, decision=choices[1].id)
    before = agent.context.select(np.array([0]))
    refused = [
        (ValueError, (obs, 0.0, False, False), 1, "observed already"),
        (ValueError, (obs, 0.0, False, False), 3, "decision 3 is unknown: 3 were made"),
        (ValueError, (obs, 0.0, False, False), -1, "unknown"),
        (ValueError, (obs, 0.0, False, False), [0], "one whole number"),
        (ValueError, (obs, 0.0, False, False), 0.0, "one whole number"),
        (ValueError, (obs, np.nan, False, False), 0, "reward"),
        (ValueError, (obs[:1], 0.0, False, False), 0, "obs has shape (1,)"),
    ]
    for kind, result, number, words in refused:
        one_line(lambda result=result, number=number: agent.observe(*result, decision=number), kind, words)
    one_line(lambda: agent.observe(obs, 0.0, False, False, {}, decision=0), ValueError, "leave rows and info out")
    after = agent.decide(obs)  # the second step of the episode
    one_line(
        lambda: agent.observe(obs, 0.0, True, False, decision=after.id), ValueError, "2 more of row 0 wait", "episode"
    )
    agent.act(obs)
    one_line(lambda: agent.observe(obs, 0.0, False, False, decision=0), RuntimeError, "observe its act first")
    one_line(lambda: agent.decide(obs), RuntimeError, "act() was called twice")
    np.testing.assert_array_equal(agent.context.length, before.length)
    agent.observe(obs, 0.0, False, False)
    agent.observe(obs, 0.0, True, False, decision=0)  # it began an episode, and is a whole one
    assert agent.context.steps.terminated[0, :3].tolist() == [False, False, True]


def test_a_batch_that_resets_itself_decides_nothing():
    env = gymnasium.make_vec("icrl/Darkroom-v0", 2, "sync", vector_kwargs={"autoreset_mode": "NextStep"})
    agent = ICAgent.from_pretrained("icrl/ad-darkroom", device="cpu")
    obs, _ = env.reset(seed=0)
    agent.reset(env)
    one_line(lambda: agent.decide(obs), ValueError, "NEXT_STEP")
