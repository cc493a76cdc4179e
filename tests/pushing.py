"""A data directory as archive_command sees it, without a server: control file, postmaster.pid, WAL with true headers."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.core.worlds import history_text, plain_segment
from walkeeper.archive import Archive
from walkeeper.codec import Codec
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.layout import Layout
from walkeeper.store.directory import DirectoryStore

SYSTEM: Final = 7300000000000000001
SIZE: Final = SegmentSize(MIB)
ONE: Final = History(1)
TWO: Final = History(2, (Switch(1, Lsn(5 * MIB + 100)),))
SCRIPT: Final = Path(__file__).parent.parent / "walkeeper" / "shell" / "walkeeper-archive-push"
LABEL: Final = b"START WAL LOCATION: 0/500028 (file 000000010000000000000005)\n"


class DataDirectory:
    """In ``directory``, with a store and a configuration beside it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "data"
        self.wal = self.path / "pg_wal"
        self.store = directory / "store"
        self.run = directory / "run"
        self.config = directory / "patroni.yml"
        (self.wal / "archive_status").mkdir(parents=True)
        (self.path / "global").mkdir()
        self.store.mkdir()
        self.run.mkdir(mode=0o700)
        (self.path / "global" / "pg_control").write_bytes(struct.pack("=QI", SYSTEM, 1300) + bytes(8000))
        self.config.write_text(f"scope: demo\nwalkeeper:\n  store:\n    directory: {self.store}\n")

    def segment(self, number: int = 5, *, timeline: int = 1, fill: bytes = b"w", size: SegmentSize = SIZE) -> Segment:
        """Lay a whole segment into pg_wal."""
        segment = Segment(timeline, number, size)
        (self.wal / segment.name).write_bytes(plain_segment(segment, SYSTEM, fill=fill))
        return segment

    def history(self) -> str:
        (self.wal / "00000002.history").write_bytes(history_text(TWO))
        return "00000002.history"

    def archive(self, size: SegmentSize = SIZE) -> Archive:
        return Archive(DirectoryStore(self.store), Layout("demo", None, SYSTEM), size, Codec())

    def objects(self) -> list[str]:
        return sorted(path.name for path in self.store.rglob("*") if path.is_file())

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "WALKEEPER_RUN_DIR": str(self.run)}

    def start_server(self) -> str:
        """As if this very process were the postmaster. Which run it is."""
        (self.path / "postmaster.pid").write_text(
            f"{os.getpid()}\n{self.path}\n1700000000\n5432\n/tmp\n*\n1 2\nready   \n"
        )
        return f"{os.getpid()}-1700000000"

    def push(self, *arguments: str, program: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """What PostgreSQL runs, in the data directory."""
        return subprocess.run(
            [*(program or (sys.executable, "-m", "walkeeper", "archive-push")), *arguments],
            cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
