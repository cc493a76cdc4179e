"""Kill the primary and its host with -9 under load, then restore from a base backup and the archive alone.

    python -m benchmarks.torture [--store directory|s3|push|archive_command] [--runs N] [--seed N]

Three Patroni nodes; each PUT takes 0.3 s longer, so that the dead host always has segments that are nowhere else. The host
stays dead. ``push`` is a directory with ``archiver: command``, behind walkeeper's own archive_command; ``archive_command`` is the
same without walkeeper: it shows that the measurement finds holes where there are some.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, Self

from benchmarks import table, wiring
from benchmarks.places import Place, Places
from benchmarks.restored import Verdict, chain_of, fetch_all, judge
from tests.parts.cluster import Cluster, Node
from tests.parts.ledger import Ledger
from tests.parts.processes import end_run, new_directory, wait_until
from walkeeper.core.history import History, parse_history
from walkeeper.core.lsn import MIB, Lsn, SegmentSize

Subject = Literal["directory", "s3", "push", "archive_command"]
SUBJECTS: Final[tuple[Subject, ...]] = ("directory", "s3", "push", "archive_command")

SEGMENT_MB: Final = 1
ROW_BYTES: Final = 32 * 1024
WRITERS: Final = 3
AFTERWARDS: Final = 4.0
"""Seconds of load after the failover."""
CATCH_UP: Final = 180.0
_LOOK: Final = 0.003


@dataclass(frozen=True, slots=True)
class Options:
    """``rate`` in MiB/s of WAL, ``put_delay`` in seconds. ``pushes``: PostgreSQL hands over what is archived, nothing streams."""

    rate: float
    put_delay: float
    walkeeper: dict[str, object] = field(default_factory=dict)
    pushes: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """One kill. ``rate`` is the load as it was, in MiB/s of WAL.

    Times are in seconds after the end of recovery on the new primary; None without walkeeper.
    """

    verdict: Verdict
    rate: float
    died_with_host: int
    owned: float | None
    first_byte: float | None
    catch_up: float
    took: float


def make_ledger(cluster: Cluster, rate: float) -> Ledger:
    pause = WRITERS * ROW_BYTES / (rate * MIB)
    return Ledger(cluster.conninfo(), writers=WRITERS, ballast=ROW_BYTES, pause=pause)


class Takeover:
    """When these nodes' spools got their first byte, and when one of them owned the record: looked at all the time.

    pg_receivewal gives a file its size when the first data come.
    """

    def __init__(self, cluster: Cluster, nodes: list[Node]) -> None:
        self.first_byte: dict[str, float] = {}
        self.owned: dict[str, float] = {}
        self._cluster = cluster
        self._nodes = nodes
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=look, daemon=True) for look in (self._watch_spools, self._watch_record)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _watch_spools(self) -> None:
        while not self._ended.wait(_LOOK):
            for node in self._nodes:
                if node.name not in self.first_byte and _has_bytes(wiring.spool_wal(node)):
                    self.first_byte[node.name] = time.time()

    def _watch_record(self) -> None:
        while not self._ended.wait(_LOOK):
            record = wiring.record_of(self._cluster)
            if record is not None:
                self.owned.setdefault(record.owner, time.time())


def _has_bytes(directory: Path) -> bool:
    try:
        return any(path.stat().st_size for path in directory.iterdir() if not path.name.endswith(".history"))
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------------------------------------------------- with walkeeper


def kill_with_walkeeper(place: Place, options: Options, rng: random.Random) -> Run:
    """One run on a cluster of its own."""
    begun = time.monotonic()
    with ExitStack() as stack:
        cluster = wiring.make_cluster(
            place,
            segment_size_mb=SEGMENT_MB,
            walkeeper={**options.walkeeper, **({"archiver": "command"} if options.pushes else {})},
            archive_command=wiring.ARCHIVE_PUSH if options.pushes else None,
        )
        stack.callback(cluster.stop)
        wiring.start(cluster, place)
        backup = cluster.wait_leader().base_backup(new_directory("b") / "base")
        ledger = stack.enter_context(make_ledger(cluster, options.rate))
        rate = _load(cluster, rng.uniform(3, 6))
        old = cluster.wait_leader()
        seen = stack.enter_context(Takeover(cluster, [node for node in cluster.nodes if node is not old]))
        killed_at = time.time()
        cluster.kill_host(old)
        died = _not_stored(cluster, place, old)
        cluster.expire_leader()
        new = cluster.wait_leader(but_not=old)
        time.sleep(AFTERWARDS)
        seen.__exit__()
        ledger.stop()
        stopped = time.monotonic()
        record = wiring.wait_archived(cluster, new, CATCH_UP)
        caught_up = time.monotonic() - stopped
        archive = wiring.archive_of(cluster, place)
        recovered = wiring.first_event(wiring.server_events(new), "archive recovery complete", killed_at)
        cluster.stop()

        history = archive.contents.history(record.timeline)
        assert history is not None
        assert recovered is not None
        files = fetch_all(archive, history, chain_of(backup, history, record.position, record.size))
        verdict = judge(backup, files, history, record.position, record.size, ledger)
    return Run(
        verdict,
        rate,
        died,
        seen.owned[new.name] - recovered if new.name in seen.owned else None,
        seen.first_byte[new.name] - recovered if new.name in seen.first_byte else None,
        caught_up,
        time.monotonic() - begun,
    )


def _load(cluster: Cluster, seconds: float) -> float:
    """Let the load do its work; its rate."""
    leader = cluster.wait_leader()
    before, begun = str(leader.value("SELECT pg_current_wal_insert_lsn()")), time.monotonic()
    time.sleep(seconds)
    written = int(leader.value("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", [before]))
    return written / MIB / (time.monotonic() - begun)


def _not_stored(cluster: Cluster, place: Place, dead: Node) -> int:
    """Complete segments in the dead host's spool, or waiting for its archive_command, that the store lacks."""
    archive = wiring.archive_of(cluster, place)
    stored = {segment.name for segment in archive.contents.segments()}
    whole = [
        path.name
        for path in wiring.spool_wal(dead).iterdir()
        if len(path.name) == 24 and path.stat().st_size == archive.size
    ]
    return len({*whole, *_ready(dead)} - stored)


