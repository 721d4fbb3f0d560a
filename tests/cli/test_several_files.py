"""A shell makes several words of a pattern: all of them are values of the option before them."""

from __future__ import annotations

import pytest
from typer.main import get_command

from icrl_agents.cli.app import app


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["ad", "--histories", "a.h5", "b.h5", "c.h5", "--env", "x", "-o", "out.h5"], ["a.h5", "b.h5", "c.h5"]),
        (["--histories", "a.h5", "b.h5", "ad", "--env", "x", "-o", "o"], ["a.h5", "b.h5"]),
        (["ad", "--histories", "data", "--env", "x", "--histories", "*.h5", "-o", "o"], ["data", "*.h5"]),
        (["ad", "--histories=a.h5", "--env", "x", "-o", "o"], ["a.h5"]),
        (["ad", "--env", "x", "-o", "o.h5"], []),
    ],
)
def test_train_takes_all_files_of_a_pattern(words, files):
    context = get_command(app).commands["train"].make_context("train", list(words))
    assert [str(path) for path in context.params["histories"] or ()] == files
    assert context.params["method"] == "ad"
