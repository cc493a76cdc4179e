"""How long to wait before something is tried again, and how often a command tries."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from walkeeper.errors import StoreError

ATTEMPTS: Final = 3
"""Attempts of a command that people run; the agent and restore-wal have their own limits."""
_WAIT: Final = 1.0
"""Seconds before the second attempt, and twice as many before the third."""
_JITTER: Final = 0.25
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 15.0
"""Seconds between two attempts of what goes on for long."""

_T = TypeVar("_T")


class Backoff:
    """Doubles from ``first`` to ``cap`` seconds, with jitter so that nodes do not retry in step."""

    def __init__(self, first: float, cap: float) -> None:
        self._first = first
        self._cap = cap
        self._next = first

    def failed(self) -> float:
        """Seconds to wait after one more failure."""
        wait = self._next
        self._next = min(self._cap, self._next * 2)
        return wait * (1 + random.uniform(-_JITTER, _JITTER))  # noqa: S311 - no secret

    def succeeded(self) -> None:
        """Begin again with ``first`` at the next failure."""
        self._next = self._first


def with_retries(work: Callable[[], _T]) -> _T:
    """``work()``, tried again after a StoreError that waiting can help against."""
    for attempt in range(1, ATTEMPTS):
        try:
            return work()
        except StoreError as problem:
            if not problem.waiting_helps:
                raise
            time.sleep(_WAIT * attempt)
    return work()


def patiently(work: Callable[[], _T], patience: float, wait: Callable[[StoreError, float], object]) -> _T:
    """``work()``, again and again while waiting can help and ``patience`` seconds are not over. ``wait`` is told why."""
    waits, until = Backoff(_FIRST_WAIT, _LONGEST_WAIT), time.monotonic() + patience
    while True:
        try:
            return work()
        except StoreError as problem:
            seconds = waits.failed()
            if not problem.waiting_helps or time.monotonic() + seconds > until:
                raise
            wait(problem, seconds)
