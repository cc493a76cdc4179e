"""What is stored already, looked at again: is it there, and is it what was stored. Nothing is changed here."""

from __future__ import annotations

import hashlib

from walkeeper.archive.codec import STORED
from walkeeper.archive.expiry import read_expiry
from walkeeper.archive.read import opened
from walkeeper.archive.write import Archive
from walkeeper.core.coverage import Archived, Stretch, chain, coverage, merged, subtract
from walkeeper.core.floor import given_up
from walkeeper.core.history import History
from walkeeper.core.names import Segment
from walkeeper.errors import ArchiveMissing, CannotTell, Locked, NotAuthentic, ObjectDamaged, ObjectMissing, Refused
from walkeeper.store.base import Body


def lacking(archive: Archive, history: History, first: int, end: int) -> list[Stretch]:
    """What of that part of the chain the store does not list, and should: a LIST of each folder, and more only if one lacks some.

    Listings may lag behind. Raises ArchiveMissing where no archive is there at all, BadFloor, or the store's errors.
    """
    size, layout = archive.size, archive.layout
    folders = {
        f"{layout.wal}{Segment(stretch.timeline, number, size).name[:16]}/"
        for stretch in chain(history, size, first, end)
        for number in {*range(stretch.first, stretch.end, size.per_log), stretch.end - 1}
    }
    found = _holes(archive.contents.listed(*sorted(folders)).archived(size), history, archive, first, end)
    if not found:
        return []
    stated = archive.contents.listed(layout.starts, layout.gaps)
    start = stated.start(size)
    if start is None:
        raise ArchiveMissing(
            f"{archive.store.url}/{layout.root}: the archive is no longer there",
            hint="Was the disk unmounted, or the bucket emptied? Nothing is stored again by itself: put it back from a copy, "
            "or begin a new archive: restart the agent, and then run walkeeper takeover --accept.",
        )
    gaps, floors = stated.archived(size).gaps, given_up(read_expiry(archive.store, layout).floors)
    known = {
        timeline: merged([*gaps.get(timeline, ()), *floors.get(timeline, ()), (0, start.number)])
        for timeline in {stretch.timeline for stretch in found}
    }
    return [
        Stretch(stretch.timeline, *left)
        for stretch in found
        for left in subtract(merged([(stretch.first, stretch.end)]), known[stretch.timeline])
    ]


def _holes(archived: Archived, history: History, archive: Archive, first: int, end: int) -> list[Stretch]:
    return [hole.stretch for hole in coverage(archived, history, archive.size, first, end).holes]


def problem_with(archive: Archive, segment: Segment) -> ObjectDamaged | ObjectMissing | None:
    """Read it through, as far as the first whole object of it; what is wrong if none is. Raises the store's errors."""
    problem: ObjectDamaged | None = None
    for suffix in sorted(STORED, key=lambda each: each != archive.codec.suffix):
        key = archive.layout.file(segment, suffix)
        try:
            body = archive.store.get(key)
        except NotAuthentic as forged:
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
        opened(archive.layout, archive.codec, segment, suffix, body)
    except Locked:
        return ""  # of 0.1.0, and this node cannot open it
    except (CannotTell, Refused) as problem:
        return str(problem)
    return ""
