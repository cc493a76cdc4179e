"""What the store has of the timeline on which commits were acknowledged: its end, and that of the last whole record before it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Final

from walkeeper.archive.expiry import below_floors
from walkeeper.archive.histories import timelines
from walkeeper.archive.layout import Layout
from walkeeper.archive.open import Archives
from walkeeper.archive.tail_read import read_chains
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.promotion import believed
from walkeeper.core.record import Gap, Record
from walkeeper.core.suspicion import covers
from walkeeper.core.synchronous import named, standby_name
from walkeeper.core.wal_page import Plain, first_difference
from walkeeper.core.wal_records import can_be_read, last_end
from walkeeper.errors import CannotTell, HoleInArchive

_WHICH: Final = "Is it the right store? Put back what is missing: walkeeper verify lists it."


@dataclass(frozen=True, slots=True)
class End:
    """Where the store's unbroken run of a timeline ends: ``plain`` bytes into ``segment``.

    ``doubt``: it may have gone on up to ``lsn``, and why that cannot be read.
    """

    lsn: Lsn
    segment: Segment
    plain: Plain
    doubt: CannotTell | None = None


class Stored:
    """One archive, as it is when it is asked. All raise CannotTell, Refused or the store's errors."""

    def __init__(self, archives: Archives, system_identifier: int, size: SegmentSize) -> None:
        self._archives = archives
        self._standby = standby_name(system_identifier)
        self._layout: Layout = archives.layout(system_identifier)
        self.size = size
        self._contents = archives.contents(system_identifier, size)
        self._reader = archives.reader()

    def history(self, timeline: int) -> History:
        found = self._contents.history(timeline)
        if found is None:
            raise CannotTell(
                f"{self._layout.root}history/{timeline:08X}.history: not in the store, and its timeline is the record's",
                hint="A takeover stores it first: is it the right store? A member's pg_wal has the file.",
            )
        return found

    def newest(self) -> tuple[History, Lsn] | None:
        """Where no record says it: the newest timeline that is stored, and how far it is in whole segments.

        None where nothing was ever archived.
        """
        history = self.history(max(timelines(self._archives.store, self._layout), default=1))
        reached = self._contents.frontier(history)
        return None if reached is None else (history, reached)

    def check_none_waits(self, standby_names: str) -> None:
        """Where neither a record nor an archive is there: that no commit was acknowledged by one that was. Raises CannotTell."""
        if self._standby in named(standby_names):
            raise CannotTell(
                f"{self._archives.store.url}/{self._layout.root}: no archive is there, and by synchronous_standby_names commits "
                "wait for one",
                hint="Is it the right store, is the disk mounted? If no commit has ever returned: walkeeper pre-promote --lose.",
            )

    def check_has(self, record: Record, history: History, session: str) -> None:
        """That what the record says is stored last is here. Raises CannotTell."""
        first, number = Segment.parse(record.start, self.size), record.position // self.size - 1
        if number < first.number:
            if record.durability == "store" and self._contents.start() is None:  # else its owner had not begun yet
                place = f"{self._archives.store.url}/{self._layout.root}"
                raise CannotTell(
                    f"{place}: no archive is there, and the record speaks of one from {first}", hint=_WHICH
                )
            return
        below = history.segment(number, self.size)
        if record.position % self.size or self._contents.has(below) or self._is_lost(below, record):
            return  # with a part of a segment ``end`` compares it
        if len(self._tail(below, session).plain) < self.size:
            raise CannotTell(f"{below}: not in the store, and the record says up to {record.lsn}", hint=_WHICH)

    def _is_lost(self, segment: Segment, record: Record) -> bool:
        """Recorded as a gap, or given up."""
        alone = Gap(segment.timeline, str(segment.start), str(segment.end))
        given_up = below_floors(self._archives.store, self._layout).get(segment.timeline, ())
        return covers((*record.gaps, *self._contents.gaps()), alone) or any(
            begin <= segment.number < end for begin, end in given_up
        )

    def end(self, history: History, begin: Lsn, session: str) -> End:
        """Of that timeline, from the segment with ``begin`` on: segments that are complete, or complete by their pieces."""
        number = begin // self.size
        while True:
            segment = self._first_incomplete(history.timeline, number)
            found = self._tail(segment, session)
            number = segment.number
            if self._contents.has(segment):
                continue  # it was completed meanwhile, and its pieces went
            if len(found.plain) < self.size or found.doubt is not None:
                return found
            number += 1

    def _first_incomplete(self, timeline: int, number: int) -> Segment:
        looks = self._contents.looks(Segment(timeline, each, self.size) for each in count(number))
        return next(segment for segment, there in looks if not there)

    def _tail(self, segment: Segment, session: str) -> End:
        chains, reach = read_chains(self._archives.store, self._layout, self._archives.codec, segment.name)
        plain = {chain.owner: chain.plain for chain in chains}
        owner = believed(plain, session)
        if owner is None and chains:
            raise self._differ(segment, plain)
        body = plain[owner] if owner is not None else b""
        if reach.ignored and reach.listed > len(body):
            doubt = CannotTell(
                f"{reach.ignored}: damaged, and no other piece has what it should have",
                hint="What was acknowledged may be in it. Put it back from a copy, or walkeeper pre-promote --lose.",
            )
            return End(Lsn(segment.start + reach.listed), segment, body, doubt)
        return End(Lsn(segment.start + len(body)), segment, body)

    def _differ(self, segment: Segment, plain: dict[str, bytes]) -> CannotTell:
        one, *others = sorted(plain, key=lambda owner: (-len(plain[owner]), owner))
        other = next(each for each in others if first_difference(plain[one], plain[each]) < len(plain[each]))
        at = Lsn(segment.start + first_difference(plain[one], plain[other]))
        folder = self._layout.tail(segment.name)
        return CannotTell(
            f"{folder}*-{one}* and {folder}*-{other}*: two servers wrote this timeline, and their pieces part at {at}",
            hint="Move the pieces of the one whose commits do not count away; or walkeeper pre-promote --lose.",
        )

    def last_record(self, end: End, history: History, session: str, floor: Lsn) -> Lsn:
        """Where the last whole record before that end ends; ``floor`` if that is not above it."""
        segment, plain = end.segment, end.plain
        while True:
            if plain and not can_be_read(plain, segment):
                raise CannotTell(
                    f"{segment}: its records have a form that this version does not know, so that their end cannot be told",
                    hint="Is there a newer walkeeper? Else walkeeper pre-promote --lose, once the standby replays no more.",
                )
            found = last_end(plain, segment) if plain else None
            if found is not None or segment.start <= floor:
                return max(found or floor, floor)
            segment = history.segment(segment.number - 1, self.size)
            plain = self._whole(segment, session)

    def has(self, segment: Segment, session: str) -> bool:
        """Whether the store has all of that segment, or at least its beginning: a server that asks for it gets something."""
        return self._contents.has(segment) or bool(self._tail(segment, session).plain)

    def _whole(self, segment: Segment, session: str) -> Plain:
        plain = self._reader.deliver(self._layout, segment.name, segment.size) or self._tail(segment, session).plain
        if len(plain) < self.size:
            raise HoleInArchive(
                f"{segment}: not in the store, and what follows it is", hint="walkeeper verify lists what is missing."
            )
        return plain
