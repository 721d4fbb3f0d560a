"""What a terminal shows: whole words, one line a row, and progress that keeps its counter, in 80 and in 60 columns."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from functools import cache
from pathlib import Path

import pytest
from icrl_envs import FAMILIES
from rich.cells import cell_len
from typer.testing import CliRunner

from icrl_agents import METHODS
from icrl_agents.cli.app import app
from icrl_agents.core.process.terminal import counted, fold, table_lines
from icrl_agents.hub import remote as hub
from icrl_agents.sources import SOURCES

ID = "icrl/Darkroom3x3-v0"
TINY = ("--set", "width=8", "--set", "layers=1", "--set", "heads=1", "--set", "inner=8", "--set", "window=12",
        "--set", "slide=6", "--set", "episodes=2", "--set", "batch_size=4", "--set", "eval_episodes=2")  # fmt: skip


def in_terminal(columns: int, *args: object) -> list[str]:
    """The lines that a command shows in a terminal of that width, each time it draws one.

    The command runs in a copy of this process, which has imported everything.
    """
    pid, screen = pty.fork()
    if not pid:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        os.environ.pop("COLUMNS", None)
        os.environ |= {"TERM": "xterm", "NO_COLOR": "1"}
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        try:
            app([str(arg) for arg in args])
        except SystemExit as end:
            code = end.code or 0
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code))
    shown = b""
    try:
        while part := os.read(screen, 65536):
            shown += part
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(screen)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown.decode()
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode())
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


@cache
def printed(*args: object) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    told = [line for line in result.stderr.splitlines() if f"warning: {ID} has 7 training tasks" not in line]
    assert (result.exit_code, told) == (0, []), (result.stderr, result.exception)
    return result.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "an agent"
    said = printed("train", "ad", "--env", ID, "-o", out, *TINY, "--updates", 2, "--device", "cpu")
    assert f"icrl-agents play '{out}'" in said  # as a shell takes it
    return out


# ---- tables -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("command", [("envs",), ("agents",), ("compare", "--stored"), ("evaluate",)], ids=" ".join)
def test_every_word_of_a_table_is_whole(command, columns, trained):
    args = (*command, trained, "--episodes", 5, "--seeds", 1) if command == ("evaluate",) else command
    lines = in_terminal(columns, *args)
    assert max(map(cell_len, lines)) <= columns
    wide = printed(*args)
    words = {word for word in wide.split() if not set(word) <= {"─"}}
    assert words <= {word for line in lines for text in (line, line.replace(": ", " ")) for word in text.split()}
    rows = [line.split()[0] for line in wide.splitlines() if line.startswith("  icrl/")]
    assert [line.split()[0] for line in lines if line.startswith("  icrl/")] == rows  # each row begins a line, in order


@pytest.mark.parametrize("columns", range(8, 70))
def test_a_table_keeps_all_values_at_any_width(columns):
    header = ("name", "a long title", "note", "")
    rows = [("first", "1.50", "some words about it", "x"), ("second one", "", "", "a tail"), ("日本", "2", "b", "")]
    lines = [line.plain for line in table_lines(header, rows, columns)]
    longest = max(cell_len(word) for row in (header, *rows) for cell in row for word in cell.split())
    assert max(map(cell_len, lines)) <= max(columns, longest + 4)
    said = " ".join(lines).replace("·", " ").split()
    assert all(word in said for row in rows for cell in row for word in cell.split())
    assert {"name", "first", "second", "日本"} <= {line.split()[0] for line in lines if line.strip()}


def test_a_table_that_fits_has_a_line_a_row_and_no_limit_without_a_terminal():
    header, rows = ("name", "what it is"), [("a", "x" * 300), ("b", "")]
    assert len(list(table_lines(header, rows, 400))) == len(list(table_lines(header, rows, None))) == 4
    moved = [line.plain for line in table_lines(header, rows, 100)]
    assert moved[2:] == ["  a", "    what it is: " + "x" * 300, "  b"] or moved[2:4] == ["  a", "    what it is:"]


def test_text_is_folded_between_words_only():
    assert fold(["a bb", "ccc"], 8, "; ") == ["a bb", "ccc"]
    assert fold(["a bb", "ccc"], 9, "; ") == ["a bb; ccc"]
    assert fold(["one two three"], 7) == ["one two", "three"]
    assert fold(["unbreakable"], 3) == ["unbreakable"]
    assert fold([], 10) == []


def test_numbers_agree_with_their_nouns():
    assert [counted(number, "episode") for number in (0, 1, 2, 1600)] == [
        "0 episodes",
        "1 episode",
        "2 episodes",
        "1,600 episodes",
    ]
    assert counted(1, "history", "histories") + counted(3, "history", "histories") == "1 history3 histories"


def test_evaluate_and_play_speak_of_one_in_the_singular(trained):
    said = printed("evaluate", trained, "--episodes", 1, "--seeds", 1)
    assert "1 test task, 1 run each" in said
    played = printed("play", trained, "--episodes", 1, "--seed", 0, "--device", "cpu")
    assert "of 1 test task:" in played
    assert "1 episodes" not in played


# ---- progress ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 60])
def test_progress_keeps_bar_counter_and_time_left(columns, tmp_path):
    options = ("--updates", 3, "--set", "eval_every=1", "--device", "cpu", "--threads", 1)
    lines = in_terminal(columns, "train", "ad", "--env", ID, "-o", tmp_path / "a", *TINY, *options)
    bars = [line for line in lines if line.startswith("training ")]
    assert all(re.match(r"training [━╸╺ ]+ \d/3 updates (\d:\d\d:\d\d|-:--:--)", line) for line in bars), bars
    assert max(map(cell_len, bars)) <= columns
    assert re.search(r"3/3 updates \d:\d\d:\d\d (validation \d.* of \d.\d\d  )?loss \d\.\d{3}", bars[-1]), bars[-1]
    assert ("validation" in bars[-1]) == (columns == 80)


@pytest.mark.slow
def test_progress_of_a_long_title_keeps_its_counter(tmp_path):
    words = ("--env", "icrl/ContextualBandit-v0", "--source", "uniform", "--streams", 1, "--episodes", 1)
    lines = in_terminal(60, "collect", *words, "--split", "num_100", "-o", tmp_path / "h.h5")
    bars = [line for line in lines if line.startswith("uniform on ")]
    assert re.search(r"… ━+ 200/200 histories \d:\d\d:\d\d", bars[-1]), bars


@pytest.mark.parametrize("columns", [80, 60])
def test_play_shows_an_episode_in_a_line(columns, trained):
    lines = in_terminal(columns, "play", trained, "--episodes", 3, "--seed", 0, "--fps", 1e6)
    assert max(map(cell_len, lines)) <= columns
    shown = [line for line in lines if re.match(r"episode +\d  ", line)]
    assert len(shown) == 3
    assert all(re.search(r"random +\S+ +optimal +\S+$", line) for line in shown)


# ---- JSON -------------------------------------------------------------------------------------------------------


def test_envs_as_json():
    rows = json.loads(printed("envs", "--json"))
    assert [row["id"] for row in rows] == list(FAMILIES)
    room = rows[0]
    assert (room["horizon"], room["train"], room["test"], round(room["optimum"], 2)) == (20, 73, 8, 16.54)


def test_agents_as_json(tiny_agent, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "bundled_folder", lambda: tmp_path)
    tiny_agent().save_pretrained(tmp_path / "ad-test")
    (row,) = json.loads(printed("agents", "--json"))
    assert (row["id"], row["env"], row["method"], row["table"]) == ("icrl/ad-test", "icrl/Darkroom-v0", "ad", [])
    assert row["parameters"] > 0


def test_compare_as_json():
    rows = json.loads(printed("compare", "--stored", "--json", "--agent", "icrl/ad-darkroom"))
    assert [row["agents"] for row in rows] == [["icrl/ad-darkroom"]]
    assert rows[0]["ours"]["plain"]["50"][0] == pytest.approx(17.25, abs=0.005)
    assert rows[0]["published"] == {"plain": 13.67, "planned": 15.42}


def test_marks_as_json(tmp_path):
    path = tmp_path / "h.h5"
    printed("collect", "--env", ID, "--source", "noise", "-o", path, "--streams", 1, "--episodes", 2)
    found = json.loads(printed("marks", path, "--json", "--min-length", 2))
    assert found["env_id"] == ID
    assert len(found["tasks"]) == 7


# ---- help -------------------------------------------------------------------------------------------------------


def test_help_names_methods_and_where_settings_are():
    said = " ".join(printed("train", "--help").replace("-\n", "-").split())
    assert [name for name in METHODS if name not in said] == []
    assert "--help-settings" in said


def test_what_is_missing_is_named_with_usage_and_help():
    for args in (("play",), ("train",), ("train", "ad"), ("push", "x")):
        result = CliRunner().invoke(app, list(args))
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert f"try icrl-agents {args[0]} --help" in result.stderr
        assert f"Usage: icrl-agents {args[0]}" in result.stderr
    assert "METHOD --env ID --output FOLDER" in CliRunner().invoke(app, ["train"]).stderr


@pytest.mark.slow
@pytest.mark.parametrize("args", [("--help-settings",), ("--help-settings", "cad"), ("cad", "--help-settings")])
def test_settings_are_listed_without_what_training_requires(args):
    said = printed("train", *args)
    assert "peak learning rate" in said
    assert "latents" in said
    assert all(f"Source {name}: " in said for name in SOURCES)
    assert ("Method idt: " in said) == ("cad" not in args)


def test_an_unknown_method_has_no_settings():
    result = CliRunner().invoke(app, ["train", "--help-settings", "cda"])
    assert result.exit_code == 2
    assert "did you mean 'cad'" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("module", ["icrl_agents", "icrl_agents.cli"])
def test_the_package_runs_as_a_module(module):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", module, "--version"]
    assert subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.startswith(
        "icrl-agents "
    )


def test_sets_of_tasks_have_an_option_of_their_own():
    said = printed("sets", "--help")
    assert "--task-set NAME" in said
    assert "--set " not in said
    for option in ("--task-set", "--set"):  # the old name still works
        result = CliRunner().invoke(app, ["sets", "--stored", "x", option, "num_50"])
        assert "--stored measures nothing" in result.stderr


def test_a_folder_that_is_not_there_is_named(tmp_path):
    result = CliRunner().invoke(app, ["sets", "--stored", str(tmp_path / "nofolder")])
    assert result.exit_code == 2
    assert str(tmp_path / "nofolder") in result.stderr
    assert "checkpoint" not in result.stderr


def test_the_words_of_the_commands_are_in_the_glossary():
    text = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")][1:]
    told = {match.group(1) for line in lines if (match := re.match(r"- \*\*([\w %]+)\*\*( \(.+?\))?: \S", line))}
    assert len(told) == len(lines)  # one line each
    words = {"lifetime", "fold", "latents", "shown", "change", "relabel", "marks", "streams", "trust", "task set"}
    assert words | {"source", "window", "slide", "seeds", "split"} <= told
    assert [name for name in METHODS if f"`{name}`" not in text] == []
