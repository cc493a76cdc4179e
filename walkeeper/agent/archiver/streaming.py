"""``archiver: streaming``: pg_receivewal delivers into the spool, from the first segment that is missing.

Of a backlog each segment lies whole in pg_wal, where it costs no copy. So it is taken from there as long as the hold slot keeps
it, and pg_receivewal begins when all is stored. The same goes for a spool whose disk runs short.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Final

from walkeeper.agent.archiver import whereabouts
from walkeeper.agent.archiver.from_pg_wal import FromPgWal
from walkeeper.agent.archiver.spool import Spool, spool_error
from walkeeper.agent.observation import Observed
from walkeeper.agent.problems import Problems
from walkeeper.core import amounts
from walkeeper.core.about import About
from walkeeper.core.frontier import Frontier
from walkeeper.core.hold_slot import SlotState, keeps
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.room import SPARE, is_short, spool_reserve
from walkeeper.core.wal_page import Plain
from walkeeper.errors import BadSegment, PostgresError, SpoolError, SpoolFull, SpoolShort, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.retry import Backoff
from walkeeper.postgres.pg_receivewal import Ended, Receiver
from walkeeper.postgres.server import hint_for
from walkeeper.postgres.wal_file import Memory, is_there

SILENCE_LIMIT: Final = 30.0
"""Seconds in which pg_receivewal must deliver a segment that the server has completed."""
STEADY_SECONDS: Final = 15.0
"""Seconds for which pg_receivewal must have run to be taken for streaming: longer than a connection may take to fail."""
LOW_WATER: Final = 0.5
"""The part of its limit to which a full spool drains before pg_receivewal goes on."""
AGAIN_SECONDS: Final = 60.0
"""Seconds after which a disk that is short once more is so for another reason than what was just streamed to it."""
BEHIND: Final = 4
"""Segments that the server has completed and the spool lacks, from which on they are a backlog."""


class Streaming:
    """A Source. The spool is a cache: what is lost there is streamed again."""

    def __init__(
        self,
        sources: whereabouts.Sources,
        receiver: Receiver,
        reserve: int,
        observed: Observed,
        problems: Problems,
        ask_slot: Callable[[], SlotState | None],
    ) -> None:
        """``ask_slot``: how the hold slot is now; it raises PostgresError."""
        self._sources = sources
        self._ask_slot = ask_slot
        self._reserve = reserve
        self._short = False
        """The spool does without its disk: what is complete is taken from pg_wal."""
        self._crowded = Backoff(5, 60)
        self._used_again_at, self._use_at = -math.inf, 0.0
        """When streaming went on that the disk had been too short for, and from when on it may."""
        self._from_pg_wal = FromPgWal(sources, observed)
        self._behind = False
        """A backlog is taken from pg_wal; pg_receivewal does not run."""
        self._spool: Spool = sources.spool
        self._size = sources.archive.size
        self._history = sources.history
        self._receiver = receiver
        self._observed = observed
        self._problems = problems
        self._clock = sources.clock
        self._restart = Backoff(0.2, 10)
        self._restart_at = 0.0
        self._receiving: Segment | None = None
        self._full = False
        self._comes_again = False
        """Something was put aside since pg_receivewal was started. Set by uploads."""
        self._strangers_gone = False
        self._due: Segment | None = None
        self._due_since = 0.0
        self._started_at = 0.0

    def complete(self, frontier: Frontier) -> list[Segment]:
        """What lies below the frontier too, to be confirmed and removed."""
        if not self._strangers_gone:  # before one is handed out: no people could help
            self._spool.put_strangers_aside(self._size, self._sources.archive.layout.system_identifier)
            self._put_other_lives_aside()
            self._strangers_gone = True
        spooled = self._spool.complete(self._size)
        found = {segment for segment in spooled if self._history.contains(segment)}
        if not self._short and not self._behind and not self._receiver.running:
            self._behind = self._falls_behind(frontier, spooled)
        if self._short or self._behind:
            try:
                found.update(self._from_pg_wal.complete(frontier))
            except PostgresError:
                if self._short:
                    raise
                self._behind = False  # streaming can be asked instead
        return sorted(found, key=lambda segment: segment.number)

    def _put_other_lives_aside(self) -> None:
        """What the server wrote before its volume went back to a snapshot: the spool may lie elsewhere. Two lives never come
        together again, so the newest segment of which both have the same vouches for those before it.
        """
        for segment in sorted(self._spool.complete(self._size), key=lambda each: each.number, reverse=True):
            if not self._history.contains(segment):
                continue
            if segment.end <= self._observed.lsn:
                own = _sha256(whereabouts.from_pg_wal(self._sources, segment))
                with suppress(FileNotFoundError, BadSegment):
                    if own is not None and own == _sha256(self._spool.read(segment)):
                        return
                if own is None:
                    continue  # recycled: there is nothing to compare with
            self._spool.put_aside(segment.name, "the server has written this timeline again, and other bytes")

    def read(self, segment: Segment, memory: Memory) -> Plain:
        try:
            return self._spool.read(segment, memory)
        except FileNotFoundError:
            if not self._short and not self._behind:
                raise
        return self._from_pg_wal.read(segment, memory)

    def read_at(self, segment: Segment) -> int | None:
        return self._from_pg_wal.read_at(segment)

    def put_aside(self, segment: Segment, problem: WalkeeperError) -> bool:
        try:
            if not self._spool.put_aside(segment.name, problem.reason):
                return False  # it is PostgreSQL's own
        except SpoolError as error:
            self._problems.report(About.ARCHIVER_SPOOL, error)
            return False
        events.failure("segment_of_no_use", problem)
        self._comes_again = True
        return True

    def remove(self, receipt: Receipt) -> None:
        self._spool.remove(receipt)

    def crowded(self) -> bool:
        return self._spool.used() > self._spool.limit * LOW_WATER

    def stop(self) -> None:
        self._receiver.stop()

    def tend(self, frontier: Frontier, taken: set[Segment]) -> Segment | None:
        free, reserve = self._look_at_disk(frontier)
        if self._short:
            return self._do_without(free, reserve, frontier, taken)
        self._behind = self._behind and self._is_behind(frontier, taken)
        if self._behind:
            return self._from_pg_wal.tend(frontier, taken)
        missing = frontier.first_missing(taken)
        holed = self._comes_again or any(segment.number > missing.number for segment in taken)
        if self._receiver.running and holed:
            events.warning("spool_hole", missing=missing, hint="The segment is streamed again automatically.")
            self._receiver.stop()
        if not self._receiver.running:
            return self._start_receiver(frontier, taken)
        ended = self._receiver.poll()
        if ended is not None:
            self._receiver_ended(ended)
        else:
            self._watch_progress(missing)
        return None

    def _start_receiver(self, frontier: Frontier, taken: set[Segment]) -> Segment | None:
        """From the seed on, and no further than the spool has room for: it holds even if this process is frozen."""
        now = self._clock.monotonic()
        if now < self._restart_at or not self._observed.server_up:
            return None
        size = self._size
        self._comes_again = False  # before the look that finds out what is missing
        first = frontier.first_missing(set(self._spool.complete(size)))
        self._spool.seed(self._history, first)  # before the room is measured, which what is put aside must not fill
        taken.difference_update([segment for segment in taken if segment.number >= first.number])  # they come again
        limit = max(self._spool.limit, 2 * size)
        room = (limit - self._spool.used()) // size
        self._full = room < 1 or (self._full and room * size < limit * (1 - LOW_WATER))
        if self._full:
            raise SpoolFull(
                f"{self._spool.directory}: the limit of {amounts.size(limit)} is reached",
                hint="The store or the DCS is slower than the WAL. The hold slot keeps it in pg_wal: watch that disk.",
            )
        free, _, reserve = self._disk()
        room = max(1, min(room, (free - reserve) // size))
        try:
            if self._receiving == first and whereabouts.is_lost(self._sources, first, self._observed.lsn):
                return first
            self._receiving = first
            self._receiver.start(last=self._history.segment(first.number + room - 1, size))
        except PostgresError as problem:
            self._failed(problem)
            return None
        self._due, self._due_since, self._started_at = first, now, now
        events.info("receiver_started", first=first, frontier=frontier.lsn)
        return None

    def _falls_behind(self, frontier: Frontier, spooled: Collection[Segment]) -> bool:
        """Whether a backlog is to be taken from pg_wal: only where that has what comes next, which it keeps. What it lacks is
        streaming's to ask for.
        """
        observed, first = self._observed, frontier.first_missing(spooled)
        near = observed.lsn - first.start < BEHIND * self._size
        if near or observed.in_recovery or not observed.server_up or not self._keeps(first):
            return False
        with suppress(PostgresError):
            if is_there(self._sources.pg_wal / first.name) and self._from_pg_wal.complete(frontier):
                events.info("backlog_from_pg_wal", first=first, frontier=frontier.lsn, server=observed.lsn)
                return True
        return False

    def _is_behind(self, frontier: Frontier, taken: Collection[Segment]) -> bool:
        """Whether it goes on: until nothing complete waits, there or in the spool, or the slot is lost."""
        spooled = set(self._spool.complete(self._size))
        kept = self._keeps(frontier.first_missing(spooled))
        if kept is None or not self._observed.server_up:
            return True  # nobody knows better
        stored = frontier.first_missing(())
        waits = any(segment.number >= stored.number for segment in taken) or (bool(spooled) and self.crowded())
        # What is not complete there goes when the receiver starts.
        return kept and waits and not self._observed.in_recovery

    def _keeps(self, segment: Segment) -> bool | None:
        """Whether the hold slot keeps it in pg_wal: all of it, as whole files are kept. None where that could not be asked."""
        slot = self._observed.slot
        return None if isinstance(slot, PostgresError) else keeps(slot, Lsn(segment.end - 1))

    def _keeps_now(self, segment: Segment) -> bool:
        """As the server says, and not the last look, since which PostgreSQL may have invalidated the slot."""
        with suppress(PostgresError):
            return keeps(self._ask_slot(), Lsn(segment.end - 1))
        return False

    def _disk(self) -> tuple[int, int, int]:
        """Free bytes of the spool's disk, all bytes, and how many stay free."""
        try:
            free, total = whereabouts.disk_of(self._spool.wal)
        except OSError as error:
            raise spool_error(error, self._spool.wal) from None
        if not total:  # it does not say
            return sys.maxsize, sys.maxsize, 0
        return free, total, spool_reserve(total, self._reserve, self._size)

    def _look_at_disk(self, frontier: Frontier) -> tuple[int, int]:
        free, total, reserve = self._disk()
        waits = frontier.first_missing(()).end <= self._observed.lsn
        short = is_short(free, total, reserve, self._spool.limit, self._size, before=self._short, waits=waits)
        now = self._clock.monotonic()
        if short and not self._short and now - self._used_again_at < AGAIN_SECONDS:
            self._use_at = (
                now + self._crowded.failed()
            )  # what is streamed itself makes it short: on a small disk, once a second
        elif short and not self._short:
            self._crowded.succeeded()
        elif self._short and not short:
            short = now < self._use_at
            self._used_again_at = self._used_again_at if short else now
        self._short = short
        return free, reserve

    def _do_without(self, free: int, reserve: int, frontier: Frontier, taken: set[Segment]) -> Segment | None:
        """Nothing is streamed while the disk is short, and what this server's pg_wal keeps as well goes, the newest first.

        Not stored yet, it is dropped here and not lost: the hold slot is at or below it.
        """
        if self._receiver.running:
            self._receiver.stop()
        if self._observed.server_up:
            self._spool.drop_partials()
        dropped = []
        for segment in reversed(self._spool.complete(self._size)) if free < reserve else ():
            kept, file = self._observed.server_up and self._keeps(segment), self._sources.pg_wal / segment.name
            if kept and self._spool.drop(segment, file, partial(self._keeps_now, segment)):
                dropped.append(segment)
            if self._disk()[0] >= reserve + SPARE * self._size:
                break
        if dropped:
            events.warning("spool_dropped", segments=len(dropped), first=dropped[-1], last=dropped[0])
        lost = self._from_pg_wal.tend(frontier, taken)
        if lost is None:
            short = f"below the reserve of {amounts.size(reserve)}" if free < reserve else "too little for the backlog"
            raise SpoolShort(
                f"{self._spool.directory}: {amounts.size(free)} are free on its disk, {short}: nothing is streamed there",
                hint="Make room on that disk, or put spool.directory on another one. Complete segments are archived from pg_wal "
                "meanwhile, the open one is not; streaming goes on automatically.",
            )
        return lost

    def _receiver_ended(self, ended: Ended) -> None:
        if ended.well:  # it received what there was room for
            self._works()
            return
        events.info("receiver_ended", said=ended.said)
        self._failed(PostgresError(f"pg_receivewal: {ended.said}", hint=hint_for(ended.said)))

    def _failed(self, problem: WalkeeperError) -> None:
        self._restart_at = self._clock.monotonic() + self._restart.failed()
        self._problems.report(About.ARCHIVER_RECEIVER, problem, grace=True)

    def _works(self) -> None:
        self._restart.succeeded()
        self._problems.clear(About.ARCHIVER_RECEIVER)

    def _watch_progress(self, due: Segment) -> None:
        """A segment that the server has completed must arrive. An idle server is not a reason for alarm."""
        now = self._clock.monotonic()
        if due != self._due or self._observed.lsn < due.end:
            if due != self._due or now - self._started_at > STEADY_SECONDS:  # a quiet server completes none for hours
                self._works()
            self._due, self._due_since = due, now
            return
        if now - self._due_since > SILENCE_LIMIT and self._observed.server_up:
            self._receiver.stop()
            self._due_since = now
            self._failed(
                PostgresError(
                    f"pg_receivewal: {due} did not come in {SILENCE_LIMIT:g} s",
                    hint="pg_receivewal was started again automatically.",
                )
            )


def _sha256(plain: Plain | None) -> bytes | None:
    return None if plain is None else hashlib.sha256(plain).digest()
