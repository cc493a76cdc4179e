"""A base backup as the store describes it: its id, and ``backup.json``, the one object that makes it a backup.

That object is created once, last of all. It is the backup, or the tombstone of an attempt or a backup that was given up:
one key decides between the two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.errors import BadBackup, WalkeeperError

SCHEMA: Final = 2
MAX_BACKUP_BYTES: Final = 1024 * 1024
"""Bytes of the largest ``backup.json``: tablespaces and timelines make it longer."""
PIECE: Final = 16 * 1024 * 1024
"""Bytes of a file in one piece at most; its headers and padding come on top."""
MAX_PIECE: Final = PIECE + 1024 * 1024
"""Bytes of a plain piece at most."""

_ID: Final = re.compile(r"([0-9]{8}T[0-9]{6}Z)-([0-9A-F]{8})-([0-9a-f]{8})\Z")

Sha256: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Position: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9A-F]{1,8}/[0-9A-F]{1,8}\Z")]
Timeline: TypeAlias = Annotated[int, Meta(ge=1, le=0xFFFFFFFF)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Text: TypeAlias = Annotated[str, Meta(max_length=4096)]


@dataclass(frozen=True, slots=True, order=True)
class BackupId:
    """``20261128T020000Z-00000003-1a2b3c4d``: when it was begun by the taker's clock, the timeline, and a random token.

    Sorted as text they are in the order of their beginnings, as far as the takers' clocks agree.
    """

    at: str
    timeline: int
    token: str

    @classmethod
    def parse(cls, text: str) -> BackupId:
        """Raises BadBackup."""
        match = _ID.match(text)
        if match is None or match[2] == "00000000":
            raise BadBackup(
                f"{text!r}: not the id of a backup",
                hint="It looks like 20261128T020000Z-00000003-1a2b3c4d; walkeeper backups lists them.",
            )
        return cls(match[1], int(match[2], 16), match[3])

    @property
    def begun(self) -> datetime | None:
        """None where that is not a moment: not an id that walkeeper made."""
        try:
            return datetime.strptime(self.at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.at}-{self.timeline:08X}-{self.token}"


class Place(msgspec.Struct, frozen=True):
    """A moment of the server that was backed up; ``at`` is its clock's, in ISO 8601 with a zone."""

    timeline: Timeline
    lsn: Position
    at: Text

    @property
    def position(self) -> Lsn:
        return Lsn.parse(self.lsn)


class WalRange(msgspec.Struct, frozen=True):
    """WAL that the backup needs, of one timeline, from ``start`` up to ``end``; as in PostgreSQL's manifest."""

    timeline: Timeline
    start: Position
    end: Position


class _ManifestRange(msgspec.Struct):
    timeline: Timeline = msgspec.field(name="Timeline")
    start: Position = msgspec.field(name="Start-LSN")
    end: Position = msgspec.field(name="End-LSN")


class _ManifestEnd(msgspec.Struct):
    ranges: list[_ManifestRange] = msgspec.field(name="WAL-Ranges")


class Tablespace(msgspec.Struct, frozen=True):
    """``location`` is where it lay on the server; ``order`` names the list of its pieces."""

    oid: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)]
    location: Text
    order: Sha256


