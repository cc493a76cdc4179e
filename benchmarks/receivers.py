"""What it costs to receive in daily work: pg_receivewal, the agent's own receiver, and none at all, at steady rates of WAL.

One PostgreSQL with 16 MiB segments, a directory as the store, the tail each second where there is one; the ways take turns.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Final

from benchmarks import table
from benchmarks.agents import HOLD_SLOT, Agent
from benchmarks.memory import Memory, cpu_seconds
from benchmarks.places import DirectoryPlace
from tests.parts.etcd import Etcd
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until
from tests.parts.ways import Way
from walkeeper.core.lsn import MIB, Lsn

SEGMENT_MB: Final = 16
WATCHED: Final = 20.0
"""Seconds of load for each way."""
RATES: Final = (0.01, 0.25, 1.0, 3.0)
"""Segments a second."""
WAYS: Final[tuple[Way, ...]] = ("streaming", "builtin", "command")
_STEP: Final = 0.1
_WRITE: Final = """
SELECT pg_logical_emit_message(true, 'bench', (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, %s)))"""
_SENDER: Final = "SELECT pid FROM pg_stat_replication WHERE application_name = 'walkeeper'"
LONGEST: Final = 60.0


@dataclass(slots=True)
class Cost:
    """Milliseconds of CPU for each second of load, and MiB."""

    agent: list[float] = field(default_factory=list)
    sender: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def run(rounds: int) -> None:
    """Measure and print."""
    costs = {(rate, way): Cost() for rate in RATES for way in WAYS}
    with ExitStack() as stack:
        etcd = stack.enter_context(Etcd())
        settings = {"archive_mode": "on", "archive_command": "/bin/true", "max_wal_size": "2GB"}
        server = stack.enter_context(Postgres(new_directory("r") / "pg", segment_size_mb=SEGMENT_MB, settings=settings))
        server.replication_role()
        server.physical_slot(HOLD_SLOT)
        place = DirectoryPlace()
        for _ in range(rounds):
            for rate in RATES:
                for way in WAYS:
                    _measure(server, etcd, place, rate, way, costs[rate, way])
    _show(costs)


def _measure(server: Postgres, etcd: Etcd, place: DirectoryPlace, rate: float, way: Way, cost: Cost) -> None:
    agent = Agent(new_directory("k"), place.section(), etcd, server.data, server.port, way)
    agent.lead(server.bin_dir)
    with agent:
        agent.wait_owned()
        write_wal(server, rate, 3.0)
        wait_until(lambda: _stored(server), "the archiver to have caught up", LONGEST)
        (sender,) = [pid for (pid,) in server.execute(_SENDER)] or [None]
        before = cpu_seconds(agent.pid), 0.0 if sender is None else cpu_seconds(sender)
        memory, begun = Memory(agent.pid), time.monotonic()
        write_wal(server, rate, WATCHED, memory)
        took = time.monotonic() - begun
        cost.agent.append((cpu_seconds(agent.pid) - before[0]) * 1000 / took)
        with suppress(FileNotFoundError):  # it ended: the archive fell behind, and the rest came from pg_wal
            cost.sender.append(0.0 if sender is None else (cpu_seconds(sender) - before[1]) * 1000 / took)
        cost.memory.append(max(memory.rss))
    print(f"{rate} a second, {way}: {cost.agent[-1]:.0f} ms of CPU a second", flush=True)


def _stored(server: Postgres) -> bool:
    """But for the segment that is open, and the one below it, which the hold slot keeps."""
    slot = server.restart_lsn(HOLD_SLOT)
    return slot is not None and Lsn.parse(server.lsn()) - Lsn.parse(slot) < 2 * SEGMENT_MB * MIB


def write_wal(server: Postgres, rate: float, seconds: float, memory: Memory | None = None) -> None:
    """That many segments a second, in steps."""
    lines = int(rate * SEGMENT_MB * MIB * _STEP / 32)
    begun = due = time.monotonic()
    with server.connect() as connection:
        while due < begun + seconds:
            connection.execute(_WRITE, [lines])
            due += _STEP
            time.sleep(max(0.0, due - time.monotonic()))
            if memory is not None:
                memory.look()


def _show(costs: dict[tuple[float, Way], Cost]) -> None:
    rows = [
        (
            rate,
            way,
            table.median(cost.agent),
            table.median(cost.sender) if cost.sender else table.NONE,
            table.median(cost.memory),
        )
        for (rate, way), cost in costs.items()
    ]
    header = (
        "segments a second",
        "way",
        "agent and receiver, ms of CPU a second",
        "walsender",
        "RSS of the agent, MiB",
    )
    table.show(f"{SEGMENT_MB} MiB segments, directory, tail 1 s, {WATCHED:.0f} s each; medians", header, rows)
