"""A backup's pieces into place: in parallel, in any order, each proved. Files are made and sized before.

What is written of a piece before it is proved does no harm: without ``global/pg_control``, which is only collected here,
the directory does not start.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final, NamedTuple

from walkeeper.archive.backups import Backups
from walkeeper.core.backup import Backup
from walkeeper.core.backup_index import Part, Piece
from walkeeper.core.tar_header import around
from walkeeper.errors import BadBackup, CannotTell, Locked, StoreError
from walkeeper.lib import events
from walkeeper.lib.parallel import in_parallel
from walkeeper.lib.retry import patiently
from walkeeper.restore import state
from walkeeper.restore.directory import settings
from walkeeper.restore.directory.tree import PG_WAL, Tree

PG_CONTROL: Final = "global/pg_control"
_OF_A_RUN: Final = frozenset(
    {"standby.signal", "recovery.signal", "postmaster.pid", "postmaster.opts", "tablespace_map"}
)
"""Of a replica's role, of a run that is over, and what the restore writes itself."""
_OF_A_RESTORE: Final = frozenset({state.NAME, settings.START_CONF, settings.START_LOG, settings.HBA})
"""A backup may have them of one before it."""
OURS: Final = _OF_A_RUN | _OF_A_RESTORE
"""What of a restored directory is not the backup's, beside ``postgresql.auto.conf`` with its settings."""
PATIENCE: Final = 900.0
"""Seconds that a store may be away before a restore ends; the same command goes on with it."""
_READ: Final = 1024 * 1024
_NAMED: Final = 3
"""Files that are named of those in a damaged piece."""


class Moved(NamedTuple):
    """One piece: its plain bytes, and what was downloaded for it; nothing where the files had them already."""

    plain: int
    packed: int


class Fetch:
    """One backup's."""

    def __init__(self, backups: Backups, backup: Backup, tree: Tree, patience: float = PATIENCE) -> None:
        self._backups = backups
        self._backup = backup
        self._tree = tree
        self._patience = patience
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self.control = b""
        """What becomes pg_control, last of all."""

    def pieces(self, workers: int, *, look_first: bool) -> Iterator[Moved]:
        """All of them, as they get there. ``look_first``: the directory may have some of it already.

        Raises CannotTell for a piece that is missing or damaged, the store's errors after the patience, BadBackup or OSError.
        """

        def one(piece: Piece) -> Moved:
            if look_first and self._is_there(piece):
                return Moved(piece.size, 0)
            self._patiently(piece)
            return Moved(piece.size, piece.packed_size)

        yield from in_parallel(one, self._backups.index(self._backup), workers)
        if not self.control:
            raise BadBackup(f"backup {self._backup.id}: it has no {PG_CONTROL}", hint="Use another one.")

    def _patiently(self, piece: Piece) -> None:
        """One that arrives damaged is asked for once more; a store that is away, until the patience is over."""

        def wait(problem: StoreError, seconds: float) -> None:
            events.failure("restore_waits", problem, piece=piece.sha256, seconds=seconds)
            time.sleep(seconds)

        for last in (False, True):
            try:
                patiently(lambda: self._pour(piece), self._patience, wait)
            except Locked:
                raise
            except CannotTell as problem:
                if last:
                    raise CannotTell(
                        f"{problem}; it has {_files(piece)}",
                        hint="This backup is damaged: restore another one with --backup; walkeeper backups lists them. What was "
                        "written does not start as a database.",
                    ) from None
            else:
                return

    def _pour(self, piece: Piece) -> None:
        parts = (part for part in piece.parts if part.length)
        part, at = next(parts, None), 0
        control = bytearray()
        with ExitStack() as opened:
            write = self._writer(part, opened, control)
            for chunk in self._backups.pour(self._backup, piece):
                view, end = memoryview(chunk), at + len(chunk)
                while part is not None and part.at < end:
                    begin = max(part.at, at)
                    stop = min(part.at + part.length, end)
                    write(view[begin - at : stop - at], part.offset + begin - part.at)
                    if stop < part.at + part.length:
                        break
                    opened.close()
                    part = next(parts, None)
                    write = self._writer(part, opened, control)
                at = end
        if control:
            self.control = bytes(control)

    def _writer(self, part: Part | None, opened: ExitStack, control: bytearray) -> Callable[[memoryview, int], object]:
        if part is not None and part.path == PG_CONTROL:
            return lambda data, _: control.extend(data)
        if part is None or not is_placed(part):
            return lambda _, __: None
        fd = opened.enter_context(self._tree.to_write(part.path))
        if part.length == part.size:
            return lambda data, offset: _write_at(fd, data, offset)
        lock = self._lock_of(part.path)

        def alone(data: memoryview, offset: int) -> None:
            with lock:
                _write_at(fd, data, offset)

        return alone

    def _lock_of(self, path: str) -> threading.Lock:
        """Threads that write one file side by side burn a processor each while they wait for the kernel's lock."""
        with self._lock:
            return self._locks.setdefault(path, threading.Lock())

    def _is_there(self, piece: Piece) -> bool:
        """Whether the files have the piece's bytes already, told by its SHA-256."""
        found = hashlib.sha256()
        for before, part in around(piece):
            found.update(before)
            if part is not None and part.length:
                if not is_placed(part):
                    return False
                with self._tree.to_read(part.path) as fd:
                    if not _sum(fd, part, found.update):
                        return False
        return found.hexdigest() == piece.sha256


def is_placed(part: Part) -> bool:
    """Whether it gets its place from the backup: not pg_control, which comes last, and no WAL, which comes from the archive."""
    if part.path == PG_CONTROL or part.path in _OF_A_RUN or part.path in _OF_A_RESTORE:
        return False
    return part.kind == "d" or not part.path.startswith(f"{PG_WAL}/")


def check_order(piece: Piece) -> None:
    """That a piece's parts follow each other. Raises BadBackup."""
    end = 0
    for part in piece.parts:
        if part.at < end:
            raise BadBackup(f"the index: {part.path!r} lies within what is before it", hint="The backup is damaged.")
        end = part.at + part.length


def _sum(fd: int, part: Part, update: Callable[[bytes], object]) -> bool:
    """False where the file is shorter."""
    at, end = part.offset, part.offset + part.length
    while at < end:
        data = os.pread(fd, min(_READ, end - at), at)
        if not data:
            return False
        update(data)
        at += len(data)
    return True


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def _files(piece: Piece) -> str:
    paths = [part.path for part in piece.parts if part.kind == "f"]
    more = f" and {len(paths) - _NAMED:,} files more" if len(paths) > _NAMED else ""
    return f"{', '.join(paths[:_NAMED])}{more}" if paths else "no file"
