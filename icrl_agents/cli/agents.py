"""The commands that list what there is: environments and agents."""

from __future__ import annotations

import math
from typing import Any

from icrl_agents.cli.options import AsJson


def envs(as_json: AsJson = False) -> None:
    """List the environments; the optimum is the mean over all tasks, of training and test."""
    from icrl_agents.core.families import Capability, all_families
    from icrl_agents.core.process.terminal import print_json, print_table

    rows = []
    for family in all_families():
        train, test = family.tasks.split()
        knows = family.offers(Capability.OPTIMAL_RETURN)
        best = float(family.optimal_return(family.tasks.ids).mean()) if knows else None
        spaces = str(family.observation_space), str(family.action_space)
        rows.append((family.env_id, *spaces, family.horizon, len(train), len(test), best))
    header = ("id", "obs", "actions", "horizon", "train", "test", "optimum")
    if as_json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
    else:
        told = [(*row, "-" if best is None else f"{best:.2f}") for *row, best in rows]
        print_table((*header[:-1], "optimum (all tasks)"), told)


def agents(as_json: AsJson = False) -> None:
    """List the agents that come with the package."""
    from icrl_agents.core.process.terminal import print_json, print_table
    from icrl_agents.evaluation import results as report
    from icrl_agents.hub.remote import list_pretrained

    found = {name: _look_up(name) for name in list_pretrained()}
    if as_json:
        print_json([{"id": name, **facts} for name, facts in found.items()])
        return
    rows = []
    for name, facts in found.items():
        result = report.headline(facts) if facts["table"] else "not measured"
        rows.append((name, facts["env"], facts["method"], f"{facts['parameters']:,}", result))
    print_table(("id", "env", "method", "parameters", "mean return"), rows)


def _look_up(name: str) -> dict[str, Any]:
    """What the folder of a bundled agent says; its table of results is empty if it was not measured."""
    from icrl_agents.hub.checkpoint import RESULTS, WEIGHTS, read_config, read_header, read_results
    from icrl_agents.hub.remote import BUNDLED, bundled_folder

    folder = bundled_folder() / name.removeprefix(BUNDLED)
    config = read_config(folder)
    return {
        "env": config["facts"].get("env_id", ""),
        "method": config["method"],
        "parameters": sum(math.prod(kind.shape) for kind in read_header(folder / WEIGHTS).values()),
        "table": read_results(folder)["table"] if (folder / RESULTS).exists() else [],
    }
