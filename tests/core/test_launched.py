"""Processes of a launcher: the first one reports for all."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from icrl_agents.core.process import launched
from icrl_agents.studies.seeds import study
from tests.cli.test_cli import call, refused
from tests.training.test_run_folder import ID, SETTINGS, at_update

MISTAKE = ("train", "ad", "--env", "icrl/Nowhere-v0", "-o", "run")


def test_the_others_report_errors_after_the_first(monkeypatch: pytest.MonkeyPatch):
    waited: list[float] = []
    monkeypatch.setattr(launched, "time", SimpleNamespace(sleep=waited.append))
    refused(*MISTAKE)
    assert waited == []
    monkeypatch.setenv("RANK", "1")
    assert "icrl/Nowhere-v0" in refused(*MISTAKE)  # the launcher has not ended it: its own error
    assert waited == [launched.FIRST_REPORTS]


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "icrl/ad-darkroom"),
        ("collect", "--env", ID, "-o", "h.h5"),
        ("research", "robustness", "icrl/ad-darkroom"),
        ("agents",),
    ],
)
def test_what_is_no_training_is_the_work_of_one_process(words, monkeypatch: pytest.MonkeyPatch):
    for name, value in (("LOCAL_RANK", "0"), ("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert "2 were launched" in refused(*words)


def test_a_study_is_the_work_of_one_process(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Its workers would inherit the numbers of the processes, and wait for each other for ever."""
    for name, value in (("LOCAL_RANK", "1"), ("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="2 were launched"):
        study("ad", ID, tmp_path, splits=[0], seeds=[0], settings=SETTINGS, jobs=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_interruption_is_one_line(tmp_path, monkeypatch: pytest.MonkeyPatch):
    words = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    for rank, lines in (("0", 1), ("1", 0)):
        with monkeypatch.context() as patch:
            patch.setenv("RANK", rank)
            at_update(patch, 2, lambda: signal.raise_signal(signal.SIGINT))
            result = call("train", "ad", "--env", ID, "-o", tmp_path / rank, *words, "--device", "cpu")
        assert result.exit_code == 128 + signal.SIGINT
        assert result.stderr.count("interrupted; --resume continues at update 2") == lines
