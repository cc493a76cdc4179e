"""The one document that walkeeper keeps in the DCS."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from walkeeper.core.life import TOKEN
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import BadRecord, WalkeeperError

SCHEMA: Final = 1
MAX_RECORD_BYTES: Final = 64 * 1024
SMALL: Final = 1024
"""Bytes of the largest record that is written: etcd keeps every version of it until it is compacted."""
BRIEF: Final = 42
"""Characters of ``trouble`` that stay beside much that is suspected lost: it names the same WAL in words."""
MAX_GAPS: Final = 32
"""Gaps that the record itself lists at most, newest last; the store has them all."""

MAX_SUSPECTED: Final = 8
"""Ranges that are suspected lost and that the record lists at most, lowest first."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
_ALIGNMENT: Final = 4
"""Records begin and end at multiples of MAXALIGN, which is 8, or 4 on some 32-bit machines."""
_IDENTIFIER: Final = re.compile(r"[0-9]{1,20}\Z", re.ASCII)
_REBUILD: Final = "An agent that takes over goes by the store instead, and so does walkeeper verify --rebuild."


class Gap(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """WAL from ``start`` up to ``end`` (text, as PostgreSQL writes positions) that no longer existed anywhere."""

    timeline: int
    start: str
    end: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The frontier and who moves it.

    Every byte of ``timeline``'s ancestry from the archive's stated start below ``lsn`` is in the store, but for ``gaps``.
    ``lsn`` is text in the document: the start of a segment, or with the tail any byte inside one. ``start`` names the
    archive's first segment. ``session`` is a new one at each takeover. ``suspected`` is WAL from the frontier on that nobody
    who answered has, and that holds the frontier up. ``trouble`` is what keeps the owner from going on,
    for people on other nodes; so are the moments: ``updated_at`` of this document, ``moved_at`` of the frontier's last move,
    ``wal_at`` when the server's WAL last ended at or below the frontier, so that whatever waits is younger (both "" where
    that is not known, as in records of 0.1.0).
    ``below_sha256`` is that of the last whole segment below ``lsn``, ``history_sha256`` that of the history of ``timeline``; ""
    where it is not stated (walkeeper 0.1.0 states neither). ``life`` is the token of its owners' signs of life in the
    store, which stays the same from takeover to takeover; "" where walkeeper 0.1.0 wrote the record. ``durability`` is "store"
    where commits wait for the store; ``waits_for`` is the other one of several that they wait for. ``closed_by`` is the member
    that ended the owner's session: before its own promotion, or as the owner, whose server was shut down.
    """

    schema: int = SCHEMA
    system_identifier: str
    segment_size: int
    timeline: int
    lsn: str
    start: str
    owner: str
    session: str
    gaps: tuple[Gap, ...] = ()
    gaps_total: int = 0
    suspected: tuple[Gap, ...] = ()
    trouble: str = ""
    updated_at: str = ""
    moved_at: str = ""
    wal_at: str = ""
    below_sha256: str = ""
    history_sha256: str = ""
    life: str = ""
    durability: str = ""
    waits_for: str = ""
    closed_by: str = ""

    @property
    def position(self) -> Lsn:
        return Lsn.parse(self.lsn)

    @property
    def size(self) -> SegmentSize:
        return SegmentSize(self.segment_size)

    @property
    def is_owners(self) -> bool:
        """False where a person may have put the frontier there: its owner states what is stored below, if there is anything."""
        return bool(self.below_sha256) or self.position < Segment.parse(self.start, self.size).end

    def encode(self) -> bytes:
        """Its document, kept SMALL: while WAL is suspected lost, of ``trouble`` the beginning; then of gaps only as many, the
        newest, as fit, and then of what is suspected, the lowest. Members copy aside what it names.
        """
        document = msgspec.json.encode(self)
        gaps, suspected = self.gaps, self.suspected
        trouble = self.trouble[:BRIEF] if suspected else self.trouble
        if len(document) > SMALL and trouble != self.trouble:
            document = msgspec.json.encode(msgspec.structs.replace(self, trouble=trouble))
        while len(document) > SMALL and (gaps or len(suspected) > 1):
            gaps, suspected = gaps[1:], suspected if gaps else suspected[:-1]
            document = msgspec.json.encode(
                msgspec.structs.replace(self, gaps=gaps, suspected=suspected, trouble=trouble)
            )
        return document


_DECODER: Final = msgspec.json.Decoder(Record)


def decode_record(document: bytes) -> Record:
    """The DCS's value to a record. Raises BadRecord for everything that this version cannot rely on."""
    if len(document) > MAX_RECORD_BYTES:
        raise BadRecord(f"record in the DCS: {len(document)} bytes, limit {MAX_RECORD_BYTES}", hint=_REBUILD)
    try:
        record = _DECODER.decode(document)
        aligned = record.position % _ALIGNMENT == 0 and record.size > 0
        Segment.parse(record.start, record.size)
        for gap in (*record.gaps, *record.suspected):
            Lsn.parse(gap.start), Lsn.parse(gap.end)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, WalkeeperError) as error:
        raise BadRecord(f"record in the DCS: {error}", hint=_REBUILD) from None
    if record.schema != SCHEMA:
        raise BadRecord(f"record in the DCS: schema {record.schema}, this version knows {SCHEMA}", hint=_REBUILD)
    sums = all(not each or _SHA256.match(each) for each in (record.below_sha256, record.history_sha256))
    named = not record.life or TOKEN.match(record.life)
    if not aligned or not sums or not named or record.timeline < 1 or not _IDENTIFIER.match(record.system_identifier):
        raise BadRecord("record in the DCS: its values cannot be right", hint=_REBUILD)
    return record
