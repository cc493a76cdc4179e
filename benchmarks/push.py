"""What archive_command costs: a call for what is archived already, and a backlog that is called for one by one.

A real server whose segments wait with their ``.ready`` files, of which pgBackRest's look-ahead lives; the commands are
called as PostgreSQL's archiver does. Each round writes new WAL, while all agents are stopped, and has every contender archive
it. CPU is that of all that came of it: commands, what they leave in the background, the agent with pg_receivewal, and
the server's own, which is idle otherwise. Not the S3 server's.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

from benchmarks import cost, pgbackrest, table
from benchmarks.agents import Agent
from benchmarks.material import (
    LEVEL,
    SEGMENT_MB,
    SIZE,
    StorePlace,
    as_installed,
    conditions,
    pgbench_of,
    shell,
    system_identifier,
    write_config,
    write_wal,
)
from benchmarks.pgbackrest import PgBackRest
from benchmarks.places import Kind
from tests.parts.etcd import Etcd
from tests.parts.postgres import Postgres
from tests.parts.processes import Host, new_directory
from tests.parts.ways import Way
from walkeeper.core.lsn import MIB
from walkeeper.core.names import Segment

PLAIN: Final = f"{sys.executable} -m walkeeper archive-push -c {{config}} %p"
SHELL: Final = "{shell}/walkeeper-archive-push -c {config} %p"
PEER: Final = "pgBackRest"
LONGEST: Final = 600.0
AGAIN: Final = 1.0
"""Seconds after which PostgreSQL's archiver tries again."""
SETTLED: Final = 5.0
"""Seconds for who looks ahead to look, before the calls for what is archived already."""
LOOK: Final = 0.01
"""Seconds until the next look at who archives a backlog by itself, for each segment that is left of it."""
TRIES: Final = 5
"""After so many failures in a row something is wrong with it, which is not a measurement."""

_serial = count(1)


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """``begin`` is called before each backlog and gives the archive_command; ``beside`` runs the agent, if there is one, and says
    the pids whose CPU counts too. ``lacks`` says which of the segments are not in the archive. ``position`` is of one that needs
    no command: up to where it has archived.
    """

    name: str
    store: str
    begin: Callable[[], str]
    environment: dict[str, str] = field(default_factory=dict)
    beside: Callable[[], AbstractContextManager[list[int]]] = lambda: nullcontext([])
    lacks: Callable[[Sequence[Segment]], list[str]] = lambda _: []
    position: Callable[[], int] | None = None


