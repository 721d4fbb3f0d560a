"""Steps: the time-aligned record of consecutive steps, and how to read one off `env.step`.

Axis letters: B rows (environments or lifetimes), T environment steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Wrapper
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import Autoreset

from icrl_agents.core.arrays import stored, to_array
from icrl_agents.core.caution import warn
from icrl_agents.core.printable import printable

OF_ACTIONS = "_action"  # how the names of extras end that hold actions, such as expert_action
NUMBERS = {"log_prob", "update"}  # extras of one number a step
ACTION_MASK = "action_mask"  # static value (B, A) bool: the legal actions of each row


class Steps(NamedTuple):
    """Consecutive steps of B lifetimes; every column is a NumPy array or tensor of shape (B, T, ...).

    What an agent knows before it acts at step t is `obs`, `prev_obs`, `prev_action`, `prev_reward`, `first`, `start`;
    its outcome is `action`, `reward`, `next_obs`, `terminated`, `truncated`. The same step seen twice that way
    costs memory but makes every window self-contained: no method ever has to shift in time.

    `static` is no column: it holds values that are constant over a lifetime, such as its action mask.
    """

    obs: Any
    prev_obs: Any  # of the step before, also across an episode border; zeros before a lifetime's first step
    prev_action: Any  # and so are these
    prev_reward: Any
    first: Any  # bool: first step of an episode
    start: Any  # bool: first step of a lifetime, which nothing comes before
    action: Any
    reward: Any  # float32
    next_obs: Any  # at an episode's end the FINAL observation, never the reset observation
    terminated: Any  # bool
    truncated: Any  # bool
    mask: Any  # bool: False marks padding, which must influence nothing
    extras: Mapping[str, Any] = MappingProxyType({})  # further columns: log_prob, update, expert_action, ...
    static: Mapping[str, Any] = MappingProxyType({})  # (B, ...) each: action_mask (B, A) bool, ...

    @property
    def columns(self) -> dict[str, Any]:
        """The columns that all steps have."""
        return dict(zip(self._fields[:-2], self[:-2], strict=True))

    def map(self, fn: Callable[[Any], Any]) -> Steps:
        """Apply `fn` to every column."""
        return Steps(
            **{name: fn(value) for name, value in self.columns.items()},
            extras={name: fn(value) for name, value in self.extras.items()},
            static=self.static,
        )

    def window(self, start: int, stop: int | None) -> Steps:
        """The steps `start:stop` of every row."""
        return self.map(lambda value: value[:, start:stop])

    def rows(self, index: Any) -> Steps:
        """The rows `index`."""
        static = {name: value[index] for name, value in self.static.items()}
        return self.map(lambda value: value[index])._replace(static=static)


def stack_steps(
    obs: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    next_obs: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    mask: np.ndarray | None = None,
    extras: dict[str, np.ndarray] | None = None,
    static: dict[str, np.ndarray] | None = None,
) -> Steps:
    """Build `Steps` from what a lifetime's recorder saw, arrays (B, T, ...) that begin with the lifetime."""
    ended = terminated | truncated
    return Steps(
        obs=obs,
        prev_obs=_shift(obs, 0),
        prev_action=_shift(action, 0),
        prev_reward=_shift(reward, 0),
        first=_shift(ended, True),
        start=_shift(np.zeros_like(ended), True),
        action=action,
        reward=reward,
        next_obs=next_obs,
        terminated=terminated,
        truncated=truncated,
        mask=np.ones(reward.shape, bool) if mask is None else mask,
        extras=extras or {},
        static=static or {},
    )


def _shift(value: np.ndarray, before: Any) -> np.ndarray:
    """`value` one step later; `before` fills the first step."""
    late = np.empty_like(value)
    late[:, 1:] = value[:, :-1]
    late[:, :1] = before
    return late


