"""The names that PostgreSQL gives to WAL files (``src/include/access/xlog_internal.h``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.errors import BadName

_SEGMENT: Final = re.compile(r"[0-9A-F]{24}\Z", re.ASCII)
_PARTIAL: Final = re.compile(r"([0-9A-F]{24})\.partial\Z", re.ASCII)
_BACKUP: Final = re.compile(r"([0-9A-F]{24})\.([0-9A-F]{8})\.backup\Z", re.ASCII)
_HISTORY: Final = re.compile(r"([0-9A-F]{8})\.history\Z", re.ASCII)

PARTIAL: Final = ".partial"


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One WAL file of one timeline. ``number`` counts from the start of the log, in units of ``size``."""

    timeline: int
    number: int
    size: SegmentSize

    @property
    def name(self) -> str:
        log, low = divmod(self.number, self.size.per_log)
        return f"{self.timeline:08X}{log:08X}{low:08X}"

    @property
    def start(self) -> Lsn:
        return Lsn(self.number * self.size)

    @property
    def end(self) -> Lsn:
        """The first position after it."""
        return Lsn((self.number + 1) * self.size)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, name: str, size: SegmentSize) -> Segment:
        """A 24-character name to a segment. Raises BadName, also for a name that this segment size cannot have."""
        if _SEGMENT.match(name) is None:
            raise BadName(
                f"{name!r}: not a segment name", hint="A segment's name is 24 upper-case hexadecimal characters."
            )
        timeline, log, low = int(name[:8], 16), int(name[8:16], 16), int(name[16:], 16)
        if timeline == 0:
            raise BadName(f"{name!r}: there is no timeline 0")
        if low >= size.per_log:
            raise BadName(
                f"{name!r}: no such segment with a segment size of {size} bytes",
                hint="The file comes from a cluster with another wal_segment_size.",
            )
        return cls(timeline, log * size.per_log + low, size)

    @classmethod
    def at(cls, timeline: int, lsn: Lsn, size: SegmentSize) -> Segment:
        """The segment of that timeline that holds the byte at ``lsn``."""
        return cls(timeline, lsn // size, size)


@dataclass(frozen=True, slots=True)
class PartialFile:
    """The last segment of a timeline that ended inside it: ``….partial``."""

    segment: Segment

    @property
    def name(self) -> str:
        return self.segment.name + PARTIAL


@dataclass(frozen=True, slots=True)
class BackupFile:
    """A backup's label, left in the archive by ``pg_backup_stop``: ``….XXXXXXXX.backup``."""

    segment: Segment
    offset: int

    @property
    def name(self) -> str:
        return f"{self.segment.name}.{self.offset:08X}.backup"


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """Where a timeline comes from: ``XXXXXXXX.history``. PostgreSQL also asks for the first one's, which has none."""

    timeline: int

    @property
    def name(self) -> str:
        return f"{self.timeline:08X}.history"


WalFile = Segment | PartialFile | BackupFile | HistoryFile


def parse_wal_name(name: str, size: SegmentSize) -> WalFile:
    """Any name that PostgreSQL hands to archive_command or restore_command. Raises BadName for all others."""
    if match := _HISTORY.match(name):
        timeline = int(match[1], 16)
        if timeline == 0:
            raise BadName(f"{name!r}: there is no timeline 0")
        return HistoryFile(timeline)
    if match := _PARTIAL.match(name):
        return PartialFile(Segment.parse(match[1], size))
    if match := _BACKUP.match(name):
        return BackupFile(Segment.parse(match[1], size), int(match[2], 16))
    if _SEGMENT.match(name):
        return Segment.parse(name, size)
    raise BadName(
        f"{name!r}: not the name of a WAL file",
        hint="PostgreSQL's names are 24 hexadecimal characters, or end in .history, .partial or .backup.",
    )
