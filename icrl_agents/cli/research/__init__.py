"""The commands of `icrl-agents research`, one file each."""

from __future__ import annotations

import typer

from icrl_agents.cli.options import Command, FilesCommand, show_overview, to_function
from icrl_agents.cli.research.actions import Actions
from icrl_agents.cli.research.marks import Marks
from icrl_agents.cli.research.memory import Memory
from icrl_agents.cli.research.robustness import Robustness
from icrl_agents.cli.research.runs import Runs
from icrl_agents.cli.research.seeds import Seeds
from icrl_agents.cli.research.sweep import Sweep
from icrl_agents.cli.research.table import Table
from icrl_agents.cli.research.windows import Windows

STUDIES: dict[str, type[Command]] = {  # in the order of --help
    "seeds": Seeds,
    "sweep": Sweep,
    "windows": Windows,
    "memory": Memory,
    "robustness": Robustness,
    "actions": Actions,
    "marks": Marks,
    "table": Table,
    "runs": Runs,
}
ALIASES = {  # earlier names, which are commands of the top level: icrl-agents probe = icrl-agents research memory
    "study": "seeds",
    "windows": "windows",
    "probe": "memory",
    "sets": "actions",
    "marks": "marks",
    "compare": "table",
    "runs": "runs",
}

research = typer.Typer(
    help="Studies: seeds, sweep, windows, memory, robustness, actions, marks, table and runs.",
    rich_markup_mode=None,
)
research.callback(invoke_without_command=True)(show_overview)
for name, study in STUDIES.items():
    research.command(name, cls=FilesCommand if study is Sweep else None)(to_function(study))
