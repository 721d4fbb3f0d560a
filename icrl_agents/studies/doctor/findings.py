"""Finding: the result of one check of the doctor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple


class Grade(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    NOTE = "note"  # something to know, with a consequence for learning
    FAIL = "FAIL"  # training would fail or learn nothing


class Finding(NamedTuple):
    """Result of one check, in one line."""

    check: str
    grade: Grade
    text: str


def ok(check: str, text: str) -> Finding:
    return Finding(check, Grade.OK, text)


def note(check: str, text: str) -> Finding:
    return Finding(check, Grade.NOTE, text)


def fail(check: str, text: str) -> Finding:
    return Finding(check, Grade.FAIL, text)


def attempted(check: str, examine: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Findings of a check; an exception, from foreign code in most cases, becomes a failure of this check."""
    try:
        return list(examine())
    except Exception as error:
        said = " ".join(str(error).split()) or "no message"
        return [fail(check, f"{type(error).__name__}: {said[:300]}")]
