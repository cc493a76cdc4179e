"""What a full base backup takes: walkeeper's, pgBackRest's, and ``pg_basebackup | zstd -1``, side by side.

One server, its files in the page cache, a directory as the store; two threads or processes each, zstd 1. CPU is that of the
commands and of the server. A checkpoint comes before each run, everybody asks for a fast one, and nobody stores WAL.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import pgbackrest, table
from benchmarks.cost import Meter
from benchmarks.material import LEVEL
from tests.fixtures.taken import Place
from tests.parts.postgres import SUPERUSER, Postgres
from tests.parts.processes import new_directory
from walkeeper.core.backup import Backup
from walkeeper.core.lsn import MIB

THREADS: Final = 2
RELATIONS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Run:
    """``wall`` and ``cpu`` in seconds, ``memory`` of the largest process in MiB, ``stored`` in bytes."""

    wall: float
    cpu: float
    memory: float
    stored: int


def run(rounds: int, scale: int) -> None:
    for name, server in servers(scale):
        _measure(name, server, rounds)


def servers(scale: int) -> Iterator[tuple[str, Postgres]]:
    """One after the other, with data that packs 3 to 1, with pgbench's (20 to 1), and with many small relations."""
    for name, fill in (
        ("data that packs 3 to 1", lambda server: _orders(server, scale)),
        (f"pgbench, scale {scale}", lambda server: _pgbench(server, scale)),
        (f"{RELATIONS:,} relations", _relations),
    ):
        settings = {"max_wal_size": "8GB", "shared_buffers": "128MB", "max_locks_per_transaction": "256"}
        with Postgres(new_directory("b") / "pg", segment_size_mb=16, settings=settings) as server:
            fill(server)
            server.execute("VACUUM FREEZE")
            server.checkpoint()
            yield name, server


def mib_of(server: Postgres) -> float:
    return sum(int(str(row[0])) for row in server.execute("SELECT pg_database_size(oid) FROM pg_database")) / MIB


def contenders_for(server: Postgres) -> dict[str, Plain | Walkeeper | PgBackRest]:
    """By name; the last one is what the others are held against."""
    contenders: dict[str, Plain | Walkeeper | PgBackRest] = {
        "pg_basebackup, zstd": Plain(server),
        "walkeeper": Walkeeper(server),
    }
    if pgbackrest.program():
        contenders[f"pgBackRest {pgbackrest.version().split()[-1]}"] = PgBackRest(server)
    return contenders


def in_turns(names: list[str], rounds: int) -> Iterator[str]:
    """Each is the first in turn."""
    for number in range(rounds):
        yield from names[number % len(names) :] + names[: number % len(names)]


def _measure(name: str, server: Postgres, rounds: int) -> None:
    contenders = contenders_for(server)
    runs: dict[str, list[Run]] = {each: [] for each in contenders}
    for each in in_turns(list(contenders), rounds):
        runs[each].append(_one(server, contenders[each]))
    last = list(contenders)[-1]
    rows = []
    for each, found in runs.items():
        ratios = [
            statistics.median(
                getattr(own, what) / getattr(other, what) for own, other in zip(found, runs[last], strict=True)
            )
            for what in ("cpu", "wall", "stored")
        ]
        rows.append(
            [
                each,
                table.median_and_worst([one.wall for one in found]),
                table.median_and_worst([one.cpu for one in found]),
                table.median([one.memory for one in found]),
                table.median([one.stored / MIB for one in found]),
                *(f"{ratio:.2f}" for ratio in ratios),
            ]
        )
    header = ["backup", "wall, s", "CPU, s", "peak, MiB", "stored, MiB", "CPU ratio", "wall ratio", "stored ratio"]
    table.show(f"{name}: {mib_of(server):,.0f} MiB; ratios to {last}", header, rows)


def _one(server: Postgres, contender: Plain | Walkeeper | PgBackRest) -> Run:
    contender.prepare()
    server.checkpoint()
    os.sync()
    meter, begun = Meter([server.pid]), time.monotonic()
    memory = contender.take()
    wall = time.monotonic() - begun
    cpu = meter.read()
    stored = contender.stored()
    contender.clear()
    return Run(wall, cpu, memory, stored)


_LAUNCH: Final = """
import os, sys
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
os.write(int(sys.argv[1]), str(usage.ru_maxrss).encode())
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A child's peak begins with its parent's, and ours is larger than most."""


