"""Which agents are training seeds of one entry, and what tells entries apart."""

from __future__ import annotations

import pytest

from icrl_agents.studies.action_sets.groups import find_entries
from tests.conftest import one_line
from tests.studies.action_sets.agents import fresh


def test_agents_alike_are_training_seeds():
    agents = {
        "a": fresh("headless-ad"),
        "b": fresh("ad"),
        "c": fresh("headless-ad", seed=1),
        "d": fresh("headless-ad", prompt=False, temperature=2.0),
        "e": fresh("headless-ad", dropout=0.1),
    }
    entries = {entry.name: entry for entry in find_entries(agents)}
    assert {name: entry.agents for name, entry in entries.items()} == {
        "headless-ad": ("a", "c"),
        "ad": ("b",),
        "headless-ad (prompt=False)": ("d",),
        "headless-ad (dropout=0.1)": ("e",),
    }
    told = entries["headless-ad (prompt=False)"].hyperparameters
    assert (told["method"], told["temperature"], told["lr"], told["batch_size"]) == ("headless-ad", 2.0, 1e-3, 32)
    assert "seed" not in told
    agents["e"].facts["data"] = {"settings": {"sharpness": 3.0}}
    assert find_entries(agents)[-1].name == "headless-ad (dropout=0.1, source.sharpness=3.0)"
    agents["f"] = fresh("headless-ad", prompt=False, temperature=3.0)  # the short name is taken
    for order in (agents, {"a": agents["a"], "f": agents["f"], "d": agents["d"]}):  # whoever comes first
        names = {path: entry.name for entry in find_entries(order) for path in entry.agents}
        assert names["f"] == "headless-ad (prompt=False, temperature=3.0)"
        assert names["d"] == "headless-ad (prompt=False, temperature=2.0)"


def test_ablations_that_go_together_are_both_told():
    agents = {
        "a": fresh("headless-ad"),
        "b": fresh("headless-ad", votes=False),
        "c": fresh("headless-ad", votes=False, illegal="zero"),
        "d": fresh("headless-ad", votes=False, similarity="cosine"),
    }
    names = [entry.name.removeprefix("headless-ad") for entry in find_entries(agents)]
    assert names == ["", " (votes=False)", " (illegal=zero, votes=False)", " (votes=False, similarity=cosine)"]


def test_foreign_facts_are_no_hyperparameters():
    agent = fresh("ad")
    agent.facts = {"train": [1], "data": "nothing", "source": 3}
    assert "lr" not in find_entries({"a": agent})[0].hyperparameters


def test_seeds_may_begin_with_agents_of_their_own():
    agents = {name: fresh("ad", seed=seed) for seed, name in enumerate("abc")}
    for name in "ab":
        agents[name].facts["train"]["init"] = f"runs/{name}"
    assert [entry.agents for entry in find_entries(agents)] == [("a", "b"), ("c",)]


def test_one_training_is_not_two():
    agents = {"a": fresh("ad"), "b": fresh("ad", seed=1), "c": fresh("ad", seed=1)}
    one_line(lambda: find_entries(agents), ValueError, "c and b", "'ad' of training seed 1")


@pytest.mark.parametrize("change", [{"drawn": "batch"}, {"acting_temperature": 0.5}, {"inner": 20}, {"slide": 7}])
def test_whatever_differs_sets_apart(change):
    first, second = find_entries({"a": fresh("headless-ad"), "b": fresh("headless-ad", seed=1, **change)})
    assert (first.agents, second.agents) == (("a",), ("b",))
    assert second.name == "headless-ad ({}={})".format(*next(iter(change.items())))
