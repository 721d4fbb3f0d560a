"""`evaluate`: roll out an agent or other learner on held-out tasks, with frozen weights; returns a `Curve`.

Axis letters: B rows (lifetimes), N tasks, E in-context episodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv

from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.planning.search import Planner
from icrl_agents.agents.shown import Shown
from icrl_agents.core.action_masks import choose_any
from icrl_agents.core.checks import check_value, whole
from icrl_agents.core.env_actions import legal_actions
from icrl_agents.core.families import (
    Capability,
    Family,
    check_same_tasks,
    check_tasks,
    find_family,
    is_native,
    make_tasks,
)
from icrl_agents.core.process.jobs.backends import Workers
from icrl_agents.core.rollout import Learner, Named, can_act, facts_of, rollout
from icrl_agents.core.splits import ALL, TRAIN, Splits, split_tasks
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.protocol import demonstrate
from icrl_agents.evaluation.watching import Pace, Watch
from icrl_agents.methods import METHODS
from icrl_agents.sources import source_name
from icrl_agents.sources.demonstrations import Demonstrate

RANDOM_EPISODES = 1000  # episodes per task for the mean return of random play
COPIES = 25  # lifetimes of random play on a task, side by side
RANDOM_STEPS = 30_000  # most steps of random play on all tasks together, where each row is an environment of its own
FEWEST_RANDOM, MOST_RANDOM = 10, 200  # episodes per task for it
MAX_ROWS = 2048  # lifetimes in parallel: each holds the steps of its context in memory


def evaluate(
    agent: Learner,
    env_id: str,
    split: str = "test",
    episodes: int | None = None,
    num_seeds: int = 1,
    seed: int = 0,
    plan: str | Planner | None = None,
    *,
    plan_kwargs: Mapping[str, Any] | None = None,
    tasks: Sequence[int] | np.ndarray | None = None,
    on_episode: Callable[[int], None] | None = None,
    name: str | None = None,
    workers: Workers | None = None,
    demos: int | Demonstrate = 0,
) -> Curve:
    """Roll out `agent` for `episodes` episodes on every task of a split, from an empty context, with frozen weights.

    Args:
        agent: an `ICAgent`, or any object with its reset, act and observe, such as a source.
        env_id: a registered environment id.
        split: "test" (held out), "validation" or "train", of the split that the agent was trained with, "all" for
            their union, or the name of a published set of tasks, such as "num_50" of the bandits.
        episodes: episodes in a lifetime; default as published, 50 in most environments, 1 in bandits.
        num_seeds: lifetimes on every task.
        seed: seed of the environments and of the sampled actions.
        plan: a planner or its name, for this evaluation; None keeps the planner set by `use_plan`.
        plan_kwargs: settings of the planner that override its defaults.
        tasks: task ids, instead of all of the split; the curve is of the split "tasks" if some are of another one.
        on_episode: called with the number of finished episodes; more than `MAX_ROWS` lifetimes, or half of the
            family's `max_rows`, run in consecutive blocks, and the number is averaged over all of them.
        name: name of the curve; default the agent's method or the source's name, with ", planned" for a planner.
        workers: run the blocks, see `open_workers`; the curve is the same. Default: one after the other, here.
        demos: number of the expert's episodes that the agent is shown on each task before its lifetime, or a function
            that makes demonstrations (B, T) of task ids (B,) and a seed, such as latent actions of the expert's.

    Raises:
        TypeError: `agent` lacks reset, act or observe, such as the name of an agent.
        ValueError: unknown id or split, invalid task ids, `tasks` of another split that the agent was trained on, or an
            agent that takes no such demonstrations.
    """
    _check_learner(agent)
    shown = demonstrate(agent, env_id, demos)
    check_value("name", "str | None", name, None)
    splits = learner_splits(agent, env_id)
    episodes = whole("episodes", splits.test.family.lifetime if episodes is None else episodes, 1)
    num_seeds, seed = whole("num_seeds", num_seeds, 1), whole("seed", seed, 0)
    ids = splits.pick(split).ids
    if tasks is not None:
        given = np.asarray(check_tasks(env_id, tasks))
        ids, split = given, split if np.isin(given, ids).all() else "tasks"
    if split not in (*Splits._fields, ALL):  # names that state whether training tasks are included
        _refuse_overlap(ids, splits.train.ids, agent)
    rows = np.tile(ids, num_seeds)  # (num_seeds * N,), grouped by seed
    with _planning(agent, plan, plan_kwargs) as planner:
        blocks = [block._replace(shown=shown) for block in _blocks(agent, env_id, rows, episodes, seed)]
        returns, success, pace = _joined(list(_run_all(blocks, workers, on_episode)))
    shape = num_seeds, len(ids), episodes
    runs, success = returns.reshape(shape), None if success is None else success.reshape(shape)  # (R, N, E) each
    facts = {"episodes": episodes, "num_seeds": num_seeds, "seed": seed, **planner}
    if shown:
        facts["demos"] = demos if isinstance(demos, int) else getattr(demos, "__name__", type(demos).__name__)
    levels = optimal_returns(env_id, ids), random_returns(env_id, ids, seed)
    if name is None:
        name = learner_name(agent) + (", planned" if planner else "")
    origin = agent.origin if isinstance(agent, ICAgent) else ""
    return Curve(env_id, split, tuple(ids.tolist()), runs, *levels, name, facts, pace, origin=origin, success=success)


def learner_name(learner: Any) -> str:
    """Display name: the method of an agent, the registered name of a source, else the `name` or class."""
    if isinstance(learner, ICAgent):
        methods = {cls: name for name, cls in METHODS.items()}
        return methods.get(type(learner.method), type(learner.method).__name__)
    own = learner.name if isinstance(learner, Named) else None
    return source_name(learner) or (own if isinstance(own, str) else type(learner).__name__)


@contextmanager
def _planning(
    agent: Any, plan: str | Planner | None, plan_kwargs: Mapping[str, Any] | None
) -> Iterator[dict[str, Any]]:
    """Set the agent's planner inside the context; yields the planner as facts of the curve, {} for none."""
    if not isinstance(agent, ICAgent):
        if plan is not None or plan_kwargs:
            raise ValueError(f"plan={str(plan)[:80]!r}: a {type(agent).__name__} does not plan, leave plan out")
        yield {}
        return
    before = agent.planner
    if plan is not None or plan_kwargs:
        agent.use_plan(plan, plan_kwargs)
    try:
        yield {} if agent.planner is None else {"plan": asdict(agent.planner)}
    finally:
        agent.planner = before  # restored after an error too


