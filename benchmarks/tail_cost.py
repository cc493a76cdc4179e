"""What the tail costs: requests and bytes, idle and busy, against archive_timeout; and commits a second under full load."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import table, wiring
from benchmarks.places import DirectoryPlace, Kind, Places
from tests.fixtures.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from tests.parts.cluster import Node
from tests.parts.postgres import Postgres
from tests.parts.processes import Process, new_directory, wait_until
from tests.twins.memory_record import MemoryDcs
from walkeeper.store.base import MAX_OBJECT, Body, ObjectInfo, Store

SEGMENT_MB: Final = 16
WATCHED: Final = 180.0
"""Seconds, told as an hour's."""
FULL: Final = 20
"""Seconds of full load with the tail on, and as many with it off."""
SCALE: Final = 20
LONGEST: Final = 300.0


class Counted:
    """A store that counts requests, and the bytes that it is given."""

    def __init__(self, store: Store) -> None:
        self.requests: Counter[str] = Counter()
        self.bytes = 0
        self._store = store
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self._store.url

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        self._count("PUT", len(body))
        self._store.create(key, body, metadata)

    def head(self, key: str) -> ObjectInfo | None:
        self._count("HEAD")
        return self._store.head(key)

    def get(self, key: str, limit: int = MAX_OBJECT) -> Body | None:
        self._count("GET")
        return self._store.get(key, limit)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._count("LIST")
        return self._store.list(prefix)

    def folders(self, prefix: str) -> Iterator[str]:
        self._count("LIST")
        return self._store.folders(prefix)

    def delete(self, key: str) -> None:
        self._count("DELETE")
        self._store.delete(key)

    def probe(self) -> None:
        self._store.probe()

    def _count(self, what: str, size: int = 0) -> None:
        with self._lock:
            self.requests[what] += 1
            self.bytes += size


@dataclass(frozen=True, slots=True)
class Cost:
    """Told for an hour."""

    puts: float
    deletes: float
    others: float
    mib: float


SETTINGS: Final = ("tail.interval 1s", "archive_timeout 60", "neither")
LOADS: Final[dict[str, float | None]] = {"nothing written": None, "a row a minute": 60.0, "a row each 0.1 s": 0.1}


def run(kind: Kind, rounds: int) -> None:
    """Measure and print: the counts all at once (these servers do next to nothing), the rates one after the other."""
    with Places(kind) as places, ThreadPoolExecutor(len(LOADS) * len(SETTINGS)) as pool:
        watched = {
            (load, setting): pool.submit(_watched, Counted(places.new().store()), pause, setting)
            for load, pause in LOADS.items()
            for setting in SETTINGS
        }
    costs = {what: future.result() for what, future in watched.items()}
    rows = [
        (*what, f"{cost.puts:,.0f}", f"{cost.deletes:,.0f}", f"{cost.others:,.0f}", f"{cost.mib:,.1f}")
        for what, cost in costs.items()
    ]
    header = (f"{kind}, {SEGMENT_MB} MiB segments", "with", "PUT an hour", "DELETE", "others", "MiB stored an hour")
    table.show(f"Requests and bytes, from {WATCHED:.0f} s", header, rows)
    _full_load(rounds)


def _watched(store: Counted, pause: float | None, setting: str) -> Cost:
    with ExitStack() as stack:
        directory = new_directory("t")
        settings = {"archive_timeout": "60"}
        server = stack.enter_context(
            Postgres(directory / "pg", segment_size_mb=SEGMENT_MB, settings=settings if "archive" in setting else None)
        )
        prepare(server)
        server.execute("CREATE TABLE t (n int)")
        dcs = MemoryDcs(slots=(HOLD_SLOT,))
        dcs.set_leader("a")
        interval = 1.0 if "tail" in setting else None
        config = config_of(server, "a", directory, tail_interval=interval, spool_limit=1 << 30)
        with RunningAgent(config, store, dcs) as agent:
            wait_for(lambda: agent.archiving)
            server.execute("INSERT INTO t VALUES (0)")
            server.switch_wal()
            server.execute("CHECKPOINT")  # PostgreSQL's checkpointer heeds archive_timeout only after it was woken once
            time.sleep(5)
            store.requests.clear()
            store.bytes = 0
            _write(server, pause)
            hour = 3600 / WATCHED
            told = store.requests
            return Cost(
                told["PUT"] * hour,
                told["DELETE"] * hour,
                (told.total() - told["PUT"] - told["DELETE"]) * hour,
                store.bytes / 2**20 * hour,
            )


def _write(server: Postgres, pause: float | None) -> None:
    until = time.monotonic() + WATCHED
    if pause is None:
        time.sleep(WATCHED)
        return
    with server.connect() as connection:
        due = time.monotonic()
        while due < until:
            connection.execute("INSERT INTO t VALUES (0)")
            due += pause
            time.sleep(max(0.0, min(due, until) - time.monotonic()))


# ------------------------------------------------------------------------------------------------------------- full load


def _full_load(rounds: int) -> None:
    """One node, pgbench with eight clients; the agent with and without the tail, in turn."""
    pgbench = shutil.which("pgbench")
    rates: dict[str, list[float]] = {"on": [], "off": []}
    with ExitStack() as stack:
        place = DirectoryPlace()
        settings = {"max_wal_size": "2GB", "shared_buffers": "128MB", "wal_keep_size": "512MB"}
        more = {"agent": {"listen": "off", "log_file": "{directory}/agent.log", "start_from_callback": False}}
        cluster = wiring.make_cluster(place, nodes=1, segment_size_mb=SEGMENT_MB, settings=settings, walkeeper=more)
        stack.callback(cluster.stop)
        cluster.start()
        node = cluster.wait_leader()
        program = cluster.bin_dir / "pgbench"
        if not program.exists() and pgbench is None:
            print("tail, full load: skipped, there is no pgbench here", flush=True)
            return
        bench = program if program.exists() else Path(str(pgbench))
        node.host.run([bench, "-i", "-q", "-s", str(SCALE), node.conninfo()], timeout=LONGEST)
        for number in range(rounds):
            for tail in ("on", "off") if number % 2 else ("off", "on"):
                with _agent(node, tail):
                    wait_until(lambda: wiring.record_of(cluster), "the record", LONGEST)
                    wiring.wait_archived(cluster, node, LONGEST)
                    rates[tail].append(_pgbench(node, bench))
                    wiring.wait_archived(cluster, node, LONGEST)
                print(f"tail {tail}, {number + 1}/{rounds}: {rates[tail][-1]:.0f} commits/s", flush=True)
    ratios = [on / off for on, off in zip(rates["on"], rates["off"], strict=True)]
    row = (rounds, table.median(rates["on"]), table.median(rates["off"]), table.median(ratios, 3))
    table.show(
        f"pgbench, eight clients, {FULL} s each, directory; medians",
        ("rounds", "commits/s with the tail", "without", "ratio of each pair"),
        [row],
    )


@contextmanager
def _agent(node: Node, tail: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "walkeeper", "agent", "--config", node.config]
    interval = "1s" if tail == "on" else "off"
    agent = node.host.start(
        command, log=node.directory / "start.log", env={**node.env, "WALKEEPER_TAIL_INTERVAL": interval}
    )
    yield agent
    agent.stop()


def _pgbench(node: Node, pgbench: Path) -> float:
    """Commits a second."""
    command = [pgbench, "-n", "-c", "8", "-j", "2", "-M", "prepared", "-T", str(FULL), node.conninfo()]
    said = node.host.run(command, timeout=FULL + LONGEST)
    line = next(line for line in said.splitlines() if line.startswith("tps = "))
    return float(line.split()[2])
