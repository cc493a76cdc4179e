"""How long WAL waits to be archived: which position the server's WAL had reached when. Never told too short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from walkeeper.core.lsn import Lsn

KEPT: Final = 2048
"""Positions that are remembered with their moments; beyond that every second one is dropped."""


@dataclass(frozen=True, slots=True)
class Reached:
    """The server's WAL ended at ``lsn`` from ``since`` to ``until`` (monotonic seconds; ``stamp`` is that in wall time)."""

    lsn: Lsn
    since: float
    until: float
    stamp: str


class WalTimes:
    """How far the server's WAL reached when: how long it has waited to be archived follows. One writer, many readers."""

    def __init__(self) -> None:
        self._known: tuple[Reached, ...] = ()

    def note(self, at: float, stamp: str, lsn: Lsn) -> None:
        """WAL ends there now. Where it went back, the server was rewound or is another one: nothing from before counts."""
        known = self._known
        if known and known[-1].lsn == lsn:
            self._known = (*known[:-1], Reached(lsn, known[-1].since, at, stamp))
            return
        if known and known[-1].lsn > lsn:
            known = ()
        if len(known) >= KEPT:
            known = (*known[:-1:2], known[-1])
        self._known = (*known, Reached(lsn, at, at, stamp))

    def ended_at_or_below(self, lsn: Lsn) -> Reached | None:
        """The last moment at which nothing beyond ``lsn`` was there: what is there now is younger. None: it is not known."""
        return next((reached for reached in reversed(self._known) if reached.lsn <= lsn), None)

    def waiting(self, now: float, oldest: int) -> float:
        """Seconds since WAL has gone up to the position ``oldest``, as far back as is known; 0 if it does not."""
        return now - next((reached.since for reached in self._known if reached.lsn >= oldest), now)
