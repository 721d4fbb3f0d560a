"""The command that labels histories with a trained model."""

from __future__ import annotations

from collections.abc import Sequence
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
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Also learn decoders of latent actions from few true ones, and measure them."),
    ] = False

    def run(self) -> None:
        from icrl_agents.agents.annotator import Annotator
        from icrl_agents.core.process.terminal import print_table
        from icrl_agents.histories.shards import find_files
        from icrl_agents.histories.store import HistoryStore
        from icrl_agents.methods.base.predictor import LATENT, witnessed

        model, quality = Annotator.from_pretrained(self.model, device=self.device), []
        if self.probe and LATENT not in model.columns:
            raise ValueError(
                f"--probe is for latent actions; {self.model} finds {', '.join(model.columns)}: leave it out"
            )
        for path in find_files(self.histories):
            with HistoryStore(path) as store:
                observation_space, action_space = store.spaces
                model.check_space(observation_space, str(path), action_space)
                first = store[store.tasks[0], :MEASURED] if store.tasks else None
                if first is not None and witnessed(first).any():
                    measured = model.measure(first)
                    quality.append((path.name, *(shown(value) for value in measured.values())))
                done = store.annotate(model.columns, model, identity=model.weights_sha256)
            print(f"{path}: {', '.join(model.columns) if done else 'labelled already, left as it is'}")
        if quality:
            print_table(("file", *measured), quality)
        if self.probe:
            self.print_probe(model.columns)

    def print_probe(self, columns: Sequence[str]) -> None:
        """Print how well decoders of latent actions, and of skills beside them, tell actions of other tasks."""
        from icrl_agents.core.process.terminal import print_table
        from icrl_agents.histories.shards import HistoryShards
        from icrl_agents.methods.base.predictor import LATENT, SKILL
        from icrl_agents.studies.probe_latents import probe_latents

        rows = []
        with HistoryShards(*self.histories) as shards:
            for read in [(LATENT,), (LATENT, SKILL)] if SKILL in columns else [(LATENT,)]:
                for found in (results := probe_latents(shards, columns=read)):
                    rows.append((" and ".join(read), found.labels, shown(found.score), shown(found.constant)))
        held_out, measure = results[0].held_out, results[0].measure
        print_table(("decoder of", "labelled steps", f"{measure}, {held_out} other steps", "one action always"), rows)


def shown(value: float | list[float]) -> str:
    """A number, or several, with three digits."""
    return ", ".join(map(shown, value)) if isinstance(value, list) else f"{value:.3g}"
