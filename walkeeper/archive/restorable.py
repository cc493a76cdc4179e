"""What can be restored from one archive: its backups and its WAL, looked at together. ``core.windows`` judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from walkeeper.archive import proofs
from walkeeper.archive.backups import Backups
from walkeeper.archive.contents import Contents
from walkeeper.archive.expiry import Expiry, read_expiry
from walkeeper.archive.histories import stored_history, timelines
from walkeeper.archive.layout import Layout
from walkeeper.archive.open import Archives
from walkeeper.archive.tail import stored_pieces
from walkeeper.config import Config
from walkeeper.core import proof, retention, windows
from walkeeper.core.backup import Backup, BackupId, Tombstone
from walkeeper.core.coverage import Archived, Range, chain, merged, subtract
from walkeeper.core.floor import given_up, moment, segments, written
from walkeeper.core.history import History
from walkeeper.core.incremental import chain_of
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.proof import Proof
from walkeeper.core.record import Record
from walkeeper.core.tail import Piece, longest_chain
from walkeeper.core.windows import Holdings, Window, Windows, all_histories
from walkeeper.errors import BadBackup, BadFloor, BadName, CannotTell, NotAuthentic, Refused
from walkeeper.lib.parallel import in_parallel
from walkeeper.lib.schedule import Schedule
from walkeeper.store.base import Store

_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """What stands in the place of ``backup.json``, the oldest first. ``unreadable``: why, by id; those do not count."""

    backups: tuple[Backup, ...] = ()
    attempts: tuple[BackupId, ...] = ()
    tombstones: tuple[Tombstone, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)


class Listed(NamedTuple):
    """Of the WAL. ``histories`` are those that can be read, ``start`` is the one that counts."""

    archived: Archived
    histories: Mapping[int, History]
    start: Segment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restorable:
    """``windows`` has every backup with its verdict.

    ``with_trials`` adds the rest, for who tells it to people; ``claimed`` has it: ``proved`` is the last restore that was tried
    out, and worked, ``tried`` what was found damaged, by id, and ``prove`` the command that proves such a backup again.
    """

    documents: Documents
    expiry: Expiry
    holdings: Holdings
    windows: Windows
    proved: Proof | None = None
    tried: Mapping[str, str] = field(default_factory=dict)
    prove: Mapping[str, str] = field(default_factory=dict)


def look(archives: Archives, system_identifier: int, size: SegmentSize, record: Record | None) -> Restorable:
    """One LIST of all WAL, and little besides. ``record``, where there is one, was read before.

    Raises BadFloor or the store's errors.
    """
    layout, store = archives.layout(system_identifier), archives.store
    documents = read_documents(archives.backups(system_identifier))
    found = Contents(store, layout, size).listed(layout.wal, layout.gaps, layout.starts)
    listed = Listed(found.archived(size), readable_histories(store, layout), found.start(size))
    return judged(store, layout, size, documents, listed, record)


def claimed(
    archives: Archives, record: Record, before: Restorable | None = None, broken: Mapping[str, str] | None = None
) -> Restorable:
    """The same by the record's word, without listing the WAL: below its frontier all is stored but for gaps (P4).

    For who looks often; verify holds the store to that word. Windows of other branches are left out. ``before``: an earlier look,
    of which what was complete, and tombstones, are not read again; any of the others may have got one. ``broken``: as in
    ``judged``. Raises BadFloor, BadHistory, CannotTell or the store's errors.
    """
    system, size = int(record.system_identifier), record.size
    layout, contents = archives.layout(system), archives.contents(system, size)
    history, expiry = contents.history(record.timeline) or History(record.timeline), read_expiry(archives.store, layout)
    start, opened = Segment.parse(record.start, size), history.segment_at(record.position, size)
    lost = [
        Range(Lsn.parse(gap.start) // size, Lsn.parse(gap.end) // size)
        for gap in contents.open_gaps()
        if history.has(gap.timeline, Lsn.parse(gap.start))
    ]
    kept = segments(expiry.newest.kept, size) if expiry.newest is not None else {}
    stored: dict[int, list[Range]] = {timeline: [*ranges] for timeline, ranges in kept.items()}
    for timeline, first, end in chain(history, size, start.number, opened.number):
        stored.setdefault(timeline, []).extend(subtract([Range(first, end)], merged(lost)))
    known = Documents()
    if before is not None:
        known = Documents(backups=tuple(before.windows.complete), tombstones=before.documents.tombstones)
    documents = read_documents(archives.backups(system), known)
    found = Holdings(
        archived=Archived({timeline: merged(ranges) for timeline, ranges in stored.items()}, {}, ()),
        size=size,
        system_identifier=system,
        kept=history,
        histories={history.timeline: history},
        partly={opened: record.position},
        given_up=given_up(expiry.floors),
        start=start,
    )
    return with_trials(
        archives.store,
        layout,
        Restorable(documents=documents, expiry=expiry, holdings=found, windows=windows.look(documents.backups, found)),
        broken,
    )


def judged(
    store: Store,
    layout: Layout,
    size: SegmentSize,
    documents: Documents,
    listed: Listed,
    record: Record | None,
    broken: Mapping[str, str] | None = None,
    *,
    tails: Store | None = None,
) -> Restorable:
    """The same for who has listed the archive. ``broken``: what was found against some backups just now, by id. ``tails``: where
    those are, if not only there."""
    expiry, start = read_expiry(store, layout), listed.start
    for floor in expiry.floors:
        if floor.size != size:
            raise BadFloor(
                f"{layout.floor(floor.number)}: it is of segments of {floor.segment_size} bytes, and these have {size}",
                hint="Look at who may write there.",
            )
    others = {1, *([start.timeline] if start else []), *([record.timeline] if record else [])}
    known = all_histories(listed.histories, *others)
    found = Holdings(
        archived=listed.archived,
        size=size,
        system_identifier=layout.system_identifier,
        kept=known[record.timeline if record is not None else max(known)],
        histories=known,
        partly=_partly(tails or store, layout, size, known, record),
        given_up=given_up(expiry.floors),
        start=start,
    )
    return Restorable(
        documents=documents,
        expiry=expiry,
        holdings=found,
        windows=windows.look(documents.backups, found, {**documents.unreadable, **(broken or {})}),
    )


def with_trials(store: Store, layout: Layout, found: Restorable, broken: Mapping[str, str] | None = None) -> Restorable:
    """The same, where a backup that was found damaged counts as little as for ``expire``. ``broken``: what was found against some
    just now, by id. Raises the store's errors.
    """
    there = {backup.id for backup in found.documents.backups}
    keys = proofs.listed(store, layout)
    tried = {id_: why for id_, why in proofs.damaged(store, layout, keys).items() if id_ in there}
    against = {**tried, **(broken or {})}
    return replace(
        found,
        windows=windows.look(found.documents.backups, found.holdings, {**found.documents.unreadable, **against}),
        proved=proofs.newest_proof(store, layout, keys),
        tried=tried,
        prove={id_: proofs.proved_by(found.windows, id_) for id_ in against},
    )


def described(found: Restorable) -> dict[str, Any]:
    """For JSON: of verify, status and the agent's report. Positions as text, sizes in bytes, the newest backup last."""
    complete = found.windows.complete
    return {
        "complete": len(complete),
        "attempts": [str(each) for each in found.documents.attempts],
        "unreadable": dict(found.documents.unreadable),
        "newest": None if not complete else _described(max(complete, key=windows.consistent_at)),
        "backups": [
            {
                **_described(each.backup),
                "state": each.verdict,
                "why": each.why or None,
                "prove": found.prove.get(each.backup.id) if each.backup.id in found.tried else None,
            }
            for each in found.windows.judged
        ],
        "windows": [
            {
                "timeline": window.timeline,
                "start_lsn": str(window.start),
                "start_at": window.backups[0].stop.at,
                "end_lsn": str(window.end),
                "backups": [backup.id for backup in window.backups],
                "dead": window.dead,
            }
            for window in found.windows.shown
        ],
        "floor": _floor(found.expiry),
        "proved": None if found.proved is None else _proved(found.proved),
    }


