"""Processes of a launcher: the first one reports for all."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from icrl_agents.core.process import launched
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
