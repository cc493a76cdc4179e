"""How long a recovery takes with walkeeper, with pgBackRest, with ``cp``, and with all WAL in pg_wal already, the limit.

One base backup and the same WAL for all, in one run, by turns. Measured from the start of redo to its end, which is
when the archive has said that nothing follows; then single calls by hand, as PostgreSQL makes them. CPU is that of
everything that came of it: PostgreSQL, commands, what they leave in the background, the agent. Not the S3 server's.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import cost, pgbackrest, table
from benchmarks.agents import Agent
from benchmarks.material import (
    LEVEL,
    SEGMENT_MB,
    SIZE,
    Material,
    StorePlace,
    as_installed,
    conditions,
    fill,
    make,
    shell,
    write_config,
)
from benchmarks.pgbackrest import PgBackRest
from benchmarks.places import Kind
from tests.parts.etcd import Etcd
from tests.parts.postgres import restore_server
from tests.parts.processes import new_directory, tail, wait_until

COMMANDS: Final = {
    "walkeeper restore-wal": f"{sys.executable} -m walkeeper restore-wal -c {{config}} %f %p",
    "walkeeper-restore-wal (shell)": "{shell}/walkeeper-restore-wal -c {config} %f %p",
}
"""What is measured of walkeeper: each with an agent and without."""
MISSES: Final = 10
"""Of the next segment, and as many of the next history."""
LONGEST: Final = 900.0
LIMIT: Final = "all WAL in pg_wal"

_REDO: Final = re.compile(r"^(\S+ \S+) \S+ \[\d+\] LOG:  redo (starts|done) at (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """``command`` makes the restore_command for a data directory; None: it needs none, all WAL lies in pg_wal.

    ``beside`` runs what has to run on that host meanwhile, and says the pids whose CPU counts too. ``clean`` comes before
    each use.
    """

    name: str
    store: str
    command: Callable[[Path], str] | None
    environment: dict[str, str] = field(default_factory=dict)
    beside: Callable[[Path, int], AbstractContextManager[list[int]]] = lambda _data, _port: nullcontext([])
    clean: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Found:
    """By round; times in seconds. ``hits`` and ``misses`` are wall times of calls, the others CPU seconds a call."""

    replay: list[float] = field(default_factory=list)
    replay_cpu: list[float] = field(default_factory=list)
    hits: list[float] = field(default_factory=list)
    hit_cpu: list[float] = field(default_factory=list)
    misses: list[float] = field(default_factory=list)
    miss_cpu: list[float] = field(default_factory=list)


def run(kinds: Sequence[Kind], rounds: int, segments: int, scale: int) -> None:
    """Measure and print."""
    cost.adopt_orphans()
    under = conditions()
    material = make(segments, scale)
    if material is None:
        print("replay: skipped, there is no pgbench here", flush=True)
        return
    with ExitStack() as stack:
        contenders = list(_contenders(kinds, material, stack))
        found = {contender: Found() for contender in contenders}
        for number in range(1, rounds + 1):
            print(f"replay {number}/{rounds}", flush=True)
            ends = {_replay(contender, material, found[contender]) for contender in contenders}
            if len(ends) != 1:
                raise RuntimeError(f"not all of them replayed as much: {sorted(ends)}")
            for contender in contenders:
                _calls(contender, material, found[contender])
    _show(found, len(material.names), under)


# ------------------------------------------------------------------------------------------------------------ contenders


def _contenders(kinds: Sequence[Kind], material: Material, stack: ExitStack) -> Iterator[Contender]:
    yield Contender(LIMIT, "", None)
    yield Contender("cp", "directory, plain", lambda _: f"cp {material.wal}/%f %p")
    for kind in kinds:
        place = StorePlace(kind, stack)
        if pgbackrest.program():
            yield _pgbackrest(place, material)
        else:
            print("replay: without pgBackRest, which is not installed here", flush=True)
        fill(place.archive("walkeeper", material.system_identifier), material)
        etcd = stack.enter_context(Etcd())
        for name, command in COMMANDS.items():
            yield _walkeeper(f"{name}, bare host", place, command, None)
            yield _walkeeper(f"{name}, with an agent", place, command, etcd)


def _pgbackrest(place: StorePlace, material: Material) -> Contender:
    peer = PgBackRest(new_directory("b"), place, "pgbackrest", material.backup)
    peer.push(material.wal / name for name in material.names)

    def command(data: Path) -> str:
        return peer.command("archive-get", '%f "%p"', data)

    name = f"pgBackRest {pgbackrest.version().split()[-1]}, async {pgbackrest.PROCESSES}"
    return Contender(name, place.name, command, clean=peer.clear_spool)


def _walkeeper(name: str, place: StorePlace, command: str, etcd: Etcd | None) -> Contender:
    directory = new_directory("k")
    config = directory / "patroni.yml"
    store = place.section("walkeeper")
    write_config(config, {"store": store}, {})
    whole = command.format(config=config, shell=shell())
    bare = Contender(name, place.name, lambda _: whole, as_installed(directory))
    return bare if etcd is None else replace(bare, beside=partial(_agent, directory, store, etcd))


@contextmanager
def _agent(directory: Path, store: dict[str, Any], etcd: Etcd, data: Path, port: int) -> Iterator[list[int]]:
    """That of a member that does not lead."""
    with Agent(directory, store, etcd, data, port) as agent:
        yield [agent.pid]


# ------------------------------------------------------------------------------------------------------------- measuring


def _replay(contender: Contender, material: Material, found: Found) -> str:
    """Where it ended."""
    directory = new_directory("p")
    contender.clean()
    server = restore_server(
        material.backup,
        directory,
        contender.command(directory / "data") if contender.command else "",
        settings={"shared_buffers": "256MB", "max_wal_size": "8GB", "checkpoint_timeout": "1h"},
        env=contender.environment,
    )
    if contender.command is None:
        (server.data / "recovery.signal").unlink()
        for name in material.names:
            shutil.copy(material.wal / name, server.data / "pg_wal")
    os.sync()  # what was copied is not for the replay to write back
    try:
        with contender.beside(server.data, server.port) as living:
            meter = cost.Meter(living)
            server.start(wait=False)
            wait_until(
                lambda: _redo(server.log) or not server.running,
                "the end of redo",
                LONGEST,
                interval=0.02,
                logs=[server.log],
            )
            server.close()
            found.replay_cpu.append(meter.read())
    finally:
        server.close()
    moments = _redo(server.log)
    if moments is None:
        raise RuntimeError(f"{contender.name} {contender.store}: no end of redo\n{tail(server.log)}")
    shutil.rmtree(directory)
    seconds, end = moments
    found.replay.append(seconds)
    print(f"  {contender.name} {contender.store}: {seconds:.2f} s, {found.replay_cpu[-1]:.2f} s of CPU", flush=True)
    return end


def _redo(log: Path) -> tuple[float, str] | None:
    """Seconds from the start of redo to its end, by the server's own log, and where it ended; None before that."""
    moments = {
        match[2]: (datetime.fromisoformat(match[1]), match[3])
        for match in _REDO.finditer(log.read_text("utf-8", "replace"))
    }
    if "done" not in moments:
        return None
    return (moments["done"][0] - moments["starts"][0]).total_seconds(), moments["done"][1]


