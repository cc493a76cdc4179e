"""WAL that the local server has recycled: looked for in the store, in pg_wal, in other stores and at the other members, in a
thread of its own.

Until it is found, or is a gap by the rules of ``core.suspicion``, the frontier stays before it; uploads go on behind it.
"""

from __future__ import annotations

import math
import queue
import shlex
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

from walkeeper.agent.archiver.elsewhere import GONE_SECONDS, OtherStores
from walkeeper.agent.archiver.member_wal import Members
from walkeeper.agent.archiver.recorded_gaps import RecordedGaps
from walkeeper.agent.archiver.whereabouts import Candidate, Sources, from_pg_wal, is_lost, short_of_disk
from walkeeper.agent.problems import Problems
from walkeeper.archive.tail import stored_pieces
from walkeeper.archive.tail_read import read_tail
from walkeeper.core.about import About
from walkeeper.core.amounts import to_the_second
from walkeeper.core.frontier import Frontier
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.suspicion import Lost, Suspicions, Why
from walkeeper.core.wal_page import Plain
from walkeeper.errors import CannotTell, WalkeeperError, WalMissing
from walkeeper.lib import events
from walkeeper.lib.clock import timestamp
from walkeeper.lib.parallel import in_parallel

LOOK_SECONDS: Final = 5.0
"""Seconds from one look for lost WAL to the next."""
ASKED: Final = 64
"""Segments that a member is asked for in one look: what is new is told soon."""
ASKED_ON_SECONDS: Final = 30.0
"""Seconds for which members that say no are asked for more in one look, where the disk of pg_wal runs short."""
MISSES: Final = 64
"""Segments that one look asks the store for in vain; the next look goes on behind them."""
LOOKS: Final = 512
"""Segments that one look asks the store for at all; the next one follows at once."""
AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Missing:
    """What is suspected lost at this moment, for people. ``until``: when it is a gap at the latest; "" where time makes none."""

    lost: tuple[Lost, ...]
    waiting_for: tuple[str, ...]
    until: str
    forgotten: tuple[str, ...] = ()
    """Members that would be waited for, had no person said that they are gone for good."""


