"""The proof: a new server from a base backup and an archive alone, and its rows against those that were acknowledged."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from examples.demo.stage import SCOPE, SEGMENT_SIZE, Stage, walkeeper_command
from tests.parts.ledger import Ledger
from tests.parts.postgres import SUPERUSER, Postgres, restore_server
from tests.parts.processes import wait_until
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment

RESTORE_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Expected:
    """What an archive that is complete up to ``frontier`` must give back."""

    history: History
    first: Segment
    """The segment that the base backup needs first."""
    frontier: Lsn
    rows: set[int]

    def chain(self) -> list[Segment]:
        """Every segment from the base backup to the frontier."""
        numbers = range(self.first.number, self.frontier // SEGMENT_SIZE)
        return [self.history.segment(number, SEGMENT_SIZE) for number in numbers]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back."""

    ends_at: Lsn
    seconds: float
    rows: int
    """Of all that are in the restored table."""
    lacking: list[int]
    """Of those that were expected."""
    altered: int
    """Rows whose content is not what was written."""


def first_segment(backup: Path) -> Segment:
    """The segment named in the backup's label as its start."""
    label = (backup / "backup_label").read_text().splitlines()[0]
    return Segment.parse(label.rpartition(" ")[2].rstrip(")"), SEGMENT_SIZE)


class Restore:
    """One recovery of a server that is not started yet."""

    def __init__(self, server: Postgres, files: int) -> None:
        self._files = files
        self.server = server

    def run(self, ledger: Ledger, expected: Expected, elapsed: Callable[[], float]) -> Outcome:
        """Recover to the end of the archive's latest timeline, and compare."""
        begun = elapsed()
        self.server.start(RESTORE_SECONDS)
        wait_until(lambda: not self.server.value("SELECT pg_is_in_recovery()"), "the end of recovery", RESTORE_SECONDS)
        seconds = elapsed() - begun
        altered = self.server.value("SELECT count(*) FROM ledger WHERE payload IS DISTINCT FROM 'row ' || id")
        with self.server.connect() as connection:
            lacking = ledger.compare(connection, expected.rows)
        return Outcome(
            ends_at=self._end_of_recovery(),
            seconds=seconds,
            rows=int(self.server.value("SELECT count(*) FROM ledger")),
            lacking=lacking,
            altered=int(altered),
        )

    def figures(self) -> str:
        """For the line that is always current."""
        log = self.server.log.read_text() if self.server.log.exists() else ""
        files = set(re.findall(r'restored log file "([0-9A-F]{24})"', log))
        return f"recovery: {len(files)} of {self._files} segments fetched from the archive"

    def close(self) -> None:
        self.server.close()

    def _end_of_recovery(self) -> Lsn:
        """Where recovery's own new timeline begins: the last line of the newest history file."""
        newest = max((self.server.data / "pg_wal").glob("*.history"))
        return Lsn.parse(newest.read_text().split("\n")[-2].split("\t")[1])


class Restored(Postgres):
    """What ``walkeeper restore`` makes in ``directory``, started with the command that it prints."""

    def __init__(self, stage: Stage, directory: Path, config: Path) -> None:
        super().__init__(directory, stage.cluster.bin_dir)
        self.command = [*walkeeper_command().split(), "restore", "-c", str(config), "--data-dir", str(self.data)]
        self.printed = ""
        self.log = self.data / "walkeeper.log"

    def fetch(self) -> None:
        path = f"{self.bin_dir}:{os.environ['PATH']}"
        document = json.loads(self.host.run([*self.command, "--json"], env={"PATH": path}, timeout=RESTORE_SECONDS))
        self.printed = document["start"]

    def start(self, timeout: float = 30, *, wait: bool = True) -> None:
        """Returns when it can be read."""
        assert wait
        self.host.run(["sh", "-c", self.printed], timeout=timeout)

    def conninfo(self, user: str = SUPERUSER, *, dbname: str = "postgres", socket: bool = True, **more: str) -> str:
        """Its socket is in the data directory."""
        more |= {"host": str(self.data), "port": "5432"}
        return super().conninfo(user, dbname=dbname, socket=socket, **more)


def configuration(stage: Stage, directory: Path) -> Path:
    """All that a restore needs to know: the nodes are gone by then."""
    directory.mkdir()
    config = directory / "walkeeper.yml"
    config.write_text(yaml.safe_dump({"scope": SCOPE, "walkeeper": {"store": stage.shown.section}}))
    return config


def ordinary_server(stage: Stage, backup: Path, directory: Path) -> tuple[Postgres, str]:
    """A server on a copy of the base backup; and its restore_command."""
    command = f"cp {stage.ordinary}/%f %p"
    settings = {"archive_mode": "off"}
    return restore_server(backup, directory, command, bin_dir=stage.cluster.bin_dir, settings=settings), command
