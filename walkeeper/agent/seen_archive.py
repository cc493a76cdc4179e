"""The agent notes where it sees the archive of its cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from walkeeper.archive.open import Archives
from walkeeper.archive.seen import Seen, place_of
from walkeeper.core.beliefs import nothing_archived
from walkeeper.core.lsn import SegmentSize
from walkeeper.core.record import Record
from walkeeper.errors import WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import Clock

AGAIN_SECONDS: Final = 60.0
"""Seconds until the store is asked again, after it had no archive or no answer, or the file could not be written."""


class SeenArchive:
    """For the observer and the takeover's thread. Nothing waits for it where it cannot be written, or others could have."""

    def __init__(
        self, directory: Path, archives: Archives, clock: Clock, start: Callable[[str, Callable[[], None]], object]
    ) -> None:
        """``start``: as ``Supervisor.start``."""
        self._seen = Seen(directory)
        self._archives = archives
        self._clock = clock
        self._start = start
        self._noted = ""
        self._asking = False
        self._due_at = 0.0
        self._told = False

    def note(self, system_identifier: int, record: Record, *, there: bool) -> None:
        """``system_identifier``: the local server's. Once for each archive that the record speaks of, and that is there: the
        record may be of another store than is configured now. ``there``: that is known. Never waits for the store.
        """
        place, now = place_of(self._archives, system_identifier), self._clock.monotonic()
        if place == self._noted or str(system_identifier) != record.system_identifier or nothing_archived(record):
            return
        if self._asking or now < self._due_at:
            return
        if self.has(system_identifier):
            self._noted = place
            return
        self._due_at = now + AGAIN_SECONDS
        if there:
            self._keep(place)
        else:
            self._asking = True
            self._start("archive-seen", lambda: self._look(system_identifier, record.size, place))

    def _look(self, system_identifier: int, size: SegmentSize, place: str) -> None:
        try:
            if self._archives.contents(system_identifier, size).start() is not None:
                self._keep(place)
        except WalkeeperError:
            pass  # who needs the store tells of it
        finally:
            self._asking = False

    def _keep(self, place: str) -> None:
        try:
            self._seen.keep(place)
            self._noted = place
        except OSError as problem:
            if not self._told:
                events.failure("archive_not_noted", problem, file=self._seen.path)
            self._told = True

    def has(self, system_identifier: int) -> bool:
        """Whether the last one that was seen here is that server's, in the store that is configured now."""
        return self._seen.place() == place_of(self._archives, system_identifier)
