"""Style of the tests themselves: they use public names of the package only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import icrl_envs

import icrl_agents

TESTS = Path(__file__).parents[1]
PACKAGES = [Path(package.__file__).parent for package in (icrl_agents, icrl_envs)]
NAMED_TUPLE = {"_asdict", "_fields", "_make", "_replace"}  # public in spite of the underscore
DEFINED = re.compile(r"(?:\b(?:def|class) |\bself\.|^)(_[A-Za-z]\w*)", re.MULTILINE)  # what a module defines
PATCHES = {"delattr", "getattr", "hasattr", "object", "patch", "setattr"}  # calls that take names as strings


def used(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Names that a test takes from other modules and objects, with their lines; `self` is the test's own."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=name):
                yield node.lineno, name
            case ast.ImportFrom(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.Call(func=ast.Attribute(attr=call) | ast.Name(id=call), args=args) if call in PATCHES:
                for arg in args:
                    if isinstance(arg, ast.Constant) and isinstance(arg.value, str):
                        yield from ((node.lineno, part) for part in arg.value.split("."))


def test_no_test_reaches_into_private_names_of_the_package():
    names = {name for folder in PACKAGES for path in folder.rglob("*.py") for name in DEFINED.findall(path.read_text())}
    names -= NAMED_TUPLE
    assert len(names) > 100
    mentioned = re.compile("|".join(rf"\b{name}\b" for name in names))
    texts = {path.relative_to(TESTS): path.read_text() for path in sorted(TESTS.rglob("*.py"))}
    found = [
        f"{path}:{line}: {name}"
        for path, text in texts.items()
        if mentioned.search(text)
        for line, name in used(ast.parse(text))
        if name in names
    ]
    assert found == []
