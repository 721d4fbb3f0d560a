"""Terminal output of commands: tables and JSON on standard output, progress bars on standard error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

MARGIN = 2  # characters left of a table and between its columns
SEPARATOR = " · "  # separates the values on the line below a row
NOTE = 56  # characters reserved for the note of a progress bar, where the terminal is wide enough
SHORTEST_BAR, LONGEST_BAR = 8, 40  # characters


def print_json(data: Any) -> None:
    """Print `data` as JSON; NaN and infinities become null."""
    print(json.dumps(_finite(data), indent=1, allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(name): _finite(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not abs(data) < float("inf") else data


def print_text(text: str, console: Console | None = None) -> None:
    """Print plain text without markup: wrapped between words in a terminal, unwrapped elsewhere."""
    console = console or Console()
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Number and noun, singular for 1: "1 episode", "2,000 episodes"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


# ---- tables -----------------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """Column layout of a table: the columns printed side by side, and those printed below their row."""

    widths: dict[int, int]  # column number -> width in characters
    below: tuple[int, ...]  # numbers of the columns printed below each row


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows in columns as wide as their longest cell, without markup.

    In a narrow terminal the widest columns move to a line below each row, as "name: value". Only headers and that
    line wrap, between words; output to a file never wraps.
    """
    console = Console()
    width = console.width if console.is_terminal else None
    signs = str.maketrans({"─": "-", "·": "|"} if console.options.ascii_only else {})
    console.print()
    for line in table_lines(header, [[str(cell) for cell in row] for row in rows], width):
        console.print(Text(line.plain.translate(signs), line.style), soft_wrap=True)


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> Iterator[Text]:
    """Lines of a table in a terminal of `width` characters; None: unlimited."""
    layout = _lay_out(header, rows, width)
    length = _length(layout.widths)
    yield from _titles(header, layout, width)
    yield Text(" " + "─" * (min(length, width or length) - 1))
    for row in rows:
        yield from _cells(row, layout, width)
        yield from _cells_below(header, row, layout, width)


def _lay_out(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> Layout:
    """Layout that fits `width`: wrap titles first, then move the widest column (never the first) below the rows."""
    cells = [max((cell_len(row[number]) for row in rows), default=0) for number in range(len(header))]
    widths = {number: max(room, cell_len(header[number])) for number, room in enumerate(cells)}
    limit = float("inf") if width is None else width
    if _length(widths) <= limit:
        return Layout(widths, ())
    words = [max(map(cell_len, name.split() or [""])) for name in header]
    widths = {number: max(room, words[number]) for number, room in enumerate(cells)}
    below: list[int] = []
    while _length(widths) > limit and len(widths) > 1:
        below.append(max(list(widths)[1:], key=lambda number: widths[number]))
        del widths[below[-1]]
    return Layout(widths, tuple(sorted(below)))


def _length(widths: dict[int, int]) -> int:
    return sum(widths.values()) + MARGIN * len(widths)


def _titles(header: Sequence[str], layout: Layout, width: int | None) -> Iterator[Text]:
    """Lines of the titles, which wrap in a terminal; shorter ones stand at the bottom."""
    titles = [fold([header[number]], room if width else 0) for number, room in layout.widths.items()]
    height = max(len(title) for title in titles)
    for words in zip(*([""] * (height - len(title)) + title for title in titles), strict=True):
        yield _line(words, layout, "bold")


def _cells(row: Sequence[str], layout: Layout, width: int | None) -> Iterator[Text]:
    """Lines of a row: more than one only where its first cell is alone and wider than the terminal."""
    first, *rest = (row[number] for number in layout.widths)
    for line in fold([first], width - MARGIN) if width and not rest else [first]:
        yield _line([line, *rest], layout)


def _cells_below(header: Sequence[str], row: Sequence[str], layout: Layout, width: int | None) -> Iterator[Text]:
    """Lines of the cells that stand below their row, without empty ones."""
    cells = [(header[number], row[number]) for number in layout.below if row[number]]
    values = [f"{name}: {value}" if name else value for name, value in cells]
    for line in fold(values, (width or 0) - 2 * MARGIN, SEPARATOR):
        yield Text(" " * 2 * MARGIN + line)


def _line(words: Sequence[str], layout: Layout, style: str = "") -> Text:
    rooms = layout.widths.values()
    padded = [word + " " * (room - cell_len(word)) for word, room in zip(words, rooms, strict=True)]
    return Text((" " * MARGIN + (" " * MARGIN).join(padded)).rstrip(), style)


def fold(parts: Sequence[str], width: int, separator: str = " ") -> list[str]:
    """Pack parts into lines of up to `width` characters (0 or less: one line); longer parts wrap between words."""
    if width <= 0:
        return [separator.join(parts)] if parts else []
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1] + separator + part) <= width:
            lines[-1] += separator + part
        elif cell_len(part) <= width or " " not in part:
            lines.append(part)
        else:
            lines += fold(part.split(), width)
    return lines


# ---- progress ---------------------------------------------------------------------------------------------------


class Report(Protocol):
    """Progress callback: number of finished units, and a note whose parts (two spaces apart) are shown if they fit."""

    def __call__(self, done: int, note: str = "") -> None: ...


class Note(ProgressColumn):
    """Progress-bar column: the leading parts of the description that fit into `room` characters."""

    def __init__(self, room: int):
        super().__init__(Column())
        self.room = room

    def render(self, task: Task) -> Text:
        shown = ""
        for part in task.description.split("  "):
            longer = f"{shown}  {part}" if shown else part
            shown = longer if cell_len(longer) <= self.room else shown
        return Text(shown, overflow="ellipsis", no_wrap=True)


@contextmanager
def progress_bar(title: str, total: int, unit: str, *, done: int = 0, active: bool = True) -> Iterator[Report]:
    """Progress bar with the remaining time, from `done` to `total`; hidden without a terminal or if not `active`."""
    console = Console(stderr=True)
    room = console.width - len(f" {total}/{total} {unit} 00:00:00  ")
    name = Text(title)
    name.truncate(max(1, room - SHORTEST_BAR), overflow="ellipsis")
    length = max(SHORTEST_BAR, min(LONGEST_BAR, room - len(name) - NOTE))
    whole = Column(no_wrap=True)
    columns = (
        TextColumn(name.plain, markup=False),
        BarColumn(length, table_column=whole),
        MofNCompleteColumn(table_column=whole),
        TextColumn(unit),
        TimeRemainingColumn(table_column=whole),
        Note(room - len(name) - length),
    )
    with Progress(*columns, console=console, disable=not (active and console.is_terminal)) as progress:
        row = progress.add_task("", total=total, completed=done)
        yield lambda done, note="": progress.update(row, completed=done, description=note)
