"""What incremental backups take, beside pgBackRest's: a full one, some after a little work, some after none; the restore of all.

One server of the newest PostgreSQL here, its files in the page cache, a directory as the store; two threads or processes each,
zstd 1. pgBackRest's are incremental by block, which is its own way and needs no summaries of WAL.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Final

from benchmarks import pgbackrest, table
from benchmarks.backup import PgBackRest, Run, Walkeeper, mib_of
from benchmarks.cost import Meter
from tests.parts.binaries import all_postgres, postgres_bin
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory
from walkeeper.core.incremental import OLDEST
from walkeeper.core.lsn import MIB

TRANSACTIONS: Final = 3000
"""pgbench's, before each incremental."""
CHANGED: Final = 3
"""Incrementals after these; then some after none."""
UNCHANGED: Final = 3


def run(rounds: int, scale: int) -> None:
    major = max(all_postgres())
    if major < OLDEST:
        print(f"chain: skipped, the newest PostgreSQL here is {major}", flush=True)
        return
    settings = {"max_wal_size": "8GB", "shared_buffers": "128MB", "summarize_wal": "on", "wal_keep_size": "4GB"}
    with Postgres(new_directory("b") / "pg", postgres_bin(major), segment_size_mb=16, settings=settings) as server:
        pgbench = [server.bin_dir / "pgbench", server.conninfo(socket=True)]
        server.host.run([*pgbench, "-q", "-i", "-s", scale], timeout=600)
        server.execute("VACUUM FREEZE")
        contenders: dict[str, Walkeeper | PgBackRest] = {"walkeeper": Walkeeper(server)}
        if pgbackrest.program():
            contenders[pgbackrest.version()] = PgBackRest(server)
        found: dict[str, dict[str, list[Run]]] = {name: defaultdict(list) for name in contenders}
        for _ in range(rounds):
            for name, contender in contenders.items():
                _chain(server, contender, found[name], [*map(str, pgbench)])
        for name, runs in found.items():
            rows = [
                [
                    what,
                    table.median_and_worst([one.wall for one in each]),
                    table.median_and_worst([one.cpu for one in each]),
                    table.median((one.stored / MIB for one in each), 2),
                ]
                for what, each in runs.items()
            ]
            table.show(
                f"{name}, PostgreSQL {major}, {mib_of(server):,.0f} MiB", ["", "wall, s", "CPU, s", "stored, MiB"], rows
            )


def _chain(
    server: Postgres, contender: Walkeeper | PgBackRest, found: dict[str, list[Run]], pgbench: list[str]
) -> None:
    contender.prepare()
    found["full"].append(_take(server, contender, incremental=False))
    for _ in range(CHANGED):
        server.host.run([*pgbench, "-n", "-t", TRANSACTIONS], timeout=120)
        found[f"incremental, {TRANSACTIONS:,} transactions"].append(_take(server, contender, incremental=True))
    for _ in range(UNCHANGED):
        found["incremental, nothing changed"].append(_take(server, contender, incremental=True))
    contender.make_restorable()
    into = new_directory("d") / "data"
    into.mkdir(mode=0o700)
    found[f"restore of the chain of {1 + CHANGED + UNCHANGED}"].append(_restore(contender, into))
    shutil.rmtree(into)
    contender.clear()


def _take(server: Postgres, contender: Walkeeper | PgBackRest, *, incremental: bool) -> Run:
    before = contender.stored() if incremental else 0
    server.checkpoint()
    os.sync()
    contender.make_restorable()  # an incremental builds on what is complete
    meter, begun = Meter([server.pid]), time.monotonic()
    memory = contender.take(incremental=incremental)
    assert not isinstance(contender, Walkeeper) or contender.kind() == ("incremental" if incremental else "full")
    return Run(time.monotonic() - begun, meter.read(), memory, contender.stored() - before)


def _restore(contender: Walkeeper | PgBackRest, into: Path) -> Run:
    os.sync()
    meter, begun = Meter(), time.monotonic()
    memory = contender.restore(into, delta=False)
    return Run(time.monotonic() - begun, meter.read(), memory, 0)
