"""Branches of a cluster's timelines: which one a recovery goes along, which ones were abandoned, and what of them is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import HistoryFile, Segment, WalFile
from walkeeper.core.record import Record


def following(segment: Segment, histories: Iterable[History]) -> Iterator[Segment]:
    """What comes after ``segment``, without an end; a wrong guess costs bandwidth and nothing else.

    Along the newest of ``histories`` that it belongs to, else on its timeline: those that this recovery has read, of which the
    first timeline has none.
    """
    ours = [history for history in histories if history.contains(segment)]
    chain = max(ours, key=lambda history: history.timeline, default=History(segment.timeline))
    return (chain.segment(number, segment.size) for number in count(segment.number + 1))


def left_at(histories: Iterable[History], segment: Segment) -> Lsn | None:
    """Where the newest of ``histories`` that comes from that segment's timeline left it; None if not before the segment's end."""
    ends = [
        (history.timeline, switch.lsn)
        for history in histories
        for switch in history.switches
        if switch.timeline == segment.timeline
    ]
    if not ends:
        return None
    _, end = max(ends)
    return end if end < segment.end else None


def is_abandoned(history: History, kept: History, frontier: Lsn) -> bool:
    """Whether a cluster that followed ``kept`` up to ``frontier`` can no longer go on with ``history``'s timeline."""
    parted = history.parts_from(kept)
    return parted is not None and parted < frontier


def is_for_the_archive(file: WalFile, record: Record | None, member: str, leader: str, *, running: bool) -> bool:
    """Whether ``file``, handed over on ``member`` while ``leader`` leads, is stored. ``running``: the server accepts writes.

    ==========================  ==================================================================================
    what it wrote while it led  once it no longer accepts writes: Patroni hands that over before a rewind
    a history                   of a number that the leader, which archives, has not got to: else the next promotion
                                would choose that number again
    ==========================  ==================================================================================

    Without a record nothing is known of who led before.
    """
    if record is None:
        return not running
    if isinstance(file, HistoryFile) and leader == record.owner and file.timeline > record.timeline:
        return True
    timeline = file.timeline if isinstance(file, Segment | HistoryFile) else file.segment.timeline
    led = timeline == record.timeline and record.owner == member
    return not running and (led or timeline < record.timeline)
