"""Which bytes of an archived file a server that asks for it may have; its data directory alone decides.

Two things are kept from it. A timeline history that a starting standby could not follow. And, of a segment on an older
timeline, everything beyond the fork: for each segment number PostgreSQL takes the file of the newest timeline that it can get.
Where the newer timeline's segment is not archived yet, it takes the older one's and reads past the fork: WAL that a dead
primary wrote, and that the branch which the server follows never had. Two places say which branch that is: the server's
pg_wal, where PostgreSQL keeps the history that it follows, and its control file.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from walkeeper.archive.read import wal_file
from walkeeper.archive.tail_read import AssembledTail
from walkeeper.core.branches import left_at
from walkeeper.core.history import History, parse_history
from walkeeper.core.lsn import SegmentSize
from walkeeper.core.names import HistoryFile, Segment
from walkeeper.core.wal_page import HEADER_SIZE, SegmentHeader
from walkeeper.core.wal_records import begins, goes_on
from walkeeper.errors import BadSegment
from walkeeper.lib import events
from walkeeper.postgres.data_directory import Byte, is_starting, read_control_file, read_histories


def followed(data_directory: Path) -> list[History]:
    """Those in pg_wal that this server follows, or may still. One that cannot be read is PostgreSQL's to complain of.

    PostgreSQL also leaves those there that it found and could not follow, because it had come further on the other branch.
    """
    found: dict[int, bytes] = {}
    with suppress(OSError):
        found = read_histories(data_directory / "pg_wal")
    had = read_control_file(data_directory).had
    histories = (parse_history(timeline, content) for timeline, content in found.items())
    return [history for history in histories if not _lacks(history, had)]


def for_server(name: str, plain: bytes, data_directory: Path) -> bytes | None:
    """What the server there is to have of that file; None: nothing. Raises CannotTell, or BadHistory."""
    file = wal_file(name)
    if isinstance(file, HistoryFile):
        return None if _is_withheld(parse_history(file.timeline, plain), data_directory) else plain
    return _up_to_the_fork(name, plain, data_directory) if isinstance(file, Segment) else plain


def _is_withheld(history: History, data_directory: Path) -> bool:
    """One that is up may be looking for a number that is free, and itself refuses what it cannot follow."""
    if not (data_directory / "standby.signal").exists() or not is_starting(data_directory):
        return False
    withheld = _came_further(history, data_directory) or _ran_ahead(history, data_directory)
    if withheld:
        events.info("timeline_withheld", timeline=history.timeline, why="the server has WAL from beyond the fork")
    return withheld


def _came_further(history: History, data_directory: Path) -> bool:
    """Whether the server there has WAL, by its control file, that ``history`` lacks.

    PostgreSQL no longer starts where its target is a timeline that does not have all of it: *is not a child of this
    server's history*, *does not contain minimum recovery point*. It keeps the history in its pg_wal then, and looks there, too.
    """
    return _lacks(history, read_control_file(data_directory).had)


def _lacks(history: History, had: Iterable[Byte]) -> bool:
    return any(byte.timeline < history.timeline and not history.has(byte.timeline, byte.lsn) for byte in had)


def _ran_ahead(history: History, data_directory: Path) -> bool:
    """Whether the server there died as a primary, and wrote beyond where ``history`` left its timeline.

    If it starts as a standby that is told of that history, its crash recovery goes on beyond the fork all the same (tried on
    PostgreSQL 15 to 18), and what it writes once it is promoted claims an ancestry that it does not have.
    """
    control = read_control_file(data_directory)
    if not control.wrote or not control.had:
        return False
    timeline = control.had[0].timeline
    fork = next((switch.lsn for switch in history.switches if switch.timeline == timeline), None)
    size = _segment_size(data_directory / "pg_wal", timeline)
    if fork is None or size is None:
        return False
    segment, following = (Segment(timeline, fork // size + step, size) for step in (0, 1))
    with suppress(OSError):
        if begins((data_directory / "pg_wal" / following.name).read_bytes(), following):
            return True
    with suppress(OSError):
        return goes_on((data_directory / "pg_wal" / segment.name).read_bytes(), segment, fork)
    return False


def _segment_size(pg_wal: Path, timeline: int) -> SegmentSize | None:
    """As a segment of that timeline says it."""
    for path in pg_wal.glob(f"{timeline:08X}{'[0-9A-F]' * 16}"):
        with suppress(OSError, BadSegment), path.open("rb") as file:
            return SegmentHeader.parse(file.read(HEADER_SIZE), path.name).segment_size
    return None


def _up_to_the_fork(name: str, plain: bytes, data_directory: Path) -> bytes | None:
    """The complete segment, where the server follows its timeline to the segment's end. Else what lies before the fork, with
    zeros behind, or None, where that has nothing that the local copy lacks. Raises CannotTell.
    """
    segment = Segment.parse(name, SegmentHeader.parse(plain, name).segment_size)
    fork = left_at(followed(data_directory), segment)
    if fork is None:
        return plain
    events.info("cut_at_fork", file=segment, fork=fork, why="the server follows a newer timeline")
    before = plain[: max(0, fork - segment.start)]
    return AssembledTail(segment, "the complete segment", before).beyond(data_directory / "pg_wal") if before else None
