"""When a compressed memory folds steps into its latents; one schedule serves training and acting."""

from __future__ import annotations

from typing import NamedTuple


class FoldSchedule(NamedTuple):
    """Fold number k reads the steps `span(k)`: once `window` steps are visible, then after every `slide` steps.

    Steps are counted from the lifetime's first one.
    """

    window: int  # visible steps, latents included
    slide: int  # steps of each fold but the first
    room: int  # steps whose place the latents take; the first fold reads slide + room steps

    def folds(self, length: int) -> int:
        """Number of folds before the action of the last of `length` steps is predicted."""
        return max(0, -(-(length - self.window) // self.slide))

    def begin(self, folds: int) -> int:
        """The first step that is visible after so many folds."""
        return self.room + folds * self.slide if folds else 0

    def end(self, folds: int) -> int:
        """The step before which the next fold comes, after so many folds."""
        return self.window + folds * self.slide

    def span(self, fold: int) -> tuple[int, int]:
        """The steps (from, to) that fold number `fold`, from 0 on, reads besides the latents before it."""
        return self.begin(fold), self.begin(fold + 1)

    def spans(self, folds: int) -> list[tuple[int, int]]:
        """The spans of the first `folds` folds."""
        return [self.span(fold) for fold in range(folds)]

    def since(self, length: int, newest: int) -> int:
        """The first of `length` steps that is decided after one of the `newest` folds, or 0 if there are no others."""
        before = self.folds(length) - newest
        return self.end(before - 1) if before > 0 else 0
