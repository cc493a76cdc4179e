"""From the server's tars to stored pieces: one thread reads and cuts, others pack, sum and store. Memory is bounded.

``workers`` pack at a time, and one thread more waits for the store with what it has packed. There is one buffer for each that
packs, and the one that is being filled. What cannot be stored is tried again for ``patience`` seconds, while
the server waits; then, or when waiting cannot help, the whole ends.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import xxhash

from walkeeper.archive.backups import Backups, Kind, Stored, order_of
from walkeeper.backup.cutter import Cut, Cutter, buffer_bytes
from walkeeper.core import backup_index
from walkeeper.core.backup import PIECE, BackupId
from walkeeper.core.backup_index import Piece
from walkeeper.errors import BadBackup, StoreError
from walkeeper.lib import events
from walkeeper.lib.retry import patiently

_SAID: Final = 60.0
"""Seconds until it is said again what is waited for."""
PATIENCE: Final = 900.0
"""Seconds that a store may be away before a backup ends."""
MANIFEST_END: Final = 1024 * 1024
"""Bytes of the manifest's end that are kept: the ranges of WAL stand there."""

_TELL: Final = 1024 * 1024
"""Bytes between two words of how many have come: a server sends a small file in four portions."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Contents:
    """What was stored. ``index`` and ``manifest`` are their SHA-256, ``orders`` those of the orders, by tablespace."""

    index: str
    seed: int
    manifest: str
    orders: dict[int, str]
    files: int
    file_bytes: int
    pieces: int
    packed_bytes: int
    sent_bytes: int
    """Without those that were there already."""
    manifest_end: bytes


class Pipeline:
    """A ``postgres.base_backup.Sink``. ``known`` are the pieces of an earlier attempt, by SHA-256.

    ``begin``, ``feed``, ``manifest`` and ``finish`` are for one thread; they raise what a worker met: the store's errors,
    CannotTell, or BadBackup. ``moved`` is told in that thread, now and then, how many bytes have come. ``seed`` is that of the
    sums in the index.
    """

    def __init__(
        self,
        backups: Backups,
        id_: BackupId,
        *,
        workers: int,
        known: frozenset[str] = frozenset(),
        patience: float = PATIENCE,
        moved: Callable[[int], None] = lambda _: None,
        piece: int = PIECE,
        incremental: bool = False,
        seed: int = 0,
    ) -> None:
        self._backups = backups
        self._id = id_
        self._known = known
        self._seed = seed
        self._patience = patience
        self._moved = moved
        self._came = self._tell = 0
        self._say_at = 0.0
        self._changed = threading.Condition()
        self._free = [bytearray(buffer_bytes(piece)) for _ in range(workers)]
        self._packing = threading.Semaphore(workers)
        self._cuts: deque[tuple[int, Cut]] = deque()
        self._number = 0
        self._failure: BaseException | None = None
        self._closed = False
        self._record = _Record(backups)
        self._manifest = backups.codec.growing()
        self._manifest_end = bytearray()
        self._cutter = Cutter(self._emit, bytearray(buffer_bytes(piece)), piece, incremental=incremental)
        self._threads = [
            threading.Thread(target=self._work, name=f"pieces-{number}", daemon=True) for number in range(workers + 1)
        ]
        for thread in self._threads:
            thread.start()

    def begin(self, tablespace: int) -> None:
        self._cutter.begin(tablespace)
        self._record.begin(tablespace)

    def feed(self, data: memoryview) -> None:
        self._cutter.feed(data)
        self._came += len(data)
        if self._came >= self._tell:
            self._tell = self._came + _TELL
            self._moved(self._came)

    def manifest(self, data: memoryview) -> None:
        self._manifest.add(data)
        self._manifest_end += data
        del self._manifest_end[: -MANIFEST_END or None]

    def finish(self) -> Contents:
        """Everything is stored, and listed by the store with its size. Raises BadBackup if it is not."""
        self._cutter.end()
        self._moved(self._came)
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or self._record.stored == self._number)
            self._raise()
        record, manifest, put = self._record, self._manifest, self._put_document
        body = record.index.body()
        put("index", record.index.sha256, record.index.size, body)
        put("manifest", manifest.sha256, manifest.size, manifest.body())
        orders = {}
        for tablespace, names in record.orders.items():
            order = order_of(names, self._backups.codec.suffix)
            orders[tablespace] = hashlib.sha256(order).hexdigest()
            put("order", orders[tablespace], len(order), order)
        self._prove_listed()
        return Contents(
            record.index.sha256, self._seed, manifest.sha256, orders, self._cutter.files, self._cutter.bytes,
            len(record.sizes), sum(record.sizes.values()), record.sent, bytes(self._manifest_end),
        )  # fmt: skip

    @property
    def stored(self) -> int:
        """How many pieces are."""
        return self._record.stored

    def close(self) -> None:
        """No more work for the threads. What one of them is at may still get through; it harms nobody."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _emit(self, cut: Cut) -> bytearray:
        with self._changed:
            self._cuts.append((self._number, cut))
            self._number += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._failure is not None or self._free)
            self._raise()
            return self._free.pop()

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            number, cut = taken
            try:
                piece, sent = self._store(cut)
                with self._changed:
                    self._record.add(number, piece, sent)
                    self._changed.notify_all()
            except BaseException as problem:  # noqa: BLE001 - carried over to the one who reads
                with self._changed:
                    self._failure = self._failure or problem
                    self._changed.notify_all()
                return

    def _next(self) -> tuple[int, Cut] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._failure is not None or self._cuts)
            return None if self._closed or self._failure is not None else self._cuts.popleft()

    def _store(self, cut: Cut) -> tuple[Piece, int]:
        """The piece, and how many bytes of it were sent. The buffer is free again as soon as its bytes are packed."""
        with self._packing:
            with memoryview(cut.buffer)[: cut.length] as plain:
                xxh3 = xxhash.xxh3_128_hexdigest(plain, self._seed)
                frame = self._backups.codec.pack(plain)
            with self._changed:
                self._free.append(cut.buffer)
                self._changed.notify_all()
            sha256 = hashlib.sha256(frame).hexdigest()
            frame_size = len(frame)
            stored = self._stored_before(sha256, cut.length, frame_size)
            body = b"" if stored is not None else self._backups.codec.seal(frame)
            del frame
        if stored is None:
            stored = self.patiently(
                lambda: self._backups.put_packed_piece(self._id, sha256, cut.length, frame_size, body)
            )
        piece = Piece(sha256, cut.length, stored.packed_size, xxh3, cut.tablespace, cut.parts)
        return piece, 0 if stored.was_present else stored.packed_size

    def _stored_before(self, sha256: str, size: int, frame_size: int) -> Stored | None:
        """By an earlier attempt, or by this one: pages of zeros are many."""
        if (packed_size := self._record.sizes.get(bytes.fromhex(sha256))) is not None:
            return Stored(sha256, packed_size, was_present=True)
        if sha256 not in self._known:
            return None
        return self.patiently(lambda: self._backups.find_piece(self._id, sha256, size, frame_size))

    def _put_document(self, kind: Kind, sha256: str, size: int, body: bytes) -> None:
        self.patiently(lambda: self._backups.put_packed_document(self._id, kind, sha256, size, body))

    def _prove_listed(self) -> None:
        """What a listing lacks is asked for by name: a listing may be late."""
        listed = self.patiently(lambda: self._backups.pieces(self._id))
        for digest, size in self._record.sizes.items():
            there = listed.get(digest.hex())
            if there is None:
                there = self.patiently(partial(self._backups.piece_size, self._id, digest.hex()))
            if there != size:
                raise BadBackup(
                    f"backup {self._id}: the store does not list piece {digest.hex()} with its {size} bytes",
                    hint="Somebody deletes there, or the store loses objects. This stores what is missing: walkeeper backup "
                    f"--resume {self._id}",
                )

    def patiently(self, work: Callable[[], _T]) -> _T:
        """As ``retry.patiently``; it ends as soon as nobody waits for it any more."""
        return patiently(work, self._patience, self._wait)

    def _wait(self, problem: StoreError, seconds: float) -> None:
        """It is said once a minute: each thread waits for the same store."""
        with self._changed:
            if say := time.monotonic() >= self._say_at:
                self._say_at = time.monotonic() + _SAID
        if say:
            events.failure("backup_waits", problem, backup=self._id, seconds=seconds)
        with self._changed:
            if self._changed.wait_for(lambda: self._closed or self._failure is not None, seconds):
                raise self._failure or _Closed


class _Closed(Exception):
    """Nobody waits for the answer any more."""


class _Record:
    """What is stored, in the order of the tars, whichever thread was first. ``index`` is packed as it grows: of a million files
    it would be 70 MB."""

    def __init__(self, backups: Backups) -> None:
        self.index = backups.codec.growing()
        self.orders: dict[int, list[str]] = {}
        self.sizes: dict[bytes, int] = {}
        """As stored, by SHA-256."""
        self.sent = 0
        self.stored = 0
        self._waiting: dict[int, Piece] = {}

    def begin(self, tablespace: int) -> None:
        self.orders.setdefault(tablespace, [])

    def add(self, number: int, piece: Piece, sent: int) -> None:
        """The pieces before it may still be missing."""
        self.sizes[bytes.fromhex(piece.sha256)] = piece.packed_size
        self.sent += sent
        self._waiting[number] = piece
        while (piece_ := self._waiting.pop(self.stored, None)) is not None:
            self.index.add(backup_index.encode(piece_))
            self.orders[piece_.tablespace].append(piece_.sha256)
            self.stored += 1
