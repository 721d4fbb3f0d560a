"""Model cards: the README of a checkpoint, rendered from its config, facts and measured results.

The template has no branch per method and no literal numbers: numbers come from `config.json`, `results.json` and
the size of the weights, prose from the method's docstring.

Facts are free JSON. Some keys have a fixed place on the card, the others are listed: `env_id` (string), `install`
(string, optional dependency group of the environment), `command` (string, reproduces the weights), `collect` (string,
reproduces the histories), `source`, `assumes`, `split_seed` and `data` (training data), `family` (tasks of a user's
environment), `limits` (list of strings).

Results are `env_id`, `split`, `episodes`, `num_seeds` and `table`, a list of rows
`{"name", "value", "low", "high", "unit", "note", "reference", "over"}` with required `name` and `value`. `unit`
is "return" for returns; `over` names the resampled levels of the interval; `reference` is true for rows of other
learners (random, optimal, source): they are in the table but not in the metadata, where the Hub would show them as
the agent's scores.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from icrl_agents.core.checks import pick
from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import space_from_json
from icrl_agents.hub.checkpoint import (
    CURVE,
    EVALUATE,
    RECORDING,
    RESULTS,
    WEIGHTS,
    CheckpointConfig,
    named,
    read_config,
    read_results,
    weights_sha256,
)
from icrl_agents.hub.header import count_weights
from icrl_agents.hub.recordings import read_note

DATA = ("source", "assumes", "split_seed", "data")
TASKS = ("tasks", "test_tasks")  # lists in the fact `family`, too long for a card
PLACED = ("env_id", "install", "command", "collect", "limits", *DATA)
MEASURED = ("env_id", "split", "episodes", "num_seeds", "demos")
EPISODES = "Episodes of this agent"  # caption of a recording without a note
LOCAL = "path/to/this/folder"
RETURN, SUCCESS = "mean return, ", "success, "  # how rows of the agent's own curve begin


class Row(NamedTuple):
    """One row of the results table."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    note: str = ""
    reference: bool = False
    over: str = ""  # resampled levels of the interval, such as "8 tasks x 20 lives"


def make_card(
    folder: Path,
    methods: Mapping[str, type],
    name: str | None = None,
    new: dict[str, Any] | None = None,
    config: CheckpointConfig | None = None,
) -> str:
    """Card of a checkpoint folder, from its config and, if present, `results.json`, `curve.png` and `episodes.gif`.

    Args:
        folder: the checkpoint.
        methods: registry of methods by the name in `config.json`.
        name: id in the card's loading example.
        new: results that will replace those in the folder, with a curve.
        config: content that will replace that of its `config.json`.

    Raises:
        ValueError: the results are malformed or were measured on other weights, or the recording is no GIF.
    """
    results = new
    if new is None and os.path.lexists(folder / RESULTS):
        results = read_results(folder)
    if results and results.get("weights_sha256", ours := weights_sha256(folder)) != ours:
        raise ValueError(f"{folder / RESULTS} was measured on other weights: {EVALUATE} again")
    count = count_weights(folder / WEIGHTS)
    config, curve = config or read_config(folder), new is not None or (folder / CURVE).is_file()
    method = pick(methods, config.method, "method")
    note = (read_note(folder / RECORDING) or EPISODES) if (folder / RECORDING).is_file() else None
    with named(folder, RESULTS, (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)):
        return render_card(config, method, results, parameters=count, curve=curve, recording=note, name=name)


