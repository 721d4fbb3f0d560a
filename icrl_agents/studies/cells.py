"""Cells of a study: training runs, each in its own folder with its test curve.

An interrupted study continues with the missing cells, and within a cell with the missing updates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from icrl_agents.core.families import TaskSet, sendable
from icrl_agents.core.process.interrupts import continuing
from icrl_agents.core.process.jobs.backends import Backend, open_workers
from icrl_agents.core.process.jobs.shared_folder import SharedFolder, shared
from icrl_agents.core.process.launched import refuse_launched
from icrl_agents.core.splits import TRAIN, split_tasks
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.evaluation.results import spread, usual_seeds
from icrl_agents.hub.checkpoint import WEIGHTS
from icrl_agents.methods import PREDICTORS
from icrl_agents.training.request import Given, Request
from icrl_agents.training.run_folder import NOTE, is_finished, leaves_open, note_files, read_started

CURVE = "curve.json"


class Cell(NamedTuple):
    """One training run of a study, and its evaluation on held-out tasks."""

    method: str
    env_id: str
    folder: Path
    settings: dict[str, Any]
    spec: EvalSpec  # of the evaluation, see `with_defaults`
    histories: tuple[Path, ...] | None = None  # absolute paths of the files to train on; None: fresh lifetimes


def with_defaults(spec: EvalSpec, tasks: TaskSet) -> EvalSpec:
    """The spec with a published lifetime and `usual_seeds` lifetimes on each of the tasks, unless it has others."""
    episodes = tasks.family.lifetime if spec.episodes is None else spec.episodes
    seeds = usual_seeds(min(spec.tasks or len(tasks), len(tasks))) if spec.num_seeds is None else spec.num_seeds
    return spec._replace(episodes=episodes, num_seeds=seeds)


def run_cells(cells: Sequence[Cell], jobs: int | None = 1, backend: Backend = Backend()) -> Iterator[Curve]:
    """Train and evaluate missing cells; yields the curve of every cell in order.

    Args:
        cells: the cells of a study.
        jobs: number of cells in parallel, each in its own process; None: the backend's default.
        backend: where they run. The machines of a cluster share the folders of the cells, so that a training whose
            machine died continues from its last checkpoint.

    Raises:
        ValueError: a cell's folder has another training or evaluation, or several processes were launched; nothing is
            trained then.
        FileNotFoundError: a machine of the cluster does not have the folder.
    """
    refuse_launched("a study")
    for cell in cells:  # all checks come before the first training
        check_cell(cell)
    if all((cell.folder / CURVE).is_file() for cell in cells):
        jobs, backend = 1, Backend()  # no cluster is started to read files
    families = sendable(cell.env_id for cell in cells) if backend.elsewhere(jobs) else []
    placed = [cell._replace(folder=cell.folder.absolute()) for cell in cells]
    above = placed[0].folder.parent
    with (
        continuing(lambda: "the same command continues"),
        open_workers(backend, jobs, families, above / "jobs") as workers,
    ):
        if backend.name == "local":
            yield from workers.in_order(run_cell, cells)
            return
        with shared(above) as folder:
            yield from workers.in_order(partial(_run_there, folder), placed)


def _run_there(folder: SharedFolder, cell: Cell) -> Curve:
    folder.check()
    return run_cell(cell)


def check_cell(cell: Cell) -> None:
    """ValueError for a cell that cannot be trained and evaluated, or whose folder has another one of an earlier study.

    All settings are compared, the defaults among them: a study that drops one of them is another study.
    """
    if cell.method in PREDICTORS:
        raise ValueError(f"a study measures agents, and {cell.method} does not act: use icrl-agents train for each")
    given = Given.of(cell.settings)
    now = Request.of(cell.method, cell.env_id, cell.folder, cell.histories, given, resume=False).settings
    if not (cell.folder / NOTE).is_file():
        if (cell.folder / CURVE).is_file() or (cell.folder / WEIGHTS).is_file():
            raise ValueError(f"{cell.folder} has no {NOTE} that says how it was trained: give another folder")
        return
    try:
        started = read_started(cell.folder, cell.method, cell.env_id, cell.histories, given.settings)
    except ValueError as error:
        raise ValueError(f"{str(error).rsplit(': ', 1)[0]}: give the study another folder") from None
    for name, before in started.settings.items():
        if (value := now.get(name)) != before and not leaves_open(name, value):
            raise ValueError(
                f"{name} is {value!r} where it is not given, but {cell.folder} was trained with {before!r}: give "
                f"{name}={before!r}, or the study another folder"
            )
    _compare(cell, {"histories": note_files(cell.histories)}, {"histories": started.histories})
    if (cell.folder / CURVE).is_file():
        curve = Curve.load(cell.folder / CURVE)
        found = {"env_id": curve.env_id, "split": curve.split, "demos": 0, **curve.facts, "tasks": len(curve.tasks)}
        _compare(cell, _evaluation(cell), found)


def _evaluation(cell: Cell) -> dict[str, Any]:
    """The evaluation of a cell, as facts of its curve."""
    spec, task_set = cell.spec, cell.settings.get("task_set", TRAIN)
    held_out = len(split_tasks(cell.env_id, task_set=task_set).pick(spec.split))  # of every split seed the same
    facts = {"env_id": cell.env_id, **spec._asdict(), "tasks": min(spec.tasks or held_out, held_out)}
    if spec.demos is None:  # as many as the agent takes
        del facts["demos"]
    return facts


def _compare(cell: Cell, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    """ValueError if a folder has `found` something else than its cell wants."""
    for name, value in wanted.items():
        if (before := found.get(name)) != value:
            raise ValueError(f"{name}={value!r}, but {cell.folder} has {before!r}: give the study another folder")


def run_cell(cell: Cell) -> Curve:
    """Train and evaluate a cell, except for the parts that are done; returns its curve."""
    from icrl_agents.agents.agent import ICAgent
    from icrl_agents.agents.shown import usual_demos
    from icrl_agents.evaluation.evaluate import evaluate, learner_splits
    from icrl_agents.training.loop import train

    done = cell.folder / CURVE
    if done.is_file():
        return Curve.load(done)
    if not is_finished(cell.folder):
        begun = (cell.folder / NOTE).is_file()
        given: dict[str, Any] = {"histories": cell.histories, "settings": cell.settings}
        train(cell.method, cell.env_id, cell.folder, **given, resume=begun, quiet=True)
    agent = ICAgent.from_pretrained(cell.folder)
    split, episodes, num_seeds, seed, most, demos = cell.spec
    tasks = spread(learner_splits(agent, cell.env_id).pick(split).ids, most) if most else None
    demos = usual_demos(agent, cell.env_id) if demos is None else demos
    assert num_seeds is not None  # see `with_defaults`
    curve = evaluate(agent, cell.env_id, split, episodes, num_seeds, seed, tasks=tasks, demos=demos)
    curve.save(done)
    return curve
