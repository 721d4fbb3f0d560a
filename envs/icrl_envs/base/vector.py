"""Gymnasium shell around array rules: one row of them is an `Env`, many rows are a `VectorEnv`.

A family writes its dynamics once, as `Rules` on arrays, and names them in two short classes. Seeds, autoreset,
truncation and input checks live here, tasks and states in `rows.py`; neither knows any family. Axis letter: B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from icrl_envs.base.actions import check_action
from icrl_envs.base.capability import Capability
from icrl_envs.base.checks import check_choice, check_int, reject_unknown, short
from icrl_envs.base.rows import Rows, build_rules
from icrl_envs.base.rules import Rules

Info = dict[str, Any]
FPS = 8


class ArrayEnv(gymnasium.Env[np.ndarray, Any]):
    """One row of `rules_class` as a Gymnasium environment; `gymnasium.make` adds the time limit.

    Without task arguments the task is drawn at the first `reset` and held over later ones; `reset(seed=...)` draws
    another, `reset(options={"task": {...}})` sets it. A `horizon` that the time limit contradicts is warned of.
    """

    rules_class: ClassVar[type[Rules]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Set the metadata that Gymnasium reads before an environment is made."""
        super().__init_subclass__(**kwargs)
        if "rules_class" in vars(cls):
            cls.metadata = _metadata(cls.rules_class)

    def __init__(self, render_mode: str | None = None, **kwargs: Any):
        self.rules, task = build_rules(self.rules_class, kwargs)
        self._rows = Rows(self.rules, task, 1)
        self._elapsed, self._usual_limit = 0, 0  # steps of the episode, and of those that `make` truncates
        self.observation_space, self.action_space = self.rules.observation_space, self.rules.action_space
        self.render_mode = check_choice(render_mode, "render_mode", [None, *self.rules.render_modes])

    @property
    def task_ids(self) -> np.ndarray:
        """The id of the current task, (1,) int64; -1 before one is drawn."""
        return self._rows.task.copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Info]:
        """Begin an episode of the same task, or of another if a seed or `options={"task": {...}}` says so."""
        reject_unknown(options or {}, ("task",), "option")
        super().reset(seed=seed)
        if 0 < self._elapsed == self._usual_limit < self.rules.horizon:
            _warn_of_limit(self.rules, self._elapsed)
        self._elapsed, self._usual_limit = 0, self._find_limit()
        self._rows.begin(np.zeros(1, np.int64), options or {}, seed is not None, lambda row: self.np_random)
        return self._percept()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, Info]:
        """Take one step; ValueError for an action outside the space."""
        self._rows.require_reset("step")
        checked = check_action(action, self.rules.action_space, ())
        reward = self._rows.step(checked[None])
        self._elapsed += 1
        if self.rules.horizon == self._elapsed - 1 < self._usual_limit:
            _warn_of_limit(self.rules, self._usual_limit)
        obs, info = self._percept()
        terminated = bool(self.rules.terminated(self._rows.state, self._rows.task)[0])
        return obs, float(reward[0]), terminated, False, info

    def expert_action(self) -> Any:
        """Give an optimal action, an int for `Discrete`; UndeclaredError where the family declares no expert."""
        action = self._rows.expert_action()[0]
        return action.item() if action.ndim == 0 else action

    def action_mask(self) -> np.ndarray:
        """Give (A,) int8, 1 for the actions that are legal in the current task."""
        return self._rows.action_mask()[0]

    def render(self) -> Any:
        """Draw the row as `render_mode` says: a frame (height, width, 3) uint8 or a str."""
        return (self._rows.render(self.render_mode) or (None,))[0]

    def _find_limit(self) -> int:
        """The time limit that `make` sets by default, 0 for none; Gymnasium hides the actual one from the env."""
        registered = gymnasium.registry.get(self.spec.id) if self.spec else None
        return (registered.max_episode_steps if registered else None) or 0

    def _percept(self) -> tuple[np.ndarray, Info]:
        # Python scalars: Gymnasium's batching of infos knows int, float and bool, but makes np.bool_ an object.
        facts = self._rows.facts().items()
        info = {name: value[0] if value.ndim > 1 else value[0].item() for name, value in facts}
        return self.rules.observe(self._rows.state)[0], info


class ArrayVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` rows of `rules_class`, stepped together; equal, step for step, to Gymnasium's sync vector env.

    `autoreset_mode` is SAME_STEP unless given (Gymnasium's own default is NEXT_STEP): every step is then a real one.
    Row i draws its task from the generator of `seed + i`. `reset(options=...)` knows "task" (a dict for all rows,
    a sequence of one dict a row, or an int array of task ids) and "reset_mask" (B,) bool. What is returned is a copy.
    `max_episode_steps` is the family's horizon unless given; -1 never truncates, as in `gymnasium.make`.
    """

    rules_class: ClassVar[type[Rules]]

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        **kwargs: Any,
    ):
        self.rules, task = build_rules(self.rules_class, kwargs)
        self.num_envs = check_int(num_envs, "num_envs", 1, 2**31)
        self._rows = Rows(self.rules, task, num_envs)
        limit = self.rules.horizon if max_episode_steps is None else max_episode_steps
        self._limit = np.inf if limit == -1 else check_int(limit, "max_episode_steps", 1, 2**31)
        if self._limit not in (np.inf, self.rules.horizon):
            _warn_of_limit(self.rules, limit)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._over = np.zeros(num_envs, bool)  # rows whose episode has ended and that were not yet reset
        modes = [*AutoresetMode, *(mode.value for mode in AutoresetMode)]
        self._mode = AutoresetMode(check_choice(autoreset_mode, "autoreset_mode", modes))
        self.metadata = {**_metadata(self.rules_class), "autoreset_mode": self._mode}
        if render_mode == "human":
            raise ValueError(
                f"render_mode='human': allowed are None, {', '.join(self.rules.render_modes)}; a window is for one "
                "env, gymnasium.make(id, render_mode='human'), with pygame installed."
            )
        self.render_mode = check_choice(render_mode, "render_mode", [None, *self.rules.render_modes])
        self.single_observation_space, self.single_action_space = self.rules.observation_space, self.rules.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property
    def task_ids(self) -> np.ndarray:
        """The ids of the current tasks, (B,) int64; -1 before they are drawn."""
        return self._rows.task.copy()

    @property
    def max_episode_steps(self) -> int | None:
        """After how many steps an episode is truncated; None for never."""
        return None if self._limit == np.inf else int(self._limit)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, Info]:
        """Begin an episode in all rows, or in those of `options["reset_mask"]`. Gives obs (B, ...) and infos.

        `seed` is one for all rows, of which row i takes `seed + i`, or a sequence of one a row, None for no new task.
        """
        options = options or {}
        reject_unknown(options, ("task", "reset_mask"), "option")
        where = self._reset_mask(options)
        seeds = self._seeds(seed)
        super().reset(seed=seeds[0])
        for seeded in (True, False):
            rows = [row for row in np.flatnonzero(where).tolist() if (seeds[row] is not None) == seeded]
            if rows:
                self._rows.begin(np.array(rows), options, seeded, lambda row: self._generator(seeds[row]))
        self._elapsed[where], self._over[where] = 0, False
        return self.rules.observe(self._rows.state), self._rows.info(None if where.all() else where)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Info]:
        """Take one step in every row; ValueError for actions that are not one a row inside the space."""
        self._rows.require_reset("step")
        checked = check_action(actions, self.rules.action_space, (self.num_envs,))
        if self._mode == AutoresetMode.DISABLED and self._over.any():
            ended = short(np.flatnonzero(self._over).tolist())
            raise ResetNeeded(f"the episodes of rows {ended} are over: reset(options={{'reset_mask': ...}}) them.")
        reward = self._rows.step(checked, self._over)
        self._elapsed += 1
        if self._over.any():  # NEXT_STEP: this step only resets those rows, whatever their action
            reward[self._over] = 0.0
            self._restart(self._over)
        terminated = self.rules.terminated(self._rows.state, self._rows.task)
        truncated = self._elapsed >= self._limit
        over = terminated | truncated
        same_step = self._mode == AutoresetMode.SAME_STEP and over.any()
        info = self._finish(over) if same_step else {}
        self._over = np.zeros(self.num_envs, bool) if same_step else over
        info.update(self._rows.info())
        return self.rules.observe(self._rows.state), reward, terminated, truncated, info

    def expert_action(self) -> np.ndarray:
        """Give optimal actions (B, ...); UndeclaredError where the family declares no expert."""
        return self._rows.expert_action()

    def action_mask(self) -> np.ndarray:
        """Give (B, A) int8, 1 for the actions that are legal in a row's task."""
        return self._rows.action_mask()

    def render(self) -> tuple[Any, ...] | None:
        """Draw every row as `render_mode` says."""
        return self._rows.render(self.render_mode)

    def _generator(self, seed):
        return self.np_random if seed is None else seeding.np_random(seed)[0]

    def _seeds(self, seed: Any) -> list[int | None]:
        """Give the seed of every row."""
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            first = check_int(seed, "seed", 0, 2**63)
            return [first + row for row in range(self.num_envs)]
        given = list(seed) if isinstance(seed, (list, tuple, np.ndarray)) else []
        if len(given) != self.num_envs:
            raise ValueError(f"seed={short(seed)}: give an integer, or a list of {self.num_envs} of them.")
        return [None if one is None else check_int(one, "seed", 0, 2**63) for one in given]

    def _restart(self, where):
        self._rows.resume(where)
        self._elapsed[where] = 0

    def _finish(self, ended: np.ndarray) -> Info:
        """Reset the rows `ended` and give what their last step would have returned, as SAME_STEP puts it."""
        final_obs = np.full(self.num_envs, None, object)
        obs = self.rules.observe(self._rows.state)[ended]
        final_obs[ended] = np.fromiter(obs, object, len(obs))
        info = {"final_obs": final_obs, "final_info": self._rows.info(ended)}
        self._restart(ended)
        return {**info, "_final_obs": ended.copy(), "_final_info": ended.copy()}

    def _reset_mask(self, options: dict[str, Any]) -> np.ndarray:
        """Give the rows (B,) bool to reset."""
        if "reset_mask" not in options:
            return np.ones(self.num_envs, bool)
        mask = options["reset_mask"]
        if getattr(mask, "dtype", None) != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"options['reset_mask']={short(mask)}: give ({self.num_envs},) bools, one of them True.")
        if not self._rows.started.all() and not mask.all():
            raise ResetNeeded("the first reset must reset all rows: call reset() without options['reset_mask'].")
        return mask


def _metadata(rules_class: type[Rules]) -> dict[str, Any]:
    return {"render_modes": list(rules_class.render_modes), "render_fps": FPS}


def _warn_of_limit(rules: Rules, limit: int) -> None:
    best = f", and optimal_return is that of {rules.horizon} steps" if rules.offers(Capability.OPTIMAL_RETURN) else ""
    gymnasium.logger.warn(
        f"horizon={rules.horizon} but episodes are truncated after max_episode_steps={limit}{best}: "
        "give both, horizon and max_episode_steps, the same number."
    )
