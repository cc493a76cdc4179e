"""Where the archiver gets complete segments from: streamed into the spool, or as they lie in pg_wal."""

from __future__ import annotations

from typing import Protocol

from walkeeper.core.frontier import Frontier
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.wal_page import Plain
from walkeeper.errors import WalkeeperError
from walkeeper.postgres.wal_file import Memory


class Source(Protocol):
    """Used by the archiver's threads; all but ``read``, ``read_at`` and ``put_aside`` by one at a time."""

    def complete(self, frontier: Frontier) -> list[Segment]:
        """The complete segments of the chain that lie there, lowest first. Raises SpoolError."""

    def tend(self, frontier: Frontier, taken: set[Segment]) -> Segment | None:
        """Keep them coming; ``taken`` is what ``complete`` said, and loses what will come again. Returns a segment
        that the local server no longer has, else None.
        """

    def read(self, segment: Segment, memory: Memory) -> Plain:
        """The whole segment, in ``memory``. Raises BadSegment, FileNotFoundError if it is gone, MemoryError, or another error
        that may pass.
        """

    def read_at(self, segment: Segment) -> int | None:
        """The modification time in ns of PostgreSQL's own file when ``read`` took it; None if that took another file."""

    def put_aside(self, segment: Segment, problem: WalkeeperError) -> bool:
        """A damaged one, out of the way; False where that is not ours to do."""

    def remove(self, receipt: Receipt) -> None:
        """The archive has it, and the record and the slot are past it, or stand before WAL that is suspected lost.
        Raises SpoolError.
        """

    def crowded(self) -> bool:
        """Whether what is stored already should make room for what is not. Raises SpoolError."""

    def stop(self) -> None:
        """End what delivers."""
