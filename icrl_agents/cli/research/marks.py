"""The report on marks: which segments of recorded histories `marked-ad` marks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from icrl_agents.cli.options import AsJson, Overwrite
from icrl_agents.cli.outputs import check_folder


@dataclass(frozen=True)
class Marks:
    """Show how much of recorded histories marked-ad would mark."""

    histories: Annotated[
        Path, typer.Argument(metavar="FILE.h5", help="Histories that hold action probabilities, such as those of ppo.")
    ]
    threshold: Annotated[float, typer.Option(help="Minimum probability of a confident step's action.")] = 0.7
    min_length: Annotated[int, typer.Option(help="Minimum number of confident steps in a row for a marked run.")] = 10
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="For marks.json and marks.png.")
    ] = None
    overwrite: Overwrite = False
    as_json: AsJson = False

    def run(self) -> None:
        from icrl_agents.core.process.terminal import print_json, print_table
        from icrl_agents.histories.store import HistoryStore
        from icrl_agents.studies import marks

        folder = check_folder(self.output, (marks.JSON, marks.PICTURE), self.overwrite)
        with HistoryStore(self.histories.expanduser()) as store:
            found = marks.measure_marks(store, self.threshold, self.min_length)
            if folder:
                marks.write_marks(store, found, folder)
        if self.as_json:
            print_json(found.to_json())
            return
        rows = [*((row.task, row) for row in found.tasks), ("all", found.total)]
        cells = [(name, f"{x.steps:,}", f"{x.runs:,}", f"{x.marked:,}", f"{x.share:.1%}") for name, x in rows]
        print_table(("task", "steps", "runs", "marked", "share"), cells)
