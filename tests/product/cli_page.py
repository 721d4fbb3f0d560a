"""The page docs/cli.md, from the command line itself: `python -m tests.product.cli_page > docs/cli.md`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from icrl_agents.cli.app import app

PROGRAM = "icrl-agents"
COMMAND = "python -m tests.product.cli_page > docs/cli.md"


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Visible commands below a group, with the words that call each, in the order of --help."""
    for name in group.list_commands(None):
        command = group.commands[name]
        if command.hidden:
            continue
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


def page() -> str:
    """The whole page."""
    root = get_command(app)
    parts = [
        "# Command line",
        f"<!-- written by `{COMMAND}`; a test compares them -->",
        "`python -m icrl_agents` is the same program. Commands that list or measure print JSON with `--json`; "
        "`--debug` shows the traceback of an error. The words are explained in the [glossary](glossary.md), "
        "all settings of `train` are in [settings](settings.md).",
        *(_section(path, command) for path, command in commands(root)),
    ]
    return "\n\n".join(parts) + "\n"


def _section(path: tuple[str, ...], command: Any) -> str:
    words = " ".join(path)
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and not _hidden(param)]
    usage = " ".join([PROGRAM, words, *(_metavar(param) for param in arguments), *(["[OPTIONS]"] if options else [])])
    lines = [f"{'#' * (len(path) + 1)} {words}", f"`{usage}`", inspect.cleandoc(command.help or "")]
    if hasattr(command, "commands"):
        lines[1] = f"`{PROGRAM} {words} COMMAND`"
    elif command.params:
        rows = [_row(_metavar(param), param) for param in arguments]
        rows += [_row(_spelling(param), param) for param in options]
        lines.append("\n".join(["| argument or option | default | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(line for line in lines if line)


def _row(name: str, param: Any) -> str:
    text = (getattr(param, "help", None) or "").replace("|", r"\|")
    return f"| `{name}` | {_default(param)} | {text} |"


def _metavar(param: Any) -> str:
    return param.metavar or param.name.upper()


def _spelling(param: Any) -> str:
    names = ", ".join([*sorted(param.opts, key=len, reverse=True), *param.secondary_opts])
    return names if param.is_flag else f"{names} {param.metavar or 'VALUE'}"


def _default(param: Any) -> str:
    if param.required:
        return "required"
    if param.default is None or param.default is False or param.default == ():
        return ""
    return f"`{str(param.default).lower() if isinstance(param.default, bool) else param.default}`"


def _hidden(param: Any) -> bool:
    return bool(getattr(param, "hidden", False))


if __name__ == "__main__":
    print(page(), end="")
