"""What the base backups restore, for the agent's report and metrics: looked at in the background by who archives.

By the record's word about the WAL: a look costs a few small listings, however large the archive is. Whether there are other
backups than before is asked each minute, by one listing.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from walkeeper.archive.open import Archives
from walkeeper.archive.restorable import Restorable, claimed, summary
from walkeeper.config import Config
from walkeeper.core.record import Record
from walkeeper.errors import BadBackup, NotAuthentic, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import Clock, wall_seconds

REFRESH_SECONDS: Final = 300.0
GLANCE_SECONDS: Final = 60.0
"""Seconds until it is asked whether there are other backups than before."""
SOON_SECONDS: Final = 30.0
"""Seconds until the next look after one that failed."""
_RUNNING: Final = 2
"""Attempts, the newest, that may become backups: older ones are asked for with everything else."""


class BackupsLook:
    """Safe for several threads."""

    def __init__(self, archives: Archives, config: Config, clock: Clock) -> None:
        self._archives = archives
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._looking: threading.Thread | None = None
        self._due_at = 0.0
        self._whole_due_at = 0.0
        self._found: Restorable | None = None
        self._by: Record | None = None
        """The record by which that was found."""

    def summary(self, record: Record | None) -> dict[str, Any] | None:
        """As it was found last; None where that is not known, or nobody has ever begun a backup. Never waits."""
        if record is None:
            return None
        with self._lock:
            found, now = self._found, self._clock.monotonic()
            if (self._looking is None or not self._looking.is_alive()) and now >= self._due_at:
                self._due_at, whole = now + GLANCE_SECONDS, now >= self._whole_due_at
                if whole:
                    self._whole_due_at = now + REFRESH_SECONDS
                self._looking = threading.Thread(
                    target=self._look, args=(record, whole), name="backups-look", daemon=True
                )
                self._looking.start()
        if found is None or found.holdings.system_identifier != int(record.system_identifier):
            return None
        return summary(found, wall_seconds(), self._config)

    def refresh(self) -> None:
        """Something has changed: the next call looks at everything."""
        with self._lock:
            self._due_at = self._whole_due_at = 0.0

    def _look(self, record: Record, whole: bool) -> None:
        try:
            if whole or self._is_outdated(record):
                self._found, self._by = claimed(self._archives, record, self._found), record
        except WalkeeperError as problem:
            events.warning("backups_unknown", error=problem, hint=problem.hint)
            with self._lock:
                self._due_at, self._whole_due_at = self._clock.monotonic() + SOON_SECONDS, 0.0

    def _is_outdated(self, record: Record) -> bool:
        """Whether a backup came or went, or one that waits for WAL may have got it. Raises the store's errors."""
        found, by = self._found, self._by
        if found is None or by is None or by.system_identifier != record.system_identifier:
            return True
        if by.position != record.position and any(each.waits for each in found.windows.judged):
            return True
        backups, known = self._archives.backups(int(record.system_identifier)), found.documents
        read = {each.id for each in known.backups} | {each.id for each in known.tombstones}
        if read | {*map(str, known.attempts), *known.unreadable} != {*map(str, backups.ids())}:
            return True
        try:
            return any(backups.read(attempt) is not None for attempt in known.attempts[-_RUNNING:])
        except (BadBackup, NotAuthentic):
            return True
