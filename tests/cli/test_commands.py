"""The shape of the command line: sections, aliases, recorded help, and commands declared as dataclasses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from icrl_agents.cli.app import app
from icrl_agents.cli.options import to_function
from icrl_agents.cli.research import ALIASES, STUDIES
from tests.cli.test_cli import done, refused

ROOT = Path(__file__).parents[2]
HELPS = json.loads((ROOT / "tests" / "equalities.json").read_text())["help"]
TOP = get_command(app)
RESEARCH = TOP.commands["research"]
SECTIONS = {
    "Use": ["play", "agents", "envs", "evaluate", "doctor", "push"],
    "Make": ["collect", "train", "annotate", "import", "export"],
    "Research": ["research"],
}


def commands_by_section(text: str) -> dict[str, list[str]]:
    """The first words of the lines below each title of a help text."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            found[line.removesuffix(":")] = names = []
        elif line.startswith("  ") and found:
            names.append(line.split()[0])
    return found


def test_the_help_shows_three_sections():
    found = commands_by_section(done("--help"))
    assert list(found) == ["Options", *SECTIONS]
    assert {title: found[title] for title in SECTIONS} == SECTIONS
    assert found == commands_by_section(done())


def test_the_help_of_research_lists_its_commands():
    assert commands_by_section(done("research", "--help"))["Commands"] == list(STUDIES)
    assert done("research") == done("research", "--help")


def test_every_command_is_shown_or_an_alias():
    hidden = {name for name, command in TOP.commands.items() if command.hidden}
    assert hidden == set(ALIASES)
    assert set(ALIASES.values()) == set(STUDIES) - {"sweep", "robustness"}  # newer than the aliases
    assert set(TOP.commands) - {"research"} == set(HELPS)


@pytest.mark.parametrize(("alias", "study"), ALIASES.items())
def test_an_alias_is_its_research_command(alias, study):
    options = [
        [
            (each.name, each.opts, each.secondary_opts, each.required, each.default, each.hidden)
            for each in command.params
        ]
        for command in (TOP.commands[alias], RESEARCH.commands[study])
    ]
    assert options[0]
    assert options[0] == options[1]
    old, new = (" ".join(done(*words, "--help").split()) for words in ((alias,), ("research", study)))
    assert old == new.replace(f"icrl-agents research {study}", f"icrl-agents {alias}")


@pytest.mark.skipif(f"typer=={version('typer')}\n" not in (ROOT / "constraints.txt").read_text(), reason="other layout")
@pytest.mark.parametrize("name", HELPS)
def test_help_is_as_recorded(name):
    said = " ".join(done(name, "--help").split())
    assert said.replace("Usage: icrl-agents", "Usage: python -m icrl_agents") == HELPS[name].strip()


def test_changes_of_latents_are_an_option_of_memory_and_evaluate():
    assert "--change" in done("research", "memory", "--help")
    assert "--change" in done("evaluate", "--help")
    assert "no-such-change" in refused("evaluate", "icrl/cad-darkroom", "--change", "no-such-change")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("research", "seed"), "Did you mean 'seeds'"),
        (("research", "seeds", "ad"), "Usage: icrl-agents research seeds METHOD --env ID --output FOLDER"),
        (("study", "ad"), "Usage: icrl-agents study METHOD --env ID --output FOLDER"),
        (("research", "runs", "nowhere"), "nowhere"),
        (("research", "windows", "--env", "icrl/Darkroom-v0", "-o", "x", "--seeds", "one"), "'one' is not a list"),
    ],
)
def test_a_mistake_in_research_costs_one_line(words, expected):
    assert expected in refused(*words)


# ---- commands declared as dataclasses ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Greet:
    """Say hello."""

    name: str
    times: Annotated[int, typer.Option("--times", "-n", help="How often.")] = 1
    loud: Annotated[bool, typer.Option("--loud")] = False

    def run(self) -> None:
        print(f"{self.name.upper() if self.loud else self.name} " * self.times)


@pytest.fixture(scope="module")
def greet() -> typer.Typer:
    program = typer.Typer(rich_markup_mode=None, add_completion=False)
    program.command()(to_function(Greet))
    return program


@pytest.mark.parametrize(
    ("words", "said"), [("ann", "ann"), ("ann -n 2", "ann ann"), ("--times 2 --loud ann", "ANN ANN")]
)
def test_fields_are_options(greet, words, said):
    result = CliRunner().invoke(greet, words.split())
    assert (result.exit_code, result.stdout.strip()) == (0, said)


def test_the_docstring_is_the_help_and_fields_without_default_are_required(greet):
    text = CliRunner().invoke(greet, ["--help"]).stdout
    assert "Say hello." in text
    assert "How often." in text
    assert CliRunner().invoke(greet, []).exit_code == 2
