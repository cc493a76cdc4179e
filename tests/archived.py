"""An archive that an agent made, a base backup that goes with it, and ways to break what a restore needs of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyrage
import yaml

from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until
from tests.twins.memory_record import MemoryDcs
from tests.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from walkeeper.codec import Codec
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.layout import Layout
from walkeeper.store.directory import DirectoryStore

BATCH: Final = 100


@dataclass
class Archived:
    """A base backup, and what an agent archived after it: ``rows`` in table t. The server itself is gone."""

    directory: Path
    backup: Path
    system_identifier: int
    size: SegmentSize
    segments: list[str]
    rows: int

    @property
    def store(self) -> Path:
        return self.directory / "store"

    @property
    def config(self) -> Path:
        return self.directory / "patroni.yml"

    def object(self, name: str) -> Path:
        return self.store / Layout("demo", None, self.system_identifier).file(Segment.parse(name, self.size), ".zst")

    def command(self) -> str:
        return f"{sys.executable} -m walkeeper -c {self.config} restore-wal %f %p"

    def configure(self, **changes: Any) -> None:
        section = {"store": {"directory": str(self.store)}, "restore": {"deadline": "1s"}, **changes}
        self.config.touch(mode=0o600)
        self.config.write_text(yaml.safe_dump({"scope": "demo", "walkeeper": section}))


def archived(segment_size_mb: int, batches: int) -> Archived:
    directory = new_directory("r")
    (directory / "store").mkdir()
    with Postgres(directory / "primary", segment_size_mb=segment_size_mb) as server:
        prepare(server)
        dcs = MemoryDcs(slots=(HOLD_SLOT,))
        dcs.set_leader("a")
        config = config_of(server, "a", directory, spool_limit=256 * MIB)
        with RunningAgent(config, DirectoryStore(directory / "store"), dcs) as agent:
            wait_for(lambda: agent.archiving)
            backup = server.base_backup(directory / "backup")
            server.execute("CREATE TABLE t (n int)")
            segments = []
            for batch in range(batches):
                server.execute(
                    "INSERT INTO t SELECT generate_series(%s::int, %s::int)", [batch * BATCH, (batch + 1) * BATCH - 1]
                )
                segments.append(server.switch_wal())
            size = SegmentSize(segment_size_mb * MIB)
            agent.wait_frontier(Segment.parse(segments[-1], size).end)
            server.execute("INSERT INTO t SELECT -1")  # in no segment that was archived
        made = Archived(directory, backup, server.system_identifier, size, segments, batches * BATCH)
    made.configure()
    return made


def rows(server: Postgres) -> int:
    return int(server.value("SELECT count(*) FROM t")) if server.value("SELECT to_regclass('t') IS NOT NULL") else 0


def wait_rows(server: Postgres, count: int, seconds: float = 30) -> None:
    wait_until(lambda: rows(server) == count, f"{count} rows", seconds, logs=[server.log])


class broken:  # noqa: N801 - reads as a statement
    """The archive with a fault, while the context lasts. For a fault of the configuration the victim need not be there."""

    def __init__(self, archive: Archived, fault: str, victim: int = 2) -> None:
        self.archive, self.fault = archive, fault
        self.victim = archive.object(archive.segments[victim])
        self.whole = self.victim.read_bytes() if self.victim.exists() else b""

    def __enter__(self) -> None:
        self.archive.configure()
        middle = len(self.whole) // 2
        if self.fault == "store away":
            self.archive.store.rename(self.archive.directory / "away")
        elif self.fault == "store closed":
            self.archive.store.chmod(0o000)
        elif self.fault == "truncated":
            self._write(self.whole[:middle])
        elif self.fault == "empty":
            self._write(b"")
        elif self.fault == "bit flip":
            self._write(self.whole[:middle] + bytes([self.whole[middle] ^ 1]) + self.whole[middle + 1 :])
        elif self.fault == "another segment":
            self._write(self.archive.object(self.archive.segments[0]).read_bytes())
        elif self.fault == "no key":
            self._encrypt()
        elif self.fault == "wrong key":
            self._encrypt()
            identity = self.archive.directory / "key"
            identity.write_text(f"{pyrage.x25519.Identity.generate()}\n")
            identity.chmod(0o600)
            self.archive.configure(encryption={"identity_file": str(identity)})
        elif self.fault == "broken configuration":
            self.archive.config.write_text("scope: [demo\n")
        elif self.fault == "unknown key":
            self.archive.configure(frobnicate=True)
        elif self.fault == "no configuration":
            self.archive.config.unlink()
        elif self.fault == "wrong scope":
            self.archive.config.write_text(self.archive.config.read_text().replace("demo", "omed"))
        else:
            raise KeyError(self.fault)

    def __exit__(self, *_: object) -> None:
        if self.fault == "store away":
            (self.archive.directory / "away").rename(self.archive.store)
        self.archive.store.chmod(0o700)
        self.victim.with_name(self.victim.name + ".age").unlink(missing_ok=True)
        if self.whole:
            self._write(self.whole)
        self.archive.configure()

    def _write(self, body: bytes) -> None:
        """In place: the metadata stay."""
        self.victim.touch()
        self.victim.write_bytes(body)

    def _encrypt(self) -> None:
        codec = Codec(recipients=(str(pyrage.x25519.Identity.generate().to_public()),))
        self.victim.with_name(self.victim.name + ".age").write_bytes(codec.encode(b"x" * self.archive.size))
        self.victim.unlink()
