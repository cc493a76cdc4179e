"""Owning the record: the takeover, and every later write. Whoever holds an older version is fenced (promise P8)."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Collection
from dataclasses import replace
from typing import Final

import msgspec

from walkeeper.agent.archiver.beliefs import Belief, believe, check_record
from walkeeper.agent.archiver.comparing import AT_ONCE
from walkeeper.agent.archiver.life import Watcher, check_no_clone
from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.archive.write import Archive
from walkeeper.config.model import Durability
from walkeeper.core.beliefs import NO_ARCHIVE
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.record import MAX_GAPS, MAX_SUSPECTED, Gap, Record
from walkeeper.core.second_life import SecondLife, told
from walkeeper.dcs.base import Leader, RecordStore, Versioned
from walkeeper.dcs.claim import decoded
from walkeeper.errors import (
    ArchiveMissing,
    CasConflict,
    Conflict,
    DcsError,
    Fenced,
    HeldBack,
    NotLeader,
    RecordDenied,
    Watching,
)
from walkeeper.lib import events
from walkeeper.lib.clock import timestamp
from walkeeper.lib.parallel import in_parallel

ATTEMPTS: Final = 10
"""Compare-and-sets of one takeover: a stale owner may write the record several times a second."""


class Ownership:
    """The record while it is ours. Used by one thread at a time."""

    def __init__(self, records: RecordStore, record: Record, versioned: Versioned, belief: Belief) -> None:
        """``belief``: by which it was taken over."""
        self._records = records
        self._versioned = versioned
        self.record = record
        self.lives = belief.lives
        self.listed = belief.listed
        self.below: tuple[int, str] | None = None
        """The number and SHA-256 of the last whole segment that the frontier has passed; None where that is not known."""
        self.begins: Segment | None = None
        """Where the archive begins since it was shortened; None where that is not known."""
        self.other_leader: str | None = None
        """The member that holds the leader key, where that is not this one. Nobody, or nobody who could be asked, is None."""

    def write(
        self,
        lsn: Lsn,
        new_gaps: tuple[Gap, ...] = (),
        problem: str = "",
        suspected: tuple[Gap, ...] = (),
        wal_at: str = "",
        *,
        ended: bool = False,
    ) -> None:
        """Move the record by compare-and-set. Raises Fenced when another owner wrote it, HeldBack, or another DcsError.

        ``ended``: nothing more is acknowledged by us; everything that was is in the store.
        After a time-out our own write may have got through: a conflict is looked into before it is believed.
        """
        self._check_leader()
        gaps = (*self.record.gaps, *new_gaps)
        position = max(lsn, self.record.position)
        now = timestamp()
        record = msgspec.structs.replace(
            self.record,
            lsn=str(position),
            start=self._start(position),
            below_sha256=self._below_sha256(position),
            gaps=gaps[-MAX_GAPS:],
            gaps_total=self.record.gaps_total + len(new_gaps),
            suspected=suspected[:MAX_SUSPECTED],
            trouble=problem,
            updated_at=now,
            moved_at=now if lsn > self.record.position else self.record.moved_at,
            wal_at=wal_at or self.record.wal_at,
            closed_by=self.record.owner if ended else self.record.closed_by,
        )
        try:
            self._versioned = self._records.write(record.encode(), self._versioned)
        except CasConflict:
            self._versioned = self._ours_or_fenced()
            self._versioned = self._records.write(record.encode(), self._versioned)
        self.record = record

    def confirm(self) -> None:
        """That the record is still ours, by reading it, or by writing it again where a read may be old. Raises as ``write``."""
        self._check_leader()
        if self._records.reads_lag:
            self.write(self.record.position, (), self.record.trouble, self.record.suspected)
        else:
            self._ours_or_fenced()

    def _check_leader(self) -> None:
        if self.other_leader is not None:
            raise HeldBack(
                f"record in the DCS: it waits, because {self.other_leader} holds Patroni's leader key",
                hint="That member takes the archive over. If it does not, its agent's log says why.",
            )

    def _start(self, lsn: Lsn) -> str:
        """It moves with the floor, and never back."""
        before, begins = Segment.parse(self.record.start, self.record.size), self.begins
        moved = begins is not None and begins.size == before.size and before.number < begins.number < lsn // before.size
        return begins.name if begins is not None and moved else before.name

    def _below_sha256(self, lsn: Lsn) -> str:
        number, size = lsn // self.record.size, self.record.size
        if self.below is not None and self.below[0] == number - 1:
            return self.below[1]
        return self.record.below_sha256 if number == self.record.position // size else ""

    def still_ours(self, found: Versioned | None) -> bool:
        """Whether that is our record, written by this very takeover."""
        record = decoded(found).record
        return record is not None and record.session == self.record.session

    def _ours_or_fenced(self) -> Versioned:
        found = self._records.read()
        if found is None or not self.still_ours(found):
            raise Fenced(
                "record in the DCS: another owner wrote it, or it was removed",
                hint="Normal after a failover. This node no longer moves the frontier; it checks again which node leads.",
            )
        return found


def check_alone(me: str, records: RecordStore, local: LocalWal, accepted: Collection[str]) -> None:
    """What the record says without the store, which may be away. Raises NotLeader, or as ``check_record``."""
    record = _readable(records.read(), quiet=True)
    _leader(me, records)
    if record is not None:
        check_record(me, "", record, local, accepted)


def take_over(
    me: str,
    records: RecordStore,
    archive: Archive,
    local: LocalWal,
    watcher: Watcher,
    accepted: Collection[str] = (),
    durability: Durability = "local",
    other_stores: Collection[str] = (),
    second_lives: Collection[SecondLife] = (),
    waits_for: str = "",
    *,
    there_was_one: bool = False,
) -> Ownership:
    """Steps 1 to 7 of the design's takeover. ``accepted``: reasons of refusals that a person lets pass; ``durability``: what
    commits will wait for; ``other_stores``: the urls of the cluster's others; ``second_lives``: what the server must not be of;
    ``waits_for``: the other store that commits will wait for; ``there_was_one``: the cluster remembers an owner,
    or this host has seen an archive there.

    What takes long, the store, comes first, and the record is read again right before it is written: who still writes it keeps
    nobody from taking it. Raises NotLeader, Refused, CasConflict (try from the top), StandbyLags, Watching, RecordDenied, or an
    outage's error.
    """
    before = records.read()
    _leader(me, records)  # who does not lead need not look any further
    previous = _readable(before)
    if previous is None:
        local = replace(local, sums=watcher.sums)
        check_no_clone(archive, local, accepted, other_stores)
        try:
            watcher.alone(archive, accepted)
        except Watching:
            # This server may not lead for as long: what it is refused for is told, and remembered, before.
            watcher.once(lambda: believe(me, previous, archive, local, accepted, second_lives))
            raise
    belief = believe(me, previous, archive, local, accepted, second_lives)
    if not belief.by_record:
        lost = previous is None and there_was_one and ArchiveMissing.reason not in accepted
        _say_where_without_record(archive, belief, lost=lost)
    _store_histories(archive, local, belief)
    token = (previous.life if previous is not None else "") or watcher.token()
    begins = not belief.start_is_stated and belief.lsn < belief.first.end
    says: Durability = "local" if begins else durability
    record, written = _compare_and_set(me, records, before, belief, local, token, says, waits_for)
    watcher.sums = {}
    local.forget_clone(
        archive.place
    )  # who owns the record is not refused by what a restore has marked, nor is its archive-push
    if not belief.start_is_stated:
        archive.state_start(
            belief.first
        )  # only after the record: an archive states a start only where somebody owns it
    if says != durability:  # a promotion believes no record that says so where the store states no start
        record = msgspec.structs.replace(record, durability=durability)
        written = _write(records, record, written, _leader(me, records))
    events.info(
        "takeover",
        owner=me,
        timeline=record.timeline,
        frontier=record.lsn,
        compared=told(belief.compared),
        previous_owner=previous.owner if previous else None,
        previous_timeline=previous.timeline if previous else None,
        previous_frontier=previous.lsn if previous else None,
    )
    return Ownership(records, record, written, belief)


def _say_where_without_record(archive: Archive, belief: Belief, *, lost: bool) -> None:
    """Where the archive begins or goes on. ``lost``: there has been one. Raises ArchiveMissing, then, where none is there."""
    if belief.start_is_stated:
        events.warning(
            "record_rebuilt",
            frontier=belief.lsn,
            start=belief.first,
            compared=told(belief.compared),
            hint="There was no record to rely on; the store told where to go on.",
        )
        return
    if lost:
        raise ArchiveMissing(
            f"{archive.place}: no archive is there, and there was one: its record is lost", hint=NO_ARCHIVE
        )
    events.info("archive_begins", store=archive.store.url, at=belief.first)


def _leader(me: str, records: RecordStore) -> Leader:
    leader = records.leader()
    if leader is None or leader.name != me:
        raise NotLeader(f"leader key: held by {leader.name if leader else 'nobody'}, not by {me}")
    return leader


def _compare_and_set(
    me: str,
    records: RecordStore,
    before: Versioned | None,
    belief: Belief,
    local: LocalWal,
    life: str,
    durability: Durability,
    waits_for: str,
) -> tuple[Record, Versioned]:
    session = uuid.uuid4().hex
    for _ in range(ATTEMPTS):
        versioned = records.read()
        leader = _leader(me, records)  # after the record: this order is what keeps ownership from going backwards
        if not _only_moved(before, versioned):
            break
        moved = _readable(versioned, quiet=True) if belief.by_record else None
        record = Record(
            system_identifier=str(local.server.system_identifier),
            segment_size=int(local.server.segment_size),
            timeline=local.server.history.timeline,
            lsn=str(belief.lsn),
            start=belief.first.name,
            owner=me,
            session=session,
            gaps=(moved.gaps if moved else belief.gaps)[-MAX_GAPS:],
            gaps_total=moved.gaps_total if moved else belief.gaps_total,
            updated_at=timestamp(),
            moved_at=timestamp() if moved is None or belief.lsn > moved.position else moved.moved_at,
            wal_at=moved.wal_at if moved is not None and belief.lsn >= moved.position else "",
            below_sha256=belief.below_sha256,
            history_sha256=belief.history_sha256,
            life=life,
            durability="store" if durability == "store" else "",
            waits_for=waits_for,
        )
        try:
            return record, _write(records, record, versioned, leader)
        except CasConflict:
            continue
    raise CasConflict("record in the DCS: somebody else wrote it meanwhile", hint="walkeeper looks again.")


def _write(records: RecordStore, record: Record, expected: Versioned | None, guard: Leader) -> Versioned:
    """A takeover's, after it has compared. Raises RecordDenied where the DCS answers, and it is not that somebody else wrote."""
    try:
        return records.write(record.encode(), expected, guard=guard)
    except DcsError as problem:
        if type(problem) is not DcsError:
            raise
        raise RecordDenied(str(problem), hint=problem.hint) from problem


def _only_moved(before: Versioned | None, now: Versioned | None) -> bool:
    """Whether what was believed of the record holds still: it is the same one, or its owner has moved it forward."""
    if before == now:
        return True
    old, new = _readable(before, quiet=True), _readable(now, quiet=True)
    if old is None or new is None:
        return False
    same = (old.session, old.timeline, old.start) == (new.session, new.timeline, new.start)
    return same and old.position <= new.position


def _store_histories(archive: Archive, local: LocalWal, belief: Belief) -> None:
    """Our timeline's history and its ancestors' go first: PostgreSQL looks for them one by one and stops at a hole."""

    def store(timeline: int) -> None:
        try:
            archive.archive_history(timeline, belief.lacking[timeline])
        except Conflict as problem:
            if local.server.history.includes(timeline):
                raise
            events.warning("history_of_other_branch", file=f"{timeline:08X}.history", error=problem)

    deque(in_parallel(store, sorted(belief.lacking), min(AT_ONCE, len(belief.lacking))), maxlen=0)


def _readable(versioned: Versioned | None, *, quiet: bool = False) -> Record | None:
    claim = decoded(versioned)
    if claim.problem is not None and not quiet:
        events.failure("record_unreadable", claim.problem)
    return claim.record
