"""``durability: store``: what is received goes to the store at once, and the server is told how far the store has it.

Several parts are on their way at the same time, and count in their order. While they are, what comes makes the next ones
larger: so the load decides how much goes with one request, and a bound how many requests there are.
"""

from __future__ import annotations

import threading
from typing import Final

from walkeeper.agent.archiver.lease import Lease
from walkeeper.agent.archiver.received import Part, Received
from walkeeper.agent.archiver.tail import Tail
from walkeeper.agent.problems import Problems
from walkeeper.core.about import About
from walkeeper.core.lsn import Lsn
from walkeeper.core.receipt import TailReceipt
from walkeeper.core.synchronous import NOTHING, RELEASE, Acknowledgement, Promise, StoredRun
from walkeeper.errors import (
    BadSegment,
    CommitsWait,
    Conflict,
    Degraded,
    PostgresError,
    StoreUnavailable,
    WalkeeperError,
    WrongCluster,
)
from walkeeper.lib.clock import Clock
from walkeeper.lib.retry import Backoff
from walkeeper.lib.wake import Wake

AT_ONCE: Final = 4
"""Parts that are on their way at the same time: more brought nothing."""
SPACING: Final = 0.01
"""Seconds between the beginnings of two parts."""
TICK: Final = 0.1
WAITS: Final = 5.0
"""Seconds without an acknowledgement after which it is a problem that commits wait."""


