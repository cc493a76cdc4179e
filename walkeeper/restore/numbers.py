"""Timeline numbers that the DCS knows to be used, for a promotion while the store is away, or does not know of them yet.

PostgreSQL takes the first number of which restore_command finds no history. The leader's agent notes its own in the DCS before it
asks the store for anything. Nobody else is told from there: what a standby follows, the store and its primary say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from walkeeper.archive import histories
from walkeeper.archive.open import Archives
from walkeeper.archive.read import wal_file
from walkeeper.core.names import HistoryFile
from walkeeper.core.remembered import decode
from walkeeper.dcs.base import RECORD, REMEMBERED, RecordStore
from walkeeper.dcs.claim import read_claim
from walkeeper.errors import DcsUnavailable, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import Clock, SystemClock
from walkeeper.lib.deadline import Deadline, DeadlineExceeded
from walkeeper.postgres.data_directory import is_starting, read_control_file, running_server
from walkeeper.restore.abandoned import only_follows
from walkeeper.restore.branch import for_server

_DCS: Final = (
    "This node must reach the DCS as patroni.yml has it: a promotion meanwhile may take a number that was used."
)

SECONDS: Final = 0.8
"""For all questions together: a promotion waits, and has waited for the store."""
_REPEAT: Final = 60.0
"""Seconds after which a failure that lasts is logged again: a standby asks every five."""


class Numbers:
    """For the member ``me``. ``connect`` gives the way to a key of the cluster, and raises ConfigError."""

    def __init__(
        self,
        me: str | None,
        archives: Archives,
        connect: Callable[[str], RecordStore],
        seconds: float = SECONDS,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._me = me
        self._archives = archives
        self._connect = connect
        self._seconds = seconds
        self._deadline = Deadline("DCS")
        self._connected: dict[str, RecordStore] = {}
        self._clock = clock or SystemClock()
        self._failed: tuple[str, float] | None = None
        """Why it does at present, and when that was logged."""

    def text(self, name: str, data_directory: Path) -> bytes | None:
        """The history of that name, exactly as it was noted, for a server that may be about to choose a number. None: it is not
        known, which proves nothing. Never raises.
        """
        file = wal_file(name)
        if not isinstance(file, HistoryFile) or running_server(data_directory) is None:
            return None
        if not (data_directory / "standby.signal").exists() or is_starting(data_directory):
            return None
        try:
            text = self._deadline.call(lambda: self._text(file.timeline, data_directory), self._seconds)
            plain = None if text is None else for_server(name, text, data_directory)
        except (WalkeeperError, DeadlineExceeded) as problem:
            self._fail(name, problem)
            return None
        if self._failed is not None:
            self._failed = None
            events.info("number_not_looked_up_over")
        if plain is not None:
            events.info("number_used", file=name, by="the DCS, as the store does not deliver it")
        return plain

    def _fail(self, name: str, problem: WalkeeperError | DeadlineExceeded) -> None:
        told = (
            problem if isinstance(problem, WalkeeperError) and problem.hint else DcsUnavailable(str(problem), hint=_DCS)
        )
        now = self._clock.monotonic()
        if self._failed is None or self._failed[0] != told.reason or now - self._failed[1] >= _REPEAT:
            self._failed = told.reason, now
            events.failure("number_not_looked_up", told, file=name)

    def _text(self, timeline: int, data_directory: Path) -> bytes | None:
        found = self._records(REMEMBERED).read()
        known = None if found is None else decode(found.document)
        text = None if known is None else known.text(timeline)
        control = read_control_file(data_directory)
        if known is None or text is None or int(known.system_identifier) != control.system_identifier:
            return None
        plain = histories.recalled(self._archives.layout(control.system_identifier), self._archives.trust, text)
        record = read_claim(self._records(RECORD)).record
        stated = record.history_sha256 if record is not None and record.timeline == timeline else ""
        if stated not in ("", hashlib.sha256(plain).hexdigest()):
            return None
        topology = self._records(RECORD).topology()
        leader = topology.leader.name if topology.leader is not None else ""
        owner = record.owner if record is not None else leader
        return None if only_follows(data_directory, self._me, owner, topology) else plain

    def _records(self, key: str) -> RecordStore:
        if key not in self._connected:
            self._connected[key] = self._connect(key)
        return self._connected[key]
