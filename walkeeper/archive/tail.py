"""Pieces of the open segment in the store: put, listed, and removed once they are covered.

A piece is never stored under a segment's name, and nothing but ``walkeeper.archive.tail_read`` reads them: to the takeover a
segment is missing until its complete object is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from walkeeper.archive.codec import SUFFIXES, most
from walkeeper.archive.layout import Layout
from walkeeper.archive.stated import is_whole, stated
from walkeeper.archive.write import Archive
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt, TailReceipt
from walkeeper.core.tail import MAX_PIECE, Piece, longest_chain
from walkeeper.core.wal_page import SegmentHeader, check_header, check_part
from walkeeper.errors import BadName, CannotTell, Conflict, Locked, NotAuthentic, StoreUnavailable, TooLarge
from walkeeper.lib import events
from walkeeper.store.base import AlreadyThere, ObjectInfo, Store


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """A piece that the store lists."""

    segment: str
    piece: Piece
    suffix: str
    key: str

    @property
    def most(self) -> int:
        """Bytes of its object at most."""
        return most(min(self.piece.end - self.piece.begin, MAX_PIECE))


def put(archive: Archive, segment: Segment, piece: Piece, plain: bytes) -> TailReceipt:
    """Store those bytes of a segment that is still being written; the receipt says that they are durable there (P1).

    Raises BadSegment or WrongCluster for what is not that segment's (P5), Conflict, or the store's errors.
    """
    if piece.begin == 0:
        check_header(SegmentHeader.parse(plain, segment.name), segment, archive.layout.system_identifier)
    check_part(plain, piece.begin, segment)
    sha256 = hashlib.sha256(plain).hexdigest()
    body = archive.codec.encode(plain)
    key = archive.layout.piece(segment.name, piece, archive.codec.suffix)
    try:
        archive.store.create(key, body, stated(sha256, len(plain), body))
    except AlreadyThere:
        try:
            info = archive.store.head(key)
        except NotAuthentic as planted:
            raise Conflict(str(planted), hint="The agent begins a new piece.") from None
        if info is None:
            raise StoreUnavailable(
                f"{key}: the store says that it exists, and then that it does not", hint="The agent tries again."
            ) from None
        # An earlier attempt of our own whose answer was lost; nobody else draws the same owner.
        if info.metadata.get("sha256", sha256) != sha256 or not is_whole(info):
            raise Conflict(
                f"{key}: it is in the store with other bytes", hint="The agent begins a new piece."
            ) from None
    return TailReceipt(segment, piece, len(body), key)


def stored_pieces(store: Store, layout: Layout, segment: str | None = None) -> Iterator[StoredPiece]:
    """What the store lists as pieces: of all segments, or of the one with that name."""
    for info in store.list(layout.tails if segment is None else layout.tail(segment)):
        if found := parse_key(info):
            yield found


def longest_stored(store: Store, layout: Layout, segment: str) -> tuple[list[Piece], int]:
    """The chain of one owner that reaches furthest, by the names that the store lists; and how many pieces there are in all."""
    by_owner: dict[str, set[Piece]] = {}
    count = 0
    for stored in stored_pieces(store, layout, segment):
        by_owner.setdefault(stored.piece.owner, set()).add(stored.piece)
        count += 1
    chains = [longest_chain(pieces) for _, pieces in sorted(by_owner.items())]
    return max(chains, key=lambda chain: chain[-1].end if chain else 0, default=[]), count


def parse_key(info: ObjectInfo) -> StoredPiece | None:
    """None for what is not ours."""
    folder, _, name = info.key.rpartition("/")
    stem = name.removesuffix(".age").removesuffix(".zst")
    suffix = name.removeprefix(stem)
    try:
        piece = Piece.parse(stem)
    except BadName:
        return None
    return StoredPiece(folder.rpartition("/")[2], piece, suffix, info.key) if suffix in SUFFIXES else None


def covers(archive: Archive, here: Mapping[tuple[int, int], str], pieces: list[StoredPiece]) -> bool:
    """Whether each of those pieces says what a segment says: then all are covered. ``here``: SHA-256 of its ranges."""
    for stored in pieces:
        try:
            info = archive.store.head(stored.key)
        except NotAuthentic:
            return False
        if info is None:
            continue
        sha256 = here.get((stored.piece.begin, stored.piece.end))
        if sha256 is None or info.metadata.get("sha256") != sha256:
            return False
    return True


def content(archive: Archive, stored: StoredPiece) -> bytes | None:
    """The plain bytes of a piece; None if it is gone, damaged, or encrypted for a key that is not here. Raises an outage."""
    try:
        body = archive.store.get(stored.key, stored.most)
        return None if body is None else archive.codec.decode(stored.suffix, body, MAX_PIECE)
    except Locked:
        return None
    except (CannotTell, TooLarge) as problem:
        events.failure("tail_piece_ignored", problem, key=stored.key)
        return None


def drop(archive: Archive, key: str, cover: Receipt | TailReceipt) -> None:
    """Remove one piece, which ``cover`` says more than: the only deletion that nobody asked for. Raises the store's errors.

    ``cover`` is the complete segment with the same number on this or a later timeline, or a merged piece of the same owner.
    """
    found = parse_key(ObjectInfo(key, 0, {}))
    if found is None or not key.startswith(archive.layout.tails):
        raise AssertionError(f"{key}: not a piece of a tail")
    number = Segment.parse(found.segment, archive.size).number
    if isinstance(cover, TailReceipt):
        piece = cover.piece
        covered = (
            found.segment == cover.segment.name and piece.begin <= found.piece.begin <= found.piece.end <= piece.end
        )
        covered = covered and key != cover.key
    else:
        covered = number == cover.segment.number
    if not covered:
        raise AssertionError(f"{key}: not covered by {cover}")
    archive.store.delete(key)


def confirm(archive: Archive, stored: StoredPiece, segment: Segment, plain: bytes) -> TailReceipt | None:
    """A receipt for a piece that an earlier run stored, where the store says that it has just those bytes."""
    try:
        info = archive.store.head(stored.key)
    except NotAuthentic:
        return None
    sha256 = hashlib.sha256(plain).hexdigest()
    if info is None or not is_whole(info):
        return None
    if info.metadata.get("sha256") != sha256 or len(plain) != stored.piece.end - stored.piece.begin:
        return None
    return TailReceipt(segment, stored.piece, info.size, stored.key)
