"""How fast the archiver is against pg_receivewal alone and against ``zstd -1`` alone, over the same segments, in one run.

One PostgreSQL with 16 MiB segments of pgbench's WAL, a directory as the store, two uploads at a time. The real agent is
stopped while the WAL is written, and then has to catch up with all of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import table, wiring
from benchmarks.memory import Memory, cpu_seconds
from benchmarks.places import DirectoryPlace
from tests.parts.cluster import Cluster, Node
from tests.parts.postgres import REPLICATOR
from tests.parts.processes import Process, new_directory, wait_until
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import PARTIAL, Segment
from walkeeper.postgres.wal_file import read_segment

SEGMENT_MB: Final = 16
WORKERS: Final = 2
SCALE: Final = 20
IDLE: Final = 10.0
"""Seconds for which an idle agent is looked at."""
LONGEST: Final = 300.0


@dataclass(frozen=True, slots=True)
class Speed:
    """``cpu`` in seconds, user and system."""

    segments: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """MB/s of plain WAL."""
        return self.segments * SEGMENT_MB * MIB / 1e6 / self.seconds

    @property
    def cpu_each(self) -> float:
        """Milliseconds of CPU a segment."""
        return self.cpu * 1000 / self.segments


@dataclass(slots=True)
class Found:
    """Everything measured, by what was measured."""

    speeds: dict[str, list[Speed]] = field(default_factory=dict)
    idle: list[Memory] = field(default_factory=list)
    busy: list[Memory] = field(default_factory=list)

    def add(self, what: str, speed: Speed) -> None:
        self.speeds.setdefault(what, []).append(speed)
        print(f"  {what}: {speed.rate:.0f} MB/s, {speed.cpu_each:.0f} ms of CPU a segment", flush=True)


def run(rounds: int, segments: int) -> None:
    """Measure and print."""
    found = Found()
    with ExitStack() as stack:
        place = DirectoryPlace()
        # fmt: off
        settings = {
            "wal_keep_size": f"{(segments + 8) * SEGMENT_MB}MB", "max_wal_size": "1GB", "checkpoint_timeout": "30s",
            "shared_buffers": "128MB",
        }
        # fmt: on
        more = {"agent": {"listen": "off", "log_file": "{directory}/agent.log", "start_from_callback": False}}
        cluster = wiring.make_cluster(place, nodes=1, segment_size_mb=SEGMENT_MB, settings=settings, walkeeper=more)
        stack.callback(cluster.stop)
        cluster.start()
        node = cluster.wait_leader()
        pgbench = _pgbench(cluster)
        if pgbench is None:
            print("throughput: skipped, there is no pgbench here", flush=True)
            return
        node.host.run([pgbench, "-i", "-q", "-s", str(SCALE), node.conninfo()], timeout=LONGEST)
        agent = _start_agent(node)
        _wait_up_to_date(cluster, node)
        found.idle.append(_watch(agent, IDLE))
        agent.stop()
        for number in range(1, rounds + 1):
            print(f"throughput {number}/{rounds}", flush=True)
            _round(cluster, node, place, pgbench, segments, found)
    _show(found)


def _round(cluster: Cluster, node: Node, place: DirectoryPlace, pgbench: Path, segments: int, found: Found) -> None:
    first = _write_wal(node, pgbench, segments)
    chain = [Segment(first.timeline, first.number + number, first.size) for number in range(segments)]
    _agent_alone(cluster, node, chain, found)
    received = _pg_receivewal(cluster, node, chain, found)
    with scratch() as target:
        found.add("zstd -1, two at a time", _zstd(received, target, chain, synced=False))
    with scratch() as target:
        found.add("zstd -1, two at a time, each synced", _zstd(received, target, chain, synced=True))
    with scratch() as target:
        found.add("archive_segment, two threads, no receiver", _archive(received, target, chain, place, cluster))
    shutil.rmtree(received)


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for one measurement: what it wrote is not for the next one to write back."""
    directory = new_directory("z")
    yield directory
    shutil.rmtree(directory)
    os.sync()


# -------------------------------------------------------------------------------------------------------------------- WAL


def _pgbench(cluster: Cluster) -> Path | None:
    ours = cluster.bin_dir / "pgbench"
    found = shutil.which("pgbench")
    return ours if ours.exists() else Path(found) if found else None


def _write_wal(node: Node, pgbench: Path, segments: int) -> Segment:
    """pgbench until that many segments are complete; the first of them."""
    size = SegmentSize(SEGMENT_MB * MIB)
    node.execute("SELECT pg_logical_emit_message(true, 'benchmark', 'begin')")
    node.execute("SELECT pg_switch_wal()")
    first = Segment.parse(_current(node), size)
    while Segment.parse(_current(node), size).number < first.number + segments:
        node.host.run([pgbench, "-n", "-c", "8", "-j", "2", "-M", "prepared", "-T", "3", node.conninfo()], timeout=60)
    node.execute("SELECT pg_switch_wal()")
    node.execute("CHECKPOINT")
    return first


def _current(node: Node) -> str:
    node.execute("SELECT pg_logical_emit_message(true, 'benchmark', 'here')")
    return str(node.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())"))


# ------------------------------------------------------------------------------------------------------------------ agent


def _start_agent(node: Node) -> Process:
    command = [sys.executable, "-m", "walkeeper", "agent", "--config", node.config]
    return node.host.start(command, log=node.directory / "start.log", env=node.env)