def _wait(args: list[object], environment: dict[str, str] | None = None) -> float:
    """Run it to its end; the peak of its memory in MiB. Raises RuntimeError."""
    reader, writer = os.pipe()
    command = [sys.executable, "-I", "-S", "-c", _LAUNCH, writer, *args]
    with open(reader, encoding="ascii") as peak:
        child = subprocess.run(
            [str(arg) for arg in command], env=environment, pass_fds=[writer], stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
        os.close(writer)
        if child.returncode:
            raise RuntimeError(f"{args}: {child.stderr.decode()}")
        return int(peak.read()) / 1024


def _bytes_below(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


class Plain:
    """One tar through ``zstd -T2 -1`` into one file. It knows no restore by difference."""

    deltas = False

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._file = new_directory("p") / "base.tar.zst"

    def prepare(self) -> None:
        pass

    def take(self) -> float:
        line = (
            f"'{self._server.bin_dir}/pg_basebackup' -d '{self._server.conninfo(socket=True)}' -D - -Ft -X none -c fast "
            f"--no-sync | zstd -q -{LEVEL} -T{THREADS} > '{self._file}' && sync '{self._file}'"
        )
        return _wait(["bash", "-o", "pipefail", "-c", line])

    def make_restorable(self) -> None:
        pass

    def restore(self, into: Path, *, delta: bool) -> float:
        assert not delta
        line = f"zstd -qdc '{self._file}' | tar -x -C '{into}' && sync -f '{into}'"
        return _wait(["bash", "-o", "pipefail", "-c", line])

    def stored(self) -> int:
        return self._file.stat().st_size

    def clear(self) -> None:
        self._file.unlink()


class Walkeeper:
    deltas = True

    def __init__(self, server: Postgres) -> None:
        self._place = Place(server)

    def prepare(self) -> None:
        pass

    def take(self, *, incremental: bool = False) -> float:
        command = [sys.executable, "-m", "walkeeper", "backup", "-c", self._place.file]
        return _wait([*command, *(["--incremental"] if incremental else [])])

    def kind(self) -> str:
        """Of the newest: where no incremental is possible it is full."""
        backups = self._place.backups
        newest = backups.read(max(backups.ids()))
        assert isinstance(newest, Backup)
        return newest.kind

    def make_restorable(self) -> None:
        """Its WAL must be stored, although none is restored here."""
        self._place.archive_wal()

    def restore(self, into: Path, *, delta: bool) -> float:
        path = f"{self._place.server.bin_dir}:{os.environ['PATH']}"
        command = [sys.executable, "-m", "walkeeper", "restore", "-c", self._place.file, "--data-dir", into]
        return _wait([*command, *(["--delta"] if delta else [])], {**os.environ, "PATH": path})

    def stored(self) -> int:
        return _bytes_below(self._place.root / "backup")

    def clear(self) -> None:
        shutil.rmtree(self._place.root / "backup")


class PgBackRest:
    """With bundles, incremental by block where it can, and without WAL: the archive is not looked at."""

    deltas = True

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._directory = new_directory("q")

    def prepare(self) -> None:
        directory, server = self._directory, self._server
        settings = {
            "repo1-path": directory / "repo", "repo1-bundle": "y", "repo1-retention-full": 1,
            "process-max": THREADS, "compress-type": "zst", "compress-level": LEVEL, "start-fast": "y",
            "archive-check": "n", "lock-path": directory / "lock", "log-path": directory / "log",
            "spool-path": directory / "spool", "log-level-file": "off", "log-level-console": "off", "log-level-stderr": "error",
        }  # fmt: skip
        if pgbackrest.has_blocks():
            settings["repo1-block"] = "y"
        stanza = {
            "pg1-path": server.data, "pg1-port": server.port, "pg1-socket-path": server.socket_dir, "pg1-user": SUPERUSER,
        }  # fmt: skip
        for name in ("repo", "lock", "log", "spool"):
            (directory / name).mkdir(exist_ok=True)
        text = ["[global]", *(f"{key}={value}" for key, value in settings.items())]
        text += [f"[{pgbackrest.STANZA}]", *(f"{key}={value}" for key, value in stanza.items()), ""]
        (directory / "pgbackrest.conf").write_text("\n".join(text))
        self._run("stanza-create")

    def take(self, *, incremental: bool = False) -> float:
        return self._run("backup", f"--type={'incr' if incremental else 'full'}")

    def make_restorable(self) -> None:
        pass

    def restore(self, into: Path, *, delta: bool) -> float:
        return self._run("restore", f"--pg1-path={into}", *(["--delta"] if delta else []))

    def stored(self) -> int:
        return _bytes_below(self._directory / "repo" / "backup")

    def clear(self) -> None:
        shutil.rmtree(self._directory / "repo")

    def _run(self, *arguments: str) -> float:
        config = f"--config={self._directory / 'pgbackrest.conf'}"
        return _wait([pgbackrest.program(), config, f"--stanza={pgbackrest.STANZA}", *arguments])


def _pgbench(server: Postgres, scale: int) -> None:
    server.host.run([server.bin_dir / "pgbench", "-q", "-i", "-s", scale, server.conninfo(socket=True)], timeout=600)


def _orders(server: Postgres, scale: int) -> None:
    """As large as pgbench's data of that scale; with ``zstd -1`` 2.98 to 1."""
    server.execute(
        "CREATE TABLE orders AS SELECT n AS id, md5(n::text) AS token, timestamptz '2026-01-01' + n * interval '7.3 s' AS at, "
        "'order ' || n % 977 || ', paid by invoice' AS what, (n::bigint * 7919) % 100000 / 100.0 AS price "
        f"FROM generate_series(1, {133_000 * scale}) n"
    )


def _relations(server: Postgres) -> None:
    """Each a table of a page, in 20 transactions."""
    for begin in range(0, RELATIONS, RELATIONS // 20):
        server.execute(
            f"DO $$ BEGIN FOR n IN {begin}..{begin + RELATIONS // 20 - 1} LOOP "
            "EXECUTE format('CREATE TABLE r%s AS SELECT %s AS n, md5(%L) AS m', n, n, n); END LOOP; END $$"
        )
