"""Steps: the time-aligned record of consecutive steps, and how to read one off `env.step`.

Axis letters: B rows (environments or lifetimes), T environment steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode

OF_ACTIONS = "_action"  # how the names of extras end that hold actions, such as expert_action


class Steps(NamedTuple):
    """Consecutive steps of B lifetimes; every column is a NumPy array or tensor of shape (B, T, ...).

    What an agent knows before it acts at step t is `obs`, `prev_obs`, `prev_action`, `prev_reward`, `first`, `start`;
    what comes of it is `action`, `reward`, `next_obs`, `terminated`, `truncated`. The same step seen twice that way
    costs memory but makes every window self-contained: no method ever has to shift in time.

    `given` is no column: it holds what a row knows of its task from the start, such as its action set.
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
    given: Mapping[str, Any] = MappingProxyType({})  # (B, ...) each: action_mask (B, A) bool, ...

    @property
    def columns(self) -> dict[str, Any]:
        """The columns that all steps have."""
        return dict(zip(self._fields[:-2], self[:-2], strict=True))

    def map(self, fn: Callable[[Any], Any]) -> Steps:
        """Apply `fn` to every column."""
        return Steps(
            **{name: fn(value) for name, value in self.columns.items()},
            extras={name: fn(value) for name, value in self.extras.items()},
            given=self.given,
        )

    def window(self, start: int, stop: int | None) -> Steps:
        """The steps `start:stop` of every row."""
        return self.map(lambda value: value[:, start:stop])

    def rows(self, index: Any) -> Steps:
        """The rows `index`."""
        given = {name: value[index] for name, value in self.given.items()}
        return self.map(lambda value: value[index])._replace(given=given)


def stack_steps(
    obs: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    next_obs: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    mask: np.ndarray | None = None,
    extras: dict[str, np.ndarray] | None = None,
    given: dict[str, np.ndarray] | None = None,
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
        given=given or {},
    )


def _shift(value: np.ndarray, before: Any) -> np.ndarray:
    """`value` one step later; `before` fills the first step."""
    late = np.empty_like(value)
    late[:, 1:] = value[:, :-1]
    late[:, :1] = before
    return late


class Boundary:
    """Reads what a vectorised `env.step` returned, so that all autoreset modes give the same record.

    SAME_STEP: a finished row's `obs` is already the next episode's; its final one is in `info["final_obs"]`.
    NEXT_STEP: the step after a finished one is a dummy (action ignored, reward 0) and is not `live`.
    DISABLED, and a single environment: `obs` is the final observation and the caller resets.

    Args:
        num_envs: B.
        mode: the vector env's `metadata["autoreset_mode"]`; None for a single environment or when unknown, in which
            case SAME_STEP is recognised by `info["final_obs"]`.
    """

    def __init__(self, num_envs: int, mode: AutoresetMode | None):
        self.mode = mode
        self.ended = np.zeros(num_envs, bool)  # the row's last live step ended an episode
        self._none = np.zeros(num_envs, bool)

    @property
    def resetting(self) -> np.ndarray:
        """(B,) rows whose next step is a dummy that only resets them."""
        return self.ended if self.mode == AutoresetMode.NEXT_STEP else self._none

    def forget(self, rows: np.ndarray) -> None:
        self.ended[rows] = False

    def read(
        self, obs: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, info: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Give `next_obs` (B, ...) with final observations in place, and `live` (B,): whether the step was real."""
        live = ~self.resetting
        ended = np.asarray(terminated) | np.asarray(truncated)
        if info.get("final_obs") is not None and self.mode in (None, AutoresetMode.SAME_STEP):
            obs = np.array(obs)
            for row in np.flatnonzero(ended):
                obs[row] = info["final_obs"][row]
        self.ended = ended & live
        return obs, live


def check_steps(steps: Steps, codecs: Mapping[str, Any], where: str) -> None:
    """Refuse NumPy steps with a value that does not fit the codec of its field, in a line that names the first one."""
    for name, codec in codecs.items():
        values = getattr(steps, name)[steps.mask]  # (steps, ...)
        try:
            codec.check(values, len(values), name)
        except ValueError:
            first = next(filter(None, (_complaint(codec, value, name) for value in values)), f"{name} is not allowed")
            raise ValueError(f"{where}: {first}; give histories of the environment that this is for") from None


def _complaint(codec: Any, value: np.ndarray, name: str) -> str:
    """What is wrong with one value, without the hint for those who act with an agent."""
    try:
        codec.check(value, None, name)
    except ValueError as error:
        return str(error).partition(": ")[0][:200]
    return ""
