"""Uploads: complete segments in, receipts out, several at the same time. Each segment is tried until it is stored."""

from __future__ import annotations

import queue
import threading
from collections.abc import Collection
from typing import Final

from walkeeper.agent.archiver.buffers import Buffers
from walkeeper.agent.archiver.receipts import Receipts
from walkeeper.agent.archiver.source import Source
from walkeeper.agent.problems import Troubles
from walkeeper.archive.write import Archive
from walkeeper.core.history import History
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.refusals import retry_after
from walkeeper.errors import BadSegment, StoreUnavailable, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import Clock
from walkeeper.lib.retry import Backoff

SLOW_RETRY: Final = 60.0
"""Seconds until a refusal, which only people can fix, is tried again."""


class Uploads:
    """``run`` is for each of several threads; what hands out and collects is for one."""

    def __init__(self, archive: Archive, source: Source, history: History, troubles: Troubles, clock: Clock) -> None:
        self.receipts = Receipts()
        self.in_flight: set[Segment] = set()
        self.taken: set[Segment] = set()
        """What was handed out and still lies there. The source takes out what will come again."""
        self.count = 0
        self.bytes = 0
        """Stored by now, packed."""
        self._archive = archive
        self._source = source
        self._history = history
        self._troubles = troubles
        self._clock = clock
        self._buffers = Buffers(1)
        self._todo: queue.SimpleQueue[Segment] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
        self._failing: set[Segment] = set()

    def pack_at_once(self, workers: int) -> None:
        """So many segments may be packed at the same time. Call it before ``run``."""
        self._buffers = Buffers(workers)

    def hand_out(self, waiting: Collection[Segment]) -> None:
        """Each of the segments that lie there, once."""
        self.taken.intersection_update(waiting)
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

    def run(self, stopping: threading.Event) -> None:
        """Until ``stopping``."""
        while not stopping.is_set():
            try:
                segment = self._todo.get(timeout=0.5)
            except queue.Empty:
                self._buffers.release()  # an agent that waits holds none
                continue
            self.in_flight.add(segment)
            self._ship(segment, stopping)
            self.in_flight.discard(segment)

    def _ship(self, segment: Segment, stopping: threading.Event) -> None:
        """Until it is stored, or turns out to be no good, or the archiver ends."""
        backoff = Backoff(0.5, 30)
        begun = self._clock.monotonic()
        reported = {"archiver_store"}  # whoever gets through shows that the store answers
        self._failing.discard(segment)
        while not stopping.is_set():
            try:
                receipt = self._store(segment)
            except FileNotFoundError:
                return  # removed under our hands: the source notices the hole
            except WalkeeperError as problem:
                retry = retry_after(problem)
                if retry.damaged and isinstance(problem, BadSegment) and self._source.put_aside(segment, problem):
                    return
                self._failing.add(segment)
                reported.add(retry.trouble)
                self._troubles.report(retry.trouble, problem)
                stopping.wait(SLOW_RETRY if retry.slowly else backoff.failed())
            else:
                self._failing.discard(segment)
                self._stored(receipt, begun)
                for trouble in sorted(reported):
                    self._troubles.clear(trouble)
                return

    def _store(self, segment: Segment) -> Receipt:
        try:
            with self._buffers.one() as memory:
                packed = self._archive.pack(segment, self._source.read(segment, memory), self._history)
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
