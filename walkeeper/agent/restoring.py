"""The agent's side of restore-wal: it has the store open and warm, and lays the file ready beside where it is wanted.

The client renames it, so that nothing appears under PostgreSQL's name when PostgreSQL has given up meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from walkeeper import durable
from walkeeper.archive import fetch
from walkeeper.clock import Clock
from walkeeper.codec import Codec
from walkeeper.errors import CannotTell, StoreError
from walkeeper.layout import Layout
from walkeeper.restore import read_system_identifier
from walkeeper.store.base import Store

SILENCE: Final = 1.0
"""Seconds after which a store that has not answered yet is taken for one that does not."""
TROUBLE: Final = 5.0
"""Seconds for which a store that failed is not asked again for anybody: a promotion makes several calls in a row."""
AT_ONCE: Final = 4
"""Requests that are worked on together: each may hold a whole segment in memory, packed and plain."""


class Restoring:
    """Answers ``restore`` requests on the control socket. Safe for several threads."""

    def __init__(self, store: Store, scope: str, group: int | None, codec: Codec, clock: Clock) -> None:
        self._store = store
        self._scope = scope
        self._group = group
        self._codec = codec
        self._clock = clock
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._under_way: list[float] = []
        self._failed_at: float | None = None

    def answer(self, request: dict[str, Any]) -> Mapping[str, Any]:
        """``file``, ``destination`` (absolute) and the client's ``pid`` to ``delivered`` and, if so, ``path``.

        Raises CannotTell, BadName or the store's errors, which become the reply.
        """
        name, destination, pid = request.get("file"), request.get("destination"), request.get("pid")
        if not isinstance(name, str) or not isinstance(destination, str) or not isinstance(pid, int):
            raise CannotTell("restore: the request is not understood")
        place = Path(destination)
        layout = Layout(self._scope, self._group, read_system_identifier(place.parent.parent))
        with self._watched(), self._places:
            plain = fetch(self._store, layout, self._codec, name)
        if plain is None:
            return {"delivered": False}
        try:
            return {"delivered": True, "path": str(durable.lay_ready(place, plain, pid))}
        except OSError as error:
            raise CannotTell(f"{place}: {error.strerror}", hint="The data directory must be writable.") from None

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Raises CannotTell at once while the store is known to fail or to say nothing."""
        begun = self._clock.monotonic()
        with self._lock:
            failed = self._failed_at is not None and begun - self._failed_at < TROUBLE
            if failed or any(begun - earlier > SILENCE for earlier in self._under_way):
                raise CannotTell(f"{self._store.url}: it does not answer at the moment", hint="See the agent's log.")
            self._under_way.append(begun)
        failed_at = None
        try:
            yield
        except StoreError:
            failed_at = self._clock.monotonic()
            raise
        finally:
            with self._lock:
                self._under_way.remove(begun)
                self._failed_at = failed_at
