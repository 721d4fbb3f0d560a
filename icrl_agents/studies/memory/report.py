"""Card rows, table, JSON and figure of the memory probe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.process.packages import versions
from icrl_agents.core.process.terminal import counted
from icrl_agents.evaluation.intervals import Interval
from icrl_agents.evaluation.results import dump_results
from icrl_agents.hub.cards import Row
from icrl_agents.studies.memory.probe import Recall
from icrl_agents.studies.panels import draw_sizes

JSON, PICTURE = "probe.json", "probe.png"
FILES = JSON, PICTURE
HEADER = ("agent", "latents", "episodes", "steps", "folds", "share of the optimum", "random")

Found = Mapping[tuple[str, str], Sequence[Recall]]  # results by (agent, change of its latents)


def card_rows(found: Mapping[str, Sequence[Recall]], split: str, walk: str = "random") -> list[Row]:
    """Card rows of an agent; `found` has results by change of the latents."""
    rows = []
    for change, recalls in found.items():
        for recall in recalls:
            way = "" if walk == "random" else f" of an {walk} walk"
            name = f"remembered after {recall.steps} steps{way}" + (f", latents {change}" if change != "none" else "")
            value, low, high = (round(number, 4) for number in recall.share)
            shown, folds = counted(recall.shown, "episode"), counted(recall.folds, "fold")
            note = f"{shown} with rewards, {split} tasks; {folds}; random {recall.random:.2f}"
            rows.append(Row(name, value, low, high, "share of optimum", note, over=recall.over))
    return rows


def table(found: Found) -> list[tuple[str, ...]]:
    """Table rows for `HEADER`, as text."""
    return [
        (agent, change, str(r.episodes), str(r.steps), str(r.folds), str(r.share), f"{r.random:.2f}")
        for (agent, change), recalls in found.items()
        for r in recalls
    ]


def to_json(found: Found, env_id: str, split: str, num_seeds: int, seed: int, walk: str = "random") -> str:
    """JSON text of all results, with the settings of the measurement."""
    rows = [
        {"agent": agent, "latents": change, **recall._asdict(), "share": recall.share._asdict()}
        for (agent, change), recalls in found.items()
        for recall in recalls
    ]
    settings = {"env_id": env_id, "split": split, "num_seeds": num_seeds, "seed": seed, "walk": walk}
    return dump_results({**settings, "recalls": rows, "versions": versions()})


def write_probe(found: Found, results: str, folder: Path) -> None:
    """Write `probe.json` (the text `results` of `to_json`) and `probe.png` to a folder, both or none."""
    settings = json.loads(results)
    content = {JSON: results.encode(), PICTURE: draw(found, settings["env_id"], settings["split"])}
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, content)


def draw(found: Found, env_id: str, split: str) -> bytes:
    """PNG of the share of the optimum against the length of the history, one line per agent and change of latents."""
    lines: dict[str, dict[int, Interval]] = {}
    for (agent, change), recalls in found.items():
        name = agent if change == "none" else f"{agent}, latents {change}"
        lines[name] = {recall.steps: recall.share for recall in recalls}
    first = next(iter(found.values()))[0]
    about = f"95% intervals over {first.over}"
    title = f"{env_id}, {split} tasks, rewards only in the first {counted(first.shown, 'episode')}"
    labels = title, "steps before the episode", "share of the optimal return"
    return draw_sizes(lines, 1.0, first.random, *labels, about)
