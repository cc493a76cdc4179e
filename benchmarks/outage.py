"""The store goes away under load: what PostgreSQL notices of it, what the spool does, and how long the archive takes after."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Self

import psycopg

from benchmarks import table, wiring
from benchmarks.places import Kind, Place, Places
from tests.parts.cluster import Cluster, Node
from tests.parts.ledger import Ledger
from tests.parts.processes import wait_until
from walkeeper.core.lsn import MIB

SPOOL_LIMIT_MB: Final = 16
PHASE: Final = 15.0
"""Seconds of load before, and of outage."""
ROW_BYTES: Final = 8 * 1024
CAUGHT_UP: Final = 3
"""Segments: an archiver that is no further behind has caught up, under load."""
LONGEST: Final = 180.0
_LOOK: Final = 0.02


@dataclass(frozen=True, slots=True)
class Outage:
    """Rates in commits a second, sizes in MiB, times in seconds after the store's return."""

    before: float
    during: float
    after: float
    written: float
    spool: float
    held: float
    first_object: float
    caught_up: float
    missing: int
    gaps: int


class _Highest:
    """The most that the spool held at any look, in MiB."""

    def __init__(self, node: Node) -> None:
        self.spool = 0.0
        self._node = node
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        spool = wiring.spool_wal(self._node)
        while not self._ended.wait(_LOOK):
            sizes = []
            for path in spool.iterdir():
                try:
                    sizes.append(path.stat().st_size)
                except FileNotFoundError:
                    continue
            self.spool = max(self.spool, sum(sizes) / MIB)


def run(kind: Kind, rounds: int) -> None:
    """Measure and print."""
    with ExitStack() as stack:
        place = stack.enter_context(Places(kind)).new()
        more = {"spool": {"limit": f"{SPOOL_LIMIT_MB}MiB"}}
        cluster = wiring.make_cluster(place, walkeeper=more)
        stack.callback(cluster.stop)
        wiring.start(cluster, place)
        found = []
        for number in range(1, rounds + 1):
            one = _measure(cluster, place)
            found.append(one)
            print(
                f"outage {number}/{rounds}: {one.before:.0f}, {one.during:.0f}, {one.after:.0f} commits/s before, during and "
                f"after; spool {one.spool:.0f} MiB, held {one.held:.0f} MiB, caught up after {one.caught_up:.1f} s",
                flush=True,
            )
    _show(kind, found)


def _measure(cluster: Cluster, place: Place) -> Outage:
    leader = cluster.wait_ready(timeout=LONGEST)
    with (
        Ledger(cluster.conninfo(), writers=2, ballast=ROW_BYTES, pause=0) as ledger,
        leader.connect() as connection,
        _Highest(leader) as highest,
    ):
        begun = time.monotonic()
        time.sleep(PHASE)
        place.away()
        away, position = time.monotonic(), _position(connection)
        time.sleep(PHASE)
        held, written = _held(connection), (_position(connection) - position) / MIB
        place.back()
        back, back_at = time.monotonic(), time.time()
        wait_until(lambda: _behind(cluster, connection) < CAUGHT_UP, "the archiver to catch up", LONGEST)
        caught_up = time.monotonic()
        # The rate afterwards is taken over the catching up, and at least a phase.
        time.sleep(max(0.0, PHASE - (caught_up - back)))
        ended = time.monotonic()
    moments = [row.at for row in ledger.rows()]
    record = wiring.wait_archived(cluster, leader, LONGEST)
    first = wiring.first_event(wiring.agent_events(leader), "archived", back_at)
    assert first is not None
    return Outage(
        _rate(moments, begun, away),
        _rate(moments, away, back),
        _rate(moments, back, ended),
        written,
        highest.spool,
        held,
        first - back_at,
        caught_up - back,
        _missing(cluster, place),
        record.gaps_total,
    )


def _rate(moments: list[float], begun: float, ended: float) -> float:
    return sum(begun <= moment < ended for moment in moments) / (ended - begun)


def _position(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    return _number(connection, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")


def _held(connection: psycopg.Connection[tuple[object, ...]]) -> float:
    """MiB of WAL that the hold slot keeps in pg_wal."""
    sql = "SELECT pg_current_wal_insert_lsn() - restart_lsn FROM pg_replication_slots WHERE slot_name = 'walkeeper'"
    return _number(connection, sql) / MIB


def _number(connection: psycopg.Connection[tuple[object, ...]], sql: str) -> int:
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return int(str(row[0]))


def _behind(cluster: Cluster, connection: psycopg.Connection[tuple[object, ...]]) -> float:
    """How far the frontier is behind, in segments."""
    record = wiring.record_of(cluster)
    assert record is not None
    return (_position(connection) - record.position) / record.size


def _missing(cluster: Cluster, place: Place) -> int:
    """Segments of the chain, from the archive's start to the frontier, that the store lacks."""
    archive, record = wiring.archive_of(cluster, place), wiring.record_of(cluster)
    first = archive.contents.start()
    assert record is not None
    assert first is not None
    history = archive.contents.history(record.timeline)
    assert history is not None
    stored = set(archive.contents.segments())
    return sum(
        history.segment(number, record.size) not in stored
        for number in range(first.number, record.position // record.size)
    )


def _show(kind: Kind, found: list[Outage]) -> None:
    header = (
        "store", "outages", "commits/s before", "during", "ratio", "after", "ratio", "WAL written in the outage, MiB",
        f"spool at most, MiB (limit {SPOOL_LIMIT_MB})", "held in pg_wal, MiB", "first object after the return, s",
        "caught up, s", "segments missing", "gaps",
    )  # fmt: skip
    row = (
        f"{kind}, {PHASE:.0f} s away",
        len(found),
        table.median(one.before for one in found),
        table.median(one.during for one in found),
        table.median((one.during / one.before for one in found), 2),
        table.median(one.after for one in found),
        table.median((one.after / one.before for one in found), 2),
        table.median(one.written for one in found),
        f"{max(one.spool for one in found):.0f}",
        table.median(one.held for one in found),
        table.median_and_worst((one.first_object for one in found), 1),
        table.median_and_worst((one.caught_up for one in found), 1),
        sum(one.missing for one in found),
        max(one.gaps for one in found),
    )
    table.show("The store away under load; medians, with the worst in brackets", header, [row])
