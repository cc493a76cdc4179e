"""``walkeeper status --watch``: the status again and again. With rich on a terminal a screen of its own; without rich the
terminal is cleared each time; where the output is not a terminal, one block a look and no control characters.
"""

from __future__ import annotations

import io
import json as json_module
import os
import queue
import select
import shutil
import signal
import sys
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeAlias

from walkeeper.config import Config
from walkeeper.lib.clock import timestamp
from walkeeper.lib.terminal import answered, listened, tell
from walkeeper.status.screen import BARS, Line, Sample, cut, lines, plain

KEPT: Final = 60
"""Samples, for rates and bars."""
REDRAW: Final = 0.5
"""Seconds: how often the age of what is shown is brought up to date."""
_CLEAR: Final = "\033[H\033[2J"

Show: TypeAlias = Callable[[list[Line]], None]


def main(config: Config, interval: float, *, json: bool = False) -> int:
    """Until SIGINT or SIGTERM, on a terminal until q is typed, elsewhere until nobody listens any more; 0 then."""
    from walkeeper.status.gather import gather  # noqa: PLC0415 - which imports what this does not need

    signal.signal(signal.SIGTERM, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that the terminal's encoding lacks, for rich
    looker = _Looker(lambda: gather(config), interval)
    with suppress(KeyboardInterrupt):
        if json or sys.stdout is None or not sys.stdout.isatty():
            _blocks(looker, json=json)
        else:
            _screen(looker)
    tell(end="")
    return looker.leave(answered(0))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class _Looker:
    """Looks in a thread of its own, so that a look that takes long neither freezes the screen nor delays the end."""

    def __init__(self, gather: Callable[[], dict[str, Any]], interval: float) -> None:
        self.samples: deque[Sample] = deque(maxlen=KEPT)
        self._gather = gather
        self._interval = interval
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        """A condition may not be left by a signal's exception: its lock is not ours any longer then."""
        self._count = 0
        self._looking = False
        self._problem: BaseException | None = None
        threading.Thread(target=self._run, name="look", daemon=True).start()

    def wait(self, seen: int, seconds: float | None = None) -> int:
        """Until there is another look than ``seen``, or that long; how many there were. Raises what a look raised."""
        while self._count <= seen and self._problem is None:
            with suppress(queue.Empty):
                self._news.get(timeout=seconds)
            if seconds is not None:
                break
        if self._problem is not None:
            raise self._problem
        return self._count

    def leave(self, code: int) -> int:
        """End the process without waiting for a look that is under way: its threads may hang for seconds."""
        if self._looking:
            os._exit(code)
        return code

    def _run(self) -> None:
        while True:
            begun = time.monotonic()
            self._looking = True
            try:
                status = self._gather()
            except BaseException as problem:  # noqa: BLE001 - carried over to the caller
                self._problem = problem
            self._looking = False
            if self._problem is None:
                self.samples.append(Sample(time.monotonic(), status))
                self._count += 1
            self._news.put(None)
            if self._problem is not None:
                return
            time.sleep(max(0.0, self._interval - (time.monotonic() - begun)))


def _blocks(looker: _Looker, *, json: bool) -> None:
    """One after the other: for a file, a pipe, a log."""
    seen = 0
    while listened():
        seen = looker.wait(seen)
        samples = list(looker.samples)
        if json:
            text = json_module.dumps(samples[-1].status)
        else:
            text = plain(lines(samples, stamp=timestamp(), age=0.0, bars=False)) + "\n"
        tell(text)


def _screen(looker: _Looker) -> None:
    bars = _can_show(BARS)
    with _shown() as show, _keys() as typed_q:
        show([[("Looking …" if bars else "Looking ...", "")]])
        seen = 0
        while listened() and not typed_q():
            seen = looker.wait(seen, REDRAW)
            samples = list(looker.samples)
            if samples:
                show(lines(samples, stamp=timestamp(), age=time.monotonic() - samples[-1].at, bars=bars))


@contextmanager
def _keys() -> Iterator[Callable[[], bool]]:
    """What says whether q was typed since it was asked last. The terminal is as it was afterwards."""
    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal) if os.tcgetpgrp(terminal) == os.getpgrp() else None
    except (AttributeError, OSError, ValueError, termios.error):
        before = None
    if before is None:  # no terminal, or not ours: a job in the background
        yield lambda: False
        return
    tty.setcbreak(terminal)
    try:
        yield lambda: bool(select.select([terminal], [], [], 0)[0]) and b"q" in os.read(terminal, 64).lower()
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _fitting(found: list[Line]) -> list[Line]:
    return cut(found, *shutil.get_terminal_size())


@contextmanager
def _shown() -> Iterator[Show]:
    """What puts lines onto the terminal; the terminal is as it was afterwards."""
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.live import Live  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415
    except ImportError:
        yield lambda found: tell(_CLEAR + plain(_fitting(found)), end="", painted=True)
        return
    console = Console(highlight=False)

    def text(found: list[Line]) -> Text:
        return Text("\n").join(Text.assemble(*line) for line in _fitting(found))

    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda found: live.update(text(found), refresh=True)
