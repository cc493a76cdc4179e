"""What one look at everything around an agent found."""

from __future__ import annotations

from dataclasses import dataclass

from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Record
from walkeeper.dcs.base import Versioned
from walkeeper.errors import PostgresError
from walkeeper.postgres.server import CommandState, ServerState


@dataclass(slots=True)
class Observed:
    """Written by the observer, read by others. ``lsn`` is how far the server's WAL is flushed."""

    server_up: bool
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class Look:
    """What a decision needs. ``slot`` is an error where it could not be asked for; None elsewhere is unknown, or not there."""

    server: ServerState | None
    slot: SlotState | PostgresError | None
    found: Versioned | None
    record_known: bool
    record: Record | None
    leader: str | None
    leader_known: bool

    def leads(self, member: str) -> bool | None:
        """Whether that member holds the leader key; None where that could not be read."""
        return self.leader == member if self.leader_known else None


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
