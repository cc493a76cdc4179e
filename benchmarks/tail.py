"""Everything is lost at once: what a restore from a base backup and the store alone lacks; and what the tail costs.

Each run has a Patroni cluster of its own. All of its processes, etcd's too, get SIGKILL in the same moment, and all its
directories are deleted. ``idle`` is a writer whose rows are rare: killed soon after one, when it is most in danger.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import statistics
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

import psycopg
import yaml

from benchmarks import table, wiring
from benchmarks.places import Kind, Place, Places
from tests.parts.cluster import Cluster, Node
from tests.parts.postgres import Postgres, restore_server
from tests.parts.processes import new_directory, wait_until

Writer = Literal["steady", "idle"]
WRITERS: Final[tuple[Writer, ...]] = ("steady", "idle")
SEGMENT_MB: Final = 16
STEADY: Final = 0.1
"""Seconds between two rows."""
IDLE: Final = 20.0
"""The same for the idle writer. Minutes would do as well: nothing happens in them."""
DANGER: Final = 2.0
"""Seconds after a row of the idle writer within which the kill comes."""
LONGEST: Final = 120.0


@dataclass(frozen=True, slots=True)
class Loss:
    """``age``: seconds from the commit of the newest restored row to that of the newest acknowledged one. ``exposed``: how
    long the oldest lost row had been acknowledged when everything died; 0 if none is lost."""

    acknowledged: int
    lost: int
    age: float
    exposed: float
    extra: int
    """Rows that were restored and never acknowledged: their commit was written, and the answer died."""


class Rows:
    """Writes a row each ``pause`` seconds, and notes when its commit was acknowledged."""

    def __init__(self, leader: Node, pause: float) -> None:
        self.at: dict[int, float] = {}
        self._leader = leader
        self._pause = pause
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> Self:
        self._leader.execute("CREATE TABLE IF NOT EXISTS rows (n int PRIMARY KEY)")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        with contextlib.suppress(psycopg.OperationalError), self._leader.connect() as connection:
            due = time.monotonic()
            while not self._ended.wait(max(0.0, due - time.monotonic())):
                number = len(self.at)
                connection.execute("INSERT INTO rows VALUES (%s)", [number])
                self.at[number] = time.monotonic()
                due += self._pause


def run(kind: Kind, rounds: int, interval: str = "1s") -> None:
    """Measure and print."""
    found: dict[Writer, list[Loss]] = {writer: [] for writer in WRITERS}
    dice = random.Random(1)
    with Places(kind) as places:
        for number in range(1, rounds + 1):
            for writer in WRITERS:
                loss = _lose_everything(places.new(), writer, dice, interval)
                found[writer].append(loss)
                print(
                    f"tail {number}/{rounds} {kind} {writer}: {loss.acknowledged} rows, {loss.lost} lost, age {loss.age:.2f} s, "
                    f"exposed {loss.exposed:.2f} s",
                    flush=True,
                )
    _show(kind, found)


def _lose_everything(place: Place, writer: Writer, dice: random.Random, interval: str) -> Loss:
    with ExitStack() as stack:
        more = {"tail": {"interval": interval}}
        cluster = wiring.make_cluster(place, segment_size_mb=SEGMENT_MB, walkeeper=more)
        stack.callback(cluster.stop)
        wiring.start(cluster, place)
        leader = cluster.wait_ready(timeout=LONGEST)
        backup = leader.base_backup(new_directory("b") / "backup")
        with Rows(leader, STEADY if writer == "steady" else IDLE) as rows:
            if writer == "steady":
                wait_until(lambda: len(rows.at) > 50, "the writer", LONGEST)
                time.sleep(dice.uniform(0, 2))
            else:
                wait_until(lambda: len(rows.at) > 1, "the writer", LONGEST)
                time.sleep(dice.uniform(0, DANGER))
            died = _kill(cluster)
            acknowledged = {number: at for number, at in rows.at.items() if at <= died}
        cluster.stop()
        shutil.rmtree(cluster.directory)
        return _judged(acknowledged, died, _restored(backup, place))


def _kill(cluster: Cluster) -> float:
    """All at once. When it was, by the monotonic clock."""
    pids = sorted({cluster.etcd.pid, *(pid for node in cluster.nodes for pid in node.host.pids())})
    died = time.monotonic()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return died


def _restored(backup: Path, place: Place) -> set[int]:
    """The rows of a server that has the base backup and the store, and nothing else."""
    config = new_directory("r") / "patroni.yml"
    config.touch(mode=0o600)
    config.write_text(yaml.safe_dump({"scope": "demo", "walkeeper": {"store": place.section()}}))
    command = f"{sys.executable} -m walkeeper -c {config} restore-wal %f %p"
    server = restore_server(
        backup, config.parent / "pg", command, env={"WALKEEPER_RUN_DIR": str(config.parent), "TZ": "UTC"}
    )
    try:
        server.start(LONGEST)
        _wait_open(server)
        if server.value("SELECT to_regclass('rows') IS NULL"):
            return set()
        return {number for (number,) in server.execute("SELECT n FROM rows")}
    finally:
        server.close()
        shutil.rmtree(config.parent)
        shutil.rmtree(backup)


def _wait_open(server: Postgres) -> None:
    wait_until(
        lambda: not server.value("SELECT pg_is_in_recovery()"), "the end of recovery", LONGEST, logs=[server.log]
    )


def _judged(acknowledged: dict[int, float], died: float, restored: set[int]) -> Loss:
    lost = acknowledged.keys() - restored
    newest = max(
        (acknowledged[number] for number in restored & acknowledged.keys()), default=min(acknowledged.values())
    )
    return Loss(
        len(acknowledged),
        len(lost),
        max(acknowledged.values()) - newest,
        max((died - acknowledged[number] for number in lost), default=0.0),
        len(restored - acknowledged.keys()),
    )


def _show(kind: Kind, found: dict[Writer, list[Loss]]) -> None:
    header = (
        "writer", "runs", "rows acknowledged", "lost", "runs that lost none", "age, s: median", "p99", "highest",
        "exposed, s: median", "p99", "highest",
    )  # fmt: skip
    names = {
        "steady": f"a row each {STEADY:g} s",
        "idle": f"a row each {IDLE:g} s, killed within {DANGER:g} s after one",
    }
    rows = [
        (
            f"{kind}, {names[writer]}",
            len(losses),
            f"{sum(loss.acknowledged for loss in losses):,}",
            sum(loss.lost for loss in losses),
            sum(loss.lost == 0 for loss in losses),
            *_spread([loss.age for loss in losses]),
            *_spread([loss.exposed for loss in losses]),
        )
        for writer, losses in found.items()
    ]
    table.show("Everything lost at once: newest restored against newest acknowledged row", header, rows)


def _spread(values: list[float]) -> tuple[str, str, str]:
    cuts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
    return f"{statistics.median(values):.2f}", f"{cuts[98]:.2f}", f"{max(values):.2f}"
