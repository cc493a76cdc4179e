"""The spool: pg_receivewal's directory on this node. A cache: losing it loses nothing.

::

    <spool>/wal/          pg_receivewal's own directory, and nothing else in it
    <spool>/quarantine/   what does not belong to the chain, kept for a look, bounded
    <spool>/fetch/        pg_receivewal's directory while WAL is fetched from another member
    <spool>/boot          which boot of the machine wrote wal/

pg_receivewal writes without fsync, so after a crash of the machine (not of a process) its files prove nothing: the
whole content then goes to quarantine and is streamed again.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from walkeeper.core.history import History
from walkeeper.core.lsn import SegmentSize
from walkeeper.core.names import PARTIAL, Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.wal_page import HEADER_SIZE, PAGE_SIZE, Plain, SegmentHeader
from walkeeper.errors import BadName, BadSegment, ConfigError, SpoolError
from walkeeper.lib import events
from walkeeper.postgres.wal_file import Memory, read_segment

NAMED: Final = 4
"""Files put aside together that the log still names one by one."""
_COMPARED: Final = 1024 * 1024
"""Bytes that are compared at a time."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
COPY: Final = ".copy"
"""How the name of a file ends that is being copied from pg_wal."""
HISTORIES: Final = (".history", ".history.tmp")
"""pg_receivewal's own, and what it is writing of one."""


