"""What a data directory says of its server, running or not.

``postmaster.pid`` (``src/include/utils/pidfile.h``): which run of a server it is, and its state. ``global/pg_control``
(``src/include/catalog/pg_control.h``): whose it is, and what that server has had.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.core.lsn import Lsn
from walkeeper.errors import CannotTell

_PID: Final = 0
_STARTED: Final = 2
_STATUS: Final = 7


def run_of(data_directory: Path) -> str | None:
    """The server's pid and the second of its start, ``PID-SECONDS``: no two runs share both. None while none runs."""
    lines = _lines(data_directory)
    if len(lines) <= _STARTED or not lines[_PID].isdecimal() or not lines[_STARTED].isdecimal():
        return None
    return f"{lines[_PID]}-{lines[_STARTED]}"


def is_starting(data_directory: Path) -> bool:
    """Whether nobody can connect yet: it has not got to a consistent state."""
    return _status(data_directory) == "starting"


def is_out_of_recovery(data_directory: Path) -> bool:
    """Whether it runs as a primary, and was not told to stop."""
    return _status(data_directory) == "ready"


def is_stopping(data_directory: Path) -> bool:
    """Whether the server was told to stop; it then waits for its archive_command."""
    return _status(data_directory) == "stopping"


def changed_at(path: Path) -> int | None:
    """When a file was written last, in nanoseconds: to be held against itself only. None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _status(data_directory: Path) -> str:
    lines = _lines(data_directory)
    return lines[_STATUS].strip() if len(lines) > _STATUS else ""


def _lines(data_directory: Path) -> list[str]:
    try:
        with (data_directory / "postmaster.pid").open("rb") as file:
            return file.read(8192).decode("ascii", "replace").splitlines()
    except OSError:
        return []


_IDENTITY: Final = struct.Struct("=QI")
_VERSIONS: Final = range(1300, 2000)
"""``PG_CONTROL_VERSION`` from PostgreSQL 13 on."""
_POSITIONS: Final = struct.Struct("=16xi12xQ8xI84xQI")
_WITH_POSITIONS: Final = range(1300, 1801)
"""Up to PostgreSQL 18, on 64-bit machines."""

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

    It is empty where the file's form is not known. ``wrote``: it was last a primary, and has not ended as it should; how far its
    WAL goes is not known here. ``primary``: it is one, or was last, however it ended.
    """

    system_identifier: int
    had: tuple[Byte, ...]
    wrote: bool = False
    primary: bool = False


def read_control_file(data_directory: Path) -> ControlFile:
    """Raises CannotTell where there is none, or none of PostgreSQL 13 or newer."""
    path = data_directory / "global" / "pg_control"
    try:
        content = path.read_bytes()
        system_identifier, version = _IDENTITY.unpack_from(content)
    except (OSError, struct.error) as error:
        raise CannotTell(
            f"{path}: {getattr(error, 'strerror', None) or error}",
            hint="restore-wal is run by PostgreSQL, which gives it %f and %p of its own data directory.",
        ) from None
    if version not in _VERSIONS:
        raise CannotTell(f"{path}: control version {version} is not one of PostgreSQL 13 or newer")
    had: list[Byte] = []
    wrote = primary = False
    if version in _WITH_POSITIONS and struct.calcsize("P") == 8 and len(content) >= _POSITIONS.size:
        state, checkpoint, timeline, reached, reached_timeline = _POSITIONS.unpack_from(content)
        # Of an end, as the second one is, the byte before it.
        had = [Byte(timeline, Lsn(checkpoint)), Byte(reached_timeline, Lsn(max(reached - 1, 0)))]
        wrote = state in _WRITING
        primary = wrote or state == _ENDED
    return ControlFile(system_identifier, tuple(byte for byte in had if byte.timeline), wrote, primary)
