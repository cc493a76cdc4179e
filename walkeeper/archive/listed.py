"""What a store lists of sixteen segments at once: a backlog need not ask for each other name that each of them may have."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection
from contextlib import suppress
from itertools import islice
from typing import Final

from walkeeper.archive.codec import STORED
from walkeeper.archive.write import Archive
from walkeeper.core.names import Segment
from walkeeper.errors import WalkeeperError
from walkeeper.lib.clock import since_boot

HOLDS: Final = 10.0
"""Seconds for which a listing is believed, from before it was asked for: what comes meanwhile under another name is not seen.
They go on while the machine sleeps, as other writers do."""
REST: Final = 60.0
"""Seconds without another one after one that failed, was slow or had too much: each name can be asked for."""
MOST: Final = 1000
"""Keys that a listing may have, which is one request: sixteen segments have some dozen, with .partial and .backup."""


class Listed:
    """One archive's. Safe for several threads if the store is: one lists, the others wait for that."""

    def __init__(self, archive: Archive) -> None:
        self._store = archive.store
        self._layout = archive.layout
        self._known: dict[str, tuple[float, frozenset[str]]] = {}
        """By the beginning of their keys: when those of sixteen segments were asked for, and those that are there."""
        self._rests_until = 0.0
        self._lock = threading.Lock()

    def suffixes(self, segment: Segment, *, ask: bool) -> Collection[str] | None:
        """Those that are listed of it; None where nobody knows. ``ask``: list what is not known yet."""
        key = self._layout.file(segment, "")
        beginning = key[:-1]
        if ask and self._believed(beginning) is None:
            with self._lock:
                if self._believed(beginning) is None and since_boot() >= self._rests_until:
                    self._list(beginning)
        keys = self._believed(beginning)
        return None if keys is None else [suffix for suffix in STORED if key + suffix in keys]

    def _believed(self, beginning: str) -> Collection[str] | None:
        asked_at, keys = self._known.get(beginning, (-math.inf, None))
        return keys if since_boot() - asked_at < HOLDS else None

    def _list(self, beginning: str) -> None:
        self._known = {each: known for each, known in self._known.items() if self._believed(each) is not None}
        asked_at = since_boot()
        with suppress(WalkeeperError):  # whoever asks for each name then meets what is wrong
            found = [info.key for info in islice(self._store.list(beginning), MOST + 1)]
            if len(found) <= MOST:
                names = frozenset(key for key in found if key[len(beginning) + 1 :] in STORED)
                self._known[beginning] = asked_at, names
        if self._believed(beginning) is None:
            self._rests_until = since_boot() + REST
