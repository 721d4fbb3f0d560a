"""Model cards: every number on one is somebody's measurement, every method gets the same template."""

from __future__ import annotations

import inspect
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.pretrained import to_json
from icrl_agents.hub import checkpoint
from icrl_agents.hub.cards import make_card, render_card, shown
from icrl_agents.hub.checkpoint import CheckpointConfig
from icrl_agents.methods import METHODS
from tests.conftest import one_line

FACTS = {
    "env_id": "icrl/Darkroom-v0",
    "command": "icrl-agents train ad --env icrl/Darkroom-v0 -o runs/ad --seed 7",
    "source": "posterior",
    "data": {"lifetimes": 40961, "seconds": 3.75},
    "seconds": 417.125,
    "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
    "limits": ["Rooms of 17 cells a side are too large."],
}
RESULTS: dict[str, Any] = {
    "env_id": "icrl/Darkroom-v0",
    "split": "test",
    "episodes": 53,
    "num_seeds": 19,
    "table": [
        {
            "name": "mean return, last",
            "value": 15.8349,
            "low": 15.5,
            "high": 16.1251,
            "unit": "return",
            "note": "IQM",
            "over": "8 tasks x 19 lives",
        },
        {"name": "random", "value": 0.325, "unit": "return", "reference": True},
        {"name": "goals found", "value": 8},
    ],
}
NUMBER = re.compile(r"\d+(?:\.\d+)*(?:e[-+]?\d+)?")


@pytest.fixture
def data(tiny_agent) -> dict[str, Any]:
    return {"format_version": 1, "library_version": "0.1.0", **to_json(tiny_agent().method, FACTS)}


def render(data: dict[str, Any], *args: Any, **options: Any) -> str:
    """The card of the method that the config names."""
    return render_card(CheckpointConfig(**data), METHODS[data["method"]], *args, **options)


def numbers(text: str) -> set[str]:
    return set(NUMBER.findall(text))


def known_numbers(data: dict[str, Any], results: dict[str, Any], parameters: int) -> set[str]:
    """Those of the JSON in full and as the card rounds them, and those in the method's own docstring."""
    text = json.dumps([data, results]) + (inspect.getdoc(METHODS[data["method"]]) or "")
    found = numbers(text) | {str(parameters), "2.0"}  # 2.0 of the licence's name
    return found | {shown(float(n)) for n in found if n.count(".") < 2} | numbers(data["action_space"]["type"])


def test_every_number_comes_from_results_or_facts(data):
    card = render(data, RESULTS, parameters=966, curve=True, name="icrl/ad-darkroom")
    assert numbers(card) - known_numbers(data, RESULTS, 966) == set()
    table = [line for line in card.splitlines() if line.startswith("| mean return")]
    assert table == ["| mean return, last | 15.83 | 15.5 | 16.13 | 8 tasks x 19 lives | return | IQM |"]
    for number in ("53", "19", "40961", "3.75", "417.1", "2.13.0", "966"):
        assert number in numbers(card)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"mean return, episode 1": 0.0, "mean return, episode 5": 9.0, "mean return, episodes 40-50": 17.123}
            | {"success, episodes 39-50": 0.75, "planned: mean return, episode 1": 3.0, "random": 0.3206, "optimal": 9},
            "0 in episode 1, 17.12 in episodes 40-50; success 0.75 in episodes 39-50; random 0.3206; optimal 9",
        ),
        ({"mean return, episode 1": 231.926, "random": 153.4}, "231.9 in episode 1; random 153.4"),
    ],
)
def test_the_results_of_a_card_begin_with_both_ends_of_a_lifetime(data, values, sentence):
    rows = [{"name": name, "value": value, "unit": "return"} for name, value in values.items()]
    card = render(data, {**RESULTS, "table": rows})
    assert card.split("## Results\n\n")[1].startswith(f"**Mean return {sentence}.**\n\n- env_id")


def test_the_check_above_can_fail(data):
    card = render(data, RESULTS, parameters=966)
    changed = json.loads(json.dumps(RESULTS).replace("15.8349", "15.2"))
    assert numbers(card) - known_numbers(data, changed, 966) == {"15.83", "15.8349"}


