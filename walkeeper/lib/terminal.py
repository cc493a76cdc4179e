"""How text gets to people: what commands say, errors in two lines, one line of progress where a terminal shows it."""

from __future__ import annotations

import errno
import os
import sys
import textwrap
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Self, TextIO

WIDTH: Final = 100
"""Columns of what commands print."""
_MARGIN: Final = 10
"""Columns for the word at the margin."""
_EVERY: Final = 0.2
"""Seconds between two lines of progress."""
_LINE: Final = 78


class _Out:
    """Standard output, which every command writes to by ``tell``."""

    ended: object = ()
    """The stream that took nothing any more."""
    lost = False
    """It did not take what was said, and not because nobody listens any longer."""


def tell(text: str = "", end: str = "\n", *, painted: bool = False) -> None:
    """On standard output, now. Never raises: where it cannot be written, or the reader has left, what was done is done all the
    same. The first is said on standard error, and ``answered`` has it in the exit code.

    ``painted``: it has a terminal's own sequences, and all else in it was made printable before.
    """
    text = text if painted else _lines(text)
    out = sys.stdout
    if out is _Out.ended:
        return
    try:
        if out is None:
            raise OSError(errno.EBADF, "it is closed")  # noqa: TRY301 - said as the rest
        encoding = out.encoding or "utf-8"
        out.write((text + end).encode(encoding, "replace").decode(encoding))
        out.flush()
    except BrokenPipeError:
        _end(out, lost=False)
    except OSError as problem:
        _end(out, lost=True)
        complain(
            f"standard output: {problem.strerror or problem}",
            "What was to be printed is lost, and only that. Let it go to where it can be written.",
        )


def listened() -> bool:
    """Whether what comes can still reach somebody."""
    return sys.stdout is not _Out.ended


def answered(code: int) -> int:
    """The exit code of a command that has only answered: 2, cannot tell, in place of 0 where the answer is lost."""
    return 2 if code == 0 and _Out.lost and not listened() else code


def _end(out: TextIO | None, *, lost: bool) -> None:
    """What is in its buffer goes nowhere, or the interpreter would complain about it at its end."""
    _Out.ended, _Out.lost = out, lost
    if out is not None:
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, out.fileno())
            os.close(nowhere)


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
        sys.stderr.write(f"\r{printable(text[:_LINE]).ljust(_LINE)}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Before something else is printed."""
        if self._shown:
            self._shown = False
            sys.stderr.write("\r" + " " * _LINE + "\r")
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


def takes_colour(stream: TextIO | None) -> bool:
    """A terminal does, unless its user says NO_COLOR (https://no-color.org)."""
    return stream is not None and stream.isatty() and not os.environ.get("NO_COLOR")


def printable(text: str) -> str:
    """As one line. Names and texts come from elsewhere: what cannot be printed, a line end too, is a question mark."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def complain(text: str, hint: str) -> None:
    """On standard error, in the two lines of every walkeeper error."""
    aside(f"walkeeper: {printable(text)}" + (f"\nHINT: {printable(hint)}" if hint else ""))


def aside(text: str, end: str = "\n") -> None:
    """On standard error. Never raises: where it cannot be written, the exit code is left."""
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(_lines(text) + end)
            sys.stderr.flush()


def wrapped(word: str, text: str, width: int = WIDTH) -> list[str]:
    """A text under a word at the margin; no line where there is no text."""
    return textwrap.wrap(
        text, width, initial_indent=word.ljust(_MARGIN), subsequent_indent=" " * _MARGIN, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def at_margin(rows: Iterable[tuple[str, str]], width: int = WIDTH) -> list[str]:
    """Each text under its word."""
    return [line for word, text in rows for line in wrapped(word, text, width)]
