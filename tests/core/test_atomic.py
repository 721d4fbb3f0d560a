"""Atomic writes: a reader sees one whole version of a file, also while two threads write it."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from icrl_agents.core.files.atomic import write_files


def test_two_threads_may_write_the_same_file(tmp_path):
    contents = b"a" * 2_000_000, b"b" * 1_000_000
    trouble, torn = [], 0

    def write(content: bytes) -> None:
        nonlocal torn
        for _ in range(20):
            try:
                write_files(tmp_path, {"file": content})
            except OSError as error:
                trouble.append(error)
            torn += (tmp_path / "file").read_bytes() not in contents

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not trouble
    assert not torn
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


WRITE = """
import os, sys
from pathlib import Path
from icrl_agents.core.files.atomic import write_files

left, replace = int(sys.argv[2]), Path.replace

def rename(self, target):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    return replace(self, target)

Path.replace = rename
write_files(Path(sys.argv[1]), {"weights": b"new", "config": b"new", "card": b"new"})
"""


@pytest.mark.parametrize("renames", range(4))
def test_a_kill_leaves_no_old_last_file_beside_new_ones(tmp_path, renames):
    """It describes the others, as a card does: one that fits them no more would pass for written by hand."""
    names = ("weights", "config", "card")
    write_files(tmp_path, dict.fromkeys(names, b"old"))
    done = subprocess.run([sys.executable, "-c", WRITE, tmp_path, str(renames)], check=False)
    assert done.returncode == (0 if renames == 3 else 9)
    found = {name: (tmp_path / name).read_bytes() for name in names if (tmp_path / name).exists()}
    assert found.pop("card", None) == (b"new" if renames == 3 else None)
    assert list(found.values()) == [b"new"] * min(renames, 2) + [b"old"] * (2 - min(renames, 2))


@pytest.mark.parametrize("held", ["weights", "config", "card"])
@pytest.mark.parametrize("old", [("weights", "config", "card"), ("config",), ()])
def test_a_file_that_cannot_be_replaced_leaves_all_old_ones(tmp_path, monkeypatch, held, old):
    """As on Windows, while another program has it open."""
    write_files(tmp_path, {name: f"old {name}".encode() for name in old} or {"other": b"old other"})
    before, replace = {path.name: path.read_bytes() for path in tmp_path.iterdir()}, Path.replace
    refusals = [held]

    def rename(self, target):
        if Path(target).name in refusals:
            refusals.clear()
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", rename)
        with pytest.raises(PermissionError, match=held):
            write_files(tmp_path, dict.fromkeys(("weights", "config", "card"), b"new"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_kill_left_is_deleted_by_a_later_write_once_no_other_can_be_writing_it(tmp_path):
    subprocess.run([sys.executable, "-c", WRITE, tmp_path, "0"], check=False)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 3
    write_files(tmp_path, {"card": b"newer"})
    assert {path.name for path in tmp_path.iterdir()} == {*left, "card"}
    (tmp_path / ".mine.tmp").touch()
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    write_files(tmp_path, {"card": b"newest"})
    assert {path.name for path in tmp_path.iterdir()} == {"card", ".mine.tmp"}
