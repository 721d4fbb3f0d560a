"""What acting needs besides the model: the state between two calls, and how a context is fed to the transformer.

Axis letters: B rows (environments), S tokens (slots) of a step, L tokens, D width.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from icrl_agents.action_sets import legal_actions, padded, read_action_set
from icrl_agents.arrays import to_array
from icrl_agents.caution import warn
from icrl_agents.context import Context
from icrl_agents.imagination import Plans
from icrl_agents.model import with_query
from icrl_agents.nn.transformer import Cache
from icrl_agents.printable import printable
from icrl_agents.steps import Boundary, Steps, autoreset_mode, check_steps

if TYPE_CHECKING:
    from icrl_agents.agent import ICAgent


commit = deque[None](maxlen=0).extend  # one call of C: no signal is handled, and nothing else can fail, inside of it
PLANNING, DRAWING = 0x5EED, 0xD2A4  # set these generators apart from that of actions


class Running:
    """The acting state between two calls of `reset`.

    A call works on a draft, and commits it as the last thing it does: one that fails changes nothing.
    """

    def __init__(
        self,
        agent: ICAgent,
        num_envs: int | None,
        boundary: Boundary,
        seed: int | None,
        learn: bool,
        action_mask: np.ndarray | None,
        env: gymnasium.Env | VectorEnv | None,
    ):
        rows, window = num_envs or 1, agent.config.window
        self.env = env  # where the action sets are from, those of new tasks as well; None if not from an env
        self.lost_env = False  # it was, before the agent was pickled
        self.num_envs = num_envs  # None: single observations in and out
        self.plans = Plans()
        self.learn = learn  # whether what is observed is remembered
        self.boundary = boundary
        self.acted: np.ndarray | None = None  # (B, ...) actions that wait for their observe()
        self.device = agent.device
        self.seed(seed)
        spaces = agent.observation_space, agent.action_space
        given = agent.give(rows, action_mask, self.drawing)
        self.context = Context.empty(rows, window, *spaces, agent.new_memory(rows, given), agent.notes, given)

    def seed(self, seed: int | None) -> None:
        """Actions, plans and what is given have generators of their own: one row's must not change another's."""
        self.generator, self.planning = torch.Generator(self.device), torch.Generator(self.device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)
        self.planning.manual_seed(self.generator.initial_seed() ^ PLANNING)
        self.drawing = np.random.default_rng([self.generator.initial_seed(), DRAWING])

    def draft(self) -> Running:
        """A copy to work on, which shares what is written to beyond what this one reads; see `Context`."""
        draft = object.__new__(Running)
        vars(draft).update(vars(self))
        draft.context, draft.boundary, draft.plans = self.context.draft(), self.boundary.draft(), self.plans.draft()
        return draft

    def changes(self, draft: Running) -> Iterator[None]:
        """What makes this one the draft; `commit` does it. Its parts stay the objects that others may hold."""
        parts = {name: getattr(self, name) for name in ("context", "boundary", "plans")}
        given: Any = self.context.steps.given
        ours = [vars(self), given, *(vars(part) for part in parts.values())]
        theirs = [{**vars(draft), **parts}, draft.context.steps.given]
        draft.context.steps = draft.context.steps._replace(given=given)
        return map(dict.update, ours, [*theirs, *(vars(getattr(draft, name)) for name in parts)])

    def __deepcopy__(self, memo: dict[int, Any]) -> Running:
        """The env is not the agent's: a copy shares it."""
        twin = self.draft()
        twin.context = self.context.select(np.arange(self.context.rows))
        twin.generator, twin.planning = self.generator.clone_state(), self.planning.clone_state()
        twin.drawing = copy.deepcopy(self.drawing)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """A pickle leaves the env out, which may be pipes to processes or gigabytes of tables."""
        return {**vars(self), "env": None, "lost_env": self.lost_env or self.env is not None}

    @contextmanager
    def attempt(self) -> Iterator[Running]:
        """Choose actions on a draft, with copies of the generators; if that fails nothing of it remains."""
        with self.context.attempt() as context:
            draft = self.draft()
            draft.context = context
            draft.generator, draft.planning = self.generator.clone_state(), self.planning.clone_state()
            yield draft


def read_cached(
    agent: ICAgent,
    context: Context,
    cache: Cache,
    live: np.ndarray,
    begin: np.ndarray,
    before: np.ndarray | None = None,
) -> Tensor:
    """Feed what the cache has not seen yet of the steps from column `begin` (B,) on, then each row's query.

    `before` (B,) tokens of the cache are not those of steps and stand first. Rows far behind (after a slide) catch up
    with the others first. Gives the queries' hidden vectors (B, D).
    """
    before = np.zeros_like(begin) if before is None else before
    closed = (context.length - begin) * len(agent.slots) + before
    behind = closed - cache.lengths.cpu().numpy()
    if behind.min() < 0:  # the open step was read before, at another observation
        cache.lengths = cache.lengths.minimum(torch.as_tensor(closed, device=cache.lengths.device))
    far = behind > len(agent.slots)
    if far.any() and not far.all():
        index = np.flatnonzero(far)
        part = cache.select(index)
        # as if the last closed step were still open: what is fed then is closed by now, also where a row is not live
        _feed(agent, context, part, index, np.ones(len(index), bool), begin[index], before[index], back=1)
        cache.assign(index, part)
    return _feed(agent, context, cache, None, live, begin, before)


