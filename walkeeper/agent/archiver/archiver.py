"""The archiver: what runs while this node owns the record.

Three kinds of threads, and the data walks one way through them:

    source ─▶ [stream] ─ segments ─▶ [upload × n] ─ receipts ─▶ [stream: frontier] ─▶ [commit]

``stream`` tends the source (pg_receivewal and the spool, or pg_wal), hands complete segments out and puts the receipts in
order; ``upload`` stores them; ``commit`` does the rest in the order that is never bent: record, then hold slot, then the spool.
"""

from __future__ import annotations

import queue
import threading
from typing import Final

from walkeeper.agent.archiver import lost_wal
from walkeeper.agent.archiver.buffers import Buffers
from walkeeper.agent.archiver.ownership import Fenced, Ownership
from walkeeper.agent.archiver.receipts import Receipts
from walkeeper.agent.archiver.source import Source
from walkeeper.agent.archiver.tail import Tail
from walkeeper.agent.observation import Observed
from walkeeper.agent.problems import Troubles
from walkeeper.agent.threads import Crew
from walkeeper.archive.write import Archive
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History
from walkeeper.core.hold_slot import slot_target
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.record import Gap
from walkeeper.errors import (
    BadSegment,
    DcsError,
    PostgresError,
    Refused,
    SpoolError,
    StoreDenied,
    StoreUnavailable,
    WalkeeperError,
)
from walkeeper.lib import events
from walkeeper.lib.clock import Clock
from walkeeper.lib.retry import Backoff
from walkeeper.postgres.server import Server

TICK: Final = 0.1
"""Seconds between two looks into the spool."""
SPOOL_RETRY: Final = 0.5
SLOW_RETRY: Final = 60.0
"""Seconds until a refusal, which only people can mend, is tried again."""
MEMBER_PATIENCE: Final = 15.0
"""Seconds that a member which may have lost WAL, and does not answer, is waited for before a gap is recorded."""
RECORD_INTERVAL: Final = 0.2
"""Seconds from one write of the record to the next: a backlog's segments are stored faster than a DCS should be written."""
TROUBLE_INTERVAL: Final = 10.0
MAX_TROUBLE: Final = 200


