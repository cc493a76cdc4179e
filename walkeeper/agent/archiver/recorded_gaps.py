"""Gaps that are recorded: a problem until a person accepts them, and closed by a member or a store that comes with the WAL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from walkeeper.agent.archiver.elsewhere import OtherStores
from walkeeper.agent.archiver.member_wal import Members
from walkeeper.agent.archiver.whereabouts import Sources
from walkeeper.agent.problems import Problems
from walkeeper.archive.expiry import begins_since
from walkeeper.core.about import About
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap
from walkeeper.core.suspicion import Suspicions, covers
from walkeeper.errors import GapOpen
from walkeeper.lib import events

LOOK_SECONDS: Final = 60.0
"""Seconds from one look at recorded gaps to the next."""
ASKED: Final = 16
"""Segments that a member is asked for in one look: what is suspected lost is more urgent."""
LONGEST: Final = 65536
"""Segments of one gap that are asked for: others can write into the store."""


class RecordedGaps:
    """Those that are not closed. For one thread."""

    def __init__(self, sources: Sources, members: Members, stores: OtherStores, problems: Problems) -> None:
        self._sources = sources
        self._members = members
        self._stores = stores
        self._problems = problems
        self._wanted = Suspicions(sources.history, sources.archive.size)
        self._stored: set[Segment] = set()
        """Of gaps that are open: what the store has by now."""
        self._look_at = 0.0
        self.begins: Segment | None = None
        """Where the archive begins, once ``expire`` has deleted what was below."""

    def look_soon(self) -> None:
        """One was recorded."""
        self._look_at = 0.0

    def look(self, stopped: Callable[[], bool]) -> None:
        """If it is time. Raises the store's errors."""
        now = self._sources.clock.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        self.begins = begins_since(self._sources.archive.store, self._sources.archive.layout)
        accepted = self._sources.archive.contents.accepted_gaps()
        found = [gap for gap in self._sources.archive.contents.open_gaps() if not covers(accepted, gap)]
        self._tell(found)
        for gap in found:
            self._want(gap, now)
        if found:
            self._close(found, stopped)
        else:
            self._stored.clear()

    def _want(self, gap: Gap, now: float) -> None:
        archive, history = self._sources.archive, self._sources.history
        first, end = Lsn.parse(gap.start) // archive.size, Lsn.parse(gap.end) // archive.size
        for number in range(first, min(end, first + LONGEST)):
            segment = Segment(gap.timeline, number, archive.size)
            if segment not in self._stored and history.contains(segment):
                self._wanted.suspect(number, number + 1, now)

    def _close(self, gaps: Sequence[Gap], stopped: Callable[[], bool]) -> None:
        """Each store, and each member that may have some of it, says no once, or delivers."""
        self._stores.look()
        due = {
            each
            for name in self._stores.names
            for each in islice(self._lacking(self._stores.due(name, self._wanted)), ASKED)
        }
        put_off = (segment for segment in self._stores.put_off(self._wanted) if segment not in due)
        for segment in (*sorted(due), *islice(put_off, ASKED)):
            now, last = self._sources.clock.monotonic(), segment not in due
            if not stopped() and self._stores.take(segment, self._wanted, now, last=last) is not None:
                self._settle(segment)
                events.info("gap_filled", segment=segment)
                self._look_at = 0.0
        for member in self._members.that_may_have(min(Lsn.parse(gap.start) for gap in gaps)) or ():
            for receipt in self._members.fetch(member, self._wanted, stopped, ASKED):
                self._settle(receipt.segment)
                events.info("gap_filled", segment=receipt.segment, member=member.name)
                self._look_at = 0.0

    def _lacking(self, wanted: Iterator[Segment]) -> Iterator[Segment]:
        """Without what the store has by now: a gap is open until it has all of it."""
        for segment in wanted:
            if self._sources.archive.contents.has(segment):
                self._settle(segment)
            else:
                yield segment

    def _settle(self, segment: Segment) -> None:
        self._wanted.settle(segment.number, segment.number + 1)
        self._stored.add(segment)

    def _tell(self, gaps: Sequence[Gap]) -> None:
        if not gaps:
            self._problems.clear(About.ARCHIVER_GAP)
            return
        first, more = gaps[0], f" and {len(gaps) - 1} more" if len(gaps) > 1 else ""
        begun = Segment(
            first.timeline, Lsn.parse(first.start) // self._sources.archive.size, self._sources.archive.size
        )
        there = ", ".join(self._stores.promising(begun))
        lost = f"only {there} has this WAL, by its record, and did not deliver it" if there else "this WAL is lost"
        closed = f"If {there} comes back, the gap is closed. " if there else ""
        self._problems.report(
            About.ARCHIVER_GAP,
            GapOpen(
                f"gap {first.start} to {first.end} of timeline {first.timeline}{more}: {lost}",
                hint=f"{closed}Take a base backup: no restore gets past the gap from an earlier one. Then run: "
                f"walkeeper gap accept {first.start}",
            ),
        )
