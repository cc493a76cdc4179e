"""What a data directory says of its server, running or not.

``postmaster.pid``, which ``postmaster_pid`` reads: which run of a server it is, and its state. ``global/pg_control``
(``src/include/catalog/pg_control.h``): whose it is, and what that server has had. ``pg_wal/*.history``: its timelines.
``backup_label``: where a base backup's WAL begins.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.core.history import MAX_HISTORY_BYTES, parse_history
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import BadHistory, BadName, CannotTell, WalkeeperError
from walkeeper.lib import events
from walkeeper.postgres import postmaster_pid


@dataclass(frozen=True, slots=True)
class RunningServer:
    """One run of a postmaster. ``started`` is its start in seconds, as it wrote it."""

    data_directory: Path
    pid: int
    started: str

    @property
    def runs(self) -> bool:
        return running_server(self.data_directory) == self


def running_server(data_directory: Path) -> RunningServer | None:
    """Who runs there; None for nobody, as for pg_rewind on a server that is down."""
    found = postmaster_pid.running(str(data_directory))
    return None if found is None else RunningServer(data_directory, found[0], found[1])


def run_of(data_directory: Path) -> str | None:
    """The server's pid and the second of its start, ``PID-SECONDS``: no two runs share both. None while none runs."""
    server = running_server(data_directory)
    return None if server is None else f"{server.pid}-{server.started}"


def is_starting(data_directory: Path) -> bool:
    """Whether nobody can connect yet: it has not got to a consistent state."""
    return _status(data_directory) == "starting"


def is_out_of_recovery(data_directory: Path) -> bool:
    """Whether it runs as a primary, and was not told to stop. A hot standby is ready, too, and has its signal file still."""
    recovers = any((data_directory / name).exists() for name in ("standby.signal", "recovery.signal"))
    return _status(data_directory) == "ready" and not recovers


def is_stopping(data_directory: Path) -> bool:
    """Whether the server was told to stop; it then waits for its archive_command."""
    return _status(data_directory) == "stopping"


def clone_of(data_directory: Path) -> str:
    """The archive that a restore made this cluster a clone of, or empty: it came from there, and never archives there."""
    try:
        with (data_directory / CLONE_OF).open("rb") as file:
            return file.read(_LONGEST_URL).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""


def changed_at(path: Path) -> int | None:
    """When a file was written last, in nanoseconds: to be held against itself only. None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _status(data_directory: Path) -> str:
    found = postmaster_pid.running(str(data_directory))
    return "" if found is None else found[2]


def read_histories(pg_wal: Path, own: int | None = None) -> dict[int, bytes]:
    """The histories in pg_wal, by timeline: those that can be read and understood.

    ``own`` is the server's timeline, for a caller that builds on it: raises BadHistory or OSError for that one, and others that
    are left out are logged. Raises OSError where pg_wal cannot be listed.
    """
    found: dict[int, bytes] = {}
    for path in pg_wal.iterdir():
        match = _HISTORY.match(path.name)
        if match is None or int(match[1], 16) < 2:
            continue
        timeline = int(match[1], 16)
        try:
            with path.open("rb") as file:
                content = file.read(MAX_HISTORY_BYTES + 1)
            parse_history(timeline, content)
        except (OSError, BadHistory) as problem:
            if timeline == own:
                raise
            if own is not None:
                events.failure("history_ignored", problem, file=path)
            continue
        found[timeline] = content
    return found


def backup_begins(data_directory: Path) -> tuple[Segment, Segment] | None:
    """Of the base backup there, until a server has read its ``backup_label``: the segment in which replay begins, and the one of
    its checkpoint, which PostgreSQL reads before. None where that is not known. Raises CannotTell as ``read_control_file``.
    """
    try:
        with (data_directory / "backup_label").open("rb") as file:
            match = _BEGINS.match(file.read(_LONGEST_BEGINNING))
    except OSError:
        return None
    size = read_control_file(data_directory).segment_size
    if match is None or size is None:
        return None
    name, checkpoint = (text.decode() for text in match.groups())
    try:
        first = Segment.parse(name, size)
    except BadName:
        return None
    return (first, Segment.at(first.timeline, Lsn.parse(checkpoint), size)) if first.number > 0 else None


CLONE_OF: Final = "walkeeper_clone_of"
"""A file with the store's URL and the archive's place in it. Base backups and pg_rewind bring it to replicas, too."""
_LONGEST_URL: Final = 4096
_BEGINS: Final = re.compile(
    rb"START WAL LOCATION: [0-9A-F/]+ \(file ([0-9A-F]{24})\)\nCHECKPOINT LOCATION: ([0-9A-F]{1,8}/[0-9A-F]{1,8})\n"
)
_LONGEST_BEGINNING: Final = 256
_HISTORY: Final = re.compile(r"([0-9A-F]{8})\.history\Z")
_IDENTITY: Final = struct.Struct("=QI")
_VERSIONS: Final = range(1300, 10_000)
"""``PG_CONTROL_VERSION`` from PostgreSQL 13 on; a newer major has a higher one."""
_TO_18: Final = struct.Struct("=16xi12xQ8xI84xQI")
_IN_19: Final = struct.Struct("=16xi12xQ8xI92xQI")
_POSITIONS: Final = {1300: _TO_18, 1700: _TO_18, 1800: _TO_18, 1905: _IN_19}
"""By version, on 64-bit machines: state, last checkpoint and its timeline, minimum recovery point and its timeline.

