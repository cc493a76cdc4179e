"""The servers that run on this host, whatever their data directory, and the directories in which they keep what is theirs."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.errors import CannotTell
from walkeeper.postgres.data_directory import read_control_file

_INITIAL: Final = "pid:[4026531836]"
"""The machine's own PID namespace (``PROC_PID_INIT_INO`` in ``proc_ns.h``)."""
_PID_IN_IT: Final = re.compile(r"^NSpid:.*\s([0-9]+)$", re.MULTILINE)
"""A process's number in its own PID namespace, which is what a postmaster writes."""


@dataclass(frozen=True, slots=True)
class Postmaster:
    """``directory`` and ``root`` are opened from here, in a container, too; ``shown`` is the data directory as it names it."""

    pid: int
    directory: Path
    root: Path
    shown: str

    @property
    def system_identifier(self) -> int | None:
        """None where it cannot be read."""
        try:
            return read_control_file(self.directory).system_identifier
        except CannotTell:
            return None

    @property
    def tablespaces(self) -> dict[int, str]:
        """Where each lies, as it names it, by OID; without those in the data directory itself."""
        return links(self.directory)

    def owns(self, place: Path, major: int) -> str:
        """What the server has in that directory, for people; empty for nothing that is known. In a tablespace a server of another
        version than ``major`` has its own beside it."""
        theirs = {"the data directory": self.directory, "pg_wal": self.directory / "pg_wal"}
        with suppress(OSError):
            theirs["pg_wal"] = self._seen(str((self.directory / "pg_wal").readlink()))
        if _version(self.directory) == str(major):
            theirs |= {f"tablespace {oid}": self._seen(where) for oid, where in self.tablespaces.items()}
        return next((what for what, there in theirs.items() if is_same(place, there)), "")

    def _seen(self, path: str) -> Path:
        return self.root / path.lstrip("/") if path.startswith("/") else self.directory / path


def postmasters() -> Iterator[Postmaster]:
    """Those that /proc shows to this user. A postmaster works in its data directory, and its number stands there."""
    processes: list[Path] = []
    with suppress(OSError):
        processes += Path("/proc").iterdir()
    for process in processes:
        if process.name.isdecimal():
            with suppress(OSError):
                number = _number(process / "cwd")
                if number and number == _own_number(process):
                    shown = str((process / "cwd").readlink())
                    yield Postmaster(int(process.name), process / "cwd", process / "root", shown)


def sees_all() -> bool:
    """Whether no server of this user can run on this machine without /proc showing it."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _INITIAL
    except OSError:
        return False


def links(data_directory: Path) -> dict[int, str]:
    """Where pg_tblspc's links point to, by OID."""
    found = {}
    with suppress(OSError):
        for link in (data_directory / "pg_tblspc").iterdir():
            if link.name.isdecimal() and link.is_symlink():
                found[int(link.name)] = str(link.readlink())
    return found


def _number(directory: Path) -> str:
    """In any process's working directory: what lies there may be anything, a pipe that nobody writes to or a link."""
    with suppress(UnicodeDecodeError):
        file = os.open(directory / "postmaster.pid", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(file).st_mode):
                return os.read(file, 32).partition(b"\n")[0].decode().strip()
        finally:
            os.close(file)
    return ""


def _own_number(process: Path) -> str:
    found = _PID_IN_IT.search((process / "status").read_text(errors="replace"))
    return found[1] if found else process.name


def _version(directory: Path) -> str:
    try:
        return (directory / "PG_VERSION").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
