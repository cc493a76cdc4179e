"""What is stored already, looked at again: is it there, and is it what was stored. Nothing is changed here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from walkeeper.archive.codec import STORED, most
from walkeeper.archive.expiry import read_expiry
from walkeeper.archive.read import opened
from walkeeper.archive.write import Archive
from walkeeper.core.coverage import FOREVER, Range, Stretch, Stretches, chain, coverage, within, without
from walkeeper.core.floor import covered, given_up
from walkeeper.core.history import History
from walkeeper.core.names import Segment
from walkeeper.errors import (
    ArchiveMissing,
    BadName,
    CannotTell,
    Locked,
    NotAuthentic,
    ObjectDamaged,
    ObjectMissing,
    Refused,
    TooLarge,
)
from walkeeper.store.base import Body


def lacking(archive: Archive, history: History, first: int, end: int) -> Sequence[Stretch]:
    """What of that part of the chain the store does not list, and should: a LIST of each folder, and more only if one lacks some.

    Listings may lag behind. Raises ArchiveMissing where no archive is there at all, BadFloor, or the store's errors.
    """
    size, layout = archive.size, archive.layout
    folders = {
        f"{layout.wal}{Segment(stretch.timeline, number, size).name[:16]}/"
        for stretch in chain(history, size, first, end)
        for number in {*range(stretch.first, stretch.end, size.per_log), stretch.end - 1}
    }
    holes = coverage(archive.contents.listed(*sorted(folders)).archived(size), history, size, first, end).holes
    return expected(archive, history, [hole.stretch for hole in holes]) if holes else []


def expected(archive: Archive, history: History, files: Iterable[Stretch]) -> Sequence[Stretch]:
    """What of those files of the chain, in order, the store should have: it is no recorded gap, no floor gave it up, and the
    archive begins below. Raises as ``lacking``.
    """
    size, layout = archive.size, archive.layout
    stated = archive.contents.listed(layout.starts, layout.gaps)
    starts = [start.number for start in stated.stated_starts(size)]
    if not starts:
        raise ArchiveMissing(
            f"{archive.place}: the archive is no longer there",
            hint="Was the disk unmounted, or the bucket emptied? Nothing is stored again by itself: put it back from a copy, "
            "or begin a new archive: restart the agent, and then run walkeeper takeover --accept.",
        )
    floors = read_expiry(archive.store, layout).floors
    left = without(without(files, stated.archived(size).gaps), given_up(floors))
    begin = starts[-1]
    if left and left[0].first < begin:  # it may be anybody's word: see ``begins`` in core.coverage
        below = without(chain(history, size, starts[0], begin), covered(floors))
        begin = next(_stored_numbers(archive, below), begin)
    return within({timeline: [Range(begin, FOREVER)] for timeline in history.timelines}, left)


def _stored_numbers(archive: Archive, files: Stretches) -> Iterator[int]:
    """The first of those files of the chain that is stored in each folder, the lowest first."""
    for folder in archive.store.folders(archive.layout.wal):
        try:
            first = Segment.parse(f"{folder}00000000", archive.size)
        except BadName:
            continue  # not ours
        if within({first.timeline: [Range(first.number, first.number + archive.size.per_log)]}, files):
            listed = archive.contents.listed(f"{archive.layout.wal}{folder}/").archived(archive.size)
            yield from (found.first for found in within(listed.segments, files)[:1])


def problem_with(archive: Archive, segment: Segment) -> ObjectDamaged | ObjectMissing | None:
    """Read it through, as far as the first whole object of it; what is wrong if none is. Raises the store's errors."""
    problem: ObjectDamaged | None = None
    for suffix in sorted(STORED, key=lambda each: each != archive.codec.suffix):
        key = archive.layout.file(segment, suffix)
        try:
            body = archive.store.get(key, most(archive.size))
        except (NotAuthentic, TooLarge) as forged:
            problem = problem or ObjectDamaged(str(forged))
            continue
        if body is None:
            continue
        why = _damage(archive, segment, suffix, body)
        if not why:
            return None
        problem = problem or ObjectDamaged(f"{key}: {why}")
    return problem or ObjectMissing(
        f"{archive.layout.file(segment, archive.codec.suffix)}: it is no longer in the store"
    )


def _damage(archive: Archive, segment: Segment, suffix: str, body: Body) -> str:
    stated = body.metadata.get("packed-sha256")
    if stated is not None:
        return "" if stated == hashlib.sha256(body).hexdigest() else "its content is not what was stored"
    try:
        opened(archive.layout, archive.codec, segment, suffix, body, archive.size)
    except Locked:
        return ""  # of 0.1.0, and this node cannot open it
    except (CannotTell, Refused) as problem:
        return str(problem)
    return ""
