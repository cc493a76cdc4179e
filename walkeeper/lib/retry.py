"""How long to wait before something is tried again."""

from __future__ import annotations

import random
from typing import Final

_JITTER: Final = 0.25


class Backoff:
    """Doubles from ``first`` to ``cap`` seconds, with jitter so that nodes do not knock in step."""

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
        """Begin anew at the next failure."""
        self._next = self._first
