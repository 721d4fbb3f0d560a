"""The program `icrl-agents`: its commands in sections, and how errors end it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from traceback import format_tb
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from icrl_agents.cli.make.annotate import Annotate
from icrl_agents.cli.make.collect import Collect
from icrl_agents.cli.make.exchange import Export, Import
from icrl_agents.cli.make.train import Train, TrainCommand
from icrl_agents.cli.options import show_overview, to_function
from icrl_agents.cli.research import ALIASES, STUDIES, research
from icrl_agents.cli.use.agents import Envs, Play, agents, push
from icrl_agents.cli.use.doctor import Doctor
from icrl_agents.cli.use.evaluate import Evaluate
from icrl_agents.core.files.names import check_utf8
from icrl_agents.core.process.caution import one_line_warnings
from icrl_agents.core.process.interrupts import Interrupted, Terminated
from icrl_agents.core.process.launched import await_first, is_first, refuse_launched

DIVIDED = "train"  # the command that launched processes share
OURS = "icrl_agents", "icrl_envs"


class Commands(TyperGroup):
    """Commands in sections; a user's mistake is printed in one line with exit code 2, other errors keep a traceback."""

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
            await_first()
            print(f"error: {one_line(error)}", file=sys.stderr)
            code = 2
        sys.exit(code or 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, Terminated) as end:
            if is_first():
                print(str(end) or "interrupted", file=sys.stderr)
            raise typer.Exit(getattr(end, "code", Interrupted.code)) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, *rest = super().resolve_command(ctx, args)
        if name != DIVIDED:
            refuse_launched(f"icrl-agents {name}")
        return name, *rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a table of commands for each section, without those that are hidden."""
        shown: list[tuple[str, Any]] = [
            (name, command) for name, command in self.commands.items() if not command.hidden
        ]
        room = formatter.width - 6 - max(len(name) for name, _ in shown)  # between margins
        for section in dict.fromkeys(command.rich_help_panel for _, command in shown):
            with formatter.section(section):
                formatter.write_dl(
                    [(name, each.get_short_help_str(room)) for name, each in shown if each.rich_help_panel == section]
                )


def is_mistake(error: Exception) -> bool:
    """Whether the cause of an error is in the command or its files, rather than in this package."""
    if isinstance(error, ModuleNotFoundError) and error.name:  # of an import statement, not of a missing extra
        return False
    usage = hasattr(error, "format_message")  # what typer itself refuses
    return usage or isinstance(error, ValueError | OSError | ImportError)


def one_line(error: Exception) -> str:
    """The message of an error in one line, with the usage of the command if typer refused the words."""
    if hasattr(error, "format_message"):
        said = error.format_message().rstrip(".")
        text = f"{said}{'' if said.endswith('?') else '.'} {_usage(getattr(error, 'ctx', None))}"
    elif isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = (str(error) or type(error).__name__) + _origin(error)
    return " ".join(text.split())


def _origin(error: Exception) -> str:
    """Where a ValueError was raised, unless in this package: by an environment or an expert of a user, for example."""
    if not isinstance(error, ValueError):
        return ""
    worker = str(error.__cause__)  # the traceback of a worker process is a text
    trace = worker if "Traceback (most recent call last)" in worker else "".join(format_tb(error.__traceback__))
    *_, (file, line, name) = re.findall(r'File "(.+)", line (\d+), in (.+)', trace) or [("", "", "")]
    folders = [folder for name in OURS if name in sys.modules for folder in sys.modules[name].__path__]
    if not file or any(Path(file).is_relative_to(folder) for folder in folders):
        return ""
    return f" (from {file}, line {line}, in {name}: --debug shows more)"


def _usage(context: Any) -> str:
    """A line of usage with what a command requires, and the command that prints its help."""
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
        from icrl_agents.core import __version__

        print(f"icrl-agents {__version__}")
        raise typer.Exit
    show_overview(context)


app.command("play", rich_help_panel="Use")(to_function(Play))
app.command("agents", rich_help_panel="Use")(agents)
app.command("envs", rich_help_panel="Use")(to_function(Envs))
app.command("evaluate", rich_help_panel="Use")(to_function(Evaluate))
app.command("doctor", rich_help_panel="Use")(to_function(Doctor))
app.command("push", rich_help_panel="Use")(push)
app.command("collect", rich_help_panel="Make")(to_function(Collect))
app.command("train", rich_help_panel="Make", cls=TrainCommand)(to_function(Train))
app.command("annotate", rich_help_panel="Make")(to_function(Annotate))
app.command("import", rich_help_panel="Make")(to_function(Import))
app.command("export", rich_help_panel="Make")(to_function(Export))
app.add_typer(research, name="research", rich_help_panel="Research")
for alias, study in ALIASES.items():
    app.command(alias, hidden=True)(to_function(STUDIES[study]))


def main() -> None:
    """The program `icrl-agents`."""
    app()
