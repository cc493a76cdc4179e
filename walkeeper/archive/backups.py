"""The base backups of one cluster's archive: which there are, their documents and their pieces. Everything is created once.

Below ``backup/<id>/``: pieces named by the SHA-256 of their zstd frames, not yet encrypted, so that a second attempt of that id
finds them, and ``recipients-<sha256>``, for whom they are; index, orders and PostgreSQL's manifest named by that of their plain
bytes, since each run has others; and ``backup.json``, which names them all and is the commit (``core.backup``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import Final, Literal, NamedTuple, TypeAlias

import xxhash

from walkeeper.archive.codec import AGE, ZSTD, Codec, named, unpacked
from walkeeper.archive.layout import Layout
from walkeeper.archive.stated import came_and_went, is_whole, stated, stated_sha256
from walkeeper.core import backup_index
from walkeeper.core.backup import MAX_BACKUP_BYTES, Backup, BackupId, Tombstone, decode, encode
from walkeeper.core.backup_index import Piece
from walkeeper.errors import BadBackup, CannotTell, Damaged, Locked, StoreUnavailable
from walkeeper.store.base import AlreadyThere, Body, Store

Kind: TypeAlias = Literal["index", "order", "manifest"]
KINDS: Final[tuple[Kind, ...]] = ("index", "order", "manifest")
MAX_DOCUMENT: Final = 1024**3
"""Bytes of the longest plain index, order or manifest: of some ten million files."""
_PIECE: Final = re.compile(r"data/([0-9a-f]{64})(\.zst|\.zst\.age)\Z")


class Stored(NamedTuple):
    """An object that was confirmed. ``sha256`` is the one in its name; ``packed_size`` in bytes as stored."""

    sha256: str
    packed_size: int
    was_present: bool


class Backups:
    """Safe for several threads if the store is. All raise the store's errors."""

    def __init__(self, store: Store, layout: Layout, codec: Codec) -> None:
        self.store = store
        self.layout = layout
        self.codec = codec

    def ids(self) -> list[BackupId]:
        """Of all backups, attempts and tombstones, the oldest first."""
        found = []
        for name in self.store.folders(self.layout.backups):
            try:
                found.append(BackupId.parse(name))
            except BadBackup:
                continue  # not ours
        return sorted(found)

    def read(self, id_: BackupId) -> Backup | Tombstone | None:
        """What ``backup.json`` says; None for an attempt. Raises BadBackup for one that cannot be relied on."""
        body = self.store.get(self.layout.backup_json(id_), MAX_BACKUP_BYTES)
        return None if body is None else decode(body, id_)

    def commit(self, found: Backup | Tombstone) -> Backup | Tombstone:
        """Make it the backup of its id, once and for all. What is returned is what stands there: another may have been first."""
        id_ = BackupId.parse(found.id)
        key = self.layout.backup_json(id_)
        document = encode(found)
        try:
            self.store.create(key, document, stated(hashlib.sha256(document).hexdigest(), len(document), document))
        except AlreadyThere:
            there = self.read(id_)
            if there is None:
                raise came_and_went(key) from None
            return there
        return found

    def pieces(self, id_: BackupId) -> dict[str, int]:
        """The pieces that are listed with the codec's suffix: bytes as stored, by the SHA-256 in their names."""
        found = {}
        folder = self.layout.backup(id_)
        for info in self.store.list(f"{folder}data/"):
            match = _PIECE.match(info.key.removeprefix(folder))
            if match and match[2] == self.codec.suffix and info.size > 0:
                found[match[1]] = info.size
        return found

    def lacks(self, backup: Backup) -> str:
        """What the store has not of all that it names, in words; empty where it has everything, with as many bytes in all.

        Orders name the pieces, and are plain: it takes no key. What the one LIST does not show is asked for by name.
        """
        orders = {backup.order, *(each.order for each in backup.tablespaces)}
        try:
            names = {name for each in orders for name in self.read_document(backup, "order", each).decode().split()}
        except (CannotTell, UnicodeDecodeError) as problem:
            return str(problem)
        return self._lacks(backup, ("index", "manifest"), names)

    def shows(self, backup: Backup) -> Literal["whole", "less", "more"]:
        """What one LIST shows of all that it names, by number and bytes, without a name in memory. ``more``: an earlier attempt
        has left others beside its pieces, so that these say nothing.
        """
        folder = self.layout.backup(BackupId.parse(backup.id))
        pieces, packed = 0, 0
        described = {f"{kind}-{getattr(backup, kind)}{document_suffix(kind, backup.suffix)}" for kind in KINDS}
        described |= {f"order-{each.order}" for each in backup.tablespaces}
        for info in self.store.list(folder):
            name = info.key.removeprefix(folder)
            described.discard(name if info.size else "")
            if name.startswith("data/") and name.endswith(backup.suffix) and info.size:
                pieces, packed = pieces + 1, packed + info.size
        if described or pieces < backup.pieces or packed < backup.packed_bytes:
            return "less"
        return "whole" if (pieces, packed) == (backup.pieces, backup.packed_bytes) else "more"

    def lacks_for_restore(self, backup: Backup) -> str:
        """The same of what a restore reads: the index, and the pieces that it names. Raises Locked, too."""
        try:
            names = {f"{piece.sha256}{backup.suffix}" for piece in self.index(backup)}
        except Locked:
            raise
        except (CannotTell, BadBackup) as problem:
            return str(problem)
        return self._lacks(backup, ("index",), names)

    def _lacks(self, backup: Backup, kinds: Iterable[Kind], names: Collection[str]) -> str:
        folder = self.layout.backup(BackupId.parse(backup.id))
        sizes = {info.key.removeprefix(folder): info.size for info in self.store.list(folder)}
        described = [f"{kind}-{getattr(backup, kind)}{document_suffix(kind, backup.suffix)}" for kind in kinds]
        pieces = [f"data/{name}" for name in sorted(names)]
        for name in (*described, *pieces):
            if not sizes.get(name):
                info = self.store.head(f"{folder}{name}")
                if info is None or not info.size:
                    return f"{folder}{name}: it is {'not there' if info is None else 'empty'}"
                sizes[name] = info.size
        packed = sum(sizes[name] for name in pieces)
        if (len(pieces), packed) != (backup.pieces, backup.packed_bytes):
            return f"{len(pieces)} pieces of {packed} bytes, and backup.json tells of {backup.pieces} of {backup.packed_bytes}"
        return ""

    def piece_size(self, id_: BackupId, sha256: str) -> int | None:
        """Bytes as stored, of one that is asked for by its name; None where it is not there."""
        info = self.store.head(self.layout.backup_piece(id_, sha256, self.codec.suffix))
        return None if info is None else info.size

    def claim(self, id_: BackupId, attempted: Collection[str] | None = None) -> bool:
        """State for whom this run encrypts, before its first piece, whose name does not say it.

        ``attempted``: the pieces of an earlier run, where there may be one. False where that had others, or did not say. Raises
        StoreUnavailable where the listing does not show this run's own word yet: it need not show another's.
        """
        if not self.codec.recipients:
            return True
        sha256 = hashlib.sha256("\n".join(sorted(self.codec.recipients)).encode()).hexdigest()
        place = f"{self.layout.backup(id_)}recipients-"
        own = place + sha256
        before = set() if attempted is None else {info.key for info in self.store.list(place)}
        if before - {own} or (attempted and not before and self.store.head(own) is None):
            return False
        body = f"{sha256}\n".encode()
        with suppress(AlreadyThere):
            self.store.create(own, body, stated(hashlib.sha256(body).hexdigest(), len(body), body))
        if attempted is None:
            return True
        after = {info.key for info in self.store.list(place)}
        if not after:
            raise StoreUnavailable(
                f"{own}: the store has it, and does not list it yet",
                hint="If it stays so, look at what lies between here and the store.",
            )
        return after == {own}

    def put_packed_piece(self, id_: BackupId, sha256: str, size: int, frame_size: int, body: bytes) -> Stored:
        """``sha256`` is that of the frame, ``size`` that of the plain bytes. One that is there counts as with ``find_piece``."""
        key = self.layout.backup_piece(id_, sha256, self.codec.suffix)
        return self._put(key, sha256, size, body, frame_size, "" if self.codec.recipients else sha256)

    def find_piece(self, id_: BackupId, sha256: str, size: int, frame_size: int) -> Stored | None:
        """A piece that an earlier attempt has stored, if it is whole by its size and what it states; None if it is not there."""
        return self._find(self.layout.backup_piece(id_, sha256, self.codec.suffix), sha256, size, frame_size)

    def put_packed_document(self, id_: BackupId, kind: Kind, sha256: str, size: int, body: bytes) -> Stored:
        """Store an index, an order or a manifest, packed as ``document_suffix`` says, under the name of its own plain bytes.

        Raises BadBackup for one that nobody could read back.
        """
        if size > MAX_DOCUMENT:
            raise BadBackup(
                f"backup {id_}: its {kind} has {size} bytes, and a restore reads {MAX_DOCUMENT} at most",
                hint="The cluster has too many files: take base backups with pg_basebackup, with which the archive's WAL goes.",
            )
        key = self.layout.backup_document(id_, kind, sha256, document_suffix(kind, self.codec.suffix))
        return self._put(key, sha256, size, body, 0 if key.endswith(AGE) else len(body))

    def read_document(self, backup: Backup, kind: Kind, sha256: str) -> bytes:
        """Its plain bytes, proved by the name. Raises CannotTell if it is not there, or damaged."""
        suffix = document_suffix(kind, backup.suffix)
        key = self.layout.backup_document(BackupId.parse(backup.id), kind, sha256, suffix)
        body = self._body(key)
        with named(key):
            plain = self.codec.decode(suffix, body, MAX_DOCUMENT) if suffix else bytes(body)
        _prove(key, plain, sha256)
        return plain

    def index(self, backup: Backup) -> Iterator[Piece]:
        """Its pieces, in the order of the tars; none before the whole index is proved. Raises as above, or BadBackup."""
        return backup_index.decode(_lines(self.read_document(backup, "index", backup.index)))

    def pour(self, backup: Backup, piece: Piece) -> Iterator[bytes]:
        """As ``read_piece``, bit by bit, in a fraction of the memory: it is the piece only if this ends without CannotTell."""
        key = self.layout.backup_piece(BackupId.parse(backup.id), piece.sha256, backup.suffix)
        found = xxhash.xxh3_128(seed=backup.seed)
        body = self._body(key)
        with named(key):
            frame = self.codec.unseal(backup.suffix, body)
        _prove(key, frame, piece.sha256)
        parts = unpacked(frame, piece.size)
        del body, frame  # they are gone with the first part
        with named(key):
            for part in parts:
                found.update(part)
                yield part
        if found.hexdigest() != piece.xxh3:
            raise Damaged(
                f"{key}: what it unpacks to is not what the index says", hint="The backup is damaged: use another one."
            )

    def read_piece(self, backup: Backup, piece: Piece) -> bytes:
        """A piece's plain bytes, proved by its name and its index. Raises CannotTell if it is not there, or damaged."""
        return b"".join(self.pour(backup, piece))

    def _body(self, key: str) -> Body:
        body = self.store.get(key)
        if body is None:
            raise CannotTell(f"{key}: it is not there", hint="The backup is damaged: use another one.")
        return body

    def _put(self, key: str, sha256: str, size: int, body: bytes, packed: int, packed_sha256: str = "") -> Stored:
        try:
            self.store.create(key, body, stated(sha256, size, body, packed_sha256))
        except AlreadyThere:
            found = self._find(key, sha256, size, packed, body)
            if found is None:
                raise came_and_went(key) from None
            return found
        return Stored(sha256, len(body), was_present=False)

    def _find(self, key: str, sha256: str, size: int, packed: int, own: bytes = b"") -> Stored | None:
        """``packed``: bytes of the frame. The object has as many, or more where it is encrypted: how many differs each time.
        ``own``: what this run has tried to store, and may have.
        """
        info = self.store.head(key)
        if info is None:
            return None
        fits = info.size > packed if key.endswith(AGE) else info.size == packed
        said = stated_sha256(info, size)
        if not (fits and is_whole(info) and (said == sha256 if said else self._is(key, sha256, own))):
            raise CannotTell(
                f"{key}: the store has it, shorter than it was stored or with other bytes",
                hint="Begin a new backup; this attempt cannot become one.",
            )
        return Stored(sha256, info.size, was_present=True)

    def _is(self, key: str, sha256: str, own: bytes) -> bool:
        """By its bytes, where it states nothing, as in a file system without extended attributes: a name says nothing (P13).

        Without a key the size of an encrypted one has to do: it is proved when it is restored.
        """
        body = self.store.get(key)
        if body is None or body == own:
            return body is not None
        try:
            frame = self.codec.unseal(key, body)
        except Locked:
            return self.codec.identity_file is None
        except CannotTell:
            return False
        if hashlib.sha256(frame).hexdigest() == sha256:
            return True
        with suppress(CannotTell):
            packed = key.endswith((ZSTD, ZSTD + AGE))
            return packed and hashlib.sha256(self.codec.decode(ZSTD, frame, MAX_DOCUMENT)).hexdigest() == sha256
        return False


def document_suffix(kind: Kind, suffix: str) -> str:
    """An order stays as it is, so that a shell can read it; it says no more than a listing does."""
    return "" if kind == "order" else suffix


def order_of(pieces: Iterable[str], suffix: str) -> bytes:
    """The order of one tar: the names of its pieces below ``data/``, one a line."""
    return "".join(f"{sha256}{suffix}\n" for sha256 in pieces).encode()


def _lines(document: bytes) -> Iterator[bytes]:
    begin = 0
    while begin < len(document):
        end = document.find(b"\n", begin) + 1 or len(document)
        yield document[begin:end]
        begin = end


def _prove(key: str, content: bytes, sha256: str) -> None:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(f"{key}: its content is not what its name says", hint="The backup is damaged: use another one.")
