"""README and docs: short, linked, complete; their tables, commands, files and Python code are those of the package."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.spaces import Discrete
from icrl_envs import BUILT_IN, FAMILIES, unregister_family
from typer.main import get_command
from typer.testing import CliRunner

from icrl_agents import METHODS
from icrl_agents.cli.app import app
from icrl_agents.core.process.terminal import counted
from icrl_agents.methods import MODELS
from icrl_agents.sources import SOURCES, find_source
from icrl_agents.studies import compare
from tests.envs.families import METAWORLD, PROCGEN
from tests.product import cli_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FRONT_PAGES = ("README.md", "docs/index.md")
API = ("environments", "methods", "sources")
GENERATED = ("docs/cli.md", "docs/settings.md")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
}
README = PAGES["README.md"]
WRITTEN = {name: text for name, text in PAGES.items() if name not in GENERATED}

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """The part of the README below a heading."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, header lines left out."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][1:]


# ---- the front page ---------------------------------------------------------------------------------------------


def test_the_readme_is_a_front_page():
    assert len(README.splitlines()) < 150
    assert README.count("\n![") == 1


@pytest.mark.slow
def test_results_are_those_of_the_cards():
    found = [compare.stored(entry) for entry in compare.released()]
    assert len(found) >= 5
    assert compare.markdown(found) in section("Results")


def test_every_measured_number_stands_in_one_place():
    """A number with its interval stands on one page; within a page two measurements may agree."""
    number = re.compile(r"[\d.]+%? \[-?[\d.]+, -?[\d.]+\]")
    pages = Counter(found for text in WRITTEN.values() for found in set(number.findall(text)))
    assert len(pages) > 40
    assert [found for found, count in pages.items() if count > 1] == []
    outside = README.replace(section("Results"), "")
    assert number.findall(outside) == []


def test_environments():
    listed = {env_id: row for row in rows(section("Environments")) for env_id in row[0].split("`")[1::2]}
    assert {"icrl/MetaWorld-<task>-v0", "icrl/Procgen-<game>-v0"} <= set(listed)  # of which there are many
    listed = {env_id: row for env_id, row in listed.items() if "<" not in env_id}
    assert set(listed) == set(FAMILIES) - {*METAWORLD, *PROCGEN}
    for env_id, row in listed.items():
        family, (train, test) = FAMILIES[env_id].family, FAMILIES[env_id].split()
        space = family.action_space
        actions = str(space.n) if isinstance(space, Discrete) else counted(space.shape[0], "real")
        assert row[2].split(",")[0] == actions
        assert row[3] == f"{family.horizon} steps"
        assert row[4].startswith(f"{len(train)} / {len(test)} ")


def test_methods():
    assert {name for row in rows(section("Methods")) for name in re.findall(r"`(\S+)`", row[0])} == set(METHODS)


def test_the_reference_has_every_environment_method_and_source():
    """Their docstrings are their pages."""
    shown = {name: set(re.findall(r"^::: (\S+)$", PAGES[f"docs/reference/{name}.md"], re.MULTILINE)) for name in API}
    assert {str(gymnasium.spec(env_id).entry_point).replace(":", ".") for env_id in BUILT_IN} <= shown["environments"]
    assert {f"{cls.__module__}.{cls.__qualname__}" for cls in MODELS.values()} <= shown["methods"]
    assert {find_source(name).__module__ for name in SOURCES} <= shown["sources"]


# ---- links and files --------------------------------------------------------------------------------------------


def links(page: str) -> list[tuple[str, str]]:
    """The relative links of a page as (file, anchor), the file from the root of the repository."""
    found = re.findall(r"\]\(((?!\w+:)[^)\s]+)\)", BLOCK.sub("", PAGES[page]))
    parts = [link.partition("#") for link in found]
    folder = (ROOT / page).parent
    return [
        ((folder / file).resolve().relative_to(ROOT).as_posix() if file else page, anchor) for file, _, anchor in parts
    ]


