"""The local server while it is a standby: how far it has replayed, on which timeline, and what holds it up."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from walkeeper.core.history import History, parse_history
from walkeeper.core.lsn import Lsn
from walkeeper.lib import events
from walkeeper.postgres.data_directory import read_histories, running_server
from walkeeper.postgres.server import Server, ServerState

# Any role may ask for all of this, and of a walreceiver for its pid.
_LOOK: Final = """
select jsonb_build_object(
  'in_recovery', pg_is_in_recovery(),
  'replayed', coalesce(pg_last_wal_replay_lsn(), '0/0')::text,
  'paused', case when pg_is_in_recovery() then pg_is_wal_replay_paused() else false end,
  'receiver', (select pid from pg_stat_wal_receiver),
  'waits_for', current_setting('synchronous_standby_names'))"""


@dataclass(frozen=True, slots=True)
class Replay:
    """``receiver`` is the pid of its walreceiver, where one runs; ``waits_for`` its ``synchronous_standby_names``, which Patroni
    gives to all members. Out of recovery only ``in_recovery`` means anything.
    """

    in_recovery: bool
    replayed: Lsn
    timeline: int = 0
    paused: bool = False
    receiver: int | None = None
    waits_for: str = ""


class Standby:
    """``server`` is the one in ``data_directory``. All raise PostgresError."""

    def __init__(self, server: Server, data_directory: Path) -> None:
        self._server = server
        self._data_directory = data_directory

    def state(self) -> ServerState:
        return self._server.state()

    def look(self) -> Replay:
        """The position first: on a timeline that is newer than it, it is too low, which only means another look."""
        found: dict[str, Any] = self._server.survey(_LOOK)
        timeline = self._server.replay_timeline() if found["in_recovery"] else 0
        replayed = Lsn.parse(found["replayed"])
        paused, receiver = bool(found["paused"]), found["receiver"]
        return Replay(found["in_recovery"], replayed, timeline, paused, receiver, found["waits_for"])

    def history(self, timeline: int, stored: Callable[[int], History]) -> History:
        """Of its own timeline: as pg_wal has it, else as it is ``stored``."""
        try:
            text = read_histories(self._data_directory / "pg_wal").get(timeline)
        except OSError:
            text = None
        return parse_history(timeline, text) if text is not None else stored(timeline)

    def stop_receiving(self, pid: int) -> None:
        """End its walreceiver, so that PostgreSQL asks restore_command: while it takes one that hears nothing for connected, it
        does not. PostgreSQL starts another one at the end of the archive.
        """
        postmaster = running_server(self._data_directory)
        if postmaster is None or _parent(pid) != postmaster.pid:
            return
        try:
            os.kill(pid, signal.SIGTERM)
        except OSError as problem:
            events.warning("walreceiver_not_ended", pid=pid, error=problem.strerror)
        else:
            events.info("walreceiver_ended", pid=pid, why="it brings nothing, and the store has more")


def _parent(pid: int) -> int | None:
    """By ``/proc/PID/stat``, in which the name of the program may hold anything."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None
