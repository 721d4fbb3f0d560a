"""Acting: what `act`, `decide`, `observe` and `reset(mask=...)` of an agent do to its session.

Each works on a draft of the session and commits it as its last action, so a call that fails changes nothing.
Axis letters: B rows (environments), n chosen rows, A actions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode

from icrl_agents.agents.action_sets import from_arguments, of_new_tasks, redraw
from icrl_agents.agents.inputs import check_flag, most_probable, read_decisions, read_rows
from icrl_agents.agents.planning.plans import Decision
from icrl_agents.agents.planning.search import Planner
from icrl_agents.agents.session import Late, Session, commit
from icrl_agents.core.checks import whole
from icrl_agents.core.steps import ACTION_MASK
from icrl_agents.methods.base.method import Method
from icrl_agents.nn.numerics import acting

MOST_LATE = 1 << 16  # decisions of a session that may wait for their outcome
OBSERVE_FIRST = "act() was called twice: call observe(*env.step(action)) between two actions"


class Wish(NamedTuple):
    """How actions are chosen."""

    deterministic: bool
    planner: Planner | None
    rows: Any = None  # numbers (n,) of the rows that act; None: all


class Result(NamedTuple):
    """Outcome of a step as `env.step` returns it."""

    obs: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: Any = None


class Choice(NamedTuple):
    """Actions whose outcome may arrive later, see `ICAgent.decide`."""

    action: Any  # as `act` returns it
    id: Any  # number of the decision, an int, or (n,) int64 in a batch


# ---- acting -----------------------------------------------------------------------------------------------------


def act(method: Method, session: Session, obs: Any, wish: Wish) -> Any:
    """Actions at `obs`, for which `observe` brings the outcome before the next action of these rows."""
    rows = read_rows(wish.rows, session)
    draft, action = _draft_with_actions(method, session, obs, wish, rows)
    draft.expect(action, rows)
    commit(session.changes(draft))
    return _returned(action, session)


def decide(method: Method, session: Session, obs: Any, wish: Wish) -> Choice:
    """Actions at `obs`, for which `observe` brings the outcomes by their ids, at any time."""
    rows = read_rows(wish.rows, session)
    if session.boundary.mode == AutoresetMode.NEXT_STEP:
        raise ValueError("decide() does not know which step of a NEXT_STEP env only resets it: use act and observe")
    free = MOST_LATE - len(session.late)
    if free < (session.context.rows if rows is None else len(rows)):
        raise ValueError(f"{len(session.late)} decisions wait for their outcome: observe them, reward 0 if none came")
    draft, action = _draft_with_actions(method, session, obs, wish, rows)
    ids = draft.remember(action, rows)
    draft.plans.predicted = None  # outcomes may come in any order
    commit(session.changes(draft))
    return Choice(_returned(action, session), ids if session.num_envs else int(ids[0]))


def _returned(action: np.ndarray, session: Session) -> Any:
    return action.copy() if session.num_envs else action[0].copy()[()]  # [()]: scalar for () arrays


def _draft_with_actions(
    method: Method, session: Session, obs: Any, wish: Wish, rows: np.ndarray | None
) -> tuple[Session, np.ndarray]:
    """Draft of the session with encoded open steps, and actions (n, ...) of the rows `rows`, None: all."""
    if session.waiting[slice(None) if rows is None else rows].any():
        raise RuntimeError(OBSERVE_FIRST)
    if rows is not None and wish.planner is not None:
        raise ValueError("planners search for all rows at once: act with plan=None, or leave rows out")
    checked = method.obs.check(obs, session.size(rows), "obs")
    batch = checked if session.num_envs else checked[None]  # (n, ...), n = 1 for a single env
    with session.attempt() as draft, acting(method):
        part = draft if rows is None else draft.part(rows)
        part.boundary.begin(obs, batch)
        action = _choose(method, part, batch, wish)
        if rows is not None:
            draft.put(rows, part)
    return draft, action


def _choose(method: Method, session: Session, obs: np.ndarray, wish: Wish) -> np.ndarray:
    """Actions (B, ...) of all rows at the observations `obs` (B, ...)."""
    context, active = session.context, ~session.boundary.resetting
    if wish.planner is not None and not context.steps.static.get(ACTION_MASK, np.True_).all():
        raise ValueError("planners do not support action sets: act with plan=None")
    if wish.planner is not None and wish.planner.after and not session.learn:
        raise ValueError(
            f"after={wish.planner.after} counts recorded steps, and this agent has learn=False: act with after=0"
        )
    if not session.learn:
        context.open(obs)
        context = context.select(np.arange(context.rows))  # a copy: the context itself must not change
    hidden = method.open_and_encode(context, obs, active)
    distribution = method.action_distribution(hidden, method.static_tensors(context.steps))
    if wish.deterministic:
        action = most_probable(distribution, session.planning)
    else:
        action = distribution.sample(session.generator)
    if wish.planner is None:
        session.plans.drop()
    else:
        decision = Decision(context, hidden, action, active)
        action = session.plans.choose(method, wish.planner, decision, session.planning)
    method.on_action(context, distribution, action)
    return method.action.array(action)


# ---- observing --------------------------------------------------------------------------------------------------


def observe(method: Method, session: Session, result: Result, rows: Any = None) -> None:
    """Record the outcome of the last action of the rows `rows` (n,), None: all."""
    rows = read_rows(rows, session)
    if not session.waiting[slice(None) if rows is None else rows].all():
        some = session.acted is not None and rows is None
        fix = "observe(rows=...) answers act(rows=...)" if some else "the order is act, env.step, observe"
        raise RuntimeError(f"observe() was called before act(): {fix}")
    checked = _checked(method, session.size(rows), result)
    draft = session.draft()
    boundary = draft.boundary if rows is None else draft.boundary.select(rows)
    next_obs, active = boundary.read(checked.obs, checked.terminated, checked.truncated, result.info, shown=result.obs)
    if next_obs is not checked.obs:  # final observations from `info` are in place: check them, too
        method.obs.check(next_obs, len(next_obs), "info['final_obs']")
    if rows is not None:
        draft.boundary.assign(rows, boundary)
    draft.close(rows, checked._replace(obs=next_obs), active)
    draft.answered(rows)
    commit(session.changes(draft))


def observe_late(method: Method, session: Session, result: Result, ids: Any) -> None:
    """Record the outcomes of the decisions `ids`, as if they were made now, one after the other."""
    late = read_decisions(ids, session)
    chosen = np.array([one.row for one in late])
    checked = _checked(method, len(late) if session.num_envs else None, result)
    _check_late(session, late, checked)
    action, obs = np.stack([one.action for one in late]), np.stack([one.obs for one in late])
    rows = None if np.array_equal(chosen, np.arange(session.context.rows)) else chosen
    with session.attempt() as draft, acting(method):
        part = draft if rows is None else draft.part(rows)
        _replay(method, part, obs, action)
        if rows is not None:
            draft.put(rows, part)
    draft.expect(action, rows)
    draft.close(rows, checked, np.ones(len(late), bool))
    draft.answered(rows)
    draft.late = {number: one for number, one in session.late.items() if number not in set(np.ravel(ids).tolist())}
    commit(session.changes(draft))


def _checked(method: Method, rows: int | None, result: Result) -> Result:
    """Checked arrays (n, ...) of an outcome; n = 1 for a single env."""
    obs, reward = method.obs.check(result.obs, rows, "obs"), method.reward.check(result.reward, rows, "reward")
    terminated = check_flag(result.terminated, rows, "terminated")
    truncated = check_flag(result.truncated, rows, "truncated")
    if rows is None:
        return Result(obs[None], reward[None], terminated[None], truncated[None])
    return Result(obs, reward, terminated, truncated)


def _check_late(session: Session, late: list[Late], result: Result) -> None:
    """Refuse outcomes that leave no sequence of steps that an environment could have made."""
    rows = [one.row for one in late]
    if session.waiting[rows].any():
        raise RuntimeError("observe() by decision between act and observe of the same row: observe its act first")
    others = [one.row for one in session.late.values()]
    for one, over in zip(late, result.terminated | result.truncated, strict=True):
        if over and not one.first and others.count(one.row) > 1:
            raise ValueError(
                f"a decision in the middle of an episode ended it while {others.count(one.row) - 1} more of row "
                f"{one.row} wait for their outcome: observe those first, or let each decision be an episode"
            )


def _replay(method: Method, session: Session, obs: np.ndarray, action: np.ndarray) -> None:
    """Make the open steps of all rows those of the actions (B, ...) at `obs` (B, ...), chosen earlier."""
    context = session.context
    if not session.learn:
        context.open(obs)
        return
    hidden = method.open_and_encode(context, obs, np.ones(context.rows, bool))
    distribution = method.action_distribution(hidden, method.static_tensors(context.steps))
    method.on_action(context, distribution, method.action.tensor(action, method.device))


# ---- new tasks --------------------------------------------------------------------------------------------------


def reset_rows(
    method: Method, session: Session, mask: Any, seed: int | None, sets: tuple[Any, Any], options: Mapping[str, Any]
) -> None:
    """Begin new tasks in the rows `mask` (B,) bool; `sets` holds `action_set` and `num_actions` of the caller."""
    mask, rows = np.asarray(mask), session.context.rows
    if mask.dtype != bool or mask.shape != (rows,):
        raise ValueError(f"mask has dtype {mask.dtype} and shape {mask.shape}, expected bool ({rows},)")
    if not session.learn:
        raise ValueError("reset(mask=...) begins tasks that learn, and this agent has learn=False: reset() all rows")
    if session.waiting[mask].any():
        raise RuntimeError("reset(mask=...) between act and observe: call it after observe, before the next act")
    seed = None if seed is None else whole("seed", seed, 0, 2**63 - 1)
    asked = from_arguments(method, *sets, rows)
    if asked is None and session.lost_env:
        raise ValueError(
            "the action sets of new tasks are the env's, which a pickled agent does not hold: give action_set or "
            "num_actions, or reset(env) all rows"
        )
    index, draft = np.flatnonzero(mask), session.draft()
    draft.drawing = copy.deepcopy(session.drawing)  # a failed call must not advance the generator
    if seed is not None:  # before the static values are drawn
        draft.seed(seed)
    redraw(method, draft.context, index, of_new_tasks(method, asked, rows, session.env), draft.drawing)
    draft.context.forget(index)
    draft.boundary.forget(index)
    draft.plans.forget(index)
    draft.late = {number: one for number, one in session.late.items() if not mask[one.row]}
    method.begin(draft.context, index, **options)
    commit(session.changes(draft))


# ---- new episodes -----------------------------------------------------------------------------------------------


def begin_episodes(session: Session, rows: np.ndarray) -> None:
    """The env was reset in `rows` (B,) bool: episodes without an end were cut off there, as were actions not taken."""
    index, draft = np.flatnonzero(rows), session.draft()
    draft.context.cut(index, recorded=session.learn)
    draft.boundary.forget(index)
    draft.answered(index)
    commit(session.changes(draft))
