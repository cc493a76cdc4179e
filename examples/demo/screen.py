"""What people see: acts, lines with the time since the start, blocks, and one line at the bottom that is always current.

With rich on a terminal there is colour and a live line; otherwise plain text, and the figures of the live line are
printed when nothing else has been for a while.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

Mood = Literal["plain", "act", "dim", "good", "bad", "alarm"]

SILENCE: Final = 5.0
"""Seconds without a line after which plain output shows the figures."""
INDENT: Final = 10


def open_screen(*, plain: bool) -> Screen:
    """The richest that this terminal and this Python can show."""
    if plain or not sys.stdout.isatty():
        return Screen()
    try:
        import rich  # noqa: F401, PLC0415
    except ImportError:
        return Screen()
    return RichScreen()


class Screen:
    """Plain text."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._last = self._started
        self._lock = threading.Lock()
        self._acts = 0
        self.shorter: dict[str, str] = {}
        """Long texts, paths mostly, and what is shown in their place."""
        self._width = max(60, min(118, shutil.get_terminal_size((110, 40)).columns))

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def title(self, text: str) -> None:
        """What this is."""
        self._put(self._wrapped(text, " " * INDENT), "act")

    def act(self, title: str) -> None:
        self._acts += 1
        self._put("", "plain")
        self._put(f"{self._acts}. {title}", "act")

    def say(self, text: str, mood: Mood = "plain", *, whole: bool = False) -> None:
        """A line with the time in front; ``whole``: with nothing shortened."""
        stamp = f"{self.elapsed:6.1f} s"
        self._put(self._wrapped(text if whole else self._shortened(text), f"{stamp:<{INDENT}}"), mood)

    def also(self, text: str, mood: Mood = "plain") -> None:
        """One more about the same moment."""
        self._put(self._wrapped(self._shortened(text), " " * INDENT), mood)

    def block(self, text: str, mood: Mood = "dim") -> None:
        """Something shown as it is: configuration, a log line, another program's screen."""
        self.copyable(self._shortened(text), mood)

    def copyable(self, text: str, mood: Mood = "plain") -> None:
        """The same with every path whole."""
        self._put(textwrap.indent(text.rstrip("\n"), " " * (INDENT + 2)), mood)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """The first row is the header, the first column text and the others figures."""
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for number, (first, *rest) in enumerate(rows):
            figures = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
            self._put(" " * INDENT + "   ".join([first.ljust(widths[0]), *figures]), "plain" if number else "act")

    @contextlib.contextmanager
    def showing(self, figures: Callable[[], str]) -> Iterator[None]:
        """Keep ``figures`` in view; it is called from another thread, several times a second."""
        ended = threading.Event()
        thread = threading.Thread(target=self._repeat, args=(figures, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _repeat(self, figures: Callable[[], str], ended: threading.Event) -> None:
        while not ended.wait(0.2):
            if time.monotonic() - self._last > SILENCE:
                self.say(f"… {figures()}", "dim")

    def _wrapped(self, text: str, first: str) -> str:
        return textwrap.fill(
            text,
            self._width,
            initial_indent=first,
            subsequent_indent=" " * INDENT,
            break_long_words=False,
            break_on_hyphens=False,
        )

    def _shortened(self, text: str) -> str:
        for long, short in self.shorter.items():
            text = text.replace(long, short)
        return text

    def _put(self, text: str, mood: Mood) -> None:
        del mood
        with self._lock:
            self._last = time.monotonic()
            print(text, flush=True)


class RichScreen(Screen):
    """The same in colour, with a live line."""

    STYLES: Final[dict[Mood, str]] = {
        "plain": "", "act": "bold", "dim": "dim", "good": "green", "bad": "bold red", "alarm": "yellow"
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console  # noqa: PLC0415

        self._console = Console(highlight=False, soft_wrap=True)
        self._width = max(60, min(118, self._console.width))

    @contextlib.contextmanager
    def showing(self, figures: Callable[[], str]) -> Iterator[None]:
        from rich.live import Live  # noqa: PLC0415
        from rich.spinner import Spinner  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        spinner = Spinner("dots", style="cyan")

        def line() -> Any:
            text = Text(f"{self.elapsed:5.1f} s  {figures()}", style="cyan", no_wrap=True, overflow="ellipsis")
            spinner.update(text=text)
            return spinner

        with Live(console=self._console, get_renderable=line, refresh_per_second=8, transient=True):
            yield

    def _put(self, text: str, mood: Mood) -> None:
        from rich.text import Text  # noqa: PLC0415

        self._console.print(Text(text, style=self.STYLES[mood]))
