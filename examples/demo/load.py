"""The load: rows that the ledger remembers, ballast that fills segments at a chosen rate, and the figures of both."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Final, Self

import psycopg

from examples.demo.stage import Stage
from tests.parts.ledger import Ledger
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.errors import WalkeeperError

CHUNK: Final = 64 * 1024
SAMPLES_KEPT: Final = 10


class Ballast:
    """Writes WAL without rows, ``rate`` MiB a second; the rate can be changed while it runs. It starts at 0."""

    def __init__(self, conninfo: str) -> None:
        self.rate = 0.0
        self._conninfo = conninfo
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                with psycopg.connect(self._conninfo, autocommit=True) as connection:
                    self._write_on(connection)
            except psycopg.Error:
                self._ending.wait(0.1)

    def _write_on(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        due = time.monotonic()
        while not self._ending.is_set():
            rate = self.rate
            if rate <= 0:
                self._ending.wait(0.1)
                due = time.monotonic()
                continue
            connection.execute("SELECT pg_logical_emit_message(true, 'ballast', %b::bytea)", [os.urandom(CHUNK)])
            due = max(due + CHUNK / (rate * MIB), time.monotonic() - 1)  # no more than a second's arrears
            self._ending.wait(max(0.0, due - time.monotonic()))


@dataclass(frozen=True, slots=True)
class Figures:
    """One look. ``wal`` is where the leader's WAL ends; None is what did not answer."""

    rows: int = 0
    rows_per_second: float = 0.0
    wal: Lsn | None = None
    frontier: Lsn | None = None

    @property
    def behind(self) -> int | None:
        """Bytes of WAL that the archive does not have."""
        return None if self.wal is None or self.frontier is None else max(0, self.wal - self.frontier)

    def __str__(self) -> str:
        """Short enough for a terminal of 80 columns."""
        wal = "?" if self.wal is None else self.wal
        behind = "?" if self.behind is None else f"{self.behind / MIB:.1f}"
        frontier = "?" if self.frontier is None else self.frontier
        return (
            f"{self.rows:,} rows, {self.rows_per_second:.0f}/s · WAL {wal} · frontier {frontier} · {behind} MiB behind"
        )


class Gauge:
    """Looks at ledger, leader and record a few times a second, in a thread of its own."""

    def __init__(self, stage: Stage, ledger: Ledger) -> None:
        self.now = Figures()
        self._stage = stage
        self._ledger = ledger
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._counts: list[tuple[float, int]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                with psycopg.connect(self._stage.cluster.conninfo(), autocommit=True) as connection:
                    while not self._ending.wait(0.25):
                        self._look(connection)
            except (psycopg.Error, OSError, WalkeeperError):
                self._look(None)
                self._ending.wait(0.25)

    def _look(self, connection: psycopg.Connection[tuple[str]] | None) -> None:
        wal = None
        if connection is not None:
            row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
            wal = Lsn.parse(str(row[0])) if row else None
        try:
            record = self._stage.record()
        except (OSError, WalkeeperError):
            record = None
        rows = len(self._ledger)
        self._counts = [*self._counts[-SAMPLES_KEPT:], (time.monotonic(), rows)]
        (then, before), (now, _) = self._counts[0], self._counts[-1]
        rate = (rows - before) / (now - then) if now > then else 0.0
        self.now = Figures(rows, rate, wal, record.position if record else None)
