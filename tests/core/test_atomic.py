"""Atomic writes: a reader sees one whole version of a file, also while two threads write it."""

import threading

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
