"""What a node that does not own the record still has in its spool: hand in what the archive lacks, drop what it has.

This is how the spool of a returning old primary closes a gap that no other member could.
"""

from __future__ import annotations

from walkeeper.agent.archiver.spool import Spool
from walkeeper.archive.write import Archive
from walkeeper.core.history import History
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.record import Record
from walkeeper.errors import Refused
from walkeeper.lib import events


class Leftovers:
    """Goes through the spool one segment a call. For one thread."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._stored: dict[Segment, Receipt] = {}

    def hand_in_one(self, archive: Archive, record: Record) -> bool:
        """Deal with one segment; True if there was one to deal with. Raises the store's errors.

        Segments above the frontier stay in the spool until the record has passed them, stored or not (the order).
        """
        waiting = self._spool.complete(archive.size)
        history = archive.contents.history(record.timeline) if waiting else None
        if history is None:
            return False
        for segment in waiting:
            if segment in self._stored and segment.end > record.position:
                continue
            self._deal_with(segment, archive, record, history)
            return True
        return False

    def _deal_with(self, segment: Segment, archive: Archive, record: Record, history: History) -> None:
        if not history.contains(segment):
            self._spool.put_aside(segment.name, f"not in the chain of timeline {history.timeline}")
            return
        try:
            receipt = self._stored.get(segment)
            if receipt is None:  # that its name is stored says nothing: the bytes are compared (P13)
                receipt = archive.confirm_segment(segment, self._spool.read(segment), history)
                if not receipt.was_present:
                    events.info("leftover_archived", segment=segment)
        except FileNotFoundError:
            return
        except Refused as problem:
            events.failure("leftover_refused", problem, segment=segment)
            self._spool.put_aside(segment.name, problem.reason)
            return
        self._stored[segment] = receipt
        if segment.end <= record.position:
            self._spool.remove(receipt)
            del self._stored[segment]
