"""The command line. What a command needs is imported when it runs, so that help is there at once.

The commands themselves are in `cli_list.py`, `cli_make.py` and `cli_measure.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from icrl_agents.cli.agents import agents, envs
from icrl_agents.cli.make import collect, play, push, study, train, windows
from icrl_agents.cli.measure import compare, evaluate, marks, probe, runs, sets
from icrl_agents.core.caution import one_line_warnings
from icrl_agents.core.files.names import check_utf8
from icrl_agents.core.process.interrupts import Interrupted, Terminated

# in the order of --help
COMMANDS = (play, envs, agents, collect, marks, train, runs, evaluate, probe, sets, study, windows, compare, push)


class Commands(TyperGroup):
    """Tells a user's mistake in one line, with exit code 2; a mistake of ours keeps its traceback."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in given
        plain = [word for word in given if word != "--debug"]  # it may stand anywhere
        try:
            check_utf8(*plain)
            with one_line_warnings():
                code = super().main(plain, *rest, **{**extra, "standalone_mode": False})
        except Exception as error:
            if debug or not is_mistake(error):
                raise
            print(f"error: {one_line(error)}", file=sys.stderr)
            code = 2
        sys.exit(code or 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, Terminated) as end:
            print(str(end) or "interrupted", file=sys.stderr)
            raise typer.Exit(getattr(end, "code", Interrupted.code)) from None


class Train(TyperCommand):
    """`train`, whose --help-settings asks for nothing that it requires otherwise."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--help-settings" in args:
            from icrl_agents.cli.help_settings import show

            rest = [word for word in args if word != "--help-settings"]
            show(rest[0] if rest and not rest[0].startswith("-") else None)
            raise typer.Exit
        return super().parse_args(ctx, args)


def is_mistake(error: Exception) -> bool:
    """Whether an error tells users what they can mend, rather than us what we did wrong."""
    if isinstance(error, ModuleNotFoundError) and error.name:  # of an import statement, not of a missing extra
        return False
    usage = hasattr(error, "format_message")  # what typer itself refuses
    return usage or isinstance(error, ValueError | OSError | ImportError)


def one_line(error: Exception) -> str:
    if hasattr(error, "format_message"):
        said = error.format_message().rstrip(".")
        text = f"{said}{'' if said.endswith('?') else '.'} {_usage(getattr(error, 'ctx', None))}"
    elif isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _usage(context: Any) -> str:
    """What a command requires, and where its help is."""
    if context is None:
        return ""
    required = [
        param.metavar or param.name.upper() if param.param_type_name == "argument" else _option(param)
        for param in context.command.params
        if param.required
    ]
    words = [context.command_path, *(["COMMAND"] if hasattr(context.command, "commands") else required), "[OPTIONS]"]
    return f"Usage: {' '.join(words)}; try {context.command_path} --help"


def _option(param: Any) -> str:
    return f"{max(param.opts, key=len)} {param.metavar or 'VALUE'}"


app = typer.Typer(
    name="icrl-agents",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,  # a token could be among them
    rich_markup_mode=None,  # importing what boxes need takes longer than the rest of --help
    add_completion=False,
    help="Reinforcement learners that learn a new task from their own experience, weights frozen.",
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
) -> None:
    if version:
        from icrl_agents.core.version import __version__

        print(f"icrl-agents {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


for command in COMMANDS:
    app.command(cls=Train if command is train else TyperCommand)(command)


def main() -> None:
    """The program `icrl-agents`."""
    app()


if __name__ == "__main__":
    main()
