"""Options that mean the same in all commands, the values made of them, and commands declared as dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, get_type_hints

import typer
from typer.core import TyperCommand

Agent = Annotated[str, typer.Argument(help="A folder, a bundled name such as icrl/ad-darkroom, or a Hub repo id.")]
AgentEnv = Annotated[
    str | None, typer.Option("--env", metavar="ID", help="Or MODULE:ID. Default: the one it was trained on.")
]
Env = Annotated[
    str, typer.Option("--env", metavar="ID", help="One of `icrl-agents envs`, or MODULE:ID for one of your own.")
]
Tasks = Annotated[
    Path | None, typer.Option("--tasks", metavar="FILE", help="TOML or JSON: tasks of an environment of your own.")
]
TaskFile = Annotated[  # of commands in which --tasks is something else
    Path | None, typer.Option("--task-file", metavar="FILE", help="TOML or JSON: tasks of an environment of your own.")
]
Method = Annotated[
    str,
    typer.Argument(
        help="Agents: ad, bc, cad, dpt, dt, headless-ad, idt, la-bc, marked-ad and prompted-dt. "
        "Models that label histories: lam and vpt."
    ),
]
Histories = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE.h5...", help="What `collect` recorded: files, a folder, a pattern. Default: fresh lifetimes."
    ),
]
Split = Annotated[str, typer.Option(help="test (held out), validation, train, all, or a published set such as num_50.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:1, as far as this machine has it.")]
Episodes = Annotated[int, typer.Option(help="Length of a lifetime: episodes on one task, remembered as a whole.")]
Plan = Annotated[str | None, typer.Option(help="A planner: lookahead, beam (as published) or best-of-n.")]
BeamWidth = Annotated[int | None, typer.Option(help="Branches a planner keeps. Default: the planner's.")]
PlanDepth = Annotated[int | None, typer.Option(help="Steps it looks ahead. Default: the planner's.")]
PlanAfter = Annotated[int | None, typer.Option(help="First steps of each episode without planning. Default: 0.")]
Config = Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Settings; --set and options override them.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="A setting; repeatable. `icrl-agents train --help-settings` lists all."
    ),
]
TrainingSeeds = Annotated[str, typer.Option(help="Seeds of the training.")]
Jobs = Annotated[
    int | None, typer.Option(help="Trainings at a time. Default: 1, on ray two for each CPU, on slurm all.")
]
BackendName = Annotated[
    str, typer.Option("--backend", metavar="NAME", help="Where the work is done: local or ray; trainings also slurm.")
]
Address = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Of a Ray cluster. Default: as Ray chooses.")]
Resources = Annotated[
    list[str] | None,
    typer.Option(
        "--resource",
        metavar="NAME=VALUE",
        help="What a job gets: num_gpus=1 (ray), slurm_partition=gpu (slurm); repeatable.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue what was interrupted.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Folder = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder to write into.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
ResultsAsJson = Annotated[bool, typer.Option("--json", help="Print results as JSON and nothing else.")]
WriteCards = Annotated[bool, typer.Option("--write", help="Add the results to the agents' cards.")]


# ---- commands with many options ---------------------------------------------------------------------------------


class Command(Protocol):
    """A dataclass whose fields are the options of a command, `Annotated` as typer reads them."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def run(self) -> None:
        """Do what the command is for."""


def to_function(command: type[Command]) -> Callable[..., None]:
    """The function that typer needs in place of a dataclass: a parameter for each field, in the same order.

    Typer reads options from a signature and the help from the docstring. Both are those of the dataclass; annotations
    are resolved here, because they are strings where a module postpones their evaluation. A field `task_file` beside
    `env` makes the command take environments of a user: `env` is then the id of one that is registered, see `own_env`.
    """
    names = {field.name for field in fields(command)}

    def function(**options: Any) -> None:
        if "task_file" in names:
            from icrl_agents.cli.own_env import resolve

            options["env"] = resolve(options["env"], options["task_file"])
        command(**options).run()

    hints = get_type_hints(command, include_extras=True)
    function.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(
                field.name,
                Parameter.KEYWORD_ONLY,
                default=Parameter.empty if field.default is MISSING else field.default,
                annotation=hints[field.name],
            )
            for field in fields(command)
        ]
    )
    function.__name__, function.__doc__ = command.__name__.lower(), command.__doc__
    return function