def render_card(
    data: CheckpointConfig,
    method: type,
    results: dict[str, Any] | None = None,
    *,
    parameters: int | None = None,
    curve: bool = False,
    recording: str | None = None,
    name: str | None = None,
) -> str:
    """Render the card as Markdown with YAML front matter; deterministic in its arguments.

    Args:
        data: content of `config.json`.
        method: class of the method, whose docstring the card quotes.
        results: content of `results.json`; without it the card states that no results exist.
        parameters: number of weights.
        curve: whether the folder has a `curve.png`.
        recording: caption of its `episodes.gif`; None without one.
        name: id in the loading example, of a Hub repo or bundled agent.

    Raises:
        ValueError: malformed results.
    """
    facts, name = data.facts, name or LOCAL
    rows = table_rows(results) if results else []
    env_id = next((d["env_id"] for d in (results or {}, facts) if _is_id(d.get("env_id"))), None)
    prose = _prose(method)
    return _template().render(
        front_matter=_front_matter(data.method, prose.in_context, env_id, results, rows, name),
        title=f"{data.method} on {env_id}" if env_id else data.method,
        name=name,
        env_id=env_id,
        method=data.method,
        acts=prose.acts,
        in_context=prose.in_context,
        summary=prose.summary,
        deviations=prose.deviations,
        variable_actions=prose.variable_actions,
        has_memory=prose.has_memory,
        steps="10 * agent.config.window" if prose.has_memory else "agent.config.window",  # memory exceeds the window
        arxiv=prose.arxiv,
        measured=[(key, results[key]) for key in MEASURED if key in results] if results else None,
        outcome=_outcome(rows),
        rows=rows,
        curve=curve,
        recording=recording,
        training_data=_flat({key: facts[key] for key in DATA if key in facts}),
        parameters=parameters,
        config=_flat(data.config),
        demos=data.config.get("demos", 0),
        window=shown(data.config["window"]),
        observation_space=str(space_from_json(data.observation_space)),
        action_space=str(space_from_json(data.action_space)),
        library_version=data.library_version,
        command=_fenced(facts.get("command")),
        collect=_fenced(facts.get("collect")),
        facts=_flat({key: _shown(value) for key, value in facts.items() if key not in PLACED}),
        package=_package(facts.get("install"), prose.install),
        own_family=isinstance(facts.get("family"), dict),
        limits=facts["limits"] if isinstance(facts.get("limits"), list) else [],
    )


def table_rows(results: dict[str, Any]) -> list[Row]:
    """Checked rows of `results["table"]`; ValueError for malformed ones."""
    table = results.get("table")
    if not isinstance(table, list):
        raise ValueError("the results have no table: run icrl-agents evaluate again")
    return [_row(entry) for entry in table]


def _outcome(rows: list[Row]) -> str:
    """The returns at both ends of a lifetime, the success, and the returns of random and optimal play; "" without."""
    returns = [(row, row.name.removeprefix(RETURN)) for row in rows if row.name.startswith(RETURN)]
    if not returns:
        return ""
    parts = [", ".join(f"{shown(row.value)} in {span}" for row, span in dict.fromkeys([returns[0], returns[-1]]))]
    for row in rows:
        if row.name.startswith(SUCCESS):
            parts.append(f"success {shown(row.value)} in {row.name.removeprefix(SUCCESS)}")
    parts += [f"{row.name} {shown(row.value)}" for row in rows if row.name in ("random", "optimal")]
    return f"Mean return {'; '.join(parts)}"


def _row(entry: Any) -> Row:
    if not isinstance(entry, dict) or not {"name", "value"} <= set(entry) <= set(Row._fields):
        raise ValueError(f"the results' table has {printable(entry)}, expected an object of {', '.join(Row._fields)}")
    for field, value in entry.items():
        if not isinstance(value, _FIELD_TYPES[field]) or (isinstance(value, bool) and field != "reference"):
            raise ValueError(
                f"the results' table has {field}='{printable(value)}' in {printable(entry)}: check its type"
            )
    return Row(**entry)


_FIELD_TYPES: dict[str, Any] = {
    "name": str,
    "value": int | float,
    "low": int | float | None,
    "high": int | float | None,
    "unit": str,
    "note": str,
    "reference": bool,
    "over": str,
}


