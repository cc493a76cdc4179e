"""The promise: a segment is checked, packed, stored under its own name and confirmed, or nothing happened.

Who calls: the agent's uploads, the takeover, archive-push. Nothing here retries or knows a thread; every error says in
its class whether waiting can help.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from walkeeper.archive import histories, newer
from walkeeper.archive.codec import AGAIN, STORED, SUFFIXES, Codec, most
from walkeeper.archive.contents import Contents
from walkeeper.archive.layout import Layout
from walkeeper.archive.stated import FORMAT, came_and_went, is_whole, stated, stated_sha256
from walkeeper.core.history import History, parse_history
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import BackupFile, HistoryFile, PartialFile, Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.suspicion import Forgotten
from walkeeper.core.wal_page import Plain, SegmentHeader, check_header
from walkeeper.core.wal_records import check_complete
from walkeeper.errors import (
    BadSegment,
    CannotTell,
    Changed,
    Conflict,
    Locked,
    NotAuthentic,
    StoreDenied,
    TooLarge,
)
from walkeeper.lib import clock, events
from walkeeper.lib.parallel import in_parallel
from walkeeper.store.base import SMALL, AlreadyThere, Store

_LARGEST: Final = SegmentSize(1024 * MIB)


@dataclass(frozen=True, slots=True)
class Packed:
    """A segment that was checked, and its body as it will be stored. ``sha256`` is that of the plain segment, in hex."""

    segment: Segment
    sha256: str
    body: bytes


class _Whole(NamedTuple):
    """An object that is what it says. ``sha256`` is that of the plain bytes."""

    sha256: str
    stored_bytes: int


class _Damaged(NamedTuple):
    """An object that has the name, and does not count as stored."""


class Archive:
    """One cluster's archive in a store, to be written. Safe for several threads if the store is.

    ``contents`` says what it holds; ``walkeeper.archive.read`` delivers from it. ``far``: as in ``Reader``.
    """

    def __init__(self, store: Store, layout: Layout, size: SegmentSize, codec: Codec, *, far: bool = True) -> None:
        self.store = store
        self.far = far
        self.layout = layout
        self.size = size
        self.codec = codec
        self.contents = Contents(store, layout, size)

    @property
    def place(self) -> str:
        """Where it is, for people, and for the mark in what was restored from it as another cluster."""
        return f"{self.store.url}/{self.layout.root}"

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

    def put(self, packed: Packed, listed: Collection[str] = STORED) -> Receipt:
        """The half of ``archive_segment`` that waits for the store. Looks first at what else may have that segment: the other
        suffix, and what was stored again beside a damaged object, which somebody may have moved away since. ``listed``: the
        suffixes that can be there.
        """
        others = [suffix for suffix in listed if suffix != self.codec.suffix]
        stored = [
            self._same(found, packed.sha256, suffix)
            for suffix, found in self._looks(packed.segment, others)
            if isinstance(found, Receipt)
        ]
        return stored[0] if stored else self._create(packed)

    def put_beside(self, packed: Packed) -> Receipt:
        """As ``put``, where the object that has the name was read and is damaged, although it states nothing wrong."""
        return self._create(packed, AGAIN + self.codec.suffix)

    def confirm_segment(
        self, segment: Segment, plain: Plain, history: History | None, known: Receipt | None = None
    ) -> Receipt:
        """As ``archive_segment``, for a segment that is probably there already: look first, whatever its suffix.

        ``known`` is a receipt of that segment, which saves the look.
        """
        self._check(segment, plain, history)
        sha256 = hashlib.sha256(plain).hexdigest()
        if known is not None:
            return self._same(known, sha256, ".*")
        stored = [self._same(receipt, sha256, suffix) for suffix, receipt in self._stored(segment)]
        return stored[0] if stored else self._create(Packed(segment, sha256, self.codec.encode(plain)))

    def _create(self, packed: Packed, *suffixes: str) -> Receipt:
        """Under its own name; beside a damaged object that has it, which is not overwritten (P2). ``suffixes``: other ones."""
        segment = packed.segment
        metadata = stated(packed.sha256, segment.size, packed.body)
        for suffix in suffixes or (self.codec.suffix, AGAIN + self.codec.suffix):
            key = self.layout.file(segment, suffix)
            try:
                self.store.create(key, packed.body, metadata)
            except AlreadyThere:
                stored = self._identify(segment, suffix)
                if stored is None:
                    raise came_and_went(key) from None
                if isinstance(stored, Receipt):
                    return self._same(stored, packed.sha256, suffix)
                continue
            return Receipt(segment, packed.sha256, len(packed.body), was_present=False)
        raise damaged_twice(self.layout.file(segment, self.codec.suffix))

    def _same(self, stored: Receipt, sha256: str, suffix: str) -> Receipt:
        if stored.sha256 != sha256:
            own = "" if suffix in (self.codec.suffix, ".*") else self.layout.file(stored.segment, self.codec.suffix)
            raise _conflict(stored.segment.name, self.layout.file(stored.segment, suffix), own)
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
        """Store a file that is not part of any chain. Other bytes under its name: Conflict."""
        if not self._same_there(file, "", plain):
            raise _conflict(file.name, self.layout.file(file, self.codec.suffix))

    def keep_file(self, file: PartialFile, plain: Plain) -> None:
        """As ``archive_file``; where the name is taken by other bytes, under that name with their checksum at its end."""
        if self._same_there(file, "", plain):
            return
        other = f".{hashlib.sha256(plain).hexdigest()[:16]}"
        key = self.layout.file(file, other + self.codec.suffix)
        events.warning("partial_of_another_branch", file=file.name, stored_as=key)
        if not self._same_there(file, other, plain):
            raise _conflict(file.name, key)

    def _same_there(self, file: PartialFile | BackupFile, more: str, plain: Plain) -> bool:
        """Whether these bytes are stored, after they were stored if there was nothing, or nothing whole."""
        sha256, body = hashlib.sha256(plain).hexdigest(), self.codec.encode(plain)
        for suffix in (self.codec.suffix, AGAIN + self.codec.suffix):
            key = self.layout.file(file, more + suffix)
            try:
                self.store.create(key, body, stated(sha256, len(plain), body))
            except AlreadyThere:
                found = self._look(key, suffix, len(plain))
                if found is None:
                    raise came_and_went(key) from None
                if isinstance(found, _Damaged):
                    continue
                return found.sha256 == sha256
            return True
        raise damaged_twice(self.layout.file(file, more + self.codec.suffix))

    def find(self, segment: Segment) -> Receipt | None:
        """A receipt for a segment that is in the store already, whatever its suffix; None if it provably is not.

        An object that is empty, or shorter than it was stored, is none. Raises Conflict where two suffixes have other bytes.
        """
        stored = self._stored(segment)
        if len({receipt.sha256 for _, receipt in stored}) > 1:
            raise _conflict(segment.name, *(self.layout.file(segment, suffix) for suffix, _ in stored))
        return stored[0][1] if stored else None

    def is_disbelieved(self, segment: Segment) -> bool:
        """Whether one of a segment's names is taken by what is not believed, and neither damaged nor changed."""
        for suffix in STORED:
            try:
                self.store.head(self.layout.file(segment, suffix))
            except Changed:
                continue
            except NotAuthentic:
                return True
        return False

    def _stored(self, segment: Segment) -> list[tuple[str, Receipt]]:
        """All whole objects of that segment, by suffix."""
        return [found for suffix in SUFFIXES if (found := self._whole(segment, suffix)) is not None]

    def _whole(self, segment: Segment, suffix: str) -> tuple[str, Receipt] | None:
        """With that suffix; else what was stored again beside it, where the object there is damaged or was moved away since."""
        for each in (suffix, AGAIN + suffix):
            stored = self._identify(segment, each)
            if isinstance(stored, Receipt):
                return each, stored
        return None

    def archive_history(self, timeline: int, content: bytes) -> None:
        """Store a timeline's history, before any segment of it. Other content there: Conflict, the number was used twice."""
        parse_history(timeline, content)
        metadata = histories.metadata(content)
        for key in histories.keys(self.layout, timeline):
            try:
                self.store.create(key, content, metadata)
            except AlreadyThere:
                try:
                    stored = self.store.get(key, SMALL)
                    if stored is None:
                        raise came_and_went(key) from None
                    if stored == content:
                        return
                    histories.check(key, stored)
                except CannotTell as damaged:
                    events.failure("stored_object_damaged", damaged, key=key)
                    continue
                raise Conflict(
                    f"{HistoryFile(timeline).name}: {key} is in the store with other content",
                    hint="Timeline number used twice: two servers were promoted independently. Keep both. If the leader "
                    "is on it, promote again with restore_command reading this archive: PostgreSQL chooses a free number. If "
                    "the leader's timeline came from it, archive under another prefix, and take a base backup.",
                ) from None
            return
        raise damaged_twice(self.layout.file(HistoryFile(timeline), ""))

    def state_start(self, first: Segment) -> None:
        """Say once and for all where the archive begins."""
        self._create_json(
            self.layout.start(first), {"first": first.name, "segment_size": first.size, "at": clock.timestamp()}
        )

    def record_gap(self, first: Segment, end: Lsn, why: str = "") -> None:
        """Say that from the start of ``first`` up to ``end`` WAL no longer exists anywhere, and how that is known."""
        content = {"timeline": first.timeline, "start": str(first.start), "end": str(end), "at": clock.timestamp()}
        self._create_json(self.layout.gap(first, end), {**content, "why": why})

    def accept_gap(self, first: Segment, end: Lsn) -> None:
        """A person's word that this WAL, suspected lost or a recorded gap, is not waited for."""
        content = {"timeline": first.timeline, "start": str(first.start), "end": str(end), "at": clock.timestamp()}
        self._create_json(self.layout.accepted_gap(first, end), content)

    def forget_member(self, word: Forgotten) -> None:
        """A person's word that this member is gone for good. Raises BadName."""
        content = {"member": word.member, "timeline": word.timeline, "end": str(word.upto), "at": clock.timestamp()}
        self._create_json(self.layout.forgotten(word), content)

    def _looks(self, segment: Segment, suffixes: list[str]) -> Iterable[tuple[str, Receipt | _Damaged | None]]:
        """At the same time where the store is far; where not, that costs more than it saves."""
        if not self.far:
            return ((suffix, self._identify_rare(segment, suffix)) for suffix in suffixes)
        return in_parallel(lambda each: (each, self._identify_rare(segment, each)), suffixes, len(suffixes))

    def _identify_rare(self, segment: Segment, suffix: str) -> Receipt | _Damaged | None:
        """As ``_identify``, of a name that is nearly always free: in S3 a GET says so by one request, a HEAD by two."""
        with suppress(TooLarge, NotAuthentic, StoreDenied):  # it is there, or as good: a HEAD may say more
            if self.store.get(self.layout.file(segment, suffix), 0) is None:
                return None
        return self._identify(segment, suffix)

    def _identify(self, segment: Segment, suffix: str) -> Receipt | _Damaged | None:
        """None if there is no such object."""
        found = self._look(self.layout.file(segment, suffix), suffix, segment.size)
        if not isinstance(found, _Whole):
            return found
        return Receipt(segment, found.sha256, found.stored_bytes, was_present=True)

    def _look(self, key: str, suffix: str, size: int) -> _Whole | _Damaged | None:
        """At an object of so many plain bytes: by its metadata, and only where those are lost by its own."""
        try:
            info = self.store.head(key)
        except NotAuthentic as planted:
            return _damaged(key, str(planted))
        if info is None:
            return None
        if not is_whole(info):
            return _damaged(key, f"{info.size} bytes, it was stored with {info.metadata.get('packed-size', 'some')}")
        if sha256 := stated_sha256(info, size):
            return _Whole(sha256, info.size)
        sha256_of_body = hashlib.sha256()
        try:
            body = self.store.get(key, most(max(size, self.size)))
            if body is None:
                return None
            for part in self.codec.parts(suffix, body, _LARGEST):
                sha256_of_body.update(part)
            return _Whole(sha256_of_body.hexdigest(), info.size)
        except Locked:
            raise
        except (CannotTell, TooLarge) as problem:
            return _damaged(key, str(problem))

    def _create_json(self, key: str, content: dict[str, object]) -> None:
        try:
            self.store.create(key, json.dumps(content).encode() + b"\n", {"format": FORMAT})
        except AlreadyThere:
            self.store.head(key)  # raises NotAuthentic: what somebody without the key planted there says nothing


def _damaged(key: str, why: str) -> _Damaged:
    events.warning(
        "stored_object_damaged", key=key, why=why, hint="The object is left as it is, and does not count as stored."
    )
    return _Damaged()


def damaged_twice(key: str) -> CannotTell:
    return CannotTell(
        f"{key}: it is damaged in the store, and so is what was stored again beside it",
        hint=f"Move both away (the other one has {AGAIN} in its name). The file is then stored again.",
    )


def _conflict(name: str, key: str, other: str = "") -> Conflict:
    where = f"{key} is in the store with other bytes" + (f" than {other}" if other else "")
    return Conflict(
        f"{name}: {where}",
        hint="Two servers wrote the same timeline (split brain), or two clusters share this prefix. Nothing was overwritten; "
        "archiving stops here until one of the two is moved away by hand.",
    )
