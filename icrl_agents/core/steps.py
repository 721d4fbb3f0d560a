"""Steps: time-aligned record of consecutive environment steps.

Axis letters: B rows (environments or lifetimes), T environment steps, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


def holds_actions(name: str) -> bool:
    """Whether an extra column holds actions of the environment, as expert_action does and latent_action does not."""
    return name.endswith("_action") and not name.startswith("latent_")


LOWEST, HIGHEST = "reward_low", "reward_high"  # extra columns: extremes of a lifetime's rewards before each step
TIMESTEP, EARNED = "timestep", "earned"  # extra columns: steps and sum of rewards of the episode before each step
NUMBERS = {"log_prob", "update", LOWEST, HIGHEST, TIMESTEP, EARNED}  # extra columns (B, T) with one number per step
HEAD_NOISE = "head_noise"  # extra column (B, T, ...) of a training batch: random numbers for the loss of its actions
ACTION_MASK = "action_mask"  # static value (B, A) bool: legal actions of each row


class Steps(NamedTuple):
    """Consecutive steps of B lifetimes; every column is a NumPy array or tensor of shape (B, T, ...).

    Before its action at step t the agent knows `obs`, `prev_obs`, `prev_action`, `prev_reward`, `first` and `start`;
    the outcome is `action`, `reward`, `next_obs`, `terminated`, `truncated`. Storing the previous step next to the
    current one costs memory but makes every window self-contained: no method shifts columns in time.

    `static` is not a column: its values are constant over a lifetime, such as the action mask.
    """

    obs: Any
    prev_obs: Any  # previous step, also across episode boundaries; zeros before the first step of a lifetime
    prev_action: Any  # as prev_obs
    prev_reward: Any  # as prev_obs, float32
    first: Any  # bool: first step of an episode
    start: Any  # bool: first step of a lifetime, without a previous step
    action: Any
    reward: Any  # float32
    next_obs: Any  # at the end of an episode the FINAL observation, never the reset observation
    terminated: Any  # bool
    truncated: Any  # bool
    mask: Any  # bool: False marks padding, which must not influence any result
    extras: Mapping[str, Any] = MappingProxyType({})  # extra columns: log_prob, update, expert_action, ...
    static: Mapping[str, Any] = MappingProxyType({})  # values (B, ...): action_mask (B, A) bool, ...

    @property
    def columns(self) -> dict[str, Any]:
        """Standard columns by name, without `extras` and `static`."""
        return dict(zip(self._fields[:-2], self[:-2], strict=True))

    @property
    def ended(self) -> Any:
        """(B, T) bool: real steps that end an episode."""
        return (self.terminated | self.truncated) & self.mask

    def map(self, fn: Callable[[Any], Any]) -> Steps:
        """Apply `fn` to every column, extra columns included; `static` stays."""
        return Steps(
            **{name: fn(value) for name, value in self.columns.items()},
            extras={name: fn(value) for name, value in self.extras.items()},
            static=self.static,
        )

    def window(self, start: int, stop: int | None) -> Steps:
        """Steps `start:stop` of every row."""
        return self.map(lambda value: value[:, start:stop])

    def rows(self, index: Any) -> Steps:
        """Rows `index` of all columns and static values."""
        static = {name: value[index] for name, value in self.static.items()}
        return self.map(lambda value: value[index])._replace(static=static)


class MissingColumnError(ValueError):
    """Histories without an extra column that a method learns from.

    Args:
        method: name of the method.
        column: name of the column.
        fix: how to get it.
    """

    def __init__(self, method: str, column: str, fix: str):
        super().__init__(method, column, fix)
        self.column = column

    def __str__(self) -> str:
        return self.text("these histories lack")

    def text(self, who: str) -> str:
        """The message, where `who` says what lacks the column."""
        method, column, fix = self.args
        return f"{method} learns from {column}, which {who}: {fix}"


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
    """Build `Steps` from recorded columns (B, T, ...) that begin with the lifetime; derives the other columns."""
    ended = terminated | truncated
    return Steps(
        obs=obs,
        prev_obs=delayed(obs, 0),
        prev_action=delayed(action, 0),
        prev_reward=delayed(reward, 0),
        first=delayed(ended, True),
        start=delayed(np.zeros_like(ended), True),
        action=action,
        reward=reward,
        next_obs=next_obs,
        terminated=terminated,
        truncated=truncated,
        mask=np.ones(reward.shape, bool) if mask is None else mask,
        extras=extras or {},
        static=static or {},
    )


def delayed(value: np.ndarray, before: Any) -> np.ndarray:
    """`value` (B, T, ...) delayed by one step; `before` fills the first step."""
    late = np.empty_like(value)
    late[:, 1:] = value[:, :-1]
    late[:, :1] = before
    return late


def check_steps(steps: Steps, codecs: Mapping[str, Any], where: str) -> None:
    """Refuse (ValueError) NumPy steps with a value outside the space of its column; the message names the first one.

    Extra columns that hold actions must fit the codec of `action`; those in `NUMBERS` must hold one number per step.

    Args:
        codecs: column name -> codec; without one of `action` no actions are checked.
        where: subject of the error message.
    """
    actions = {name: codecs["action"] for name in steps.extras if holds_actions(name) and "action" in codecs}
    for name, codec in {**codecs, **actions}.items():
        _check_values(_column(steps, name)[steps.mask], codec, name, where)
    for name in steps.extras.keys() & NUMBERS:
        value = _column(steps, name)
        if value.dtype.kind not in "iuf" or value.shape != steps.mask.shape or np.isnan(value[steps.mask]).any():
            raise ValueError(
                f"{where}: {name} is {value.dtype} {value.shape}, expected a number {steps.mask.shape} a step; {RIGHT}"
            )


PREVIOUS = {"prev_obs": "obs", "prev_action": "action", "prev_reward": "reward"}  # column -> that of the step before


def check_previous(steps: Steps, codecs: Mapping[str, Any], known: np.ndarray, where: str) -> None:
    """`check_steps` for the previous step of the `known` (B, T) bool steps, which may lie before the recorded ones."""
    for name, column in PREVIOUS.items():
        if column in codecs:
            _check_values(getattr(steps, name)[known], codecs[column], name, where)


def _check_values(values: np.ndarray, codec: Any, name: str, where: str) -> None:
    """Refuse (ValueError) values (n, ...) of the column `name` that are outside the space."""
    if values.dtype == bool and (name == "action" or holds_actions(name)):
        raise ValueError(f"{where}: {name} has dtype bool; {RIGHT}")
    try:
        codec.check(values, len(values), name)
    except ValueError:
        first = next(filter(None, (_complaint(codec, value, name) for value in values)), f"{name} is not allowed")
        raise ValueError(f"{where}: {first}; {RIGHT}") from None


def _column(steps: Steps, name: str) -> np.ndarray:
    return np.asarray(steps.extras[name] if name in steps.extras else getattr(steps, name))


def _complaint(codec: Any, value: np.ndarray, name: str) -> str:
    """Error message on one value, without its hint, which is for acting agents."""
    try:
        codec.check(value, None, name)
    except ValueError as error:
        return str(error).partition(": ")[0][:200]
    return ""


RIGHT = "give histories of the environment that this is for"
