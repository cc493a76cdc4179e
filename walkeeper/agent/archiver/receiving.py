"""``receiver: builtin``: the server's stream, of which only the open segment is kept, in memory.

A complete segment lies in pg_wal, where the hold slot keeps it, and is taken from there. So nothing is spooled, and a stream that
ends costs nothing: it begins again with the segment that the server is in. With ``durability: store`` the server is told besides
what of it the store has.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final

from walkeeper.agent.archiver.received import Received
from walkeeper.agent.archiver.synchronous import Synchronous
from walkeeper.agent.archiver.whereabouts import Sources
from walkeeper.agent.observation import Observed
from walkeeper.agent.problems import Problems
from walkeeper.config import PostgresqlSettings
from walkeeper.core.about import About
from walkeeper.core.frontier import Frontier
from walkeeper.core.lsn import Lsn
from walkeeper.errors import CannotTell, PostgresError
from walkeeper.lib import events
from walkeeper.lib.retry import Backoff
from walkeeper.postgres.data_directory import read_control_file
from walkeeper.postgres.wal_stream import WalStream

TICK: Final = 0.1
"""Seconds between two looks at whether to stream, and the longest wait for WAL."""
STEADY_SECONDS: Final = 15.0
"""Seconds for which a stream must have run, so that the next one may follow at once."""
NEAR: Final = 4
"""Segments that the archive may be behind the server for a stream to begin: before that, a tail would help nobody."""
FAR: Final = 8
"""Segments behind from which on it ends."""


class Receiving:
    """``run`` is a thread's; ``flushed`` is safe from every one."""

    def __init__(
        self,
        sources: Sources,
        frontier: Frontier,
        settings: PostgresqlSettings,
        observed: Observed,
        problems: Problems,
        received: Received,
        synchronous: Synchronous | None = None,
    ) -> None:
        self.synchronous = synchronous
        self._sources = sources
        self._frontier = frontier
        self._settings = settings
        self._observed = observed
        self._problems = problems
        self._received = received
        self._clock = sources.clock
        self._flushed: Lsn | None = None

    def flushed(self) -> Lsn | None:
        """How far the server said that its WAL is flushed; None where it does not stream, or the stream broke off."""
        return self._flushed

    def run(self, stopping: threading.Event) -> None:
        """Until ``stopping``."""
        try:
            self._run(stopping)
        finally:
            if self.synchronous is not None:
                self.synchronous.wake.close()

    def _run(self, stopping: threading.Event) -> None:
        backoff = Backoff(0.2, 10 if self.synchronous is None else 2)  # commits may wait for it
        while not stopping.wait(TICK):
            if not self._observed.server_up or not self._within(NEAR):
                self._problems.clear(About.ARCHIVER_RECEIVER)  # nothing is tried
                continue
            begun_at, stream, problem = self._clock.monotonic(), None, None
            try:
                with self._stream() as stream:
                    self._follow(stream, stopping)
            except PostgresError as error:
                problem = error
                if stream is not None and stream.ended:
                    self._end_session()
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

    def _stream(self) -> WalStream:
        if self.synchronous is None:
            return WalStream(self._settings)
        return WalStream(self._settings, application=self.synchronous.name, wake=self.synchronous.wake.fd)

    def _within(self, segments: int) -> bool:
        """Whether the archive is so near behind a server that writes this timeline. Where commits wait for it, it need not be
        near: what is received is stored beside the backlog, and acknowledged after it.
        """
        observed, wanted = self._observed, self._frontier.next_segment
        if observed.in_recovery or (self.synchronous is None and wanted.timeline != self._sources.history.timeline):
            return False
        behind = max(observed.lsn, self._flushed or Lsn(0)) - wanted.start
        return self.synchronous is not None or behind < segments * wanted.size

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
        self._received.begin(first)
        synchronous = self.synchronous
        if synchronous is not None:
            synchronous.begin(first.start)
        events.info("receiver_started", first=first, frontier=self._frontier.lsn)
        while not stopping.is_set() and self._within(FAR):
            if self._received.has_room():
                stream.receive(TICK, self._received.add)
            else:
                stream.idle(TICK)
            if stream.heard:
                self._flushed = stream.server_lsn
                self._problems.clear(About.ARCHIVER_RECEIVER)
            if synchronous is not None:
                stream.acknowledge(synchronous.give())
                if synchronous.caught_up():
                    return

    def _end_session(self) -> None:
        """Where this run of the server is over: the next one needs another ownership, which has its own lease. By pg_control: a
        stray signal ends a stream in the same way, and commits would wait for ever.
        """
        with suppress(CannotTell):
            if self.synchronous is not None and read_control_file(self._sources.pg_wal.parent).shut_down:
                self.synchronous.end()

    def _end(self, *, broken: bool) -> None:
        """One that ended because the archive is far behind leaves what the server said last: as true as an older look at it."""
        if broken:
            self._flushed = None
        self._received.end()