def _wait_up_to_date(cluster: Cluster, node: Node) -> None:
    wait_until(lambda: wiring.record_of(cluster), "the record", LONGEST, logs=[wiring.agent_log(node)])
    wiring.wait_archived(cluster, node, LONGEST)


def _watch(agent: Process, seconds: float) -> Memory:
    memory = Memory(agent.pid)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        memory.look()
        time.sleep(0.2)
    return memory


def _agent_alone(cluster: Cluster, node: Node, chain: Sequence[Segment], found: Found) -> None:
    """The real agent from the frontier to the end of the chain, receiving included where it does, from the takeover on."""
    started_at = time.time()
    agent = _start_agent(node)
    began = wait_until(
        lambda: wiring.first_event(wiring.agent_events(node), "takeover", started_at),
        "the takeover",
        LONGEST,
        interval=0.005,
        logs=[wiring.agent_log(node)],
    )
    cpu = cpu_seconds(agent.pid)
    record = wiring.record_of(cluster)
    assert record is not None
    left = chain[-1].number + 1 - record.position // record.size
    memory = Memory(agent.pid)

    def there() -> bool:
        memory.look()
        record = wiring.record_of(cluster)
        return record is not None and record.position >= chain[-1].end

    wait_until(there, "the end of the chain", LONGEST, interval=0.05, logs=[wiring.agent_log(node)])
    seconds = time.time() - began
    found.busy.append(memory)
    found.add("walkeeper's agent, all of it", Speed(left, seconds, cpu_seconds(agent.pid) - cpu))
    agent.stop()


def _archive(received: Path, target: Path, chain: Sequence[Segment], place: DirectoryPlace, cluster: Cluster) -> Speed:
    """What one upload does, without the receiver, the record and the slot."""
    record = wiring.record_of(cluster)
    assert record is not None
    store = type(place.store())(target)
    archive = Archive(store, Layout("bench", None, int(record.system_identifier)), record.size, Codec())
    history = History(chain[0].timeline)

    def ship(segment: Segment) -> None:
        archive.archive_segment(segment, read_segment(received / segment.name, segment), history)

    begun, cpu = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(ship, chain))
    return Speed(len(chain), time.monotonic() - begun, time.process_time() - cpu)


# ----------------------------------------------------------------------------------------------------------------- others


def _pg_receivewal(cluster: Cluster, node: Node, chain: Sequence[Segment], found: Found) -> Path:
    """The same segments into a directory, which is returned."""
    directory = new_directory("w")
    (directory / (chain[0].name + PARTIAL)).touch()
    # fmt: off
    command: list[str | Path] = [
        cluster.bin_dir / "pg_receivewal", "-d", node.conninfo(REPLICATOR), "-D", directory, "--no-loop", "--no-sync",
        "--no-password", f"--endpos={Lsn(chain[-1].end - 1)}",
    ]
    # fmt: on
    found.add("pg_receivewal alone", _timed(command, len(chain)))
    return directory


def _zstd(received: Path, target: Path, chain: Sequence[Segment], *, synced: bool) -> Speed:
    script = 'zstd -1 -q -c "$0" >"$1/${0##*/}.zst"' + (' && sync "$1/${0##*/}.zst"' if synced else "")
    command: list[str | Path] = ["xargs", "-P", str(WORKERS), "-I", "{}", "sh", "-c", script, "{}", target]
    names = "\n".join(str(received / segment.name) for segment in chain)
    return _timed(command, len(chain), names)


def _timed(command: Sequence[str | Path], segments: int, text: str = "") -> Speed:
    begun, before = time.monotonic(), os.times()
    result = subprocess.run(command, input=text, text=True, capture_output=True, check=False, timeout=LONGEST)
    after = os.times()
    if result.returncode:
        raise RuntimeError(f"{command[0]}: {result.stderr}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Speed(segments, time.monotonic() - begun, cpu)


# ------------------------------------------------------------------------------------------------------------------ table


def _show(found: Found) -> None:
    speeds = found.speeds
    agents = speeds["walkeeper's agent, all of it"]
    rows = [
        (
            what,
            sum(one.segments for one in ones),
            table.median(one.rate for one in ones),
            f"{max(one.rate for one in ones):.0f}",
            table.median((agent.rate / one.rate for agent, one in zip(agents, ones, strict=True)), 2),
            table.median((one.cpu_each for one in ones), 1),
        )
        for what, ones in speeds.items()
    ]
    header = ("", "segments", "MB/s, median", "best", "the agent's rate to it", "CPU, ms a segment")
    table.show(f"{SEGMENT_MB} MiB segments of pgbench's WAL; zstd-1, {WORKERS} workers, directory", header, rows)
    memory = [
        ("idle", *_mib(found.idle)),
        ("catching up at full speed", *_mib(found.busy)),
    ]
    table.show("Memory of the agent, MiB", ("", "RSS, median", "RSS, highest", "PSS, median", "PSS, highest"), memory)


def _mib(memories: Sequence[Memory]) -> tuple[str, str, str, str]:
    rss = [value for memory in memories for value in memory.rss]
    pss = [value for memory in memories for value in memory.pss]
    return table.median(rss), f"{max(rss):.0f}", table.median(pss), f"{max(pss):.0f}"
