"""Commit: the record, then the hold slot, then the spool. One thread does them one after the other, so that no order bends."""

from __future__ import annotations

import math
import queue
import threading
from typing import Final

from walkeeper.agent.archiver.holding import HoldSlot
from walkeeper.agent.archiver.lease import Lease
from walkeeper.agent.archiver.ownership import Ownership
from walkeeper.agent.archiver.source import Source
from walkeeper.agent.observation import Observed
from walkeeper.agent.problems import Problems
from walkeeper.core.about import About
from walkeeper.core.commitment import problem_for_record, record_is_due, removable, slot_may_move
from walkeeper.core.frontier import Frontier
from walkeeper.core.hold_slot import SlotState, slot_target
from walkeeper.core.lsn import Lsn
from walkeeper.core.receipt import Receipt
from walkeeper.core.record import MAX_SUSPECTED, Gap
from walkeeper.core.suspicion import stretches
from walkeeper.errors import DcsError, Fenced, PostgresError, SpoolError
from walkeeper.lib import events
from walkeeper.lib.clock import Clock, since_boot
from walkeeper.lib.retry import Backoff
from walkeeper.postgres.server import Server

RECORD_INTERVAL: Final = 0.2
"""Seconds from one write of the record to the next: a backlog's segments are stored faster than a DCS should be written."""
EARLY_INTERVAL: Final = 1.0
"""As many from one write that did not wait for that, since nothing more was on its way, to the next such."""
SHIPPED_INTERVAL: Final = 1.0
"""As many, where pieces of the tail are stored all the time."""
PROBLEM_SECONDS: Final = 10.0
"""Seconds from one change of the record's problem to the next."""


