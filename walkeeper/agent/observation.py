"""What one look at everything around an agent found."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Record
from walkeeper.postgres.server import CommandState, ServerState

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

    def reached(self, lsn: Lsn) -> float | None:
        """Since when WAL has gone up to ``lsn`` or beyond, as far back as is known; None: it does not."""
        return next((reached.since for reached in self._known if reached.lsn >= lsn), None)


GONE_SECONDS: Final = 24 * 3600.0
"""Seconds for which a member is remembered whose key has gone from the DCS: it died, or was removed on purpose."""


class GoneMembers:
    """Members that this process has seen and that Patroni's keys name no longer. One writer, many readers."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, str]] = {}
        self._present: frozenset[str] = frozenset()

    def note(self, at: float, stamp: str, names: Collection[str]) -> None:
        kept = {name: seen for name, seen in self._seen.items() if at - seen[0] <= GONE_SECONDS}
        self._seen = {**kept, **dict.fromkeys(names, (at, stamp))}
        self._present = frozenset(names)

    def names(self) -> dict[str, str]:
        """Each with the wall time at which its key was there for the last time."""
        return {name: stamp for name, (_, stamp) in sorted(self._seen.items()) if name not in self._present}


@dataclass(slots=True)
class Observed:
    """Written by the observer, read by others. ``lsn`` is how far the server's WAL is flushed."""

    server_up: bool
    lsn: Lsn
    times: WalTimes = field(default_factory=WalTimes)


@dataclass(slots=True)
class Seen:
    """The last look at everything; None is unknown. Replaced as a whole, so that other threads may read it."""

    at: float = 0.0
    server: ServerState | None = None
    slot: SlotState | None = None
    record: Record | None = None
    record_known: bool = False
    leader: str | None = None
    leader_known: bool = False
    gap_unsafe: str | None = None
    command: CommandState | None = None
