"""A parent that starts the agent again when it dies, for where no service manager does: agents that callbacks start, and
``--detach``. It does nothing else, so that what kills the agent (the kernel short of memory, a bug) does not kill it too."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

from walkeeper.control.paths import RunDirectoryError
from walkeeper.errors import WalkeeperError
from walkeeper.lib.clock import Clock
from walkeeper.lib.retry import Backoff

STOPPED: Final = 0
NOT_STARTED: Final = 75
"""The agent's exit when it could not even begin (EX_TEMPFAIL): another one runs, or the configuration is broken."""
LONG_LIFE: Final = 60.0
"""Seconds after which a death is a first one again."""
_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
