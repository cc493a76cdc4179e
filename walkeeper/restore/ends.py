"""Looks around a file that the archive lacks: does the archive end there, or is it a hole? ``core.end_of_archive`` judges.

A recovery that believes in an end opens its server for writes. So in archive recovery all is asked that can tell. A standby asks
again anyway, and again every few seconds: it is looked around for it seldom, and only where that is cheap.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from walkeeper.archive.codec import AGAIN, AGE, ZSTD
from walkeeper.archive.contents import parsed, starts, stated_size
from walkeeper.archive.expiry import read_expiry
from walkeeper.archive.histories import stored_history, timelines
from walkeeper.archive.layout import Layout, parse_gap_name
from walkeeper.archive.read import Reader, suffixes, wal_file
from walkeeper.archive.tail import StoredPiece, parse_key
from walkeeper.archive.tail_read import AssembledTail, Listed, Tail
from walkeeper.core.coverage import Range
from walkeeper.core.end_of_archive import Around, Hole, RecordedGap, hole_at, lost_history, merged
from walkeeper.core.floor import given_up
from walkeeper.core.history import History, parse_history
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import HistoryFile, Segment
from walkeeper.core.record import Record
from walkeeper.core.tail import NO_TAIL, TailReach
from walkeeper.core.wal_page import SegmentHeader, check_header, check_pages
from walkeeper.core.wal_records import ends_early, last_whole
from walkeeper.dcs.base import RecordStore
from walkeeper.dcs.claim import decoded
from walkeeper.dcs.furthest import read_some
from walkeeper.errors import (
    BadName,
    BeforeStart,
    CannotTell,
    ConfigError,
    DcsError,
    GivenUp,
    HoleInArchive,
    LostForGood,
    Refused,
    WalkeeperError,
)
from walkeeper.lib import events
from walkeeper.lib.clock import Clock
from walkeeper.lib.deadline import Deadline, DeadlineExceeded
from walkeeper.lib.parallel import in_parallel

KEPT: Final = 1.0
"""Seconds for which an answer is kept: a recovery asks for one file more than once, and is told to ask again."""
STANDBY_KEPT: Final = 60.0
"""The same for a standby: a hole is one line a minute in its log."""
DCS_SILENCE: Final = 3.0
"""Seconds for the DCS, which only adds to what the store says: loading its client is a part of them."""
_FOLDER: Final = re.compile(r"[0-9A-F]{16}\Z")
_SMALLEST: Final = SegmentSize(MIB)
"""Every segment's name can be one of these."""
_AT_ONCE: Final = 16
"""Requests to the store."""


class _Kept(NamedTuple):
    """What was found about one file, and how far its tail went."""

    until: float
    reach: TailReach
    problem: HoleInArchive | None


