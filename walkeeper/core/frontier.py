"""The ordered frontier: receipts come in any order, the frontier moves over an unbroken chain only (promise P4)."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt, TailReceipt
from walkeeper.core.runs import Runs


class Frontier:
    """Where the chain of ``history`` is stored up to: the start of a segment, or the end of the tail in the segment that
    is still being written. Not safe for several threads, but that any may read ``lsn``, ``next_segment`` and ``suspected``.

    WAL that is suspected lost holds it up, and nothing else: what lies behind is stored meanwhile, and counts as soon as
    the suspicion has ended.
    """

    def __init__(self, history: History, lsn: Lsn, size: SegmentSize) -> None:
        self.history = history
        self.size = size
        self._next = lsn // size
        self._ahead = Runs()
        self._sums: dict[int, str] = {}
        """SHA-256 of the last segment of each run ahead."""
        self._gaps = Runs()
        self._suspected = Runs()
        self.suspected: tuple[tuple[int, int], ...] = ()
        """Runs of segment numbers that are suspected lost, each up to an end that is not included."""
        self._tails: dict[str, int] = {}
        self._tail_end = lsn.floor(size)
        self.below: tuple[int, str] | None = None
        """Number and SHA-256 of the whole segment that the frontier passed last; None before one, and right behind a gap."""

    @property
    def lsn(self) -> Lsn:
        return max(Lsn(self._next * self.size), self._tail_end)

    @property
    def next_segment(self) -> Segment:
        """The first one of the chain that is not stored as a whole."""
        return self.history.segment(self._next, self.size)

    def first_missing(self, present: Collection[Segment]) -> Segment:
        """The first segment of the chain without a receipt that is neither ``present`` nor lost, or suspected to be."""
        number = self._next
        while True:
            known = max(runs.end_of(number) for runs in (self._ahead, self._gaps, self._suspected))
            if known > number:
                number = known
                continue
            segment = self.history.segment(number, self.size)
            if segment not in present:
                return segment
            number += 1

    def unbroken(self) -> Lsn:
        """Up to where everything is stored that this timeline's own commits need: what is lost below its fork is not, nor what
        is recorded as lost. The lower one of two true answers where WAL from the fork on is suspected lost.
        """
        begun = max((switch.lsn for switch in self.history.switches), default=Lsn(0)) // self.size
        if any(end > begun for _, end in self.suspected):
            return self.lsn
        return max(self.lsn, self.first_missing(()).start)

    def add(self, receipt: Receipt) -> bool:
        """Take a receipt in; True when the frontier moved. One for another branch, or from below, changes nothing."""
        segment = receipt.segment
        if segment.number < self._next or not self.history.contains(segment):
            return False
        self._ahead.add(segment.number, segment.number + 1)
        self._sums.pop(segment.number - 1, None)
        if segment.number + 1 not in self._ahead:
            self._sums[segment.number] = receipt.sha256
        self._no_longer_suspected(segment.number, segment.number + 1)
        return self._advance()

    def add_listed(self, first: int, end: int) -> None:
        """Those segments above the frontier, by number, are stored by the listing alone: there is no receipt for a sum."""
        self._ahead.add(max(first, self._next), end)

    def add_tail(self, receipt: TailReceipt) -> bool:
        """Take a piece of ``next_segment`` in; True when the frontier moved. An owner's pieces count from offset 0 on, each
        as far as it continues those before it."""
        segment, piece = receipt.segment, receipt.piece
        if segment != self.next_segment or piece.begin > self._tails.get(piece.owner, 0):
            return False
        self._tails[piece.owner] = max(piece.end, self._tails.get(piece.owner, 0))
        moved = self._tail_end < receipt.end < segment.end  # at its end it would claim that the whole object is there
        self._tail_end = receipt.end if moved else self._tail_end
        return moved

    def suspect(self, first: int, end: int) -> None:
        """Those segments, by number, may be lost: they hold the frontier up until they are found, or recorded as a gap."""
        self._suspected.add(max(first, self._next), end)
        for begun, ended in chain(self._ahead, self._gaps):
            self._suspected.remove(begun, ended)
        self.suspected = tuple(self._suspected)

    def add_gap(self, first: Segment, end: Lsn) -> bool:
        """From ``first`` up to ``end`` WAL exists nowhere, and that was recorded; True when the frontier moved over it.

        It is passed in its turn: what lies below it and has no receipt yet still holds the frontier up.
        """
        self._gaps.add(first.number, end // self.size)
        self._no_longer_suspected(first.number, end // self.size)
        return self._advance()

    def _advance(self) -> bool:
        before = self._next
        while (reached := max(self._ahead.end_of(self._next), self._gaps.end_of(self._next))) > self._next:
            self._next = reached
            sha256 = self._sums.pop(reached - 1, None)
            self.below = None if sha256 is None else (reached - 1, sha256)
        if self._next != before:
            self._tails.clear()
            for runs in (self._ahead, self._gaps):
                runs.remove(before, self._next)
            self._no_longer_suspected(before, self._next)
        return self._next != before

    def _no_longer_suspected(self, first: int, end: int) -> None:
        if self._suspected:
            self._suspected.remove(first, end)
            self.suspected = tuple(self._suspected)
