"""What ``%p`` names: a WAL file of PostgreSQL's, in the pg_wal of one data directory. Told from the text alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import WalFile, parse_wal_name
from walkeeper.errors import BadName

PG_WAL: Final = "pg_wal"
_SMALLEST: Final = SegmentSize(MIB)
"""The size with which every name can be read that any other size allows."""


@dataclass(frozen=True, slots=True)
class Place:
    """``<data_directory>/pg_wal/<name>``; pg_wal and the data directory may be links to elsewhere."""

    data_directory: Path
    name: str

    @property
    def path(self) -> Path:
        return self.pg_wal / self.name

    @property
    def pg_wal(self) -> Path:
        return self.data_directory / PG_WAL

    @property
    def is_ready(self) -> bool:
        """Whether PostgreSQL is about to hand it over; whoever asks for another file is a person, or Patroni."""
        return (self.pg_wal / "archive_status" / f"{self.name}.ready").exists()

    @property
    def file(self) -> WalFile:
        """What kind of file it is, its number counted in the smallest segments."""
        return parse_wal_name(self.name, _SMALLEST)


def parse_path(path: str, cwd: str) -> Place:
    """``%p`` as PostgreSQL gives it (``pg_wal/NAME``) or as Patroni does (absolute). Raises BadName; opens nothing."""
    parts = path.split("/")
    name = parts.pop()
    parse_wal_name(name, _SMALLEST)
    if "\0" in path or ".." in parts or not parts or parts.pop() != PG_WAL:
        raise BadName(
            f"{path!r}: not a file in a pg_wal directory",
            hint="archive_command gives %p, and PostgreSQL runs it in its data directory.",
        )
    return Place(Path(cwd, "/".join(parts) or ("/" if path.startswith("/") else "")), name)
