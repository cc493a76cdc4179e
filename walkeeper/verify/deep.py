"""``verify --deep``: download every object of the chain, and look whether it is what it says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple

from walkeeper.archive.codec import STORED, Codec
from walkeeper.core.coverage import Coverage, Range, end_of, intersect, subtract, touches, united
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.wal_page import SegmentHeader, check_header, check_pages
from walkeeper.core.wal_records import Ends, ends_of
from walkeeper.errors import CannotTell, Locked, Refused, StoreError
from walkeeper.lib.parallel import in_parallel
from walkeeper.lib.retry import with_retries
from walkeeper.store.base import Body
from walkeeper.verify.evidence import Evidence
from walkeeper.verify.judge import MOST, Finding, damage, duplicates, note, stored_so, unsure

IN_A_ROW: Final = 8
"""Objects that could not be read, one after the other, after which the store is taken to be away."""
_DAMAGED: Final = (
    "A restore stops there. Look for an older version of the object, or for the segment in pg_wal of a member; move the "
    "damaged object away before a good one can be stored. Take a base backup now."
)

_BESIDE: Final = "A restore takes the whole one. The damaged one can be moved away."


class Item(NamedTuple):
    """One segment, and the suffixes that it is stored under."""

    segment: Segment
    suffixes: tuple[str, ...]


class Look(NamedTuple):
    """At segment ``number``. ``problem``: damaged. ``locked``: not to be opened. ``unread``: the store did not give it."""

    key: str
    bytes: int
    number: int = 0
    problem: str = ""
    locked: str = ""
    unread: str = ""
    unsummed: bool = False
    beside: bool = False
    """The damaged one lies beside a whole one."""
    ends: Ends = Ends()


@dataclass(slots=True)
class Deep:
    """Of ``total`` segments ``objects`` were asked for; ``locked`` and ``unread`` were not looked into."""

    total: int = 0
    objects: int = 0
    bytes: int = 0
    damaged: int = 0
    locked: int = 0
    unread: int = 0
    unsummed: int = 0
    broken: list[Range] = field(default_factory=list)
    """Numbers of segments that are damaged: no restore crosses them."""
    findings: list[Finding] = field(default_factory=list)


def look(
    evidence: Evidence, found: Coverage, history: History, codec: Codec, workers: int, progress: Callable[[Deep], None]
) -> Deep:
    """Memory: ``workers`` times a packed and a plain segment. What is damaged is told, and the rest looked at nevertheless."""
    deep = Deep(total=sum(stretch.length for stretch in found.stored))
    locked, in_a_row, seams = "", 0, _Seams(found.windows)

    def one(item: Item) -> Look:
        return look_at(evidence, item, history, codec)._replace(number=item.segment.number)

    for looked in in_parallel(one, _items(evidence, found), workers):
        deep.objects += 1
        deep.bytes += looked.bytes
        deep.unsummed += looked.unsummed
        deep.locked += bool(looked.locked)
        deep.unread += bool(looked.unread)
        if looked.problem and not looked.beside:
            deep.damaged += 1
            deep.broken.append(Range(looked.number, looked.number + 1))
        for number in seams.torn(looked.number, looked.ends):
            deep.broken.append(Range(number, number + 1))
            if len(deep.findings) < MOST:
                deep.findings.append(_splice(history.segment(number, evidence.size)))
        locked = locked or (f"{looked.key}: {looked.locked}" if looked.locked else "")
        if (looked.problem or looked.unread) and len(deep.findings) < MOST:
            deep.findings.append(_finding(looked))
        progress(deep)
        in_a_row = in_a_row + 1 if looked.unread else 0
        if in_a_row == IN_A_ROW:
            break
    deep.findings.sort(key=lambda finding: (finding.severity, finding.key or ""))
    deep.findings += _in_sum(deep, locked)
    return deep


class _Seams:
    """Whether the WAL goes on from segment to segment; they come nearly in order, and what waits for its neighbour is kept."""

    def __init__(self, stored: Sequence[Range]) -> None:
        self._stored = stored
        self._last: dict[int, Lsn] = {}
        self._before: dict[int, Lsn] = {}

    def torn(self, number: int, ends: Ends) -> Iterator[int]:
        """Those whose first record follows another one than that of the segment before."""
        for each, known, others, neighbour in (
            (number, ends.before, self._last, number - 1),
            (number + 1, ends.last, self._before, number + 1),
        ):
            if known is None or not touches(self._stored, neighbour, neighbour + 1):
                continue
            if (other := others.pop(each, None)) is None:
                (self._before if others is self._last else self._last)[each] = known
            elif other != known:
                yield each


def look_at(evidence: Evidence, item: Item, history: History, codec: Codec) -> Look:
    """One segment under all its suffixes: damaged if none of them is whole, or if two are and differ."""
    taken, sums, unsummed, ends = 0, set(), False, Ends()
    key, problem = "", None
    for suffix in item.suffixes:
        key = evidence.layout.file(item.segment, suffix)
        try:
            body = _got(evidence, key)
            taken += len(body)
            plain = codec.decode(suffix, body, item.segment.size)
            sum_ = hashlib.sha256(plain).hexdigest()
            unsummed |= _check(body.metadata.get("sha256"), sum_, plain, item.segment, evidence, history)
            ends = ends_of(plain, item.segment)
        except StoreError as unread:
            return Look(key, taken, unread=str(unread))
        except Locked as locked:
            return Look(key, taken, locked=str(locked))
        except (CannotTell, Refused) as damaged:
            problem = problem or Look(key, taken, problem=str(damaged))
            continue
        sums.add(sum_)
        del plain, body  # before the next one comes
    if problem is not None:
        return problem if not sums else problem._replace(bytes=taken, beside=True, ends=ends)
    if len(sums) > 1:
        return Look(key, taken, problem="it holds other bytes than the object of the same name with the other suffix")
    return Look(key, taken, unsummed=unsummed, ends=ends)


def _got(evidence: Evidence, key: str) -> Body:
    """Raises CannotTell where it is gone, or the store's errors."""
    body = with_retries(partial(evidence.store.get, key))
    if body is None:
        raise CannotTell("it is listed, and not there")
    return body


