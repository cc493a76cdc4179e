"""Whether the agent's memory stays what it is: an hour of WAL in bursts, by slices of ten minutes.

One PostgreSQL with 16 MiB segments; each minute ten seconds at a segment a second, and the rest of it next to nothing.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Final

from benchmarks import table
from benchmarks.agents import HOLD_SLOT, Agent
from benchmarks.memory import Memory
from benchmarks.places import Kind, Places
from benchmarks.receivers import SEGMENT_MB, write_wal
from tests.parts.etcd import Etcd
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory
from walkeeper.core.lsn import MIB

BURST: Final = (1.0, 10.0)
"""Segments a second, seconds."""
QUIET: Final = (0.02, 50.0)
SLICE: Final = 600.0


def run(kind: Kind, minutes: int) -> None:
    """Measure and print."""
    slices: list[tuple[Memory, int]] = []
    with ExitStack() as stack:
        etcd = stack.enter_context(Etcd())
        server = stack.enter_context(
            Postgres(new_directory("r") / "pg", segment_size_mb=SEGMENT_MB, settings={"max_wal_size": "1GB"})
        )
        server.replication_role()
        server.physical_slot(HOLD_SLOT)
        place = stack.enter_context(Places(kind)).new()
        agent = Agent(new_directory("k"), place.section(), etcd, server.data, server.port)
        agent.lead(server.bin_dir)
        stack.enter_context(agent)
        agent.wait_owned()
        begun, until = time.monotonic(), time.monotonic() + minutes * 60
        before = agent.position()
        while time.monotonic() < until:
            if (time.monotonic() - begun) // SLICE >= len(slices):
                slices.append((Memory(agent.pid), agent.position()))
            memory = slices[-1][0]
            write_wal(server, *BURST, memory)
            write_wal(server, *QUIET, memory)
        ends = [position for _, position in slices[1:]] + [agent.position()]
        archived = [(end - begin) // (SEGMENT_MB * MIB) for (_, begin), end in zip(slices, ends, strict=True)]
    assert ends[-1] > before
    rows = [
        (
            f"{number * SLICE / 60:.0f} to {min(minutes, (number + 1) * SLICE / 60):.0f}",
            segments,
            table.median(memory.rss),
            f"{max(memory.rss):.0f}",
            table.median(memory.pss),
            f"{max(memory.pss):.0f}",
        )
        for number, ((memory, _), segments) in enumerate(zip(slices, archived, strict=True))
    ]
    header = ("minutes", "segments", "RSS, median", "RSS, highest", "PSS, median", "PSS, highest")
    table.show(f"Memory of an agent over {minutes} minutes, MiB; store: {kind}", header, rows)
