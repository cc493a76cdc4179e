"""Where WAL of the cluster may lie besides the archive, and how much room its disks have."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from walkeeper.agent.archiver.elsewhere import OtherStore
from walkeeper.agent.archiver.spool import Spool
from walkeeper.archive.write import Archive
from walkeeper.config import PostgresqlSettings
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.room import Disk
from walkeeper.core.suspicion import below_reserve
from walkeeper.core.wal_page import Plain
from walkeeper.errors import BadSegment, PostgresError
from walkeeper.lib.clock import Clock
from walkeeper.postgres.wal_file import is_there, read_segment, unreadable


@dataclass(frozen=True, slots=True)
class Candidate:
    """A member that may have WAL; without ``settings`` it is known by name only, and cannot be asked. ``gone``: without a key in
    the DCS.
    """

    name: str
    settings: PostgresqlSettings | None
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Sources:
    """Where lost WAL may still be. ``members`` tells for a frontier which members may have WAL from there on."""

    archive: Archive
    history: History
    pg_wal: Path
    spool: Spool
    members: Callable[[Lsn], Sequence[Candidate]]
    program: Path | None
    """pg_receivewal; without it no member can be asked."""
    clock: Clock
    cancelled: Callable[[], bool]
    stores: tuple[OtherStore, ...] = ()
    """The cluster's others."""
    disks: Callable[[], Iterable[Disk]] = tuple
    """Those that the hold slot fills: of pg_wal here and at other members, as they were lately."""


def is_lost(sources: Sources, wanted: Segment, server_lsn: Lsn) -> bool:
    """Whether the local server had that segment complete and no longer has it, so that asking again cannot help."""
    try:
        return wanted.end <= server_lsn and not is_there(sources.pg_wal / wanted.name)
    except PostgresError:
        return False


def from_pg_wal(sources: Sources, wanted: Segment) -> Plain | None:
    """None where it is not there. Raises PostgresError where that cannot be told."""
    path = sources.pg_wal / wanted.name
    try:
        return read_segment(path, wanted)
    except (FileNotFoundError, BadSegment):
        return None
    except OSError as error:
        problem = unreadable(path, error)
        if isinstance(problem, BadSegment):
            return None
        raise problem from None


def disk_of(path: Path) -> tuple[int, int]:
    """Free bytes, for who is not root, and all bytes of the file system that it lies on."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def short_of_disk(pg_wal: Path, size: SegmentSize, disks: Callable[[], Iterable[Disk]] = tuple) -> bool:
    """Whether the disk of pg_wal runs short, now, or one of ``disks``; a disk that cannot be asked does not."""
    try:
        if below_reserve(*disk_of(pg_wal), size):
            return True
    except OSError:
        pass
    return any(below_reserve(disk.free, disk.total, size, disk.growth) for disk in disks())