# ------------------------------------------------------------------------------------------------------- without walkeeper


def kill_with_archive_command(options: Options, rng: random.Random) -> Run:
    """The same, archived by ``archive_command``: one file at a time, each ``put_delay`` seconds longer than ``cp``."""
    begun = time.monotonic()
    archive = new_directory("a")
    command = f"sleep {options.put_delay}; cp %p {archive}/.%f && mv {archive}/.%f {archive}/%f"
    with ExitStack() as stack:
        settings = {"archive_mode": "on", "archive_command": command}
        cluster = wiring.make_cluster(None, segment_size_mb=SEGMENT_MB, settings=settings)
        stack.callback(cluster.stop)
        cluster.start()
        backup = cluster.wait_leader().base_backup(new_directory("b") / "base")
        ledger = stack.enter_context(make_ledger(cluster, options.rate))
        rate = _load(cluster, rng.uniform(3, 6))
        old = cluster.wait_leader()
        cluster.kill_host(old)
        died = sum(1 for name in _ready(old) if not (archive / name).exists())
        cluster.expire_leader()
        new = cluster.wait_leader(but_not=old)
        time.sleep(AFTERWARDS)
        ledger.stop()
        stopped = time.monotonic()
        end = _wait_all_archived(new, archive)
        caught_up = time.monotonic() - stopped
        cluster.stop()

        history = _history_in(archive)
        size = SegmentSize(SEGMENT_MB * MIB)
        verdict = judge(backup, archive, history, Lsn.parse(end), size, ledger)
    return Run(verdict, rate, died, None, None, caught_up, time.monotonic() - begun)


def _ready(node: Node) -> list[str]:
    return [path.stem for path in (node.data / "pg_wal" / "archive_status").glob("*.ready") if len(path.stem) == 24]