class Block(NamedTuple):
    """Unit of an evaluation: lifetimes that are rolled out together, with a seed of their own."""

    agent: Learner
    env_id: str
    tasks: np.ndarray  # (B,) task ids
    episodes: int
    seed: int
    shown: Demonstrate | None = None  # demonstrations before the lifetimes


class BlockReturns(NamedTuple):
    """Results of a block."""

    returns: np.ndarray  # (B, E)
    success: np.ndarray | None  # (B, E) bool; None if no info held a success
    pace: Pace


def _blocks(agent: Learner, env_id: str, rows: np.ndarray, episodes: int, seed: int) -> list[Block]:
    """The lifetimes on the tasks `rows` (B,), in blocks."""
    parts = parts_of(env_id, rows)
    seeds = block_seeds(seed, len(parts))
    return [Block(agent, env_id, part, episodes, own) for part, own in zip(parts, seeds, strict=True)]


def parts_of(env_id: str, rows: np.ndarray) -> list[np.ndarray]:
    """The tasks `rows` (B,) in parts of up to `MAX_ROWS`; of a family with a limit, half of that.

    Rows of such a family take longer to simulate than to act in: 50 tasks become work for several processes.
    """
    limit = find_family(env_id).max_rows
    most = min(MAX_ROWS, math.ceil(limit / 2)) if limit else MAX_ROWS
    return np.array_split(rows, math.ceil(len(rows) / most))


