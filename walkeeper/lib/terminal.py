"""One line on a terminal's standard error that says how far a command is; nothing where nobody sees it."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, Self

_EVERY: Final = 0.2
"""Seconds between two of them."""
_WIDTH: Final = 78


class Progress:
    """For one thread, and a context: what it showed is gone when that is left."""

    def __init__(self) -> None:
        self._shows = sys.stderr is not None and sys.stderr.isatty()
        self._shown = False
        self._last = 0.0

    def show(self, text: str) -> None:
        if not self._shows or time.monotonic() - self._last < _EVERY:
            return
        self._last, self._shown = time.monotonic(), True
        sys.stderr.write(f"\r{text[:_WIDTH].ljust(_WIDTH)}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Before something else is printed."""
        if self._shown:
            self._shown = False
            sys.stderr.write("\r" + " " * _WIDTH + "\r")
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.clear()
