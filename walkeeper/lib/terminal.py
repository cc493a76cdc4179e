"""How text gets to people: wrapped lines, errors in two lines, and one line of progress where a terminal shows it."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from types import TracebackType
from typing import Final, Self, TextIO

WIDTH: Final = 100
"""Columns of what commands print."""
_MARGIN: Final = 10
"""Columns for the word at the margin."""
_EVERY: Final = 0.2
"""Seconds between two lines of progress."""
_LINE: Final = 78


class Progress:
    """For one thread, and a context: what it showed is gone when that is left."""

    def __init__(self) -> None:
        self.shows = sys.stderr is not None and sys.stderr.isatty()
        self._shown = False
        self._last = 0.0

    def show(self, text: str) -> None:
        if not self.shows or time.monotonic() - self._last < _EVERY:
            return
        self._last, self._shown = time.monotonic(), True
        sys.stderr.write(f"\r{text[:_LINE].ljust(_LINE)}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Before something else is printed."""
        if self._shown:
            self._shown = False
            sys.stderr.write("\r" + " " * _LINE + "\r")
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.clear()


def takes_colour(stream: TextIO | None) -> bool:
    """A terminal does, unless its user says NO_COLOR (https://no-color.org)."""
    return stream is not None and stream.isatty() and not os.environ.get("NO_COLOR")


def printable(text: str) -> str:
    """As one line. Names and texts come from elsewhere: what cannot be printed, a line end too, is a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text)


def complain(text: str, hint: str) -> None:
    """On standard error, in the two lines of every walkeeper error."""
    print(f"walkeeper: {printable(text)}", file=sys.stderr)  # noqa: T201
    if hint:
        print(f"HINT: {printable(hint)}", file=sys.stderr)  # noqa: T201


def wrapped(word: str, text: str, width: int = WIDTH) -> list[str]:
    """A text under a word at the margin."""
    return textwrap.wrap(
        text, width, initial_indent=word.ljust(_MARGIN), subsequent_indent=" " * _MARGIN, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip
