"""What it takes to get a full base backup back: walkeeper's, pgBackRest's, and ``zstd -d | tar x``, side by side.

Each restores its own backup of one server from a directory into an empty one, with two threads or processes, and makes that
durable; then again by difference, over a directory in which some files were damaged. No server is started, and no WAL replayed.
What is stored is in the page cache.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import table
from benchmarks.backup import PgBackRest, Plain, Walkeeper, contenders_for, in_turns, mib_of, servers
from benchmarks.cost import Meter, adopt_orphans
from tests.parts.processes import new_directory

DAMAGED: Final = 5
"""Files of which a page is overwritten before a restore by difference: the largest ones."""
_PAGE: Final = 8192


class Run(NamedTuple):
    """``wall`` and ``cpu`` in seconds, ``memory`` of the largest process in MiB."""

    wall: float
    cpu: float
    memory: float


def run(rounds: int, scale: int) -> None:
    """The same data as ``backup``."""
    adopt_orphans()
    for name, server in servers(scale):
        contenders = contenders_for(server)
        for contender in contenders.values():
            contender.prepare()
            server.checkpoint()
            contender.take()
            contender.make_restorable()
        whole: dict[str, list[Run]] = {each: [] for each in contenders}
        by_difference: dict[str, list[Run]] = {each: [] for each in contenders if contenders[each].deltas}
        into = new_directory("d") / "data"
        for each in in_turns(list(contenders), rounds):
            into.mkdir(mode=0o700)
            whole[each].append(_one(contenders[each], into, delta=False))
            if each in by_difference:
                _damage(into)
                by_difference[each].append(_one(contenders[each], into, delta=True))
            shutil.rmtree(into)
        size = f"{name}: {mib_of(server):,.0f} MiB"
        _show(f"{size}; ratios to {list(whole)[-1]}", "restore", whole)
        _show(f"{size}, {DAMAGED} files damaged; ratios to {list(by_difference)[-1]}", "by difference", by_difference)


def _one(contender: Plain | Walkeeper | PgBackRest, into: Path, *, delta: bool) -> Run:
    os.sync()
    meter, begun = Meter(), time.monotonic()
    memory = contender.restore(into, delta=delta)
    wall = time.monotonic() - begun
    assert (into / "PG_VERSION").exists()
    return Run(wall, meter.read(), memory)


def _damage(directory: Path) -> None:
    files = [path for path in (directory / "base").rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: -path.stat().st_size)[:DAMAGED]:
        with path.open("r+b") as file:
            file.write(b"\xff" * _PAGE)


def _show(title: str, what: str, runs: dict[str, list[Run]]) -> None:
    last = list(runs)[-1]
    rows = []
    for each, found in runs.items():
        pairs = list(zip(found, runs[last], strict=True))
        ratios = [
            statistics.median(getattr(own, field) / getattr(other, field) for own, other in pairs)
            for field in ("cpu", "wall")
        ]
        walls, cpus, memory = zip(*found, strict=True)
        rows.append(
            [
                each,
                table.median_and_worst(walls),
                table.median_and_worst(cpus),
                table.median(memory),
                *(f"{ratio:.2f}" for ratio in ratios),
            ]
        )
    table.show(title, [what, "wall, s", "CPU, s", "peak, MiB", "CPU ratio", "wall ratio"], rows)
