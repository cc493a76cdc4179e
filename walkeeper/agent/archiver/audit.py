"""What is stored already is looked at again, a little at a time: an object that somebody deleted, or that rotted, is told, and
stored again where this server still has the WAL. The record, the slot and the spool have no part in it.

Once a minute the store lists two folders, that of the newest segments and one of the others in turn; every ``agent.read_back``
one object is read through, a bad one or any.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Final

from walkeeper.agent.archiver.receipts import Receipts
from walkeeper.agent.archiver.whereabouts import Sources, from_pg_wal
from walkeeper.agent.problems import Problems
from walkeeper.archive.examine import expected, lacking, problem_with
from walkeeper.core.about import About
from walkeeper.core.coverage import Stretch
from walkeeper.core.frontier import Frontier
from walkeeper.core.names import Segment
from walkeeper.core.wal_page import Plain
from walkeeper.errors import BadSegment, ObjectDamaged, ObjectMissing, SpoolError, WalkeeperError
from walkeeper.lib import events

LOOK_SECONDS: Final = 60.0
"""Seconds from one look to the next."""
AT_ONCE: Final = 16
"""Segments that one look asks for by name, and stores again."""
_HINT: Final = (
    "Put it back from a copy of the store, or hand it in where a member's pg_wal still has it, in its data directory: walkeeper "
    "archive-push pg_wal/SEGMENT. Otherwise take a base backup. walkeeper verify lists all that is missing."
)


class Audit:
    """``run`` is a thread's."""

    def __init__(
        self,
        sources: Sources,
        frontier: Frontier,
        first: Callable[[], int],
        known: Receipts,
        read_back: float | None,
        problems: Problems,
    ) -> None:
        """``first`` tells the number of the archive's first segment, which ``expire`` moves; ``read_back`` in seconds, None is
        never.
        """
        self._sources = sources
        self._frontier = frontier
        self._first = first
        self._known = known
        self._read_back = read_back
        self._problems = problems
        self._read_at = sources.clock.monotonic() + (read_back or 0.0)
        self._bad: dict[Segment, ObjectMissing | ObjectDamaged] = {}
        self._turn: int | None = None

    def run(self, stopping: threading.Event) -> None:
        """Until ``stopping``."""
        while not stopping.wait(LOOK_SECONDS):
            try:
                self.look(stopping)
            except WalkeeperError as problem:
                self._problems.report(About.ARCHIVER_AUDIT, problem, grace=problem.waiting_helps)

    def look(self, stopping: threading.Event) -> None:
        """Once. Raises the store's errors, ArchiveMissing, or BadFloor."""
        begin, end = self._first(), self._frontier.next_segment.number
        self._forget(begin)
        for first, last in self._folders(begin, end):
            self._list(first, last)
        if self._read_back is not None and self._sources.clock.monotonic() >= self._read_at and end > begin:
            self._read_at = self._sources.clock.monotonic() + self._read_back
            self._read(begin, end)
        if self._bad:
            self._tell()
        for segment, problem in list(self._bad.items()):
            if not stopping.is_set() and self._store_again(segment, problem):
                del self._bad[segment]
        if self._bad:
            self._tell()
        else:
            self._problems.clear(About.ARCHIVER_AUDIT)

    def _forget(self, begin: int) -> None:
        """What is there again, and what is no longer expected: it was given up, or is a recorded gap."""
        archive = self._sources.archive
        self._bad = {segment: problem for segment, problem in self._bad.items() if segment.number >= begin}
        gone = sorted(segment for segment, problem in self._bad.items() if isinstance(problem, ObjectMissing))
        if not gone:
            return
        files = [Stretch(each.timeline, each.number, each.number + 1) for each in gone]
        wanted = set(expected(archive, self._frontier.history, files))
        for segment, file in zip(gone, files, strict=True):
            if file not in wanted or archive.find(segment) is not None:
                del self._bad[segment]

    def _folders(self, begin: int, end: int) -> list[tuple[int, int]]:
        """First and end of the newest folder's numbers, and of another's."""
        if end <= begin:
            return []
        per_log = self._frontier.size.per_log
        oldest, newest = begin // per_log, (end - 1) // per_log
        turn = random.randrange(oldest, newest + 1) if self._turn is None else max(oldest, self._turn)  # noqa: S311 - no secret
        self._turn = turn + 1 if oldest <= turn < newest else oldest
        return [(max(begin, number * per_log), min(end, (number + 1) * per_log)) for number in sorted({newest, turn})]

    def _list(self, first: int, end: int) -> None:
        archive = self._sources.archive
        for stretch in lacking(archive, self._frontier.history, first, end):
            for number in range(stretch.first, min(stretch.end, stretch.first + AT_ONCE)):
                segment = Segment(stretch.timeline, number, archive.size)
                if len(self._bad) < AT_ONCE and segment not in self._bad and archive.find(segment) is None:
                    key = archive.layout.file(segment, archive.codec.suffix)
                    self._bad[segment] = ObjectMissing(f"{key}: it is no longer in the store")

    def _read(self, begin: int, end: int) -> None:
        number = random.randrange(begin, end)  # noqa: S311 - no secret
        damaged = [segment for segment, problem in self._bad.items() if isinstance(problem, ObjectDamaged)]
        segment = damaged[0] if damaged else self._frontier.history.segment(number, self._frontier.size)
        problem = problem_with(self._sources.archive, segment)
        self._bad.pop(segment, None)
        if isinstance(
            problem, ObjectDamaged
        ):  # a gap may be there, or the floor above: the listing tells what is missing
            self._bad[segment] = problem

    def _store_again(self, segment: Segment, problem: ObjectMissing | ObjectDamaged) -> bool:
        """Whether that could be done: the local server still has the same bytes."""
        archive, known = self._sources.archive, self._known.get(segment)
        plain = self._local(segment)
        if plain is None:
            return False
        try:
            packed = archive.pack(segment, plain, self._sources.history)
        except BadSegment:
            return False  # PostgreSQL has begun to use the file again
        if known is not None and known.sha256 != packed.sha256:
            return False
        put = archive.put if isinstance(problem, ObjectMissing) else archive.put_beside
        put(packed)
        events.warning("archived_again", segment=segment, why=problem)
        return True

    def _local(self, segment: Segment) -> Plain | None:
        found = from_pg_wal(self._sources, segment)
        if found is not None:
            return found
        try:
            return self._sources.spool.read(segment)
        except (FileNotFoundError, BadSegment, SpoolError):
            return None

    def _tell(self) -> None:
        first, *others = (self._bad[segment] for segment in sorted(self._bad))
        text = f"{first}; and {len(others)} more" if others else str(first)
        self._problems.report(About.ARCHIVER_AUDIT, type(first)(text, hint=_HINT))
