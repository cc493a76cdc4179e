"""What one look at everything around an agent found."""

from __future__ import annotations

from dataclasses import dataclass

from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Record
from walkeeper.postgres.server import CommandState, ServerState


@dataclass(slots=True)
class Observed:
    """Written by the observer, read by others. ``lsn`` is how far the server's WAL is flushed."""

    server_up: bool
    lsn: Lsn


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