def _run_all(
    blocks: list[Block], workers: Workers | None, on_episode: Callable[[int], None] | None
) -> Iterator[BlockReturns]:
    """Yield the results of the blocks in order; workers report progress by the block."""
    if workers is None:
        for number, block in enumerate(blocks):
            yield run_block(block, on_episode and _share_done(on_episode, number, len(blocks), block.episodes))
        return
    for number, found in enumerate(workers.in_order(run_block, blocks), 1):
        yield found
        if on_episode:
            on_episode(number * blocks[0].episodes // len(blocks))


def run_block(block: Block, on_episode: Callable[[int], None] | None = None) -> BlockReturns:
    """Roll out the lifetimes of a block."""
    env, options = make_tasks(block.env_id, block.tasks)
    watch = Watch(env.num_envs, block.episodes)
    learner = block.agent if block.shown is None else Shown(block.agent, block.shown(block.tasks, block.seed))
    returns = rollout(
        learner, env, block.episodes, seed=block.seed, options=options, on_episode=on_episode, on_step=watch
    )
    env.close()
    # in a bandit each pull has its success: the best arm is pulled in every long episode
    known = watch.success.known and not find_family(block.env_id).bandit
    return BlockReturns(returns, watch.success.found if known else None, watch.pace)


def _joined(found: Sequence[BlockReturns]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Returns (B, E), success (B, E) and mean reward of each step (T,) of all blocks; None for what is not known."""
    returns = np.concatenate([one.returns for one in found])
    # an environment may report a success only where there is one, so blocks without any have none
    success = [np.zeros(one.returns.shape, bool) if one.success is None else one.success for one in found]
    known = any(one.success is not None for one in found)
    paces = [one.pace for one in found]
    # a mean per step needs lifetimes of one episode and equal length
    same = all(pace.known for pace in paces) and len({len(pace.total) for pace in paces}) == 1
    mean = np.sum([pace.total for pace in paces], 0) / len(returns) if returns.shape[1] == 1 and same else None
    return returns, np.concatenate(success) if known else None, mean


def block_seeds(seed: int, count: int) -> list[int]:
    """One seed for each of `count` blocks of rows; the first is `seed` itself."""
    return [seed, *(np.random.SeedSequence(seed).generate_state(count - 1) >> 1).tolist()]  # 31-bit seeds


def blocks_of(num_seeds: int, tasks: int) -> list[int]:
    """Lifetimes per task in each block of up to `MAX_ROWS` rows, at least one; they sum to `num_seeds`."""
    most = max(1, MAX_ROWS // tasks)
    return [min(most, num_seeds - done) for done in range(0, num_seeds, most)]


def _share_done(on_episode: Callable[[int], None], number: int, blocks: int, episodes: int) -> Callable[[int], None]:
    """Callback of one block that reports the mean number of finished episodes over all blocks, when it increases."""

    def tell(done: int) -> None:
        before, now = ((number * episodes + count) // blocks for count in (done - 1, done))
        if now > before:
            on_episode(now)

    return tell


def _check_learner(agent: Any) -> None:
    if not can_act(agent):
        fix = f"load it with ICAgent.from_pretrained({str(agent)[:80]!r})" if isinstance(agent, str | Path) else ""
        what = "a class" if isinstance(agent, type) else f"a {type(agent).__name__} without reset, act and observe"
        raise TypeError(f"agent={str(agent)[:80]!r} is {what}: {fix or 'give an ICAgent'}")


def learner_splits(learner: Any, env_id: str) -> Splits:
    """Split from an agent's training facts; the published split for learners without facts.

    Raises:
        ValueError: unknown id, a family with other tasks than in training, or a foreign checkpoint with an invalid seed
            or task set.
    """
    facts = facts_of(learner)
    seed, task_set = trained_on(facts)
    own = facts.get("env_id", env_id) == env_id  # task sets are specific to an environment
    if own:
        check_same_tasks(env_id, facts, "the agent was trained")
    return split_tasks(env_id, seed, task_set if own else TRAIN)


def trained_on(facts: Mapping[str, Any]) -> tuple[int | None, str]:
    """(split seed, task set) of an agent's training, from its facts; ValueError for invalid values."""
    train = part if isinstance(part := facts.get("train"), dict) else {}
    seed, task_set = facts.get("split_seed"), train.get("task_set", TRAIN)
    check_value("split_seed", "int | None", seed, (0, 2**31 - 1))
    check_value("task_set", "str", task_set, None)
    return seed, task_set


class RandomLearner:
    """Uniformly random legal actions, the lower reference of every figure."""

    name = "random"

    def reset(self, env: VectorEnv, *, seed: int | None = None) -> None:
        self.space = env.action_space
        self.space.seed(seed)
        self.legal, self.rng = legal_actions(env), np.random.default_rng(seed)

    def act(self, obs: Any) -> Any:
        if self.legal is None:
            return self.space.sample()
        return choose_any(self.legal, self.rng)

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]) -> None:
        """Random actions learn nothing."""


