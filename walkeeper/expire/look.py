"""What is there, what others need, and what may go: looked at once, and again at each run. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from walkeeper.archive.backups import Backups
from walkeeper.archive.expiry import read_pins
from walkeeper.archive.open import Archives
from walkeeper.archive.proofs import damaged
from walkeeper.archive.restorable import Documents, Restorable
from walkeeper.archive.restorable import look as look_at_archive
from walkeeper.core import windows
from walkeeper.core.backup import BackupId, WalRange
from walkeeper.core.coverage import Range, Ranges, intersect, merged, subtract
from walkeeper.core.elapsed import Elapsed
from walkeeper.core.floor import LONGEST_PIN, MAX_IDS, Below, Floor, Pin, covered, given_up, moment, written
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.core.retention import Needs, Plan, Policy, plan
from walkeeper.errors import Unsafe
from walkeeper.lib.retry import with_retries

CLOCKS: Final = 300.0
"""Seconds by which this node's clock and the store's may differ."""
REVOKED_BEFORE: Final = timedelta(seconds=60)
"""Before its grace is over, for a floor to be revoked: somebody may delete below it right then."""
_LEFT: Final = timedelta(seconds=LONGEST_PIN)
"""After its end, for a pin to be taken away: until then whoever wrote it may come back and renew it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """``plan`` is today's, by no floor; ``refused`` says why there is none. ``pins`` count; ``left`` are over for long.

    ``broken``: why some backups do not count, by id, of those because of which something would go; in ``tried`` a restore that
    was tried out found that.
    """

    archive: Restorable
    now: datetime
    elapsed: Elapsed
    pins: tuple[Pin, ...]
    left: tuple[Pin, ...]
    plan: Plan | None
    broken: Mapping[str, str] = field(default_factory=dict)
    tried: Collection[str] = ()
    refused: Unsafe | None = None

    @property
    def going(self) -> Going:
        """What a floor whose grace is over has given up, and today's plan does, too."""
        standing = self.archive.expiry.standing(self.now)
        if self.plan is None:
            return Going()
        recorded = {id_ for floor in standing for id_ in floor.backups}
        documents = self.archive.documents
        pinned = {pin.backup for pin in self.pins}
        unfinished = {*map(str, documents.attempts), *(each.id for each in documents.tombstones)}
        if not standing:
            return Going()
        first = min(max(floor.first.number for floor in standing), self.plan.first.number)
        holdings = self.archive.holdings
        return Going(
            holdings.kept.segment(first, holdings.size),
            _both(given_up(standing), self.plan.given_up),
            _both(covered(standing), self.plan.covered),
            tuple(sorted(recorded & {*self.plan.backups} - unfinished)),
            tuple(sorted(recorded & unfinished - pinned)),
            tuple(floor.number for floor in standing if self._is_all(floor, pinned)),
        )

    def _is_all(self, floor: Floor, pinned: set[str]) -> bool:
        """Whether nothing of what it gives up has to wait."""
        assert self.plan is not None  # noqa: S101 - asked by ``going``
        there = {each.id for each in self.archive.documents.backups}
        waits = {id_ for id_ in floor.backups if id_ in pinned or (id_ in there and id_ not in self.plan.backups)}
        given = self.plan.given_up
        return not waits and not any(subtract(ranges, given.get(t, ())) for t, ranges in floor.given_up.items())


@dataclass(frozen=True, slots=True)
class Going:
    """``first``: where the archive begins then; ``wal``: segment numbers by timeline, ``below`` with what is kept among them.

    ``unfinished`` are attempts, and what tombstones left; ``floors`` are those that are done with that.
    """

    first: Segment | None = None
    wal: Mapping[int, Sequence[Range]] = field(default_factory=dict)
    below: Mapping[int, Sequence[Range]] = field(default_factory=dict)
    backups: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    floors: tuple[int, ...] = ()


def look(
    archives: Archives, system_identifier: int, size: SegmentSize, record: Record, policy: Policy, now: datetime
) -> Looked:
    """``now`` is the store's. ``record`` was read before. Raises Unsafe for what nobody could look at, BadFloor, or the store's
    errors.

    Pins are read first: a backup that is stored and let go while the WAL is listed is seen in one of the two.
    """
    layout = archives.layout(system_identifier)
    every = read_pins(archives.store, layout)
    found = look_at_archive(archives, system_identifier, size, record)
    _refuse(found, record)
    elapsed = Elapsed.seen(_moments(found.documents), now)
    pins = tuple(pin for pin in every if elapsed.now_since(moment(pin.at)) <= moment(pin.until))
    left = tuple(pin for pin in every if elapsed.now_since(moment(pin.at)) > moment(pin.until) + _LEFT)
    bare = replace(found.holdings, given_up={})
    rests = _Rests(archives.backups(system_identifier))
    there = {backup.id for backup in found.documents.backups}
    tried = damaged(archives.store, layout)
    rests.broken |= {id_: why for id_, why in tried.items() if id_ in there}
    judged = windows.look(found.documents.backups, bare, rests.broken)
    standing = {backup.id for backup in found.windows.complete}
    keys = {backup.id: layout.backup_json(BackupId.parse(backup.id)) for backup in judged.complete}
    stored_at = {
        id_: info.modified
        for id_, key in keys.items()
        for info in archives.store.list(key)
        if info.modified is not None
    }
    needs = Needs(
        elapsed=elapsed,
        pins=pins,
        retained=[each for each in found.expiry.retained if each.backup in standing],
        attempts=found.documents.attempts,
        stored_at=stored_at,
    )
    refused: Unsafe | None = None
    planned: Plan | None = None
    try:
        planned = plan(judged, bare, policy, needs)
        while rests.lack(planned):
            planned = None
            planned = plan(windows.look(found.documents.backups, bare, rests.broken), bare, policy, needs)
    except Unsafe as problem:
        refused = problem
    return Looked(
        archive=found,
        now=now,
        elapsed=elapsed,
        pins=pins,
        left=left,
        plan=planned,
        broken=rests.broken,
        tried=tried.keys() & there,
        refused=refused,
    )


