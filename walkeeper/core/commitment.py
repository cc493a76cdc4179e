"""What follows from a frontier that moved, in the order that is never bent: record, then hold slot, then the spool."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lsn import Lsn
from walkeeper.core.receipt import Receipt
from walkeeper.core.record import Gap, Record

IDLE_SECONDS: Final = 30.0
"""Seconds after which an idle owner says again that no WAL waits: so long may a wait seem on other nodes that is none."""
MAX_TROUBLE: Final = 200
"""Characters of a trouble that stand in the record."""


def record_is_due(record: Record, frontier: Lsn, new_gaps: Collection[Gap], trouble: str, unsaid: float) -> bool:
    """Whether the record says less than is known. It is never written for nothing: a DCS keeps each version.

    ``unsaid``: seconds by which the record's ``wal_at`` is older than the last moment at which no WAL waited.
    """
    return frontier > record.position or bool(new_gaps) or trouble != record.trouble or unsaid > IDLE_SECONDS


def trouble_for_record(texts: Sequence[str]) -> str:
    """What people on other nodes read of the open troubles, oldest first: the oldest, cut."""
    return texts[0][:MAX_TROUBLE] if texts else ""


def slot_may_move(slot: SlotState | None, recorded: Lsn) -> bool:
    """Whether the hold slot is one that can be moved, and stands below the record.

    What is wrong with the slot itself is for the observer to report.
    """
    if slot is None or slot.lost or not slot.physical or slot.active_pid is not None or slot.restart_lsn is None:
        return False
    return slot.restart_lsn < recorded


def removable(receipt: Receipt, recorded: Lsn) -> bool:
    """Whether the spool may lose that segment: it is stored, and the record has passed it."""
    return receipt.segment.end <= recorded
