"""Which base backups are complete, and what can be restored with them: windows, from a backup's stop to where the chain breaks.

Computed from what is listed, never stored (P14). A recovery reads the files of its target's chain, so that a backup is complete
on a chain: one that was taken just before a failover may be complete on the new timeline's and not on the old one's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Literal, TypeAlias

from walkeeper.core.backup import Backup
from walkeeper.core.coverage import Archived, Range, chain, end_of, subtract, touches
from walkeeper.core.history import History
from walkeeper.core.incremental import mismatch
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment

Verdict: TypeAlias = Literal["complete", "damaged", "incomplete"]


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What one archive has. ``kept`` is the history that the cluster goes on with: the record's, else the newest.

    ``histories``: of every timeline that is known (``all_histories``). ``partly``: segments that are not stored whole, and up to
    where inside them a tail goes. ``given_up``: numbers below the floor, by timeline, without the ranges that it keeps.
    ``start``: where the archive states to begin, for words only: what is stored counts.
    """

    archived: Archived
    size: SegmentSize
    system_identifier: int
    kept: History
    histories: Mapping[int, History]
    partly: Mapping[Segment, Lsn] = field(default_factory=dict)
    given_up: Mapping[int, Sequence[Range]] = field(default_factory=dict)
    start: Segment | None = None

    @cached_property
    def usable(self) -> Mapping[int, Sequence[Range]]:
        """Whole segments above the floor."""
        return {
            timeline: subtract(stored, self.given_up.get(timeline, ()))
            for timeline, stored in self.archived.segments.items()
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """A backup, and ``why`` it does not count, in words. ``waits``: only for WAL that may still be on its way."""

    backup: Backup
    verdict: Verdict
    why: str = ""
    waits: bool = False

    @property
    def counts(self) -> bool:
        return self.verdict == "complete"


@dataclass(frozen=True, slots=True)
class Window:
    """Every position of ``timeline``'s chain from ``start`` up to ``end`` can be restored; ``backups`` are the oldest first.

    ``dead``: the cluster left this branch, and a restore reaches it only if it names the timeline.
    """

    timeline: int
    start: Lsn
    end: Lsn
    backups: tuple[Backup, ...]
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Windows:
    """``judged`` in the order of ids. ``chains``: the windows of each timeline's whole chain, in order of position."""

    judged: tuple[Judged, ...]
    kept: History
    chains: Mapping[int, tuple[Window, ...]]
    shown: tuple[Window, ...]
    """Each position once, as far as that can be: the kept chain's, then those of others from where they part from it."""

    @property
    def complete(self) -> list[Backup]:
        """Those that can be restored, on whatever chain."""
        return [each.backup for each in self.judged if each.counts]


@dataclass(frozen=True, slots=True)
class Choice:
    """Restore ``backup``, and replay within ``window``. ``instead_of`` is a newer one that was found damaged."""

    backup: Backup
    window: Window
    instead_of: Backup | None = None


@dataclass(frozen=True, slots=True)
class NoChoice:
    """``why`` in words. ``near``: the windows before and after the target, or what there is."""

    why: str
    near: tuple[Window, ...] = ()


def all_histories(stored: Mapping[int, History], *others: int) -> dict[int, History]:
    """Those that are stored, their ancestors as they tell them, and ``others``, of which nothing tells an ancestor."""
    found = dict(stored)
    for history in stored.values():
        for at, timeline in enumerate(history.timelines):
            found.setdefault(timeline, History(timeline, history.switches[:at]))
    for timeline in others:
        found.setdefault(timeline, History(timeline))
    return found


def consistent_at(backup: Backup) -> Lsn:
    """From which position on a restore of it is a database: its stop."""
    return Lsn.parse(backup.wal[-1].end)


def contains(history: History, backup: Backup) -> bool:
    """Whether a recovery along ``history``'s chain can begin with it: all WAL that it needs is of that chain."""
    for part in backup.wal:
        start, end = Lsn.parse(part.start), Lsn.parse(part.end)
        if start < end and not (history.has(part.timeline, start) and history.has(part.timeline, Lsn(end - 1))):
            return False
    return history.has(backup.wal[-1].timeline, Lsn(max(0, consistent_at(backup) - 1)))


def look(backups: Iterable[Backup], holdings: Holdings, broken: Mapping[str, str] | None = None) -> Windows:
    """Judge each backup. ``broken``: what was found against some, or what makes them unreadable, by id."""
    chains = {timeline: _Chain(history, holdings) for timeline, history in holdings.histories.items()}
    kept = chains.setdefault(holdings.kept.timeline, _Chain(holdings.kept, holdings))
    order = [kept, *(chains[timeline] for timeline in sorted(chains, reverse=True) if chains[timeline] is not kept)]
    judged: dict[str, Judged] = {}
    for backup in sorted(backups, key=lambda backup: backup.id):
        judged[backup.id] = _judge(backup, holdings, order, judged, broken or {})
    complete = [each.backup for each in judged.values() if each.counts]
    windows = {each.history.timeline: each.windows(complete) for each in order}
    shown = list(windows[kept.history.timeline])
    for each in sorted(order[1:], key=lambda each: each.history.timeline):
        parted = each.history.parts_from(kept.history) or Lsn(0)
        shown += [
            Window(window.timeline, max(window.start, parted), window.end, window.backups, window.dead)
            for window in windows[each.history.timeline]
            if window.end > parted
        ]
    return Windows(tuple(judged.values()), holdings.kept, windows, tuple(shown))


def choose(
    windows: Windows,
    position: Lsn | None = None,
    *,
    timeline: int | None = None,
    had_stopped: Callable[[Choice], bool] | None = None,
) -> Choice | NoChoice:
    """The newest complete backup from which a recovery reaches the target on ``timeline``'s chain, by default the kept one.

    ``position``: up to where WAL is replayed; None for the end of what is stored. ``had_stopped`` instead of it, for a time:
    whether a backup had stopped by then, which each had that is older than one that had. Whether its window reaches so far, only
    commits can say.
    """
    timeline = timeline or windows.kept.timeline
    if timeline not in windows.chains:
        return NoChoice(f"timeline {timeline}: the archive knows no history of it", windows.shown)
    there = windows.chains[timeline]
    if not there:
        return NoChoice(f"no backup on the chain of timeline {timeline} is complete", windows.shown)
    if had_stopped is not None:
        return _chosen_by_time(there, had_stopped)
    if position is None:
        return Choice(there[-1].backups[-1], there[-1])
    for window in there:
        if window.start <= position <= window.end:
            return Choice([each for each in window.backups if consistent_at(each) <= position][-1], window)
    before = [window for window in there if window.end < position][-1:]
    after = [window for window in there if window.start > position][:1]
    if not before:
        why = f"{position} is before the stop of the oldest complete backup, {after[0].start}"
    elif not after:
        why = f"{position} is beyond {before[0].end}, up to where WAL is stored without a break"
    else:
        why = f"{position} lies between two windows: no backup reaches from {before[0].end} to {after[0].start}"
    return NoChoice(why, (*before, *after))


def stopped_at(backup: Backup) -> datetime | None:
    """When it stopped by its server's clock; None where that is not a time with a zone."""
    try:
        at = datetime.fromisoformat(backup.stop.at)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def _chosen_by_time(there: Sequence[Window], had_stopped: Callable[[Choice], bool]) -> Choice | NoChoice:
    backups = [Choice(backup, window) for window in there for backup in window.backups]
    backups.sort(key=lambda each: consistent_at(each.backup))
    older = bisect_left(backups, True, key=lambda each: not had_stopped(each))
    if older > 0:
        return backups[older - 1]
    oldest = there[0].backups[0]
    at = f" ({oldest.stop.at} by its server's clock)" if oldest.stop.at else ""
    return NoChoice(f"that is before the stop of the oldest complete backup, {oldest.id}{at}", (there[0],))


class _Chain:
    """One timeline's chain: how far it is stored from anywhere on."""

    def __init__(self, history: History, holdings: Holdings) -> None:
        self.history = history
        self._holdings = holdings
        self._ends = {stretch.timeline: stretch.end for stretch in chain(history, holdings.size)}

    def stored_to(self, position: Lsn) -> Lsn:
        """Up to where all WAL from the segment of ``position`` on is stored; the tail of the last one included."""
        number = position // self._holdings.size
        while True:
            segment = self.history.segment(number, self._holdings.size)
            usable = self._holdings.usable.get(segment.timeline, ())
            if (reached := min(end_of(usable, number), self._ends[segment.timeline])) > number:
                number = reached
                continue
            if _holds(self._holdings.given_up, segment):
                return segment.start
            reached = max(segment.start, self._holdings.partly.get(segment, segment.start))
            if reached < segment.end:
                return reached
            number += 1  # all of it is there, in pieces

    def goes_on_behind(self, number: int) -> bool:
        """Whether any segment with a higher number is stored."""
        usable = self._holdings.usable
        behind = chain(self.history, self._holdings.size, number + 1)
        return any(touches(usable.get(each.timeline, ()), each.first, each.end) for each in behind)

    def reach(self, backup: Backup) -> Lsn:
        return self.stored_to(Lsn.parse(backup.wal[0].start))

    def completes(self, backup: Backup) -> bool:
        return contains(self.history, backup) and self.reach(backup) >= consistent_at(backup)

    def windows(self, complete: Collection[Backup]) -> tuple[Window, ...]:
        """Backups with the same end are in one window: between their stops the chain does not break."""
        found: dict[Lsn, list[Backup]] = {}
        for backup in complete:
            if self.completes(backup):
                found.setdefault(self.reach(backup), []).append(backup)
        timeline, kept = self.history.timeline, self._holdings.kept
        dead = timeline != kept.timeline and not self.history.includes(kept.timeline)
        windows = []
        for end, backups in sorted(found.items()):
            backups.sort(key=lambda backup: (consistent_at(backup), backup.id))
            windows.append(Window(timeline, consistent_at(backups[0]), end, tuple(backups), dead))
        return tuple(windows)


def _judge(
    backup: Backup, holdings: Holdings, chains: Sequence[_Chain], older: Mapping[str, Judged], found: Mapping[str, str]
) -> Judged:
    broken = found.get(backup.id, "")
    if int(backup.system_identifier) != holdings.system_identifier:
        return Judged(backup, "damaged", f"it is of another cluster, system identifier {backup.system_identifier}")
    if backup.size != holdings.size:
        return Judged(backup, "damaged", f"it is of a cluster with segments of {backup.segment_size} bytes")
    if backup.damage or broken:
        return Judged(backup, "damaged", "; ".join([*backup.damage, *([broken] if broken else [])]))
    if backup.kind == "incremental":
        parent = older.get(backup.parent)
        if parent is None:
            what = f"is damaged: {found[backup.parent]}" if backup.parent in found else "is not there"
            return Judged(backup, "damaged", f"it builds on {backup.parent or 'a backup'}, which {what}")
        if why := mismatch(parent.backup, backup):
            return Judged(backup, "damaged", why)
        if not parent.counts:
            why = f"it builds on {backup.parent}, which is {parent.verdict}: {parent.why}"
            return Judged(backup, parent.verdict, why, parent.waits)
    ours = [each for each in chains if contains(each.history, backup)]
    if any(each.completes(backup) for each in ours):
        return Judged(backup, "complete")
    if not ours:
        return Judged(backup, "incomplete", f"timeline {backup.stop.timeline}: the archive has no history with its WAL")
    furthest = max(ours, key=lambda each: each.reach(backup))
    return Judged(backup, "incomplete", *_lacks(backup, holdings, furthest))


def _lacks(backup: Backup, holdings: Holdings, furthest: _Chain) -> tuple[str, bool]:
    """In words; and whether it may still come."""
    reached = furthest.reach(backup)
    number = reached // holdings.size
    segment = furthest.history.segment(number, holdings.size)
    if _holds(holdings.given_up, segment):
        return f"its WAL was given up: {segment} is below the floor", False
    if _holds(holdings.archived.gaps, segment):
        return f"its WAL is lost: {segment} is in a recorded gap", False
    if holdings.start is not None and number < holdings.start.number:
        return f"it needs {segment}, and the archive begins with {holdings.start}", False
    if furthest.goes_on_behind(number):
        return f"{segment} is missing in the store", False
    return f"its WAL is stored up to {reached}, and it needs it up to {consistent_at(backup)}", True


def _holds(ranges: Mapping[int, Sequence[Range]], segment: Segment) -> bool:
    return any(each.first <= segment.number < each.end for each in ranges.get(segment.timeline, ()))
