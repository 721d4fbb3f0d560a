"""Designs of the window study: AD and CAD with equal parameters, visible tokens and learned steps per update.

CAD's window includes its latents (see `CADConfig`), so AD with the same window sees as many tokens. CAD has additional
weights, for compression and reconstruction; AD gets as many weights by a larger `inner`. CAD has a loss on the steps
after its newest folds, about twice the visible steps; AD has as many steps with a loss by larger batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from icrl_agents.core.checks import check_value
from icrl_agents.core.families import env_spaces, find_family
from icrl_agents.core.splits import split_tasks
from icrl_agents.methods import METHODS
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.methods.compressed_ad import CADConfig
from icrl_agents.training.config import split_settings

WINDOWS, LATENTS = (30, 60, 120, 240), (8, 16, 32)
# small models: minutes per training on two cores
DEFAULTS = {"width": 48, "layers": 3, "inner": 96, "updates": 400, "eval_every": 0, "threads": 1}
VARIED = {"window", "slide", "latents", "folds", "seed"}
LIVES = 4  # length of a training lifetime in longest windows; shorter ones need little memory
MAX_FOLDS = 100  # maximum folds in a training window; time and memory grow with them


class Design(NamedTuple):
    """An agent of the study, trained once per seed."""

    method: str
    config: Any
    parameters: int
    batch_size: int

    @property
    def window(self) -> int:
        return self.config.window

    @property
    def latents(self) -> int:
        return self.config.latents if isinstance(self.config, CADConfig) else 0

    @property
    def name(self) -> str:
        """Prefix of the folder names of its trainings."""
        plain = f"{self.method}-window{self.window}"
        return f"{plain}-latents{self.latents}" if self.latents else plain

    @property
    def line(self) -> str:
        """Name of its line in the figure, shared by designs that differ in the window only."""
        return f"{self.method}, {self.latents} latents" if self.latents else self.method


class Plan(NamedTuple):
    """Designs to train, and the pairs (window, latents) that do not fit."""

    env_id: str
    settings: dict[str, Any]  # training settings shared by all designs
    designs: list[Design]
    left_out: list[tuple[int, int]]


def make_plan(
    env_id: str,
    windows: Sequence[int] = WINDOWS,
    latents: Sequence[int] = LATENTS,
    settings: Mapping[str, Any] | None = None,
    kept: int | None = None,
    whole: bool = False,
) -> Plan:
    """Designs of AD with every window, and of CAD with every window and every number of latents that fits half of it.

    Args:
        env_id: environment id.
        windows: windows in environment steps, for both methods.
        latents: numbers of CAD's latents.
        settings: as in `train`, for both methods; CAD's own settings apply to CAD only. Others default to `DEFAULTS`,
            and `episodes` to `LIVES` longest windows.
        kept: steps that stay visible after a fold of CAD; None for half of them.
        whole: adds AD with a window of a whole training lifetime.

    Raises:
        ValueError: a bad name or value, a setting that the study varies, training lifetimes that fit into the longest
            window, latents that fit no window, or a window of which `kept` leaves nothing to fold.
    """
    split_tasks(env_id)  # ValueError for unknown ids
    fixed = VARIED & set(settings or {})
    if fixed:
        raise ValueError(f"the study sets {' and '.join(sorted(fixed))} itself: give windows, latents or seeds instead")
    if not windows or not latents:
        raise ValueError(f"windows={list(windows)}, latents={list(latents)}: give at least one of each")
    for name, sizes in (("window", windows), ("latents", latents)):
        for size in sizes:
            check_value(name, "int", size, METHODS["cad"].Config.LIMITS[name])
    windows, latents, horizon = sorted(set(windows)), sorted(set(latents)), find_family(env_id).horizon
    values: dict[str, Any] = {"episodes": math.ceil(LIVES * windows[-1] / horizon), **DEFAULTS, **(settings or {})}
    train, base, _ = split_settings("cad", env_id, values)
    if base.pretrain == 1:
        raise ValueError("pretrain=1 learns no actions, and agents that act are compared: give a smaller share")
    steps = train.episodes * horizon
    if steps <= windows[-1]:
        raise ValueError(
            f"episodes={train.episodes} of {horizon} steps are no longer than window={windows[-1]}, so nothing leaves "
            f"it: train with episodes={windows[-1] // horizon + 1} or more, or give shorter windows"
        )
    # at most half of a window may be latents
    fit = {(window, count): 2 * count <= window for window in windows for count in latents}
    batch = train.batch_size
    with_memory = [
        _cad(env_id, base, window, count, _slide(window, count, kept), steps, batch)
        for (window, count), fits in fit.items()
        if fits
    ]
    if not with_memory:
        raise ValueError(f"latents={latents} take more than half of every window of {windows}: give fewer, or longer")
    without = [_ad(env_id, base, window, with_memory, batch) for window in [*windows, *([steps] if whole else [])]]
    training = {name: value for name, value in values.items() if name not in asdict(base)}
    return Plan(env_id, training, [*without, *with_memory], [pair for pair, fits in fit.items() if not fits])


def _slide(window: int, latents: int, kept: int | None) -> int:
    """Steps in a fold. Larger folds leave fewer recent steps visible; smaller ones pass information through more folds.

    Half of the visible steps is a compromise. Where few are kept, histories ask for memory more often in training.
    """
    visible = window - latents
    if kept is None:
        return max(1, visible // 2)
    check_value("kept", "int", kept, (1, 2**31 - 1))
    if kept >= visible:
        raise ValueError(
            f"kept={kept}: window={window} with {latents} latents shows {visible} steps, which leaves none to fold: "
            f"give at most {visible - 1}, or longer windows"
        )
    return visible - kept


def _cad(env_id: str, base: Any, window: int, latents: int, slide: int, steps: int, batch_size: int) -> Design:
    """CAD design whose training windows cover lifetimes of `steps` steps."""
    config = replace(base, window=window, latents=latents, slide=1)
    folds = math.ceil((steps - window) / slide)  # enough for a whole lifetime
    if folds > MAX_FOLDS:
        raise ValueError(
            f"window={window} with {latents} latents folds a lifetime of {steps} steps {folds} times, and at most "
            f"{MAX_FOLDS} are trained: train on shorter lifetimes (episodes), keep fewer steps, or give longer windows"
        )
    config = replace(config, slide=slide, folds=folds)
    return Design("cad", config, _parameters("cad", env_id, config), batch_size)


def _ad(env_id: str, base: Any, window: int, others: Sequence[Design], batch_size: int) -> Design:
    """AD design with the mean parameters and steps per batch of the CAD designs with its window (else of all of them).

    `inner` sets the number of parameters, which is linear in it; the batch size sets the steps with a loss.
    """
    shared = {field.name: getattr(base, field.name) for field in fields(AgentConfig)}
    slide = max(1, window // 3)  # default share of dropped steps
    config: Any = METHODS["ad"].Config(**{**shared, "window": window, "slide": slide})
    rivals = [other for other in others if other.window == window] or others
    wanted = np.mean([rival.parameters for rival in rivals])
    more = np.mean([rival.config.learned for rival in rivals]) / window  # steps with a loss, in windows
    # parameters are linear in `inner`
    one, two = (_parameters("ad", env_id, replace(config, inner=inner)) for inner in (1, 2))
    config = replace(config, inner=max(1, 1 + round((wanted - one) / (two - one))))
    return Design("ad", config, _parameters("ad", env_id, config), max(1, round(batch_size * more)))


def _parameters(method: str, env_id: str, config: Any) -> int:
    with torch.random.fork_rng(devices=[]):  # keep the caller's random state
        agent = METHODS[method](*env_spaces(env_id), config)
    return sum(parameter.numel() for parameter in agent.parameters())
