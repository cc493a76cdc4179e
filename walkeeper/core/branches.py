"""Which segments a recovery will ask for next, and which segments and timelines are not for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment


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


def given_up(history: History, kept: History, frontier: Lsn) -> bool:
    """Whether a cluster that has gone along ``kept`` up to ``frontier`` can no more go on with ``history``'s timeline."""
    parted = history.parts_from(kept)
    return parted is not None and parted < frontier