def _wait_all_archived(new: Node, archive: Path) -> str:
    """Where the WAL ended when the last segment was closed; all that the new primary has is archived by then."""
    new.execute("SELECT pg_logical_emit_message(true, 'benchmark', 'the end')")
    name, end = new.execute("SELECT pg_walfile_name(lsn), lsn::text FROM pg_switch_wal() AS lsn")[0]
    wait_until((archive / str(name)).exists, f"{name} in the archive", CATCH_UP, logs=[new.log])
    return str(end)


def _history_in(archive: Path) -> History:
    newest = max((path for path in archive.glob("*.history")), key=lambda path: path.name)
    return parse_history(int(newest.stem, 16), newest.read_bytes())


# ------------------------------------------------------------------------------------------------------------------- main


def kills(subject: Subject, runs: int, seed: int, options: Options) -> list[Run]:
    """All runs of one subject, told as they end."""
    done: list[Run] = []
    with Places("s3" if subject == "s3" else "directory", options.put_delay) as places:
        for number in range(1, runs + 1):
            rng = random.Random(f"{seed}/{subject}/{number}")
            if subject == "archive_command":
                run = kill_with_archive_command(options, rng)
            else:
                run = kill_with_walkeeper(places.new(), replace(options, pushes=subject == "push"), rng)
            done.append(run)
            _tell(subject, number, runs, run)
    return done


def _tell(subject: Subject, number: int, runs: int, run: Run) -> None:
    verdict = run.verdict
    print(
        f"{subject} {number}/{runs}: {verdict.missing_segments} of {verdict.chain} segments missing, "
        f"{verdict.missing_rows} of {verdict.rows} rows lost, {run.died_with_host} segments died with the host, "
        f"owned {_plus(run.owned)}, first byte {_plus(run.first_byte)}, archived to the end after "
        f"{run.catch_up:.1f} s, run of {run.took:.0f} s",
        flush=True,
    )


def _plus(seconds: float | None) -> str:
    return table.NONE if seconds is None else f"{seconds:+.2f} s"


def show(results: dict[Subject, list[Run]], options: Options) -> None:
    header = (
        "store", "load", "runs", "runs with a hole", "segments missing", "spooled segments that died with the host",
        "acknowledged rows before the frontier", "of these not restored",
        "end of recovery → record owned, s: median (worst)", "→ first byte received, s",
    )  # fmt: skip
    rows = [
        (
            subject,
            f"{statistics.median(run.rate for run in runs):.0f} MiB/s",
            len(runs),
            sum(not run.verdict.sound for run in runs),
            table.lowest_to_highest([run.verdict.missing_segments for run in runs]),
            table.lowest_to_highest([run.died_with_host for run in runs]),
            f"{sum(run.verdict.rows for run in runs):,}",
            table.lowest_to_highest([run.verdict.missing_rows for run in runs]),
            table.median_and_worst(run.owned for run in runs),
            table.median_and_worst(run.first_byte for run in runs),
        )
        for subject, runs in results.items()
    ]
    table.show(f"Primary and host killed with -9, each PUT {options.put_delay:g} s longer", header, rows)


def main() -> int:
    """1 when walkeeper left a hole."""
    parser = argparse.ArgumentParser(prog="make kills ARGS=…", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--store", choices=SUBJECTS, action="append", help="more than once for several; default: both stores, and push"
    )
    parser.add_argument("--runs", type=int, default=3, help="kills for each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of the moments of the kills; printed")
    parser.add_argument("--rate", type=float, default=10.0, help="load in MiB of WAL a second (default: %(default)s)")
    parser.add_argument("--put-delay", type=float, default=0.3, help="seconds (default: %(default)s)")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    options = Options(arguments.rate, arguments.put_delay)
    print(f"seed {seed}", flush=True)
    try:
        subjects: list[Subject] = arguments.store or ["directory", "s3", "push"]
        results = {subject: kills(subject, arguments.runs, seed, options) for subject in subjects}
    finally:
        end_run()
    show(results, options)
    return int(
        any(not run.verdict.sound for subject in results if subject != "archive_command" for run in results[subject])
    )


if __name__ == "__main__":
    sys.exit(main())