class Ends:
    """For one store and several threads. ``connect`` gives the way to the cluster's record, and raises ConfigError."""

    def __init__(self, source: Reader, connect: Callable[[], RecordStore], clock: Clock, deadline: float) -> None:
        """``deadline`` is ``restore.deadline``, in seconds."""
        self._source = source
        self._connect = connect
        self._clock = clock
        self._lock = threading.Lock()
        self._records: RecordStore | None = None
        self._dcs = Deadline("DCS")
        self._dcs_seconds = min(DCS_SILENCE, deadline / 4)
        self._sizes: dict[str, SegmentSize] = {}
        self._histories: dict[tuple[str, int], History] = {}
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._noted: dict[tuple[str, str], float] = {}
        self._last_record: tuple[tuple[str, str], Lsn | None] | None = None

    def look(self, layout: Layout, name: str) -> tuple[AssembledTail | None, HoleInArchive | None]:
        """For archive recovery, at a file that was just found absent: the tail, and None where the archive ends there, else
        what to raise. Raises the store's errors, CannotTell and BadHistory: then it cannot be told.
        """
        file = wal_file(name)
        if isinstance(file, Segment):
            return self._look_at_segment(layout, Segment.parse(name, self._size(layout)))
        kept = self._fresh(layout, name)
        if kept is not None:
            return None, kept.problem
        problem = self._lost_history(layout, file) if isinstance(file, HistoryFile) else None
        if problem is None and not isinstance(file, HistoryFile):
            self._source.prove(layout, name)
        return None, self._keep(layout, name, NO_TAIL, problem)

    def _look_at_segment(self, layout: Layout, asked: Segment) -> tuple[AssembledTail | None, HoleInArchive | None]:
        """No prefix is listed twice, but where the archive's start is: that comes last, as it proves all that came before."""
        frontier = self._frontier(layout)  # before the tail, which had as much by then
        pieces, later = self._tails(layout, asked)
        kept = self._fresh(layout, asked.name)
        if kept is not None and kept.reach == NO_TAIL and not pieces:
            return None, kept.problem
        listed = Listed(pieces, timelines(self._source.store, layout))
        tail = self._source.tail(layout, asked.name, listed)
        newer = [timeline for timeline in listed.timelines if timeline > asked.timeline]
        if tail.reach == NO_TAIL:
            tail = self._of_heir(layout, asked, newer)
        if kept is not None and kept.reach == tail.reach:
            return tail.assembled, kept.problem
        problem = self._hole(layout, asked, later, newer, tail.reach, frontier)
        if problem is None:
            self._source.prove(layout, asked.name)  # it may have been emptied since it was read from first
        return tail.assembled, self._keep(layout, asked.name, tail.reach, problem)

    def _of_heir(self, layout: Layout, asked: Segment, newer: list[int]) -> Tail:
        """Where the newest timeline left the asked one inside that segment, what its own segment of that number has up to there:
        once that is stored the pieces go, and a recovery that was begun before asks for them.
        """
        newest = max(
            self._newer_histories(layout, asked, newer),
            key=lambda each: each.timeline,
            default=History(asked.timeline),
        )
        switches = [switch for switch in newest.switches if switch.timeline <= asked.timeline]
        if not switches or switches[-1].timeline != asked.timeline:
            return Tail()
        begun, left = switches[-2].lsn if len(switches) > 1 else Lsn(0), switches[-1].lsn
        heir = newest.segment(asked.number, asked.size)
        if not max(begun, asked.start) < left < asked.end or heir.timeline == asked.timeline:
            return Tail()
        plain = self._source.deliver(layout, heir.name, asked.size)
        if plain is None:
            return Tail()
        end = left - asked.start
        return Tail(AssembledTail(asked, f"timeline-{heir.timeline}", bytes(plain[:end])), TailReach(end, end))

    def _fresh(self, layout: Layout, name: str) -> _Kept | None:
        with self._lock:
            kept = self._kept.get((layout.root, name))
            return kept if kept is not None and self._clock.monotonic() < kept.until else None

    def _keep(self, layout: Layout, name: str, reach: TailReach, problem: HoleInArchive | None) -> HoleInArchive | None:
        with self._lock:
            now = self._clock.monotonic()
            self._kept = {key: kept for key, kept in self._kept.items() if now < kept.until}
            self._kept[layout.root, name] = _Kept(now + KEPT, reach, problem)
        return problem

    def note(self, layout: Layout, name: str) -> HoleInArchive | None:
        """For a standby: whether there is something to be said about that segment, which was just found absent. Never raises
        walkeeper's errors: what cannot be told is not said.
        """
        key = layout.root, name
        if not isinstance(wal_file(name), Segment):
            return None
        with self._lock:
            now = self._clock.monotonic()
            self._noted = {each: at for each, at in self._noted.items() if now < at + STANDBY_KEPT}
            if key in self._noted:
                return None
            self._noted[key] = now
        try:
            asked = Segment.parse(name, self._size(layout))
            behind = self._stored(layout, asked)[0] or list(self._next_folder(layout, asked))
            later, gaps = self._tails(layout, asked)[1], self._gaps(layout, asked.size)
            found = hole_at(asked, Around([*behind, *later], gaps, given_up=self._given_up(layout, asked)))
            if found is None or (not found.given_up and self._begins_behind(layout, asked)):
                return None  # a standby that restarts asks for what it has itself
        except WalkeeperError:
            return None
        return _problem(asked, found, None)

    # -------------------------------------------------------------------------------------------------------- what is asked

    def _hole(
        self,
        layout: Layout,
        asked: Segment,
        later: list[Segment],
        newer: list[int],
        tail: TailReach,
        frontier: tuple[int, Lsn] | None,
    ) -> HoleInArchive | None:
        """``later``: of its timeline, by their tails."""
        came: list[bool] = []

        def behind() -> Around:
            found, has_come = self._stored(layout, asked)
            came.append(has_come)
            return Around([*later, *found])

        looks: list[Callable[[], Around]] = [
            behind,
            lambda: Around(list(self._far(layout, asked))),
            lambda: Around(gaps=self._gaps(layout, asked.size)),
            lambda: Around(given_up=self._given_up(layout, asked)),
            lambda: Around(histories=list(self._newer_histories(layout, asked, newer))),
        ]
        found = hole_at(asked, merged(in_parallel(lambda look: look(), looks, len(looks)), tail, frontier))
        if found is None and any(came):  # its pieces, which would have been its end, may be gone by now
            return HoleInArchive(f"{asked}: it has just been stored", hint="It is asked for again.")
        if found is None:
            return None
        if not found.given_up and (first := self._begins_behind(layout, asked)):
            return BeforeStart(
                f"{asked}: not in the archive, which begins with {first}",
                hint="Restore a base backup that was taken after that; or what archived before has the WAL up to there.",
            )
        return _problem(asked, found, self._last_record_before(layout, asked))

    def _lost_history(self, layout: Layout, file: HistoryFile) -> HoleInArchive | None:
        begun = self._begun(layout, file.timeline)  # before the histories, which are stored first
        newer = [timeline for timeline in timelines(self._source.store, layout) if timeline > file.timeline]
        nameless = [
            timeline
            for timeline, place in begun.items()
            if timeline not in newer and any(self._segments(layout, place, _SMALLEST))
        ]
        self._source.prove(layout, file.name)  # it may have been emptied since it was read from first
        first = min((int(name[:8], 16) for name in self._source.starts(layout)), default=0)
        found = lost_history(file.timeline, self._read_histories(layout, newer), first, nameless)
        if found is None:
            return None
        return HoleInArchive(
            f"{file.name}: not in the archive, and {found.why}",
            hint="Put it back under history/: a member's pg_wal has it. Without it an older timeline is taken for the newest.",
        )

    def _begun(self, layout: Layout, lowest: int) -> dict[int, str]:
        """The timelines from ``lowest`` on that have a folder of WAL, and ``lowest`` itself: where their segments are listed."""
        found = {lowest: f"{layout.tails}{lowest:08X}"}
        for folder in self._source.store.folders(layout.wal):
            if _FOLDER.match(folder) and int(folder[:8], 16) >= lowest:
                found[int(folder[:8], 16)] = f"{layout.wal}{folder}/"
        return found

    def _tails(self, layout: Layout, asked: Segment) -> tuple[list[StoredPiece], list[Segment]]:
        """The asked one's pieces, and the first segment of its timeline behind it that has some."""
        pieces: list[StoredPiece] = []
        later: set[Segment] = set()
        for info in self._source.store.list(f"{layout.tails}{asked.name[:8]}"):
            segment = _segment(layout, info.key, asked.size)
            if segment == asked and (piece := parse_key(info)):
                pieces.append(piece)
            elif segment is not None and segment.number > asked.number:
                later.add(segment)
        return pieces, sorted(later)[:1]

    def _stored(self, layout: Layout, asked: Segment) -> tuple[list[Segment], bool]:
        """The first one behind it in its folder, and whether the asked one has come since."""
        own = {layout.file(asked, again + suffix) for again in ("", AGAIN) for suffix in suffixes(asked)}
        has_come = False
        for info in self._source.store.list(f"{layout.wal}{asked.name[:16]}/"):
            has_come |= info.key in own
            segment = _segment(layout, info.key, asked.size)
            if segment is not None and segment.number > asked.number:
                return [segment], has_come
        return [], has_come

    def _far(self, layout: Layout, asked: Segment) -> Iterator[Segment]:
        """The first one in all later folders, whose names are listed and nothing of what is in the folders before."""
        for folder in self._source.store.folders(layout.wal):
            if folder[:8] == asked.name[:8] and folder > asked.name[:16]:
                first = self._first(layout, asked, f"{layout.wal}{folder}/")
                if first is not None:
                    yield first
                    return

    def _next_folder(self, layout: Layout, asked: Segment) -> Iterator[Segment]:
        """The first one there."""
        log = asked.number // asked.size.per_log
        following = Segment(asked.timeline, (log + 1) * asked.size.per_log, asked.size)
        first = self._first(layout, asked, f"{layout.wal}{following.name[:16]}/")
        return iter(() if first is None else (first,))

    def _first(self, layout: Layout, asked: Segment, prefix: str) -> Segment | None:
        for segment in self._segments(layout, prefix, asked.size):
            if segment.timeline == asked.timeline and segment.number > asked.number:
                return segment
        return None

    def _segments(self, layout: Layout, prefix: str, size: SegmentSize) -> Iterator[Segment]:
        for info in self._source.store.list(prefix):
            if (segment := _segment(layout, info.key, size)) is not None:
                yield segment

    def _gaps(self, layout: Layout, size: SegmentSize) -> list[RecordedGap]:
        found = []
        for info in self._source.store.list(layout.gaps):
            try:
                found.append(RecordedGap(*parse_gap_name(info.key.rpartition("/")[2], size)))
            except BadName:
                continue  # not ours
        return found

    def _given_up(self, layout: Layout, asked: Segment) -> Sequence[Range]:
        """Of its timeline. Raises BadFloor, too: what nobody can read may have given it up."""
        return given_up(read_expiry(self._source.store, layout).floors).get(asked.timeline, ())

    def _newer_histories(self, layout: Layout, asked: Segment, newer: list[int]) -> Iterator[History]:
        """Newest first, and none after one that says that the asked segment was there."""
        for history in self._read_histories(layout, newer):
            yield history
            if history.contains(asked):
                return

    def _read_histories(self, layout: Layout, timelines: list[int]) -> Iterator[History]:
        if not timelines:
            return iter(())
        return in_parallel(lambda each: self._history(layout, each), timelines, min(len(timelines), _AT_ONCE))

    def _history(self, layout: Layout, timeline: int) -> History:
        key = layout.root, timeline
        if key not in self._histories:
            history = stored_history(self._source.store, layout, timeline)
            if history is None:
                place = layout.file(HistoryFile(timeline), "")
                raise CannotTell(f"{place}: it is listed, and not there", hint="The store's listing is behind.")
            self._histories[key] = history
        return self._histories[key]

    def _frontier(self, layout: Layout) -> tuple[int, Lsn] | None:
        """The record's; None where there is none, and where the DCS does not answer soon: then the store alone tells."""
        try:
            record = self._dcs.call(self._record, self._dcs_seconds)
        except (ConfigError, DcsError, DeadlineExceeded) as problem:
            events.info("end_without_record", error=problem)
            return None
        if record is None or int(record.system_identifier) != layout.system_identifier:
            return None
        return record.timeline, record.position

    def _record(self) -> Record | None:
        self._records = self._records or self._connect()
        return decoded(read_some(self._records)).record

    def _begins_behind(self, layout: Layout, asked: Segment) -> Segment | None:
        """Where the archive begins, if that is behind the asked segment."""
        begins = parsed(starts(self._source.store, layout), asked.size)
        first = min(begins, key=lambda each: each.number, default=asked)
        return first if first.number > asked.number else None

    def _size(self, layout: Layout) -> SegmentSize:
        """Of the archive's segments, as it states it where it begins. Raises CannotTell."""
        if layout.root not in self._sizes:
            self._sizes[layout.root] = self._stated_size(layout)
        return self._sizes[layout.root]

    def _stated_size(self, layout: Layout) -> SegmentSize:
        store = self._source.store
        if size := stated_size(store, layout, self._source.starts(layout)):
            return size
        raise CannotTell(
            f"{layout.starts}: nothing there says how large a segment is",
            hint="It is damaged: put it back from a copy.",
        )

    def _last_record_before(self, layout: Layout, asked: Segment) -> Lsn | None:
        """Where the last record begins that is whole without the asked segment; None where that is not known."""
        key = layout.root, asked.name
        kept = self._last_record
        if kept is None or kept[0] != key:
            self._last_record = kept = key, self._read_last_record(layout, asked)
        return kept[1]

    def _read_last_record(self, layout: Layout, asked: Segment) -> Lsn | None:
        if asked.number == 0:
            return None
        try:
            branch = History(1) if asked.timeline == 1 else self._history(layout, asked.timeline)
            before = branch.segment(asked.number - 1, asked.size)
            plain = self._source.deliver(layout, before.name, before.size)
        except WalkeeperError:
            return None
        return None if plain is None else last_whole(plain, before)