def _feed(
    agent: ICAgent,
    context: Context,
    cache: Cache,
    index: np.ndarray | None,
    live: np.ndarray,
    begin: np.ndarray,
    before: np.ndarray,
    back: int = 0,
) -> Tensor:
    """`read_cached` for the rows `index` (None: all), which `cache` holds, as it was `back` steps ago.

    Rows with fewer tokens than others get arbitrary ones after their query: causality keeps those without
    influence, and `advance` does not count them.
    """
    slots, device, cached = len(agent.slots), agent.device, cache.lengths.cpu().numpy() - before
    length = (context.length if index is None else context.length[index]) - back
    start = begin + cached // slots
    missing = (length - begin) * slots - cached  # (B,) tokens of closed steps
    offset = cached % slots  # (B,) of the first new one
    most, first = int(missing.max()), int(offset[0])
    steps = agent.tensors(context.read(start, int((length - start).max()) + 1, index))
    tokens = agent.tokens(steps).flatten(1, 2)  # (B, L, D)
    if not agent.query_stays:
        tokens = with_query(tokens, agent.query(steps), torch.as_tensor(missing, device=device))
    if (missing == most).all() and (offset == first).all():
        hidden = agent.body(tokens[:, first : first + most + 1], cache)[:, -1]
    else:
        rows = torch.arange(len(length), device=device)
        places = torch.as_tensor(offset[:, None] + np.arange(most + 1), device=device)
        fed = tokens[rows[:, None], places.clamp_max(tokens.shape[1] - 1)]
        hidden = agent.body(fed, cache)[rows, torch.as_tensor(missing, device=device)]
    cache.advance(torch.as_tensor(live * (missing + agent.query_stays), device=device))
    return hidden


def read_env(agent: ICAgent, env: gymnasium.Env | VectorEnv) -> tuple[int | None, AutoresetMode | None]:
    if not isinstance(env, gymnasium.Env | VectorEnv):
        raise ValueError(f"env is {str(env)[:80]!r}, expected a Gymnasium environment: for a batch size give num_envs=")
    vector = isinstance(env, VectorEnv)
    prefix = "single_" if vector else ""
    for kind in ("observation_space", "action_space"):
        theirs, ours = getattr(env, prefix + kind), getattr(agent, kind)
        if theirs != ours and not (kind == "action_space" and agent.fits(theirs)):
            shown = f"the env's {kind} is {printable(theirs)}, the agent's is {printable(ours)}"
            raise ValueError(f"{shown}: use the env it was trained on")
    warn_foreign(agent, env)
    return env.num_envs if isinstance(env, VectorEnv) else None, autoreset_mode(env)


def warn_foreign(agent: ICAgent, env: gymnasium.Env | VectorEnv) -> None:
    """Warn where an agent that was trained on one environment id meets another one with the same spaces."""
    trained, here = agent.facts.get("env_id"), env_id_of(env)
    if isinstance(trained, str) and here and here != trained:
        warn(f"the agent was trained on {trained}, this is {here}: it may not learn here")


def env_id_of(env: gymnasium.Env | VectorEnv) -> str | None:
    """The id that `env`, or a vector env's first row, was made by; None for what no id has made."""
    spec = env.spec
    if spec is None and isinstance(env, VectorEnv) and hasattr(env.unwrapped, "get_attr"):  # of Gymnasium's own
        spec = env.unwrapped.get_attr("spec")[0]
    return None if spec is None else spec.id


def read_actions(agent: ICAgent, action_set: Any, num_actions: Any, rows: int) -> np.ndarray | None:
    """The legal actions (B, A) bool that `reset` was told; None if it was not."""
    if (action_set is not None or num_actions is not None) and agent.action.options == 0:
        raise ValueError(
            f"action_set and num_actions are about actions 0, 1, ...; {printable(agent.action_space)} has others"
        )
    return read_action_set(action_set, num_actions, rows, agent.action.options)


def env_actions(agent: ICAgent, env: gymnasium.Env | VectorEnv, rows: int) -> np.ndarray | None:
    """The legal actions (B, A) bool that `env` tells; None if they are all those the agent has."""
    space: Any = env.single_action_space if isinstance(env, VectorEnv) else env.action_space
    try:
        mask = legal_actions(env)
    except ResetNeeded:
        raise ResetNeeded("the env has action sets but no task yet: call env.reset() before agent.reset(env)") from None
    if mask is None and space != agent.action_space:  # which only agents get this far with that choose among any
        return np.ones((rows, space.n), bool)
    return mask