def summary(found: Restorable, now: float, config: Config) -> dict[str, Any] | None:
    """The little that is looked at often; None where nobody has ever begun a backup. ``now``: the wall clock.

    ``window`` is the last one of the kept chain; ``to_frontier``: it has everything up to there, and does not end before a gap.
    ``short``: it is younger than what is to be kept, although there are backups
    that are old enough. ``overdue``: two moments of the schedule have passed since the newest backup; ``proof_overdue``: since
    the last proof, or without one since the window's oldest backup. ``expire_waits_seconds``: for how long ``expire`` has had
    something to do; None where nothing says what is kept, and nothing was ever given up. ``bytes`` of an incremental
    are its full one's. Ages are by the servers' clocks, for people and alerts.
    """
    if found.documents == Documents():
        return None
    verdicts = Counter(each.verdict for each in found.windows.judged)
    last = (found.windows.chains[found.windows.kept.timeline] or (None,))[-1]
    ages = [_age(each.backup, now) or 0.0 for each in found.windows.judged]
    keep = config.backup_keep
    seconds = None if last is None else _age(last.backups[0], now)
    enough = seconds is not None and keep is not None and seconds >= keep
    return {
        "complete": verdicts["complete"],
        "damaged": verdicts["damaged"] + len(found.documents.unreadable),
        "incomplete": verdicts["incomplete"],
        "attempts": len(found.documents.attempts),
        "newest": None if last is None else _newest(found, last, now),
        "window": None if last is None else _window(found, last, seconds),
        "proved": None
        if found.proved is None
        else {**_proved(found.proved), "age_seconds": proof.age(found.proved, now)},
        "overdue": None if last is None else _missed(config.backup_schedule, windows.stopped_at(last.backups[-1]), now),
        "proof_overdue": None
        if last is None
        else _missed(config.backup_verify_schedule, _last_proof(found, last), now),
        "keep_seconds": keep,
        "short": keep is not None and not enough and any(age >= keep for age in ages),
        "expire_waits_seconds": _expire_waits(found, last, now, config),
    }


