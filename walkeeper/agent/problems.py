"""What keeps the agent from its work at this moment, for the log, the metrics and status (promise P10)."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Final

from walkeeper.core.about import About
from walkeeper.errors import WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import Clock, timestamp

REPEAT_SECONDS: Final = 60.0
"""Seconds after which a problem that lasts is logged again."""
GRACE_SECONDS: Final = 5.0
"""Seconds within which a failure may pass and is not a problem: a restart or a switchover makes connections fail for a moment."""


@dataclass(slots=True)
class Problem:
    """One inability. ``since`` is wall time for people; it was met last at ``met_at``, and is over since ``over_at``."""

    what: About
    reason: str
    text: str
    hint: str
    since: str
    begun_at: float
    logged_at: float | None
    met_at: float = 0.0
    over_at: float | None = None


class Problems:
    """Open problems by a fixed word; safe for several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[About, Problem] = {}
        self._refused: dict[str, int] = {}
        self.last: Problem | None = None
        """The one that was logged last, whether it lasts or not."""
        self._lock = threading.Lock()

    def report(self, what: About, problem: WalkeeperError | None, *, grace: bool = False) -> None:
        """Open it, or say that it lasts; logged when it is new, changes its reason, or a minute has passed. None: it is over.

        With ``grace`` it is not told before GRACE_SECONDS are over.
        """
        if problem is None:
            self.clear(what)
            return
        now = self._clock.monotonic()
        with self._lock:
            known = self._open.get(what)
            if known is None or known.reason != problem.reason:
                known = Problem(what, problem.reason, "", "", timestamp(), now, None)
                self._open[what] = known
            known.text, known.hint, known.met_at = str(problem), problem.hint, now
            if grace and now - known.begun_at < GRACE_SECONDS:
                return
            if known.logged_at is not None and now - known.logged_at < REPEAT_SECONDS:
                return
            if known.logged_at is None:
                self._refused[problem.reason] = self._refused.get(problem.reason, 0) + 1
            known.logged_at = now
            self.last = replace(known)
        events.error(what, reason=problem.reason, error=problem, since=known.since, hint=problem.hint)

    def clear(self, what: About) -> None:
        """It is over; logged if it was open."""
        with self._lock:
            known = self._open.pop(what, None)
            self._end(what)
        if known is not None and known.logged_at is not None:
            events.info(f"{what}_over", since=known.since)

    def forget_archivers(self) -> None:
        """Forget those of an archiver, which has ended."""
        with self._lock:
            for what in [what for what in self._open if what.of_archiver]:
                del self._open[what]
                self._end(what)

    def _end(self, what: About) -> None:
        if self.last is not None and self.last.what == what and self.last.over_at is None:
            self.last = replace(self.last, over_at=self._clock.monotonic())

    def open(self) -> list[Problem]:
        """Those that last, oldest first."""
        with self._lock:
            return [problem for problem in self._open.values() if problem.logged_at is not None]

    def counts(self) -> dict[str, int]:
        """How often each reason came up since the agent started."""
        with self._lock:
            return dict(self._refused)