def test_the_template_has_no_number_and_no_method_of_its_own():
    template = resources.files("icrl_agents.hub").joinpath("card_template.md").read_text("utf-8")
    assert numbers(template) == set()
    assert not [name for name in METHODS if re.search(rf"\b{name}\b", template)]


def test_the_front_matter_is_what_the_hub_reads(data):
    card = ModelCard(render(data, RESULTS, name="icrl/ad-darkroom")).data
    assert (card.library_name, card.license, card.pipeline_tag) == (
        "icrl-agents",
        "apache-2.0",
        "reinforcement-learning",
    )
    assert {"reinforcement-learning", "ad", "icrl/Darkroom-v0"} <= set(card.tags)
    assert card.model_name == "ad-darkroom"
    scores = [(r.metric_name, r.metric_value, r.dataset_name, r.dataset_split) for r in card.eval_results]
    assert ("mean return, last", 15.8349, "icrl/Darkroom-v0", "test") in scores
    assert "random" not in [score[0] for score in scores]
    assert ModelCard(render(data)).data.eval_results is None


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_card_from_its_docstring(data, method):
    card = render({**data, "method": method})
    words = " ".join((inspect.getdoc(METHODS[method]) or "").split("\n\n")[0].split())
    assert words
    assert words in card
    assert ("lifetimes much longer" in card) == METHODS[method].in_context
    sections = re.findall(r"^## (.+)$", card, re.MULTILINE)
    assert sections == [
        "Play it",
        "Results",
        "Training data",
        "Model",
        "How it was made",
        "Known limits",
        "Differences from the paper",
        "Citation",
    ]


def test_what_is_not_known_is_said_not_invented(data):
    card = render({**data, "facts": {}})
    assert "Not measured yet" in card
    assert "Not recorded" in card
    assert "curve.png" not in card
    assert "gymnasium.make" not in card


def test_a_card_installs_what_its_environment_needs(data):
    assert "\npip install icrl-agents\n" in render(data)
    for group, line in (("mujoco", '"icrl-agents[mujoco]"'), ("x]; rm", "icrl-agents"), (3, "icrl-agents")):
        card = render({**data, "facts": {**data["facts"], "install": group}})
        assert f"\npip install {line}\n" in card
        assert "| install |" not in card


def test_the_cards_code_runs(data, tiny_agent, tmp_path):
    agent = tiny_agent()
    agent.save_pretrained(tmp_path)
    card = make_card(tmp_path, METHODS, str(tmp_path))
    code = re.search(r"```python\n(.+?)```", card, re.DOTALL)
    assert code
    scope: dict[str, Any] = {}
    exec(code.group(1), scope)
    assert scope["step"] == agent.config.window - 1
    assert scope["agent"].context.length.max() > 0


def test_facts_from_strangers_stay_in_their_cells(data):
    facts = {
        "env_id": 'x")\nimport os',
        "source": "a|b\n\n# Heading\n<script>alert()</script>[link](http://x)",
        "command": "ls\n```\n# Heading",
        "limits": ["one\n## Results", {"not": "text"}],
        "a|b\n---": 3,
    }
    card = render({**data, "facts": facts, "library_version": "1\n# Heading"}, name="icrl/ad-darkroom")
    outside = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    assert not re.search(r"^#+ Heading", outside, re.MULTILINE)
    assert outside.count("## Results") - outside.count("one ## Results") == 1
    assert "import os" not in card
    assert "<script" not in card.replace("\\<script", "")
    assert "a\\|b # Heading" in card


