"""THE training loop: batches of windows in, a checkpoint folder out.

It runs through Accelerate, so the same code serves one CPU, a GPU and `accelerate launch` on many processes; every
process takes its rows of the same global batch, which gives the same result as one process.

A run folder is a checkpoint folder (config.json, model.safetensors, README.md) with `train.json` (the resolved
settings and versions), `metrics.jsonl` and, while it runs, `checkpoints/`. One process at a time owns it. Ctrl-C and
SIGTERM wait for the end of the update and save its state.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from icrl_envs import FAMILIES
from torch import nn

from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.pretrained import init_from
from icrl_agents.core.action_masks import check_legal
from icrl_agents.core.caution import warn
from icrl_agents.core.files.names import check_utf8
from icrl_agents.core.printable import printable
from icrl_agents.core.process.interrupts import Stop, stopping
from icrl_agents.core.process.packages import need, versions
from icrl_agents.core.process.terminal import progress_bar
from icrl_agents.core.splits import Splits, split_tasks
from icrl_agents.core.steps import Steps
from icrl_agents.evaluation.evaluate import evaluate, trained_on
from icrl_agents.histories.store import HistoryStore
from icrl_agents.methods import METHODS
from icrl_agents.methods.base.method import Method
from icrl_agents.methods.base.transforms import hide_rewards, renumber_actions
from icrl_agents.nn.devices import accelerate_on, training_device
from icrl_agents.nn.numerics import own_settings
from icrl_agents.sources import default_source, make_source
from icrl_agents.sources.source import Source
from icrl_agents.training.config import PRECISIONS, TrainConfig, split_settings
from icrl_agents.training.optimizer import learning_rate, make_optimizer
from icrl_agents.training.provenance import describe_data, describe_training
from icrl_agents.training.run_folder import (
    absolute,
    claim,
    command_line,
    drop_states,
    is_finished,
    load_state,
    newest_checkpoint,
    open_metrics,
    own,
    read_started,
    resumable,
    save_state,
    start_over,
    trim_metrics,
)
from icrl_agents.training.tracking import Track, check_trackers, open_trackers
from icrl_agents.training.windows import FreshWindows, StoreWindows, Windows

if TYPE_CHECKING:
    from accelerate import Accelerator

PREPARING = 1  # sets the generator of `prepare` apart from that of the windows
FEW_TASKS = 20
VALIDATION_TASKS = 32  # at most: enough to see progress, few enough not to delay it


def train(
    method: str,
    env_id: str,
    out: str | Path,
    *,
    histories: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    track: Track = None,
) -> ICAgent:
    """Train a new agent and write it to the folder `out`.

    Args:
        method: a name in `METHODS`.
        env_id: a registered environment id; its train split is used, minus the validation tasks.
        histories: an HDF5 file of `collect`; without it fresh lifetimes are made on the fly.
        settings: fields of `TrainConfig` and of the method's config, and of the source's settings as "source.<name>";
            the rest keep their defaults.
        device: "auto" (a CUDA GPU, else MPS, else the CPU), "cpu", "mps", "cuda" or "cuda:1". Under `accelerate
            launch` every process takes its own of that kind. Mixed precision (bf16) is the default on CUDA only.
        resume: continue the run in `out` where its last checkpoint is, with the settings it was started with; give
            none, or the same.
        overwrite: delete the run in `out` first.
        quiet: no progress bar.
        track: where metrics go besides metrics.jsonl: names in `tracking.TRACKERS` or Accelerate's trackers; none for
            [], by default TensorBoard where it is installed.

    Raises:
        ValueError: an unknown name or a bad value.
        FileExistsError: `out` is not empty and neither `resume` nor `overwrite` is given.
        BlockingIOError: another process trains in `out`.
        KeyboardInterrupt, SystemExit: Ctrl-C and SIGTERM, after the state was saved that `resume` continues from; the
            second signal does not wait for that.
    """
    chosen = training_device(device)
    out = Path(out).expanduser()
    check_utf8(out, "" if histories is None else histories)
    if resume and overwrite:
        raise ValueError("resume and overwrite contradict each other: give one of them")
    if resume and is_finished(out):  # which may lie where nothing can be written
        read_started(out, method, env_id, histories, settings or {})
        return ICAgent.from_pretrained(out, device=device)
    with own(out):
        run = _plan(method, env_id, out, histories, dict(settings or {}), chosen, resume, overwrite, quiet, track)
        if resume and is_finished(out):  # by the owner before
            return ICAgent.from_pretrained(out, device=device)
        # the caller's settings and random numbers stay as they were
        forked = torch.random.fork_rng([chosen] if chosen.type == "cuda" else [])
        with own_settings(), _threads(run.config.threads), forked, accelerate_on(chosen):
            return run.go()


def _plan(
    method: str,
    env_id: str,
    out: Path,
    histories: str | Path | None,
    settings: dict[str, Any],
    device: torch.device,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    track: Track,
) -> Run:
    """The run that `train` was asked for; nothing is written yet."""
    command, fresh = command_line(), histories is None and not resume
    if resume:
        histories, settings, command = read_started(out, method, env_id, histories, settings)
    config, agent_config, for_source = split_settings(method, env_id, settings, fresh)
    split_tasks(env_id, config.split_seed, config.task_set)  # refuses unknown ids before anything is written
    path = None if histories is None else absolute(histories)
    check_utf8(path or "")
    if path and (config.source or for_source):
        raise ValueError(
            f"source={config.source!r} makes fresh lifetimes, {path.name} holds its own: leave one of them out"
        )
    source = None if path else make_source(config.source or default_source(env_id), env_id, for_source)
    trackers = check_trackers(track)
    if not resume:
        claim(out, overwrite)
    made = (config, agent_config, command, device, quiet, resume, trackers)
    return Run(method, env_id, out, path, source, for_source, *made)


@dataclass
class Run:
    """One training run: what was asked for and where it stands."""

    method: str
    env_id: str
    out: Path
    histories: Path | None
    source: Source | None  # of fresh lifetimes, where there are no histories
    for_source: dict[str, Any]  # its settings that are not the defaults
    config: TrainConfig
    agent_config: Any
    command: str  # of the start
    device: torch.device
    quiet: bool
    resumed: bool
    track: Sequence[Any]  # trackers, besides metrics.jsonl
    seconds: float = 0.0  # spent so far, earlier parts of a resumed run included

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "env_id": self.env_id,
            "histories": None if self.histories is None else str(self.histories),
            "train": asdict(self.config),
            "agent": asdict(self.agent_config),
            "source": self.for_source,
            "command": self.command,
            "versions": versions(),
        }

    # ---- the loop -------------------------------------------------------------------------------------------------

    def go(self) -> ICAgent:
        accelerator = self._accelerator()
        if self.config.batch_size % accelerator.num_processes:
            raise ValueError(
                f"batch_size={self.config.batch_size} is not a multiple of the {accelerator.num_processes} processes"
            )
        windows, method = self._windows(), self._new_method()
        if method.trains_policy(1.0) and not method.trains_policy(1 - 1 / self.config.updates):
            raise ValueError(f"updates={self.config.updates} end before one of them learns actions: lower pretrain")
        whole = windows.batch(0).mask.shape[1]
        method.check_length(*(min(whole, steps or whole) for steps in self.config.stage_lengths))
        # refuses histories it cannot use, before an old run is deleted; statistics are those of whole windows
        first = self._batch(method, windows, 0, whole=True)
        data = describe_data(self.env_id, self.config, self.source, self.histories)
        if accelerator.is_main_process and not self.resumed:
            warn_few(self.env_id, len(self._splits().train))
            start_over(self.out, self.to_json())
        accelerator.wait_for_everyone()
        with resumable(self.out):
            optimizer = make_optimizer(method, self.config)
            if not self.config.init:
                method.fit_normalization(method.tensors(first))
            start = self._restore(method, optimizer)
            model, optimizer = accelerator.prepare(method, optimizer)
            self._loop(accelerator, model, optimizer, windows, start, data)
            if accelerator.is_main_process:
                self._finish(method, data)
        accelerator.wait_for_everyone()
        accelerator.end_training()
        return ICAgent(method.eval(), self._facts(method, data))

    def _accelerator(self) -> Accelerator:
        accelerate = need("accelerate", "train")
        kind = self.device.type
        precision = PRECISIONS[self.config.precision] or ("bf16" if kind == "cuda" else "no")
        # where memories are trained, a window may be too short for some weights to matter
        handler = accelerate.DistributedDataParallelKwargs(find_unused_parameters=METHODS[self.method].has_memory)
        return accelerate.Accelerator(cpu=kind == "cpu", mixed_precision=precision, kwargs_handlers=[handler])

    def _new_method(self) -> Method:
        torch.manual_seed(self.config.seed)  # of the initial weights and of dropout
        method = METHODS[self.method](*env_spaces(self.env_id), self.agent_config)
        if self.config.init and not (self.resumed and newest_checkpoint(self.out)):
            other = ICAgent.from_pretrained(self.config.init, device="cpu")
            if other.facts.get("env_id") == self.env_id:
                self._refuse_leak(other.facts)
            init_from(method, other.method, self.config.init)
        return method

    def _refuse_leak(self, before: Mapping[str, Any]) -> None:
        """Refuse to go on with an agent that was trained on other tasks, some of which are held out here."""
        theirs, mine = trained_on(before), (self.config.split_seed, self.config.task_set)
        if theirs != mine:
            old, new = ("split_seed={!r}, task_set={!r}".format(*which) for which in (theirs, mine))
            raise ValueError(
                f"init={self.config.init!r} was trained with {printable(old, 120)}, this is {new}: "
                "train on the same, or tasks that it has seen would pass for held out"
            )

    def _loop(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        windows: Windows,
        start: int,
        data: dict[str, Any],
    ) -> None:
        cfg, main = self.config, accelerator.is_main_process
        method = accelerator.unwrap_model(model)
        active = main and not self.quiet
        with (
            progress_bar("training", cfg.updates, "updates", done=start, active=active) as bar,
            open_metrics(self.out, main) as write,
            stopping() as stop,
            open_trackers(accelerator, self.track, self.out, start, self.to_json()) as send,
        ):
            validation = random = ""
            for update in range(start, cfg.updates):
                began = time.perf_counter()
                batch = self._batch(method, windows, update)
                row = self.update(accelerator, model, optimizer, batch, update)
                seconds = time.perf_counter() - began
                self.seconds += seconds
                tokens = int(batch.mask.sum()) * method.tokens_per_step
                row |= {"tokens_per_s": round(tokens / seconds), "seconds": round(self.seconds, 3)}
                due = _due(update + 1, cfg.eval_every) or (cfg.eval_every and update + 1 == cfg.updates)
                if due and method.trains_policy(update / cfg.updates):
                    row |= self._validate(accelerator, method)
                    validation, random = _validation_notes(row)
                write(row)
                send(row)
                bar(update + 1, f"{validation}loss {row['loss']:.3f}{random}  {row['tokens_per_s']:,} tokens/s")
                asked = _agreed(accelerator, stop)
                if main and (asked or (_due(update + 1, cfg.checkpoint_every) and update + 1 < cfg.updates)):
                    facts = self._facts(method, data, f"It was saved at update {update + 1} of {cfg.updates}.")
                    save_state(self.out, update + 1, ICAgent(method, facts).save_pretrained, optimizer, self.seconds)
                if asked:
                    accelerator.wait_for_everyone()  # the launcher ends all when the first has left
                    stop.leave()

    def _batch(self, method: Method, windows: Windows, update: int, whole: bool = False) -> Steps:
        rng = np.random.default_rng([self.config.seed, update, PREPARING])
        batch = windows.batch(update)
        check_legal(batch)
        batch = batch.window(0, None if whole else self.config.most_steps(update / self.config.updates))
        if self.config.renumber:
            batch = renumber_actions(batch, method.action.options, rng)
        if self.config.blind:
            batch = hide_rewards(batch, rng, self.config.blind, self.config.blind_after)
        return method.prepare_batch(batch, rng, update / self.config.updates)

    def update(
        self, accelerator: Accelerator, model: nn.Module, optimizer: Any, batch: Steps, update: int
    ) -> dict[str, Any]:
        """One optimizer step on this process's rows of the global batch, in micro-batches."""
        cfg = self.config
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(update, cfg)
        rank, world = accelerator.process_index, accelerator.num_processes
        mine = np.arange(cfg.batch_size)[rank::world]
        span = self.agent_config.span
        shorter = max(1, span // (cfg.most_steps(update / cfg.updates) or span))  # so many times as many windows a pass
        parts = np.array_split(mine, math.ceil(len(mine) / (cfg.micro_batch * shorter)))
        method = accelerator.unwrap_model(model)
        method.train()
        sums: dict[str, float] = {}
        for number, part in enumerate(parts):
            last = number + 1 == len(parts)  # gradients travel between processes once an update
            with nullcontext() if last else accelerator.no_sync(model), accelerator.autocast():
                rows = batch.rows(part)
                terms = model(method.tensors(rows))
                share = (
                    float(method.loss_weight(rows)) * world / max(1.0, float(method.loss_weight(batch)))
                )  # the terms are means
                loss = torch.stack(list(terms.values())).sum() * share
            accelerator.backward(loss)
            for name, value in {**terms, "loss": sum(terms.values())}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * share
        if not math.isfinite(sums["loss"]):
            raise ValueError(
                f"the loss became {sums['loss']} at update {update + 1}: lower lr={cfg.lr} or clip={cfg.clip}"
            )
        accelerator.clip_grad_norm_(model.parameters(), cfg.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if world > 1:
            values = accelerator.reduce(torch.tensor(list(sums.values()), device=accelerator.device), "mean")
            sums = dict(zip(sums, values.tolist(), strict=True))
        rounded = {name: round(value, 6) for name, value in sums.items()}
        return {"update": update + 1, **rounded, "lr": learning_rate(update, cfg)}

    def _windows(self) -> Windows:
        cfg, tasks = self.config, self._splits().train.ids
        window, aligned = self.agent_config.span, METHODS[self.method].episode_aligned
        if self.histories is not None:
            with HistoryStore(self.histories) as store:
                if store.info.env_id != self.env_id:
                    theirs = printable(store.info.env_id)
                    raise ValueError(f"{self.histories} holds {theirs}, not {self.env_id}: give --env {theirs}")
                return StoreWindows(store, tasks, window, cfg.batch_size, cfg.seed, env_spaces(self.env_id), aligned)
        assert self.source is not None
        return FreshWindows(self.env_id, self.source, tasks, cfg.episodes, window, cfg.batch_size, cfg.seed, aligned)

    def _splits(self) -> Splits:
        return split_tasks(self.env_id, self.config.split_seed, self.config.task_set)

    def _validate(self, accelerator: Accelerator, method: Method) -> dict[str, float]:
        """In-context return on validation tasks; never the test tasks, which would make them a choice's judge."""
        row: dict[str, float] = {}
        if accelerator.is_main_process:
            method.eval()
            episodes = self.config.eval_episodes
            tasks = self._splits().validation.ids[:VALIDATION_TASKS]
            agent = ICAgent(method, {"split_seed": self.config.split_seed, "train": asdict(self.config)})
            curve = evaluate(agent, self.env_id, episodes=episodes, num_seeds=4, seed=self.config.seed, tasks=tasks)
            half = max(1, episodes // 2)
            row = {
                "validation_return": float(curve.mean[-half:].mean()),
                "validation_random": float(curve.random.mean()),
                "validation_optimal": float(curve.optimal.mean()),
            }
        accelerator.wait_for_everyone()
        return row

    # ---- files ----------------------------------------------------------------------------------------------------

    def _restore(self, method: Method, optimizer: torch.optim.Optimizer) -> int:
        if not self.resumed:
            return 0
        found = newest_checkpoint(self.out)
        update = 0
        if found is not None:
            update, self.seconds = load_state(found, method, optimizer)
        trim_metrics(self.out, update)
        return update

    def _facts(self, method: Method, data: dict[str, Any], *limits: str) -> dict[str, Any]:
        device = next(method.parameters()).device
        facts = describe_training(self.env_id, self.config, data, self.command, self.seconds, device)
        untrained = [] if method.trains_policy(1.0) else ["It was pretrained only and has not learned to act."]
        return facts | ({"limits": [*limits, *untrained]} if limits or untrained else {})

    def _finish(self, method: Method, data: dict[str, Any]) -> None:
        ICAgent(method, self._facts(method, data)).save_pretrained(self.out)
        drop_states(self.out)


def warn_few(env_id: str, tasks: int) -> None:
    """Warn of training tasks that are so few that an agent learns them instead of learning to learn."""
    if tasks < FEW_TASKS:
        rules = type(FAMILIES[env_id].rules)
        larger = (name for name, family in FAMILIES.items() if type(family.rules) is rules and len(family) > FEW_TASKS)
        advice = f": for unseen tasks train on {name}" if (name := next(larger, None)) else ""
        warn(f"{env_id} has {tasks} training tasks, which an agent learns by heart{advice}")


def env_spaces(env_id: str) -> tuple[gymnasium.Space, gymnasium.Space]:
    """Observation and action space of a single environment."""
    env = gymnasium.make_vec(env_id, num_envs=1)
    env.close()
    return env.single_observation_space, env.single_action_space


def _validation_notes(row: dict[str, Any]) -> tuple[str, str]:
    """What stands before the loss, and behind it, where a narrow terminal has no room."""
    if "validation_return" not in row:  # of the other processes
        return "", ""
    earned, random, best = (row[f"validation_{name}"] for name in ("return", "random", "optimal"))
    return f"validation {earned:.2f} of {best:.2f}  ", f"  random {random:.2f}"


def _agreed(accelerator: Accelerator, stop: Stop) -> int:
    """The signal that asked one of the processes to stop; all of them leave after the same update."""
    if accelerator.num_processes > 1:
        asked = accelerator.reduce(torch.tensor(float(stop.asked > 0), device=accelerator.device), "sum")
        stop.asked = stop.asked or (signal.SIGTERM if asked.item() else 0)
    return stop.asked


def _due(update: int, every: int) -> bool:
    return every > 0 and update % every == 0


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
