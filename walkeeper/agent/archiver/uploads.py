"""Uploads: complete segments in, receipts out, several at the same time. Each segment is tried until it is stored."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection
from typing import Final

from walkeeper.agent.archiver.buffers import Buffers
from walkeeper.agent.archiver.receipts import Receipts
from walkeeper.agent.archiver.source import Source
from walkeeper.agent.problems import Problems
from walkeeper.archive.codec import STORED
from walkeeper.archive.listed import Listed
from walkeeper.archive.write import Archive
from walkeeper.core.about import About
from walkeeper.core.failed_upload import retry_after
from walkeeper.core.frontier import Frontier
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.errors import Conflict, Refused, StoreUnavailable, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import Clock
from walkeeper.lib.retry import Backoff

SLOW_RETRY: Final = 60.0
"""Seconds until a refusal, which only people can fix, is tried again."""
LONGEST_WAIT: Final = 30.0
"""Seconds between two tries of a segment while the store does not answer, at most."""
SOON: Final = 2.0
"""As many for the lowest of those on their way: it finds out for all of them that the store is back."""
REST: Final = 5
"""But so many times as long as a try takes: it reads and packs the segment, which may have 1 GiB, or waits for a time-out."""
LOOK_SECONDS: Final = 0.5
"""Seconds between two looks at whether another one got through."""
BACKLOG: Final = 4
"""Waiting segments from which on names are listed: a LIST has the price of twelve GETs, three for each segment."""


class Uploads:
    """``run`` is for each of several threads; what hands out and collects is for one."""

    def __init__(self, archive: Archive, source: Source, frontier: Frontier, problems: Problems, clock: Clock) -> None:
        self.receipts = Receipts()
        self.in_flight: set[Segment] = set()
        self.taken: set[Segment] = set()
        """What was handed out and still lies there. The source takes out what will come again."""
        self.count = 0
        self.bytes = 0
        """Stored by now, packed."""
        self.conflict: Segment | None = None
        """The last one, beyond the frontier, of which the store has other bytes."""
        self._archive = archive
        self._source = source
        self._frontier = frontier
        self._problems = problems
        self._clock = clock
        self._buffers = Buffers(1)
        self._listed = Listed(archive)
        self._todo: queue.Queue[Segment] = queue.Queue()
        """Several take from it, and CPython's SimpleQueue (3.11, 3.12) then waits for ever now and then, whatever the timeout."""
        self._done: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
        self._dropped: queue.SimpleQueue[Segment] = queue.SimpleQueue()
        """Given up without a receipt: what still waits, or waits again, is handed out again."""
        self._failing: set[Segment] = set()
        self._refused: set[Segment] = set()
        self._hurried: set[Segment] = set()
        """What the store denied, and is tried before its time since it has taken another."""
        self._later: list[tuple[float, Segment]] = []
        """What is tried again, and from when on: it holds no thread until then."""
        self._lock = threading.Lock()

    def pack_at_once(self, workers: int) -> None:
        """So many segments may be packed at the same time. Call it before ``run``."""
        self._buffers = Buffers(workers)

    def hand_out(self, waiting: Collection[Segment]) -> None:
        """Each of the segments that lie there, once; and again what was refused, when its time has come."""
        while not self._dropped.empty():
            self.taken.discard(self._dropped.get())
        self.taken.intersection_update(waiting)
        now = self._clock.monotonic()
        with self._lock:
            due = [segment for at, segment in self._later if at <= now]
            self._later = [(at, segment) for at, segment in self._later if at > now]
        for segment in due:
            if segment in self.taken:
                self._todo.put(segment)
            else:
                self._no_longer_refused(segment)
        for segment in waiting:
            if segment not in self.taken:
                self.taken.add(segment)
                self._todo.put(segment)

    def collect(self) -> list[Receipt]:
        """What was stored since the last call."""
        receipts = []
        while not self._done.empty():
            receipt = self._done.get()
            self.count += 1
            self.bytes += receipt.stored_bytes
            receipts.append(receipt)
        return receipts

    def has_in_hand(self, segment: Segment) -> bool:
        """Whether it is being stored, or will be next, and has not failed. Safe from every thread."""
        return segment in self.taken and segment not in self._failing

    def met(self, conflict: Segment) -> None:
        """The store has other bytes of it. What lies below the frontier is what somebody left here. Safe from every thread."""
        if conflict.end > self._frontier.lsn and self._frontier.history.contains(conflict):
            self.conflict = conflict

    def stored(self, segment: Segment) -> None:
        """As it is here, after all. Safe from every thread."""
        if self.conflict == segment:
            self.conflict = None

    @property
    def idle(self) -> bool:
        """Whether nothing that was handed out is on its way, or waits for that. Safe from every thread."""
        return self._todo.empty() and not self.in_flight

    def run(self, stopping: threading.Event, finished: Callable[[], None] = lambda: None) -> None:
        """Until ``stopping``. ``finished`` is called when the last of what was handed out is stored."""
        while not stopping.is_set():
            try:
                segment = self._todo.get(timeout=0.5)
            except queue.Empty:
                self._buffers.release()  # an agent that waits holds none
                continue
            self.in_flight.add(segment)
            self._ship(segment, stopping)
            self.in_flight.discard(segment)
            if self.idle and not self._done.empty():
                finished()
        self._buffers.release()

    def _ship(self, segment: Segment, stopping: threading.Event) -> None:
        """Until it is stored, or turns out to be no good, or only people can help, or the archiver ends."""
        backoff, hurried = Backoff(0.5, LONGEST_WAIT), False
        begun = self._clock.monotonic()
        self._failing.discard(segment)
        while not stopping.is_set():
            tried = self._clock.monotonic()
            try:
                receipt = self._store(segment)
            except FileNotFoundError:
                self._drop(segment)
                return  # removed under our hands: the source notices the hole
            except WalkeeperError as problem:
                if isinstance(problem, Conflict):
                    self.met(segment)
                retry = retry_after(problem, below=segment.end <= self._frontier.lsn)
                if retry.damaged and self._source.put_aside(segment, problem):
                    self._drop(segment)
                    return
                self._failing.add(segment)
                self._problems.report(retry.about, problem)
                if retry.slowly:
                    self._try_later(segment, refused=isinstance(problem, Refused))
                    return
                soon = max(SOON, REST * (self._clock.monotonic() - tried))
                hurried = self._wait(segment, backoff.failed(), soon, stopping, alone=hurried) or hurried
            else:
                self._failing.discard(segment)
                self.stored(segment)
                self._stored(receipt, begun)
                self._problems.clear(About.ARCHIVER_STORE)  # whoever gets through shows that the store answers
                self._no_longer_refused(segment)
                self._try_what_was_denied()
                return

    def _wait(self, segment: Segment, seconds: float, soon: float, stopping: threading.Event, *, alone: bool) -> bool:
        """Before the next try; the lowest at most ``soon``. True where it ended early because another one got through: that is a
        reason once, and none for one that is ``alone`` in what it meets.
        """
        waited, before = 0.0, self.count
        while waited < seconds and not stopping.wait(min(seconds - waited, LOOK_SECONDS)):
            waited += LOOK_SECONDS
            if self.count != before and not alone:
                return True
            if all(each.number >= segment.number for each in self.in_flight.copy()):
                seconds = min(seconds, soon)
        return False

    def _drop(self, segment: Segment) -> None:
        self._no_longer_refused(segment)
        self._dropped.put(segment)

    def _try_later(self, segment: Segment, *, refused: bool) -> None:
        with self._lock:
            self._later.append((self._clock.monotonic() + SLOW_RETRY, segment))
            if refused:
                self._refused.add(segment)

    def _try_what_was_denied(self) -> None:
        """The store has taken a segment: what it denied before need not wait its minute. Each once: it may
        be this one object that is denied.
        """
        now = self._clock.monotonic()
        with self._lock:
            due = {segment for _, segment in self._later} - self._refused - self._hurried
            self._later = [(now if segment in due else at, segment) for at, segment in self._later]
            self._hurried |= due

    def _no_longer_refused(self, segment: Segment) -> None:
        with self._lock:
            self._hurried.discard(segment)
            if segment not in self._refused:
                return
            self._refused.discard(segment)
            others = bool(self._refused)
        if not others:
            self._problems.clear(About.ARCHIVER_REFUSED)

    def _store(self, segment: Segment) -> Receipt:
        try:
            with self._buffers.one() as memory:
                packed = self._archive.pack(segment, self._source.read(segment, memory), self._frontier.history)
            return self._archive.put(packed, self._suffixes(segment))
        except MemoryError:
            self._buffers.release()
            raise StoreUnavailable(
                f"{segment}: not enough memory to store it",
                hint="Lower upload_workers, or give the agent more memory: each worker holds a segment, and for a moment three "
                "times what it packs to.",
            ) from None

    def _suffixes(self, segment: Segment) -> Collection[str]:
        """Those that the store may have of it: any, but in a backlog what is listed, where that is cheaper."""
        if not self._archive.far:
            return STORED
        listed = self._listed.suffixes(segment, ask=self._todo.qsize() >= BACKLOG)
        return STORED if listed is None else listed

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