def _expire_waits(found: Restorable, last: Window | None, now: float, config: Config) -> float | None:
    """By a backup that ``keep`` no longer needs, or by a floor below which not everything was deleted."""
    standing = found.expiry.standing(datetime.fromtimestamp(now, UTC))
    waited = [now - found.expiry.stands_from(floor).timestamp() for floor in standing]
    if config.backup_keep is not None and last is not None:
        keep = max(config.backup_keep, config.store.locked_seconds)
        fulls = [_age(backup, now) or 0.0 for backup in last.backups if backup.kind == "full"]
        waited.append(retention.not_needed_for(fulls, keep))
    return max([0.0, *waited]) if config.backup_keep is not None or found.expiry.floors else None


def _newest(found: Restorable, last: Window, now: float) -> dict[str, Any]:
    """The backup that ``last`` ends with."""
    newest = last.backups[-1]
    chain = chain_of(newest, {backup.id: backup for backup in found.windows.complete})
    return {
        "id": newest.id,
        "stop_at": newest.stop.at,
        "age_seconds": _age(newest, now),
        "full_age_seconds": _age(chain[0], now) if len(chain) > 1 else None,
        "bytes": max(each.bytes for each in chain),
    }


def _window(found: Restorable, last: Window, seconds: float | None) -> dict[str, Any]:
    return {
        "timeline": last.timeline,
        "start_lsn": str(last.start),
        "start_at": last.backups[0].stop.at,
        "end_lsn": str(last.end),
        "to_frontier": last.end >= max(found.holdings.partly.values(), default=last.end),
        "seconds": seconds,
    }


def _last_proof(found: Restorable, last: Window) -> datetime | None:
    """Or, without one, when the window's oldest backup stopped."""
    return moment(found.proved.at) if found.proved is not None else windows.stopped_at(last.backups[0])


