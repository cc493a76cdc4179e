"""Whether a file that is not in the archive is where it ends, or a hole with more behind it (promise P6).

Judged on the asked name's own branch: what lies on a stored history that contains the asked (timeline, position) follows it,
and nothing else does. So recovery along an abandoned branch ends where that branch does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from walkeeper.core.coverage import Range
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import HistoryFile, Segment
from walkeeper.core.tail import NO_TAIL, TailReach


@dataclass(frozen=True, slots=True)
class RecordedGap:
    """WAL of ``first``'s timeline from its start up to ``end`` that no longer existed anywhere."""

    first: Segment
    end: Lsn


@dataclass(frozen=True, slots=True)
class Around:
    """What is known of the archive around a segment that it lacks.

    ``segments``: of its timeline, stored as a whole or in part. ``histories``: those that are stored, of newer timelines at
    least. ``frontier``: the record's timeline and position, where there is a record that can be read. ``tail``: the asked
    segment's own, which was read after the record. ``given_up``: numbers of its timeline below the floor.
    """

    segments: Collection[Segment] = ()
    gaps: Collection[RecordedGap] = ()
    histories: Collection[History] = ()
    frontier: tuple[int, Lsn] | None = None
    tail: TailReach = NO_TAIL
    given_up: Sequence[Range] = ()


def merged(parts: Iterable[Around], tail: TailReach, frontier: tuple[int, Lsn] | None) -> Around:
    """What several looks at different things have found, together."""
    found = list(parts)
    return Around(
        [segment for part in found for segment in part.segments],
        [gap for part in found for gap in part.gaps],
        [history for part in found for history in part.histories],
        frontier,
        tail,
        [each for part in found for each in part.given_up],
    )


@dataclass(frozen=True, slots=True)
class Hole:
    """Why it is not the end, for people. ``recorded``: it was noted that this WAL no longer exists anywhere; ``given_up``: by
    ``expire``.
    """

    why: str
    recorded: bool = False
    given_up: bool = False


def hole_at(asked: Segment, around: Around) -> Hole | None:
    """None where the archive ends there."""
    if any(each.first <= asked.number < each.end for each in around.given_up):
        return Hole("it is below the floor that walkeeper expire has recorded", given_up=True)
    if around.tail.whole:
        return None  # with durability: store pieces go to its end
    same = [gap for gap in around.gaps if gap.first.timeline == asked.timeline and gap.end > asked.start]
    for gap in same:
        if gap.first.number <= asked.number:
            return Hole(f"its WAL is lost: a gap is recorded from {gap.first.start} to {gap.end}", recorded=True)
    behind = [each for each in around.segments if each.timeline == asked.timeline and each.number > asked.number]
    if behind:
        return Hole(f"{min(behind)} is there")
    if same:
        return Hole(f"a gap is recorded behind it, at {min(gap.first.start for gap in same)}")
    branches = {history.timeline: history for history in around.histories if history.timeline > asked.timeline}
    for history in branches.values():
        if history.contains(asked):
            left = next(switch.lsn for switch in history.switches if switch.timeline == asked.timeline)
            return Hole(
                f"{HistoryFile(history.timeline).name} says that timeline {asked.timeline} goes on to {left} at least"
            )
    stored, listed = (Lsn(asked.start + offset) for offset in (around.tail.reached, around.tail.listed))
    left = _left_at(asked, branches.values())
    if min(listed, left) > stored:
        return Hole(f"its tail was stored up to {listed}, and can be read up to {stored} only: {around.tail.ignored}")
    if around.frontier is None:
        return None
    timeline, position = around.frontier
    branch = branches.get(timeline) if timeline > asked.timeline else History(timeline)
    if branch is None:
        return Hole(f"the record is on timeline {timeline}, and {HistoryFile(timeline).name} is not in the archive")
    if branch.contains(asked) and (position > asked.end or min(position, left) > stored):
        tail = f", and its tail ends at {stored}" if stored > asked.start else ""
        return Hole(f"the frontier is at {position}{tail}")
    return None


def _left_at(asked: Segment, newer: Iterable[History]) -> Lsn:
    """Where the newest of those left the asked timeline, if inside that segment: of the tail nothing is delivered beyond that."""
    newest = max(newer, key=lambda history: history.timeline, default=History(asked.timeline))
    ends = (switch.lsn for switch in newest.switches if switch.timeline == asked.timeline)
    return min(next(ends, asked.end), asked.end)


def lost_history(
    timeline: int, histories: Iterable[History], first: int, nameless: Collection[int] = ()
) -> Hole | None:
    """Whether a history that is not in the archive was there: a newer one names that timeline as an ancestor, or WAL of it is
    stored, which never goes before the history.

    ``first`` is the timeline that the archive begins with: older ones may never have been in it. ``nameless``: timelines with WAL
    and no history. One that is newer than the asked one may come from it, and is not found if this one is absent.
    """
    for lost in sorted(each for each in nameless if each >= timeline > first):
        lacking = "" if lost == timeline else f", and {HistoryFile(lost).name} is not"
        return Hole(f"WAL of timeline {lost} is there{lacking}")
    for history in histories:
        if first < timeline < history.timeline and history.includes(timeline):
            return Hole(f"{HistoryFile(history.timeline).name} is there and comes from timeline {timeline}")
    return None
