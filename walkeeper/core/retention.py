"""What may be given up: from what is there, what people want to keep, and what others need now, to a floor. Purely (P15).

Nothing here knows an earlier floor: what is deleted in the end is what a recorded floor gives up, and this computation, made
again, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from walkeeper.core.backup import Backup, BackupId, WalRange
from walkeeper.core.coverage import Range, Ranges, merged, subtract
from walkeeper.core.elapsed import Elapsed
from walkeeper.core.floor import EVERYTHING, Below, Pin, Retained, moment, segments
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.windows import Holdings, Windows, contains, look, stopped_at
from walkeeper.errors import Unsafe

FULLS: Final = 2
"""Complete full backups on the record's chain that always stay: if one turns out to be damaged, there is another."""
LATE: Final = 8 * 86400.0
"""Seconds for which ``expire`` may have something to do: it may run once a week, after the backup."""
ATTEMPT: Final = timedelta(days=7)
"""Age from which on an attempt that nobody pins will not become a backup."""


@dataclass(frozen=True, slots=True)
class Policy:
    """``keep``: every second of the last so long stays restorable. ``number``: so many full backups stay, whatever their age."""

    keep: timedelta | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What others need. ``pins`` and ``retained`` may have ended. ``stored_at``: when ``backup.json`` was stored, by id.

    One of ``retained`` that is damaged stays, too: people said so, and what was found may be a false alarm.
    """

    elapsed: Elapsed
    pins: Sequence[Pin] = ()
    retained: Sequence[Retained] = ()
    attempts: Sequence[BackupId] = ()
    stored_at: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``first`` is the segment that the archive begins with, ``oldest`` the backup because of which it does.

    ``backups`` are given up, attempts among them; ``retained`` stay with ``kept``, their own WAL below ``first``. ``rests_on``:
    those because of which something may go, ``oldest`` among them, and what they build on.
    """

    first: Segment
    oldest: Backup
    rests_on: tuple[Backup, ...]
    below: tuple[Below, ...]
    kept: tuple[WalRange, ...]
    backups: tuple[str, ...]
    retained: tuple[str, ...]
    pinned: tuple[str, ...]
    remains: Windows

    @property
    def covered(self) -> dict[int, list[Range]]:
        """Segment numbers, by timeline; those too that are kept."""
        return {each.timeline: [Range(0, Lsn.parse(each.lsn) // self.first.size)] for each in self.below}

    @property
    def given_up(self) -> dict[int, Ranges]:
        kept = segments(self.kept, self.first.size)
        return {timeline: subtract(ranges, kept.get(timeline, ())) for timeline, ranges in self.covered.items()}


def plan(windows: Windows, holdings: Holdings, policy: Policy, needs: Needs) -> Plan:
    """``windows`` and ``holdings`` as they are without any floor. Raises Unsafe, with what to do, where nothing may go."""
    chain = _chain(windows, holdings)
    oldest = _oldest(chain, policy, needs)
    by_id = {each.backup.id: each.backup for each in windows.judged}
    enough = _fulls(chain)[-max(FULLS, policy.number or 0) :]
    wanted = _with_parents(chain[chain.index(oldest) :], by_id)
    elapsed = needs.elapsed
    pins = [pin for pin in needs.pins if elapsed.now_since(moment(pin.at)) <= moment(pin.until)]
    pinned = _with_parents([by_id[pin.backup] for pin in pins if pin.backup in by_id], by_id)
    branches = [holdings.kept, *(branch for pin in pins for branch in _branches(pin, holdings))]
    begins = [*(_begin(backup) for backup in (*wanted, *pinned)), *(pin.position for pin in pins)]
    low = min(begins).floor(holdings.size)
    below = tuple(_below(branches, low, holdings))
    ends = {each.timeline: Lsn.parse(each.lsn) // holdings.size for each in below}
    held = {each.backup for each in needs.retained if elapsed.now_since(moment(each.at)) < moment(each.until)}
    stays = {backup.id for backup in (*wanted, *pinned)}
    retained = [
        backup
        for backup in _with_parents([by_id[id_] for id_ in sorted(held & by_id.keys())], by_id)
        if backup.id not in stays and _gone(backup, ends, holdings)
    ]
    kept = tuple(_islands(retained, holdings))
    stays |= {backup.id for backup in retained}
    gone = _gone_ids(windows, ends, holdings, stays)
    attempts = [str(each) for each in needs.attempts if _is_over(each, elapsed, {pin.backup for pin in pins})]
    found = Plan(
        first=holdings.kept.segment_at(low, holdings.size),
        oldest=oldest,
        rests_on=tuple(_with_parents([oldest, *enough], by_id)),
        below=below,
        kept=kept,
        backups=(*gone, *attempts),
        retained=tuple(backup.id for backup in retained),
        pinned=tuple(pin.id for pin in pins),
        remains=windows,
    )
    return replace(found, remains=_checked(found, windows, holdings, {*stays}))


def too_few(windows: Windows, holdings: Holdings) -> bool:
    """Whether nothing may go because there are not enough backups."""
    return len(_fulls(_chain(windows, holdings))) < FULLS


def not_needed_for(fulls: Sequence[float], keep: float) -> float:
    """Seconds for which the oldest of these full backups, of one window, has not been needed any more. ``fulls``: their ages, the
    oldest first. By the servers' clocks, and without pins: for people and alerts.
    """
    return max(0.0, min(fulls[1] - keep, fulls[FULLS])) if len(fulls) > FULLS else 0.0


def _chain(windows: Windows, holdings: Holdings) -> list[Backup]:
    return [backup for window in windows.chains[holdings.kept.timeline] for backup in window.backups]


def _fulls(chain: Iterable[Backup]) -> list[Backup]:
    return [backup for backup in chain if backup.kind == "full"]


def _oldest(chain: Sequence[Backup], policy: Policy, needs: Needs) -> Backup:
    """The backup from which on all stays: the newest that is old enough, and no newer than the fulls that are kept by number."""
    fulls = _fulls(chain)
    if policy.keep is None and policy.number is None:
        raise Unsafe(
            "retention: nothing says what is to be kept",
            hint="Set backup.keep in the configuration, for instance to 14d, or call it with --keep-number.",
        )
    if len(fulls) < FULLS:
        raise Unsafe(
            f"retention: {len(fulls)} complete full {'backup is' if len(fulls) == 1 else 'backups are'} on the cluster's "
            f"chain, and {FULLS} always stay",
            hint="walkeeper expire and walkeeper verify say which backups do not count, and why. "
            "walkeeper backup takes a new one.",
        )
    by_number = fulls[-min(len(fulls), max(FULLS, policy.number or 0))]
    if policy.keep is None:
        return by_number
    reached = [backup for backup in chain if needs.elapsed.since(_taken(backup, needs)) >= policy.keep]
    return min(by_number, reached[-1] if reached else chain[0], key=chain.index)


def _taken(backup: Backup, needs: Needs) -> datetime:
    """When it was whole at the latest: a clock that is behind makes nothing older."""
    stopped = stopped_at(backup)
    known = [at for at in (stopped, needs.stored_at.get(backup.id)) if at is not None]
    return max(known) if stopped is not None else datetime.max.replace(tzinfo=UTC)


def _with_parents(backups: Iterable[Backup], by_id: Mapping[str, Backup]) -> list[Backup]:
    found: dict[str, Backup] = {}
    for backup in backups:
        each: Backup | None = backup
        while each is not None and each.id not in found:
            found[each.id] = each
            each = by_id.get(each.parent)
    return list(found.values())


def _begin(backup: Backup) -> Lsn:
    return Lsn.parse(backup.wal[0].start)


def _branches(pin: Pin, holdings: Holdings) -> list[History]:
    """Its timeline's; where the archive has no history of that, which another store may have, all that it may come from."""
    if pin.timeline in holdings.histories:
        return [holdings.histories[pin.timeline]]
    return [history for timeline, history in sorted(holdings.histories.items()) if timeline < pin.timeline]


def _below(branches: Sequence[History], low: Lsn, holdings: Holdings) -> Iterable[Below]:
    """Of each timeline, what no recovery along a branch from ``low`` on can read. Of unknown ones, nothing."""
    for timeline, history in sorted(holdings.histories.items()):
        needed = any(_joins(history, branch, low) for branch in branches)
        if needed and low:
            yield Below(timeline, str(low))
        elif not needed:
            yield Below(timeline, EVERYTHING)


def _joins(history: History, branch: History, low: Lsn) -> bool:
    """Whether WAL of ``history``'s own timeline can follow what ``branch`` has at ``low``: it parts from it above that."""
    if branch.includes(history.timeline):
        ends = {switch.timeline: switch.lsn for switch in branch.switches}
        return history.timeline == branch.timeline or ends[history.timeline] > low
    parted = history.parts_from(branch)
    return parted is None or parted > low


def _gone(backup: Backup, ends: Mapping[int, int], holdings: Holdings) -> bool:
    return _begin(backup) // holdings.size < ends.get(backup.wal[0].timeline, 0)


def _gone_ids(windows: Windows, ends: Mapping[int, int], holdings: Holdings, stays: Collection[str]) -> list[str]:
    """Those that begin below, and those that need one of them; the oldest first."""
    found: list[str] = []
    for each in windows.judged:
        backup = each.backup
        if backup.id in stays or int(backup.system_identifier) != holdings.system_identifier:
            continue
        if _gone(backup, ends, holdings) or backup.parent in found:
            found.append(backup.id)
    return found


def _islands(backups: Iterable[Backup], holdings: Holdings) -> Iterable[WalRange]:
    """Their WAL from start to stop: the files of their own timelines, and those that the chains have for the same bytes."""
    size = holdings.size
    files: dict[int, list[tuple[int, int]]] = {}
    for backup in backups:
        for timeline, ranges in segments(backup.wal, size).items():
            files.setdefault(timeline, []).extend(ranges)
            for history in holdings.histories.values():
                if contains(history, backup):
                    for first, end in ranges:
                        for number in range(first, end):
                            files.setdefault(history.timeline_of(number, size), []).append((number, number + 1))
    for timeline, found in sorted(files.items()):
        for first, end in merged(found):
            yield WalRange(timeline, str(Lsn(first * size)), str(Lsn(end * size)))


def _is_over(attempt: BackupId, elapsed: Elapsed, pinned: Collection[str]) -> bool:
    return attempt.begun is not None and elapsed.since(attempt.begun) >= ATTEMPT and str(attempt) not in pinned


def _checked(found: Plan, before: Windows, holdings: Holdings, stays: Collection[str]) -> Windows:
    """What remains, once more by the code that judges restores. Raises Unsafe if something that stays would be lost."""
    backups = [each.backup for each in before.judged if each.backup.id not in found.backups]
    broken = {
        each.backup.id: each.why for each in before.judged if each.verdict == "damaged" and not each.backup.damage
    }
    after = look(backups, replace(holdings, given_up=found.given_up), broken)
    complete = {each.backup.id for each in before.judged if each.counts}
    lost = (complete & set(stays)) - {backup.id for backup in after.complete}
    first = found.oldest
    ends = [window.end for window in before.chains[holdings.kept.timeline] if first in window.backups]
    left = [window.end for window in after.chains[holdings.kept.timeline] if first in window.backups]
    if lost or ends != left:
        raise Unsafe(
            f"retention: {min(lost, default=first.id)} could not be restored any longer",
            hint="This is a mistake in walkeeper. Please report it; nothing was given up.",
        )
    return after
