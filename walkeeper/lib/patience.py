"""A store's short troubles, sat out. For commands that people run; the agent and restore-wal have their own ways."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from walkeeper.errors import StoreError

ATTEMPTS: Final = 3
_WAIT: Final = 1.0
"""Seconds before the second attempt, and twice as many before the third."""

_T = TypeVar("_T")


def patiently(work: Callable[[], _T]) -> _T:
    """``work()``, tried again after a StoreError that waiting can help against."""
    for attempt in range(1, ATTEMPTS):
        try:
            return work()
        except StoreError as problem:
            if not problem.waiting_helps:
                raise
            time.sleep(_WAIT * attempt)
    return work()
