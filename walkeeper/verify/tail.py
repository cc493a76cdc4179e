"""The open segment: whether the pieces of its tail bear out a frontier that lies inside it.

By their names alone, which say who received which bytes; ``--deep`` reads them as a restore would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from walkeeper.archive.codec import Codec
from walkeeper.archive.contents import Contents
from walkeeper.archive.tail import longest_stored
from walkeeper.archive.tail_read import assemble
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.errors import CannotTell, Refused, StoreError
from walkeeper.lib.retry import with_retries
from walkeeper.verify.evidence import Evidence
from walkeeper.verify.judge import Finding, damage, note, unsure
from walkeeper.verify.target import Target

_ATTEMPTS: Final = 3
"""Pieces that are merged while they are listed can look like a hole."""
_LOST: Final = (
    "What was committed since then is only on the cluster's own disks: nothing is lost while they live. The agent of the leader "
    "stores it with the segment as a whole, at the latest; SELECT pg_switch_wal() completes it now."
)


@dataclass(frozen=True, slots=True)
class OpenSegment:
    """The first segment that is not stored as a whole. The longest chain of its tail has ``pieces`` and ends at ``end``.

    ``claimed`` is the frontier, where it lies inside the segment. ``problem``: what ``--deep`` found, ``unread``: why it
    could not look. ``others`` counts the pieces of other segments.
    """

    segment: Segment
    claimed: Lsn | None
    end: Lsn
    pieces: int
    others: int
    problem: str = ""
    unread: str = ""

    @property
    def proved(self) -> Lsn:
        """How far a restore gets for sure: where the frontier is, if the tail bears that out, else the segment's start."""
        if self.claimed is None or self.end < self.claimed or self.problem:
            return self.segment.start
        return self.claimed


def look(evidence: Evidence, target: Target) -> OpenSegment | None:
    """None where the segment is complete by now: then it has no tail. Raises the store's errors."""
    segment = target.history.segment(target.end, evidence.size)
    record = evidence.claim.record
    frontier = record.position if record is not None and target.by_record else segment.start
    claimed = frontier if frontier > segment.start else None
    end, pieces, count = segment.start, 0, 0
    for _ in range(_ATTEMPTS):
        chain, count = longest_stored(evidence.store, evidence.layout, segment.name)
        end, pieces = Lsn(segment.start + (chain[-1].end if chain else 0)), len(chain)
        if claimed is None or end >= claimed:
            break
        if Contents(evidence.store, evidence.layout, evidence.size).has(segment):
            return None
    return OpenSegment(segment, claimed, end, pieces, max(0, evidence.inventory.tails.count - count))


def look_inside(evidence: Evidence, found: OpenSegment, codec: Codec) -> OpenSegment:
    """Download the pieces, and put them together as restore-wal does."""
    if found.claimed is None or found.end < found.claimed:
        return found
    if max(evidence.histories, default=1) > found.segment.timeline:
        return replace(found, unread="a newer timeline has begun")
    try:
        tail = with_retries(lambda: assemble(evidence.store, evidence.layout, codec, found.segment.name))
    except (StoreError, CannotTell) as problem:
        return replace(found, unread=str(problem))
    except Refused as problem:
        return replace(found, problem=str(problem))
    end = Lsn(found.segment.start + (len(tail.plain) if tail else 0))
    if end >= found.claimed or Contents(evidence.store, evidence.layout, evidence.size).has(found.segment):
        return found
    return replace(found, problem=f"its pieces hold together up to {end} only")


def about(found: OpenSegment | None) -> Iterator[Finding]:
    """What there is to say of it."""
    if found is None:
        return
    name = found.segment.name
    if found.claimed is not None and found.end < found.claimed:
        where = f"end at {found.end}" if found.pieces else "are not in the store"
        yield damage(
            "tail_missing",
            f"{name}: the frontier is at {found.claimed}, inside it, and the pieces of its tail {where}",
            _LOST,
            first=name,
            last=name,
            count=1,
        )
    if found.problem:
        text = f"{name}: its tail is damaged below the frontier {found.claimed}: {found.problem}"
        yield damage("tail_damaged", text, _LOST, first=name, last=name, count=1)
    if found.unread:
        text = f"{name}: its tail was not looked into: {found.unread}"
        yield unsure("tail_unread", text, "Look again.", first=name, last=name, count=1)
    if found.others:
        yield note(
            "tail",
            f"{found.others} {'piece' if found.others == 1 else 'pieces'} of other segments, which are complete, or of a branch "
            "that was left",
            "They do no harm. An agent clears up what is covered, walkeeper expire the rest with the WAL there.",
            count=found.others,
        )