@pytest.mark.parametrize(
    ("table", "word"),
    [
        (None, "no table"),
        ("rows", "no table"),
        ([3], "expected an object"),
        ([{"name": "a"}], "expected an object"),
        ([{"name": "a", "value": 1, "median": 2}], "expected an object"),
        ([{"name": "a", "value": "1"}], "value='1'"),
        ([{"name": "a", "value": True}], "value='True'"),
        ([{"name": "a", "value": 1, "low": "x"}], "low='x'"),
        ([{"name": 1, "value": 1}], "name='1'"),
    ],
)
def test_malformed_results_are_refused(data, table, word):
    one_line(lambda: render(data, {"env_id": "icrl/Darkroom-v0", "table": table}), ValueError, word)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (40961, "40961"),
        (15.8349, "15.83"),
        (3e-4, "0.0003"),
        (12345.6, "12346"),
        (0.0, "0"),
        (True, "yes"),
        (None, ""),
        ([1, 2.5], "1, 2.5"),
    ],
)
def test_numbers_are_rounded_to_four_digits(value, text):
    assert shown(value) == text


def test_a_card_takes_the_results_beside_it_and_only_of_these_weights(tiny_agent, tmp_path):
    tiny_agent().save_pretrained(tmp_path)
    plain = (tmp_path / "README.md").read_text()
    count = sum(tensor.numel() for tensor in tiny_agent().state_dict().values())
    assert f"{count} parameters in `model.safetensors`" in plain
    results = {**RESULTS, "weights_sha256": checkpoint.weights_sha256(tmp_path)}
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "curve.png").write_bytes(b"png")
    card = make_card(tmp_path, METHODS, "icrl/tiny")
    assert "| mean return, last | 15.83 |" in card
    assert "(curve.png)" in card
    assert 'ICAgent.from_pretrained("icrl/tiny")' in card
    assert "episodes.gif" not in card
    Image.new("RGB", (8, 8)).save(tmp_path / "episodes.gif", comment=b"Task 3: [episodes] 1 and 5")
    shown_in = make_card(tmp_path, METHODS, "icrl/tiny")
    note = "Task 3: \\[episodes] 1 and 5"
    assert shown_in == card.replace("(curve.png)\n", f"(curve.png)\n\n![{note}](episodes.gif)\n\n{note}\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "episodes.gif")
    assert "![Episodes of this agent](episodes.gif)" in make_card(tmp_path, METHODS)
    tiny_agent(seed=1).save_pretrained(tmp_path)
    assert "15.83" not in (tmp_path / "README.md").read_text()
    one_line(lambda: make_card(tmp_path, METHODS), ValueError, "other weights", "icrl-agents evaluate")


def test_saving_the_same_weights_again_keeps_the_results_on_the_card(tiny_agent, tmp_path):
    """`push` takes a card that is not what the folder renders for one that was edited by hand."""
    tiny_agent().save_pretrained(tmp_path)
    results = {**RESULTS, "weights_sha256": checkpoint.weights_sha256(tmp_path)}
    (tmp_path / "results.json").write_text(json.dumps(results))
    agent = ICAgent.from_pretrained(tmp_path, device="cpu")
    agent.facts["note"] = "saved again"
    agent.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card == make_card(tmp_path, METHODS)
    assert "15.83" in card
    assert "saved again" in card
    (tmp_path / "results.json").write_text("{")
    agent.save_pretrained(tmp_path)  # damaged results are no reason to lose the agent
    assert "15.83" not in (tmp_path / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("folder", sorted(Path(__file__).parents[2].glob("model_cards/*/")), ids=lambda path: path.name)
def test_a_released_card_is_what_its_folder_renders(folder):
    """So every number on it is in results.json or config.json, and the weights are those that were measured."""
    ICAgent.from_pretrained(folder, device="cpu")
    results = json.loads((folder / "results.json").read_text())
    assert results["weights_sha256"] == checkpoint.weights_sha256(folder)
    card = (folder / "README.md").read_text()
    assert card == make_card(folder, METHODS, f"icrl/{folder.name}")
    assert "{'" not in card  # JSON objects are rows of their own


@pytest.mark.parametrize(("name", "value"), [("split", ["train"]), ("table", 5)])
def test_results_of_other_types_are_one_line(tiny_agent, tmp_path, name, value):
    tiny_agent().save_pretrained(tmp_path)
    results = {"env_id": "icrl/Darkroom-v0", "split": "test", "table": [{"name": "mean", "value": 1.0}], name: value}
    (tmp_path / "results.json").write_text(json.dumps(results))
    one_line(lambda: make_card(tmp_path, METHODS), ValueError, "results.json")
