"""The hold slot is one, whatever the number of stores: it follows what enough of their records say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.agent.archiver.whereabouts import short_of_disk
from walkeeper.core.history import History
from walkeeper.core.hold_slot import followed, reached
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.core.room import Disk
from walkeeper.core.suspicion import RESERVE_SEGMENTS, Lost, covers
from walkeeper.errors import DcsUnavailable
from walkeeper.lib.clock import Clock

BEGIN_SECONDS: Final = 600.0
"""Seconds for which the hold slot waits for a store that has no record: its archive is about to begin, or cannot."""
REFUSED_SECONDS: Final = 30.0
"""Seconds after which a record that the DCS does not let us read keeps no other store's archive from a takeover."""


class Holding:
    """What each store's record said last, to this process. Safe for several threads."""

    def __init__(self, stores: Sequence[str], durable_in: int, clock: Clock) -> None:
        """``stores``: their names, the first first; ``durable_in``: how many of them must have WAL that is let go of."""
        self.first = stores[0]
        self._clock = clock
        self._stores = tuple(stores)
        self._durable_in = durable_in
        self._records: dict[str, Record | None] = {}
        """None: the DCS said that there is none."""
        self._absent_since: dict[str, float] = {}
        self._refused_since: dict[str, float] = {}
        self._lock = threading.Lock()

    def note(self, store: str, record: Record | None) -> None:
        """As it was read or written."""
        with self._lock:
            self._records[store] = record
            if store in self._refused_since:  # who was refused everything has to be refused again
                self._refused_since.clear()

    def refused(self, store: str) -> None:
        """The DCS has answered, and does not let us read that store's record."""
        with self._lock:
            self._refused_since.setdefault(store, self._clock.monotonic())

    def promises(self, store: str, system_identifier: int, wanted: Segment, history: History) -> bool:
        """Whether that store's record says that its archive has that segment of a chain of that cluster's."""
        with self._lock:
            record = self._records.get(store)
        if record is None or not history.includes(record.timeline):
            return False
        if (record.system_identifier, record.segment_size) != (str(system_identifier), wanted.size):
            return False
        if not history.up_to(record.timeline).contains(wanted) or covers(
            record.gaps, Lost(wanted, wanted.number + 1).as_gap()
        ):
            return False
        return wanted.end <= record.position and wanted.number >= Segment.parse(record.start, record.size).number

    def others(self, store: str) -> dict[str, Record | None]:
        """The other stores' records, but for those that may not be read. Raises DcsUnavailable where one is not known yet."""
        known, now = self._known(store), self._clock.monotonic()
        with self._lock:
            waits = {other: now - since < REFUSED_SECONDS for other, since in self._refused_since.items()}
        unknown = [each for each in self._stores if each != store and each not in known and waits.get(each, True)]
        if unknown:
            raise DcsUnavailable(
                f"record in the DCS: that of the store {unknown[0]} is not known yet",
                hint="walkeeper looks again.",
            )
        return known

    def _known(self, store: str) -> dict[str, Record | None]:
        """The records of the other stores, as far as they were read."""
        with self._lock:
            return {each: self._records[each] for each in self._stores if each != store and each in self._records}

    def position(self, store: str, own: Record, history: History | None = None, *, crowded: bool = False) -> Lsn | None:
        """Where the frontier is that the slot follows, for the archive of ``store``, whose record is ``own``; None where that
        takes a record that is not known. ``history``: as in ``reached``. An archive that has not begun, or is another
        cluster's, is waited for, but not for ever; one whose record a person may have edited, until it is taken over.
        ``crowded``: the disk of pg_wal runs short, so that one store must be enough.
        """
        positions, known = [own.position], self._known(store)
        needed = 1 if crowded else self._durable_in
        for other, record in known.items():
            position = None if record is None else reached(own, record, history)
            if record is not None and not record.is_owners:
                positions.append(Lsn(0))
            elif position is not None:
                with self._lock:
                    self._absent_since.pop(other, None)
                positions.append(position)
            elif self._is_waited_for(other):
                positions.append(Lsn(0))
        if len(positions) < needed and len(known) < len(self._stores) - 1:
            return None
        return followed(positions, needed)

    def _is_waited_for(self, store: str) -> bool:
        with self._lock:
            since = self._absent_since.setdefault(store, self._clock.monotonic())
        return self._clock.monotonic() - since < BEGIN_SECONDS


@dataclass(frozen=True, slots=True)
class HoldSlot:
    """The slot as the archiver of ``store`` moves it."""

    name: str
    store: str
    holding: Holding
    pg_wal: Path
    disks: Callable[[], Iterable[Disk]] = tuple
    """As of ``Sources``."""

    def follows(self, own: Record, history: History) -> Lsn | None:
        """As ``Holding.position``."""
        position = self.holding.position(self.store, own, history)
        furthest = self.holding.position(self.store, own, history, crowded=True)
        if position == furthest:
            return position
        near = position is not None and furthest is not None and furthest - position < RESERVE_SEGMENTS * own.size
        crowded = short_of_disk(self.pg_wal, own.size, tuple if near else self.disks)
        return furthest if crowded else position
