"""A backup's pieces into place: in parallel, in any order, each proved. Files are made and sized before.

What is written of a piece before it is proved does no harm: without ``global/pg_control``, which is only collected here,
the directory does not start.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Final, NamedTuple

import xxhash

from walkeeper.archive.backups import Backups
from walkeeper.core.backup import Backup
from walkeeper.core.backup_index import Part, Piece
from walkeeper.core.incremental import BLOCK, Changes, Layers, changed_path, read_changes
from walkeeper.core.tar_header import around
from walkeeper.errors import BadBackup, CannotTell, Damaged, Locked, StoreError
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
    """One piece: its plain bytes, what was downloaded for it, and what of the plain ones the files had already. Neither where a
    later backup has all of it."""

    plain: int
    packed: int
    kept: int


class Fetch:
    """Those of a chain, one backup after the other: what the next one changes is whole by then.

    A piece with changed blocks is written when it is proved, and once: a wrong number would spoil a file that is whole.
    """

    def __init__(self, backups: Backups, layers: Layers, tree: Tree) -> None:
        self._backups = backups
        self._layers = layers
        self._tree = tree
        self._number = 0
        """The backup that is fetched, in the chain."""
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._told = Told()
        self.control = b""
        """What becomes pg_control, last of all."""

    def pieces(self, workers: int, *, look_first: bool) -> Iterator[Moved]:
        """All of them, as they get there. ``look_first``: the directory may have some of it already.

        Raises CannotTell for a piece that is missing, Damaged, with its ``backup``, for one that is damaged, the store's errors
        after the patience, BadBackup or OSError.
        """

        def one(piece: Piece) -> Moved:
            if not any(map(self._takes, piece.parts)):
                return Moved(piece.size, 0, 0)
            if look_first and self._is_there(piece):
                return Moved(piece.size, 0, piece.size)
            try:
                self._patiently(piece)
            except BaseException as problem:  # noqa: BLE001 - raised, or the one before it
                raise self._told.fail(problem) from None
            return Moved(piece.size, piece.packed_size, 0)

        for number in range(len(self._layers.chain)):
            self._number = number
            try:
                yield from in_parallel(one, read_index(self._backups, self._backup), workers)
            except Damaged as problem:
                problem.backup = self._backup.id
                raise
        if not self.control:
            raise BadBackup(f"backup {self._backup.id}: it has no {PG_CONTROL}", hint="Use another one.")

    @property
    def _backup(self) -> Backup:
        return self._layers.chain[self._number]

    def _takes(self, part: Part) -> bool:
        if part.path == PG_CONTROL:
            return self._number == len(self._layers.chain) - 1
        return is_placed(part) and self._layers.takes(self._number, part)

    def _changed(self, part: Part) -> str | None:
        return self._layers.changes(self._number, part)

    def _patiently(self, piece: Piece) -> None:
        """One that arrives damaged is asked for once more; a store that is away, until the patience is over."""
        for last in (False, True):
            try:
                patiently(lambda: self._pour(piece), PATIENCE, _waits(piece=piece.sha256))
            except Locked:
                raise
            except CannotTell as problem:
                if last:
                    raise (Damaged if isinstance(problem, Damaged) else CannotTell)(
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
        chunks: Iterable[bytes] = self._backups.pour(self._backup, piece)
        if any(self._changed(each) and self._takes(each) for each in piece.parts):
            chunks = (self._backups.read_piece(self._backup, piece),)
        with ExitStack() as opened:
            write = self._writer(part, opened, control)
            for chunk in chunks:
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
        if part is None or not self._takes(part):
            return lambda _, __: None
        if part.path == PG_CONTROL:
            return lambda data, _: control.extend(data)
        path = self._changed(part)
        fd = opened.enter_context(self._tree.to_write(path or part.path))

        alone: AbstractContextManager[object] = (
            nullcontext() if part.length == part.size else self._lock_of(path or part.path)
        )

        def write(data: memoryview, offset: int) -> None:
            try:
                changes = None if path is None else self._changes_of(part, data, fd)
                with alone:
                    if changes is None:
                        _write_at(fd, data, offset)
                    else:
                        _write_blocks(fd, changes, data, offset)
                        self._told.written(part)
            except OSError as problem:
                problem.filename = part.path  # which tells whose disk is full
                raise

        return write

    def _changes_of(self, part: Part, data: memoryview, fd: int) -> Changes:
        """With the first part of a file of changed blocks, the file gets its size; what is before the others is waited for."""
        if part.offset:
            return self._told.wait(part)
        changes = read_changes(data, part.size)
        if changes is None or changes.size != part.restored:
            raise BadBackup(
                f"backup {self._backup.id}: {part.path}: it has no changed blocks, or not those of its index",
                hint="The backup is damaged: use another one.",
            )
        os.ftruncate(fd, changes.kept)
        os.ftruncate(fd, changes.size)
        self._told.tell(part, changes)
        return changes

    def _lock_of(self, path: str) -> threading.Lock:
        """Threads that write one file side by side burn a processor each while they wait for the kernel's lock."""
        with self._lock:
            return self._locks.setdefault(path, threading.Lock())

    def _is_there(self, piece: Piece) -> bool:
        """Whether the files have the piece's bytes already, told by its XXH3: a tenth of a SHA-256's time."""
        found = xxhash.xxh3_128(seed=self._backup.seed)
        for before, part in around(piece):
            found.update(before)
            if part is not None and part.length:
                if not is_placed(part) or not self._takes(part) or self._changed(part):
                    return False
                with self._tree.to_read(part.path) as fd:
                    if not _sum(fd, part, found.update):
                        return False
        return found.hexdigest() == piece.xxh3


