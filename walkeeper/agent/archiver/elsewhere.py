"""The cluster's other stores: each has an archive of its own, and may have WAL that this one lacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from walkeeper.archive.read import Reader
from walkeeper.archive.write import Archive
from walkeeper.core.history import History
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.suspicion import Suspicions
from walkeeper.errors import StoreError, StoreUnavailable, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.deadline import Deadline, DeadlineExceeded

PATIENCE: Final = 10.0
"""Seconds that another store has for an answer, beside those for the bytes of a segment."""
SLOWEST: Final = 2 * 1024 * 1024
"""Bytes of it in a second that the store has to deliver."""
GONE_SECONDS: Final = 30.0
"""Seconds without an answer after which nobody waits for a store while the disk of pg_wal runs short. One look may fail."""
TOLD: Final = 64
"""Problems that are remembered as told."""


@dataclass(frozen=True, slots=True)
class OtherStore:
    """One of them. ``promises`` tells whether its record says that its archive has that segment of a chain."""

    name: str
    reader: Reader
    promises: Callable[[Segment, History], bool]

    @property
    def called(self) -> str:
        """As who is waited for, beside members."""
        return f"the store {self.name}"


class OtherStores:
    """Asks them for one archive's chain. For one thread."""

    def __init__(self, stores: Sequence[OtherStore], archive: Archive, history: History) -> None:
        self.names = [store.called for store in stores]
        self._stores = stores
        self._archive = archive
        self._history = history
        self._away: set[str] = set()
        self._silent_since: dict[str, float] = {}
        self._said: set[str] = set()
        self._broken: set[tuple[str, Segment]] = set()
        """What a store has said that it lacks, or has given damaged."""
        self._failed: dict[tuple[str, Segment], str] = {}
        """Segments that a store failed at, and why, the longest ago first."""
        self._deadlines = {store.name: Deadline(store.called) for store in stores}

    def look(self) -> None:
        """Ask all of them again; one that fails is left alone until the next look. What it failed at is asked for last, so that
        an object that never comes hides none.
        """
        self._away.clear()

    def put_off(self, wanted: Suspicions) -> list[Segment]:
        """What of that a store has failed at, for the end of a look, the longest ago first."""
        return list(dict.fromkeys(segment for _, segment in self._failed if segment.number in wanted))

    def due(self, called: str, wanted: Suspicions) -> Iterator[Segment]:
        """What that store was not asked for yet, or did not answer, but for what is put off."""
        return (each for each in wanted.wanted_from(called) if (called, each) not in self._failed)

    def failure(self, wanted: Segment) -> str:
        """What a store failed of at that segment; empty where none did."""
        return next((why for (_, segment), why in self._failed.items() if segment == wanted), "")

    def promising(self, wanted: Segment, answered: float = -math.inf) -> list[str]:
        """Those whose record says that they have that segment, and that have said or given nothing against it; but not those that
        have been silent since before ``answered``.
        """
        return [
            store.called
            for store in self._stores
            if self._silent_since.get(store.name, math.inf) >= answered
            and (store.name, wanted) not in self._broken
            and store.promises(wanted, self._history)
        ]

    def take(self, wanted: Segment, suspicions: Suspicions, now: float, *, last: bool = False) -> Receipt | None:
        """From the first that has it; who has not is noted in ``suspicions``. ``last``: also from who has failed at it before.

        Raises the errors of the archive that takes it.
        """
        for store in self._stores:
            key = store.called, wanted
            if store.name in self._away or (key in self._failed and not last):
                continue
            try:
                plain = self._delivered(store, wanted)
                packed = None if plain is None else self._archive.pack(wanted, plain, self._history)
            except WalkeeperError as problem:
                if isinstance(problem, StoreError):
                    self._away.add(store.name)
                    self._silent_since.setdefault(store.name, now)
                    self._failed.pop(key, None)
                    self._failed[key] = str(problem)
                else:
                    self._failed.pop(key, None)
                    self._broken.add((store.name, wanted))
                self._tell(store, wanted, problem)
                continue
            self._silent_since.pop(store.name, None)
            self._failed.pop(key, None)
            if packed is None:
                self._broken.add((store.name, wanted))
                suspicions.refuse(store.called, wanted.number, now)
                continue
            self._broken.discard((store.name, wanted))
            receipt = self._archive.put(packed)
            events.info("fetched_from_store", segment=wanted, from_store=store.name)
            return receipt
        return None

    def _delivered(self, store: OtherStore, wanted: Segment) -> bytes | None:
        """However long that store hangs: the end of this archiver waits for who calls this. Raises StoreUnavailable, then."""
        seconds = PATIENCE + wanted.size / SLOWEST
        try:
            return self._deadlines[store.name].call(
                lambda: store.reader.deliver(self._archive.layout, wanted.name, wanted.size), seconds
            )
        except DeadlineExceeded:
            raise StoreUnavailable(f"{store.called}: it did not deliver {wanted} within {seconds:.0f} s") from None

    def _tell(self, store: OtherStore, wanted: Segment, problem: WalkeeperError) -> None:
        """What fails in the same way for an hour is told of once."""
        if str(problem) in self._said:
            return
        if len(self._said) >= TOLD:
            self._said.clear()
        self._said.add(str(problem))
        events.failure("not_fetched_from_store", problem, segment=wanted, from_store=store.name)