def _check(
    stated: str | None, found: str, plain: bytes, segment: Segment, evidence: Evidence, history: History
) -> bool:
    """True where there is no checksum to hold it against. Raises Refused or CannotTell."""
    if stated not in (None, found):
        raise CannotTell("its content is not what its checksum says")
    if len(plain) != segment.size:
        raise CannotTell(f"{len(plain)} bytes, a whole segment has {segment.size}")
    check_header(SegmentHeader.parse(plain, segment.name), segment, evidence.layout.system_identifier, history)
    check_pages(plain, segment, history)
    return stated is None


def _items(evidence: Evidence, found: Coverage) -> Iterator[Item]:
    twice = duplicates(evidence)
    for timeline, parts in groupby(found.stored, key=attrgetter("timeline")):
        chain = united((first, end) for _, first, end in parts)
        stored = {suffix: intersect(stored_so(evidence, timeline, suffix), chain) for suffix in STORED}
        more_than_once = intersect(twice.get(timeline, ()), chain)
        for suffix, there in stored.items():
            yield from (
                Item(segment, (suffix,)) for segment in _each(subtract(there, more_than_once), timeline, evidence)
            )
        for segment in _each(more_than_once, timeline, evidence):
            suffixes = (suffix for suffix in STORED if end_of(stored[suffix], segment.number) > segment.number)
            yield Item(segment, tuple(suffixes))


def _each(ranges: Iterable[Range], timeline: int, evidence: Evidence) -> Iterator[Segment]:
    return (Segment(timeline, number, evidence.size) for first, end in ranges for number in range(first, end))


def _finding(looked: Look) -> Finding:
    if looked.beside:
        text = f"{looked.key}: {looked.problem}; another object of that segment is whole"
        return note("damaged_beside_whole", text, _BESIDE, count=1, key=looked.key)
    if looked.problem:
        text = f"{looked.key}: {looked.problem}"
        return damage("object_damaged", text, _DAMAGED, count=1, key=looked.key)
    return unsure("object_unread", f"{looked.key}: {looked.unread}", "Look again.", count=1, key=looked.key)


def _splice(segment: Segment) -> Finding:
    return damage(
        "splice",
        f"{segment}: its WAL does not go on from the segment before: its first record follows another one",
        "Two servers wrote here, or two lives of one volume. A restore ends before it. Take a base backup now, and find out what "
        "was stored from where (docs/operations.md, conflict).",
        first=segment.name,
    )


def _in_sum(deep: Deep, locked: str) -> Iterator[Finding]:
    told = sum(finding.kind == "object_damaged" for finding in deep.findings)
    if deep.damaged > told:
        yield damage("object_damaged", f"and {deep.damaged - told} more", count=deep.damaged - told)
    if deep.objects < deep.total:
        yield unsure(
            "not_looked_at",
            f"{deep.total - deep.objects} segments were not looked at: {IN_A_ROW} in a row could not be read",
            "Look at the store and the way to it.",
            count=deep.total - deep.objects,
        )
    if deep.locked:
        yield unsure(
            "locked",
            f"{deep.locked} of {deep.objects} segments could not be opened; {locked}",
            "Set encryption.identity_file, on a host that may read the archive, to the file with the private key.",
            count=deep.locked,
        )
    if deep.unsummed:
        yield note(
            "no_checksum",
            f"{deep.unsummed} segments carry no SHA-256; their zstd checksum and page headers are right",
            "Their metadata were lost: a file system without extended attributes, or a copy that left them behind.",
            count=deep.unsummed,
        )
