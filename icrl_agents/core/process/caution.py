"""Warnings about valid but probably unintended calls; the command line prints each on one line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Caution(UserWarning):
    """Category of warnings about a valid call that is probably not intended."""


def warn(message: str) -> None:
    """Issue a `Caution`, cut to 400 characters; Python shows it once per call site and message."""
    warnings.warn(message[:400], Caution, stacklevel=2)


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print each `Caution` once, as `warning: ...` on standard error; other warnings keep their format."""
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