def random_returns(env_id: str, tasks: np.ndarray, seed: int = 0) -> np.ndarray:
    """Mean return (N,) of random actions on each task id: declared by the family, else simulated and cached."""
    family = find_family(env_id)
    if family.offers(Capability.RANDOM_RETURN):
        return family.random_return(np.asarray(tasks, np.int64))
    episodes = RANDOM_EPISODES if is_native(family) else _affordable(len(tasks) * family.horizon)
    return np.array(_random_returns(family, tuple(np.asarray(tasks).tolist()), seed, episodes))


@lru_cache(maxsize=64)
def _random_returns(family: Family, tasks: tuple[int, ...], seed: int, episodes: int) -> tuple[float, ...]:
    copies = 1 if family.max_rows else min(COPIES, episodes)  # rows with a limit are processes
    unit = family.lifetime if family.lasting else 1  # whole lifetimes where their episodes differ
    count = unit * math.ceil(episodes / (copies * unit))  # episodes of each row
    blocks = math.ceil(len(tasks) / family.max_rows) if family.max_rows else 1
    found: list[float] = []
    for block in np.array_split(np.array(tasks), blocks):
        env, options = make_tasks(family.env_id, np.tile(block, copies))
        returns = rollout(RandomLearner(), env, count, seed=seed, options=options)
        env.close()
        found += returns.reshape(copies, len(block), -1).mean((0, 2)).tolist()  # (copies, N, E) -> (N,)
    return tuple(found)


def _affordable(steps: int) -> int:
    """Episodes of random play within `RANDOM_STEPS`, if an episode of all tasks takes up to `steps`."""
    return min(max(FEWEST_RANDOM, RANDOM_STEPS // steps), MOST_RANDOM)


def optimal_returns(env_id: str, tasks: np.ndarray) -> np.ndarray:
    """The best possible return (N,) of an episode of each task id; NaN where the family does not say."""
    family = find_family(env_id)
    if not family.offers(Capability.OPTIMAL_RETURN):
        return np.full(len(tasks), np.nan)
    return np.asarray(family.optimal_return(np.asarray(tasks, np.int64)), float)


def _refuse_overlap(tasks: np.ndarray, train: np.ndarray, learner: Any) -> None:
    """ValueError for tasks (ids) that the agent was trained on, according to its facts."""
    trained = "split_seed" in facts_of(learner)
    if trained and (common := np.intersect1d(tasks, train)).size:
        raise ValueError(
            f"tasks {common[:5].tolist()} are among the agent's training tasks: use split='train' to see those"
        )
