"""Style of the tests themselves: they use public names of the package only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import icrl_envs

import icrl_agents

TESTS = Path(__file__).parents[1]
PACKAGES = [Path(package.__file__).parent for package in (icrl_agents, icrl_envs)]
NAMED_TUPLE = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}  # public in spite of the underscore
PATCHES = {"delattr", "getattr", "hasattr", "object", "patch", "setattr"}  # calls that take names as strings


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in NAMED_TUPLE | {"_"}


def trees(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def defined(tree: ast.Module) -> Iterator[str]:
    """Names that a module of the package defines: functions, classes, variables, attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


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
    names = {name for folder in PACKAGES for _, tree in trees(folder) for name in defined(tree) if private(name)}
    assert len(names) > 100
    found = [
        f"{path.relative_to(TESTS)}:{line}: {name}"
        for path, tree in trees(TESTS)
        for line, name in used(tree)
        if name in names
    ]
    assert found == []
