"""``receiver: builtin``: the server's stream, of which only the open segment is kept, in memory.

A complete segment lies in pg_wal, where the hold slot keeps it, and is taken from there. So nothing is spooled, and a stream that
ends costs nothing: it begins again with the segment that the server is in.
"""

from __future__ import annotations

import threading
from typing import Final

from walkeeper.agent.archiver.lost_wal import Sources
from walkeeper.agent.observation import Observed
from walkeeper.agent.problems import Problems
from walkeeper.config import PostgresqlSettings
from walkeeper.core.about import About
from walkeeper.core.frontier import Frontier
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.errors import PostgresError
from walkeeper.lib import events
from walkeeper.lib.retry import Backoff
from walkeeper.postgres.pg_receivewal import Written
from walkeeper.postgres.wal_stream import AUTOMATICALLY, WalStream

TICK: Final = 0.1
"""Seconds between two looks at whether to stream, and the longest wait for WAL."""
STEADY_SECONDS: Final = 15.0
"""Seconds for which a stream must have run, so that the next one may follow at once."""
NEAR: Final = 4
"""Segments that the archive may be behind the server for a stream to begin: before that, a tail would help nobody."""
FAR: Final = 8
"""Segments behind from which on it ends."""


class Receiving:
    """An OpenSegment. ``run`` is a thread's, all else is safe from every one."""

    def __init__(
        self,
        sources: Sources,
        frontier: Frontier,
        settings: PostgresqlSettings,
        observed: Observed,
        problems: Problems,
        *,
        keep: bool,
    ) -> None:
        """``keep``: whether anybody wants the open segment; else only the server's position is."""
        self._keep = keep
        self._sources = sources
        self._frontier = frontier
        self._settings = settings
        self._observed = observed
        self._problems = problems
        self._clock = sources.clock
        self._lock = threading.Lock()
        self._segment: Segment | None = None
        self._received = Lsn(0)
        self._begun = bytearray()
        """What has come of it, from its start on."""
        self._run = 0
        self._flushed: Lsn | None = None

    def flushed(self) -> Lsn | None:
        """How far the server said that its WAL is flushed; None where it does not stream, or the stream broke off."""
        return self._flushed

    def written(self, segment: Segment) -> Written | None:
        with self._lock:
            return Written(self._run, len(self._begun)) if segment == self._segment and self._begun else None

    def read(self, segment: Segment, run: int, begin: int, end: int) -> bytes | None:
        with self._lock:
            if segment != self._segment or run != self._run or end > len(self._begun):
                return None
            return bytes(memoryview(self._begun)[begin:end])

    def run(self, stopping: threading.Event) -> None:
        """Until ``stopping``."""
        backoff = Backoff(0.2, 10)
        while not stopping.wait(TICK):
            if not self._observed.server_up or not self._within(NEAR):
                self._problems.clear(About.ARCHIVER_RECEIVER)  # nothing is tried
                continue
            begun_at, problem = self._clock.monotonic(), None
            try:
                with WalStream(self._settings) as stream:
                    self._follow(stream, stopping)
            except PostgresError as error:
                problem = error
            except MemoryError:
                problem = PostgresError(
                    "postgresql: not enough memory to receive the open segment",
                    hint="Give the agent more memory: a segment more than it has, or set tail.interval to off.",
                )
            self._end(broken=problem is not None)
            if self._clock.monotonic() - begun_at > STEADY_SECONDS:
                backoff.succeeded()
            if problem is not None:
                self._problems.report(About.ARCHIVER_RECEIVER, problem, grace=True)
                stopping.wait(backoff.failed())

    def _within(self, segments: int) -> bool:
        """Whether the archive is so near behind a server that writes this timeline."""
        observed, wanted = self._observed, self._frontier.next_segment
        if observed.in_recovery or wanted.timeline != self._sources.history.timeline:
            return False
        return max(observed.lsn, self._flushed or Lsn(0)) - wanted.start < segments * wanted.size

    def _follow(self, stream: WalStream, stopping: threading.Event) -> None:
        archive, history = self._sources.archive, self._sources.history
        found = stream.identify()
        if (found.system_identifier, found.timeline) != (archive.layout.system_identifier, history.timeline):
            raise PostgresError(
                f"the server is {found.system_identifier} on timeline {found.timeline}, archived is "
                f"{archive.layout.system_identifier} on timeline {history.timeline}",
                hint="The agent looks at it again and decides; nothing was received.",
            )
        first = history.segment_at(max(self._observed.lsn, self._frontier.next_segment.start), archive.size)
        stream.start(first.start, history.timeline)
        with self._lock:
            self._run += 1
            self._segment, self._received = first, first.start
        events.info("receiver_started", first=first, frontier=self._frontier.lsn)
        while not stopping.is_set() and self._within(FAR):
            stream.receive(TICK, self._take)
            if stream.heard:
                self._flushed = stream.server_lsn
                self._problems.clear(About.ARCHIVER_RECEIVER)

    def _take(self, lsn: Lsn, data: memoryview) -> None:
        with self._lock:
            while data:
                segment = self._segment
                if segment is None or lsn != self._received:
                    raise PostgresError(f"the server sent WAL of {lsn} out of order", hint=AUTOMATICALLY)
                part = data[: segment.end - lsn]
                if self._keep:
                    self._begun += part
                self._received = lsn = Lsn(lsn + len(part))
                data = data[len(part) :]
                if lsn == segment.end:
                    self._segment = self._sources.history.segment(segment.number + 1, segment.size)
                    self._begun = bytearray()

    def _end(self, *, broken: bool) -> None:
        """One that ended because the archive is far behind leaves what the server said last: as true as an older look at it."""
        if broken:
            self._flushed = None
        with self._lock:
            self._segment, self._begun = None, bytearray()
