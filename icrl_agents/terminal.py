"""What commands print: tables on standard output, progress on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

WIDE = 200  # characters, where no terminal sets a width: no row is broken for a file or a pipe


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows in columns; no cell is read as markup."""
    table = Table(box=SIMPLE)
    for number, name in enumerate(header):
        table.add_column(name, no_wrap=not number, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    console.print(table)


class Report(Protocol):
    """Tells a progress bar how many are done, with a note to show behind it."""

    def __call__(self, done: int, note: str = "") -> None: ...


@contextmanager
def progress_bar(title: str, total: int, unit: str, *, done: int = 0, active: bool = True) -> Iterator[Report]:
    """A bar with the time left, from `done` to `total`; silent where there is no terminal, or not `active`."""
    console = Console(stderr=True)
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, disable=not (active and console.is_terminal)) as progress:
        row = progress.add_task("", total=total, completed=done)
        yield lambda done, note="": progress.update(row, completed=done, description=note)
