"""Deleting what a recorded floor and today's plan both give up. The one place where WAL and backups are deleted (P2, P15).

In this order, so that a kill at any point leaves nothing that looks whole and is not, and the next run goes on:

1. the archive states its new start, so that what is absent below it stays provable;
2. WAL, tails and recorded gaps below;
3. of each backup its ``backup.json``, from when on it is an attempt; of each attempt nothing yet. Incrementals go before what
   they build on;
4. a tombstone in that one place: whoever still takes that backup can no longer commit it, and it stays;
5. the pieces.

Pins that ended long ago go, too: nobody else takes away those of a process that was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from walkeeper.archive.backups import Backups
from walkeeper.archive.expiry import note_floor
from walkeeper.archive.layout import ACCEPTED, Layout, parse_gap_name
from walkeeper.archive.write import Archive
from walkeeper.core.backup import Backup, BackupId, Tombstone
from walkeeper.core.coverage import Range, end_of
from walkeeper.core.floor import written
from walkeeper.core.lsn import SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import BadName, NotAuthentic, StoreDenied
from walkeeper.expire.look import Looked
from walkeeper.lib import events
from walkeeper.lib.parallel import in_parallel
from walkeeper.lib.retry import with_retries
from walkeeper.store.base import ObjectInfo, Store

_AT_ONCE: Final = 8
_NAME: Final = 24
"""Characters of a segment's name."""


@dataclass(slots=True)
class Deleted:
    """``retained`` are objects that the store would not let go, such as under an object lock: not an error."""

    objects: int = 0
    bytes: int = 0
    backups: list[str] = field(default_factory=list)
    retained: list[str] = field(default_factory=list)


def delete(
    archive: Archive, backups: Backups, looked: Looked, progress: Callable[[Deleted], None] = lambda _: None
) -> Deleted:
    """Below the floors whose grace is over. Raises the store's errors; what was deleted by then stays deleted."""
    deleted, going, layout = Deleted(), looked.going, archive.layout
    for pin in looked.left:
        _gone(archive.store, layout.pin(pin.id))
    if going.first is None:
        return deleted
    if any(going.wal.values()):
        archive.state_start(going.first)
        for found in (
            _wal(archive.store, layout, archive.size, going.wal),
            _tails(archive.store, layout, archive.size, going.wal),
            _gaps(archive.store, layout, archive.size, going.below),
        ):
            _all(archive.store, found, deleted, progress)
    stands = {each.id: each.parent for each in looked.archive.documents.backups}
    for id_ in (*reversed(going.backups), *going.unfinished):
        if id_ in stands.values():
            continue  # an incremental that builds on it is still there
        if _backup(backups, BackupId.parse(id_), looked, deleted, progress):
            stands.pop(id_, None)
    if not deleted.retained:
        for number in going.floors:
            try:
                note_floor(archive.store, layout, number, "done", written(looked.now))
            except NotAuthentic as planted:  # the next run looks there again, and finds nothing
                events.failure("object_not_authentic", planted)
    return deleted


def _backup(
    backups: Backups, id_: BackupId, looked: Looked, deleted: Deleted, progress: Callable[[Deleted], None]
) -> bool:
    """Whether a tombstone stands where its ``backup.json`` was."""
    store, key = backups.store, backups.layout.backup_json(id_)
    standing = backups.read(id_)
    if isinstance(standing, Backup):
        if str(id_) not in looked.going.backups:
            return False  # an attempt that was completed meanwhile
        if not _gone(store, key):
            deleted.retained.append(key)
            return False
    tombstone = Tombstone(id=str(id_), at=written(looked.now), why="below the floor")
    if not isinstance(standing, Tombstone) and not isinstance(backups.commit(tombstone), Tombstone):
        return False  # somebody committed it again: the next run meets it
    folder, before = backups.layout.backup(id_), deleted.objects
    _all(store, (info for info in store.list(folder) if info.key != key), deleted, progress)
    if deleted.objects > before or not isinstance(standing, Tombstone):
        deleted.backups.append(str(id_))
        events.info("backup_expired", backup=id_)
    return True


def _wal(
    store: Store, layout: Layout, size: SegmentSize, ranges: Mapping[int, Sequence[Range]]
) -> Iterator[ObjectInfo]:
    """Segments, and what has one's name with more behind it, in the order of their names."""
    for info in store.list(layout.wal):
        if _within(info.key.rpartition("/")[2][:_NAME], size, ranges):
            yield info


def _tails(
    store: Store, layout: Layout, size: SegmentSize, ranges: Mapping[int, Sequence[Range]]
) -> Iterator[ObjectInfo]:
    for info in store.list(layout.tails):
        if _within(info.key.removeprefix(layout.tails).partition("/")[0], size, ranges):
            yield info


def _gaps(
    store: Store, layout: Layout, size: SegmentSize, ranges: Mapping[int, Sequence[Range]]
) -> Iterator[ObjectInfo]:
    """Those that lie below as a whole, and people's words about them."""
    for info in store.list(layout.gaps):
        name = info.key.removeprefix(layout.gaps).replace(ACCEPTED, ".json")
        try:
            first, end = parse_gap_name(name, size)
        except BadName:
            continue  # not ours
        if any(each.first <= first.number and end <= each.end * size for each in ranges.get(first.timeline, ())):
            yield info


def _within(name: str, size: SegmentSize, ranges: Mapping[int, Sequence[Range]]) -> bool:
    try:
        segment = Segment.parse(name, size)
    except BadName:
        return False  # not ours
    return end_of(ranges.get(segment.timeline, ()), segment.number) > segment.number


def _all(store: Store, found: Iterator[ObjectInfo], deleted: Deleted, progress: Callable[[Deleted], None]) -> None:
    for info, is_gone in in_parallel(lambda info: (info, _gone(store, info.key)), found, _AT_ONCE):
        if not is_gone:
            deleted.retained.append(info.key)
            continue
        deleted.objects += 1
        deleted.bytes += info.size
        progress(deleted)


def _gone(store: Store, key: str) -> bool:
    """False where the store does not let it go."""

    def attempt() -> bool:
        try:
            store.delete(key)
        except StoreDenied as problem:
            events.info("object_retained", key=key, why=problem)
            return False
        return True

    return with_retries(attempt)