def read_index(backups: Backups, backup: Backup) -> Iterator[Piece]:
    """As ``Backups.index``, with the patience that pieces are given."""
    return patiently(lambda: backups.index(backup), PATIENCE, _waits(index=backup.id))


def _waits(**what: str) -> Callable[[StoreError, float], None]:
    def wait(problem: StoreError, seconds: float) -> None:
        events.failure("restore_waits", problem, seconds=seconds, **what)
        time.sleep(seconds)

    return wait


class Told:
    """What the first part of each file of changed blocks in several pieces says, for those who write the others.

    It is kept until the last one is written: the numbers of all blocks of a large cluster are gigabytes. A part is written once,
    and at once.
    """

    def __init__(self) -> None:
        self._changes: dict[str, Changes] = {}
        self._left: dict[str, int] = {}
        """Bytes of each that are not written."""
        self._condition = threading.Condition()
        self._problem: BaseException | None = None

    def __len__(self) -> int:
        return len(self._changes)

    def tell(self, part: Part, changes: Changes) -> None:
        if part.length < part.size:
            with self._condition:
                self._changes[part.path], self._left[part.path] = changes, part.size
                self._condition.notify_all()

    def wait(self, part: Part) -> Changes:
        """Raises CannotTell where nobody will tell any more."""
        with self._condition:
            self._condition.wait_for(lambda: self._problem is not None or part.path in self._changes)
            if self._problem is not None:
                raise CannotTell(f"{part.path}: the restore has failed")
            return self._changes[part.path]

    def written(self, part: Part) -> None:
        with self._condition:
            if part.path in self._changes:
                self._left[part.path] -= part.length
                if not self._left[part.path]:
                    del self._changes[part.path], self._left[part.path]

    def fail(self, problem: BaseException) -> BaseException:
        """The first problem of all: those that waited only say that there is one."""
        with self._condition:
            self._problem = self._problem or problem
            self._condition.notify_all()
            return self._problem


def is_placed(part: Part) -> bool:
    """Whether it gets its place from the backup: not pg_control, which comes last, and no WAL, which comes from the archive."""
    if part.path == PG_CONTROL or part.path in _OF_A_RUN or part.path in _OF_A_RESTORE:
        return False
    return part.kind == "d" or not part.path.startswith(f"{PG_WAL}/")


def in_order(pieces: Iterable[Piece], *, incremental: bool) -> Iterator[Piece]:
    """The same pieces, if the parts of each follow each other, and those of a file of changed blocks, too: from its first byte to
    its last, once. Whoever writes one waits for the first one. Raises BadBackup.
    """
    expected: tuple[str, int, int] | None = None
    several: set[str] = set()
    for piece in pieces:
        end = 0
        for part in piece.parts:
            if part.at < end:
                raise BadBackup(
                    f"the index: {part.path!r} lies within what is before it", hint="The backup is damaged."
                )
            end = part.at + part.length
            if not incremental or changed_path(part.path) is None:
                continue
            if (part.path, part.offset, part.size) != (expected or (part.path, 0, part.size)) or (
                part.path in several and not part.offset
            ):
                raise _torn(expected[0] if expected else part.path)
            reached = part.offset + part.length
            expected = (part.path, reached, part.size) if reached < part.size else None
            if expected is not None:
                several.add(part.path)
        yield piece
    if expected is not None:
        raise _torn(expected[0])


def _torn(path: str) -> BadBackup:
    return BadBackup(f"the index: the parts of {path!r} do not follow each other", hint="The backup is damaged.")


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


def _write_blocks(fd: int, changes: Changes, data: memoryview, offset: int) -> None:
    """``data`` lies at ``offset`` of the file of changed blocks. Blocks that follow each other are written at once."""
    at, blocks = max(0, changes.begin - offset), changes.blocks
    number = (offset + at - changes.begin) // BLOCK
    while at < len(data):
        count = 1
        while at + count * BLOCK < len(data) and blocks[number + count] == blocks[number] + count:
            count += 1
        _write_at(fd, data[at : at + count * BLOCK], blocks[number] * BLOCK)
        at, number = at + count * BLOCK, number + count


def _files(piece: Piece) -> str:
    paths = [part.path for part in piece.parts if part.kind == "f"]
    more = f" and {len(paths) - _NAMED:,} files more" if len(paths) > _NAMED else ""
    return f"{', '.join(paths[:_NAMED])}{more}" if paths else "no file"
