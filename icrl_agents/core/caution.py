"""Warnings: what is possible, but seldom what a user means. The command line prints each as one line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Caution(UserWarning):
    """A call does what it was asked to do, which is probably not what was meant."""


def warn(message: str) -> None:
    """Warn once for each place of this package and message."""
    warnings.warn(message[:400], Caution, stacklevel=2)


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print cautions as `warning: ...` on standard error, each once; other warnings stay as they are."""
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, Caution):
                print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
            else:
                before(message, category, *place, **more)

        warnings.showwarning = show
        warnings.simplefilter("once", Caution)
        yield