def history_actions(agent: ICAgent, history: Steps, rows: int) -> np.ndarray | None:
    """The legal actions (B, A) bool that a history tells; None if it does not."""
    mask = history.given.get("action_mask")
    if mask is None or agent.action.options == 0:
        return None
    found, actions = np.asarray(mask), agent.action.options
    if found.dtype != bool or found.ndim != 2 or len(found) != rows or found.shape[1] != (actions or found.shape[1]):
        raise ValueError(
            f"the history's action_mask has dtype {found.dtype} and shape {found.shape}, expected bool "
            f"({rows}, {actions or 'A'}): give action_set or num_actions instead"
        )
    return read_actions(agent, found, None, rows)


def new_actions(agent: ICAgent, running: Running, action_set: Any, num_actions: Any) -> np.ndarray | None:
    """The legal actions (B, A) bool of rows whose tasks are new, as told or as the env has them; None: as they were."""
    rows = running.context.rows
    legal = read_actions(agent, action_set, num_actions, rows)
    if legal is None and running.lost_env:
        raise ValueError(
            "the action sets of new tasks are the env's, which a pickled agent has not: give action_set or "
            "num_actions, or reset(env) all rows"
        )
    if legal is not None or running.env is None:
        return legal
    legal = env_actions(agent, running.env, rows)
    space: Any = agent.action_space
    return np.ones((rows, space.n), bool) if legal is None else legal


def give_anew(agent: ICAgent, running: Running, index: np.ndarray, legal: np.ndarray | None) -> None:
    """Give the rows `index` what a new lifetime is given, with the action sets `legal` (B, A) or those they had."""
    steps = running.context.steps
    given = {name: value.copy() for name, value in steps.given.items()}
    if legal is not None and "action_mask" not in given:  # all actions were legal in all rows
        given["action_mask"] = np.ones_like(legal)
    mask = given.get("action_mask")
    if legal is not None:
        mask = padded(legal, given["action_mask"].shape[1])
    new = agent.give(len(index), None if mask is None else mask[index], running.drawing)
    if any(name not in given or given[name].shape[1:] != value.shape[1:] for name, value in new.items()):
        raise ValueError(
            "reset(mask=...) cannot bring sets among another number of actions: reset() all rows with them"
        )
    for name, value in new.items():
        given[name][index] = value
    running.context.steps = steps._replace(given=given)


def check_history(agent: ICAgent, history: Steps, rows: int) -> Steps:
    """Steps to begin with, as given; ValueError for what are no steps of `rows` rows in the agent's spaces."""
    if not isinstance(history, Steps) or not all(isinstance(value, np.ndarray) for value in history.columns.values()):
        raise ValueError(
            f"history is a {type(history).__name__}, expected Steps of NumPy arrays: such as store[task, :]"
        )
    mask = history.mask
    if len(mask) != rows:
        raise ValueError(f"history has {len(mask)} rows, the agent acts in {rows}: give one row for each")
    flags = (mask, history.first, history.start, history.terminated, history.truncated)
    columns = history.columns.values()
    if any(flag.dtype != bool for flag in flags) or any(value.shape[:2] != mask.shape for value in columns):
        raise ValueError(f"history has fields of other shapes than its mask {mask.shape}, or flags that are not bool")
    if (mask[:, 1:] > mask[:, :-1]).any():
        raise ValueError("history has padding before its steps: move the steps to the front of each row")
    for name in agent.notes.keys() & history.extras.keys():
        if np.shape(history.extras[name]) != mask.shape:
            raise ValueError(f"history has {name} of shape {np.shape(history.extras[name])}, expected {mask.shape}")
    codecs = {"obs": agent.obs, "next_obs": agent.obs, "action": agent.action, "reward": agent.reward}
    check_steps(history, codecs, "history")
    noted = {name: history.extras[name] for name in agent.notes if name in history.extras}
    return _pad(history._replace(extras=noted, given={}))


def _pad(history: Steps) -> Steps:
    """The history with real steps as its padding: anything else need not be in the spaces."""
    count = history.mask.sum(1)  # (B,)
    if not count.any():
        return history
    row = np.where(count > 0, np.arange(len(count)), count.argmax())
    column = np.minimum(np.arange(history.mask.shape[1]), count[row, None] - 1)
    return history.map(lambda value: value[row[:, None], column])._replace(mask=history.mask)


def check_flag(value: Any, rows: int | None, what: str) -> np.ndarray:
    array = to_array(value, what)
    wanted = () if rows is None else (rows,)
    if array.shape != wanted or array.dtype != bool:
        raise ValueError(
            f"{what} has dtype {array.dtype} and shape {array.shape}, expected bool {wanted}: "
            "pass what env.step returned"
        )
    return array
