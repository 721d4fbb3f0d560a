"""The schedule of folds: what is folded when, for all sizes of window, slide and room."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icrl_agents.methods.base.fold_schedule import FoldSchedule


@st.composite
def schedules(draw: st.DrawFn) -> FoldSchedule:
    """Those that a config allows: room and slide leave a step of the window."""
    window = draw(st.integers(3, 80))
    slide = draw(st.integers(1, window - 2))
    return FoldSchedule(window, slide, draw(st.integers(1, window - 1 - slide)))


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True)
@given(schedules(), st.integers(0, 30))
def test_spans_are_disjoint_and_cover_what_is_no_longer_visible(schedule: FoldSchedule, folds: int):
    spans = schedule.spans(folds)
    assert len(spans) == folds
    assert [step for start, stop in spans for step in range(start, stop)] == list(range(schedule.begin(folds)))
    assert all(stop - start == schedule.slide for start, stop in spans[1:])
    assert all(start < stop <= schedule.end(number) for number, (start, stop) in enumerate(spans))


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True)
@given(schedules(), st.integers(1, 400), st.integers(1, 8))
def test_it_is_that_of_a_plain_loop(schedule: FoldSchedule, length: int, newest: int):
    """The window fills to `window` steps before the first fold, to `window - room` steps after it."""
    visible, ends, begin = 0, list[int](), 0
    for step in range(length):
        if visible == schedule.window - (schedule.room if ends else 0):
            leaving = schedule.slide + (0 if ends else schedule.room)
            begin, visible = begin + leaving, visible - leaving
            ends.append(step)
        visible += 1
    folds = len(ends)
    assert schedule.folds(length) == folds
    assert schedule.begin(folds) == begin
    assert [schedule.end(number) for number in range(folds)] == ends
    assert schedule.since(length, newest) == (ends[-newest - 1] if folds > newest else 0)
    assert all(later - earlier == schedule.slide for earlier, later in pairwise(ends))