class Archiver:
    """Archives along one timeline, from the takeover until ``stop``. ``over`` is set when it was fenced."""

    def __init__(
        self,
        ownership: Ownership,
        archive: Archive,
        source: Source,
        tail: Tail,
        sources: lost_wal.Sources,
        server: Server,
        hold_slot: str,
        troubles: Troubles,
        clock: Clock,
        observed: Observed,
    ) -> None:
        self.ownership = ownership
        self.over = threading.Event()
        self.observed = observed
        self.uploaded = 0
        self.uploaded_bytes = 0
        self.receipts = Receipts()
        self.in_flight: set[Segment] = set()
        self._archive = archive
        self._source = source
        self.tail = tail
        self._sources = sources
        self._server = server
        self._hold_slot = hold_slot
        self._troubles = troubles
        self._clock = clock
        self._frontier = Frontier(sources.history, ownership.record.position, archive.size)
        self._todo: queue.SimpleQueue[Segment] = queue.SimpleQueue()
        self._taken: set[Segment] = set()
        self._failing: set[Segment] = set()
        self._done: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
        self._offered: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
        self._removable: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
        self._new_gaps: queue.SimpleQueue[Gap] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._changed = threading.Event()
        self._look_now = threading.Event()
        self._threads: list[threading.Thread] = []
        self._missing: Segment | None = None
        self._missing_since = 0.0
        self._trouble_at = 0.0

    @property
    def history(self) -> History:
        return self._sources.history

    @property
    def size(self) -> SegmentSize:
        return self._archive.size

    @property
    def stored_up_to(self) -> Lsn:
        """The frontier as the store knows it; the record may be behind while the DCS does not answer."""
        return self._frontier.lsn

    def has_in_hand(self, segment: Segment) -> bool:
        """Whether it is being stored, or will be next, and has not failed. Safe from every thread."""
        return segment in self._taken and segment not in self._failing and not self._stopping.is_set()

    def offer(self, receipt: Receipt, mtime_ns: int | None) -> None:
        """Somebody else on this node stored it: the frontier may pass it. Safe from every thread."""
        self.receipts.add(receipt, mtime_ns)
        self._offered.put(receipt)

    def look(self) -> None:
        """Take up what is complete now, not at the next tick. Safe from every thread."""
        self._look_now.set()

    def start(self, crew: Crew, workers: int, uploads: int) -> None:
        """Begin. Call it once. At most ``workers`` segments are packed at the same time, and ``uploads`` are on their way."""
        self._buffers = Buffers(workers)
        self._threads = [
            crew.start("stream", self._stream),
            crew.start("commit", self._commit),
            crew.start("tail", lambda: self.tail.run(self._frontier, self._stopping)),
            *(crew.start(f"upload-{number}", self._upload) for number in range(uploads)),
        ]

    def stop(self, timeout: float) -> None:
        """End: pg_receivewal is stopped, uploads finish or are left for the next start; at most ``timeout`` seconds.

        A thread that is still inside the store then ends by itself; ``ended`` tells.
        """
        self._stopping.set()
        self._changed.set()
        self._look_now.set()
        until = self._clock.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - self._clock.monotonic()))
        self._troubles.clear_all("archiver_")

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more, so that another one may use the spool."""
        return not self.living

    @property
    def living(self) -> list[threading.Thread]:
        """Its threads that have not ended."""
        return [thread for thread in self._threads if thread.is_alive()]

    # --- stream -------------------------------------------------------------------------------------------------

    def _stream(self) -> None:
        try:
            while not self._stopping.is_set():
                self._put_in_order()
                try:
                    lost = self._hand_out()
                    if lost is not None:
                        self._recover(lost)
                    self._troubles.clear("archiver_spool")
                except SpoolError as problem:
                    self._troubles.report("archiver_spool", problem)
                    self._stopping.wait(SPOOL_RETRY)
                self._look_now.wait(TICK)
                self._look_now.clear()
        finally:
            self._source.stop()

    def _put_in_order(self) -> None:
        while not self._done.empty():
            receipt = self._done.get()
            self.uploaded += 1
            self.uploaded_bytes += receipt.stored_bytes
            self._removable.put(receipt)
            self.tail.stored(receipt)
            if self._frontier.add(receipt):
                self._changed.set()
        while not self._offered.empty():
            if self._frontier.add(self._offered.get()):
                self._changed.set()
        if self.tail.advance(self._frontier):
            self._changed.set()

    def _hand_out(self) -> Segment | None:
        """Each complete segment once. A segment that the local server has no more, else None."""
        waiting = self._source.complete(self._frontier)
        self._taken.intersection_update(waiting)
        for segment in waiting:
            if segment not in self._taken:
                self._taken.add(segment)
                self._todo.put(segment)
        return self._source.tend(self._frontier, self._taken)

    # --- WAL that the local server has no more --------------------------------------------------------------------

    def _recover(self, first: Segment) -> None:
        """From ``first`` on, up to where the local server can stream again: from elsewhere, or recorded as a gap."""
        self._troubles.report(
            "archiver_wal_missing",
            PostgresError(
                f"{first}: the local server has it no more", hint="Looking in the store and at the other members."
            ),
        )
        if self._missing != first:
            self._missing, self._missing_since = first, self._clock.monotonic()
        gap_from: Segment | None = None
        wanted = first
        while lost_wal.is_lost(self._sources, wanted, self.observed.lsn) and not self._stopping.is_set():
            try:
                receipt = self._find_lost(wanted)
            except WalkeeperError as problem:
                self._source.failed(problem)
                return
            if receipt is None and self._stopping.is_set():
                return
            if gap_from is not None and (receipt is not None or gap_from.timeline != wanted.timeline):
                if not self._state_gap(gap_from, wanted.start):
                    return
                gap_from = None
            if receipt is None:
                gap_from = gap_from or wanted
            elif self._frontier.add(receipt):
                self._changed.set()
            wanted = self.history.segment(wanted.number + 1, self._archive.size)
        if gap_from is not None and not self._stopping.is_set() and not self._state_gap(gap_from, wanted.start):
            return
        self._troubles.clear("archiver_wal_missing")

    def _find_lost(self, wanted: Segment) -> Receipt | None:
        """None means that it is nowhere. A member that does not answer is waited for, but not for long (P4: 30 s)."""
        try:
            return lost_wal.find(self._sources, wanted)
        except lost_wal.MemberUnreachable:
            if self._clock.monotonic() - self._missing_since < MEMBER_PATIENCE:
                raise
            return None

    def _state_gap(self, first: Segment, end: Lsn) -> bool:
        """Record it in the store, then go on after it; False if the store did not take it (it is all tried again)."""
        try:
            self._archive.record_gap(first, end)
        except WalkeeperError as problem:
            self._source.failed(problem)
            return False
        events.error(
            "gap",
            timeline=first.timeline,
            start=first.start,
            end=end,
            hint="This WAL exists nowhere any more. Take a base backup now: restores to a point inside or across the gap "
            "are not possible from earlier ones.",
        )
        self._new_gaps.put(Gap(first.timeline, str(first.start), str(end)))
        self._frontier.add_gap(first, end)
        self._changed.set()
        return True

    # --- upload -------------------------------------------------------------------------------------------------

    def _upload(self) -> None:
        while not self._stopping.is_set():
            try:
                segment = self._todo.get(timeout=0.5)
            except queue.Empty:
                self._buffers.release()  # an agent that waits holds none
                continue
            self.in_flight.add(segment)
            self._ship(segment)
            self.in_flight.discard(segment)

    def _ship(self, segment: Segment) -> None:
        """Until it is stored, or turns out to be no good, or this archiver ends."""
        backoff = Backoff(0.5, 30)
        begun = self._clock.monotonic()
        refused = False
        self._failing.discard(segment)
        while not self._stopping.is_set():
            try:
                receipt = self._store(segment)
            except FileNotFoundError:
                return  # removed under our hands: stream notices the hole
            except Refused as problem:
                if isinstance(problem, BadSegment) and self._source.put_aside(segment, problem):
                    return
                refused = True
                self._failing.add(segment)
                self._troubles.report("archiver_refused", problem)
                self._stopping.wait(SLOW_RETRY)
            except WalkeeperError as problem:
                self._failing.add(segment)
                self._troubles.report("archiver_store", problem)
                self._stopping.wait(SLOW_RETRY if isinstance(problem, StoreDenied) else backoff.failed())
            else:
                self._failing.discard(segment)
                self._stored(receipt, begun)
                self._troubles.clear("archiver_store")
                if refused:
                    self._troubles.clear("archiver_refused")
                return

    def _store(self, segment: Segment) -> Receipt:
        try:
            with self._buffers.one() as memory:
                packed = self._archive.pack(segment, self._source.read(segment, memory), self.history)
            return self._archive.put(packed)
        except MemoryError:
            self._buffers.release()
            raise StoreUnavailable(
                f"{segment}: not enough memory to store it",
                hint="Each of upload_workers holds a segment, and for a moment three times what it packs to. Lower it, or give "
                "more.",
            ) from None

    def _stored(self, receipt: Receipt, begun: float) -> None:
        events.info(
            "archived",
            segment=receipt.segment,
            stored_bytes=receipt.stored_bytes,
            seconds=self._clock.monotonic() - begun,
            was_present=receipt.was_present or None,
        )
        self.receipts.add(receipt, self._source.read_at(receipt.segment))
        self._done.put(receipt)

    # --- commit -------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        backoff = Backoff(1, 10)
        pending: list[Receipt] = []
        gaps: list[Gap] = []
        while not self._stopping.is_set():
            self._changed.wait(1.0)
            self._changed.clear()
            while not self._removable.empty():
                pending.append(self._removable.get())
            while not self._new_gaps.empty():
                gaps.append(self._new_gaps.get())
            try:
                self._write_record(gaps)
                gaps.clear()
            except Fenced as problem:
                events.failure("fenced", problem, owner=self.ownership.record.owner, frontier=self.ownership.record.lsn)
                self.over.set()
                return
            except DcsError as problem:
                self._troubles.report("archiver_record", problem)
                self._stopping.wait(backoff.failed())
                continue
            backoff.succeeded()
            self._troubles.clear("archiver_record")
            self._follow_with_slot()
            pending = self._remove_recorded(pending)
            self._stopping.wait(RECORD_INTERVAL)

    def _write_record(self, gaps: list[Gap]) -> None:
        record = self.ownership.record
        trouble = self._trouble_for_record()
        lsn = (
            self._frontier.lsn
        )  # first: a sum that is newer than the position is not stated, and both are written again
        self.ownership.below = self._frontier.below
        if lsn > record.position or gaps or trouble != record.trouble:
            self.ownership.write(lsn, tuple(gaps), trouble)

    def _trouble_for_record(self) -> str:
        """What people on other nodes shall read; it changes in the record at most every few seconds."""
        now = self._clock.monotonic()
        if now < self._trouble_at:
            return self.ownership.record.trouble
        troubles = self._troubles.open()
        text = troubles[0].text[:MAX_TROUBLE] if troubles else ""
        if text != self.ownership.record.trouble:
            self._trouble_at = now + TROUBLE_INTERVAL
        return text

    def _follow_with_slot(self) -> None:
        """Bring the hold slot after the record; what is wrong with the slot itself is for the observer to report."""
        if not self.observed.server_up:
            return
        try:
            slot = self._server.slot(self._hold_slot)
            if (
                slot is None
                or slot.lost
                or not slot.physical
                or slot.active_pid is not None
                or slot.restart_lsn is None
            ):
                return
            target = slot_target(self.ownership.record.position, self._archive.size)
            if slot.restart_lsn < target and not self._left_timeline():
                self._server.advance_slot(self._hold_slot, target)
            self._troubles.clear("archiver_slot")
        except PostgresError as problem:
            self._troubles.report("archiver_slot", problem, grace=True)

    def _left_timeline(self) -> bool:
        """Whether the server follows another primary by now: its slot is Patroni's, and our record is not its frontier.

        That primary's timeline may be the older one: of a server that everybody took for dead, and that leads again.
        A server changes its timeline with a restart only, which ends the connection: no time passes between look and move.
        """
        state = self._server.state()
        cluster = self._archive.layout.system_identifier
        return state.timeline != self.history.timeline or state.system_identifier != cluster

    def _remove_recorded(self, pending: list[Receipt]) -> list[Receipt]:
        recorded = self.ownership.record.position
        waiting = []
        for receipt in pending:
            try:
                if receipt.segment.end <= recorded:
                    self._source.remove(receipt)
                    continue
            except SpoolError as problem:
                self._troubles.report("archiver_spool", problem)
            waiting.append(receipt)
        return waiting
