"""The commands that exchange histories with other libraries: import and export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from icrl_agents.cli.options import Overwrite, TaskFile, numbers
from icrl_agents.cli.outputs import check_file


@dataclass(frozen=True)
class Import:
    """Make histories of Minari data sets, D4RL files and LAPO's chunks."""

    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="Folders or ids of Minari data sets, D4RL files (HDF5), or LAPO's chunks (npz) and folders of them.",
        ),
    ]
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.h5", help="The store of the histories.")]
    env: Annotated[str | None, typer.Option("--env", metavar="ID", help="Or MODULE:ID. Default: the data's.")] = None
    task_file: TaskFile = None
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="IDS",
            help="The task of each data set or chunk, such as 0,1. Default: task in the metadata; for chunks the tasks "
            "any_level of Procgen's games; else 0, 1, ...",
        ),
    ] = None
    episodes_per_lifetime: Annotated[
        int | None, typer.Option(help="Consecutive episodes that make a lifetime. Default: as the metadata, else all.")
    ] = None
    overwrite: Overwrite = False

    def run(self) -> None:
        from icrl_agents.core.process.terminal import counted
        from icrl_agents.histories.exchange.importing import import_histories
        from icrl_agents.histories.store import HistoryStore

        check_file(self.output, self.overwrite)
        path = import_histories(
            self.data,
            self.output.expanduser(),
            env_id=self.env,
            tasks=None if self.tasks is None else numbers(self.tasks),
            episodes_per_lifetime=self.episodes_per_lifetime,
            overwrite=self.overwrite,
        )
        with HistoryStore(path) as store:
            found = counted(len(store), "task")
            most = counted(store.info.streams, "lifetime"), counted(store.info.episodes, "episode")
            print(f"{path}: {found} of {store.info.env_id}, up to {most[0]} of up to {most[1]}")


@dataclass(frozen=True)
class Export:
    """Write histories as a Minari data set."""

    histories: Annotated[Path, typer.Argument(metavar="FILE.h5", help="Histories, as collect writes them.")]
    dataset: Annotated[str, typer.Argument(metavar="ID", help="Id of the data set, such as my/darkroom-v0.")]
    root: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Default: Minari's folder of data sets.")
    ] = None

    def run(self) -> None:
        from icrl_agents.histories.exchange.minari import export_minari

        print(export_minari(self.histories.expanduser(), self.dataset, self.root))
