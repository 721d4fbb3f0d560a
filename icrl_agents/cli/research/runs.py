"""The report on training runs: settings, losses and validation returns side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from icrl_agents.cli.options import Overwrite
from icrl_agents.cli.outputs import check_folder, print_results


@dataclass(frozen=True)
class Runs:
    """Compare training runs, finished or not: settings, loss and validation return."""

    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders that train wrote, or a folder that holds some.")
    ]
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON and nothing else.")] = False
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="For runs.json and a figure.")
    ] = None
    overwrite: Overwrite = False

    def run(self) -> None:
        from icrl_agents.studies import runs

        folder = check_folder(self.output, runs.FILES, self.overwrite)
        found = runs.read_runs(self.folders)
        rows = runs.summarise(found)
        print_results(runs.to_json(rows), *runs.table(rows), self.as_json)
        if folder:
            runs.write_runs(found, rows, folder)
