"""Whether the members are gap-safe, and what room they have: in the background, while somebody looks at that."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from walkeeper.config import Config
from walkeeper.core.hold_slot import why_not_gap_safe
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Record
from walkeeper.core.room import Disk
from walkeeper.dcs.base import Member
from walkeeper.errors import WalkeeperError
from walkeeper.lib.clock import Clock
from walkeeper.postgres.server import Server

REFRESH_SECONDS: Final = 10.0
FORGOTTEN_SECONDS: Final = 60.0
"""Seconds after which an answer says nothing of the present."""
ANSWER_SECONDS: Final = 3.0
AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Seen:
    """``safe`` is None where nothing depends on it."""

    safe: bool | None
    disk: Disk | None


class MembersLook:
    """One look after the other; what did not answer is left out."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._at: float | None = None
        self._seen: Mapping[str, Seen] = {}

    def look(self, members: tuple[Member, ...], record: Record | None, held: Lsn | None) -> Mapping[str, Seen]:
        """What was seen last. Never waits; begins another look where one is due. ``held``: the frontier that the slot follows."""
        now = self._clock.monotonic()
        with self._lock:
            running = self._thread is not None and self._thread.is_alive()
            if not running and (self._at is None or now - self._at >= REFRESH_SECONDS):
                self._thread = threading.Thread(
                    target=self._look, args=(members, record, held), name="members", daemon=True
                )
                self._thread.start()
        return self._seen if self._at is not None and now - self._at < FORGOTTEN_SECONDS else {}

    def _look(self, members: tuple[Member, ...], record: Record | None, held: Lsn | None) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = dict(
                zip([m.name for m in members], pool.map(lambda m: self._ask(m, record, held), members), strict=True)
            )
        self._seen = {name: seen for name, seen in found.items() if seen is not None}
        self._at = self._clock.monotonic()

    def _ask(self, member: Member, record: Record | None, held: Lsn | None) -> Seen | None:
        if not member.host or not member.port:
            return None
        own = member.name == self._config.name
        endpoint = self._config.postgresql if own else self._config.postgresql.of_member(member.host, member.port)
        try:
            server = Server(endpoint, ANSWER_SECONDS)
            try:
                state, slot, agents = server.state(), server.slot(self._config.hold_slot), server.agents()
            finally:
                server.close()
        except WalkeeperError:
            return None
        matters = not (member.nofailover and state.in_recovery)
        ours = record is not None and str(state.system_identifier) == record.system_identifier
        safe = why_not_gap_safe(slot, held, record.size) == "" if record and held and ours and matters else None
        disk = next(filter(None, map(Disk.from_brief, agents)), None)
        return Seen(safe, disk if ours or record is None else None)
