"""The README says what is: its numbers, environments, commands, files and code."""

import re
from pathlib import Path

import pytest
from icrl_envs import FAMILIES
from typer.main import get_command

from icrl_agents import METHODS
from icrl_agents.cli.app import app
from icrl_agents.studies import compare as comparison

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def rows(text):
    """The cells of every table row, header lines left out."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def section(title):
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_result_is_measured():
    found = [comparison.stored(entry) for entry in comparison.released()]
    assert len(found) >= 5
    assert comparison.markdown(found) in section("Results")


def test_environments():
    told = {row[0].split("`")[1]: row for row in rows(section("Environments"))[1:]}
    assert set(told) == set(FAMILIES)
    for env_id, row in told.items():
        rules, (train, test) = FAMILIES[env_id].rules, FAMILIES[env_id].split()
        assert row[2].split(",")[0] == str(rules.action_space.n)
        assert row[3] == f"{rules.horizon} steps"
        assert row[4].startswith(f"{len(train)} / {len(test)} ")


def test_methods():
    assert {row[0].strip("`") for row in rows(section("Methods"))[1:]} == set(METHODS)


def test_commands_exist():
    commands = get_command(app).commands
    told = re.findall(r"^icrl-agents (\w+)(.*)$", README, re.MULTILINE)
    assert {name for name, _ in told} == set(commands)
    for name, rest in told:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<=\s)--?[a-z-]+", rest.split("#")[0])) <= known, (name, rest)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_files_exist(document):
    text = (ROOT / document).read_text()
    links = re.findall(r"\]\(((?!http)[^)]+)\)", text)
    for name in [*links, *re.findall(r"`((?:icrl_agents|envs|tests|model_cards)/[\w/.-]+)`", text)]:
        assert (ROOT / name).exists() or "your_" in name, name


def test_the_picture_names_real_modules():
    picture = section("Where things are").split("```")[1]
    names = re.findall(r"\b([\w/]+\.py)\b", picture)
    assert len(names) > 12
    assert [name for name in names if not (ROOT / "icrl_agents" / name).is_file()] == []


def test_the_loop_runs(capsys):
    code = README.split("```python\n")[1].split("```")[0].replace("range(50)", "range(2)")
    exec(compile(code, "README.md", "exec"), {})
    (line,) = capsys.readouterr().out.splitlines()
    assert len([float(word) for word in line.removeprefix("return of each episode: ").split()]) == 2
