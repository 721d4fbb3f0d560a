"""FoldSchedule of CAD: the step numbers at which steps are folded into latents, the same in training and acting."""

from __future__ import annotations

from typing import NamedTuple


class FoldSchedule(NamedTuple):
    """Fold k reads the steps `span(k)`: fold 0 once `window` steps are visible, the next ones every `slide` steps.

    Step numbers count from the start of the lifetime.
    """

    window: int  # maximum number of visible steps, latents included
    slide: int  # number of steps read by each fold after the first
    room: int  # number of steps that the latents displace; the first fold reads slide + room steps

    def folds(self, length: int) -> int:
        """Number of folds before the prediction of the action of step `length - 1`."""
        return max(0, -(-(length - self.window) // self.slide))

    def begin(self, folds: int) -> int:
        """First visible step after `folds` folds."""
        return self.room + folds * self.slide if folds else 0

    def end(self, folds: int) -> int:
        """Step before which the next fold happens, after `folds` folds."""
        return self.window + folds * self.slide

    def span(self, fold: int) -> tuple[int, int]:
        """Steps (start, stop) that fold `fold` (from 0) reads, besides the old latents."""
        return self.begin(fold), self.begin(fold + 1)

    def spans(self, folds: int) -> list[tuple[int, int]]:
        """Spans of the first `folds` folds."""
        return [self.span(fold) for fold in range(folds)]

    def since(self, length: int, newest: int) -> int:
        """First of `length` steps that follows the oldest of the `newest` folds; 0 if there are no earlier folds."""
        before = self.folds(length) - newest
        return self.end(before - 1) if before > 0 else 0
