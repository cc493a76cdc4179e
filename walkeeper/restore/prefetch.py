"""Fetching ahead of recoveries: whole, checked segments in a cache for each, within a bound of bytes and of threads.

Only what is there is fetched ahead: that something is absent is found out again each time a server asks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from walkeeper.archive.layout import Layout
from walkeeper.archive.read import Reader
from walkeeper.core.history import History
from walkeeper.core.names import Segment
from walkeeper.errors import WalkeeperError
from walkeeper.lib import durable, events
from walkeeper.lib.clock import Clock
from walkeeper.postgres.data_directory import RunningServer, backup_begins
from walkeeper.restore import exits
from walkeeper.restore.branch import followed
from walkeeper.restore.cache import Cache
from walkeeper.restore.recovery import Recovery

LOOK_SECONDS: Final = 0.03
"""Seconds between two looks whether the shell has taken something, while a recovery is active."""
GONE_SECONDS: Final = 1.0
"""Seconds between two looks whether the servers are still there."""
IDLE_SECONDS: Final = 60.0
"""Seconds after which a recovery that takes nothing is over, or streams."""
PAUSE_SECONDS: Final = 5.0
"""Seconds after a failure in which nothing is fetched ahead."""


class Prefetcher:
    """``tend``, and ``work`` as often as there are to be workers, run in threads of the caller's until ``close``."""

    def __init__(self, source: Reader, directory: Path | None, room: int, workers: int, clock: Clock) -> None:
        """Caches lie in ``directory``, else beside the data directory that asks. ``room`` is in bytes, for all together."""
        self._source = source
        self._directory = directory
        self._room = room
        self._workers = workers
        self._clock = clock
        self._changed = threading.Condition()
        self._recoveries: dict[RunningServer, Recovery] = {}
        self._without_cache: set[RunningServer] = set()
        self._paused_until = 0.0
        self._servers_seen_at = 0.0
        self._closed = False

    # -------------------------------------------------------------------------------------------------- for who answers

    def recovery(self, server: RunningServer, layout: Layout, link: Path | None) -> Recovery | None:
        """That of a server which has just asked; None where nothing can lie ready for it, which is logged once.

        A server that streamed may have learnt of a fork meanwhile. It asks for newer histories before it asks for segments again,
        and none of them lies ready: so this comes before the shell takes any. Raises CannotTell, or BadHistory.
        """
        learnt = followed(server.data_directory)
        with self._changed:
            recovery = self._recoveries.get(server) or self._begin(server, layout)
            if recovery is not None:
                recovery.read(*learnt)
                recovery.active_at = self._clock.monotonic()
                if self._notice_taken(recovery):  # before what it asks for now
                    self._changed.notify_all()
                if link is not None:
                    recovery.cache.show(link)
            return recovery

    def take(self, recovery: Recovery, name: str, destination: Path, pid: int, seconds: float) -> Path | None:
        """Hand over what lies ready, beside ``destination`` for process ``pid`` to rename; or what comes within ``seconds``,
        if it is under way. Raises OSError, and TimeoutError for what is still under way then.
        """
        with self._changed:
            self._changed.wait_for(lambda: _named(name, recovery.under_way) is None, seconds)
            if _named(name, recovery.under_way) is not None:
                raise TimeoutError(name)
            segment = _named(name, recovery.ready)
            if segment is None:
                return None
            recovery.moved(segment)
            self._changed.notify_all()
        try:
            return durable.hand_over(recovery.cache.path(name), destination, pid, moves=recovery.cache.moves)
        except FileNotFoundError:
            return None

    def moved(self, recovery: Recovery, segment: Segment) -> None:
        """The server was given that one past the cache."""
        with self._changed:
            recovery.moved(segment)
            self._changed.notify_all()

    def read(self, recovery: Recovery, history: History) -> None:
        """The server was given a history, before it asks for segments along it."""
        with self._changed:
            recovery.read(history)

    def keep(self, recovery: Recovery, segment: Segment, plain: bytes) -> None:
        """A segment that came too late for who asked: it will ask again."""
        with self._changed:
            if recovery.over:
                return
            recovery.under_way.add(segment)
        try:
            self._lay(recovery, segment, [plain])
        except OSError as problem:
            self._lay(recovery, segment, None)
            self._failed(segment, problem)

    @property
    def recoveries(self) -> int:
        """How many are active."""
        with self._changed:
            return len(self._recoveries)

    # ------------------------------------------------------------------------------------------------------- its threads

    def tend(self) -> None:
        """Notice what was taken, and which recoveries are over."""
        with self._changed:
            while not self._closed:
                if self._look():
                    self._changed.notify_all()
                self._changed.wait(LOOK_SECONDS if self._recoveries else None)

    def work(self) -> None:
        """Fetch one segment after the other."""
        while (job := self._next_job()) is not None:
            self._fetch(*job)

    def close(self) -> None:
        """Let the threads end, and remove all that lies ready."""
        with self._changed:
            self._closed = True
            for recovery in list(self._recoveries.values()):
                self._end(recovery)
            self._changed.notify_all()

    def _next_job(self) -> tuple[Recovery, Segment] | None:
        with self._changed:
            while not self._closed:
                if self._clock.monotonic() >= self._paused_until and (job := self._choose()) is not None:
                    return job
                self._changed.wait(PAUSE_SECONDS if self._recoveries else None)
        return None

    def _choose(self) -> tuple[Recovery, Segment] | None:
        """The recovery that has least gets the next one. One that has enough keeps one worker busy: the others would take from
        the server the processor that it replays on.
        """
        room = self._room // max(len(self._recoveries), 1)
        for recovery in sorted(self._recoveries.values(), key=lambda each: len(each.ready) + len(each.under_way)):
            segment = recovery.wanted(room)
            enough = recovery.under_way and len(recovery.ready) >= 2 * self._workers
            if segment is not None and not enough:
                recovery.under_way.add(segment)
                return recovery, segment
        return None

    def _fetch(self, recovery: Recovery, segment: Segment) -> None:
        try:
            self._lay(recovery, segment, self._source.complete(recovery.layout, segment))
        except (WalkeeperError, OSError, MemoryError) as problem:
            self._lay(recovery, segment, None)
            if (
                not recovery.over and recovery.cache.directory.exists()
            ):  # else somebody removed the server: a proof, at its end
                self._failed(segment, problem)

    def _lay(self, recovery: Recovery, segment: Segment, parts: Iterable[bytes] | None) -> None:
        """Raises OSError, and what ``parts`` raises."""
        laid = parts is not None and not recovery.over
        if parts is not None and laid:
            recovery.cache.lay(segment.name, parts)
        with self._changed:
            recovery.under_way.discard(segment)
            (recovery.ready if laid else recovery.barren).add(segment)
            recovery.drop_what_was_left()
            if recovery.over and not recovery.under_way:
                recovery.cache.close()
            self._changed.notify_all()

    def _failed(self, segment: Segment, problem: BaseException) -> None:
        """The server's own request for it will find out what it is, and say so."""
        events.failure("prefetch_failed", problem, file=segment.name)
        with self._changed:
            self._paused_until = self._clock.monotonic() + PAUSE_SECONDS

    def _look(self) -> bool:
        now = self._clock.monotonic()
        changed = False
        for recovery in self._recoveries.values():
            changed = self._notice_taken(recovery) or changed
        if now - self._servers_seen_at >= GONE_SECONDS:
            self._servers_seen_at = now
            self._without_cache = {server for server in self._without_cache if server.runs}
            for recovery in list(self._recoveries.values()):
                if now - recovery.active_at >= IDLE_SECONDS or not recovery.server.runs:
                    self._end(recovery)
        return changed

    def _notice_taken(self, recovery: Recovery) -> bool:
        """Whether the shell has taken something."""
        now = self._clock.monotonic()
        try:
            taken = recovery.look()
        except OSError:  # somebody removed the cache
            recovery.active_at = now - IDLE_SECONDS
            return False
        if taken:
            recovery.active_at = now
        return taken

    def _begin(self, server: RunningServer, layout: Layout) -> Recovery | None:
        if self._closed or server in self._without_cache:
            return None
        data = server.data_directory
        try:
            cache = Cache(self._directory or data.with_name(data.name + ".walkeeper") / "restore", server)
        except OSError as problem:
            self._without_cache.add(server)
            events.warning(
                "restore_slowly",
                error=problem,
                hint="Nothing is fetched ahead. Set restore.directory to where it can be.",
            )
            return None
        recovery = self._recoveries[server] = Recovery(
            server, layout, cache, self._clock.monotonic(), goes_back=exits.in_archive_recovery(str(data))
        )
        if (begins := backup_begins(data)) is not None:  # it asks for a history first
            recovery.begin(*begins)
        self._changed.notify_all()
        return recovery

    def _end(self, recovery: Recovery) -> None:
        del self._recoveries[recovery.server]
        recovery.over = True
        if not recovery.under_way or self._closed:
            recovery.cache.close()


def _named(name: str, segments: set[Segment]) -> Segment | None:
    return next((segment for segment in segments if segment.name == name), None)
