"""The promise: a segment is checked, packed, stored under its own name and confirmed, or nothing happened.

Who calls: the agent's uploads, the takeover, restore-wal. Nothing here retries or knows a thread; every error says in
its class whether waiting can help.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Final

from walkeeper.archive.codec import SUFFIXES, Codec
from walkeeper.archive.layout import ACCEPTED, Layout, parse_gap_name
from walkeeper.core.coverage import Archived, merged, reach
from walkeeper.core.history import History, parse_history
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import BackupFile, HistoryFile, PartialFile, Segment, WalFile, parse_wal_name
from walkeeper.core.receipt import Receipt
from walkeeper.core.record import Gap
from walkeeper.core.wal_page import Plain, SegmentHeader, check_header
from walkeeper.errors import BadName, BadSegment, CannotTell, Conflict, StoreUnavailable
from walkeeper.lib import clock, events
from walkeeper.store.base import AlreadyThere, Body, ObjectInfo, Store

FORMAT: Final = "1"
_SMALLEST: Final = SegmentSize(MIB)
_LARGEST: Final = SegmentSize(1024 * MIB)


@dataclass(frozen=True, slots=True)
class Packed:
    """A segment that was checked, and its body as it will be stored. ``sha256`` is that of the plain segment, in hex."""

    segment: Segment
    sha256: str
    body: bytes


class Archive:
    """One cluster's archive in a store. Safe for several threads if the store is."""

    def __init__(self, store: Store, layout: Layout, size: SegmentSize, codec: Codec) -> None:
        self.store = store
        self.layout = layout
        self.size = size
        self.codec = codec

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
        check_header(SegmentHeader.parse(plain, segment.name), segment, self.layout.system_identifier, history)

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
            if self.store.get(key) != content:
                raise Conflict(
                    f"{name.name}: {key} is in the store with other content",
                    hint="Timeline number used twice: two servers were promoted apart from each other. Keep both. If the leader "
                    "is on it, promote again with restore_command reading this archive: PostgreSQL chooses a free number. If "
                    "the leader's timeline came from it, archive under another prefix, and take a base backup.",
                ) from None

    def history(self, timeline: int) -> History | None:
        """A timeline's history as it is stored; the first timeline has none and needs none."""
        if timeline == 1:
            return History(1)
        content = self.store.get(self.layout.file(HistoryFile(timeline), ""))
        return None if content is None else parse_history(timeline, content)

    def histories_from(self, timeline: int) -> Iterator[History]:
        """That timeline's, and those after it up to the first that is not there: as PostgreSQL looks for the newest."""
        for number in count(timeline):
            history = self.history(number)
            if history is None:
                return
            yield history

    def start(self) -> Segment | None:
        """The segment that the archive states to begin with; None for an archive that was never begun."""
        names = [info.key.rpartition("/")[2].removesuffix(".json") for info in self.store.list(self.layout.starts)]
        return max((Segment.parse(name, self.size) for name in names), key=lambda first: first.number, default=None)

    def state_start(self, first: Segment) -> None:
        """Say once and for all where the archive begins."""
        self._create_json(
            self.layout.start(first), {"first": first.name, "segment_size": first.size, "at": clock.timestamp()}
        )

    def record_gap(self, first: Segment, end: Lsn, why: str = "") -> None:
        """Say that from the start of ``first`` up to ``end`` WAL exists nowhere any more, and how that is known."""
        content = {"timeline": first.timeline, "start": str(first.start), "end": str(end), "at": clock.timestamp()}
        self._create_json(self.layout.gap(first, end), {**content, "why": why})

    def accept_gap(self, first: Segment, end: Lsn) -> None:
        """A person's word that this WAL, suspected lost or a recorded gap, is not waited for."""
        content = {"timeline": first.timeline, "start": str(first.start), "end": str(end), "at": clock.timestamp()}
        self._create_json(self.layout.accepted_gap(first, end), content)

    def accepted_gaps(self) -> list[Gap]:
        """What people have accepted as lost, each within one timeline."""
        return [gap for name, gap in self._listed_gaps() if name.endswith(ACCEPTED)]

    def gaps(self) -> list[Gap]:
        """The gaps that were recorded, each within one timeline, in order of position; closed ones too."""
        gaps = [gap for name, gap in self._listed_gaps() if not name.endswith(ACCEPTED)]
        return sorted(gaps, key=lambda gap: Lsn.parse(gap.start))

    def _listed_gaps(self) -> Iterator[tuple[str, Gap]]:
        for info in self.store.list(self.layout.gaps):
            name = info.key.rpartition("/")[2]
            try:
                segment, end = parse_gap_name(name.removesuffix(ACCEPTED), self.size)
            except BadName:
                continue  # not ours
            yield name, Gap(segment.timeline, str(segment.start), str(end))

    def open_gaps(self) -> list[Gap]:
        """The recorded gaps that are not closed: a returning member may have handed in what was missing."""
        return [gap for gap in self.gaps() if not all(map(self.find, self._within(gap)))]

    def _within(self, gap: Gap) -> Iterator[Segment]:
        for number in range(Lsn.parse(gap.start) // self.size, Lsn.parse(gap.end) // self.size):
            yield Segment(gap.timeline, number, self.size)

    def segments(self) -> Iterator[Segment]:
        """Every complete segment that the store lists, in no order that means something."""
        for info in self.store.list(self.layout.wal):
            try:
                yield Segment.parse(self.layout.segment_name(info.key), self.size)
            except BadName:
                continue  # .partial, .backup, or somebody's own file

    def rebuild_frontier(self, history: History) -> Lsn | None:
        """How far ``history``'s chain is stored without a break, from the stated start, over recorded gaps (P11).

        None for an archive that was never begun. The listing may lag behind: then this is lower than it could be.
        """
        first = self.start()
        if first is None:
            return None
        stored: dict[int, list[tuple[int, int]]] = {}
        for segment in self.segments():
            runs = stored.setdefault(segment.timeline, [])
            if runs and runs[-1][1] == segment.number:
                runs[-1] = (runs[-1][0], segment.number + 1)
            else:
                runs.append((segment.number, segment.number + 1))
        gaps: dict[int, list[tuple[int, int]]] = {}
        for gap in self.gaps():
            gaps.setdefault(gap.timeline, []).append(
                (Lsn.parse(gap.start) // self.size, Lsn.parse(gap.end) // self.size)
            )
        archived = Archived(
            {timeline: merged(found) for timeline, found in stored.items()},
            {timeline: merged(found) for timeline, found in gaps.items()},
            (),
        )
        return Lsn(reach(archived, history, self.size, first.number) * self.size)

    def _identify(self, segment: Segment, suffix: str) -> Receipt | None:
        key = self.layout.file(segment, suffix)
        info = self.store.head(key)
        if info is None:
            return None
        sha256 = _stated_sha256(info, segment.size) or self._read_sha256(key, suffix, segment.size)
        return None if sha256 is None else Receipt(segment, sha256, info.size, was_present=True)

    def _stored_sha256(self, key: str, suffix: str, size: int) -> str | None:
        info = self.store.head(key)
        return None if info is None else _stated_sha256(info, size) or self._read_sha256(key, suffix, _LARGEST)

    def _read_sha256(self, key: str, suffix: str, limit: int) -> str | None:
        """What the object itself says; None if it is gone."""
        body = self.store.get(key)
        return None if body is None else hashlib.sha256(self.codec.decode(suffix, body, limit)).hexdigest()

    def _create_json(self, key: str, content: dict[str, object]) -> None:
        try:
            self.store.create(key, json.dumps(content).encode() + b"\n", {"format": FORMAT})
        except AlreadyThere:
            return


def fetch(store: Store, layout: Layout, codec: Codec, name: str) -> bytes | None:
    """Exactly what was archived under that name, proved by its checksum; None when it is proved absent (P6).

    Needs no segment size: a segment says it itself. Absent is proved only where the archive states its start: a wrong
    prefix or an unmounted disk is not absence. Raises BadName, CannotTell, or the store's errors.
    """
    file = wal_file(name)
    if file == HistoryFile(1):
        return None
    for suffix in suffixes(file):
        body = store.get(layout.file(file, suffix))
        if body is not None:
            return opened(layout, codec, file, suffix, body)
    prove_archive(store, layout, name)
    return None


def wal_file(name: str) -> WalFile:
    """Any name that PostgreSQL asks for; the segment size in it means nothing. Raises BadName."""
    return parse_wal_name(name, _SMALLEST)


def suffixes(file: WalFile) -> tuple[str, ...]:
    """All under which that file may be stored."""
    return ("",) if isinstance(file, HistoryFile) else SUFFIXES


def opened(layout: Layout, codec: Codec, file: WalFile, suffix: str, body: Body) -> bytes:
    """The plain file in a stored body, checked. Raises CannotTell or Refused for what is damaged or another's."""
    if isinstance(file, HistoryFile):
        parse_history(file.timeline, body)
        return body
    plain = codec.decode(suffix, body, _LARGEST)
    _check_fetched(body.metadata, plain, file, layout)
    return plain


def parts(layout: Layout, codec: Codec, segment: Segment, suffix: str, body: Body) -> Iterator[bytes]:
    """As ``opened``, piece by piece: what came is what was archived only if this ends without CannotTell or Refused."""
    sha256 = hashlib.sha256()
    size = 0
    for part in codec.parts(suffix, body, segment.size):
        if size == 0:
            check_header(SegmentHeader.parse(part, segment.name), segment, layout.system_identifier)
        sha256.update(part)
        size += len(part)
        yield part
    _check_sum(body.metadata, sha256.hexdigest(), segment)
    if size != segment.size:
        raise CannotTell(f"{segment}: {size} bytes, a whole one has {segment.size}", hint="It is damaged.")


def prove_archive(store: Store, layout: Layout, name: str) -> None:
    """That what is not here is not archived. Raises CannotTell where no archive was ever begun."""
    if next(iter(store.list(layout.starts)), None) is None:
        raise CannotTell(
            f"{name}: there is no archive under {store.url}/{layout.root}",
            hint="Is it the right bucket, prefix and scope, and is the disk mounted? An archive begins with start/.",
        )


def _check_fetched(metadata: Mapping[str, str], plain: Plain, file: WalFile, layout: Layout) -> None:
    _check_sum(metadata, hashlib.sha256(plain).hexdigest(), file)
    if isinstance(file, Segment):
        header = SegmentHeader.parse(plain, file.name)
        check_header(header, Segment.parse(file.name, header.segment_size), layout.system_identifier)
        if len(plain) != header.segment_size:
            raise CannotTell(
                f"{file.name}: {len(plain)} bytes, a whole one has {header.segment_size}", hint="It is damaged."
            )


def _check_sum(metadata: Mapping[str, str], sha256: str, file: WalFile) -> None:
    if metadata.get("sha256", sha256) != sha256:
        raise CannotTell(f"{file.name}: its content is not what its checksum says", hint="It is damaged in the store.")


def _stated_sha256(info: ObjectInfo, size: int) -> str | None:
    """The plain segment's checksum as the metadata state it; None where they are lost, garbled or of another size."""
    sha256 = info.metadata.get("sha256", "")
    whole = len(sha256) == hashlib.sha256().digest_size * 2 and all(c in "0123456789abcdef" for c in sha256)
    return sha256 if whole and info.metadata.get("size") == str(size) else None


def _conflict(name: str, key: str) -> Conflict:
    return Conflict(
        f"{name}: {key} is in the store with other bytes",
        hint="Two servers wrote the same timeline (split brain), or two clusters share this prefix. Nothing was overwritten; "
        "archiving stops here until one of the two is moved away by hand.",
    )
