"""``global/pg_control`` of a data directory (``src/include/catalog/pg_control.h``): whose it is, and what that server has had."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.core.lsn import Lsn
from walkeeper.errors import CannotTell

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
