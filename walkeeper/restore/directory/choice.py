"""Which backup a restore begins with: the one that is named, or the newest that the target has behind it.

One that a trial, ``verify --deep`` or a restore found damaged has a note in the store. An older one without a note is taken
instead where its WAL reaches the target as well. Where there is none, the damaged one is restored nevertheless, and said to be:
what is wrong may be one file of thousands, and whoever restores may have nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from walkeeper.archive import proofs
from walkeeper.archive.backups import Backups
from walkeeper.archive.layout import Layout
from walkeeper.archive.times import NEAR, CommitTimes
from walkeeper.core.backup import Backup, BackupId
from walkeeper.core.commits import Commit, since_2000
from walkeeper.core.incremental import chain_of
from walkeeper.core.landmarks import restore_point, transaction_end
from walkeeper.core.lsn import Lsn
from walkeeper.core.windows import Choice, NoChoice, Window, Windows, choose, consistent_at, stopped_at
from walkeeper.dcs.claim import Claim
from walkeeper.errors import CannotRestore, CannotTell, Locked, NotAuthentic, Refused, StoreError
from walkeeper.lib import events
from walkeeper.lib.retry import with_retries
from walkeeper.restore.directory import near
from walkeeper.restore.directory.model import Request
from walkeeper.restore.directory.target import Immediate, Target, ToLsn, ToName, ToTime, ToXid
from walkeeper.restore.state import State
from walkeeper.store.base import Store

_LEAVE_OUT: Final = "Leave --backup out, and the newest one before the target is taken."


def noted(store: Store, layout: Layout, complete: Sequence[Backup]) -> dict[str, str]:
    """What was found against each, or against what it builds on, by id. Without a right to read the notes there are none."""
    try:
        found = with_retries(lambda: proofs.damaged(store, layout))
    except StoreError as problem:
        events.warning("notes_not_read", error=problem, hint="A backup that was found damaged may be chosen.")
        return {}
    by_id = {backup.id: backup for backup in complete}
    against: dict[str, str] = {}
    for backup in complete:
        for each in chain_of(backup, by_id):
            if each.id in found:
                builds = "" if each is backup else f"it builds on {each.id}: "
                against[backup.id] = f"{builds}{found[each.id]}"
    return against


def lacks(backups: Backups, backup: Backup) -> str:
    """What the store has not of it that a restore reads; empty where it has that, or where no key opens the index, which whoever
    reads it says. Raises the store's errors.
    """
    try:
        return with_retries(lambda: backups.lacks_for_restore(backup))
    except Locked:
        return ""
    except NotAuthentic as planted:
        return str(planted)


def sound(chosen: Choice, against: Mapping[str, str]) -> Choice:
    """The newest one without a note from which a recovery reaches the same target: between their stops the WAL does not break."""
    there = chosen.window.backups
    for backup in reversed(there[: there.index(chosen.backup) + 1]):
        if backup.id not in against:
            return chosen if backup is chosen.backup else Choice(backup, chosen.window, chosen.backup)
    return chosen


def had_stopped(wanted: ToTime, times: CommitTimes, *, exclusive: bool) -> Callable[[Choice], bool]:
    """Whether a backup had stopped by then: by the last transaction before its stop, which has the time of the server that wrote
    it, as the target's is compared with. The backup's own is the clock of the host that took it: it is asked only where there is
    no transaction near, or none that can be read.
    """
    moment = since_2000(wanted.at) - (1 if exclusive else 0)

    def by_then(each: Choice) -> bool:
        begin = Lsn.parse(each.window.backups[0].wal[0].start)
        last: Commit | None = None
        with suppress(CannotTell, Refused):
            last = with_retries(lambda: times.last(begin, consistent_at(each.backup), NEAR))
        stopped = stopped_at(each.backup)
        return last.time <= moment if last is not None else stopped is not None and stopped <= wanted.at

    return by_then


def chosen_for(
    found: Windows,
    request: Request,
    resumed: State | None,
    timeline: int,
    wanted: Target,
    stopped: Callable[[Choice], bool] | None,
    against: Mapping[str, str],
) -> Choice:
    """``against``: what ``noted`` returns."""
    position = wanted.lsn if isinstance(wanted, ToLsn) else None
    id_ = resumed.backup if resumed else request.backup
    if id_ is not None:
        return named(found, id_, timeline, wanted, stopped)
    chosen = choose(found, position, timeline=timeline, had_stopped=stopped)
    if isinstance(chosen, NoChoice):
        raise near.no_backup(wanted, request.to, chosen, found)
    # To immediate the backup is the target: an older one would end earlier.
    return chosen if isinstance(wanted, Immediate) else sound(chosen, against)


def named(
    found: Windows, id_: str, timeline: int, wanted: Target, stopped: Callable[[Choice], bool] | None = None
) -> Choice:
    """That backup, if it is complete on the timeline's chain, and the target is not before it. Raises BadBackup."""
    BackupId.parse(id_)
    judged = next((each for each in found.judged if each.backup.id == id_), None)
    if judged is None:
        raise CannotRestore(f"--backup {id_}: it is not in the archive", hint="walkeeper backups lists what is.")
    if not judged.counts:
        raise CannotRestore(
            f"--backup {id_}: it is {judged.verdict}: {judged.why}",
            hint="walkeeper verify says which are complete, and what is missing.",
        )
    for window in found.chains.get(timeline, ()):
        if judged.backup in window.backups:
            begin = consistent_at(judged.backup)
            if isinstance(wanted, ToLsn) and not begin <= wanted.lsn <= window.end:
                raise CannotRestore(
                    f"--backup {id_}: with it everything from {begin} to {window.end} can be restored, and not {wanted.lsn}",
                    hint=_LEAVE_OUT,
                )
            chosen = Choice(judged.backup, window)
            if stopped is not None and not stopped(chosen):
                raise CannotRestore(
                    f"--backup {id_}: it stopped at {judged.backup.stop.at or 'an unknown time'}, not before {wanted.text}",
                    hint=_LEAVE_OUT,
                )
            return chosen
    raise CannotRestore(
        f"--backup {id_}: a recovery along timeline {timeline} cannot begin with it",
        hint=f"It is of timeline {judged.backup.stop.timeline}: name one that comes from there with --timeline.",
    )


