"""Gymnasium environments of array rules: `ArrayEnv` has one row, `ArrayVectorEnv` has B rows.

A family defines its dynamics once, as `Rules` on arrays, and names them in two short subclasses. This file has seeds,
autoreset, truncation and input checks, `rows.py` has tasks and states; both are independent of the family.
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

from icrl_envs.base.actions import check_action, own_space
from icrl_envs.base.capability import Capability
from icrl_envs.base.checks import check_choice, check_dict, check_int, short
from icrl_envs.base.resets import read_reset_mask, read_seeds
from icrl_envs.base.rows import Rows, build_rules
from icrl_envs.base.rules import Rules

Info = dict[str, Any]
FPS = 8


class ArrayEnv(gymnasium.Env[np.ndarray, Any]):
    """One row of `rules_class` as a Gymnasium environment; `gymnasium.make` adds the time limit.

    Without task arguments the first `reset` samples the task and later ones keep it; `reset(seed=...)` samples again,
    `reset(options={"task": {...}})` sets it. Warns if `horizon` differs from the id's time limit.
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
        self._elapsed, self._usual_limit = 0, 0  # steps in this episode, and time limit of the registered id
        self.observation_space = own_space(self.rules.observation_space)
        self.action_space = own_space(self.rules.action_space)
        self.render_mode = check_choice(render_mode, "render_mode", [None, *self.rules.render_modes])

    @property
    def task_ids(self) -> np.ndarray:
        """Id of the current task, (1,) int64; -1 before the first reset samples one."""
        return self._rows.task.copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Info]:
        """Start an episode of the same task, or of a new one with a seed or `options={"task": {...}}`."""
        given = check_dict(options, "options", ("task",), "option")
        super().reset(seed=seed)
        # the previous episode was truncated at the id's time limit, before the horizon
        if 0 < self._elapsed == self._usual_limit < self.rules.horizon:
            _warn_of_limit(self.rules, self._elapsed)
        self._elapsed, self._usual_limit = 0, self._find_limit()
        self._rows.begin(np.zeros(1, np.int64), given, seed is not None, lambda row: self.np_random)
        return self._percept()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, Info]:
        """Apply one action; ValueError for one outside the space."""
        self._rows.require_reset("step")
        checked = check_action(action, self.rules.action_space, ())
        reward = self._rows.step(checked[None])
        self._elapsed += 1
        if self.rules.horizon == self._elapsed - 1 < self._usual_limit:
            _warn_of_limit(self.rules, self._usual_limit)
        obs, info = self._percept()
        terminated = bool(self.rules.terminated(self._rows.state, self._rows.task)[0])
        return obs, float(reward[0]), terminated, False, info

    def expert_action(self, task: int | None = None) -> Any:
        """Return an optimal action, an int for `Discrete`; UndeclaredError if the family declares no expert.

        `task` is the id of another task, whose expert acts in the present state.
        """
        action = self._rows.expert_action(task)[0]
        return action.item() if action.ndim == 0 else action

    def action_mask(self) -> np.ndarray:
        """Return (A,) int8, 1 for the legal actions of the current task."""
        return self._rows.action_mask()[0]

    def render(self) -> Any:
        """Draw the row in `render_mode`: a frame (height, width, 3) uint8, or a str."""
        return (self._rows.render(self.render_mode) or (None,))[0]

    def _find_limit(self) -> int:
        """Default time limit of `make`, 0 for none; the actual one is in a wrapper that the env cannot see."""
        registered = gymnasium.registry.get(self.spec.id) if self.spec else None
        return (registered.max_episode_steps if registered else None) or 0

    def _percept(self) -> tuple[np.ndarray, Info]:
        # Python scalars: Gymnasium batches int, float and bool into typed arrays, np.bool_ into an object array.
        facts = self._rows.facts().items()
        info = {name: value[0] if value.ndim > 1 else value[0].item() for name, value in facts}
        return self.rules.observe(self._rows.state)[0], info


class ArrayVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """B rows of `rules_class`, stepped together, with the same results as Gymnasium's `SyncVectorEnv`.

    With the default `autoreset_mode` SAME_STEP (Gymnasium's default: NEXT_STEP) no step is spent on resets. Row i
    samples its task from the generator of `seed + i`. `reset(options=...)` accepts "task" (a dict for all rows, a
    sequence of one dict per row, or an int array of task ids) and "reset_mask" (B,) bool. Returned arrays are copies.

    Args:
        num_envs: B.
        max_episode_steps: time limit; default the family's horizon, -1 for none, as in `gymnasium.make`.
        autoreset_mode: Gymnasium's mode or its name.
        render_mode: one of the `render_modes` of the rules, or None.
        kwargs: arguments of the rules and of a fixed task.
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
        self._elapsed = np.zeros(num_envs, np.int64)  # (B,) steps in this episode
        self._over = np.zeros(num_envs, bool)  # (B,) ended rows that are not reset yet
        modes = [*AutoresetMode, *(mode.value for mode in AutoresetMode)]
        self._mode = AutoresetMode(check_choice(autoreset_mode, "autoreset_mode", modes))
        self.metadata = {**_metadata(self.rules_class), "autoreset_mode": self._mode}
        if render_mode == "human":
            raise ValueError(
                f"render_mode='human': allowed are None, {', '.join(self.rules.render_modes)}; a window is for one "
                "env, gymnasium.make(id, render_mode='human'), with pygame installed."
            )
        self.render_mode = check_choice(render_mode, "render_mode", [None, *self.rules.render_modes])
        self.single_observation_space = own_space(self.rules.observation_space)
        self.single_action_space = own_space(self.rules.action_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property
    def task_ids(self) -> np.ndarray:
        """Ids of the current tasks, (B,) int64; -1 before the first reset samples them."""
        return self._rows.task.copy()

    @property
    def max_episode_steps(self) -> int | None:
        """Number of steps after which an episode is truncated; None for never."""
        return None if self._limit == np.inf else int(self._limit)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, Info]:
        """Start an episode in all rows, or in those of `options["reset_mask"]`; returns obs (B, ...) and infos.

        `seed` is an int, of which row i gets `seed + i`, or a sequence of one per row, with None for no new task.
        """
        given = check_dict(options, "options", ("task", "reset_mask"), "option")
        where = read_reset_mask(given, self.num_envs, bool(self._rows.started.all()))
        seeds = read_seeds(seed, self.num_envs)
        super().reset(seed=None if None in seeds else seeds[0])  # rows without a seed draw from this generator
        # two groups of rows: those with a seed start a new lifetime
        for seeded in (True, False):
            rows = [row for row in np.flatnonzero(where).tolist() if (seeds[row] is not None) == seeded]
            if rows:
                self._rows.begin(np.array(rows), given, seeded, lambda row: self._generator(seeds[row]))
        self._elapsed[where], self._over[where] = 0, False
        return self.rules.observe(self._rows.state), self._rows.info(None if where.all() else where)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Info]:
        """Apply one action per row; ValueError for actions of another shape or outside the space."""
        self._rows.require_reset("step")
        checked = check_action(actions, self.rules.action_space, (self.num_envs,))
        if self._mode == AutoresetMode.DISABLED and self._over.any():
            ended = short(np.flatnonzero(self._over).tolist())
            raise ResetNeeded(f"the episodes of rows {ended} are over: reset(options={{'reset_mask': ...}}) them.")
        reward = self._rows.step(checked, self._over)
        self._elapsed += 1
        if self._over.any():  # NEXT_STEP: this step only resets those rows and ignores their actions
            reward[self._over] = 0.0
            self._restart(self._over)
        terminated = self.rules.terminated(self._rows.state, self._rows.task)
        truncated = self._elapsed >= self._limit
        over = terminated | truncated
        same_step = self._mode == AutoresetMode.SAME_STEP and over.any()
        info = self._finish(over) if same_step else {}
        self._over = np.zeros(self.num_envs, bool) if same_step else over  # SAME_STEP has reset them already
        info.update(self._rows.info())
        return self.rules.observe(self._rows.state), reward, terminated, truncated, info

    def expert_action(self, tasks: np.ndarray | None = None) -> np.ndarray:
        """Return optimal actions (B, ...); UndeclaredError if the family declares no expert.

        `tasks` (B,) are ids of other tasks, whose experts act in the present states.
        """
        return self._rows.expert_action(tasks)

    def action_mask(self) -> np.ndarray:
        """Return (B, A) int8, 1 for the legal actions of a row's task."""
        return self._rows.action_mask()

    def render(self) -> tuple[Any, ...] | None:
        """Draw every row in `render_mode`."""
        return self._rows.render(self.render_mode)

    def _generator(self, seed):
        return self.np_random if seed is None else seeding.np_random(seed)[0]

    def _restart(self, where):
        self._rows.resume(where)
        self._elapsed[where] = 0

    def _finish(self, ended: np.ndarray) -> Info:
        """Reset the rows `ended` (B,) bool; return their final observations and infos in the format of SAME_STEP."""
        final_obs = np.full(self.num_envs, None, object)  # Gymnasium's format: objects, None in other rows
        obs = self.rules.observe(self._rows.state)[ended]
        final_obs[ended] = np.fromiter(obs, object, len(obs))
        info = {"final_obs": final_obs, "final_info": self._rows.info(ended)}
        self._restart(ended)
        return {**info, "_final_obs": ended.copy(), "_final_info": ended.copy()}


def _metadata(rules_class: type[Rules]) -> dict[str, Any]:
    return {"render_modes": list(rules_class.render_modes), "render_fps": FPS}


def _warn_of_limit(rules: Rules, limit: int) -> None:
    best = f", and optimal_return is that of {rules.horizon} steps" if rules.offers(Capability.OPTIMAL_RETURN) else ""
    gymnasium.logger.warn(
        f"horizon={rules.horizon} but episodes are truncated after max_episode_steps={limit}{best}: "
        "give both, horizon and max_episode_steps, the same number."
    )
