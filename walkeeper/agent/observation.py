"""What one look at everything around an agent found."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lag import WalTimes
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Record
from walkeeper.dcs.base import Versioned
from walkeeper.errors import PostgresError
from walkeeper.postgres.server import CommandState, CommitsState, ServerState

GONE_SECONDS: Final = 24 * 3600.0
"""Seconds for which a member is remembered whose key has gone from the DCS: it died, or was removed on purpose."""


class GoneMembers:
    """Members that this process has observed and that Patroni's keys name no longer. One writer, many readers."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, str]] = {}
        self._present: frozenset[str] = frozenset()

    def note(self, at: float, stamp: str, names: Collection[str]) -> None:
        kept = {name: last for name, last in self._last.items() if at - last[0] <= GONE_SECONDS}
        self._last = {**kept, **dict.fromkeys(names, (at, stamp))}
        self._present = frozenset(names)

    def names(self) -> dict[str, str]:
        """Each with the wall time at which its key was there for the last time."""
        return {name: stamp for name, (_, stamp) in sorted(self._last.items()) if name not in self._present}


@dataclass(slots=True)
class Observed:
    """Written by the observer, read by others. ``lsn`` is how far the server's WAL is flushed; ``slot`` is the hold slot, an
    error where it could not be asked for.
    """

    server_up: bool
    lsn: Lsn
    slot: SlotState | PostgresError | None = None
    times: WalTimes = field(default_factory=WalTimes)
    in_recovery: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at everything; None is unknown, or not there. A decision needs what stands above ``gap_unsafe``; the rest is
    looked at once that was acted on.
    """

    at: float = 0.0
    """When it was complete, by the monotonic clock; 0 before."""
    server: ServerState | None = None
    slot: SlotState | PostgresError | None = None
    """An error where it could not be asked for."""
    found: Versioned | None = None
    record: Record | None = None
    record_known: bool = False
    leader: str | None = None
    leader_known: bool = False
    gap_unsafe: str | None = None
    command: CommandState | None = None
    commits: CommitsState | None = None
    """Asked with ``durability: store``, on a primary."""

    def leads(self, member: str) -> bool | None:
        """Whether that member holds the leader key; None where that could not be read."""
        return self.leader == member if self.leader_known else None
