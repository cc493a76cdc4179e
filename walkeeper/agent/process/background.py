"""Where there is no service manager: a daemon (``walkeeper agent --detach``), and a parent that starts the agent again when it
dies. That does nothing else, so that what kills the agent (the kernel short of memory, a bug) does not kill it too.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

from walkeeper.control.paths import RunDirectoryError
from walkeeper.errors import AgentError, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import Clock
from walkeeper.lib.retry import Backoff

_STARTED: Final = b"started\n"
STOPPED: Final = 0
NOT_STARTED: Final = 75
"""The agent's exit when it could not even begin (EX_TEMPFAIL): another one runs, or the configuration is broken."""
LONG_LIFE: Final = 60.0
"""Seconds after which a death is a first one again."""
_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def open_standard_descriptors() -> None:
    """So that no file or socket gets the number 0, 1 or 2 where those were closed, and with it what is printed."""
    descriptor = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    while descriptor <= 2:
        os.set_inheritable(descriptor, True)
        descriptor = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.close(descriptor)


class Start:
    """How a daemon's start goes, told to the caller that waits for it. Each process has its own end of the pipe."""

    def __init__(self, writer: int) -> None:
        self._writer: int | None = writer

    def done(self) -> None:
        """It works: the caller goes, and the terminal with it."""
        if self._writer is None:
            return
        _let_go_of_the_terminal()
        self._tell(_STARTED)

    def refused(self, problem: Exception) -> None:
        """It cannot begin."""
        self._tell(f"{problem}\n{getattr(problem, 'hint', '')}".encode())

    def leave_it(self) -> None:
        """This process has nothing to say about it; another one has."""
        _let_go_of_the_terminal()
        self._tell(b"")

    def _tell(self, words: bytes) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            os.write(writer, words)
            os.close(writer)


def _let_go_of_the_terminal() -> None:
    """Whoever reads what the caller printed must come to its end."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def start(work: Callable[[Start], int]) -> int:
    """Run ``work`` in a daemon, by a double fork.

    The caller waits for Start.done and returns 0. Raises AgentError with what the daemon said, if it ended instead.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _become_daemon(writer, work)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    if said == _STARTED:
        return 0
    text, _, hint = said.decode("utf-8", "replace").partition("\n")
    raise AgentError(text or "agent: it ended before it had started", hint=hint or "Start it without --detach.")


def _become_daemon(writer: int, work: Callable[[Start], int]) -> None:
    """In the child; never returns."""
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    code = 1
    try:
        code = work(Start(writer))
    except BaseException as problem:  # noqa: BLE001 - nobody else is there to say it
        events.failure("agent_died", problem)
    finally:
        os._exit(code)


def keep_running(
    work: Callable[[], int], clock: Clock, *, refused: Callable[[Exception], None], in_parent: Callable[[], None]
) -> int:
    """Run ``work`` in a child, and again when it dies; returns when it ended because it was told to, or could not begin.

    ``refused`` is called in the child with what kept it from beginning, ``in_parent`` here once the first child runs.
    """
    backoff = Backoff(1, 60)
    while True:
        begun = clock.monotonic()
        code = _run_once(work, refused, in_parent)
        if code in (STOPPED, NOT_STARTED):
            return code
        if clock.monotonic() - begun > LONG_LIFE:
            backoff.succeeded()
        clock.sleep(backoff.failed())


def _run_once(work: Callable[[], int], refused: Callable[[Exception], None], in_parent: Callable[[], None]) -> int:
    """The child's exit code, negative for a signal. Signals are passed on to it meanwhile."""
    child = os.fork()
    if child == 0:
        os._exit(_begin(work, refused))
    in_parent()
    for number in _FORWARDED:
        signal.signal(number, lambda received, _: os.kill(child, received))
    _, status = os.waitpid(child, 0)
    for number in _FORWARDED:
        signal.signal(number, signal.SIG_DFL)
    return os.waitstatus_to_exitcode(status)


def _begin(work: Callable[[], int], refused: Callable[[Exception], None]) -> int:
    try:
        return work()
    except (WalkeeperError, RunDirectoryError) as problem:
        refused(problem)
        return NOT_STARTED
