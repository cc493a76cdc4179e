"""What the base backups restore, for the agent's report and metrics: looked at in the background by who archives.

By the record's word about the WAL: a look costs a few small listings, however large the archive is. Whether there are other
backups than before is asked each minute, by one listing. Once an hour the pieces are listed: of the newest backup, of what it
builds on, and of one of the others in turn.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from walkeeper.archive.backups import Backups
from walkeeper.archive.open import Archives
from walkeeper.archive.restorable import Restorable, claimed, summary
from walkeeper.config import Config
from walkeeper.core.backup import Backup
from walkeeper.core.incremental import chain_of
from walkeeper.core.record import Record
from walkeeper.core.windows import consistent_at
from walkeeper.errors import BadBackup, NotAuthentic, ObjectMissing, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import Clock, wall_seconds

REFRESH_SECONDS: Final = 300.0
GLANCE_SECONDS: Final = 60.0
"""Seconds until it is asked whether there are other backups than before."""
SOON_SECONDS: Final = 30.0
"""Seconds until the next look after one that failed."""
PIECES_SECONDS: Final = 3600.0
"""Seconds from one look at pieces to the next."""
NAMED: Final = 50_000
"""Pieces of a backup whose names are taken into memory, to tell them from those of an earlier attempt."""
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
        self._pieces_due_at = clock.monotonic() + REFRESH_SECONDS  # not while a takeover has the store busy
        self._turn = 0
        self._lacking: dict[str, str] = {}
        """What backups lack in the store, by id; replaced as a whole."""

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

    def tend(self, record: Record) -> ObjectMissing | None:
        """By who archives, often: has the pieces looked at when it is time, and tells what backups lack that are newer than each
        that is whole. Never waits.
        """
        if self._clock.monotonic() >= self._pieces_due_at:
            self.summary(record)
        found, lacking = self._found, self._lacking
        if found is None or not lacking:
            return None
        there = {backup.id for backup in found.documents.backups}
        whole = max((backup.id for backup in found.windows.complete), default="")
        newer = [id_ for id_ in sorted(lacking) if id_ in there and id_ > whole]
        if not newer:
            return None
        more = f", and {len(newer) - 1} more lack something" if len(newer) > 1 else ""
        return ObjectMissing(
            f"backup {newer[-1]}: {lacking[newer[-1]]}{more}",
            hint="It does not count. If there is a copy of the object, put it back. walkeeper verify looks at all backups; "
            "walkeeper backup takes one now.",
        )

    def refresh(self) -> None:
        """Something has changed: the next call looks at everything."""
        with self._lock:
            self._due_at = self._whole_due_at = 0.0

    def _look(self, record: Record, whole: bool) -> None:
        try:
            if whole or self._is_outdated(record):
                self._found, self._by = claimed(self._archives, record, self._found, self._lacking), record
            if self._found is not None and self._clock.monotonic() >= self._pieces_due_at:
                lacking = self._look_at_pieces(self._found, self._archives.backups(int(record.system_identifier)))
                self._pieces_due_at = self._clock.monotonic() + PIECES_SECONDS
                if lacking != self._lacking:
                    self._lacking = lacking
                    self._found = claimed(self._archives, record, self._found, lacking)
        except WalkeeperError as problem:
            events.warning("backups_unknown", error=problem, hint=problem.hint)
            with self._lock:
                self._due_at, self._whole_due_at = self._clock.monotonic() + SOON_SECONDS, 0.0

    def _look_at_pieces(self, found: Restorable, backups: Backups) -> dict[str, str]:
        """Why some do not count, of those that are due and that have lacked something before."""
        complete = {backup.id: backup for backup in found.windows.complete}
        newest = max(complete.values(), key=consistent_at, default=None)
        due = {backup.id: backup for backup in (chain_of(newest, complete) if newest is not None else ())}
        due |= {backup.id: backup for backup in found.documents.backups if backup.id in self._lacking}
        if others := sorted(complete.keys() - due.keys()):
            self._turn += 1
            turn = others[self._turn % len(others)]
            due[turn] = complete[turn]
        return {id_: why for id_, backup in due.items() if (why := _lacks(backups, backup))}

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


def _lacks(backups: Backups, backup: Backup) -> str:
    """Of a large one beside which an earlier attempt has left pieces, verify tells. Raises the store's errors."""
    shown = backups.shows(backup)
    if shown == "whole" or (shown == "more" and backup.pieces > NAMED):
        return ""
    return backups.lacks(backup)
