"""Which segments a recovery will ask for next. A wrong guess costs bandwidth and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

from walkeeper.core.history import History
from walkeeper.core.names import Segment


def following(segment: Segment, histories: Iterable[History]) -> Iterator[Segment]:
    """What comes after ``segment``, without an end: along the newest of ``histories`` that it belongs to, else on its timeline.

    ``histories`` are those that this recovery has read; the first timeline has none.
    """
    ours = [history for history in histories if history.contains(segment)]
    chain = max(ours, key=lambda history: history.timeline, default=History(segment.timeline))
    return (chain.segment(number, segment.size) for number in count(segment.number + 1))