PostgreSQL 13 to 16 have 1300. A checkpoint has eight bytes more in 19.
"""

_FLOAT_FORMAT: Final = struct.pack("=d", 1234567.0)
_SIZES: Final = struct.Struct("=4I")
"""Behind that number: bytes of a page, pages of a file, bytes of a page of WAL, bytes of a segment."""
_ENDED: Final = 1
_WRITING: Final = frozenset({3, 4, 6})
"""``DBState``: shut down; shutting down, in crash recovery, in production. Recoveries have others, and the end of one."""


@dataclass(frozen=True, slots=True)
class Byte:
    """One of the WAL: the one at ``lsn`` of that timeline."""

    timeline: int
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class ControlFile:
    """``had`` is WAL that the server has in it, the last checkpoint first: what it follows must have it too.

    ``wrote``: it was last a primary, and has not ended as it should; how far its WAL goes is not known here. ``primary``: it is
    one, or was last, however it ended. All three say nothing, empty and False, where the file's form is not known.
    ``segment_size``: of its WAL; None where the file does not say.
    """

    system_identifier: int
    had: tuple[Byte, ...]
    wrote: bool = False
    primary: bool = False
    segment_size: SegmentSize | None = None

    @property
    def shut_down(self) -> bool:
        """Whether it was last a primary, and has ended as it should. PostgreSQL says so when no session is left."""
        return self.primary and not self.wrote


def read_control_file(data_directory: Path) -> ControlFile:
    """Raises CannotTell where there is none, or none of PostgreSQL 13 or newer."""
    path = data_directory / "global" / "pg_control"
    try:
        content = path.read_bytes()
        system_identifier, version = _IDENTITY.unpack_from(content)
    except (OSError, struct.error) as error:
        raise CannotTell(
            f"{path}: {getattr(error, 'strerror', None) or error}",
            hint="PostgreSQL runs restore-wal in its data directory, with %f and %p. By hand: walkeeper fetch FILE DIRECTORY.",
        ) from None
    if version not in _VERSIONS:
        raise CannotTell(f"{path}: control version {version} is not one of PostgreSQL 13 or newer")
    had: list[Byte] = []
    wrote = primary = False
    form = _POSITIONS.get(version)
    if form is not None and struct.calcsize("P") == 8 and len(content) >= form.size:
        state, checkpoint, timeline, reached, reached_timeline = form.unpack_from(content)
        # Of an end, as the second one is, the byte before it.
        had = [Byte(timeline, Lsn(checkpoint)), Byte(reached_timeline, Lsn(max(reached - 1, 0)))]
        wrote = state in _WRITING
        primary = wrote or state == _ENDED
    seen = tuple(byte for byte in had if byte.timeline)
    return ControlFile(system_identifier, seen, wrote, primary, _segment_size(content))


def _segment_size(content: bytes) -> SegmentSize | None:
    """It stands behind a number that is the same in each, and between which and the other sizes no version put anything."""
    try:
        return SegmentSize(_SIZES.unpack_from(content, content.index(_FLOAT_FORMAT) + len(_FLOAT_FORMAT))[3])
    except (ValueError, struct.error, WalkeeperError):
        return None
