"""Experiment trackers through Accelerate: TensorBoard, and Weights & Biases in offline mode.

Both write to the run folder. `train` accepts instances of Accelerate's `GeneralTracker` as further trackers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icrl_agents.core.checks import check_known
from icrl_agents.core.process.packages import need

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

PROJECT = "icrl-agents"
NONE = "none"


def _tensorboard(out: Path, start: int, settings: dict[str, Any]) -> GeneralTracker:
    from accelerate.tracking import TensorBoardTracker

    return TensorBoardTracker("tensorboard", str(out), purge_step=start + 1 if start else None)


def _wandb(out: Path, start: int, settings: dict[str, Any]) -> GeneralTracker:
    from accelerate.tracking import WandBTracker

    return WandBTracker(
        PROJECT,
        name=out.absolute().name,
        dir=str(out),
        mode=os.environ.get("WANDB_MODE", "offline"),
        config=settings,
        settings={"silent": True, "console": "off"},  # the terminal belongs to the progress bar
    )


TRACKERS: dict[str, Callable[[Path, int, dict[str, Any]], GeneralTracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
PACKAGES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}  # module that each tracker imports

Track = Sequence["str | GeneralTracker"] | None


def check_trackers(track: Track) -> tuple[str | GeneralTracker, ...]:
    """The requested trackers, without duplicates; for None TensorBoard if it is installed.

    Raises:
        ValueError: an unknown name, or "none" beside another.
        ImportError: a tracker's package is not installed.
    """
    if track is None:
        return ("tensorboard",) if _is_installed("tensorboard") else ()
    if isinstance(track, str):
        raise ValueError(f"track={track!r} is a single name: give a list, such as [{track!r}]")
    names = [name for name in track if isinstance(name, str)]
    check_known(names, [*TRACKERS, NONE], "tracker")
    if NONE in names and len(track) > 1:
        raise ValueError(f"track={names} has {NONE!r} beside others: give {NONE!r} alone, or leave it out")
    for name in names:
        if name != NONE and not _is_installed(name):
            raise ImportError(f'{name} is not installed: pip install "icrl-agents[tracking]"')
    return tuple(item for item in dict.fromkeys(track) if item != NONE)


def _is_installed(name: str) -> bool:
    try:
        need(PACKAGES[name], "tracking")
    except ImportError:
        return False
    return True


@contextmanager
def open_trackers(
    accelerator: Accelerator, track: Sequence[str | GeneralTracker], out: Path, start: int, settings: dict[str, Any]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that sends the metrics of an update to all trackers; closes them even if training fails.

    Args:
        out: run folder, where the trackers write.
        start: number of earlier updates, whose metrics are kept.
        settings: settings of the run, for trackers that show them.
    """
    mine = track if accelerator.is_main_process else ()  # the other processes have no metrics
    accelerator.log_with = [TRACKERS[item](out, start, settings) if isinstance(item, str) else item for item in mine]
    accelerator.init_trackers(PROJECT)
    try:
        yield lambda row: accelerator.log(row, step=row["update"])
    finally:
        trackers, accelerator.trackers = accelerator.trackers, []
        for tracker in trackers:
            tracker.finish()