def _moments(documents: Documents) -> Iterator[datetime]:
    """When backups were begun and ended, as far as anything of them is there."""
    ids = [*documents.attempts, *(BackupId.parse(each.id) for each in documents.backups)]
    for at in (*(id_.begun for id_ in ids), *(windows.stopped_at(backup) for backup in documents.backups)):
        if at is not None:
            yield at


class _Rests:
    """Looks for what a plan rests on in the store, each backup once."""

    def __init__(self, backups: Backups) -> None:
        self._backups = backups
        self._there: set[str] = set()
        self.broken: dict[str, str] = {}

    def lack(self, found: Plan) -> bool:
        """Whether the store lacks something of it that was not known before. Raises the store's errors."""
        new = [each for each in found.rests_on if each.id not in self._there]
        lacks = {each.id: with_retries(partial(self._backups.lacks, each)) for each in new}
        self._there |= {id_ for id_, why in lacks.items() if not why}
        self.broken |= {id_: why for id_, why in lacks.items() if why}
        return any(lacks.values())


def next_floor(looked: Looked, grace: timedelta, member: str) -> Floor | None:
    """The floor to be recorded now; None where nothing goes that was not given up before."""
    found, expiry = looked.plan, looked.archive.expiry
    if found is None:
        return None
    recorded = given_up(expiry.floors)
    said = {id_ for floor in expiry.floors for id_ in floor.backups}
    backups = tuple(id_ for id_ in found.backups if id_ not in said)[:MAX_IDS]
    stored = _both(found.given_up, looked.archive.holdings.archived.segments)
    if not backups and not any(subtract(ranges, recorded.get(timeline, ())) for timeline, ranges in stored.items()):
        return None
    below = {each.timeline: Lsn.parse(each.lsn) for each in found.below}
    first = found.first
    if expiry.newest is not None:
        first = max(first, expiry.newest.first, key=lambda each: each.number)
        for each in expiry.newest.below:
            below[each.timeline] = max(Lsn.parse(each.lsn), below.get(each.timeline, Lsn(0)))
    return Floor(
        number=max(expiry.numbers, default=0) + 1,
        at=written(looked.now),
        grace=int(grace.total_seconds()),
        system_identifier=str(looked.archive.holdings.system_identifier),
        segment_size=int(first.size),
        start=first.name,
        below=tuple(Below(timeline, str(lsn)) for timeline, lsn in sorted(below.items())),
        kept=tuple(_kept(below, first.size, recorded, found.given_up)),
        backups=backups,
        member=member,
    )


def _kept(
    below: Mapping[int, Lsn],
    size: SegmentSize,
    recorded: Mapping[int, Sequence[Range]],
    planned: Mapping[int, Sequence[Range]],
) -> Iterator[WalRange]:
    """All below that neither an earlier floor nor this plan gives up."""
    for timeline, lsn in sorted(below.items()):
        gone = merged([*recorded.get(timeline, ()), *planned.get(timeline, ())])
        for first, end in subtract([Range(0, lsn // size)], gone):
            yield WalRange(timeline, str(Lsn(first * size)), str(Lsn(end * size)))


def _both(these: Mapping[int, Sequence[Range]], those: Mapping[int, Sequence[Range]]) -> dict[int, Ranges]:
    return {timeline: intersect(ranges, those.get(timeline, ())) for timeline, ranges in these.items()}


def _refuse(found: Restorable, record: Record) -> None:
    """What keeps everybody from knowing what is needed."""
    if record.suspected:
        lost = record.suspected[0]
        raise Unsafe(
            f"WAL {lost.start} to {lost.end} of timeline {lost.timeline} is suspected lost",
            hint="Wait until that has ended one way or the other; walkeeper status says who is waited for.",
        )
    for id_, why in found.documents.unreadable.items():
        raise Unsafe(
            f"{why}", hint=f"What {id_} needs is not known. Use the newest walkeeper, or move that folder away."
        )
    if record.timeline != 1 and not found.holdings.kept.switches:
        raise Unsafe(
            f"timeline {record.timeline}, the record's: its history cannot be read in the store",
            hint="walkeeper verify says what is wrong with it.",
        )
