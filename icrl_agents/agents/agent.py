"""ICAgent: an agent with frozen weights that learns a task in its context, in a normal Gymnasium loop.

Axis letters: B rows (environments), T environment steps, A actions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from icrl_agents.agents import acting, pretrained
from icrl_agents.agents.acting import Choice, Result, Wish
from icrl_agents.agents.action_sets import ActionSets, from_arguments
from icrl_agents.agents.holder import MethodHolder, alone
from icrl_agents.agents.inputs import read_batch, warn_foreign
from icrl_agents.agents.planning.search import Planner, make_planner
from icrl_agents.agents.session import Session
from icrl_agents.core.arrays import digest
from icrl_agents.core.checks import flag, whole
from icrl_agents.core.printable import printable
from icrl_agents.core.process.caution import warn
from icrl_agents.core.rollout import AGENT, CONFIG, PLAN, WEIGHTS
from icrl_agents.core.steps import Steps
from icrl_agents.hub.download import Download
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.method import Method
from icrl_agents.methods.base.recorded import check_recorded
from icrl_agents.nn import numerics
from icrl_agents.nn.devices import pick_device


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

    def clone(self) -> Self:
        """Agent with the same weights and its own context, from here on; both may act at once, each in one thread."""
        return copy.copy(self)

    # ---- acting -------------------------------------------------------------------------------------------------

    @alone
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
            options: options of the method, see `begin` of its class, such as `target_return` of IDT and DT, and `demo`
                of PromptedDT.

        Raises:
            ValueError: `history` does not fit the rows or spaces, the spaces of env and agent differ, or arguments
                contradict each other.
            TypeError: the method has no such option.
            RuntimeError: another thread is acting.
        """
        method = self.method
        if unknown := options.keys() - set(method.reset_options):
            raise TypeError(f"reset() of this agent has no option {min(unknown)!r}: leave it out")
        learn = flag("learn", learn)
        if mask is not None:
            if history is not None or not learn:
                raise ValueError("reset(mask=...) begins with nothing and learns: leave history and learn out")
            if env is not None or num_envs is not None or autoreset_mode is not None:
                raise ValueError("reset(mask=...) keeps the running batch: leave env, num_envs and autoreset_mode out")
            return acting.reset_rows(method, self.session, mask, seed, (action_set, num_actions), options)
        batch = read_batch(method, env, num_envs, autoreset_mode)
        if env is not None:
            warn_foreign(self.facts, env)
        seed = None if seed is None else whole("seed", seed, 0, 2**63 - 1)
        asked = from_arguments(method, action_set, num_actions, batch.rows)
        checked = None if history is None else check_recorded(method, history, batch.rows, "history")
        sets = ActionSets.of(method, batch.rows, asked, env, history)
        with numerics.acting(method):
            session = Session(method, batch, seed, learn, sets if checked is None else sets.widened(checked))
            if checked is not None:
                method.load_history(session.context, checked)
        method.begin(session.context, np.arange(batch.rows), **options)
        self._begin(session)
        return None

    @alone
    def act(
        self, obs: Any, deterministic: bool = False, plan: str | Planner | bool | None = True, *, rows: Any = None
    ) -> Any:
        """Choose the next action, or a batch (B, ...) of actions, as NumPy values of the action space.

        Args:
            obs: current observation, or batch (B, ...), as returned by `env.reset()` or the last `env.step()`.
            deterministic: take the most probable action instead of a sample. Integer actions at least a quarter as
                probable as that one count as equal, and one of them is drawn, so that an agent still searches. The
                draws follow from the seed of `reset`, and are always the same without one. Real-valued actions have one
                mode, which ends exploration; a warning says so.
            plan: planner or name of a planner for this action only, None for none; the default is that of `use_plan`.
            rows: numbers (n,) of the rows of the batch that act, in the order of `obs` (n, ...); the others stay as
                they are. None: all.

        Raises:
            ValueError: `obs` is not in the observation space (shape, dtype or range), or the planner is unknown.
            RuntimeError: no `reset` yet, `act` twice without `observe`, or two threads at once, see `clone`.
        """
        return acting.act(self.method, self.session, obs, self._wish(deterministic, plan, rows))

    @alone
    def decide(
        self, obs: Any, deterministic: bool = False, plan: str | Planner | bool | None = True, *, rows: Any = None
    ) -> Choice:
        """Choose the next action, or a batch of actions, whose outcomes may arrive late and in any order.

        The context holds the decisions whose outcome has arrived, in the order of arrival: the policy is that of an
        agent that has seen only those. Meant for bandits, where decisions do not depend on the outcome of earlier ones.
        The arguments are those of `act`.

        Returns:
            The actions, as `act` returns them, and their ids, for `observe(..., decision=id)`.

        Raises:
            ValueError: as in `act`; an env in NEXT_STEP mode; or 65,536 decisions wait.
            RuntimeError: no `reset` yet, or a row is between `act` and `observe`.
        """
        return acting.decide(self.method, self.session, obs, self._wish(deterministic, plan, rows))

    def _wish(self, deterministic: bool, plan: str | Planner | bool | None, rows: Any) -> Wish:
        planner = self.planner if plan is True else self._planner(None if plan is False else plan)
        return Wish(flag("deterministic", deterministic), planner, rows)

    @alone
    def observe(
        self,
        obs: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        info: dict[str, Any] | None = None,
        *,
        rows: Any = None,
        decision: Any = None,
    ) -> None:
        """Record the outcome of the last action: the return values of `env.step(action)`, in the same order.

        Batches are (B, ...) for `obs` and (B,) for the others. `info` holds the final observations of SAME_STEP envs.
        Rows may end episodes at different times; see `Boundary` for the autoreset modes.

        Args:
            rows: numbers (n,) of the rows that `act(rows=...)` chose for; the values are (n, ...), `info` that of
                these rows. None: all.
            decision: id of `decide`, or ids (n,) of different rows in a batch: `obs` is then the final observation
                where an episode ended, and there is no `info`.

        Raises:
            ValueError: a value of the wrong shape, dtype or range, a missing final observation, or a decision that is
                unknown, was observed before, or ends an episode in which others wait.
            RuntimeError: `observe` before `act`.
        """
        result = Result(obs, reward, terminated, truncated, info)
        if decision is None:
            return acting.observe(self.method, self.session, result, rows)
        if rows is not None or info is not None:
            raise ValueError("a decision names its rows, and its obs is the final one: leave rows and info out")
        return acting.observe_late(self.method, self.session, result, decision)

    def identity(self) -> dict[str, Any]:
        """What the actions depend on besides the context, as JSON: name, SHA-256 of the weights, config, planner."""
        name, weights = self.origin or f"<{type(self).__name__}>", digest(self.state_dict())
        known = {AGENT: name, WEIGHTS: weights, CONFIG: asdict(self.config)}
        return known if self.planner is None else {**known, PLAN: asdict(self.planner)}

    @property
    def context(self) -> Context:
        """Current context; fork it with `select` or `repeat`, do not write to it."""
        return self.session.context

    def visible(self, context: Context) -> Steps:
        """Steps of a context that can still influence an action."""
        return self.method.visible(context)

    @alone
    def policy(self, context: Context, obs: np.ndarray, active: np.ndarray | None = None) -> Any:
        """Action distribution at `obs` (B, ...), which becomes the open step of `context`.

        Rows outside `active` (B,) bool are computed but not recorded. A failed call leaves `context` unchanged.

        Raises:
            RuntimeError: another thread is acting.
        """
        return self.method.policy(context, obs, active)

    # ---- planning -----------------------------------------------------------------------------------------------

    def use_plan(self, plan: str | Planner | None, plan_kwargs: Mapping[str, Any] | None = None) -> None:
        """Set the default planner of `act`; None: no planner.

        Args:
            plan: a `Planner`, or a name: "lookahead", "beam" (as published), or "best-of-n" (for real-valued actions).
            plan_kwargs: settings that override those of `plan`.

        Raises:
            ValueError: the planner or a setting is unknown or does not fit the agent's window, or the agent was trained
                without dynamics.
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
        if planner.after >= self.config.window:
            raise ValueError(
                f"after={planner.after} steps, counted in the window, do not fit its {self.config.window}, "
                "so the planner would never act: lower it"
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

        `agent.source` names the origin: local, bundled or hub@commit. `revision`, `token`, `cache_dir`,
        `local_files_only` and `force_download` are options of the Hub, as in `huggingface_hub`.

        Args:
            id_or_path: folder, bundled name, or Hub repository id.
            device: "auto" (a CUDA GPU, else MPS, else the CPU), "cpu", "mps", "cuda", "cuda:1" or a `torch.device`;
                weights are float32 on every device. After moving the agent with `to`, call `reset`.
            plan: default planner, see `use_plan`.
            plan_kwargs: settings that override those of `plan`.

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
        if not isinstance(found.method, Method):
            raise ValueError(
                f"{printable(id_or_path)} is a {type(found.method).__name__}, which labels histories and does not act: "
                "use icrl-agents annotate"
            )
        agent = cls(found.method, found.facts)
        agent.source, agent.origin = found.source, found.origin
        agent.use_plan(plan, plan_kwargs)
        return agent
