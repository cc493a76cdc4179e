"""What follows from a frontier that moved, in the order that is never bent: record, then hold slot, then the spool."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from walkeeper.core.hold_slot import SlotState, keeps
from walkeeper.core.lsn import Lsn
from walkeeper.core.receipt import Receipt
from walkeeper.core.record import Gap, Record

IDLE_SECONDS: Final = 30.0
"""Seconds after which an idle owner says again that no WAL waits: so long other nodes may see a wait that is none."""
MAX_PROBLEM: Final = 200
"""Characters of a problem that stand in the record."""


def record_is_due(
    record: Record,
    frontier: Lsn,
    new_gaps: Collection[Gap],
    suspected: tuple[Gap, ...],
    problem: str,
    unsaid: float,
) -> bool:
    """Whether the record says less than is known. It is never written for nothing: a DCS keeps each version.

    ``unsaid``: seconds by which the record's ``wal_at`` is older than the last moment at which no WAL waited.
    """
    if frontier > record.position or new_gaps or unsaid > IDLE_SECONDS:
        return True
    return suspected != record.suspected or problem != record.trouble


def problem_for_record(texts: Sequence[str]) -> str:
    """What people on other nodes read of the open problems, oldest first: the oldest, cut."""
    return texts[0][:MAX_PROBLEM] if texts else ""


def slot_may_move(slot: SlotState | None, recorded: Lsn) -> bool:
    """Whether the hold slot is one that can be moved, and stands below the record.

    What is wrong with the slot itself is for the observer to report.
    """
    if slot is None or slot.lost or not slot.physical or slot.active_pid is not None or slot.restart_lsn is None:
        return False
    return slot.restart_lsn < recorded


def removable(
    receipt: Receipt, recorded: Lsn, suspected: Sequence[tuple[int, int]], slot: SlotState | None, *, crowded: bool
) -> bool:
    """Whether the spool may lose that segment, which is stored: the record has passed it.

    Behind WAL that is ``suspected`` lost the record may stand still for an hour. There a segment goes while the hold slot
    keeps it in pg_wal as well; or, where the slot was lost or made again further ahead, when the spool is ``crowded``:
    else streaming would pause, and that would lose WAL which nobody has stored.
    """
    if receipt.segment.end <= recorded:
        return True
    if not suspected or receipt.segment.number < suspected[0][0]:
        return False
    return crowded or keeps(slot, receipt.segment.start)