class Spool:
    """The files between pg_receivewal and the store, for one thread at a time where it says so."""

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory = directory
        self.wal = directory / "wal"
        self.fetch = directory / "fetch"
        self.quarantine = directory / "quarantine"
        self.limit = limit
        self._reported: set[str] = set()

    def open(self) -> None:
        """Make the directories, and put aside what a previous boot left. Raises ConfigError where it cannot be used."""
        try:
            self._make()
        except OSError as error:
            raise ConfigError(
                f"{self.directory}: {error.strerror}",
                hint="The spool must be writable by this user; walkeeper.spool.directory says where it is.",
            ) from None
        with _told(self.directory):
            for unfinished in self.directory.glob(f"*{COPY}"):
                unfinished.unlink()
            self._check_boot()

    def _make(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(self.directory)
        for directory in (self.wal, self.fetch, self.quarantine):
            directory.mkdir(mode=0o700, exist_ok=True)
            _check_private(directory)

    def complete(self, size: SegmentSize) -> list[Segment]:
        """The complete segments that lie in it, lowest first; other files are reported once and left alone."""
        segments = []
        with _told(self.wal):
            for entry in self._entries():
                try:
                    segment = Segment.parse(entry.name, size)
                except BadName:
                    self._report_unknown(entry.name)
                    continue
                if _is_whole(entry, size):
                    segments.append(segment)
        return sorted(segments, key=lambda segment: (segment.number, segment.timeline))

    def used(self) -> int:
        """Bytes in the receiver's directory."""
        total = 0
        with _told(self.wal):
            for entry in self._entries():
                with suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
        return total

    def read(self, segment: Segment, memory: Memory | None = None) -> Plain:
        """The whole file. Raises BadSegment if it is not a plain file of the right size, or changes while it is read;
        FileNotFoundError if it is gone. ``memory``: see ``read_wal_file``.
        """
        path = self.wal / segment.name
        try:
            return read_segment(path, segment, memory)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise spool_error(error, path) from None

    def remove(self, receipt: Receipt) -> None:
        """Drop a segment that the store has, the record and the slot are past."""
        with _told(self.wal / receipt.segment.name):
            (self.wal / receipt.segment.name).unlink(missing_ok=True)

    def drop(self, segment: Segment, kept: Path, is_kept: Callable[[], bool]) -> bool:
        """Drop a segment that may not be stored yet, if that file of pg_wal has the very same bytes, and ``is_kept`` says last of
        all that a slot keeps it.
        """
        path = self.wal / segment.name
        with _told(path):
            if not same_file(path, kept, segment.size) or not is_kept():
                return False
            path.unlink()
        return True

    def copy_in(self, segment: Segment, kept: Path) -> bool:
        """A copy of that file of pg_wal, unless PostgreSQL begins to use it again meanwhile."""
        fresh = self.directory / f"{segment.name}{COPY}"
        with _told(fresh):
            try:
                found = kept.lstat()
                if not stat.S_ISREG(found.st_mode) or found.st_size != segment.size:
                    return False
                shutil.copyfile(kept, fresh)
                if not same_file(fresh, kept, segment.size):
                    return False
                fresh.rename(self.wal / segment.name)
            except FileNotFoundError:
                return False
            finally:
                fresh.unlink(missing_ok=True)
        return True

    def drop_partials(self) -> None:
        """Those that no receiver writes any more hold nothing that pg_wal lacks."""
        with _told(self.wal):
            for entry in list(self._entries()):
                if entry.name.endswith(PARTIAL) and entry.is_file(follow_symlinks=False):
                    Path(entry.path).unlink()

    def put_strangers_aside(self, size: SegmentSize, system_identifier: int) -> None:
        """Segments of another cluster, whose names come again: the cluster was initialised again, or upgraded."""
        with _told(self.wal):
            whose = {segment.name: self._whose(segment) for segment in self.complete(size)}
        ours = (None, system_identifier)
        self._put_all_aside(
            [(name, f"of system identifier {found}") for name, found in whose.items() if found not in ours]
        )

    def _whose(self, segment: Segment) -> int | None:
        """The system identifier in a file; None where it says none, which is found out when it is read."""
        try:
            with (self.wal / segment.name).open("rb") as file:
                return SegmentHeader.parse(file.read(HEADER_SIZE), segment.name).system_identifier
        except (FileNotFoundError, BadSegment):
            return None

    def put_aside(self, name: str, why: str) -> bool:
        """Move a file of the receiver's directory to quarantine; whether there was one. Logged: never without a reason."""
        return self._put_all_aside([(name, why)]) > 0

    def _put_all_aside(self, files: Sequence[tuple[str, str]]) -> int:
        """Each with its reason; where they are many, one line says it of all. How many were there."""
        with _told(self.quarantine):
            moved = [(name, why) for name, why in files if self._move_aside(name)]
            for name, why in moved if len(moved) <= NAMED else ():
                events.warning("spool_quarantined", file=name, why=why, moved_to=self.quarantine)
            if len(moved) > NAMED:
                (first, why), (last, _) = moved[0], moved[-1]
                events.warning(
                    "spool_quarantined", files=len(moved), first=first, last=last, why=why, moved_to=self.quarantine
                )
            if moved:
                self._bound_quarantine()
            return len(moved)

    def _move_aside(self, name: str) -> bool:
        target = self.quarantine / name
        number = 0
        while target.exists():
            number += 1
            target = self.quarantine / f"{name}.{number}"
        try:
            (self.wal / name).rename(target)
        except FileNotFoundError:
            return False
        return True

    def seed(self, history: History, first: Segment) -> None:
        """Make pg_receivewal start at ``first``, a segment of that chain.

        Complete segments of the chain below it are kept: they wait for their upload or their removal. What could mislead
        pg_receivewal is put aside. Then an empty ``.partial`` is laid where it must start: the open segment is streamed
        again from its beginning. Call it only while no receiver runs.
        """
        with _told(self.wal):
            self._seed(history, first)

    def _seed(self, history: History, first: Segment) -> None:
        size = first.size
        whole = {segment.name: segment for segment in self.complete(size)}
        stale: list[tuple[str, str]] = []
        for entry in list(self._entries()):
            segment = whole.get(entry.name)
            if segment is not None and segment.number < first.number and history.contains(segment):
                continue
            if _is_segment(entry.name, size):
                stale.append((entry.name, _why_stale(entry, segment, history)))
            elif entry.name.endswith(HISTORIES):
                Path(entry.path).unlink()  # pg_receivewal fetches it again, from this server
            elif _is_partial(entry.name, size):
                stale += self._drop_partial(entry, history, size)
        self._put_all_aside(stale)
        (self.wal / (first.name + PARTIAL)).touch(mode=0o600)

    def clear_fetch(self) -> None:
        """Empty the directory for fetching from another member."""
        with _told(self.fetch):
            for path in list(self.fetch.iterdir()):
                path.unlink()

    def _drop_partial(self, entry: os.DirEntry[str], history: History, size: SegmentSize) -> list[tuple[str, str]]:
        """An ordinary one holds nothing that pg_wal lacks; one that cannot be pg_receivewal's own is to be put aside.

        pg_receivewal fills it with pages of zeros first: one that was killed meanwhile leaves some of them.
        """
        segment = Segment.parse(entry.name.removesuffix(PARTIAL), size)
        found = entry.stat(follow_symlinks=False)
        ordinary = stat.S_ISREG(found.st_mode) and found.st_size <= size and found.st_size % PAGE_SIZE == 0
        if ordinary and history.includes(segment.timeline):
            Path(entry.path).unlink()
            return []
        return [(entry.name, f"a partial of {found.st_size} bytes on timeline {segment.timeline}")]

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        try:
            entries = os.scandir(self.wal)
        except FileNotFoundError:
            self._make_again()
            return
        with entries:
            yield from entries

    def _make_again(self) -> None:
        """Somebody removed the spool: it is a cache. With its marker, or after a crash of the machine it would be trusted."""
        try:
            self._make()
        except ConfigError as problem:
            raise SpoolError(str(problem), hint=problem.hint) from None
        self._check_boot()

    def _report_unknown(self, name: str) -> None:
        if name.endswith((PARTIAL, *HISTORIES)) or name in self._reported:
            return
        self._reported.add(name)
        events.warning(
            "spool_unknown_file",
            file=self.wal / name,
            hint="walkeeper leaves the file alone. Nothing else may write in the spool.",
        )

    def _check_boot(self) -> None:
        boot = _BOOT_ID.read_text("ascii").strip()
        marker = self.directory / "boot"
        written = marker.read_text("utf-8", "replace").strip() if marker.exists() else "unknown"
        if written != boot:
            unsynced = []
            for entry in list(self._entries()):
                if not entry.name.endswith((PARTIAL, *HISTORIES)):
                    unsynced.append((entry.name, "the machine was restarted, the spool was not synced"))
                elif entry.is_file(follow_symlinks=False):
                    Path(entry.path).unlink()
            self._put_all_aside(unsynced)
        marker.write_text(boot + "\n", "ascii")

    def _bound_quarantine(self) -> None:
        """Keep it within a quarter of the spool's limit; the first to go is what was put there first."""
        files = sorted(
            (Path(entry.path) for entry in os.scandir(self.quarantine)), key=lambda path: path.stat().st_ctime_ns
        )
        total = sum(path.lstat().st_size for path in files)
        removed: list[Path] = []
        while len(files) - len(removed) > 1 and total > self.limit // 4:
            oldest = files[len(removed)]
            total -= oldest.lstat().st_size
            oldest.unlink()
            removed.append(oldest)
        if removed:
            events.warning("quarantine_full", removed=len(removed), first=removed[0], limit=self.limit // 4)


def same_file(one: Path, other: Path, size: SegmentSize) -> bool:
    """Whether both are there, whole and equal, and ``other`` has its name afterwards, too: PostgreSQL renames, then recycles."""
    try:
        with one.open("rb") as first, other.open("rb") as second:
            if not os.fstat(first.fileno()).st_size == os.fstat(second.fileno()).st_size == size:
                return False
            while part := first.read(_COMPARED):
                if part != second.read(_COMPARED):
                    return False
            return os.path.samestat(os.fstat(second.fileno()), other.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise spool_error(error, path) from None


def spool_error(error: OSError, path: Path) -> SpoolError:
    """What happened to which file, for whom."""
    mode = (
        f", mode {stat.S_IMODE(path.stat().st_mode):04o}" if os.access(path.parent, os.X_OK) and path.exists() else ""
    )
    hint = "The spool's disk is full, or failed, or its rights were changed. Nothing is lost: the WAL stays in pg_wal."
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        hint = "Raise the limit of open files (LimitNOFILE= in the unit). Nothing is lost: the WAL stays in pg_wal."
    return SpoolError(f"{error.filename or path}: {error.strerror} (uid {os.getuid()}{mode})", hint=hint)


def _is_whole(entry: os.DirEntry[str], size: SegmentSize) -> bool:
    try:
        return entry.is_file(follow_symlinks=False) and entry.stat().st_size == size
    except FileNotFoundError:
        return False


def _is_segment(name: str, size: SegmentSize) -> bool:
    try:
        Segment.parse(name, size)
    except BadName:
        return False
    return True


def _is_partial(name: str, size: SegmentSize) -> bool:
    return name.endswith(PARTIAL) and _is_segment(name.removesuffix(PARTIAL), size)


def _why_stale(entry: os.DirEntry[str], segment: Segment | None, history: History) -> str:
    if segment is None:
        return f"its size is {entry.stat(follow_symlinks=False).st_size}"
    if not history.contains(segment):
        return f"not in the chain of timeline {history.timeline}"
    return "beyond a hole in the chain"


def _check_private(directory: Path) -> None:
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(
            f"{directory}: it must be a directory of uid {os.getuid()} with mode 0700, not a link "
            f"(uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o})",
            hint="WAL holds your data: nobody else may read the spool. Remove it, so that a new one is made, or chown and "
            "chmod it.",
        )