@dataclass(slots=True)
class Found:
    """By round; ``rates`` in MB/s, the rest in seconds. ``calls``: wall time of each call for what is archived already."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    call_cpu: list[float] = field(default_factory=list)


def run(kinds: Sequence[Kind], rounds: int, segments: int, scale: int, only: str = "", round_trip: float = 0.0) -> None:
    """Measure and print. ``only``: pgBackRest, and those whose name has that pattern in it. ``round_trip``: seconds to
    the S3 server and back.
    """
    cost.adopt_orphans()
    under = conditions()
    settings = {
        # Nothing is archived by the server itself, and what waits for it is kept.
        "archive_mode": "on", "archive_command": "", "max_wal_size": "1GB", "checkpoint_timeout": "30s",
        "shared_buffers": "128MB", "synchronous_commit": "off", "wal_keep_size": f"{(segments + 16) * SEGMENT_MB}MB",
    }  # fmt: skip
    with ExitStack() as stack:
        server = Postgres(new_directory("q"), segment_size_mb=SEGMENT_MB, settings=settings)
        stack.enter_context(server)
        pgbench = pgbench_of(server)
        if pgbench is None:
            print("push: skipped, there is no pgbench here", flush=True)
            return
        server.host.run([pgbench, "-i", "-q", "-s", str(scale), server.conninfo()], timeout=LONGEST)
        server.replication_role()
        begin = _current(server)  # where the agents' archives begin
        found = {
            one: Found()
            for kind in kinds
            for one in _contenders(StorePlace(kind, stack, round_trip), server, stack)
            if one.name.startswith(PEER) or re.search(only, one.name)
        }
        for number in range(1, rounds + 1):
            print(f"push {number}/{rounds}", flush=True)
            chain = _new_wal(server, pgbench, begin, segments)
            begin = chain[-1].number + 1
            # There and back: nobody always comes after the same one, nor (see _measure) pays for what that left to be written.
            for contender in found if number % 2 else reversed(found):
                _measure(contender, server, chain, found[contender])
    _show(found, segments, under)


def _new_wal(server: Postgres, pgbench: Path, begin: int, segments: int) -> list[Segment]:
    """At least so many segments, all of which wait to be archived: whatever is complete from that number on."""
    write_wal(server, pgbench, begin + segments)
    server.checkpoint()
    _mark(server, ".ready", ".done", lambda _: True)
    return [Segment(1, number, SIZE) for number in range(begin, _current(server))]


def _current(server: Postgres) -> int:
    """The number of the segment that is being written."""
    return Segment.parse(str(server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")), SIZE).number


def _mark(server: Postgres, old: str, new: str, wanted: Callable[[str], bool]) -> None:
    """Rename what PostgreSQL noted about segments."""
    for path in sorted((server.pg_wal / "archive_status").glob(f"*{old}")):
        if wanted(path.stem):
            path.rename(path.with_suffix(new))


# ------------------------------------------------------------------------------------------------------------ contenders


def _contenders(place: StorePlace, server: Postgres, stack: ExitStack) -> Iterator[Contender]:
    if pgbackrest.program():
        yield _pgbackrest(place, server)
    else:
        print("push: without pgBackRest, which is not installed here", flush=True)
    yield _with_agent("walkeeper-archive-push (shell), archiver: command", place, SHELL, "command", server, stack)
    yield _with_agent("walkeeper streaming, no archive_command", place, "", "streaming", server, stack)
    yield _with_agent("walkeeper-archive-push (shell), beside streaming", place, SHELL, "streaming", server, stack)
    yield _with_agent("walkeeper archive-push, archiver: command", place, PLAIN, "command", server, stack)
    yield _bare("walkeeper-archive-push (shell), no agent", place, SHELL, server)
    yield _bare("walkeeper archive-push, no agent", place, PLAIN, server)


def _pgbackrest(place: StorePlace, server: Postgres) -> Contender:
    def begin() -> str:
        """A new repository for each backlog."""
        peer = PgBackRest(new_directory("b"), place, f"pgbackrest{next(_serial)}", server.data)
        return peer.command("archive-push", '"%p"', server.data)

    return Contender(f"{PEER} {pgbackrest.version().split()[-1]}, async {pgbackrest.PROCESSES}", place.name, begin)


def _bare(name: str, place: StorePlace, command: str, server: Postgres) -> Contender:
    prefix = f"walkeeper{next(_serial)}"
    directory = new_directory("k")
    config = write_config(directory / "patroni.yml", {"store": place.section(prefix)}, {})
    whole = command.format(config=config, shell=shell())
    lacks = partial(_lacks, place, prefix, server)
    return Contender(name, place.name, lambda: whole, as_installed(directory), lacks=lacks)


def _with_agent(
    name: str, place: StorePlace, command: str, archiver: Way, server: Postgres, stack: ExitStack
) -> Contender:
    """It owns the record before there is any of the WAL, and is stopped while that is written.

    Beside streaming all WAL is read twice, and what pg_receivewal and its walsender take is counted too.
    """
    prefix = f"walkeeper{next(_serial)}"
    etcd = stack.enter_context(Etcd())
    server.physical_slot(prefix)
    agent = Agent(new_directory("k"), place.section(prefix), etcd, server.data, server.port, archiver, prefix)
    agent.lead(server.bin_dir)
    with agent:
        agent.wait_owned()

    @contextmanager
    def beside() -> Iterator[list[int]]:
        with agent:
            agent.wait_owned()
            yield [agent.pid]

    whole = command.format(config=agent.config, shell=shell())
    lacks = partial(_lacks, place, prefix, server)
    position = None if command else agent.position
    return Contender(name, place.name, lambda: whole, agent.environment, beside, lacks, position)


def _lacks(place: StorePlace, prefix: str, server: Postgres, chain: Sequence[Segment]) -> list[str]:
    archive = place.archive(prefix, system_identifier(server.data))
    return [segment.name for segment in chain if archive.find(segment) is None]


# ------------------------------------------------------------------------------------------------------------- measuring


def _measure(contender: Contender, server: Postgres, chain: Sequence[Segment], found: Found) -> None:
    names = {segment.name for segment in chain}
    command = contender.begin()
    environment = Host("calls", server.directory).environment(contender.environment)
    os.sync()
    with contender.beside() as agents:
        living = [server.pid, *agents]
        called = contender.position is None  # by nobody: then no server would have noted what waits for that
        _mark(server, *((".done", ".ready") if called else (".ready", ".done")), names.__contains__)
        meter, begun = cost.Meter(living), time.monotonic()
        archived = (
            _by_itself(contender.position, chain)
            if contender.position
            else _called(command, server, environment, chain)
        )
        seconds = time.monotonic() - begun
        found.cpu.append(meter.read() / archived)
        found.rates.append(archived * SIZE / 1e6 / seconds)
        if command:
            meter = cost.Meter(living)
            _mark(server, ".done", ".ready", names.__contains__)
            time.sleep(SETTLED)
            found.calls += [_push(command, server, environment, segment) for segment in chain]
            found.call_cpu.append(meter.read() / len(chain))
    if lacks := contender.lacks(chain):
        raise RuntimeError(f"{contender.name}: said to be archived, and not there: {lacks}")
    print(
        f"  {contender.name} {contender.store}: {found.rates[-1]:.0f} MB/s, {found.cpu[-1] * 1000:.0f} ms of CPU a segment; "
        f"once archived {statistics.median(found.calls or [0]) * 1000:.0f} ms a call",
        flush=True,
    )


def _called(command: str, server: Postgres, environment: dict[str, str], chain: Sequence[Segment]) -> float:
    """How many segments were archived."""
    for segment in chain:
        _push(command, server, environment, segment)
    return len(chain)


def _by_itself(position: Callable[[], int], chain: Sequence[Segment]) -> float:
    """How many segments were archived, from where its record stands now."""
    begin, until = position(), time.monotonic() + LONGEST
    while (left := (chain[-1].end - position()) / SIZE) > 0:
        if time.monotonic() > until:
            raise TimeoutError(f"the end of the backlog: {left:.0f} segments are left")
        time.sleep(min(0.5, left * LOOK))  # seldom at first: each look takes a part of the same cores, etcd's and ours
    return (chain[-1].end - begin) / SIZE


def _push(command: str, server: Postgres, environment: dict[str, str], segment: Segment) -> float:
    """Until it succeeds, as PostgreSQL does; seconds of the last call."""
    log = server.directory / "calls.log"
    whole = command.replace("%p", f"pg_wal/{segment.name}")
    for _ in range(TRIES):
        one = cost.call(whole, server.data, environment, log)
        if one.code == 0:
            ready = server.pg_wal / "archive_status" / f"{segment.name}.ready"
            ready.rename(ready.with_suffix(".done"))
            return one.wall
        time.sleep(AGAIN)
    raise RuntimeError(f"{whole}: exit {one.code}\n{log.read_text(errors='replace')[-2000:]}")


# ----------------------------------------------------------------------------------------------------------------- table


def _show(found: dict[Contender, Found], segments: int, under: str) -> None:
    peers = {contender.store: one for contender, one in found.items() if contender.name.startswith(PEER)}
    header = (
        "", "store", "backlog, MB/s: median", "best", f"times {PEER}'s", "CPU, ms a segment", f"times {PEER}'s",
        "a call once archived, ms", "CPU, ms",
    )  # fmt: skip
    rows = [
        (
            contender.name,
            contender.store,
            table.median(one.rates),
            f"{max(one.rates):.0f}",
            _times(one.rates, peers.get(contender.store, Found()).rates),
            table.median([cpu * 1000 for cpu in one.cpu], 1),
            _times(one.cpu, peers.get(contender.store, Found()).cpu),
            table.median([call * 1000 for call in one.calls], 1) if one.calls else table.NONE,
            table.median([cpu * 1000 for cpu in one.call_cpu], 1) if one.calls else table.NONE,
        )
        for contender, one in found.items()
    ]
    rounds = max((len(one.rates) for one in found.values()), default=0)
    size = segments * SIZE // MIB
    table.show(
        f"A backlog of at least {segments} segments ({size} MiB), zstd-{LEVEL}, rounds: {rounds}; {under}", header, rows
    )


def _times(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The median of the ratios round by round: what else the machine did in a round, it did to both."""
    return table.median([one / other for one, other in zip(ours, theirs, strict=True)], 2) if theirs else table.NONE
