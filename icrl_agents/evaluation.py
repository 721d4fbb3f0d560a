"""`evaluate` an agent on tasks it has never seen; a `Curve` is what comes out.

Axis letters: R training-free repetitions (seeds), N tasks, E in-context episodes.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from icrl_envs import FAMILIES

from icrl_agents.action_sets import choose_any, legal_actions
from icrl_agents.atomic import write_text
from icrl_agents.config import check_value
from icrl_agents.planning import Planner
from icrl_agents.rollout import Learner, rollout
from icrl_agents.splits import Splits, split_tasks

RANDOM_EPISODES = 1000  # episodes per task behind the random line
MAX_ROWS = 2048  # lifetimes at once: an agent remembers the steps of every one
RESAMPLES = 2000  # behind every interval
QUANTILES = (2.5, 97.5)  # percent


class Interval(NamedTuple):
    """An estimate and its bootstrap 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Curve:
    """Return against in-context episode, for every task and seed.

    Runs that belong together (other training seeds, other splits) are joined with `Curve.join`.
    """

    env_id: str
    split: str
    tasks: tuple[int, ...]  # (N,) task ids
    runs: np.ndarray  # (R, N, E) returns
    optimal: np.ndarray  # (N,) the best possible return; NaN where the env does not say
    random: np.ndarray  # (N,) mean return of uniformly random actions
    name: str = "agent"  # "source ..." for the learner it was trained on
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def returns(self) -> np.ndarray:
        """(task, episode), the mean over seeds."""
        return self.runs.mean(0)

    @property
    def regret(self) -> np.ndarray:
        """(task, episode), by how much the returns fell short of the best expected one."""
        return self.optimal[:, None] - self.returns

    @property
    def mean(self) -> np.ndarray:
        """(E,) the mean over tasks and seeds."""
        return self.runs.mean((0, 1))

    def at(self, first: int, last: int | None = None) -> Interval:
        """Mean return of the episodes `first`..`last` (counted from 1, both included), over tasks and seeds."""
        return _bootstrap(self._scores(first, last), np.mean)

    def iqm(self, first: int, last: int | None = None) -> Interval:
        """Interquartile mean (Agarwal et al. 2021) of the same episodes over all (seed, task) runs."""
        from scipy.stats import trim_mean

        return _bootstrap(self._scores(first, last), lambda x, axis: trim_mean(x, 0.25, axis=axis))

    def gain(self, other: Curve, first: int, last: int | None = None) -> Interval:
        """How much more this one earned in those episodes than `other`, which lived the same tasks and seeds."""
        mine, theirs = self._scores(first, last), other._scores(first, last)
        if self.tasks != other.tasks or mine.shape != theirs.shape:
            raise ValueError(
                f"cannot compare runs {theirs.shape} of other tasks or seeds with {mine.shape}: evaluate anew"
            )
        return _bootstrap(mine - theirs, np.mean)

    def on(self, tasks: Sequence[int]) -> Curve:
        """What was lived on some of its tasks."""
        index = [self.tasks.index(task) for task in tasks]
        runs, optimal, random = self.runs[:, index], self.optimal[index], self.random[index]
        return replace(self, tasks=tuple(tasks), runs=runs, optimal=optimal, random=random)

    def share(self, first: int, last: int | None = None) -> np.ndarray:
        """(N,) each task's mean return of those episodes as a share of its own optimum."""
        return self._scores(first, last).mean(0) / self.optimal

    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """The bootstrap 95% interval of `mean` at every episode, two arrays (E,)."""
        pool = self.runs if len(self.runs) > 1 else self.runs.swapaxes(0, 1)
        picks = _resamples(*pool.shape[:2])
        size = picks[0].size
        cells = np.arange(RESAMPLES)[:, None, None] * size + picks * pool.shape[1] + np.arange(pool.shape[1])
        counts = np.bincount(cells.ravel(), minlength=RESAMPLES * size).reshape(RESAMPLES, size)
        means = counts @ pool.reshape(size, -1) / size  # (RESAMPLES, E)
        low, high = np.percentile(means, QUANTILES, axis=0)
        return low, high

    def _scores(self, first: int, last: int | None) -> np.ndarray:
        last = first if last is None else last
        if not 1 <= first <= last <= self.runs.shape[2]:
            raise ValueError(f"episodes {first}..{last} are not within 1..{self.runs.shape[2]}: evaluate more episodes")
        return self.runs[:, :, first - 1 : last].mean(2)  # (R, N)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what is NaN here is null there."""
        return {
            "env_id": self.env_id,
            "split": self.split,
            "name": self.name,
            "tasks": list(self.tasks),
            "optimal": [None if np.isnan(value) else value for value in self.optimal.tolist()],
            "random": self.random.tolist(),
            "runs": self.runs.tolist(),
            "facts": self.facts,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Curve:
        """The curve that `to_json` wrote; ValueError if it is not one."""
        try:
            arrays: dict[str, Any] = {key: np.asarray(data[key], float) for key in ("runs", "optimal", "random")}
            rest = {key: data[key] for key in ("env_id", "split", "name", "facts")}
            curve = cls(tasks=tuple(data["tasks"]), **arrays, **rest)
            of_tasks = curve.runs.shape[1:2] == curve.optimal.shape == curve.random.shape == (len(curve.tasks),)
            if not of_tasks or curve.runs.ndim != 3:
                raise ValueError(f"runs of shape {curve.runs.shape} for {len(curve.tasks)} tasks")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not a curve ({type(error).__name__}: {error}): evaluate again") from None
        return curve

    def save(self, path: str | Path) -> None:
        """Write the curve as JSON, whole or not at all."""
        write_text(path, json.dumps(self.to_json(), allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Curve:
        """Read what `save` wrote."""
        return cls.from_json(json.loads(Path(path).read_text()))

    @classmethod
    def join(cls, curves: Sequence[Curve], name: str) -> Curve:
        """One curve of runs that belong together: of the same tasks (training seeds), of others (splits), or both.

        Raises:
            ValueError: the environments or numbers of episodes differ, or some tasks have more runs than others.
        """
        groups: dict[tuple[int, ...], list[Curve]] = {}
        for curve in curves:
            groups.setdefault(curve.tasks, []).append(curve)
        shapes = {(curve.env_id, curve.runs.shape[2]) for curve in curves}
        counts = {sum(len(curve.runs) for curve in group) for group in groups.values()}
        if len(shapes) != 1 or len(counts) != 1:
            raise ValueError(
                f"cannot join curves of {sorted(shapes)} with {sorted(counts)} runs a task: "
                "give those of one environment with as many episodes and runs"
            )
        heads = [group[0] for group in groups.values()]
        return cls(
            env_id=heads[0].env_id,
            split=" + ".join(sorted({curve.split for curve in curves})),
            tasks=tuple(task for head in heads for task in head.tasks),
            runs=np.concatenate([np.concatenate([c.runs for c in group]) for group in groups.values()], 1),
            optimal=np.concatenate([head.optimal for head in heads]),
            random=np.concatenate([head.random for head in heads]),
            name=name,
            facts={"joined": [curve.facts for curve in curves]},
        )

    def plot(self, path: str | Path, others: Sequence[Curve] = ()) -> None:
        """Draw return against episode with random, source and optimal lines; `others` are drawn beside it."""
        from icrl_agents.plots import plot_curves

        plot_curves([self, *others], path)


def evaluate(
    agent: Learner,
    env_id: str,
    split: str = "test",
    episodes: int = 50,
    num_seeds: int = 1,
    seed: int = 0,
    plan: str | Planner | None = None,
    *,
    plan_kwargs: Mapping[str, Any] | None = None,
    tasks: Sequence[int] | np.ndarray | None = None,
    on_episode: Callable[[int], None] | None = None,
) -> Curve:
    """Let `agent` live `episodes` episodes on every task of a split, from an empty context, weights frozen.

    Args:
        agent: an `ICAgent`, or anything with its reset, act and observe, such as a source.
        env_id: a registered environment id.
        split: "test" (held out), "validation" or "train", of the split the agent was trained with, or the name of a
            published set of tasks, such as "num_50" of the bandits.
        num_seeds: repetitions of every task.
        seed: of the environments and of the sampled actions.
        plan: a planner or its name, for this evaluation; None acts as the agent was told by `use_plan`.
        plan_kwargs: settings of the planner that differ from those its name stands for.
        tasks: task ids instead of a split.
        on_episode: called with the number of finished episodes; of more than `MAX_ROWS` lifetimes, in blocks one
            after the other, with the share of all that is done.

    Raises:
        TypeError: `agent` is not an agent, such as the name of one.
        ValueError: unknown id or split, `tasks` that are no task ids, or ones the agent was trained on.
    """
    _check_learner(agent)
    episodes, num_seeds, seed = _whole("episodes", episodes), _whole("num_seeds", num_seeds), _whole("seed", seed, 0)
    splits = learner_splits(agent, env_id)
    if tasks is None:
        ids = splits.pick(split).ids
    else:
        ids, split = _task_ids(env_id, tasks), "tasks"
    if split not in Splits._fields:
        _refuse_overlap(ids, splits.train.ids, agent)
    rows = np.tile(ids, num_seeds)
    with _planning(agent, plan, plan_kwargs) as planner:
        returns, optimal = _lifetimes(agent, env_id, rows, episodes, seed, on_episode)
    runs, optimal = returns.reshape(num_seeds, len(ids), episodes), optimal[: len(ids)]
    facts = {"episodes": episodes, "num_seeds": num_seeds, "seed": seed, **planner}
    return Curve(env_id, split, tuple(ids.tolist()), runs, optimal, random_returns(env_id, ids, seed), facts=facts)


@contextmanager
def _planning(
    agent: Any, plan: str | Planner | None, plan_kwargs: Mapping[str, Any] | None
) -> Iterator[dict[str, Any]]:
    """The agent acts with a planner, which is told as a fact, and then as before."""
    before = getattr(agent, "planner", None)
    if plan is not None or plan_kwargs:
        if not hasattr(agent, "use_plan"):
            raise ValueError(f"plan={str(plan)[:80]!r}: a {type(agent).__name__} does not plan, leave plan out")
        agent.use_plan(plan, plan_kwargs)
    try:
        yield {} if (now := getattr(agent, "planner", None)) is None else {"plan": asdict(now)}
    finally:
        if before is not getattr(agent, "planner", None):
            agent.planner = before


def _lifetimes(
    agent: Learner, env_id: str, rows: np.ndarray, episodes: int, seed: int, on_episode: Callable[[int], None] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (B, E) and optimal returns (B,) of the tasks `rows`, of at most `MAX_ROWS` at a time."""
    blocks = np.array_split(rows, -(-len(rows) // MAX_ROWS))
    others = np.random.SeedSequence(seed).generate_state(len(blocks) - 1) >> 1  # the first has the seed itself
    returns, optimal = [], []
    for number, (block, own) in enumerate(zip(blocks, [seed, *others.tolist()], strict=True)):
        env = gymnasium.make_vec(env_id, num_envs=len(block))
        tell = on_episode and _share_done(on_episode, number, len(blocks), episodes)
        returns.append(rollout(agent, env, episodes, seed=own, options={"task": block}, on_episode=tell))
        optimal.append(optimal_returns(env, block))
        env.close()
    return np.concatenate(returns), np.concatenate(optimal)


def _share_done(on_episode: Callable[[int], None], number: int, blocks: int, episodes: int) -> Callable[[int], None]:
    """Turns the episodes of one block into those of all of them, told when they grow."""

    def tell(done: int) -> None:
        before, now = ((number * episodes + count) // blocks for count in (done - 1, done))
        if now > before:
            on_episode(now)

    return tell


def _check_learner(agent: Any) -> None:
    if not all(hasattr(agent, name) for name in ("reset", "act", "observe")):
        fix = f"load it with ICAgent.from_pretrained({str(agent)[:80]!r})" if isinstance(agent, str | Path) else ""
        raise TypeError(
            f"agent={str(agent)[:80]!r} is a {type(agent).__name__} without reset, act and observe: "
            f"{fix or 'give an ICAgent'}"
        )


def _whole(name: str, value: Any, low: int = 1) -> int:
    value = int(value) if isinstance(value, np.integer) else value
    check_value(name, "int", value, (low, 2**31 - 1))
    return value


def _task_ids(env_id: str, tasks: Any) -> np.ndarray:
    """Task ids (N,) as given, each one checked: neither 2.9 nor True is a task."""
    known = FAMILIES[env_id].ids
    rule = f"give a list of whole numbers within {known.min()}..{known.max()}, such as a task set's ids"
    try:
        given = [] if isinstance(tasks, Mapping) else list(tasks)
        ids = [operator.index(task) for task in given if not isinstance(task, bool | np.bool_)]
    except TypeError:
        ids = given = []
    if not ids or len(ids) != len(given):
        raise ValueError(f"tasks={str(tasks)[:80]!r} are not task ids: {rule}")
    if strange := sorted(set(ids) - set(known.tolist())):
        raise ValueError(f"tasks has {strange[0]}, which is no task of {env_id}: {rule}")
    return np.asarray(ids, np.int64)


def learner_splits(learner: Any, env_id: str) -> Splits:
    """The split that an agent was trained with, as its facts tell; for all other learners the published one.

    Raises:
        ValueError: unknown id, or facts of a foreign checkpoint that cannot be a seed.
    """
    seed = getattr(learner, "facts", {}).get("split_seed")
    check_value("split_seed", "int | None", seed, (0, 2**31 - 1))
    return split_tasks(env_id, seed)


class RandomLearner:
    """Uniformly random legal actions: the floor of every figure."""

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
    """Mean return (N,) of random actions on each task id: what the rules expect, else played once and remembered."""
    rules: Any = FAMILIES[env_id].rules
    if hasattr(rules, "random_return"):
        return rules.random_return(np.asarray(tasks, np.int64))
    return np.array(_random_returns(env_id, tuple(np.asarray(tasks).tolist()), seed, RANDOM_EPISODES))


@lru_cache(maxsize=64)
def _random_returns(env_id: str, tasks: tuple[int, ...], seed: int, episodes: int) -> tuple[float, ...]:
    copies = 25
    env = gymnasium.make_vec(env_id, num_envs=copies * len(tasks))
    options = {"task": np.tile(tasks, copies)}
    returns = rollout(RandomLearner(), env, episodes // copies, seed=seed, options=options)
    env.close()
    return tuple(returns.reshape(copies, len(tasks), -1).mean((0, 2)).tolist())


def optimal_returns(env: VectorEnv, tasks: np.ndarray) -> np.ndarray:
    _, info = env.reset(options={"task": tasks})
    return np.asarray(info.get("optimal_return", np.full(len(tasks), np.nan)), float)


def _refuse_overlap(tasks: np.ndarray, train: np.ndarray, learner: Any) -> None:
    """An agent that carries its training facts must not be scored on the tasks it was trained on by accident."""
    trained = "split_seed" in getattr(learner, "facts", {})
    if trained and (common := np.intersect1d(tasks, train)).size:
        raise ValueError(
            f"tasks {common[:5].tolist()} are among the agent's training tasks: use split='train' to see those"
        )


def bootstrap_mean(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean of some values (N,) with its percentile bootstrap."""
    return _bootstrap(np.asarray(values, float)[:, None], np.mean)


def _bootstrap(scores: np.ndarray, statistic: Callable[..., Any]) -> Interval:
    """The statistic of all scores (R, N) with its stratified percentile bootstrap: runs are resampled within tasks.

    So the interval is about these tasks, and does not widen because some tasks have more to earn than others. With a
    single run of each task, tasks are resampled instead.
    """
    pool = scores if len(scores) > 1 else scores.T
    resampled = np.take_along_axis(pool[None], _resamples(*pool.shape), 1).reshape(RESAMPLES, -1)
    low, high = np.percentile(statistic(resampled, axis=-1), QUANTILES)
    return Interval(float(statistic(scores, axis=None)), float(low), float(high))


def _resamples(rows: int, columns: int) -> np.ndarray:
    """(RESAMPLES, rows, columns) rows drawn with replacement in every column; the same ones at every call."""
    return np.random.default_rng(0).integers(0, rows, (RESAMPLES, rows, columns))
