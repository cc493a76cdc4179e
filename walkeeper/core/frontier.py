"""The ordered frontier: receipts come in any order, the frontier moves over an unbroken chain only (promise P4)."""

from __future__ import annotations

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt


class Frontier:
    """Where the chain of ``history`` is stored up to, always the start of a segment. Not safe for several threads."""

    def __init__(self, history: History, lsn: Lsn, size: SegmentSize) -> None:
        self.history = history
        self.size = size
        self._next = lsn // size
        self._ahead: dict[int, Receipt] = {}

    @property
    def lsn(self) -> Lsn:
        return Lsn(self._next * self.size)

    @property
    def wanted(self) -> Segment:
        """The first segment of the chain that has no receipt yet."""
        return self.history.segment(self._next, self.size)

    def add(self, receipt: Receipt) -> bool:
        """Take a receipt in; True when the frontier moved. One for another branch, or from below, changes nothing."""
        segment = receipt.segment
        if segment.number < self._next or not self.history.contains(segment):
            return False
        self._ahead[segment.number] = receipt
        before = self._next
        while self._next in self._ahead:
            del self._ahead[self._next]
            self._next += 1
        return self._next != before

    def has(self, segment: Segment) -> bool:
        """Whether that segment of the chain is below the frontier or waits above it with a receipt."""
        return self.history.contains(segment) and (segment.number < self._next or segment.number in self._ahead)

    def skip_gap(self, lsn: Lsn) -> None:
        """Go on at ``lsn``, after the gap in front of it was recorded."""
        self._next = max(self._next, lsn // self.size)
        for number in [number for number in self._ahead if number < self._next]:
            del self._ahead[number]
        while self._next in self._ahead:
            del self._ahead[self._next]
            self._next += 1