class Found(NamedTuple):
    """``at`` is the first of what was looked for behind ``behind``, a backup's stop; ``again``, where a name is there once more
    before the next backup's."""

    behind: Lsn
    at: Lsn
    again: Lsn | None


class Search:
    """For a transaction or a restore point: no listing says where one lies. No WAL is read again for another backup.

    Of a name the one counts that is found first, also where its backup turns out to lack something: a recovery that begins
    before has it as a position.
    """

    def __init__(self) -> None:
        self._before: Found | None = None

    def of(
        self, wanted: ToXid | ToName, windows: Sequence[Window], times: CommitTimes, tell: Callable[[str], None]
    ) -> tuple[Choice, Found]:
        """The newest backup that has it behind it. Raises CannotRestore where none has."""
        before = self._before
        for window in reversed(windows):
            end = window.end
            for backup in reversed(window.backups):
                begin = consistent_at(backup)
                if before is not None and begin <= before.behind and before.at <= window.end:
                    return Choice(backup, window), before
                at = None if before and begin >= before.at else _first(wanted, begin, end, times, tell)
                if at is not None:
                    again = _first(wanted, at, end, times, tell) if isinstance(wanted, ToName) else None
                    self._before = Found(begin, at, again)
                    return Choice(backup, window), self._before
                end = begin
        raise near.not_found(wanted, windows[0].backups[0])


def _first(wanted: ToXid | ToName, begin: Lsn, end: Lsn, times: CommitTimes, tell: Callable[[str], None]) -> Lsn | None:
    find = transaction_end(wanted.xid) if isinstance(wanted, ToXid) else restore_point(wanted.name)
    return with_retries(
        lambda: times.search(begin, end, find, lambda segment: tell(f"looking for {wanted.text} in {segment}"))
    )


def check_replica(claim: Claim, chosen: Choice, against: Mapping[str, str]) -> None:
    """A replica goes on where the archive ends: the leader keeps what is not archived, and nothing else. And Patroni has other
    methods than a damaged backup. Raises CannotRestore.
    """
    if claim.record is None:
        raise CannotRestore(
            f"--replica: where the archive ends is not known: {claim.why}",
            hint="Patroni takes its next method, which should be basebackup.",
        )
    if chosen.window.end < claim.record.position.floor(claim.record.size):
        raise CannotRestore(
            f"--replica: a recovery from {chosen.backup.id} ends at {chosen.window.end}, "
            f"and the archive at {claim.record.position}",
            hint="Patroni takes its next method. walkeeper verify says what is missing; walkeeper backup takes a new one.",
        )
    if chosen.backup.id in against:
        raise CannotRestore(
            f"--replica: backup {chosen.backup.id}, and each before it from which the end of the archive is reached: "
            f"{against[chosen.backup.id]}",
            hint="Patroni takes its next method, which should be basebackup. walkeeper backup takes a new one.",
        )
