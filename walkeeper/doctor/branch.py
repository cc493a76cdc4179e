"""Diverged timelines: this member's, under a number that is another's too, or a newer one in the archive."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from walkeeper.archive import histories
from walkeeper.archive.read import fetch
from walkeeper.archive.write import Archive
from walkeeper.core.branches import is_abandoned
from walkeeper.core.names import HistoryFile, Segment
from walkeeper.core.record import Record
from walkeeper.doctor.facts import Unknown
from walkeeper.errors import WalkeeperError
from walkeeper.postgres.data_directory import read_control_file

TRIES: Final = 4
"""Segments of pg_wal that are looked up in the archive, which may be behind."""


def other_branch(data_directory: Path, archive: Archive, record: Record) -> str | Unknown:
    """What differs; "" where nothing does. Two servers that were promoted at the same position have the same history."""
    try:
        return _other_history(data_directory, archive, record) or _other_wal(data_directory, archive)
    except OSError as problem:
        return Unknown(f"{problem.filename}: {problem.strerror}")
    except WalkeeperError as problem:
        return Unknown(str(problem))


def newer_branch(archive: Archive, record: Record) -> str:
    """The timeline of the highest number, if the cluster has abandoned it; "" where that is the record's, or comes from it."""
    kept = archive.contents.history(record.timeline)
    newer = list(archive.contents.histories_from(record.timeline + 1))
    if kept is None or not newer or not is_abandoned(newer[-1], kept, record.position):
        return ""
    return str(newer[-1].timeline)


def _other_history(data_directory: Path, archive: Archive, record: Record) -> str:
    """A history file that is not the beginning of the archive's: each begins with its parent's, byte by byte."""
    history = archive.contents.history(record.timeline)
    stored = histories.content(archive.store, archive.layout, record.timeline) or b""
    for timeline in history.timelines[1:] if history is not None else ():
        path = data_directory / "pg_wal" / HistoryFile(timeline).name
        if path.exists() and not stored.startswith(path.read_bytes()):
            return f"timeline {timeline}"
    return ""


def _other_wal(data_directory: Path, archive: Archive) -> str:
    """The first segment of this server's newest timeline that both have, as far as this server surely has its WAL.

    From the fork's segment on two branches differ; but pg_wal may have lost that, and the server's history been replaced by the
    archive's.
    """
    had = read_control_file(data_directory).had
    newest = max(had, key=lambda byte: (byte.timeline, byte.lsn), default=None)
    if newest is None or newest.timeline == 1:
        return ""
    local = sorted((data_directory / "pg_wal").glob(f"{newest.timeline:08X}{'[0-9A-F]' * 16}"))
    for path in local[:TRIES]:
        length = min(newest.lsn - Segment.parse(path.name, archive.size).start, archive.size)
        stored = fetch(archive.store, archive.layout, archive.codec, path.name) if length > 0 else None
        if stored is not None:
            with path.open("rb") as file:
                differs = file.read(length) != stored[:length]
            return f"timeline {newest.timeline}, in {path.name}," if differs else ""
    return ""
