"""Training loop: reads batches of windows, writes a checkpoint folder.

It runs through Accelerate, so the same code serves one CPU, a GPU and `accelerate launch` on several processes; every
process takes micro-batches of the same global batch, so the result equals that of one process.

A run folder is a checkpoint folder (config.json, model.safetensors, README.md) with `train.json` (resolved settings
and versions), `metrics.jsonl` and, during the run, `checkpoints/`. One process at a time owns it. Ctrl-C and SIGTERM
take effect at the end of the update, after its state is saved.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.annotator import Annotator
from icrl_agents.agents.pretrained import init_from
from icrl_agents.core.checks import flag
from icrl_agents.core.families import check_same_tasks, env_spaces
from icrl_agents.core.files.names import check_utf8
from icrl_agents.core.printable import printable
from icrl_agents.core.process.interrupts import stopping
from icrl_agents.core.process.packages import need
from icrl_agents.core.process.terminal import progress_bar
from icrl_agents.core.steps import Steps
from icrl_agents.evaluation.evaluate import trained_on
from icrl_agents.histories.shards import Paths, listed
from icrl_agents.hub.unfinished import newest_checkpoint
from icrl_agents.methods import MODELS
from icrl_agents.methods.base.trainable import Trainable
from icrl_agents.nn.compiled import compile_bodies, require_compiler
from icrl_agents.nn.devices import accelerate_on, training_device
from icrl_agents.nn.lowered import set_precision
from icrl_agents.nn.numerics import own_settings, threads
from icrl_agents.training.config import PRECISIONS
from icrl_agents.training.data import collect_own, collecting, naming_file, open_windows, training_batch, with_collected
from icrl_agents.training.processes import agreed_memory, agreed_signal, agreed_start, check_number, missing_others
from icrl_agents.training.provenance import describe_data, describe_training
from icrl_agents.training.request import Given, Request
from icrl_agents.training.run_folder import (
    claim,
    drop_killed,
    drop_states,
    is_finished,
    load_state,
    open_metrics,
    own,
    read_started,
    resumable,
    save_state,
    start_over,
    trim_metrics,
)
from icrl_agents.training.tracking import Track, check_trackers, open_trackers
from icrl_agents.training.update import Updater, Work, make_optimizer
from icrl_agents.training.validation import validate, validation_notes, warn_few
from icrl_agents.training.windows import Windows

if TYPE_CHECKING:
    from accelerate import Accelerator

WAITING = timedelta(days=30)  # the others wait while the first process collects or validates; usual: 10 to 30 minutes
UNREAD = {"cuda": 20}  # updates between readings of their metrics, for which the device must finish; others: 1


def train(
    method: str,
    env_id: str,
    out: str | Path,
    *,
    histories: Paths | None = None,
    settings: dict[str, Any] | None = None,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    track: Track = None,
) -> Any:
    """Train a new agent and write it to the folder `out`.

    Args:
        method: a name in `MODELS`.
        env_id: a registered environment id; its training tasks are used, without the validation tasks.
        histories: files of `collect`: one, several, a folder, or a pattern; they may be larger than memory (setting
            `pool`). Without them fresh lifetimes are generated on the fly, or collected first into
            `<out>-histories.h5` if the source learns one task at a time.
        settings: fields of `TrainConfig` and of the method's config, and source settings as "source.<name>"; the
            others keep their defaults. "source.expert" is an expert (`as_expert`), or the name of an agent.
        device: "auto" (a CUDA GPU, else MPS, else the CPU), "cpu", "mps", "cuda" or "cuda:1". Under `accelerate
            launch` every process takes its own device of that kind. Mixed precision (bf16) is the default on CUDA only.
        resume: continue the run in `out` from its last checkpoint, with its original settings; `settings` may only
            repeat them.
        overwrite: delete the run in `out` first.
        quiet: no progress bar.
        track: receivers of metrics besides metrics.jsonl: names in `tracking.TRACKERS` or Accelerate's trackers; [] for
            none, by default TensorBoard if it is installed.

    Returns:
        An `ICAgent`; of a model that does not act, such as "lam", an `Annotator`.

    Raises:
        ValueError: unknown name or bad value.
        FileExistsError: `out` is not empty and neither `resume` nor `overwrite` is given.
        BlockingIOError: another process trains in `out`.
        ConnectionError: under `accelerate launch` another process has ended, or this one failed in an earlier training.
        KeyboardInterrupt, SystemExit: Ctrl-C and SIGTERM, after a checkpoint for `resume` is saved; a second signal
            does not wait for it.
    """
    chosen, out = training_device(device), Path(out).expanduser()
    check_utf8(out, *listed(histories or ()))
    resume, overwrite, quiet = flag("resume", resume), flag("overwrite", overwrite), flag("quiet", quiet)
    if resume and overwrite:
        raise ValueError("resume and overwrite contradict each other: give one of them")
    given = Given.of(settings)
    if resume and is_finished(out):  # before `own`, since a finished run may be read-only
        read_started(out, method, env_id, histories, given.settings)
        drop_killed(out)
        return _holder(method).from_pretrained(out, device=device)
    resume = resume and not collecting(out)  # interrupted before its first update: the collection resumes by itself
    with own(out):
        request = Request.of(method, env_id, out, histories, given, resume)
        run = Run(request, chosen, quiet, check_trackers(track), overwrite)
        if not resume:
            claim(out, overwrite)
        if resume and is_finished(out):  # finished by the previous owner
            return _holder(method).from_pretrained(out, device=device)
        # leave the caller's PyTorch settings and random state unchanged
        forked = torch.random.fork_rng([chosen] if chosen.type == "cuda" else [])
        with own_settings(), threads(request.config.threads), forked, accelerate_on(chosen), closing(run):
            return run.go()


@dataclass
class Run:
    """A training run in this process."""

    request: Request
    device: torch.device
    quiet: bool
    track: Sequence[Any]  # trackers, besides metrics.jsonl
    overwrite: bool = False  # whether histories that an earlier run collected are replaced
    seconds: float = 0.0  # training time so far, including earlier parts of a resumed run
    unread: Work = field(default_factory=Work)  # since the last reading of the metrics
    windows: Windows | None = None

    def close(self) -> None:
        """End the reading of histories."""
        if self.windows is not None:
            self.windows.close()

    @missing_others()
    def go(self) -> ICAgent | Annotator:
        config, accelerator = self.request.config, self._accelerator()
        check_number(accelerator, config.batch_size, self.request.agent_config)
        if config.compile:
            require_compiler(self.device)
        self._new_method()  # refuses spaces, and an `init` of other spaces, sizes or tasks, before hours of collecting
        if accelerator.is_main_process:
            collect_own(self.request, self.quiet, self.overwrite)
        accelerator.wait_for_everyone()
        request = with_collected(self.request)
        windows = self.windows = open_windows(request, agreed_memory(accelerator))
        request, method = request.with_pool(windows.pool), self._new_method()
        self.request = request
        # refuses unusable histories before an old run is deleted; whole windows, for the normalisation statistics
        first = self._first(method, windows)
        data = describe_data(config, request.source, request.histories)
        if accelerator.is_main_process and not request.resumed:
            warn_few(request.env_id, len(request.splits().train))
            start_over(request.out, request.to_json())
        accelerator.wait_for_everyone()
        with resumable(request.out):
            optimizer = make_optimizer(method, config)
            if not config.init:
                method.fit_normalization(method.tensors(first))
            start = agreed_start(accelerator, self._restore(method, optimizer), request.out)
            set_precision(method, accelerator.mixed_precision)
            model, optimizer = accelerator.prepare(method, optimizer)
            if config.compile:
                compile_bodies(method)
            updater = Updater(accelerator, model, optimizer, config, request.agent_config.span)
            self._loop(updater, windows, start, data)
            agent = _holder(request.method)(method.eval(), self._facts(method, data))
            if accelerator.is_main_process:
                agent.save_pretrained(request.out)
                drop_states(request.out)
        accelerator.wait_for_everyone()
        agent.source, agent.origin = "local", request.out.absolute().name  # as if it was loaded
        return agent

    def _accelerator(self) -> Accelerator:
        accelerate = need("accelerate", "train")
        kind = self.device.type
        precision = PRECISIONS[self.request.config.precision] or ("bf16" if kind == "cuda" else "no")
        # a window may be too short for the weights of a memory to receive gradients
        unused = MODELS[self.request.method].has_memory
        handlers = [
            accelerate.DistributedDataParallelKwargs(find_unused_parameters=unused),
            accelerate.utils.AutocastKwargs(enabled=False),  # `set_precision` lowers the transformers only
            accelerate.InitProcessGroupKwargs(timeout=WAITING),
        ]
        return accelerate.Accelerator(cpu=kind == "cpu", mixed_precision=precision, kwargs_handlers=handlers)

    # ---- the start ------------------------------------------------------------------------------------------------

    def _new_method(self) -> Trainable:
        request, init = self.request, self.request.config.init
        torch.manual_seed(request.config.seed)  # initial weights and dropout
        method = MODELS[request.method](*env_spaces(request.env_id), request.agent_config)
        if init and not (request.resumed and newest_checkpoint(request.out)):
            other = _holder(request.method).from_pretrained(init, device="cpu")
            if other.facts.get("env_id") == request.env_id:
                check_same_tasks(request.env_id, other.facts, f"init={init!r} was trained")
                self._refuse_leak(other.facts)
            init_from(method, other.method, init)
        return method

    def _refuse_leak(self, facts: Mapping[str, Any]) -> None:
        """ValueError for an `init` agent of another split or task set: its training tasks may be held out here."""
        config = self.request.config
        theirs, ours = trained_on(facts), (config.split_seed, config.task_set)
        if theirs != ours:
            old, new = ("split_seed={!r}, task_set={!r}".format(*which) for which in (theirs, ours))
            raise ValueError(
                f"init={config.init!r} was trained with {printable(old, 120)}, this is {new}: "
                "train on the same, or tasks that it has seen would pass for held out"
            )

    def _first(self, method: Trainable, windows: Windows) -> Steps:
        """The first batch with whole windows; ValueError for a training that would leave some weights untrained."""
        config = self.request.config
        if method.trains_policy(1.0) and not method.trains_policy(1 - 1 / config.updates):
            raise ValueError(f"updates={config.updates} end before one of them learns actions: lower pretrain")
        whole = windows.batch(0).mask.shape[1]
        method.check_length(*(min(whole, steps or whole) for steps in config.stage_lengths))
        with naming_file(self.request):
            return training_batch(method, windows, config, 0, whole=True)

    def _restore(self, method: Trainable, optimizer: torch.optim.Optimizer) -> int:
        """Restore the last checkpoint of a resumed run; returns its number of updates, 0 for a new run."""
        if not self.request.resumed:
            return 0
        found, update = newest_checkpoint(self.request.out), 0
        if found is not None:
            update, self.seconds = load_state(found, method, optimizer)
        trim_metrics(self.request.out, update)
        return update

    # ---- the loop -------------------------------------------------------------------------------------------------

    def _loop(self, updater: Updater, windows: Windows, start: int, data: dict[str, Any]) -> None:
        request, cfg, accelerator, method = self.request, self.request.config, updater.accelerator, updater.method
        main = accelerator.is_main_process
        with (
            progress_bar("training", cfg.updates, "updates", done=start, active=main and not self.quiet) as bar,
            open_metrics(request.out, main) as write,
            stopping() as stop,
            open_trackers(accelerator, self.track, request.out, start, request.to_json()) as send,
        ):
            before, after = "", ""  # what the bar says of the last validation, before and after the loss
            for number in range(start, cfg.updates):
                done, validates = number + 1, self._validates(method, number)
                rows = self._update(updater, windows, number, validates)
                if not rows:
                    continue
                latest = rows[-1]
                if validates:
                    latest |= validate(method, request) if main else {}
                    accelerator.wait_for_everyone()
                    before, after = validation_notes(latest)
                for row in rows:
                    write(row)
                    send(row)
                bar(done, f"{before}loss {latest['loss']:.3f}{after}  {latest['tokens_per_s']:,} tokens/s")
                stopped = agreed_signal(accelerator, stop)
                if main and (stopped or (_due(done, cfg.checkpoint_every) and done < cfg.updates)):
                    self._save(method, updater.optimizer, done, data)
                if stopped:
                    accelerator.wait_for_everyone()  # the launcher ends all processes when the first one exits
                    stop.leave()

    def _validates(self, method: Trainable, number: int) -> bool:
        """Whether validation follows update `number`: at each `eval_every`-th one and the last, if it acts."""
        cfg, done = self.request.config, number + 1
        due = _due(done, cfg.eval_every) or (cfg.eval_every > 0 and done == cfg.updates)
        return due and method.acts and method.trains_policy(number / cfg.updates)

    def _save(self, method: Trainable, optimizer: Any, done: int, data: dict[str, Any]) -> None:
        """Write the checkpoint that --resume continues from."""
        facts = self._facts(method, data, f"It was saved at update {done} of {self.request.config.updates}.")
        agent = _holder(self.request.method)(method, facts)
        save_state(self.request.out, done, agent.save_pretrained, optimizer, self.seconds)

    def _update(self, updater: Updater, windows: Windows, number: int, read: bool) -> list[dict[str, Any]]:
        """One update; returns the metrics of all updates since the last reading, [] if they are not read now.

        Checkpoints and validation (`read`) need them. Times are those of all updates of a reading, with their batches.
        """
        began, cfg, done = time.perf_counter(), self.request.config, number + 1
        read = read or _due(done, UNREAD.get(self.device.type, 1)) or _due(done, cfg.checkpoint_every)
        batch = training_batch(updater.method, windows, cfg, number)
        rows = updater.update(batch, number, read or done == cfg.updates)
        tokens = int(batch.mask.sum()) * updater.method.tokens_per_step
        self.unread = self.unread.plus(tokens, time.perf_counter() - began)
        if rows:
            work, self.unread = self.unread, Work()
            self.seconds += work.seconds
            rate = {"tokens_per_s": round(work.tokens / work.seconds), "seconds": round(self.seconds, 3)}
            rows = [row | rate for row in rows]
        return rows

    def _facts(self, method: Trainable, data: dict[str, Any], *limits: str) -> dict[str, Any]:
        untrained = [] if method.trains_policy(1.0) else ["It was pretrained only and has not learned to act."]
        env_id, config, command = self.request.env_id, self.request.config, self.request.command
        return describe_training(env_id, config, data, command, self.seconds, method.device, [*limits, *untrained])


def _holder(method: str) -> Any:
    """The class that holds, loads and saves a trained model."""
    return ICAgent if MODELS[method].acts else Annotator


def _due(update: int, every: int) -> bool:
    return every > 0 and update % every == 0
