"""Where this host has seen the archive of its cluster: a file beside the spool, which outlives the whole DCS.

A store that is empty where there was an archive is no new one: its disk is not mounted, or somebody emptied it (promise P13).
"""

from __future__ import annotations

from pathlib import Path

from walkeeper.archive.open import Archives
from walkeeper.core.beliefs import nothing_archived
from walkeeper.core.record import Record
from walkeeper.lib import durable, events
from walkeeper.lib.trust import UnusableSecret, Us, read_secret


class SeenArchive:
    """For the observer and the takeover's thread. Nothing waits for it where it cannot be written, or others could have."""

    def __init__(self, directory: Path, archives: Archives) -> None:
        self._path = directory / "archive-seen"
        self._archives = archives
        self._noted = ""

    def note(self, system_identifier: int, record: Record) -> None:
        """``system_identifier``: the local server's. Once for each archive that the record speaks of."""
        place = self._place(system_identifier)
        if place == self._noted or str(system_identifier) != record.system_identifier or nothing_archived(record):
            return
        self._noted = place
        if self.has(system_identifier):
            return
        try:
            durable.keep(self._path, f"{place}\n".encode())
        except OSError as problem:
            events.failure("archive_not_noted", problem, file=self._path)

    def has(self, system_identifier: int) -> bool:
        """Whether the last one that was seen here is that server's, in the store that is configured now."""
        try:
            return read_secret(self._path, Us.here())[0] == self._place(system_identifier)
        except UnusableSecret:
            return False

    def _place(self, system_identifier: int) -> str:
        return f"{self._archives.store.url}/{self._archives.layout(system_identifier).root}"
