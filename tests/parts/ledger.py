"""Load with a ledger: which rows a cluster has acknowledged, and up to where in the WAL, to be held against a restore."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

import psycopg

from tests.parts.processes import wait_until
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn

STATEMENT_SECONDS: Final = 5.0
"""Seconds after which a statement that got no answer is no longer waited for, its outcome unknown."""

_CREATE: Final = "CREATE TABLE IF NOT EXISTS ledger (id bigint PRIMARY KEY, payload text, at timestamptz DEFAULT now())"
_INSERT: Final = "INSERT INTO ledger (id, payload) VALUES (%s, %s)"
_INSERT_HEAVY: Final = (
    "WITH row AS (INSERT INTO ledger (id, payload) VALUES (%s, %s)) "
    "SELECT pg_logical_emit_message(true, 'ballast', %b::bytea)"
)
_POSITION: Final = "SELECT pg_current_wal_insert_lsn()::text, pg_walfile_name(pg_current_wal_insert_lsn())"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A row whose commit the server at ``port`` confirmed: it lies below ``lsn`` of ``timeline``. ``at``: monotonic seconds."""

    id: int
    timeline: int
    lsn: Lsn
    at: float
    port: int

    def covered_by(self, history: History, frontier: Lsn) -> bool:
        """Whether an archive that is complete up to ``frontier`` of ``history.timeline`` must have it."""
        if self.timeline == history.timeline:
            return self.lsn <= frontier
        ends = {switch.timeline: switch.lsn for switch in history.switches}
        return self.timeline in ends and self.lsn <= min(ends[self.timeline], frontier)


def of_twins(rows: Iterable[Acknowledged]) -> set[int]:
    """The ids on timelines that more than one server wrote to: promoted independently, they took the same number."""
    writers: dict[int, dict[int, list[int]]] = {}
    for row in rows:
        writers.setdefault(row.timeline, {}).setdefault(row.port, []).append(row.id)
    return {number for ports in writers.values() if len(ports) > 1 for ids in ports.values() for number in ids}


class Ledger:
    """Writers that insert rows until stopped and note each one that was acknowledged.

    ``conninfo`` names all nodes with ``target_session_attrs=read-write``; a writer connects again after every error and
    never uses an id twice, so a row of unknown outcome is in no one's way. ``ballast`` is in bytes of incompressible
    WAL a row, ``pause`` in seconds after each row. The context manager makes the table, starts and stops.
    """

    def __init__(self, conninfo: str, *, writers: int = 2, ballast: int = 0, pause: float = 0.01) -> None:
        self._conninfo = conninfo
        self._writers = writers
        self._ballast = os.urandom(ballast)
        self._pause = pause
        self._ids = itertools.count(1)
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._rows: list[Acknowledged] = []
        self._in_flight: dict[int, tuple[float, socket.socket]] = {}
        self._died: list[BaseException] = []
        self.errors = 0
        """How often a writer lost its connection or was refused."""

    @classmethod
    def light(cls, conninfo: str) -> Ledger:
        """Some hundred small rows a second."""
        return cls(conninfo, writers=2, pause=0.01)

    @classmethod
    def heavy(cls, conninfo: str, *, mib_per_second: float = 25) -> Ledger:
        """About that much WAL, where the machine can."""
        writers, ballast = 2, 256 * 1024
        return cls(conninfo, writers=writers, ballast=ballast, pause=writers * ballast / (mib_per_second * 1024 * 1024))

    def move(self, conninfo: str) -> None:
        """Between ``stop`` and ``start``: to a cluster that goes on with the same database."""
        self._conninfo = conninfo

    def start(self) -> None:
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            connection.execute(_CREATE)
            taken = connection.execute("SELECT coalesce(max(id), 0) FROM ledger").fetchone()
            assert taken is not None
            self._ids = itertools.count(int(taken[0]) + 1)
        self._ending.clear()
        targets: list[Callable[[], None]] = [self._write] * self._writers + [self._watch]
        self._threads = [threading.Thread(target=self._guarded, args=(target,), daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop writing. Raises what a writer died of, if one did."""
        self._ending.set()
        for thread in self._threads:
            thread.join(timeout=STATEMENT_SECONDS + 15)
        if self._died:
            raise self._died[0]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --------------------------------------------------------------------------------------------------------- counting

    def rows(self) -> list[Acknowledged]:
        """All that was acknowledged so far, in no order."""
        with self._lock:
            return list(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def wait_for(self, more: int, timeout: float = 60) -> None:
        """Until that many further rows are acknowledged."""
        goal = len(self) + more
        wait_until(lambda: len(self) >= goal or bool(self._died), f"{more} more rows", timeout)
        if self._died:
            raise self._died[0]

    def covered(self, history: History, frontier: Lsn) -> set[int]:
        """The ids that an archive complete up to that frontier must give back."""
        return {row.id for row in self.rows() if row.covered_by(history, frontier)}

    def compare(self, restored: psycopg.Connection[Any], ids: Iterable[int] | None = None) -> list[int]:
        """Which of ``ids`` (default: all that were acknowledged) the restored server lacks; in order."""
        expected = {row.id for row in self.rows()} if ids is None else set(ids)
        there = {int(row[0]) for row in restored.execute("SELECT id FROM ledger").fetchall()}
        return sorted(expected - there)

    # ---------------------------------------------------------------------------------------------------------- writing

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            self._died.append(error)
            raise

    def _write(self) -> None:
        while not self._ending.is_set():
            try:
                with psycopg.connect(self._conninfo, autocommit=True) as connection:
                    self._insert_on(connection)
            except psycopg.Error:
                self.errors += 1
                self._ending.wait(0.05)

    def _insert_on(self, connection: psycopg.Connection[Any]) -> None:
        me = threading.get_ident()
        with socket.socket(fileno=os.dup(connection.fileno())) as line:
            try:
                while not self._ending.is_set():
                    self._in_flight[me] = (time.monotonic() + STATEMENT_SECONDS, line)
                    self._insert(connection)
                    del self._in_flight[me]
                    self._ending.wait(self._pause)
            finally:
                self._in_flight.pop(me, None)

    def _insert(self, connection: psycopg.Connection[Any]) -> None:
        number = next(self._ids)
        if self._ballast:
            connection.execute(_INSERT_HEAVY, [number, f"row {number}", self._ballast])
        else:
            connection.execute(_INSERT, [number, f"row {number}"])
        row = connection.execute(_POSITION).fetchone()
        assert row is not None
        timeline, lsn = int(row[1][:8], 16), Lsn.parse(row[0])
        entry = Acknowledged(number, timeline, lsn, time.monotonic(), connection.info.port)
        with self._lock:
            self._rows.append(entry)

    def _watch(self) -> None:
        """Cut the connection of a statement that waits too long: its server may be frozen."""
        while any(thread.is_alive() for thread in self._threads[:-1]) or not self._threads:
            for deadline, line in list(self._in_flight.values()):
                if time.monotonic() > deadline:
                    with contextlib.suppress(OSError):
                        line.shutdown(socket.SHUT_RDWR)
            time.sleep(0.2)
