"""The agent's side of restore-wal: it has the store open and warm, and lays the file ready beside where it is wanted.

The client renames it, so that nothing appears under PostgreSQL's name when PostgreSQL has given up meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from walkeeper import durable
from walkeeper.archive import fetch
from walkeeper.codec import Codec
from walkeeper.errors import CannotTell
from walkeeper.layout import Layout
from walkeeper.restore import read_system_identifier
from walkeeper.store.base import Store

AT_ONCE: Final = 4
"""Requests that are worked on together: each may hold a whole segment in memory, packed and plain."""


class Restoring:
    """Answers ``restore`` requests on the control socket. Safe for several threads."""

    def __init__(self, store: Store, scope: str, group: int | None, codec: Codec) -> None:
        self._store = store
        self._scope = scope
        self._group = group
        self._codec = codec
        self._places = threading.BoundedSemaphore(AT_ONCE)

    def answer(self, request: dict[str, Any]) -> Mapping[str, Any]:
        """``file``, ``destination`` (absolute) and the client's ``pid`` to ``delivered`` and, if so, ``path``.

        Raises CannotTell, BadName or the store's errors, which become the reply.
        """
        name, destination, pid = request.get("file"), request.get("destination"), request.get("pid")
        if not isinstance(name, str) or not isinstance(destination, str) or not isinstance(pid, int):
            raise CannotTell("restore: the request is not understood")
        place = Path(destination)
        layout = Layout(self._scope, self._group, read_system_identifier(place.parent.parent))
        with self._places:
            plain = fetch(self._store, layout, self._codec, name)
            if plain is None:
                return {"delivered": False}
            try:
                return {"delivered": True, "path": str(durable.lay_ready(place, plain, pid))}
            except OSError as error:
                raise CannotTell(f"{place}: {error.strerror}", hint="The data directory must be writable.") from None