def _segment(layout: Layout, key: str, size: SegmentSize) -> Segment | None:
    """Of which that object is a whole or a piece; None for what is no segment's."""
    if key.startswith(layout.tails):
        name = key.removeprefix(layout.tails).partition("/")[0]
    else:
        name = key.rpartition("/")[2].removesuffix(AGE).removesuffix(ZSTD).removesuffix(AGAIN)
    with suppress(BadName):  # .partial, .backup, or somebody's own file
        return Segment.parse(name, size)
    return None


def has_itself(data_directory: Path, name: str, system_identifier: int) -> bool:
    """Whether the server's pg_wal has that file, whole: PostgreSQL takes that where the archive has none."""
    file = wal_file(name)
    try:
        plain = (data_directory / "pg_wal" / name).read_bytes()
        if isinstance(file, HistoryFile):
            parse_history(file.timeline, plain)
            return True
        header = SegmentHeader.parse(plain, name)
        segment = Segment.parse(name, header.segment_size)
        check_header(header, segment, system_identifier)
        check_pages(plain, segment)
    except (OSError, Refused):
        return False
    return len(plain) == segment.size and ends_early(plain, segment) is None


def _problem(asked: Segment, hole: Hole, last: Lsn | None) -> HoleInArchive:
    ends = f"the WAL before it ends at {asked.start}" if last is None else f"the last record before it begins at {last}"
    target = "the start of a record before that, which pg_waldump shows" if last is None else f"'{last}'"
    if hole.given_up:
        return GivenUp(
            f"{asked}: given up: {hole.why}; {ends}",
            hint="Restore a base backup that walkeeper backups shows as complete. While the floor's grace lasts, walkeeper "
            "expire --revoke takes it back.",
        )
    kind = LostForGood if hole.recorded else HoleInArchive
    cure = (
        "Restore a base backup that was taken behind it" if hole.recorded else "Put it back and start the server again"
    )
    return kind(
        f"{asked}: not in the archive, and not its end: {hole.why}; {ends}",
        hint=f"{cure}. To end before it on purpose: recovery_target_lsn = {target}, with recovery_prefetch = off on "
        "PostgreSQL 15 and newer. walkeeper verify lists what is missing.",
    )