def _calls(contender: Contender, material: Material, found: Found) -> None:
    """Each segment once, in order; then what there is not: the next segment and the next history.

    For a server that is in recovery and does nothing: its own restore_command takes its time.
    """
    if contender.command is None:
        return
    directory = new_directory("d")
    contender.clean()
    server = restore_server(material.backup, directory, "sleep 3600", env=contender.environment)
    environment = server.host.environment(contender.environment)
    ask_for = partial(_ask_for, contender.command(server.data), server.data, environment)
    try:
        server.start(wait=False)
        wait_until((server.data / "postmaster.pid").exists, "the server", LONGEST, logs=[server.log])
        with contender.beside(server.data, server.port) as living:
            meter = cost.Meter(living)
            found.hits += [ask_for(name, there=True) for name in material.names]
            found.hit_cpu.append(meter.read() / len(material.names))
            absent = [material.after, "00000002.history"] * MISSES
            meter = cost.Meter(living)
            found.misses += [ask_for(name, there=False) for name in absent]
            found.miss_cpu.append(meter.read() / len(absent))
    finally:
        server.close()
    shutil.rmtree(directory)
    print(
        f"  {contender.name} {contender.store}: a hit {statistics.median(found.hits) * 1000:.0f} ms, "
        f"a miss {statistics.median(found.misses) * 1000:.0f} ms",
        flush=True,
    )


def _ask_for(command: str, data: Path, environment: dict[str, str], name: str, *, there: bool) -> float:
    """Seconds of one call. What it delivers must be a whole segment."""
    destination, log = data / "pg_wal" / "RECOVERYXLOG", data.parent / "calls.log"
    one = cost.call(command.replace("%f", name).replace("%p", "pg_wal/RECOVERYXLOG"), data, environment, log)
    if (one.code == 0) != there or one.code > 1:
        raise RuntimeError(f"{command}: {name}: exit {one.code}\n{log.read_text(errors='replace')[-2000:]}")
    if there:
        if destination.stat().st_size != SIZE:
            raise RuntimeError(f"{command}: {name}: {destination.stat().st_size} bytes")
        destination.unlink()
    return one.wall


# ----------------------------------------------------------------------------------------------------------------- table


def _show(found: dict[Contender, Found], segments: int, under: str) -> None:
    limit = next(one for contender, one in found.items() if contender.name == LIMIT)
    header = (
        "", "store", "replay, s: median (worst)", "ratio to the limit", "CPU, s", "CPU beyond the limit, ms a segment",
        "a hit, ms", "CPU", "a miss, ms", "CPU",
    )  # fmt: skip
    rows = []
    for contender, one in found.items():
        ratios = [mine / best for mine, best in zip(one.replay, limit.replay, strict=True)]
        beyond = [(mine - best) / segments for mine, best in zip(one.replay_cpu, limit.replay_cpu, strict=True)]
        rows.append(
            (
                contender.name,
                contender.store,
                table.median_and_worst(one.replay),
                table.median(ratios, 2),
                table.median(one.replay_cpu, 1),
                _milliseconds(beyond),
                *map(_milliseconds, (one.hits, one.hit_cpu, one.misses, one.miss_cpu)),
            )
        )
    megabytes = segments * SEGMENT_MB
    table.show(
        f"{segments} segments ({megabytes} MiB) of pgbench's WAL, zstd-{LEVEL}, rounds: {len(limit.replay)}; {under}",
        header,
        rows,
    )


def _milliseconds(values: Sequence[float]) -> str:
    return table.median([value * 1000 for value in values], 1) if values else table.NONE
