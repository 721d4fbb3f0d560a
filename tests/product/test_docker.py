"""The Dockerfile, read as text: its two images run the README's commands, and no local files get into them."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def instructions():
    """Instructions with what follows them, lines that go on joined, comments left out."""
    lines = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    return [line.split(" ", 1) for line in re.sub(r" *\\\n *", " ", lines).splitlines() if line]


def stages():
    """Instructions of each stage by its name, in order."""
    found = {}
    for word, rest in instructions():
        if word == "FROM":
            name = rest.split(" AS ")[1]
            found[name] = []
        if found:
            found[name].append((word, rest))
    return found


def readme_command(title):
    """The commands below a heading, joined by && in a block of their own."""
    body = README.split(f"\n## {title}\n")[1].split("```")[1]
    return body.strip().split(" && ")


def test_images_run_the_commands_of_the_readme():
    for title, name in (("Quickstart", "play"), ("Test it", "test")):
        words = dict(stages()[name])
        assert [words["RUN"], " ".join(json.loads(words["CMD"]))] == readme_command(title)
        assert words["FROM"] == f"installed AS {name}"


def test_the_image_without_a_target_plays():
    assert list(stages()) == ["installed", "test", "play"]


def test_the_base_is_an_argument():
    first, *_ = instructions()
    assert first == ["ARG", "BASE=python:3.11-slim"]
    assert stages()["installed"][0] == ("FROM", "${BASE} AS installed")


def test_pytorch_is_that_of_the_constraints():
    wanted = re.search(r"^torch==.*", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]
    assert [rest for word, rest in stages()["installed"] if word == "RUN" and rest.endswith(f" {wanted}")]


def test_pytorch_is_the_build_for_cpus_unless_the_image_or_an_argument_brings_another():
    given = dict(rest.partition("=")[::2] for word, rest in stages()["installed"] if word == "ARG")
    assert given["TORCH_INDEX"] == "https://download.pytorch.org/whl/cpu"
    (install,) = (rest for word, rest in stages()["installed"] if word == "RUN" and "pip install" in rest)
    assert install.startswith('python -c "import torch"')
    assert "${TORCH_INDEX:+--index-url ${TORCH_INDEX}}" in install


def test_no_local_files_get_into_an_image():
    ignored = {line.strip("*/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"}
    assert ignored == {".git"} | {line.strip("*/") for line in (ROOT / ".gitignore").read_text().split()}
