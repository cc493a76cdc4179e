"""A base backup and the WAL after it, made once, that every contender archives or restores; and the stores it goes into."""

from __future__ import annotations

import compileall
import os
import re
import shutil
import struct
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.far import Far
from benchmarks.places import Kind
from tests.parts.postgres import Postgres
from tests.parts.processes import CHECKOUT, new_directory, wait_until
from tests.parts.seaweedfs import SeaweedFS
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.store.directory.keys import DirectorySettings
from walkeeper.store.open import open_store
from walkeeper.store.s3.keys import S3Settings

SEGMENT_MB: Final = 16
SIZE: Final = SegmentSize(SEGMENT_MB * MIB)
SCOPE: Final = "bench"
LEVEL: Final = 1
"""Of zstd, for everybody: walkeeper's own. pgBackRest's default is 3."""
LONGEST: Final = 600.0

_START: Final = re.compile(r"\(file ([0-9A-F]{24})\)")


@dataclass(frozen=True, slots=True)
class Material:
    """``wal`` holds the plain segments under their own names; ``names`` are those that recovery reads, in order."""

    backup: Path
    wal: Path
    names: list[str]

    @property
    def system_identifier(self) -> int:
        return system_identifier(self.backup)

    @property
    def segments(self) -> list[Segment]:
        return [Segment.parse(name, SIZE) for name in self.names]

    @property
    def after(self) -> str:
        """The first segment that there is not."""
        last = self.segments[-1]
        return Segment(last.timeline, last.number + 1, last.size).name


def system_identifier(data: Path) -> int:
    """The first field of pg_control."""
    (found,) = struct.unpack_from("=Q", (data / "global" / "pg_control").read_bytes())
    return int(found)


def make(segments: int, scale: int) -> Material | None:
    """pgbench until so many segments are complete after the backup's own; None where there is no pgbench."""
    directory = new_directory("m")
    wal = directory / "wal"
    wal.mkdir()
    settings = {
        "archive_mode": "on",
        "archive_command": f"cp %p {wal}/%f",
        "max_wal_size": "1GB",
        "checkpoint_timeout": "30s",
        "shared_buffers": "128MB",
    }
    with Postgres(directory / "primary", segment_size_mb=SEGMENT_MB, settings=settings) as server:
        pgbench = pgbench_of(server)
        if pgbench is None:
            return None
        server.host.run([pgbench, "-i", "-q", "-s", str(scale), server.conninfo()], timeout=LONGEST)
        backup = server.base_backup(directory / "backup")
        match = _START.search((backup / "backup_label").read_text())
        assert match is not None
        first = Segment.parse(match[1], SIZE)
        write_wal(server, pgbench, first.number + 1 + segments)
        chain = [Segment(first.timeline, first.number + number, SIZE) for number in range(segments + 1)]
        wait_until((wal / chain[-1].name).exists, "the last segment", LONGEST, logs=[server.log])
        wait_until(lambda: (wal / chain[-1].name).stat().st_size == SIZE, "all of it", LONGEST)
    for more in wal.iterdir():
        if more.name not in {segment.name for segment in chain}:
            more.unlink()
    shutil.rmtree(directory / "primary")
    return Material(backup, wal, [segment.name for segment in chain])


def pgbench_of(server: Postgres) -> Path | None:
    ours = server.bin_dir / "pgbench"
    found = shutil.which("pgbench")
    return ours if ours.exists() else Path(found) if found else None


def write_wal(server: Postgres, pgbench: Path, number: int) -> None:
    """Until the segment before ``number`` is complete."""

    def current() -> int:
        return Segment.parse(str(server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")), SIZE).number

    while current() < number:
        server.host.run([pgbench, "-n", "-c", "8", "-j", "2", "-M", "prepared", "-T", "1", server.conninfo()])
    server.switch_wal()


class StorePlace:
    """A place of one kind, empty at first, for walkeeper and for pgBackRest alike. S3 goes over HTTPS.

    ``round_trip`` is in seconds: how far away everybody finds the S3 server.
    """

    def __init__(self, kind: Kind, stack: ExitStack, round_trip: float = 0.0) -> None:
        self.name: str = kind if kind == "directory" else "S3"
        self.server = stack.enter_context(SeaweedFS(https=True)) if kind == "s3" else None
        self.port = self.server.https_port if self.server else None
        self.directory = new_directory("h")
        if self.port and round_trip:
            self.name = f"S3, {round_trip * 1000:.0f} ms away"
            self.port = stack.enter_context(Far(self.port, round_trip / 2)).port

    def section(self, prefix: str) -> dict[str, Any]:
        """``walkeeper.store`` of the configuration."""
        if self.server is None:
            root = self.directory / prefix
            root.mkdir(exist_ok=True)
            return {"directory": str(root)}
        return {
            "s3": {
                "bucket": self.server.bucket,
                "prefix": f"{self.directory.name}/{prefix}",
                "endpoint": f"https://127.0.0.1:{self.port}",
                "region": self.server.region,
                "path_style": True,
                "access_key_id": self.server.access_key,
                "secret_access_key": self.server.secret_key,
                "ca_file": str(self.server.certificate),
            }
        }

    def archive(self, prefix: str, system_identifier: int) -> Archive:
        """walkeeper's, to fill and to look into."""
        section = self.section(prefix)
        settings = (
            S3Settings(**{**section["s3"], "ca_file": Path(section["s3"]["ca_file"])})
            if "s3" in section
            else DirectorySettings(Path(section["directory"]))
        )
        return Archive(open_store(settings), Layout(SCOPE, None, system_identifier), SIZE, Codec(LEVEL))


def fill(archive: Archive, material: Material) -> None:
    """Store all of the WAL by walkeeper's own function, and state the start."""
    history = History(material.segments[0].timeline)

    def ship(segment: Segment) -> None:
        archive.archive_segment(segment, (material.wal / segment.name).read_bytes(), history)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ship, material.segments))
    archive.state_start(material.segments[0])


def write_config(path: Path, section: Mapping[str, Any], patroni: Mapping[str, Any]) -> Path:
    """A patroni.yml with walkeeper's section."""
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump({"scope": SCOPE, **patroni, "walkeeper": section}, sort_keys=False))
    return path


@cache
def installed() -> Path:
    """The directory of a compiled ``walkeeper``, as an installation has it: the checkout, or a copy where that cannot be written.

    Commands that find nothing compiled, and no place for it, take twice as long.
    """
    if compileall.compile_dir(CHECKOUT / "walkeeper", quiet=2):
        return CHECKOUT
    copy = new_directory("i")
    shutil.copytree(CHECKOUT / "walkeeper", copy / "walkeeper", ignore=shutil.ignore_patterns("__pycache__"))
    if not compileall.compile_dir(copy / "walkeeper", quiet=1):
        raise RuntimeError(f"{copy}: walkeeper's modules cannot be compiled")
    return copy


def as_installed(directory: Path) -> dict[str, str]:
    """Environment of walkeeper's agents and commands, whose run directory that is."""
    return {
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPATH": str(installed()),
        "WALKEEPER_PYTHON": sys.executable,
        "WALKEEPER_RUN_DIR": str(directory),
    }


def shell() -> Path:
    """Where walkeeper's shell scripts are."""
    return installed() / "walkeeper" / "shell"


def conditions() -> str:
    """What a table has to say of its run: processors, and what else was running."""
    load = Path("/proc/loadavg").read_text().split()[0]
    return f"{os.cpu_count()} processors, load average at the start {load}"
