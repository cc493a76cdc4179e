"""From a base backup and the archive alone to a server, and what it lacks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.parts.ledger import Ledger
from tests.parts.postgres import restore_server
from tests.parts.processes import new_directory, wait_until
from walkeeper.archive.read import fetch
from walkeeper.archive.write import Archive
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import HistoryFile, Segment

_START: Final = re.compile(r"START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+)")


@dataclass(frozen=True, slots=True)
class Verdict:
    """``chain`` and ``rows``: how many segments and acknowledged rows there had to be; ``missing_…``: how many there are not."""

    chain: int
    missing_segments: int
    rows: int
    missing_rows: int

    @property
    def sound(self) -> bool:
        return self.missing_segments == 0 and self.missing_rows == 0


def chain_of(backup: Path, history: History, frontier: Lsn, size: SegmentSize) -> list[Segment]:
    """Each segment that recovery needs from the backup up to the frontier."""
    match = _START.search((backup / "backup_label").read_text())
    assert match is not None
    first = Lsn.parse(match[1]) // size
    return [history.segment(number, size) for number in range(first, frontier // size)]


def fetch_all(archive: Archive, history: History, chain: Iterable[Segment]) -> Path:
    """A directory with the chain's files and its histories, each fetched and proved by walkeeper; not what is absent."""
    directory = new_directory("f")
    names = [segment.name for segment in chain]
    names += [HistoryFile(timeline).name for timeline in history.timelines if timeline > 1]

    def place(name: str) -> None:
        content = fetch(archive.store, archive.layout, archive.codec, name)
        if content is not None:
            (directory / name).write_bytes(content)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(place, names))
    return directory


def judge(backup: Path, files: Path, history: History, frontier: Lsn, size: SegmentSize, ledger: Ledger) -> Verdict:
    """Restore from ``files`` (plain WAL under its own names) and compare with what was acknowledged before the frontier."""
    chain = chain_of(backup, history, frontier, size)
    missing = [segment for segment in chain if not (files / segment.name).exists()]
    wanted = ledger.covered(history, frontier)
    return Verdict(len(chain), len(missing), len(wanted), _missing_rows(backup, files, ledger, wanted))


def _missing_rows(backup: Path, files: Path, ledger: Ledger, wanted: set[int]) -> int:
    server = restore_server(backup, new_directory("r"), f"cp {files}/%f %p")
    try:
        server.start(120)
        wait_until(
            lambda: not server.value("SELECT pg_is_in_recovery()"), "the end of recovery", 120, logs=[server.log]
        )
        with server.connect() as connection:
            return len(ledger.compare(connection, wanted))
    except TimeoutError as problem:
        if "it went down" not in str(problem):
            raise
        return len(wanted)  # a hole before the backup's own end: PostgreSQL refuses the whole backup
    finally:
        server.close()