class Boundary:
    """Reads what `env.step` returned, so that all autoreset modes give the same record.

    SAME_STEP: an ended row's `obs` is already the next episode's; its final one is in `info["final_obs"]`.
    NEXT_STEP: the step after the end is a dummy (action ignored, reward 0) and is not `live`.
    DISABLED, and a single environment: `obs` is the final observation and the caller resets.

    What it returns is the record that the dynamics had; where that is not known, it raises and remembers nothing.

    Args:
        num_envs: B.
        mode: the vector env's `metadata["autoreset_mode"]`; None for a single environment or when unknown, in which
            case SAME_STEP is recognised by `info["final_obs"]`.
        single: a single environment is behind it, whose observations and infos are not batched.
        known: the env was looked at, so that a single one with no mode is known not to reset itself.
    """

    def __init__(self, num_envs: int, mode: AutoresetMode | str | None, *, single: bool = False, known: bool = False):
        self.mode = None if mode is None else AutoresetMode(mode)
        self.single, self.known = single, known
        self.ended = np.zeros(num_envs, bool)  # the row's last live step ended an episode
        self._none = self._waiting = np.zeros(num_envs, bool)  # waiting: ended, and nothing says that the env resets it
        self._final = np.zeros(0)  # (B, ...) what the last step showed, if it ended an episode
        self._shown: Any = None  # the latest observation, the very object
        self._reuses = False  # the env returns one and the same object again

    @property
    def resetting(self) -> np.ndarray:
        """(B,) rows whose next step is a dummy that only resets them."""
        return self.ended if self.mode == AutoresetMode.NEXT_STEP else self._none

    def forget(self, rows: np.ndarray) -> None:
        """The caller has reset the rows `rows`."""
        self.ended, self._waiting = self.ended.copy(), self._waiting.copy()
        self.ended[rows] = self._waiting[rows] = False

    def draft(self) -> Boundary:
        """A copy; changing it never changes this one."""
        copy = object.__new__(Boundary)
        vars(copy).update(vars(self))
        return copy

    def begin(self, shown: Any, obs: np.ndarray) -> None:
        """Compare the observations before a step, as `shown` and as (B, ...), with those after the one before.

        Ended rows that show another one were reset by the caller, also in a NEXT_STEP env, whose next step is then a
        real one. Callers that know of every reset (`forget`) need not call it.

        Raises:
            ValueError: an ended row was not reset, and whether the env does that by itself is not known. Of a single
                env a warning says so.
        """
        again, self._shown = shown is self._shown, shown
        if not self.resetting.any() and not self._waiting.any():
            return
        same = (obs == self._final).reshape(len(obs), -1).all(1)
        if self.mode == AutoresetMode.NEXT_STEP:
            self.ended = self.ended & same
            return
        if not again or isinstance(shown, int | float):  # a reset gives a new array, which may hold the same
            same = self._none
        self._waiting = self._waiting & same
        if not self.single:
            self.require_reset()
        elif self._waiting.any() and not self.known and not self._reuses:
            warn(
                "obs is the array that ended the episode: call env.reset() before a new one; an env that resets itself "
                "is remembered right with agent.reset(env)"
            )

    def require_reset(self) -> None:
        """Refuse (ValueError) a step in which an env of unknown mode may reset a row, or not."""
        if self._waiting.any():
            raise ValueError(
                f"row {int(self._waiting.argmax())} ended its episode and was not reset, and whether the env does that "
                "is not known: call agent.reset(env) with an env that has metadata['autoreset_mode'], or reset the row"
            )

    def read(
        self, obs: Any, terminated: Any, truncated: Any, info: Any, shown: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Give `next_obs` (B, ...) with final observations in place, and `live` (B,): whether the step was real.

        Args:
            obs, terminated, truncated: what `env.step` returned, batched: (B, ...), and (B,) bool.
            info: likewise: a dict, a list of one dict a row, or None if it is not known.
            shown: the observations as the env returned them, where `obs` is not that object.

        Raises:
            ValueError: an ended row's final observation is missing or malformed, or may be that of the next episode.
        """
        shown = obs if shown is None else shown
        obs, over = to_array(obs, "obs"), np.asarray(terminated) | np.asarray(truncated)
        active, rows = ~self.resetting, np.flatnonzero(over)
        if not active[rows].all():
            raise ValueError(
                f"row {rows[~active[rows]][0]} ended in the step that should only reset it: act() on what env.reset() "
                "returned, where rows are reset by hand"
            )
        finals = [_final_obs(info, int(row), self.single) for row in rows] if self.mode in MAY_HOLD_FINALS else []
        same_step = self.mode == AutoresetMode.SAME_STEP or any(final is not None for final in finals)
        if len(rows) and info is None and self.mode is None and not self.single:
            raise ValueError(f"row {rows[0]} ended its episode, and nothing tells its final observation: {PASS_INFO}")
        if same_step:
            obs = _finished(obs, rows, finals)
        self._reuses, self._shown = self._reuses or shown is self._shown, shown
        self._waiting = self._none if same_step or self.mode is not None else over
        self._final = obs.copy() if len(rows) else self._final
        self.ended = over
        return obs, active


MAY_HOLD_FINALS = (None, AutoresetMode.SAME_STEP)
PASS_INFO = "pass the info that env.step returned"


def _finished(obs: np.ndarray, rows: np.ndarray, finals: list[Any]) -> np.ndarray:
    """`obs` (B, ...) with the final observations of `rows` in place."""
    found = obs.copy()
    for row, final in zip(rows, finals, strict=True):
        if final is None:
            raise ValueError(f"row {row} ended its episode, but info['final_obs'] has nothing for it: {PASS_INFO}")
        value = to_array(final, "info['final_obs']")
        if value.shape != obs.shape[1:]:
            raise ValueError(
                f"info['final_obs'] of row {row} has shape {value.shape}, expected {obs.shape[1:]}: {PASS_INFO}"
            )
        found[row] = stored(value, obs.dtype, "info['final_obs']")
    return found


def _final_obs(info: Any, row: int, single: bool) -> Any:
    """What an info says was the final observation of a row; None if it says nothing."""
    if isinstance(info, list | tuple) and not single and all(isinstance(one, Mapping) for one in info):
        return info[row].get("final_obs") if row < len(info) else None  # as DictInfoToList has it
    if not isinstance(info, Mapping | None):
        raise ValueError(f"info is a {type(info).__name__}, expected the dict that env.step returned")
    finals = (info or {}).get("final_obs")
    if finals is None or single:
        return finals
    try:
        told = (info or {}).get("_final_obs")
        return finals[row] if told is None or told[row] else None
    except (IndexError, KeyError, TypeError):
        raise ValueError(
            f"info['final_obs'] is {printable(finals, 60)}, expected one for row {row}: {PASS_INFO}"
        ) from None


def autoreset_mode(env: Any) -> AutoresetMode | None:
    """How an env resets rows whose episodes have ended; None if the caller does, or the env does not say.

    A single environment behind Gymnasium's `Autoreset` behaves like NEXT_STEP.
    """
    if isinstance(env, VectorEnv):
        mode = env.metadata.get("autoreset_mode")
        return None if mode is None else AutoresetMode(mode)
    while isinstance(env, Wrapper):
        if isinstance(env, Autoreset):
            return AutoresetMode.NEXT_STEP
        env = env.env
    return None


def check_steps(steps: Steps, codecs: Mapping[str, Any], where: str) -> None:
    """Refuse NumPy steps with a value that does not fit the codec of its field, in a line that names the first one.

    Extras that hold actions have to fit the codec of `action`, those of `NUMBERS` have one number a step.
    """
    actions = {name: codecs["action"] for name in steps.extras if name.endswith(OF_ACTIONS)}
    for name, codec in {**codecs, **actions}.items():
        values = _column(steps, name)[steps.mask]  # (steps, ...)
        if codec is codecs["action"] and values.dtype == bool:
            raise ValueError(f"{where}: {name} has dtype bool; {RIGHT}")
        try:
            codec.check(values, len(values), name)
        except ValueError:
            first = next(filter(None, (_complaint(codec, value, name) for value in values)), f"{name} is not allowed")
            raise ValueError(f"{where}: {first}; {RIGHT}") from None
    for name in steps.extras.keys() & NUMBERS:
        value = _column(steps, name)
        if value.dtype.kind not in "iuf" or value.shape != steps.mask.shape or np.isnan(value[steps.mask]).any():
            raise ValueError(
                f"{where}: {name} is {value.dtype} {value.shape}, expected a number {steps.mask.shape} a step; {RIGHT}"
            )


def _column(steps: Steps, name: str) -> np.ndarray:
    return np.asarray(steps.extras[name] if name in steps.extras else getattr(steps, name))


def _complaint(codec: Any, value: np.ndarray, name: str) -> str:
    """What is wrong with one value, without the hint for acting agents."""
    try:
        codec.check(value, None, name)
    except ValueError as error:
        return str(error).partition(": ")[0][:200]
    return ""


RIGHT = "give histories of the environment that this is for"