def _missed(schedule: Schedule | None, last: datetime | None, now: float) -> bool | None:
    return None if schedule is None or last is None else schedule.missed(last, datetime.fromtimestamp(now, UTC))


def _age(backup: Backup, now: float) -> float | None:
    at = windows.stopped_at(backup)
    return None if at is None else max(0.0, now - at.timestamp())


def _described(backup: Backup) -> dict[str, Any]:
    return {
        "id": backup.id,
        "kind": backup.kind,
        "parent": backup.parent or None,
        "timeline": backup.stop.timeline,
        "start_lsn": backup.start.lsn,
        "stop_lsn": backup.stop.lsn,
        "start_at": backup.start.at,
        "stop_at": backup.stop.at,
        "version": backup.version,
        "files": backup.files,
        "bytes": backup.bytes,
        "packed_bytes": backup.packed_bytes,
        "member": backup.member,
    }


def _proved(found: Proof) -> dict[str, Any]:
    return {
        "backup": found.backup,
        "at": found.at,
        "timeline": found.timeline,
        "lsn": found.lsn,
        "last_commit": found.last_commit or None,
        "checks": list(found.checks),
        "by": found.by,
    }


def _floor(expiry: Expiry) -> dict[str, Any] | None:
    floor = expiry.newest
    if floor is None:
        return None
    stands_from = written(expiry.stands_from(floor))
    return {"number": floor.number, "start": floor.start, "at": floor.at, "stands_from": stands_from}


def read_documents(backups: Backups, known: Documents | None = None) -> Documents:
    """Of all ids, several at a time. ``known`` backups and tombstones are not read again. Raises the store's errors."""
    before: dict[str, Backup | Tombstone] = {}
    if known is not None:
        before |= {each.id: each for each in known.backups}
        before |= {each.id: each for each in known.tombstones}

    def read(id_: BackupId) -> tuple[BackupId, Backup | Tombstone | str | None]:
        if str(id_) in before:
            return id_, before[str(id_)]
        try:
            return id_, backups.read(id_)
        except (BadBackup, NotAuthentic) as problem:
            return id_, str(problem)

    ids = backups.ids()
    found = sorted(in_parallel(read, ids, min(len(ids), _AT_ONCE)), key=lambda each: each[0])
    return Documents(
        backups=tuple(each for _, each in found if isinstance(each, Backup)),
        attempts=tuple(id_ for id_, each in found if each is None),
        tombstones=tuple(each for _, each in found if isinstance(each, Tombstone)),
        unreadable={str(id_): each for id_, each in found if isinstance(each, str)},
    )


def readable_histories(store: Store, layout: Layout) -> dict[int, History]:
    """Those that are stored; a damaged one is as one that is not there, and verify names it."""

    def read(timeline: int) -> tuple[int, History | None]:
        try:
            return timeline, stored_history(store, layout, timeline)
        except (Refused, CannotTell):
            return timeline, None

    listed = timelines(store, layout)
    found = in_parallel(read, listed, min(len(listed), _AT_ONCE))
    return {timeline: history for timeline, history in found if history is not None}


def _partly(
    store: Store, layout: Layout, size: SegmentSize, histories: Mapping[int, History], record: Record | None
) -> dict[Segment, Lsn]:
    """Up to where tails go; and the record's word of the one that it stands in."""
    pieces: dict[tuple[str, str], set[Piece]] = {}
    for stored in stored_pieces(store, layout):
        pieces.setdefault((stored.segment, stored.piece.owner), set()).add(stored.piece)
    found: dict[Segment, Lsn] = {}
    for (name, _), those in pieces.items():
        try:
            segment = Segment.parse(name, size)
        except BadName:
            continue  # of another segment size
        chain = longest_chain(those)
        if chain and chain[-1].end <= size:
            found[segment] = max(found.get(segment, segment.start), Lsn(segment.start + chain[-1].end))
    if record is not None and record.timeline in histories:
        opened = histories[record.timeline].segment_at(record.position, size)
        found[opened] = max(found.get(opened, opened.start), record.position)
    return found
