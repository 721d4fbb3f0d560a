"""The command that labels histories with a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from icrl_agents.cli.options import Device

MEASURED = 16  # histories of the first task that the quality is measured on


@dataclass(frozen=True)
class Annotate:
    """Add the columns that a trained model predicts, such as latent actions, to histories.

    Each file is replaced once it is complete. Files that the same weights have labelled are left as they are.
    """

    histories: Annotated[
        list[Path], typer.Argument(metavar="FILE.h5...", help="Histories: files, a folder, or a pattern.")
    ]
    model: Annotated[str, typer.Option("--model", "-m", help="A folder of `train`, or org/name on the Hub.")]
    device: Device = "auto"

    def run(self) -> None:
        from icrl_agents.agents.annotator import Annotator
        from icrl_agents.core.process.terminal import print_table
        from icrl_agents.histories.shards import find_files
        from icrl_agents.histories.store import HistoryStore

        model, quality = Annotator.from_pretrained(self.model, device=self.device), []
        for path in find_files(self.histories):
            with HistoryStore(path) as store:
                model.check_space(store.spaces[0], str(path))
                first = store[store.tasks[0], :MEASURED] if store.tasks else None
                if first is not None and first.mask.any():
                    measured = model.measure(first)
                    quality.append((path.name, *(shown(value) for value in measured.values())))
                done = store.annotate(model.columns, model, identity=model.weights_sha256)
            print(f"{path}: {', '.join(model.columns) if done else 'labelled already, left as it is'}")
        if quality:
            print_table(("file", *measured), quality)


def shown(value: float | list[float]) -> str:
    """A number, or several, with three digits."""
    return ", ".join(map(shown, value)) if isinstance(value, list) else f"{value:.3g}"