def show_overview(context: typer.Context) -> None:
    """Print the help of a group of commands that is called without a command."""
    if context.invoked_subcommand is None:
        print(context.get_help())


# ---- values -----------------------------------------------------------------------------------------------------


def numbers(text: str) -> list[int]:
    """Comma-separated integers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} is not a list of whole numbers such as 0,1,2") from None


def env_of(agent: Any, given: str | None) -> str:
    """The given environment, else the one that the agent was trained on, with the tasks of its training."""
    from icrl_agents.cli.own_env import from_facts

    env_id = agent.facts.get("env_id") if given is None else given
    if not isinstance(env_id, str):
        raise ValueError("the agent does not say which environment it is for: give --env")
    from_facts(env_id, agent.facts, given is not None)
    return env_id


def env_of_all(agents: Iterable[Any], given: str | None) -> str:
    """The environment that all agents are measured on."""
    env_ids = sorted({env_of(agent, given) for agent in agents})
    if len(env_ids) > 1:
        raise ValueError(f"the agents are of {' and '.join(env_ids)}: give those of one environment")
    return env_ids[0]


def lifetime_of(agent: Any, given: str | None) -> int:
    """Episodes of a published lifetime in that environment, for a progress bar; unknown ids are refused elsewhere."""
    from icrl_agents.core.families import find_family, is_family

    env_id = env_of(agent, given)
    return find_family(env_id).lifetime if is_family(env_id) else 1


def planner_of(plan: str | None, width: int | None, depth: int | None, after: int | None) -> Any:
    """The planner of that name with the given settings, or None without a name."""
    from icrl_agents.agents.planning.search import make_planner

    given = {"width": width, "depth": depth, "after": after}
    settings = {name: value for name, value in given.items() if value is not None}
    if plan is None and settings:
        raise ValueError(f"{settings} are a planner's settings: give --plan, such as --plan lookahead")
    return plan and make_planner(plan, settings)


def backend_of(name: str, address: str | None, resources: list[str] | None) -> Any:
    """The `Backend` of --backend, --address and --resource."""
    from icrl_agents.cli.settings import parse_pairs
    from icrl_agents.core.process.jobs.backends import Backend

    return Backend(name, address, parse_pairs(resources, (), "--resource", "num_cpus=2"))


def known_settings(method: str) -> list[Any]:
    """The fields that --set can name: those of the training and of the method, if there is one of that name."""
    from icrl_agents.methods import MODELS
    from icrl_agents.training.config import TrainConfig

    return [*fields(TrainConfig), *(fields(MODELS[method].Config) if method in MODELS else ())]


def read_settings(config: Path | None, pairs: list[str] | None, method: str) -> dict[str, Any]:
    """The settings of --config and --set by name; those of --set replace those of the file."""
    from icrl_agents.cli.settings import parse_pairs, read_toml

    return read_toml(config) | parse_pairs(pairs, known_settings(method))


class FilesCommand(TyperCommand):
    """A command whose option --histories takes several files."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_each_named("--histories", args)))


def _each_named(option: str, args: list[str]) -> Iterator[str]:
    """Repeat an option before each further file of its value, which a shell makes of a pattern such as DIR/*.h5."""
    value = more = False  # whether the next word is the option's value, or may be a further file of it
    for word in args:
        if word.startswith("-"):
            value, more = word == option, False
        elif value:
            value, more = False, True
        elif more := more and Path(word).suffix == ".h5":
            yield option
        yield word


def refuse_beside_stored(command: Any, *kept: str) -> None:
    """ValueError for an option beside --stored, which measures nothing, unless it is one of `kept`."""
    for field in fields(command):
        if field.name not in (*kept, "stored", "as_json") and getattr(command, field.name) != field.default:
            raise ValueError(f"--stored measures nothing: leave out {_written(command, field.name)}, or --stored")


def _written(command: Any, field: str) -> str:
    """How an option is written in the shell."""
    (option,) = get_type_hints(type(command), include_extras=True)[field].__metadata__
    names = [name for name in (option.default, *(option.param_decls or ())) if str(name).startswith("--")]
    return names[0] if names else "--" + field.replace("_", "-")
