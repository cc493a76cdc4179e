"""Timelines: where each one forked from its parent, and which file of which timeline holds a given byte.

The *chain* of a timeline is, for each segment number, the one file that belongs to it. It is what recovery reads:
the file of the newest timeline, among the ancestors, that had begun by the end of that segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import BadHistory, BadName

MAX_HISTORY_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Switch:
    """``timeline`` ended at ``lsn``, where its child begins."""

    timeline: int
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class History:
    """One timeline and its ancestors, oldest first. Without switches it is the first one that a cluster ever had."""

    timeline: int
    switches: tuple[Switch, ...] = ()

    @property
    def timelines(self) -> tuple[int, ...]:
        """The ancestors and the timeline itself, oldest first."""
        return (*(switch.timeline for switch in self.switches), self.timeline)

    def includes(self, timeline: int) -> bool:
        return timeline in self.timelines

    def up_to(self, timeline: int) -> History:
        """The history of that one of its timelines."""
        return History(timeline, self.switches[: self.timelines.index(timeline)])

    def timeline_of(self, number: int, size: SegmentSize) -> int:
        """Whose file holds segment ``number`` in this chain: the newest timeline that had begun before its end."""
        end = (number + 1) * size
        for begun, timeline in zip(
            reversed([Lsn(0), *(switch.lsn for switch in self.switches)]), reversed(self.timelines), strict=True
        ):
            if begun < end:
                return timeline
        raise AssertionError("position 0 lies before every end")

    def segment(self, number: int, size: SegmentSize) -> Segment:
        """The file of this chain with that number."""
        return Segment(self.timeline_of(number, size), number, size)

    def segment_at(self, lsn: Lsn, size: SegmentSize) -> Segment:
        """The file of this chain that holds the byte at ``lsn``."""
        return self.segment(lsn // size, size)

    def contains(self, segment: Segment) -> bool:
        """Whether that file belongs to this chain."""
        return self.timeline_of(segment.number, segment.size) == segment.timeline

    def has(self, timeline: int, lsn: Lsn) -> bool:
        """Whether the byte at ``lsn`` of that timeline belongs to this chain."""
        begun = Lsn(0)
        for each, end in self._stretches():
            if each == timeline:
                return begun <= lsn and (end is None or lsn < end)
            begun = end if end is not None else begun
        return False

    def parts_from(self, other: History) -> Lsn | None:
        """Where the two stop being the same WAL: 0 if they never were, None if they are the same history."""
        if self == other:
            return None
        shared = Lsn(0)
        for (mine, my_end), (its, its_end) in zip(self._stretches(), other._stretches(), strict=False):
            if mine != its:
                return shared
            if my_end != its_end:
                return min(end for end in (my_end, its_end) if end is not None)
            shared = my_end if my_end is not None else shared
        return shared

    def _stretches(self) -> list[tuple[int, Lsn | None]]:
        return [*((switch.timeline, switch.lsn) for switch in self.switches), (self.timeline, None)]


def parse_history(timeline: int, content: bytes) -> History:
    """The content of ``timeline``'s history file, as it came to be. Raises BadHistory with the line's number."""
    return History(timeline, _as_it_came_to_be(list(written_switches(timeline, content))))


def written_switches(timeline: int, content: bytes) -> tuple[Switch, ...]:
    """What a history file says, word for word: a child's file begins with its parent's. Raises BadHistory.

    One line an ancestor: its number, the position where it ended, a reason as free text
    (``src/backend/access/transam/timeline.c``).
    """
    name = f"{timeline:08X}.history"
    if len(content) > MAX_HISTORY_BYTES:
        raise BadHistory(f"{name}: {len(content)} bytes, more than any history has (limit {MAX_HISTORY_BYTES})")
    if not content.endswith(b"\n"):
        raise BadHistory(f"{name}: it is empty or its last line has no end", hint="The file was cut short.")
    switches: list[Switch] = []
    for number, line in enumerate(content[:-1].split(b"\n"), start=1):
        if b"\r" in line or b"\0" in line:
            raise BadHistory(
                f"{name} line {number}: a control character", hint="PostgreSQL does not write such a file."
            )
        fields = line.split(None, 2)
        if not fields or fields[0].startswith(b"#"):
            continue
        try:
            switch = Switch(int(fields[0].decode("ascii"), 10), Lsn.parse(fields[1].decode("ascii")))
        except (ValueError, IndexError, BadName):
            raise BadHistory(f"{name} line {number}: not a timeline and a position") from None
        if switch.timeline < 1 or switch.timeline >= timeline:
            raise BadHistory(f"{name} line {number}: timeline {switch.timeline} is not an ancestor of {timeline}")
        if switches and switch.timeline <= switches[-1].timeline:
            raise BadHistory(f"{name} line {number}: timelines must increase")
        switches.append(switch)
    if not switches:
        raise BadHistory(f"{name}: it names no ancestor")
    return tuple(switches)


def _as_it_came_to_be(switches: list[Switch]) -> tuple[Switch, ...]:
    """Positions that fall are lowered to the later ones.

    A standby that has learnt of timeline 2 and is promoted before it has got there writes ``1 0/D83B00``, ``2 0/9806A8``:
    it has timeline 1 up to 0/9806A8, and nothing of 2 (seen on PostgreSQL 15).
    """
    lowered: list[Switch] = []
    for switch in reversed(switches):
        lowered.append(Switch(switch.timeline, min(switch.lsn, lowered[-1].lsn) if lowered else switch.lsn))
    return tuple(reversed(lowered))
