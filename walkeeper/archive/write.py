"""The promise: a segment is checked, packed, stored under its own name and confirmed, or nothing happened.

Who calls: the agent's uploads, the takeover, archive-push. Nothing here retries or knows a thread; every error says in
its class whether waiting can help.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Final

from walkeeper.archive import newer
from walkeeper.archive.codec import SUFFIXES, Codec
from walkeeper.archive.contents import Contents
from walkeeper.archive.layout import Layout
from walkeeper.archive.stated import FORMAT, stated_sha256
from walkeeper.core.history import History, parse_history
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import BackupFile, HistoryFile, PartialFile, Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.wal_page import Plain, SegmentHeader, check_header
from walkeeper.core.wal_records import check_complete
from walkeeper.errors import BadSegment, Conflict, StoreUnavailable
from walkeeper.lib import clock, events
from walkeeper.store.base import SMALL, AlreadyThere, Store

_LARGEST: Final = SegmentSize(1024 * MIB)


@dataclass(frozen=True, slots=True)
class Packed:
    """A segment that was checked, and its body as it will be stored. ``sha256`` is that of the plain segment, in hex."""

    segment: Segment
    sha256: str
    body: bytes


class Archive:
    """One cluster's archive in a store, to be written. Safe for several threads if the store is.

    ``contents`` says what it holds; ``walkeeper.archive.read`` delivers from it.
    """

    def __init__(self, store: Store, layout: Layout, size: SegmentSize, codec: Codec) -> None:
        self.store = store
        self.layout = layout
        self.size = size
        self.codec = codec
        self.contents = Contents(store, layout, size)

    def archive_segment(self, segment: Segment, plain: Plain, history: History | None) -> Receipt:
        """Store a complete segment of ``history``'s cluster; the receipt says that it is durable there (P1).

        The same bytes again: success. Other bytes under that name: Conflict, both sides stay (P2, P3). A segment that does
        not agree with its name or the cluster: BadSegment or WrongCluster (P5). Otherwise the store's errors.
        """
        return self.put(self.pack(segment, plain, history))

    def pack(self, segment: Segment, plain: Plain, history: History | None) -> Packed:
        """The half of ``archive_segment`` that needs the plain bytes, and no store."""
        self._check(segment, plain, history)
        return Packed(segment, hashlib.sha256(plain).hexdigest(), self.codec.encode(plain))

    def put(self, packed: Packed) -> Receipt:
        """The half of ``archive_segment`` that waits for the store."""
        segment = packed.segment
        key = self.layout.file(segment, self.codec.suffix)
        try:
            self.store.create(
                key, packed.body, {"format": FORMAT, "sha256": packed.sha256, "size": str(int(segment.size))}
            )
        except AlreadyThere:
            stored = self._identify(segment, self.codec.suffix)
            if stored is None:
                raise StoreUnavailable(
                    f"{key}: the store has it and has it not", hint="It will be tried again."
                ) from None
            if stored.sha256 != packed.sha256:
                raise _conflict(segment.name, key) from None
            return stored
        return Receipt(segment, packed.sha256, len(packed.body), was_present=False)

    def confirm_segment(
        self, segment: Segment, plain: Plain, history: History | None, known: Receipt | None = None
    ) -> Receipt:
        """As ``archive_segment``, for a segment that is probably there already: look first, whatever its suffix.

        ``known`` is a receipt of that segment, which saves the look.
        """
        self._check(segment, plain, history)
        stored = known or self.find(segment)
        if stored is None:
            return self.archive_segment(segment, plain, history)
        if stored.sha256 != hashlib.sha256(plain).hexdigest():
            raise _conflict(segment.name, f"{self.layout.file(segment, '')}.*")
        return stored

    def _check(self, segment: Segment, plain: Plain, history: History | None) -> None:
        if len(plain) != segment.size:
            raise BadSegment(f"{segment}: {len(plain)} bytes, a whole segment has {segment.size}")
        header = SegmentHeader.parse(plain, segment.name)
        check_header(header, segment, self.layout.system_identifier, history)
        check_complete(plain, segment, history)
        if header.postgres_major is None:
            newer.tell(header, segment)

    def archive_file(self, file: PartialFile | BackupFile, plain: Plain) -> None:
        """Store a file that is no part of any chain. Other bytes under its name: Conflict."""
        key = self.layout.file(file, self.codec.suffix)
        if not self._same_there(key, plain):
            raise _conflict(file.name, key)

    def keep_file(self, file: PartialFile, plain: Plain) -> None:
        """As ``archive_file``; where the name is taken by other bytes, under that name with their checksum at its end."""
        if self._same_there(self.layout.file(file, self.codec.suffix), plain):
            return
        key = self.layout.file(file, f".{hashlib.sha256(plain).hexdigest()[:16]}{self.codec.suffix}")
        events.warning("partial_of_another_branch", file=file.name, stored_as=key)
        if not self._same_there(key, plain):
            raise _conflict(file.name, key)

    def _same_there(self, key: str, plain: Plain) -> bool:
        """Whether ``key`` holds these bytes, after they were stored if there was nothing."""
        sha256 = hashlib.sha256(plain).hexdigest()
        try:
            self.store.create(
                key, self.codec.encode(plain), {"format": FORMAT, "sha256": sha256, "size": str(len(plain))}
            )
        except AlreadyThere:
            stored = self._stored_sha256(key, self.codec.suffix, len(plain))
            if stored is None:
                raise StoreUnavailable(
                    f"{key}: the store has it and has it not", hint="It will be tried again."
                ) from None
            return stored == sha256
        return True

    def find(self, segment: Segment) -> Receipt | None:
        """A receipt for a segment that is in the store already, whatever its suffix; None if it provably is not."""
        for suffix in SUFFIXES:
            if stored := self._identify(segment, suffix):
                return stored
        return None

    def archive_history(self, timeline: int, content: bytes) -> None:
        """Store a timeline's history, before any segment of it. Other content there: Conflict, the number was used twice."""
        parse_history(timeline, content)
        name = HistoryFile(timeline)
        key = self.layout.file(name, "")
        try:
            self.store.create(key, content, {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest()})
        except AlreadyThere:
            if self.store.get(key, SMALL) != content:
                raise Conflict(
                    f"{name.name}: {key} is in the store with other content",
                    hint="Timeline number used twice: two servers were promoted apart from each other. Keep both. If the leader "
                    "is on it, promote again with restore_command reading this archive: PostgreSQL chooses a free number. If "
                    "the leader's timeline came from it, archive under another prefix, and take a base backup.",
                ) from None

    def state_start(self, first: Segment) -> None:
        """Say once and for all where the archive begins."""
        self._create_json(
            self.layout.start(first), {"first": first.name, "segment_size": first.size, "at": clock.timestamp()}
        )

    def record_gap(self, first: Segment, end: Lsn) -> None:
        """Say that from the start of ``first`` up to ``end`` WAL exists nowhere any more."""
        content = {"timeline": first.timeline, "start": str(first.start), "end": str(end), "at": clock.timestamp()}
        self._create_json(self.layout.gap(first, end), content)

    def _identify(self, segment: Segment, suffix: str) -> Receipt | None:
        key = self.layout.file(segment, suffix)
        info = self.store.head(key)
        if info is None:
            return None
        sha256 = stated_sha256(info, segment.size) or self._read_sha256(key, suffix, segment.size)
        return None if sha256 is None else Receipt(segment, sha256, info.size, was_present=True)

    def _stored_sha256(self, key: str, suffix: str, size: int) -> str | None:
        info = self.store.head(key)
        return None if info is None else stated_sha256(info, size) or self._read_sha256(key, suffix, _LARGEST)

    def _read_sha256(self, key: str, suffix: str, limit: int) -> str | None:
        """What the object itself says; None if it is gone."""
        body = self.store.get(key)
        return None if body is None else hashlib.sha256(self.codec.decode(suffix, body, limit)).hexdigest()

    def _create_json(self, key: str, content: dict[str, object]) -> None:
        try:
            self.store.create(key, json.dumps(content).encode() + b"\n", {"format": FORMAT})
        except AlreadyThere:
            return


def _conflict(name: str, key: str) -> Conflict:
    return Conflict(
        f"{name}: {key} is in the store with other bytes",
        hint="Two servers wrote the same timeline (split brain), or two clusters share this prefix. Nothing was overwritten; "
        "archiving stops here until one of the two is moved away by hand.",
    )
