"""What the base backups restore, for the agent's report and metrics: looked at in the background, seldom, by who archives.

By the record's word about the WAL: a look costs a few small listings, however large the archive is.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from walkeeper.archive.open import Archives
from walkeeper.archive.restorable import Restorable, claimed, summary
from walkeeper.config import Config
from walkeeper.core.record import Record
from walkeeper.errors import WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import Clock, wall_seconds

REFRESH_SECONDS: Final = 300.0
SOON_SECONDS: Final = 30.0
"""Seconds until the next look after one that failed."""


class BackupsLook:
    """Safe for several threads."""

    def __init__(self, archives: Archives, config: Config, clock: Clock) -> None:
        self._archives = archives
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._looking: threading.Thread | None = None
        self._due_at = 0.0
        self._found: Restorable | None = None

    def summary(self, record: Record | None) -> dict[str, Any] | None:
        """As it was found last; None where that is not known, or nobody has ever begun a backup. Never waits."""
        if record is None:
            return None
        with self._lock:
            found, now = self._found, self._clock.monotonic()
            if (self._looking is None or not self._looking.is_alive()) and now >= self._due_at:
                self._due_at = now + REFRESH_SECONDS
                self._looking = threading.Thread(target=self._look, args=(record,), name="backups-look", daemon=True)
                self._looking.start()
        if found is None or found.holdings.system_identifier != int(record.system_identifier):
            return None
        return summary(found, wall_seconds(), self._config)

    def _look(self, record: Record) -> None:
        try:
            self._found = claimed(self._archives, record, self._found)
        except WalkeeperError as problem:
            events.warning("backups_unknown", error=problem, hint=problem.hint)
            self._due_at = self._clock.monotonic() + SOON_SECONDS
