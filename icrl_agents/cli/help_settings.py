"""All settings with type, default and meaning, from the dataclasses; the meaning is the comment behind a field.

`python -m icrl_agents.cli.help_settings > docs/settings.md` writes the page of the documentation.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, NamedTuple

from icrl_agents.core.checks import pick
from icrl_agents.core.process.terminal import print_table, print_text
from icrl_agents.methods import MODELS
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.sources import SOURCES, find_source
from icrl_agents.sources.source import SourceSettings
from icrl_agents.training.config import TrainConfig


class Setting(NamedTuple):
    """One field of a configuration."""

    name: str
    type: str
    default: str  # as it is written after NAME=
    meaning: str


class Section(NamedTuple):
    """The settings of one thing that is configured."""

    title: str
    about: str
    settings: tuple[Setting, ...]


def meanings(config: type) -> dict[str, str]:
    """The comment behind each field of a dataclass and of its bases, lines of nothing but comment below it included."""
    found: dict[str, str] = {}
    for cls in (base for base in reversed(config.__mro__) if base is not object):
        source = textwrap.dedent(inspect.getsource(cls))
        lines = [line.encode() for line in source.splitlines()]  # ast counts bytes
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = _comment(lines, node)
    return found


def _comment(lines: list[bytes], node: ast.AnnAssign) -> str:
    end = node.end_lineno or node.lineno
    parts = [lines[end - 1][node.end_col_offset :]]
    for line in lines[end:]:
        if not line.strip().startswith(b"#"):
            break
        parts.append(line)
    return " ".join(part.decode().strip().removeprefix("#").strip() for part in parts)


def settings_of(config: type, base: type | None = None) -> tuple[Setting, ...]:
    """The settings of a configuration; with `base` only those that it adds or gives another default."""
    inherited = {field.name: field.default for field in fields(base)} if base else {}
    own = [field for field in fields(config) if inherited.get(field.name, config) != field.default]
    said = meanings(config)
    return tuple(Setting(field.name, str(field.type), _written(field.default), said[field.name]) for field in own)


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else '""' if value == "" else str(value).lower()


def sections(method: str | None = None) -> list[Section]:
    """What `train` can set: for one method all of it, without any what each method adds to the settings of all.

    Raises:
        ValueError: there is no such method.
    """
    training = Section("Training", "For every method.", settings_of(TrainConfig))
    if method is not None:
        cls = pick(MODELS, method, "method")
        return [training, Section(f"Method {method}", first_line(cls), settings_of(cls.Config)), *_sources()]
    model = Section(
        "Model", "For all with a transformer, unless they have another default below.", settings_of(AgentConfig)
    )
    own = [
        Section(
            f"Method {name}",
            first_line(cls),
            settings_of(cls.Config, AgentConfig if issubclass(cls.Config, AgentConfig) else None),
        )
        for name, cls in MODELS.items()
    ]
    return [training, model, *own, *_sources()]


def _sources() -> Iterator[Section]:
    """The settings of all sources, then what each adds; of one whose package is missing how to install it."""
    about = "For all but ppo and sac, where tasks have array rules and the same legal actions."
    yield Section("Every source", about, settings_of(SourceSettings))
    for name in SOURCES:
        try:
            cls = find_source(name)
        except ImportError as error:
            yield Section(f"Source {name}", str(error), ())
        else:
            yield Section(f"Source {name}", first_line(cls), settings_of(cls.Settings, SourceSettings))


def first_line(cls: type) -> str:
    """The sentence that a class's docstring begins with."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


INTRODUCTION = (
    "Settings are given as --set NAME=VALUE, or in a file for --config as NAME = VALUE. "
    "Those of a source are source.NAME in train, doctor and research seeds, sweep and windows, and NAME in collect. "
    "Some environments have other defaults, also of training: bandits have rewards=fixed."
)


def show(method: str | None = None) -> None:
    """Print the sections for a terminal."""
    found = sections(method)
    print_text(INTRODUCTION)
    for section in found:
        print_text(f"\n{section.title}: {section.about}")
        if section.settings:
            print_table(("name", "type", "default", ""), section.settings)


def markdown() -> str:
    """The page of the documentation."""
    command = "python -m icrl_agents.cli.help_settings > docs/settings.md"
    text = f"# Settings\n\n<!-- written by `{command}`; a test compares them -->\n\n{INTRODUCTION}\n"
    for section in sections():
        text += f"\n## {section.title}\n\n{section.about}\n"
        rows = [
            f"| `{row.name}` | {row.type.replace('|', 'or')} | `{row.default}` | {row.meaning} |"
            for row in section.settings
        ]
        if rows:
            text += "\n" + "\n".join(["| name | type | default | meaning |", "| --- | --- | --- | --- |", *rows]) + "\n"
    return text


if __name__ == "__main__":
    print(markdown(), end="")
