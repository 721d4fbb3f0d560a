"""ICAgent: an agent with frozen weights that learns a task in its context, in a normal Gymnasium loop.

Axis letters: B rows (environments), T environment steps, A actions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from icrl_agents.agents import pretrained
from icrl_agents.agents.action_sets import ActionSets, from_arguments, of_new_tasks, redraw
from icrl_agents.agents.holder import MethodHolder
from icrl_agents.agents.inputs import check_flag, check_history, most_probable, read_batch, warn_foreign
from icrl_agents.agents.planning.plans import Decision
from icrl_agents.agents.planning.search import Planner, make_planner
from icrl_agents.agents.session import Session, commit
from icrl_agents.core.checks import check_value, whole
from icrl_agents.core.process.caution import warn
from icrl_agents.core.steps import ACTION_MASK, Steps
from icrl_agents.hub.download import Download
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.method import Method
from icrl_agents.nn.devices import pick_device
from icrl_agents.nn.numerics import acting


class ICAgent(MethodHolder):
    """In-context agent: a `Method`, which holds the weights, and the acting state of the current task.

    `reset` means a NEW TASK and clears the context. A new episode of the same task needs no call: after an `observe`
    that ended an episode, call `act` with the first observation of the next one.

    Args:
        method: instance of a class in `METHODS`, in eval mode to act.
        facts: provenance of the weights, as JSON; written into `config.json` and the card.
    """

    def __init__(self, method: Method, facts: Mapping[str, Any] | None = None):
        if not isinstance(method, Method):
            raise TypeError(f"method is {str(method)[:80]!r}, expected a Method; from_pretrained loads an agent")
        self.method = method
        self.facts: dict[str, Any] = dict(facts or {})
        self.source = "new"  # origin of the weights: new, local, bundled or hub@commit
        self.origin = ""  # folder name or id that the agent was loaded by
        self.planner: Planner | None = None
        self._session: Session | None = None

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.parameters())
        trained = self.facts.get("env_id", "no environment yet")
        return (
            f"ICAgent({type(self.method).__name__}, {self.origin or self.source})\n"
            f"  trained on {trained}: {self.observation_space} -> {self.action_space}\n"
            f"  {size:,} parameters, window of {self.config.window} steps, on {self.device}"
        )

    def __copy__(self) -> Self:
        """Agent that shares the weights and the env and continues from an independent copy of the context.

        `copy.deepcopy` also copies the weights. A pickle holds weights and context, but no env.
        """
        duplicate = object.__new__(type(self))
        vars(duplicate).update(vars(self))
        duplicate._session = copy.deepcopy(self._session)
        return duplicate

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
        """Begin a new task with an empty context. A new EPISODE of the same task needs no reset.

        Args:
            env: environment to act in: its spaces are checked, and batch size, autoreset mode and action masks are
                read from it; reset it first if its tasks have action masks.
            num_envs: batch size; None: unbatched observations and actions.
            mask: (B,) bool, rows that begin a new task; the others continue. Reset these rows of the env first, so
                that their new action masks can be read.
            seed: seed of the sampled actions; None: random.
            history: steps (B, T) of the same task, such as those of a store, to initialise the context from; the
                latest ones that fit the window are used, or all by a method with a memory beyond it.
            learn: False acts from `history` alone: only the previous step is known besides it, and the history is
                encoded again for every action.
            num_actions: the actions 0..num_actions - 1 are legal in this task; one number, or one per row.
            action_set: legal actions, such as [0, 3, 7], or a mask (A,) or (B, A) of bool or int8, such as the
                "action_mask" of an info; with `mask`, for all rows. If neither is given, the `action_mask()` of the
                env applies, without an env that of the history, else all actions are legal. Illegal actions are never
                chosen.
            autoreset_mode: autoreset mode of an env that is not given or does not declare it: Gymnasium's "Disabled"
                (the caller resets), "NextStep" or "SameStep".
            options: options of the method, see `begin` of its class, such as `target_return` of IDT.

        Raises:
            ValueError: `history` does not fit the rows or spaces, the spaces of env and agent differ, or arguments
                contradict each other.
            TypeError: the method has no such option.
        """
        if unknown := options.keys() - set(self.method.reset_options):
            raise TypeError(f"reset() of this agent has no option {min(unknown)!r}: leave it out")
        if mask is not None:
            if history is not None or not learn:
                raise ValueError("reset(mask=...) begins with nothing and learns: leave history and learn out")
            if env is not None or num_envs is not None or autoreset_mode is not None:
                raise ValueError("reset(mask=...) keeps the running batch: leave env, num_envs and autoreset_mode out")
            return self._reset_rows(mask, seed, num_actions, action_set, options)
        method = self.method
        batch = read_batch(method, env, num_envs, autoreset_mode)
        if env is not None:
            warn_foreign(self.facts, env)
        seed = None if seed is None else whole("seed", seed, 0, 2**63 - 1)
        check_value("learn", "bool", learn, None)
        asked = from_arguments(method, action_set, num_actions, batch.rows)
        checked = None if history is None else check_history(method, history, batch.rows)
        sets = ActionSets.of(method, batch.rows, asked, env, history)
        with acting(method):
            session = Session(method, batch, seed, learn, sets if checked is None else sets.widened(checked))
            if checked is not None:
                method.load_history(session.context, checked)
        method.begin(session.context, np.arange(batch.rows), **options)
        self._session = session  # last: a failed reset keeps the old session
        return None

    def _reset_rows(
        self, mask: Any, seed: int | None, num_actions: Any, action_set: Any, options: Mapping[str, Any]
    ) -> None:
        session, method = self.session, self.method
        mask, rows = np.asarray(mask), session.context.rows
        if mask.dtype != bool or mask.shape != (rows,):
            raise ValueError(f"mask has dtype {mask.dtype} and shape {mask.shape}, expected bool ({rows},)")
        if session.acted is not None:
            raise RuntimeError("reset(mask=...) between act and observe: call it after observe, before the next act")
        seed = None if seed is None else whole("seed", seed, 0, 2**63 - 1)
        asked = from_arguments(method, action_set, num_actions, rows)
        if asked is None and session.lost_env:
            raise ValueError(
                "the action sets of new tasks are the env's, which a pickled agent does not hold: give action_set or "
                "num_actions, or reset(env) all rows"
            )
        index, draft = np.flatnonzero(mask), session.draft()
        draft.drawing = copy.deepcopy(session.drawing)  # a failed call must not advance the generator
        redraw(method, draft.context, index, of_new_tasks(method, asked, rows, session.env), draft.drawing)
        draft.context.forget(index)
        draft.boundary.forget(index)
        draft.plans.forget(index)
        method.begin(draft.context, index, **options)
        if seed is not None:
            draft.seed(seed)
        commit(session.changes(draft))

    def act(self, obs: Any, deterministic: bool = False, plan: str | Planner | bool | None = True) -> Any:
        """Choose the next action, or a batch (B, ...) of actions, as NumPy values of the action space.

        Args:
            obs: current observation, or batch (B, ...), as returned by `env.reset()` or the last `env.step()`.
            deterministic: take the mode instead of a sample, which ends exploration: real-valued actions warn of it. A
                planner breaks ties at random in both cases.
            plan: planner or name of a planner for this action only, None for none; the default is that of `use_plan`.

        Raises:
            ValueError: `obs` is not in the observation space (shape, dtype or range), or the planner is unknown.
            RuntimeError: no `reset` yet, or `act` twice without `observe`.
        """
        session = self.session
        if session.acted is not None:
            raise RuntimeError("act() was called twice: call observe(*env.step(action)) between two actions")
        planner = self.planner if plan is True else self._planner(plan or None)
        checked = self.method.obs.check(obs, session.num_envs, "obs")
        batch = checked if session.num_envs else checked[None]  # (B, ...), B = 1 for a single env
        with session.attempt() as draft, acting(self.method):
            draft.boundary.begin(obs, batch)
            draft.acted = self._choose(draft, batch, deterministic, planner)
        action = draft.acted.copy() if draft.num_envs else draft.acted[0].copy()[()]  # [()]: scalar for () arrays
        commit(session.changes(draft))
        return action

    def _choose(self, session: Session, obs: np.ndarray, deterministic: bool, planner: Planner | None) -> np.ndarray:
        """Actions (B, ...) at the observations `obs` (B, ...)."""
        method, context, active = self.method, session.context, ~session.boundary.resetting
        if planner is not None and not context.steps.static.get(ACTION_MASK, np.True_).all():
            raise ValueError("planners do not support action sets: act with plan=None")
        if not session.learn:
            context.open(obs)
            context = context.select(np.arange(context.rows))  # a copy: the context itself must not change
        hidden = method.open_and_encode(context, obs, active)
        distribution = method.action_distribution(hidden, method.static_tensors(context.steps))
        action = most_probable(distribution) if deterministic else distribution.sample(session.generator)
        if planner is None:
            session.plans.path = None  # an action of the policy invalidates the rest of a plan
        else:
            decision = Decision(context, hidden, action, active)
            action = session.plans.choose(method, planner, decision, session.planning)
        method.on_action(context, distribution, action)
        return method.action.array(action)

    def observe(
        self,
        obs: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        info: dict[str, Any] | None = None,
    ) -> None:
        """Record the outcome of the last action: the return values of `env.step(action)`, in the same order.

        Batches are (B, ...) for `obs` and (B,) for the others. `info` holds the final observations of SAME_STEP envs.
        Rows may end episodes at different times; see `Boundary` for the autoreset modes.

        Raises:
            ValueError: a value of the wrong shape, dtype or range, or a missing final observation.
            RuntimeError: `observe` before `act`.
        """
        session = self.session
        if session.acted is None:
            raise RuntimeError("observe() was called before act(): the order is act, env.step, observe")
        rows = session.num_envs
        checked = self.method.obs.check(obs, rows, "obs")
        reward = self.method.reward.check(reward, rows, "reward")
        terminated = check_flag(terminated, rows, "terminated")
        truncated = check_flag(truncated, rows, "truncated")
        if rows is None:
            checked, reward, terminated, truncated = checked[None], reward[None], terminated[None], truncated[None]
        draft = session.draft()
        next_obs, active = draft.boundary.read(checked, terminated, truncated, info, shown=obs)
        if next_obs is not checked:  # final observations from `info` are in place: check them, too
            self.method.obs.check(next_obs, rows or 1, "info['final_obs']")
        draft.plans.score(next_obs, active)
        if draft.learn:
            draft.context.close(session.acted, reward, next_obs, terminated, truncated, active)
        else:
            draft.context.advance_unrecorded(session.acted, reward, terminated | truncated, active)
        draft.acted = None
        commit(session.changes(draft))

    @property
    def context(self) -> Context:
        """Current context; fork it with `select` or `repeat`, do not write to it."""
        return self.session.context

    def visible(self, context: Context) -> Steps:
        """Steps of a context that can still influence an action."""
        return self.method.visible(context)

    def policy(self, context: Context, obs: np.ndarray, active: np.ndarray | None = None) -> Any:
        """Action distribution at `obs` (B, ...), which becomes the open step of `context`.

        Rows outside `active` (B,) bool are computed but not recorded. A failed call leaves `context` unchanged.
        """
        return self.method.policy(context, obs, active)

    @property
    def session(self) -> Session:
        """Acting state since the last `reset`, read-only; RuntimeError if there is none or the device has changed."""
        if self._session is None:
            raise RuntimeError("no task has begun: call agent.reset(), or reset(env) for a vector environment, first")
        if self._session.device != self.device:
            raise RuntimeError(
                f"the agent moved from {self._session.device} to {self.device} in the middle of a task: "
                "call agent.reset(), or move it back"
            )
        return self._session

    # ---- planning -----------------------------------------------------------------------------------------------

    def use_plan(self, plan: str | Planner | None, plan_kwargs: Mapping[str, Any] | None = None) -> None:
        """Set the default planner of `act`; None: no planner.

        Args:
            plan: a `Planner`, or a name: "lookahead", "beam" (as published), or "best-of-n" (for real-valued actions).
            plan_kwargs: settings that override those of `plan`.

        Raises:
            ValueError: the planner or a setting is unknown, or the agent was trained without dynamics.
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

    # ---- loading and saving -------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        device: str | torch.device = "auto",
        plan: str | Planner | None = None,
        plan_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Load an agent from a folder, a bundled name (no network) or the Hugging Face Hub; nothing is ever unpickled.

        `agent.source` names the origin: local, bundled or hub@commit.

        Args:
            id_or_path: folder, bundled name, or Hub repository id.
            revision, token, cache_dir, local_files_only, force_download: Hub options, as in `huggingface_hub`.
            device: "auto" (a CUDA GPU, else MPS, else the CPU), "cpu", "mps", "cuda", "cuda:1" or a `torch.device`;
                weights are float32 on every device. After moving the agent with `to`, call `reset`.
            plan, plan_kwargs: default planner, see `use_plan`.

        Raises:
            FileNotFoundError: the path, Hub repository, revision or file does not exist, or the run is unfinished.
            ValueError: the checkpoint is damaged, from another program, newer than this package, or does not fit its
                config; or this machine has no such device.
        """
        chosen = pick_device(device)  # checked before the download, like the planner
        if plan is not None:
            make_planner(plan, plan_kwargs)
        options = Download(revision, token, cache_dir, local_files_only, force_download)
        found = pretrained.load(id_or_path, chosen, options)
        agent = cls(found.method, found.facts)
        agent.source, agent.origin = found.source, found.origin
        agent.use_plan(plan, plan_kwargs)
        return agent