class Commit:
    """``run`` is a thread's; the rest is safe from every thread. ``over`` is set when this ownership was fenced."""

    def __init__(
        self,
        ownership: Ownership,
        frontier: Frontier,
        source: Source,
        server: Server,
        hold_slot: HoldSlot,
        observed: Observed,
        problems: Problems,
        clock: Clock,
        lease: Lease | None = None,
    ) -> None:
        """``lease``: to be kept up, where something is acknowledged by it."""
        self._lease = lease
        self.ownership = ownership
        self.over = threading.Event()
        self.changed = threading.Event()
        """Set by whoever moves the frontier."""
        self.settled = threading.Event()
        """Set before that by whoever moves it over the last segment that was on its way."""
        self._frontier = frontier
        self._source = source
        self._server = server
        self._hold_slot = hold_slot
        self._observed = observed
        self._problems = problems
        self._clock = clock
        self._stored: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
        self._gaps: queue.SimpleQueue[Gap] = queue.SimpleQueue()
        self._problem_at = 0.0
        self._early_at = -math.inf
        self._said_at = -math.inf
        """The monotonic moment that the record's ``wal_at`` names."""

    def remove_later(self, receipt: Receipt) -> None:
        """The spool may lose it once the record has passed it."""
        self._stored.put(receipt)

    def state_gap(self, gap: Gap) -> None:
        """It is recorded in the store, and belongs into the record."""
        self._gaps.put(gap)
        self.changed.set()

    def run(self, stopping: threading.Event) -> None:
        """Until ``stopping``, or until another owner wrote the record."""
        backoff = Backoff(1, 10 if self._lease is None else 2)
        pending: list[Receipt] = []
        gaps: list[Gap] = []
        while not stopping.is_set():
            self.changed.wait(1.0)
            self.changed.clear()
            self.settled.clear()
            frontier = self._frontier.lsn  # before the gaps: what it has passed is among them
            while not self._stored.empty():
                pending.append(self._stored.get())
            while not self._gaps.empty():
                gaps.append(self._gaps.get())
            asked_at = since_boot()
            try:
                confirmed = self._write_record(frontier, gaps)
                gaps.clear()
                if self._lease is not None and not confirmed and self._lease.is_due():
                    self.ownership.confirm()
                    confirmed = True
            except Fenced as problem:
                events.failure("fenced", problem, owner=self.ownership.record.owner, frontier=self.ownership.record.lsn)
                self.over.set()
                return
            except DcsError as problem:
                self._problems.report(About.ARCHIVER_RECORD, problem)
                stopping.wait(backoff.failed())
                continue
            backoff.succeeded()
            self._problems.clear(About.ARCHIVER_RECORD)
            if self._lease is not None and confirmed:
                self._lease.confirmed(asked_at)
            slot = self._follow_with_slot()
            pending = self._remove_recorded(pending, slot)
            self._pause(stopping)

    def _pause(self, stopping: threading.Event) -> None:
        now = self._clock.monotonic()
        if self._lease is not None and not self._lease.ended.is_set():
            self._lease.ended.wait(SHIPPED_INTERVAL)  # whoever is to be promoted reads it soon
        elif now - self._early_at < EARLY_INTERVAL:
            stopping.wait(RECORD_INTERVAL)
        elif self.settled.wait(RECORD_INTERVAL):
            self._early_at = now

    def _write_record(self, frontier: Lsn, gaps: list[Gap]) -> bool:
        """Whether it had to be written."""
        problem = self._problem()
        # After the position: a sum that is newer than that is not stated, and both are written again.
        self.ownership.below = self._frontier.below
        history, size = self._frontier.history, self._frontier.size
        suspected = tuple(lost.as_gap() for lost in stretches(history, size, self._frontier.suspected))[:MAX_SUSPECTED]
        ended = self._observed.times.ended_at_or_below(frontier)
        unsaid = ended.until - self._said_at if ended is not None else 0.0
        over = self._lease is not None and self._lease.ended.is_set()
        due = record_is_due(self.ownership.record, frontier, gaps, suspected, problem, unsaid)
        if not due and not (over and not self.ownership.record.closed_by):
            return False
        wal_at = ended.stamp if ended is not None else ""
        self.ownership.write(frontier, tuple(gaps), problem, suspected, wal_at, ended=over)
        self._said_at = ended.until if ended is not None else self._said_at
        return True

    def _problem(self) -> str:
        """For the record, where it changes at most every few seconds."""
        now, said = self._clock.monotonic(), self.ownership.record.trouble
        if now < self._problem_at:
            return said
        problems = [each.text for each in self._problems.open() if each.what is not About.METRICS_NOT_SERVED]
        text = problem_for_record(problems)
        if text != said:
            self._problem_at = now + PROBLEM_SECONDS
        return text

    def _follow_with_slot(self) -> SlotState | None:
        """Bring the hold slot after the record. How it was before; None where that is not known, or there is none."""
        record, held = self.ownership.record, self._hold_slot
        held.holding.note(held.store, record)
        if not self._observed.server_up:
            return None
        position = held.follows(record, self._frontier.history)
        slot: SlotState | None = None
        try:
            slot = self._server.slot(held.name)
            target = None if position is None else slot_target(position, self._frontier.size)
            if target is not None and slot_may_move(slot, target) and not self._left_timeline():
                self._server.advance_slot(held.name, target)
            self._problems.clear(About.ARCHIVER_SLOT)
        except PostgresError as problem:
            self._problems.report(About.ARCHIVER_SLOT, problem, grace=True)
        return slot

    def _left_timeline(self) -> bool:
        """Whether the server follows another primary by now: its slot is Patroni's, and our record is not its frontier.

        That primary's timeline may be the older one: of a server that everybody took for dead, and that leads again.
        A server changes its timeline with a restart only, which ends the connection: no time passes between look and move. But
        for a standby cluster's leader, which may show the timeline before a switch of its upstream until the next restartpoint.
        """
        state, cluster = self._server.state(), int(self.ownership.record.system_identifier)
        timeline = self._server.replay_timeline() if state.in_recovery else state.timeline
        return timeline != self._frontier.history.timeline or state.system_identifier != cluster

    def _remove_recorded(self, pending: list[Receipt], slot: SlotState | None) -> list[Receipt]:
        """What stays pending."""
        suspected, waiting = self._frontier.suspected, []
        crowded = bool(suspected) and self._crowded()
        for receipt in pending:
            try:
                if removable(receipt, self.ownership.record.position, suspected, slot, crowded=crowded):
                    self._source.remove(receipt)
                    continue
            except SpoolError as problem:
                self._problems.report(About.ARCHIVER_SPOOL, problem)
            waiting.append(receipt)
        return waiting

    def _crowded(self) -> bool:
        try:
            return self._source.crowded()
        except SpoolError as problem:
            self._problems.report(About.ARCHIVER_SPOOL, problem)
            return False