def anchors(page: str) -> set[str]:
    """What the headings of a page are called in its address."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", PAGES[page]), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for file, anchor in links(page):
        assert (ROOT / file).exists(), file
        assert not anchor or anchor in anchors(file), (file, anchor)
        assert "/" not in page or file.startswith("docs/"), (file, "is not on the site")


@pytest.mark.parametrize("front", FRONT_PAGES)
def test_two_clicks_from_the_front_page(front):
    near = {front} | {file for file, _ in links(front) if file in PAGES}
    near |= {file for page in near for file, _ in links(page) if file in PAGES}
    for page, content in (
        ("docs/own_environment.md", "# Train on my own environment"),
        ("docs/glossary.md", "- **fold**:"),
        ("docs/settings.md", "## Training"),
    ):
        assert page in near
        assert content in PAGES[page]


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    folders = "icrl_agents|envs|tests|model_cards|recipes|examples|docs"
    for name in re.findall(rf"`((?:{folders})/[\w/.-]+)`", PAGES[page]):
        assert (ROOT / name).exists() or "your_" in name, name


def test_the_tree_is_that_of_the_packages():
    """Every folder of the two packages stands in the tree of the architecture, at its place, and no other does."""
    tree = PAGES["docs/architecture.md"].split("```")[1]
    found, path = set(), list[str]()
    for line in tree.splitlines():
        if match := re.match(r"( *)([\w/]+)/(\s|$)", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            found.add("/".join(path))
    packages = (ROOT / "icrl_agents", ROOT / "envs" / "icrl_envs")
    folders = {file.parent.relative_to(ROOT).as_posix() for package in packages for file in package.rglob("*.py")}
    assert {name for name in found if name.startswith(("icrl_agents", "envs"))} == folders


def test_words_of_the_code_are_in_the_glossary():
    words = set(re.findall(r"^- \*\*([\w %]+)\*\*", PAGES["docs/glossary.md"], re.MULTILINE))
    assert words >= {"episode", "lifetime", "task", "row", "window", "percept", "fold", "latents", "action set"}
    assert words >= {"static", "active", "stream"}


def test_the_page_of_commands_is_what_the_generator_writes():
    assert PAGES["docs/cli.md"] == cli_page.page()


# ---- Python code ------------------------------------------------------------------------------------------------

FEWER = (
    (r"range\(50( \* 20)?\)", "range(2)"),
    (r"range\(50, 100\)", "range(50, 52)"),
    (r"episodes=\d+", "episodes=2"),
    (r"num_seeds=\d+", "num_seeds=1"),
    (r'"updates": \d+', '"updates": 2, "batch_size": 4, "eval_every": 0'),
    (r'"episodes": \d+', '"episodes": 2'),
    (r'"width": \d+', '"width": 8'),
    (r"num_tasks=\d+", "num_tasks=12"),
)
BEFORE = {  # what blocks that show a few lines of a program take for granted
    "docs/gymnasium.md": "import gymnasium\nfrom icrl_agents import ICAgent\nid = 'icrl/Darkroom-v0'\n"
    "env, agent = gymnasium.make(id), ICAgent.from_pretrained('icrl/ad-darkroom')\n",
    "docs/latent_actions.md": "from icrl_agents import collect, train\n"
    "collect('icrl/PixelGridGoal-v0', 'noise', 'videos.h5', tasks=range(6), streams=1, episodes=1)\n"
    "settings = {'updates': 1, 'batch_size': 4, 'width': 8}\n"
    "train('lam', 'icrl/PixelGridGoal-v0', 'lam', histories='videos.h5', settings=settings, quiet=True)\n",
    "docs/metaworld.md": "from icrl_agents.evaluation import evaluate as measuring\n"
    "measuring.RANDOM_STEPS = measuring.FEWEST_RANDOM = 1  # random play takes half a minute\n",
}

NEEDED = {"docs/procgen.md": "procgen"}  # packages that the test extra cannot have


def python(page: str) -> str:
    """The Python of a page as one program, with fewer and shorter repetitions."""
    bodies = [body for language, body in BLOCK.findall(PAGES[page]) if language == "python"]
    code = "\n".join([BEFORE.get(page, ""), *bodies])
    for pattern, fewer in FEWER:
        code = re.sub(pattern, fewer, code)
    return code


@pytest.mark.parametrize("page", [page for page in WRITTEN if "```python" in PAGES[page]])
@pytest.mark.slow
def test_python_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if page in NEEDED:
        pytest.importorskip(NEEDED[page])
    if "FAMILIES[" in python(page) or "register_" in python(page):  # what it registers stays in its process
        command = [sys.executable, "-c", python(page)]
        env = {"PYTHONPATH": ":".join(path or str(ROOT) for path in sys.path), "OMP_NUM_THREADS": "1"}
        found = subprocess.run(command, env=env, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
    else:
        exec(compile(python(page), page, "exec"), {"__name__": "__main__"})
    assert page not in FRONT_PAGES or re.match(r"return of each episode: [\d.]+ [\d.]+$", capsys.readouterr().out)


def test_front_pages_have_the_same_loop():
    assert python("README.md") == python("docs/index.md")


# ---- commands ---------------------------------------------------------------------------------------------------

PROGRAMS = r"(?:icrl-agents|pip|python|accelerate|torchrun|tensorboard|wandb|mkdocs|ruff|pytest|for|[A-Z_]+=\S+ python)"
NOT_RUN = {  # the beginning of a command: why it is not run here; its words are checked all the same
    "pip install": "needs a package index",
    "icrl-agents push": "needs the Hub, of which tests/hub has a local one",
    "accelerate launch": "needs two GPUs; tests of training start two processes",
    "torchrun": "needs two GPUs or machines; tests of training start two processes",
    "tensorboard --logdir": "serves until it is interrupted",
    "mkdocs serve": "serves until it is interrupted",
    "mkdocs build": "a step of .ci/run",
    "ruff": "a step of .ci/run",
    "mypy": "a step of .ci/run",
    "pytest": "runs this test",
    "wandb sync": "needs an account",
    "python examples/": "takes minutes; test_examples.py runs it, shrunk",
    "python tests/benchmarks/": "takes minutes to hours",
    "python -m tests.fuzz": "takes minutes",
    "python -m": "has a test of its own, which compares the page",
    "icrl-agents collect --env icrl/BernoulliBandit-v0": "records 9,000 lifetimes; tests of sources record fewer",
    "icrl-agents collect --env icrl/MetaWorld": "simulates 300,000 steps; tests of Meta-World simulate fewer",
    "icrl-agents train dpt --env icrl/MetaWorld": "trains on the histories of that command",
    "icrl-agents collect --env icrl/Procgen": "needs numpy below 2; .ci/procgen runs it",
    "icrl-agents train lam --env icrl/Procgen": "trains on the histories of that command; .ci/procgen runs it",
    "icrl-agents collect --env icrl/PixelGrid": "records 810 levels; tests of the command line record four",
    "icrl-agents train lam": "trains on the histories of that command",
    "icrl-agents train la-bc": "trains on those histories, labelled",
    "icrl-agents evaluate la-bc": "measures the agent of that command",
    "icrl-agents evaluate runs/windows-keys": "measures an agent of a study that is not run",
    "icrl-agents annotate videos.h5": "labels the histories of that command",
    "icrl-agents research actions": "measures every learner on all task sets for minutes; tests of studies take fewer",
    "icrl-agents research windows --env icrl/DarkKeyToDoor-v0": "runs for the larger room, with the same options",
    "icrl-agents research windows --env icrl/DarkroomTurns-v0": "lives long lifetimes; tests of studies shorter ones",
    "icrl-agents research memory icrl/cad-dark-key-to-door": "asks in 328 tasks; the commands before it ask in few",
    "icrl-agents evaluate icrl/idt-darkroom --plan": "plans for half a minute; the quickstart plans too",
    "icrl-agents evaluate icrl/ad-darkroom --plan": "plans for half a minute; the quickstart plans too",
    "icrl-agents evaluate icrl/idt-darkroom-permuted --plan": "plans for half a minute; the quickstart plans too",
    "icrl-agents evaluate icrl/dpt-darkroom-permuted --plan": "plans for half a minute; the quickstart plans too",
    "icrl-agents collect --backend ray": "starts Ray for many seconds; tests of the core run it on a cluster",
    "icrl-agents research sweep prompted-dt": "trains nine agents; tests of studies train two",
    "icrl-agents research sweep la-bc": "trains nine agents on the histories of that page; tests of studies train two",
    "icrl-agents research sweep --backend slurm": "needs a queue, or many seconds; tests of studies run it",
    "icrl-agents research seeds --backend ray": "needs the cluster of its page",
    "icrl-agents doctor": "its exit code is a verdict on the measured source; tests of studies run it",
    "for card in": "writes the released cards; tests of cards do it for one",
}
TINY = {"width": 8, "layers": 1, "heads": 1, "inner": 8, "batch_size": 4, "micro_batch": 4, "updates": 2}
TINY |= {"eval_every": 0, "eval_episodes": 1}
LIFETIME = {"window": 40, "slide": 12, "episodes": 10}
SETTINGS = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
LIFETIMES = [word for name, value in LIFETIME.items() for word in ("--set", f"{name}={value}")]
ONE_TASK = ["--tasks", "1", "--episodes", "1"]
LESS = {  # options after those of a command, so that it takes no more than seconds
    "play": ["--episodes", "1", "--no-animation"],
    "evaluate": ["--split", "validation", "--episodes", "2", "--seeds", "1", "--device", "cpu"],
    "collect": ["--streams", "1", "--episodes", "1"],
    "train": [*SETTINGS, *LIFETIMES, "--device", "cpu", "--track", "none"],
    "research seeds": [*SETTINGS, *LIFETIMES, "--splits", "0", "--seeds", "0", "--jobs", "1"],
    "research sweep": [*SETTINGS, *LIFETIMES, "--seeds", "0", "--episodes", "1"],
    "research windows": [*SETTINGS, "--windows", "120", "--latents", "8", *ONE_TASK, "--jobs", "1"],
    "research memory": ["--episodes", "3", "--seeds", "1", "--device", "cpu"],
    "research robustness": ["--tasks", "validation", "--episodes", "2", "--device", "cpu"],
    "research actions": [*ONE_TASK, "--seeds", "1", "--device", "cpu"],
    "research table": ["--stored"],
}
SHALLOW = ["--plan", "best-of-n", "--plan-tasks", "1"]
ROOMS = {"icrl/Darkroom-v0": "icrl/Darkroom3x3-v0", "icrl/Darkroom17x17-v0": "icrl/Darkroom3x3-v0"}
TEMPLATE = re.compile(r"^\[?[A-Z]{3,}\b|\.\.\.")  # AGENT, FOLDER, NAME=VALUE: the reader's own


def commands(text: str) -> Iterator[tuple[str, bool]]:
    """The commands of a page, those joined by && one by one, and whether each stands in a block of its own."""
    for language, body in BLOCK.findall(text):
        if language in ("", "bash"):
            for line in body.splitlines():
                if re.match(PROGRAMS, line):
                    yield from ((part, True) for part in line.split("  #")[0].split(" && "))
    for span in re.findall(rf"(?<!`)`({PROGRAMS}\s[^`]+)`(?!`)", BLOCK.sub("", text)):
        yield from ((part, False) for part in " ".join(span.split()).split(" && "))


PROGRAM: Any = get_command(app)


def resolve(words: list[str]) -> tuple[tuple[str, ...], Any]:
    """The words that name a command of `icrl-agents`, and the command."""
    command, path = PROGRAM, list[str]()
    for word in words:
        if not hasattr(command, "commands"):
            break
        assert word in command.commands, words
        command = command.commands[word]
        path.append(word)
    return tuple(path), command


ALL = [(page, command, block) for page, text in WRITTEN.items() for command, block in commands(text)]


def reason(command: str) -> str | None:
    """Why a command is not run, if it is not."""
    plain = re.sub(r"^[A-Z_]+=\S+ ", "", command)
    return next((why for start, why in NOT_RUN.items() if plain.startswith(start)), None)


@pytest.mark.parametrize("command", sorted({command for _, command, _ in ALL}))
def test_commands_have_known_words(command):
    words = shlex.split(re.sub(r"^[A-Z_]+=\S+ ", "", command))
    if words[0] == "icrl-agents":
        path, found = resolve(words[1:])
        known = {option for parameter in found.params for option in [*parameter.opts, *parameter.secondary_opts]}
        assert {word for word in words[len(path) + 1 :] if re.match(r"--?[a-z]", word)} <= known | {"-h", "--help"}
    else:
        assert reason(command) is not None
        assert all((ROOT / word).is_file() for word in words if word.startswith(("tests/", "examples/")))


def test_every_command_is_shown():
    named = {resolve(shlex.split(command)[1:])[0] for _, command, _ in ALL if command.startswith("icrl-agents")}
    leaves = {path for path, found in cli_page.commands(PROGRAM) if not hasattr(found, "commands")}
    assert leaves <= named


def runnable(page: str) -> list[list[str]]:
    """The words of the commands that a reader of a page can run as they stand, in order."""
    found = [shlex.split(command)[1:] for name, command, _ in ALL if name == page and reason(command) is None]
    return [words for words in found if is_complete(words) and not any(TEMPLATE.search(word) for word in words)]


def is_complete(words: list[str]) -> bool:
    """Whether these are a command with what it requires, not just its name in a sentence."""
    path, found = resolve(words)
    return not hasattr(found, "commands") and (len(words) > len(path) or not any(x.required for x in found.params))


def shortened(words: list[str]) -> list[str]:
    """The command with what makes it short in place of its own settings, and in the smallest room what is recorded."""
    if {"--stored", "--help-settings"} & set(words):
        return words
    path = resolve(words)[0]
    less = [*LESS.get(" ".join(path), []), *(SHALLOW if "--plan" in words else [])]
    if any("Bandit" in word for word in words):  # one episode there has 300 pulls
        less = ["episodes=1" if word == f"episodes={LIFETIME['episodes']}" else word for word in less]
    if "--histories" in words and "--set" in less:  # these have lifetimes of their own
        length = f"episodes={LIFETIME['episodes']}"
        less = [word for word, after in pairwise([*less, ""]) if length not in (word, after)]
    if "--histories" in words or path[0] in ("collect", "research"):
        words = [ROOMS.get(word, word) for word in words]
    ours = {word.partition("=")[0] for word in less if "=" in word}
    kept = list[str]()
    for word in words:
        if kept[-1:] == ["--set"] and word.partition("=")[0] in ours:
            kept.pop()
        elif word != "--report":  # of 50 episodes and 20 seeds; tests of the command line look at it
            kept.append(word)
    return [*kept, *less]


def task_file(page: str) -> str | None:
    """The file of tasks that a page shows, with fewer of them."""
    shown = [body for language, body in BLOCK.findall(PAGES[page]) if language == "toml" and "[tasks]" in body]
    return re.sub(r"num_tasks = \d+", "num_tasks = 6", shown[0]) if shown else None


@pytest.fixture
def _ours_only():
    """What a page registers is forgotten."""
    yield
    for env_id in set(FAMILIES) - BUILT_IN:
        unregister_family(env_id)


@pytest.mark.parametrize("page", [page for page in WRITTEN if runnable(page)])
@pytest.mark.slow
@pytest.mark.usefixtures("_ours_only")
def test_commands_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    if text := task_file(page):
        (tmp_path / "tasks.toml").write_text(text)
    for words in runnable(page):
        result = CliRunner().invoke(app, shortened(words))
        assert result.exit_code == 0, (words, result.output, result.stderr, result.exception)
