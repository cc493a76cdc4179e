"""One server's recovery as the prefetcher sees it: where it is, what lies ready for it, what to fetch next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice

from walkeeper.archive.layout import Layout
from walkeeper.core.branches import following, left_at
from walkeeper.core.history import History
from walkeeper.core.names import Segment
from walkeeper.postgres.data_directory import RunningServer
from walkeeper.restore.cache import Cache

FEWEST = 2
"""Segments that may lie ready whatever the bound."""


@dataclass(eq=False)
class Recovery:
    """For one thread at a time: the prefetcher holds its lock."""

    server: RunningServer
    layout: Layout
    cache: Cache
    active_at: float
    goes_back: bool = False
    """It fetches its last segment again, for the exact end of what it has replayed, once the next one is not there."""
    position: Segment | None = None
    """The last segment that it was given, or the one before a base backup's first."""
    checkpoint: Segment | None = None
    """It reads this one out of turn, before it begins where its base backup does."""
    ready: set[Segment] = field(default_factory=set)
    under_way: set[Segment] = field(default_factory=set)
    barren: set[Segment] = field(default_factory=set)
    """What was not there, or could not be fetched: not tried again before the recovery has moved."""
    histories: list[History] = field(default_factory=list)
    """Those that it has, and was given."""
    over: bool = False

    def begin(self, first: Segment, checkpoint: Segment) -> None:
        """It has been given nothing yet, and will replay from ``first`` on."""
        self.position = replace(first, number=first.number - 1)
        self.checkpoint = None if checkpoint == first else checkpoint

    def moved(self, segment: Segment) -> None:
        """The server has that segment."""
        self.ready.discard(segment)
        if segment == self.checkpoint:
            self.checkpoint = None
            return
        self.position = segment
        self.barren.clear()

    def read(self, *histories: History) -> None:
        """The server has those histories, and will go along the newest."""
        self.histories += [history for history in histories if history not in self.histories]
        self.drop_what_was_left()

    def drop_what_was_left(self) -> None:
        """What lies ready of a timeline beyond the fork to the one that the server follows."""
        for segment in [each for each in self.ready if left_at(self.histories, each) is not None]:
            self.ready.discard(segment)
            self.cache.drop(segment.name)
            self.barren.add(segment)

    def look(self) -> bool:
        """Whether the server, by way of the shell, has taken something since the last look. Raises OSError."""
        names = self.cache.names()
        taken = sorted((segment for segment in self.ready if segment.name not in names), key=lambda each: each.number)
        for segment in taken:
            self.moved(segment)
        return bool(taken)

    def wanted(self, room: int) -> Segment | None:
        """What to fetch now, with ``room`` bytes for all that lies ready and is under way. Drops what is no longer of use."""
        if self.position is None:
            return None
        most = max(room // self.position.size, FEWEST)
        window = list(islice(following(self.position, self.histories), most))
        if self.goes_back and window[0] in self.barren and left_at(self.histories, self.position) is None:
            window = [self.position, *window[:-1]]
        for segment in self.ready.difference(window):
            self.ready.discard(segment)
            self.cache.drop(segment.name)
        if len(self.ready) + len(self.under_way) >= most:
            return None
        for segment in window:
            if segment in self.barren:
                return None
            if segment not in self.ready and segment not in self.under_way:
                return segment
        return None
