"""ICAgent: a frozen model that learns a task inside its context, in a normal Gymnasium loop.

Axis letters: B rows (environments), T environment steps, S tokens (slots) of a step, D width, L tokens.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from icrl_agents.acting import (
    Running,
    check_flag,
    check_history,
    commit,
    env_actions,
    give_anew,
    history_actions,
    new_actions,
    read_actions,
    read_cached,
    read_env,
)
from icrl_agents.action_sets import tells_actions, widened
from icrl_agents.caution import warn
from icrl_agents.config import AgentConfig, check_choice, check_value, whole
from icrl_agents.context import UNKNOWN, Context, Memory
from icrl_agents.distributions import Distribution
from icrl_agents.imagination import plan_actions
from icrl_agents.model import StepModel
from icrl_agents.nn.transformer import Cache
from icrl_agents.numerics import acting
from icrl_agents.planning import Planner, make_planner
from icrl_agents.steps import Boundary, Steps


class ICAgent(StepModel):
    """A `StepModel` that acts. A method says there what it predicts; everything about acting is here, once.

    Lifecycle: `reset` means a NEW TASK (forget everything). A new episode of the same task needs no call: `act` on
    the new episode's first observation after an `observe` that ended one.
    """

    reset_options: ClassVar[tuple[str, ...]] = ()  # keywords of `reset` that `begin_task` takes
    notes: Mapping[str, float] = MappingProxyType({})  # extras that a context keeps, and their value if unknown
    remembers: ClassVar[bool] = False  # what has left the window influences actions

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        config: AgentConfig | None = None,
    ):
        super().__init__(observation_space, action_space, config)
        self.planner: Planner | None = None
        self._running: Running | None = None

    def __copy__(self) -> Self:
        """An agent with the same weights and a context of its own, which acts on from here; its env is the same one.

        `copy.deepcopy` also copies the weights. A pickle holds weights and context, and no env.
        """
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        twin._running = copy.deepcopy(self._running)
        return twin

    # ---- what a method may change about a life ------------------------------------------------------------------

    def visible(self, context: Context) -> Steps:
        """The steps in the window that can still influence an action."""
        return context.visible()

    def make_room(self, context: Context) -> None:
        """What happens to rows whose window is full: by default the oldest `slide` steps go."""
        full = np.flatnonzero(context.length >= context.window)
        if len(full):
            context.drop(full, self.config.slide)

    # ---- acting -------------------------------------------------------------------------------------------------

    def reset(
        self,
        env: gymnasium.Env | VectorEnv | None = None,
        *,
        num_envs: int | None = None,
        mask: np.ndarray | None = None,
        seed: int | None = None,
        history: Steps | None = None,
        learn: bool = True,
        num_actions: Any = None,
        action_set: Any = None,
        autoreset_mode: AutoresetMode | str | None = None,
        **options: Any,
    ) -> None:
        """Forget: a new task begins. A new EPISODE of the same task needs no reset.

        Args:
            env: check this environment's spaces; take the batch size, the autoreset mode and the action sets from it;
                where tasks have action sets, reset it first.
            num_envs: act on batches of this size; not given, on single observations.
            mask: (B,) bool, forget only these rows and keep everything else. Reset the env's rows first: where their
                action sets were read off it, they are again.
            seed: of the sampled actions; without it they differ from run to run.
            history: steps (B, T) of the same task, such as a store's, to begin with instead of nothing; the latest of
                them that the window holds.
            learn: False acts from `history` alone: of what is observed only the step before is known, and the history
                is read anew for every action.
            num_actions: only the actions 0, 1, ... below it are legal in this task; a number, or one a row.
            action_set: the legal actions, such as [0, 3, 7], or a mask (A,) or (B, A) of bools or int8, such as an
                info's "action_mask"; with `mask`, of all rows. Without either, those that the env says are legal (its
                `action_mask()`), without an env those of the history, else all. No other is ever chosen.
            autoreset_mode: how the rows of an env begin new episodes that is not given, or does not say: Gymnasium's
                "Disabled" (the caller resets them), "NextStep" or "SameStep".
            options: a method's own, see its `begin_task`.

        Raises:
            ValueError: `history` has other rows or values than the agent's, the env's spaces are not the agent's, or
                arguments contradict each other.
        """
        if unknown := options.keys() - set(self.reset_options):
            raise TypeError(f"reset() of this agent has no option {min(unknown)!r}: leave it out")
        if mask is not None:
            if history is not None or not learn:
                raise ValueError("reset(mask=...) begins with nothing and learns: leave history and learn out")
            if env is not None or num_envs is not None or autoreset_mode is not None:
                raise ValueError("reset(mask=...) keeps the running batch: leave env, num_envs and autoreset_mode out")
            draft = self._forget_rows(mask, seed, (action_set, num_actions), options)
            commit(self._require_running().changes(draft))
            return
        running = self._begin(env, num_envs, seed, history, learn, (action_set, num_actions), autoreset_mode)
        self.begin_task(running.context, np.arange(running.context.rows), **options)
        self._running = running

    def begin_task(self, context: Context, index: np.ndarray) -> None:
        """New tasks begin in the rows `index`; a method takes its own options of `reset` here."""

    @acting
    def _begin(
        self,
        env: gymnasium.Env | VectorEnv | None,
        num_envs: int | None,
        seed: int | None,
        history: Steps | None,
        learn: bool,
        actions: tuple[Any, Any],
        mode: AutoresetMode | str | None,
    ) -> Running:
        """A new task's state, once all arguments are checked."""
        if mode is not None:
            name = mode.value if isinstance(mode, AutoresetMode) else str(mode)
            check_choice("autoreset_mode", name, [known.value for known in AutoresetMode])
        if env is not None:
            found, own = read_env(self, env)
            if own is not None and mode is not None and own != AutoresetMode(mode):
                raise ValueError(f"autoreset_mode={mode!r}, but the env has {own.value!r}: leave it out")
            mode = own or mode
            if num_envs not in (None, found):
                raise ValueError(f"num_envs={num_envs}, but the env has {found}: leave num_envs out when you give env")
            num_envs = found
        if num_envs is not None:
            num_envs = whole("num_envs", num_envs, 1)
        seed = None if seed is None else whole("seed", seed, 0, 2**63 - 1)
        check_value("learn", "bool", learn, None)
        legal = read_actions(self, *actions, num_envs or 1)
        teller = env if legal is None and env is not None and tells_actions(env) else None
        if legal is None and env is not None:
            legal = env_actions(self, env, num_envs or 1)
        if history is not None:
            checked = check_history(self, history, num_envs or 1)
            if legal is None and env is None:
                legal = history_actions(self, history, num_envs or 1)
            history, legal = checked, widened(legal, checked)
        boundary = Boundary(num_envs or 1, mode, single=num_envs is None, known=env is not None)
        running = Running(self, num_envs, boundary, seed, learn, legal, teller)
        if history is not None:
            self.catch_up(running.context, history)
        return running

    def catch_up(self, context: Context, history: Steps) -> None:
        """Begin with the steps (B, T) of `history`: by default with the latest that the window holds."""
        context.load(history, self.aligned)

    def act(self, obs: Any, deterministic: bool = False, plan: str | Planner | bool | None = True) -> Any:
        """Choose the next action, or a batch of them, as NumPy inside the action space.

        Args:
            obs: the observation(s) the environment shows now: of `reset()` or of the last `step()`.
            deterministic: take the most probable action; the default samples, which exploration needs. A planner tries
                equally good actions in random order all the same.
            plan: a planner or its name, for this action only; None for none. The default is what `use_plan` said.

        Raises:
            ValueError: `obs` is not in the agent's observation space (shape, dtype or range), or there is no such plan.
            RuntimeError: no `reset` yet, or `act` twice without `observe`.
        """
        running = self._require_running()
        if running.acted is not None:
            raise RuntimeError("act() was called twice: call observe(*env.step(action)) between two actions")
        planner = self.planner if plan is True else self._planner(plan or None)
        checked = self.obs.check(obs, running.num_envs, "obs")
        batch = checked if running.num_envs else checked[None]
        with running.attempt() as draft:
            draft.boundary.begin(obs, batch)
            draft.acted = self._choose(draft, batch, deterministic, planner)
        action = draft.acted.copy() if draft.num_envs else draft.acted[0].copy()[()]
        commit(running.changes(draft))
        return action

    @acting
    def _choose(self, running: Running, batch: np.ndarray, deterministic: bool, planner: Planner | None) -> np.ndarray:
        """The actions (B, ...) at the observations `batch` (B, ...)."""
        live, context = ~running.boundary.resetting, running.context
        if planner is not None and not context.steps.given.get("action_mask", np.True_).all():
            raise ValueError("a planner cannot hold to an action set: act with plan=None")
        if not running.learn:
            context.open(batch)
            context = context.select(np.arange(context.rows))  # what is computed now leaves no trace
        hidden = self._read(context, batch, live)
        distribution = self.choices(hidden, self.given(context.steps))
        choice = distribution.mode() if deterministic else distribution.sample(running.generator)
        if planner is None:
            running.plans.path = None  # a plan does not outlive an action that was not its own
        else:
            choice = plan_actions(self, planner, running.plans, context, hidden, choice, live, running.planning)
        self.chose(context, distribution, choice)
        return self.action.array(choice)

    def chose(self, context: Context, distribution: Distribution, action: Tensor) -> None:
        """Called with each action (B, ...) and the policy's distribution it is from or, with a planner, is not.

        A method may note in the open step of `context` what it needs of it; by default nothing.
        """

    def observe(
        self,
        obs: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        info: dict[str, Any] | None = None,
    ) -> None:
        """Tell the agent what `env.step(action)` returned, in the same order.

        Rows may end episodes at different times; see `Boundary` for the autoreset modes.

        Raises:
            ValueError: a value of the wrong shape, dtype or range.
            RuntimeError: `observe` before `act`.
        """
        running = self._require_running()
        if running.acted is None:
            raise RuntimeError("observe() was called before act(): the order is act, env.step, observe")
        rows = running.num_envs
        checked = self.obs.check(obs, rows, "obs")
        reward = self.reward.check(reward, rows, "reward")
        terminated = check_flag(terminated, rows, "terminated")
        truncated = check_flag(truncated, rows, "truncated")
        if rows is None:
            checked, reward, terminated, truncated = checked[None], reward[None], terminated[None], truncated[None]
        draft = running.draft()
        next_obs, live = draft.boundary.read(checked, terminated, truncated, info, given=obs)
        if next_obs is not checked:
            self.obs.check(next_obs, rows or 1, "info['final_obs']")
        draft.plans.judge(next_obs, live)
        if draft.learn:
            draft.context.close(running.acted, reward, next_obs, terminated, truncated, live)
        else:
            draft.context.pass_by(running.acted, reward, terminated | truncated, live)
        draft.acted = None
        commit(running.changes(draft))

    @property
    def context(self) -> Context:
        """What the agent knows now; fork it with `select` or `repeat`, do not write to it."""
        return self._require_running().context

    def policy(self, context: Context, obs: np.ndarray, live: np.ndarray | None = None) -> Any:
        """The distribution over actions at `obs` (B, ...), which becomes the open step of `context`.

        Rows outside `live` (B,) are computed but leave no trace.
        """
        with context.attempt() as draft:
            distribution = self._policy(draft, obs, live)
        vars(context).update(vars(draft))
        return distribution

    def see(self, context: Context, obs: np.ndarray, live: np.ndarray | None = None) -> Tensor:
        """The hidden vectors (B, D) at which actions are read, of the rows of `context` with `obs` (B, ...) as open."""
        with context.attempt() as draft:
            hidden = self._see(draft, obs, live)
        vars(context).update(vars(draft))
        return hidden

    @acting
    def _policy(self, context: Context, obs: np.ndarray, live: np.ndarray | None) -> Any:
        return self.choices(self._read(context, obs, live), self.given(context.steps))

    @acting
    def _see(self, context: Context, obs: np.ndarray, live: np.ndarray | None) -> Tensor:
        return self._read(context, obs, live)

    def _read(self, context: Context, obs: np.ndarray, live: np.ndarray | None) -> Tensor:
        """`see` on a draft. This is the one place where a context is read."""
        if self.training:
            raise RuntimeError("the agent is in training mode, where dropout disturbs actions: call agent.eval() first")
        self.make_room(context)
        context.open(obs)
        hidden = self.attend(context, np.ones(context.rows, bool) if live is None else live)
        if not math.isfinite(hidden.sum()):  # one NaN or infinity shows in the sum
            row = int(hidden.flatten(1).isfinite().all(1).logical_not().int().argmax())
            raise ValueError(
                f"the model's output in row {row} is not finite: its weights are damaged, or an input of that row is "
                "far too large; reset(mask=...) forgets a row"
            )
        return hidden

    def use_plan(self, plan: str | Planner | None, plan_kwargs: Mapping[str, Any] | None = None) -> None:
        """Act with a planner from now on, or with none (None).

        Args:
            plan: a `Planner`, or the name of one: "lookahead", "beam" as published, "best-of-n" for real actions.
            plan_kwargs: settings that differ from those the name stands for.

        Raises:
            ValueError: no such planner or setting, or the agent has no dynamics to plan with.
        """
        self.planner = self._planner(plan, plan_kwargs)

    def _planner(self, plan: str | Planner | None, plan_kwargs: Mapping[str, Any] | None = None) -> Planner | None:
        if plan is None:
            if plan_kwargs:
                raise ValueError(f"plan_kwargs={dict(plan_kwargs)} without a plan: give plan, such as 'lookahead'")
            return None
        planner = make_planner(plan, plan_kwargs)
        if not self.config.dynamics:
            raise ValueError(
                "a plan needs an agent that was trained with dynamics=True, this one was not: leave it out"
            )
        if planner.caution:
            warn(planner.caution)
        return planner

    def new_memory(self, rows: int, given: Mapping[str, np.ndarray]) -> Memory | None:
        """What a new context keeps between steps besides the steps; None if all is read anew for every action."""
        return self.body.make_cache(rows, (self.config.window + 1) * len(self.slots)) if self.extends else None

    def branch(self, context: Context) -> tuple[Cache, np.ndarray]:
        """What planning forks: the cache that holds the open step, and the steps (B,) whose ends it can value."""
        return context.memory, np.full(context.rows, UNKNOWN)

    def attend(self, context: Context, live: np.ndarray) -> Tensor:
        """The hidden vectors (B, D) of the open steps, at which their actions are read."""
        if self.extends:
            return read_cached(self, context, context.memory, live, np.zeros(context.rows, np.int64))
        seen = context.read(np.zeros(context.rows, np.int64), int(context.length.max()) + 1)
        return self.read(self.tensors(seen), torch.as_tensor(context.length, device=self.device))

    # ---- private ------------------------------------------------------------------------------------------------

    def _require_running(self) -> Running:
        if self._running is None:
            raise RuntimeError("no task has begun: call agent.reset(), or reset(env) for a vector environment, first")
        if self._running.generator.device != self.device:
            raise RuntimeError(
                f"the agent moved from {self._running.generator.device} to {self.device} in the middle of a task: "
                "call agent.reset(), or move it back"
            )
        return self._running

    def _forget_rows(
        self,
        mask: np.ndarray,
        seed: int | None,
        actions: tuple[Any, Any],
        options: Mapping[str, Any],
    ) -> Running:
        """The state in which new tasks begin in the rows `mask` (B,)."""
        running = self._require_running()
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != (running.context.rows,):
            raise ValueError(
                f"mask has dtype {mask.dtype} and shape {mask.shape}, expected bool ({running.context.rows},)"
            )
        if running.acted is not None:
            raise RuntimeError("reset(mask=...) between act and observe: call it after observe, before the next act")
        seed = None if seed is None else whole("seed", seed, 0, 2**63 - 1)
        index, draft = np.flatnonzero(mask), running.draft()
        draft.drawing = copy.deepcopy(running.drawing)
        give_anew(self, draft, index, new_actions(self, draft, *actions))
        draft.context.forget(index)
        draft.boundary.forget(index)
        draft.plans.forget(index)
        self.begin_task(draft.context, index, **options)
        if seed is not None:
            draft.seed(seed)
        return draft
