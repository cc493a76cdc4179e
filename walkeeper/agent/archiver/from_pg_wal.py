"""Segments are taken from pg_wal as PostgreSQL completes them: with ``archiver: command``, and with ``receiver: builtin``.

Not only what is ``.ready``: from the frontier on, whatever the chain has. On a promoted server most of that is ``.done``,
because a standby marks so what it received, and the dead primary may not have archived it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from walkeeper.agent.archiver import whereabouts
from walkeeper.agent.observation import Observed
from walkeeper.core.frontier import Frontier
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.wal_page import Plain
from walkeeper.core.wal_records import ends_early
from walkeeper.errors import BadSegment, WalkeeperError
from walkeeper.postgres.wal_file import Memory, is_there, read_wal_file

AHEAD: Final = 256
"""Segments beyond the frontier that are looked at together."""


class FromPgWal:
    """A Source. Nothing is copied before it is uploaded, and nothing is removed: pg_wal is PostgreSQL's."""

    def __init__(
        self, sources: whereabouts.Sources, observed: Observed, flushed: Callable[[], Lsn | None] = lambda: None
    ) -> None:
        """``flushed``: how far the server says, to whoever streams from it now, that its WAL is flushed."""
        self._sources = sources
        self._flushed = flushed
        self._pg_wal: Path = sources.pg_wal
        self._observed = observed
        self._read_at: dict[Segment, int | None] = {}

    def complete(self, frontier: Frontier) -> list[Segment]:
        return [segment for segment in self._whole(frontier) if is_there(self._pg_wal / segment.name)]

    def tend(self, frontier: Frontier, taken: Collection[Segment]) -> Segment | None:
        if not self._observed.server_up:
            return None
        missing = frontier.first_missing(taken)
        return missing if whereabouts.is_lost(self._sources, missing, self._observed.lsn) else None

    def read(self, segment: Segment, memory: Memory) -> Plain:
        content = read_wal_file(self._pg_wal / segment.name, segment.size, memory)
        if (end := ends_early(content.plain, segment)) is not None:
            raise BadSegment(
                f"{segment}: its WAL ends at {end}, zeros follow",
                hint="restore-wal made this file of a tail: it is not complete.",
            )
        self._read_at[segment] = content.mtime_ns
        return content.plain

    def read_at(self, segment: Segment) -> int | None:
        return self._read_at.pop(segment, None)

    def put_aside(self, segment: Segment, problem: WalkeeperError) -> bool:  # noqa: ARG002
        return False

    def remove(self, receipt: Receipt) -> None:
        """pg_wal is PostgreSQL's."""

    def crowded(self) -> bool:
        return True  # nothing is kept here

    def stop(self) -> None:
        """Nothing runs."""

    def _whole(self, frontier: Frontier) -> Iterator[Segment]:
        """The chain from the first that is not stored up to where the server is: a file beyond that is an old one, to be used
        again."""
        number = frontier.first_missing(()).number
        flushed = max(self._observed.lsn, self._flushed() or Lsn(0))
        for ahead in range(number, number + AHEAD):
            segment = frontier.history.segment(ahead, frontier.size)
            if segment.end > flushed and not self._marked(segment):
                return
            yield segment

    def _marked(self, segment: Segment) -> bool:
        """PostgreSQL marks a segment when it is complete and flushed: sooner than the observer sees it."""
        return is_there(self._pg_wal / "archive_status" / f"{segment.name}.ready")


class WithoutSpool(FromPgWal):
    """As a source by itself. What pg_receivewal has left in the spool, before the configuration was changed, is stored, too."""

    _begun = False

    def complete(self, frontier: Frontier) -> list[Segment]:
        history = frontier.history
        if not self._begun:
            self._sources.spool.drop_partials()
            self._sources.spool.put_strangers_aside(frontier.size, self._sources.archive.layout.system_identifier)
            self._begun = True
        left = [segment for segment in self._sources.spool.complete(frontier.size) if history.contains(segment)]
        return sorted({*super().complete(frontier), *left}, key=lambda segment: segment.number)

    def read(self, segment: Segment, memory: Memory) -> Plain:
        try:
            return super().read(segment, memory)
        except FileNotFoundError:
            return self._sources.spool.read(segment, memory)

    def put_aside(self, segment: Segment, problem: WalkeeperError) -> bool:
        """Out of the spool, where it was read there."""
        if is_there(self._pg_wal / segment.name):
            return False
        return self._sources.spool.put_aside(segment.name, problem.reason)

    def remove(self, receipt: Receipt) -> None:
        self._sources.spool.remove(receipt)