class LostWal:
    """``suspect`` and what is in the queues are for the thread that has the frontier; ``run`` is a thread's."""

    def __init__(self, sources: Sources, frontier: Frontier, patience: float, problems: Problems) -> None:
        self.found: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
        self.gaps: queue.SimpleQueue[Lost] = queue.SimpleQueue()
        """Recorded in the store."""
        self.missing: Missing | None = None
        """Replaced as a whole, so that every thread may read it."""
        self.wake = threading.Event()
        self._sources = sources
        self._frontier = frontier
        self._patience = patience
        self._problems = problems
        self._suspicions = Suspicions(sources.history, frontier.size)
        self._new: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._members = Members(sources)
        self._stores = OtherStores(sources.stores, sources.archive, sources.history)
        self._recorded = RecordedGaps(sources, self._members, self._stores, problems)
        self._look_from = 0
        self._in_pieces: set[str] = set()
        """Of which segments the store has pieces, as of the last look."""
        self._unread: set[int] = set()
        """Numbers of those whose pieces could not be read."""
        self._disbelieved: set[int] = set()
        """Numbers under which something lay that was not believed: asked for first."""
        self._until = (0.0, "")
        self._coming = False
        """Whether somebody has delivered in this look: there may be more where it came from."""

    @property
    def begins(self) -> Segment | None:
        """Where the archive begins, once ``expire`` has deleted what was below; any thread may read it."""
        return self._recorded.begins

    def suspect(self, first: Segment, server_lsn: Lsn) -> None:
        """From ``first`` on, up to where the local server can stream again."""
        number = first.number
        while is_lost(self._sources, self._sources.history.segment(number, first.size), server_lsn):
            number += 1
        self._frontier.suspect(first.number, number)
        for begun, end in self._frontier.suspected:  # what is stored there already is not among them
            if max(begun, first.number) < min(end, number):
                self._new.put((max(begun, first.number), min(end, number)))
        self.wake.set()

    def run(self, stopping: threading.Event) -> None:
        """Until ``stopping``."""

        def stopped() -> bool:
            return stopping.is_set() or self._sources.cancelled()

        while not stopping.is_set():
            self.wake.wait(LOOK_SECONDS)
            self.wake.clear()
            self._take_in()
            try:
                if self._suspicions:
                    self._look(stopped)
                if not stopped():
                    self._recorded.look(stopped)
                self._problems.clear(About.ARCHIVER_LOST_WAL)
            except WalkeeperError as problem:
                self._problems.report(About.ARCHIVER_LOST_WAL, problem, grace=True)
            if not self._suspicions:
                self.missing = None
                self._problems.clear(About.ARCHIVER_WAL_MISSING)

    def _take_in(self) -> None:
        while not self._new.empty():
            self._suspicions.suspect(*self._new.get(), self._sources.clock.monotonic())

    def _look(self, stopped: Callable[[], bool]) -> None:
        """One round: here, at each member that may have it, and then what follows from that. Raises the store's errors."""
        self._coming = False
        self._stores.look()
        members = self._members.that_may_have(self._frontier.lsn)
        self._tell(members)
        if not self._look_here(stopped):
            self.wake.set()
            return
        for member in members or ():
            self._ask(member, stopped)
            self._take_in()
            self._tell(members)
        if not stopped():
            self._conclude(members, stopped)

    def _ask(self, member: Candidate, stopped: Callable[[], bool]) -> bool:
        """Whether it has said no to as many as it was asked for, and may have what lies behind them."""
        before = self._suspicions.said_no(member.name)
        for receipt in self._members.fetch(member, self._suspicions, stopped, ASKED):
            self.found.put(receipt)
            self._coming = True
            self.wake.set()
        return self._suspicions.said_no(member.name) - before == ASKED

    def _ask_on(self, members: Sequence[Candidate], stopped: Callable[[], bool]) -> None:
        """For the rest, at once, for some time: a disk that runs short makes a gap of what nobody was asked for, too."""
        until = self._now + ASKED_ON_SECONDS
        for member in members:
            while not stopped() and not self._coming and self._now < until and self._ask(member, stopped):
                pass

    # --- looking for it -------------------------------------------------------------------------------------------

    def _look_here(self, stopped: Callable[[], bool]) -> bool:
        """In the store, where a returning member's agent puts it, in pg_wal, and in the other stores.

        False where that was so much that the rest waits for the next look.
        """
        find = self._sources.archive.find
        segments = list(self._suspicions.segments())
        behind = [segment for segment in segments if segment.number >= self._look_from]
        self._list_pieces()
        left, missed, looked = iter((*behind, *segments[: len(segments) - len(behind)])), 0, 0
        while not stopped() and (some := list(islice(left, min(AT_ONCE, MISSES - missed, LOOKS - looked)))):
            found = dict(in_parallel(lambda each: (each, find(each)), some, len(some)))
            looked += len(some)
            for segment in some:
                missed += not self._take(segment, found[segment])
                self._look_from = segment.number + 1
        for segment in islice(self._stores.put_off(self._suspicions), MISSES):
            if not stopped():
                self._taken(segment, self._stores.take(segment, self._suspicions, self._now, last=True))
        return looked < LOOKS

    def _take(self, wanted: Segment, receipt: Receipt | None) -> bool:
        """Whether the store has it by now (``receipt``), or gets it from pg_wal or from another store."""
        plain = None
        if receipt is None:
            plain = from_pg_wal(self._sources, wanted) or self._from_pieces(wanted)
        if plain is not None:
            receipt = self._sources.archive.archive_segment(wanted, plain, self._sources.history)
        return self._taken(wanted, receipt or self._stores.take(wanted, self._suspicions, self._now))

    def _taken(self, wanted: Segment, receipt: Receipt | None) -> bool:
        if receipt is not None:
            self._suspicions.settle(wanted.number, wanted.number + 1)
            self.found.put(receipt)
            self._coming = True
        return receipt is not None

    @property
    def _now(self) -> float:
        return self._sources.clock.monotonic()

    def _list_pieces(self) -> None:
        archive = self._sources.archive
        self._in_pieces = {stored.segment for stored in stored_pieces(archive.store, archive.layout)}

    def _from_pieces(self, wanted: Segment) -> Plain | None:
        """Where they are all of it: with ``durability: store`` the last one ends where the segment does. Restores read them."""
        if wanted.name not in self._in_pieces:
            return None
        archive = self._sources.archive
        try:
            found = read_tail(archive.store, archive.layout, archive.codec, wanted.name)
        except CannotTell as problem:
            if wanted.number not in self._unread:
                events.failure("lost_wal_unread", problem, segment=wanted)
            self._unread.add(wanted.number)
            return None
        self._unread.discard(wanted.number)
        return found.assembled.plain if found.reach.whole and found.assembled is not None else None

    # --- what follows ---------------------------------------------------------------------------------------------

    def _conclude(self, members: Sequence[Candidate] | None, stopped: Callable[[], bool]) -> None:
        sources = self._sources
        short = not self._coming and short_of_disk(sources.pg_wal, self._frontier.size, sources.disks)
        if short:
            self._ask_on(members or (), stopped)
            short = not self._coming
        words = sources.archive.contents.listed(sources.archive.layout.gaps)
        gone = {member.name for member in members or () if member.gone}
        self._suspicions.forget(word for word in words.forgotten if word.member in gone)
        found = self._suspicions.gaps(
            sources.clock.monotonic(),
            None if members is None else self._waited_for(members),
            words.accepted_gaps(sources.archive.size),
            self._patience,
            short_of_disk=short,
        )
        if found:
            self._list_pieces()
        for lost, why in found:
            segments = [
                sources.history.segment(number, lost.first.size) for number in range(lost.first.number, lost.end)
            ]
            unread = not self._unread.isdisjoint(range(lost.first.number, lost.end))
            if (
                why in (Why.PROVED, Why.FORGOTTEN)
                and not short
                and self._now - self._suspicions.newest(lost) < self._patience
                and (unread or self._is_disbelieved(segments, stopped))
            ):
                continue  # the store may have it
            came = [
                segment for segment in segments if not stopped() and self._take(segment, sources.archive.find(segment))
            ]
            if came or stopped():
                return  # somebody has just handed it in: the next look judges what is left
            promised = why in (Why.WAITED, Why.DISK) and any(map(self._stores.promising, segments))
            if promised and not (short and self._are_gone(segments)):
                continue  # it is not lost, however long that store is away
            self._record(lost, Why.DISK if promised else why)

    def _is_disbelieved(self, segments: Sequence[Segment], stopped: Callable[[], bool]) -> bool:
        """Whether the store has something under one of their names that is not believed: the configuration may be what is
        wrong, as where an archive is encrypted that was plain before, and a gap would stay. True, too, once ``stopped``.
        """
        is_disbelieved = self._sources.archive.is_disbelieved
        left = iter(sorted(segments, key=lambda each: each.number not in self._disbelieved))
        while some := list(islice(left, AT_ONCE)):
            if stopped():
                return True
            found = dict(in_parallel(lambda each: (each.number, is_disbelieved(each)), some, len(some)))
            self._disbelieved.update(number for number in found if found[number])
            if any(found.values()):
                return True  # the look for it has said so
        return False

    def _are_gone(self, segments: Sequence[Segment]) -> bool:
        """Whether no store that promises one of them has answered lately: no disk is filled for what may never come back."""
        lately = self._sources.clock.monotonic() - GONE_SECONDS
        since = self._suspicions.since()  # nobody asked before
        return (
            since is not None and since < lately and not any(self._stores.promising(each, lately) for each in segments)
        )

    def _waited_for(self, members: Sequence[Candidate] | None) -> list[str]:
        return [*self._stores.names, *(member.name for member in members or ())]

    def _record(self, lost: Lost, why: Why) -> None:
        """In the store; then the frontier may pass it."""
        self._sources.archive.record_gap(lost.first, lost.end_lsn, why.value)
        events.error(
            "gap",
            timeline=lost.first.timeline,
            start=lost.first.start,
            end=lost.end_lsn,
            why=why.value,
            hint="Take a base backup now: restores to a point inside or across the gap are not possible from earlier ones. "
            "The gap is closed if a member or a store that has this WAL comes back.",
        )
        self._suspicions.settle(lost.first.number, lost.end)
        self.gaps.put(lost)
        self._recorded.look_soon()

    def _tell(self, members: Sequence[Candidate] | None) -> None:
        lost = tuple(self._suspicions.lost())
        since = self._suspicions.since()
        if since is None:
            return
        if since != self._until[0]:
            self._until = since, timestamp(since + self._patience - self._sources.clock.monotonic())
        segments = list(self._suspicions.segments())
        if all(self._stores.promising(each, math.inf) for each in segments):  # it is on its way
            self.missing = None
            self._problems.clear(About.ARCHIVER_WAL_MISSING)
            return
        promising = [self._stores.promising(each) for each in segments]
        promised = all(promising)
        silent = sorted(set(chain(*promising))) if promised else self._suspicions.silent(self._waited_for(members))
        until = "" if promised else self._until[1]
        forgotten = self._suspicions.forgotten([member.name for member in members or ()])
        self.missing = Missing(lost, tuple(silent), until, tuple(forgotten))
        names = ", ".join(silent) if members is not None or promised else "the DCS to tell the members"
        waits = f"waiting for {names} until {to_the_second(until)}"
        hint = (
            "Start the members that are waited for, and their agents: the WAL is taken from them automatically. "
            "If it is lost for good, run"
        )
        gone = next((each.name for each in members or () if each.gone and each.name in silent), "")
        if promised:
            why = f" ({failure})" if (failure := self._stores.failure(segments[0])) else ""
            waits = f"waiting for {names}, which has it by its record{why}, while the disk of pg_wal has room"
            hint = f"Bring {names} back: the WAL is taken from there automatically. If it is lost for good, run"
        elif not silent and members is not None:
            waits = "nobody is left to ask"
            hint = (
                "No member has it: it becomes a gap automatically, and then a base backup is needed. To say so now, run"
            )
        if forgotten and not promised:
            waits += f", and not for {', '.join(forgotten)}, which a person has forgotten"
        more = f" and {len(lost) - 1} more ranges" if len(lost) > 1 else ""
        self._problems.report(
            About.ARCHIVER_WAL_MISSING,
            WalMissing(
                f"WAL {lost[0]}{more}: neither this server nor the store has it; {waits}",
                hint=f"{hint}: walkeeper gap accept {lost[0].first.start}"
                if not gone
                else f"{hint}: walkeeper gap accept {lost[0].first.start}. If {gone} alone is gone for good, with its disk, run: "
                f"walkeeper member forget {shlex.quote(gone)}",
            ),
            grace=promised,
        )