class Backup(msgspec.Struct, frozen=True, kw_only=True, tag="backup", tag_field="is"):
    """A backup whose pieces are all stored.

    ``wal`` is what must be stored without a break to make it complete, oldest first. ``damage`` is what PostgreSQL said against
    it, such as pages with a wrong checksum: with any, it never counts. ``suffix`` is that of its objects (``archive.codec``).
    ``index``, ``manifest`` and ``order`` are the SHA-256 in their names, of their plain bytes. ``bytes`` are those of all files,
    ``packed_bytes`` those of the pieces as they are stored. ``seed`` is that of the index's XXH3: who can only write rows does
    not know it, and cannot make two pieces look the same. ``version`` is ``server_version_num``.
    """

    schema: int = SCHEMA
    id: Text
    system_identifier: Annotated[str, Meta(pattern=r"^[0-9]{1,20}\Z")]
    segment_size: Count
    version: Count
    kind: Literal["full", "incremental"] = "full"
    parent: Text = ""
    start: Place
    stop: Place
    wal: Annotated[tuple[WalRange, ...], Meta(min_length=1, max_length=1024)]
    damage: Annotated[tuple[Text, ...], Meta(max_length=100)] = ()
    checksums: bool
    suffix: Literal[".zst", ".zst.age"]
    index: Sha256
    manifest: Sha256
    order: Sha256
    tablespaces: Annotated[tuple[Tablespace, ...], Meta(max_length=1024)] = ()
    files: Count
    bytes: Count
    pieces: Count
    packed_bytes: Count
    seed: Annotated[int, Meta(ge=0)]
    member: Text
    walkeeper: Text

    @property
    def size(self) -> SegmentSize:
        return SegmentSize(self.segment_size)

    @property
    def major(self) -> int:
        """PostgreSQL's."""
        return self.version // 10000


class Tombstone(msgspec.Struct, frozen=True, kw_only=True, tag="tombstone", tag_field="is"):
    """In the place of an attempt that will never become a backup: its pieces may go. It stays."""

    schema: int = 1
    id: Text
    at: Text
    why: Text


_DECODER: Final[msgspec.json.Decoder[Backup | Tombstone]] = msgspec.json.Decoder(Backup | Tombstone)
_MANIFEST_END: Final = msgspec.json.Decoder(_ManifestEnd)


def encode(found: Backup | Tombstone) -> bytes:
    """The document of ``backup.json``; the same value is the same bytes."""
    return msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"


def decode(document: bytes, id_: BackupId) -> Backup | Tombstone:
    """``backup.json`` of that id, bounded and checked. Raises BadBackup for everything that this version cannot rely on."""
    try:
        if len(document) > MAX_BACKUP_BYTES:
            raise BadBackup(f"{len(document)} bytes, limit {MAX_BACKUP_BYTES}")
        found = _DECODER.decode(document)
        if isinstance(found, Backup):
            _check(found)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, WalkeeperError) as error:
        raise BadBackup(f"backup {id_}: its backup.json cannot be used: {error}", hint=_LOOK) from None
    known = SCHEMA if isinstance(found, Backup) else 1
    if found.schema != known or found.id != str(id_):
        raise BadBackup(
            f"backup {id_}: its backup.json has schema {found.schema} and id {found.id!r}",
            hint=f"This version knows schema {known}. {_LOOK}",
        )
    return found


_LOOK: Final = "The backup does not count. Look at who may write there; verify says what else is damaged."


def _check(backup: Backup) -> None:
    """What types do not say: positions in order, ranges that follow each other from start to stop."""
    if backup.size <= 0 or backup.stop.position < backup.start.position:
        raise BadBackup("it stops before it starts")
    ends = [Lsn.parse(part.end) for part in backup.wal]
    starts = [Lsn.parse(part.start) for part in backup.wal]
    timelines = [part.timeline for part in backup.wal]
    if any(start > end for start, end in zip(starts, ends, strict=True)):
        raise BadBackup("a range of its WAL ends before it starts")
    if timelines != sorted(set(timelines)) or any(a != b for a, b in zip(ends, starts[1:], strict=False)):
        raise BadBackup("the ranges of its WAL do not follow each other")
    if starts[0] > backup.start.position or ends[-1] < backup.stop.position:
        raise BadBackup("the ranges of its WAL do not reach from its start to its stop")


def wal_ranges(manifest_end: bytes) -> tuple[WalRange, ...]:
    """The WAL that the backup needs, oldest first, as PostgreSQL's manifest says it at its end. Raises BadBackup."""
    _, key, rest = manifest_end.rpartition(b'"WAL-Ranges"')
    try:
        found = _MANIFEST_END.decode(b"{" + key + rest).ranges
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadBackup(f"the server's manifest: its ranges of WAL cannot be read: {error}") from None
    in_order = sorted(found, key=lambda each: each.timeline)
    return tuple(WalRange(each.timeline, each.start, each.end) for each in in_order)