class Synchronous:
    """``run`` is for each of AT_ONCE threads; ``begin`` and ``give`` are for the one that streams."""

    def __init__(
        self,
        received: Received,
        tail: Tail,
        lease: Lease,
        name: str,
        degrade_after: float | None,
        problems: Problems,
        clock: Clock,
    ) -> None:
        """``name``: the ``application_name`` of who acknowledges."""
        self.name = name
        self.wake = Wake()
        """Set when more is stored."""
        self.archived = Lsn(0)
        """Everything below is in the store, but for gaps before the fork of this timeline. Set by who has the frontier."""
        self._received = received
        self._tail = tail
        self._lease = lease
        self._promise = Promise(degrade_after)
        self._waits_to_be_stored = 0.0
        self._waits_to_be_said = 0.0
        self._problems = problems
        self._clock = clock
        self._taking = threading.Lock()
        self._next_at = 0.0
        self._lock = threading.Lock()
        self._run = 0
        self._stored = StoredRun(Lsn(0))
        self._broken: WalkeeperError | None = None

    def fares(self) -> tuple[str, Lsn | None, float | None]:
        """How commits do: ``store``; ``degraded`` where they go on without it; ``waiting`` where nothing more has been
        acknowledged for so long that the server was released, though there is more; ``none`` before the first
        acknowledgement, and where no stream runs, whatever was said last. Up to where it was acknowledged, and for how many
        seconds the oldest WAL that was received has waited to be stored, or to be acknowledged.
        """
        if not self._received.lsn:
            return "none", None, None
        acknowledged, waited = self._promise.given.lsn or None, max(self._waits_to_be_stored, self._waits_to_be_said)
        if self._waits_to_be_said > RELEASE:
            return "waiting", acknowledged, waited
        if self._promise.degraded:
            return "degraded", acknowledged, waited
        return "none" if acknowledged is None else "store", acknowledged, waited

    # --- for the thread that streams ------------------------------------------------------------------------------

    def begin(self, start: Lsn) -> None:
        """Another run of the stream, from there on."""
        with self._lock:
            self._run, self._stored, self._broken = self._received.run, StoredRun(start), None
        self._promise.begin(self._clock.monotonic())

    def give(self) -> Acknowledgement:
        """What the server is to be told. Raises PostgresError where this run of the stream comes to nothing."""
        self.wake.clear()
        with self._lock:
            stored, broken = self._stored, self._broken
            end = stored.end if self.archived >= stored.start else Lsn(0)
        if broken is not None:
            raise PostgresError(f"stream: {broken}", hint=broken.hint)
        # Only after that was read: who ends our session looks at the store when the lease is over.
        leased = self._lease.holds()
        now = self._clock.monotonic()
        given = self._promise.give(now, end, self._received.lsn, leased=leased)
        self._waits_to_be_stored, self._waits_to_be_said = self._promise.waited(now), self._promise.stands(now)
        if not self._received.has_room() and (given == NOTHING or self._promise.degraded):
            self._received.skip()  # a server that shuts down must get rid of all its WAL; it is read again from pg_wal
        self._tell(leased=leased)
        return given

    def end(self) -> None:
        """In this ownership nothing more is acknowledged. The record says so soon, and nobody has to wait for the lease."""
        self._lease.ended.set()

    def caught_up(self) -> bool:
        """Whether all is stored that was skipped, so that a new run of the stream keeps what comes."""
        return self._received.skips and self.archived >= self._received.open_from

    def _tell(self, *, leased: bool) -> None:
        if not self._promise.degraded:
            self._problems.clear(About.ARCHIVER_DEGRADED)
        else:
            problem = Degraded(
                "commits are acknowledged before they are in the store, which has lagged for longer than degrade_after",
                hint="What is committed now is lost if this server's disk is. It ends when the store has caught up.",
            )
            self._problems.report(About.ARCHIVER_DEGRADED, problem)
        if self._waits_to_be_said < WAITS:
            self._problems.clear(About.ARCHIVER_COMMITS)
            return
        why = "the store has not taken it" if leased else "the record could not be confirmed as ours"
        self._problems.report(
            About.ARCHIVER_COMMITS,
            CommitsWait(
                f"commits wait: nothing was acknowledged for {self._waits_to_be_said:.0f} s, {why}",
                hint="The other problems say why. With degrade_after they would go on without the store. A session with "
                "synchronous_commit = local does not wait.",
            ),
        )

    # --- shipping -------------------------------------------------------------------------------------------------

    def run(self, stopping: threading.Event) -> None:
        """Until ``stopping``."""
        while not stopping.is_set():
            part = self._take(stopping)
            if part is not None:
                self._store(part, stopping)

    def _take(self, stopping: threading.Event) -> Part | None:
        with self._taking:
            pause = self._next_at - self._clock.monotonic()
            if pause > 0:
                stopping.wait(pause)
            try:
                part = self._received.take(TICK)
            except MemoryError:  # nothing was taken
                part = None
            self._next_at = self._clock.monotonic() + SPACING
            return part

    def _store(self, part: Part, stopping: threading.Event) -> None:
        """Until it is stored, or the stream has begun again, which brings its bytes once more."""
        backoff = Backoff(0.2, 2)
        while not stopping.is_set() and part.run == self._received.run:
            try:
                receipt = self._ship(part)
            except (BadSegment, WrongCluster, Conflict) as problem:
                with self._lock:
                    self._broken = problem if part.run == self._run else self._broken
                self.wake.set()
                return
            except WalkeeperError as problem:
                self._problems.report(About.ARCHIVER_TAIL, problem, grace=True)
                stopping.wait(backoff.failed())
            else:
                self._count(part, receipt)
                return

    def _ship(self, part: Part) -> TailReceipt:
        try:
            return self._tail.ship(part)
        except MemoryError:
            raise StoreUnavailable(
                f"{part.segment}: not enough memory to store a piece of it",
                hint="Give the agent more memory: with durability: store it holds 64 MiB of WAL, and some MiB for each piece.",
            ) from None

    def _count(self, part: Part, receipt: TailReceipt) -> None:
        with self._lock:  # what is in order stays so on its way to the tail
            in_order = self._stored.add(part.serial, receipt) if part.run == self._run else []
            self._tail.shipped(part.run, in_order)
        if in_order:
            self.wake.set()
            self._problems.clear(About.ARCHIVER_TAIL)
