"""What ``expire`` has given up, and what is kept all the same: small documents in the store, each created once.

A floor is recorded before anything is deleted, and only after its grace is over does a later run delete below it; until then
it can be revoked. Each floor says everything that those before it said, so that the newest tells what is given up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from walkeeper.core.amounts import to_the_second
from walkeeper.core.backup import BackupId, Count, Position, Text, Timeline, WalRange
from walkeeper.core.coverage import Range, Ranges, merged, subtract
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import BadFloor, WalkeeperError

SCHEMA: Final = 1
MAX_FLOOR_BYTES: Final = 1024 * 1024
"""Bytes of the largest document here."""
LEAST_GRACE: Final = 3600
"""Seconds for which every floor stands before anything below it is deleted: who has just begun to restore is seen by then."""
LONGEST_PIN: Final = 7 * 86400
"""Seconds from a pin's beginning to its end."""
MAX_IDS: Final = 10_000
"""Backups that one floor gives up; the next one has the others."""
FOREVER: Final = datetime(9999, 12, 31, tzinfo=UTC)
EVERYTHING: Final = "FFFFFFFF/FFFFFFFF"
"""The position of a timeline of which nothing is needed."""

Moment = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")]
"""By the store's clock, in UTC."""


class Below(msgspec.Struct, frozen=True):
    """The files of ``timeline`` that end at or below ``lsn``."""

    timeline: Timeline
    lsn: Position


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """Given up: WAL ``below``, but for the segments that ``kept`` touches; and ``backups``, ids of attempts too.

    ``start`` is the segment that the archive begins with then. ``grace`` in seconds from ``at`` on.
    """

    schema: int = SCHEMA
    number: Annotated[int, Meta(ge=1, le=99_999_999)]
    at: Moment
    grace: Annotated[int, Meta(ge=LEAST_GRACE, le=366 * 86400)]
    system_identifier: Annotated[str, Meta(pattern=r"^[0-9]{1,20}\Z")]
    segment_size: Count
    start: Annotated[str, Meta(pattern=r"^[0-9A-F]{24}\Z")]
    below: Annotated[tuple[Below, ...], Meta(max_length=10_000)]
    kept: Annotated[tuple[WalRange, ...], Meta(max_length=10_000)] = ()
    backups: Annotated[tuple[Text, ...], Meta(max_length=MAX_IDS)] = ()
    member: Text

    @property
    def size(self) -> SegmentSize:
        return SegmentSize(self.segment_size)

    @property
    def first(self) -> Segment:
        """Where the archive begins, as a segment."""
        return Segment.parse(self.start, self.size)

    @property
    def stands_from(self) -> datetime:
        """When its grace is over at the earliest: it counts from when the store got it (``Expiry.stands_from``)."""
        return moment(self.at) + timedelta(seconds=self.grace)

    @property
    def covered(self) -> dict[int, Ranges]:
        """Segment numbers below it, by timeline; those too that it keeps."""
        found: dict[int, list[Range]] = {}
        for each in self.below:
            found.setdefault(each.timeline, []).append(Range(0, Lsn.parse(each.lsn) // self.size))
        return {timeline: merged(ranges) for timeline, ranges in found.items()}

    @property
    def given_up(self) -> dict[int, Ranges]:
        kept = segments(self.kept, self.size)
        return {timeline: subtract(ranges, kept.get(timeline, ())) for timeline, ranges in self.covered.items()}


class Retained(msgspec.Struct, frozen=True, kw_only=True):
    """A person's word about one backup: it stays until ``until``, with the WAL from its start to its stop. The newest counts."""

    schema: int = SCHEMA
    number: Annotated[int, Meta(ge=1, le=99_999_999)]
    backup: Text
    at: Moment
    until: Moment


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody reads the archive from ``lsn`` of ``timeline``'s chain on, and ``backup``'s pieces, or writes it, until ``until``.

    ``expire`` does not pass it. ``by`` is for people.
    """

    schema: int = SCHEMA
    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{8,32}-[0-9]{4}\Z")]
    kind: Literal["restore", "backup"]
    backup: Text
    timeline: Timeline
    lsn: Position
    at: Moment
    until: Moment
    by: Text

    @property
    def position(self) -> Lsn:
        return Lsn.parse(self.lsn)


_Mark = TypeVar("_Mark", Floor, Retained, Pin)


_FLOOR: Final = msgspec.json.Decoder(Floor)
_RETAINED: Final = msgspec.json.Decoder(Retained)
_PIN: Final = msgspec.json.Decoder(Pin)
_DECODERS: Final[Mapping[type, msgspec.json.Decoder[Any]]] = {Floor: _FLOOR, Retained: _RETAINED, Pin: _PIN}


def encode(mark: Floor | Retained | Pin) -> bytes:
    return msgspec.json.format(msgspec.json.encode(mark), indent=2) + b"\n"


def decode(kind: type[_Mark], document: bytes, key: str) -> _Mark:
    """Bounded and checked. ``key`` is its name in the store, for people. Raises BadFloor."""
    try:
        if len(document) > MAX_FLOOR_BYTES:
            raise BadFloor(f"{len(document)} bytes, limit {MAX_FLOOR_BYTES}")
        mark: _Mark = _DECODERS[kind].decode(document)
        _check(mark)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, WalkeeperError) as error:
        raise BadFloor(f"{key}: it cannot be used: {error}", hint=_LOOK) from None
    if mark.schema != SCHEMA:
        raise BadFloor(f"{key}: schema {mark.schema}, this version knows {SCHEMA}", hint=_LOOK)
    return mark


def moment(text: str) -> datetime:
    """Raises BadFloor."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadFloor(f"{text!r}: not a moment") from None


def written(at: datetime) -> str:
    """As a document here has it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def lasting(until: str) -> str:
    """For people: how long something is retained."""
    return "forever" if moment(until) >= FOREVER else f"until {to_the_second(until)}"


def given_up(floors: Iterable[Floor]) -> dict[int, Ranges]:
    """What floors that were not revoked give up together: numbers, by timeline."""
    return _together(floor.given_up for floor in floors)


def covered(floors: Iterable[Floor]) -> dict[int, Ranges]:
    """The same, with what they keep."""
    return _together(floor.covered for floor in floors)


def segments(ranges: Iterable[WalRange], size: SegmentSize) -> dict[int, Ranges]:
    """The numbers of the segments that those ranges touch, by timeline."""
    found: dict[int, list[Range]] = {}
    for each in ranges:
        start, end = Lsn.parse(each.start), Lsn.parse(each.end)
        found.setdefault(each.timeline, []).append(Range(start // size, -(-end // size)))
    return {timeline: merged(numbers) for timeline, numbers in found.items()}


def _together(parts: Iterable[Mapping[int, Sequence[Range]]]) -> dict[int, Ranges]:
    found: dict[int, list[Range]] = {}
    for part in parts:
        for timeline, ranges in part.items():
            found.setdefault(timeline, []).extend(ranges)
    return {timeline: merged(ranges) for timeline, ranges in found.items()}


_LOOK: Final = "Look at who may write there. walkeeper expire deletes nothing while it cannot read this."


def _check(mark: Floor | Retained | Pin) -> None:
    if isinstance(mark, Floor):
        _ = mark.first, mark.stands_from
        for id_ in mark.backups:
            BackupId.parse(id_)
        return
    BackupId.parse(mark.backup)
    lasts = (moment(mark.until) - moment(mark.at)).total_seconds()
    if isinstance(mark, Pin) and not 0 <= lasts <= LONGEST_PIN:
        raise BadFloor(f"it lasts {lasts:.0f} s, and a pin lasts {LONGEST_PIN} s at most")
