"""The receipts of the last segments, for whoever asks about a segment that the archiver has stored or is about to."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt

KEPT: Final = 4096


class Receipts:
    """Remembers a bounded number; a receipt that was forgotten can be had again from the store. For several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._known: OrderedDict[Segment, tuple[Receipt, int | None]] = OrderedDict()

    def add(self, receipt: Receipt, mtime_ns: int | None) -> None:
        """``mtime_ns`` is the time of PostgreSQL's own file when these bytes were read; None if they came another way."""
        with self._changed:
            self._known[receipt.segment] = receipt, mtime_ns
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
            self._changed.notify_all()

    def get(self, segment: Segment, wait: float = 0.0) -> Receipt | None:
        """Its receipt, for which at most ``wait`` seconds are waited."""
        with self._changed:
            self._changed.wait_for(lambda: segment in self._known, wait)
            known = self._known.get(segment)
        return None if known is None else known[0]

    def mtime_of(self, segment: Segment) -> int | None:
        """The time that PostgreSQL's own file had with the bytes of the receipt; None where it was not looked at."""
        with self._changed:
            known = self._known.get(segment)
        return None if known is None else known[1]
