"""Owning the record: the takeover, and every later write. Whoever holds an older version is fenced (promise P8)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import msgspec

from walkeeper.archive.write import Archive
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.record import MAX_GAPS, MAX_SUSPECTED, Gap, Record, decode_record
from walkeeper.core.takeover import LocalServer, resume_at
from walkeeper.dcs.base import RecordStore, Versioned
from walkeeper.errors import BadRecord, CasConflict, Conflict
from walkeeper.lib import events
from walkeeper.lib.clock import timestamp


class NotLeader(CasConflict):
    """Patroni's leader key is somebody else's: this node must not take the record."""

    reason = "not_leader"


class Fenced(CasConflict):
    """The record was written by another owner since: this node's ownership is over."""

    reason = "fenced"


@dataclass(frozen=True, slots=True)
class LocalWal:
    """The local server as the takeover needs it: its state and its timelines' histories, by number, as in pg_wal."""

    server: LocalServer
    histories: dict[int, bytes]


class Ownership:
    """The record while it is ours. Used by one thread at a time."""

    def __init__(self, records: RecordStore, record: Record, versioned: Versioned) -> None:
        self._records = records
        self._versioned = versioned
        self.record = record

    def write(
        self,
        lsn: Lsn,
        new_gaps: tuple[Gap, ...] = (),
        trouble: str = "",
        suspected: tuple[Gap, ...] = (),
        wal_at: str = "",
    ) -> None:
        """Move the record by compare-and-set. Raises Fenced when another owner wrote it, or DcsError.

        After a time-out our own write may have got through: a conflict is looked into before it is believed.
        """
        gaps = (*self.record.gaps, *new_gaps)
        now = timestamp()
        record = msgspec.structs.replace(
            self.record,
            lsn=str(max(lsn, self.record.position)),
            gaps=gaps[-MAX_GAPS:],
            gaps_total=self.record.gaps_total + len(new_gaps),
            suspected=suspected[:MAX_SUSPECTED],
            trouble=trouble,
            updated_at=now,
            moved_at=now if lsn > self.record.position else self.record.moved_at,
            wal_at=wal_at or self.record.wal_at,
        )
        try:
            self._versioned = self._records.write(record.encode(), self._versioned)
        except CasConflict:
            self._versioned = self._ours_or_fenced()
            self._versioned = self._records.write(record.encode(), self._versioned)
        self.record = record

    def still_ours(self, found: Versioned | None) -> bool:
        """Whether that is our record, written by this very takeover."""
        try:
            return found is not None and decode_record(found.document).session == self.record.session
        except BadRecord:
            return False

    def _ours_or_fenced(self) -> Versioned:
        found = self._records.read()
        if found is None or not self.still_ours(found):
            raise Fenced(
                "record in the DCS: another owner wrote it, or it was removed",
                hint="Normal after a failover. This node stops to move the frontier and looks again who leads.",
            )
        return found


def take_over(me: str, records: RecordStore, archive: Archive, local: LocalWal) -> Ownership:
    """Steps 1 to 7 of the design's takeover. Raises NotLeader, Refused, CasConflict (try from the top), or an outage's error."""
    versioned = records.read()
    leader = records.leader()  # after the record: this order is what keeps ownership from going backwards
    if leader is None or leader.name != me:
        raise NotLeader(f"leader key: held by {leader.name if leader else 'nobody'}, not by {me}")
    previous = _believed(versioned)
    start, first = _where(previous, archive, local.server)
    _store_histories(archive, local)
    lsn = _skip_stored(start, archive, local.server.history)
    record = Record(
        system_identifier=str(local.server.system_identifier),
        segment_size=int(local.server.segment_size),
        timeline=local.server.history.timeline,
        lsn=str(lsn),
        start=first.name,
        owner=me,
        session=uuid.uuid4().hex,
        gaps=previous.gaps if previous else tuple(archive.contents.gaps()[-MAX_GAPS:]),
        gaps_total=previous.gaps_total if previous else len(archive.contents.gaps()),
        updated_at=timestamp(),
        moved_at=timestamp() if previous is None or lsn > previous.position else previous.moved_at,
        wal_at=previous.wal_at if previous is not None and lsn >= previous.position else "",
    )
    written = records.write(record.encode(), versioned, guard=leader)
    archive.state_start(first)  # only after the record: an archive states a start only where somebody owns it
    events.info(
        "takeover",
        owner=me,
        timeline=record.timeline,
        frontier=record.lsn,
        previous_owner=previous.owner if previous else None,
        previous_timeline=previous.timeline if previous else None,
        previous_frontier=previous.lsn if previous else None,
    )
    return Ownership(records, record, written)


def _store_histories(archive: Archive, local: LocalWal) -> None:
    """Our timeline's history and its ancestors' go first: PostgreSQL looks for them one by one and stops at a hole.

    Histories of other branches that lie in pg_wal fill such holes too, but nothing depends on them.
    """
    for timeline in sorted(local.histories):
        try:
            archive.archive_history(timeline, local.histories[timeline])
        except Conflict as problem:
            if local.server.history.includes(timeline):
                raise
            events.warning("history_of_other_branch", file=f"{timeline:08X}.history", error=problem)


def _believed(versioned: Versioned | None) -> Record | None:
    if versioned is None:
        return None
    try:
        return decode_record(versioned.document)
    except BadRecord as problem:
        events.failure("record_unreadable", problem)
        return None


def _where(previous: Record | None, archive: Archive, local: LocalServer) -> tuple[Lsn, Segment]:
    """Where to go on, and where the archive begins: by the record, else by the store, else a new archive at "now"."""
    if previous is not None:
        try:
            history = _record_history(previous, archive, local.history)
            return resume_at(previous, history, local), Segment.parse(previous.start, local.segment_size)
        except BadRecord as problem:
            events.failure("record_not_believed", problem)
    first = archive.contents.start()
    rebuilt = archive.contents.frontier(local.history)
    if first is None or rebuilt is None:
        first = local.history.segment_at(local.lsn, local.segment_size)
        events.info("archive_begins", store=archive.store.url, at=first)
        return first.start, first
    events.warning(
        "record_rebuilt",
        frontier=rebuilt,
        start=first,
        hint="There was no record to rely on; the store told where to go on.",
    )
    return rebuilt, first


def _record_history(record: Record, archive: Archive, local: History) -> History:
    """The history of the record's timeline: as stored, or as the local server's own history tells it."""
    if record.timeline == local.timeline:
        return local
    stored = archive.contents.history(record.timeline)
    if stored is not None:
        return stored
    if local.includes(record.timeline):
        ancestors: tuple[Switch, ...] = local.switches[: local.timelines.index(record.timeline)]
        return History(record.timeline, ancestors)
    raise BadRecord(
        f"record in the DCS: nothing is known of its timeline {record.timeline}",
        hint="walkeeper does not trust it and looks at the store instead.",
    )


def _skip_stored(start: Lsn, archive: Archive, history: History) -> Lsn:
    """Go on over what the store has already: uploads that were not recorded, or a record older than the store."""
    segment = history.segment_at(start, archive.size)
    while archive.find(segment) is not None:
        segment = history.segment(segment.number + 1, archive.size)
    return segment.start