def shown(value: Any) -> str:
    """Format a JSON value for the card: floats with four significant digits, integers in full."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return str(value)


def _cell(value: Any) -> str:
    """Escape a value for a Markdown table cell or list item."""
    text = " ".join(shown(value).split())
    for sign in "\\|<`[":
        text = text.replace(sign, f"\\{sign}")
    return text


def _fenced(command: Any) -> str | None:
    return command.replace("```", "'''").strip() if isinstance(command, str) else None


def _is_id(value: Any) -> bool:
    """Whether a value is a well-formed environment id: it is inserted into code and YAML on the card."""
    return isinstance(value, str) and re.fullmatch(r"[\w:./-]{1,100}", value) is not None


def _package(*groups: Any) -> str:
    """What to install: this package, with the optional dependency groups that are well-formed names."""
    known = [group for group in groups if isinstance(group, str) and re.fullmatch(r"[a-z0-9-]{1,40}", group)]
    return f'"icrl-agents[{",".join(known)}]"' if known else "icrl-agents"


def _shown(fact: Any) -> Any:
    """A fact with the number of tasks in place of their list."""
    if not isinstance(fact, dict):
        return fact
    return {key: len(value) if key in TASKS and isinstance(value, list) else value for key, value in fact.items()}


def _flat(data: dict[str, Any]) -> list[tuple[str, Any]]:
    """Nested objects, and lists of them by their number from 1, as (dotted name, value) pairs."""
    pairs: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            value = {str(number): one for number, one in enumerate(value, 1)}
        pairs += [(f"{key}.{k}", v) for k, v in _flat(value)] if isinstance(value, dict) else [(key, value)]
    return pairs


class Prose(NamedTuple):
    """Texts and flags of a method class for the card."""

    summary: str
    deviations: str
    acts: bool  # whether it is an agent
    in_context: bool  # whether it learns from its context
    install: str  # optional dependency group that the method needs
    variable_actions: bool  # accepts any action set
    has_memory: bool  # steps outside the window influence actions
    arxiv: str | None


def _prose(method: Any) -> Prose:
    text = inspect.getdoc(method) or ""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    deviations = " ".join(p.removeprefix("Deviations:").strip() for p in paragraphs if p.startswith("Deviations"))
    arxiv = re.search(r"arXiv[: ](\d{4}\.\d{4,5})", text)
    return Prose(
        summary="\n\n".join(paragraphs[:2]),
        deviations=deviations[:1].upper() + deviations[1:],
        acts=method.acts,
        in_context=method.in_context,
        install=method.install,
        variable_actions=method.acts and method.variable_actions,
        has_memory=method.has_memory,
        arxiv=arxiv.group(1) if arxiv else None,
    )


def _front_matter(
    method: str, in_context: bool, env_id: str | None, results: dict[str, Any] | None, rows: list[Row], name: str
) -> str:
    from huggingface_hub import ModelCardData

    kind = ["in-context-reinforcement-learning"] if in_context else []
    tags = ["reinforcement-learning", *kind, "gymnasium", method]
    card = ModelCardData(
        library_name="icrl-agents",
        license="apache-2.0",
        pipeline_tag="reinforcement-learning",
        tags=[*tags, env_id] if env_id else tags,
        model_name=name.rsplit("/", 1)[-1] if name != LOCAL else method,
        eval_results=_eval_results(env_id, results or {}, rows) or None,
    )
    return card.to_yaml(line_break="\n")


def _eval_results(env_id: str | None, results: dict[str, Any], rows: list[Row]) -> list[Any]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="reinforcement-learning",
            dataset_type=env_id or "unknown",
            dataset_name=env_id or "unknown",
            dataset_split=results.get("split"),
            metric_type="mean_reward" if row.unit == "return" else row.unit or "unknown",
            metric_name=row.name,
            metric_value=row.value,
        )
        for row in rows
        if not row.reference
    ]


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    # The output is Markdown, not HTML; `cell` escapes markup in facts.
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = _cell
    return environment.from_string(resources.files("icrl_agents.hub").joinpath("card_template.md").read_text("utf-8"))
