"""The pin of a restore: renewed while its server recovers, so that expire keeps what is still to be read; let go after that.

The data directory names it (``state``). Looked at seldom, beside the answers: a pin lasts for days, and no recovery waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec

from walkeeper.archive.expiry import NOT_PINNED, let_go, renewed, write_pin_in_each
from walkeeper.archive.layout import Layout
from walkeeper.core.floor import LONGEST_PIN, MAX_FLOOR_BYTES, Pin, decode, moment
from walkeeper.errors import WalkeeperError
from walkeeper.lib import durable, events
from walkeeper.lib.clock import Clock, timestamp
from walkeeper.restore import state
from walkeeper.store.base import Store

LOOKED: Final = 3600.0
"""Seconds between two looks at one data directory's pin."""
_LEFT: Final = timedelta(seconds=LONGEST_PIN - 86400)
"""A pin that lasts no longer than that is renewed: once a day."""


class Pins:
    """For one store and several threads. ``ahead``: by how many seconds the store's clock is before ours."""

    def __init__(self, store: Store, clock: Clock, ahead: Callable[[], float | None]) -> None:
        self._store = store
        self._clock = clock
        self._ahead = ahead
        self._lock = threading.Lock()
        self._next: dict[Path, float] = {}

    def look(self, layout: Layout, data_directory: Path, *, recovers: bool) -> None:
        """Returns at once. ``recovers``: the server there is in archive recovery; else it is over."""
        with self._lock:
            now = self._clock.monotonic()
            if now < self._next.get(data_directory, now):
                return
            self._next[data_directory] = now + LOOKED
        threading.Thread(
            target=self.tend, args=(layout, data_directory, recovers), name="restore-pin", daemon=True
        ).start()

    def tend(self, layout: Layout, data_directory: Path, recovers: bool) -> None:
        """Never raises: without it the restore goes on, and expire may end it."""
        try:
            found = state.read(data_directory)
            if (
                found is None
                or not found.pin
                or found.phase == "writing"
                or found.asked.use == "replica"  # a standby is in recovery for ever: its pin runs out by itself
                or found.asked.system_identifier != layout.system_identifier
            ):
                return
            key = layout.pin(found.pin)
            body = self._store.get(key, MAX_FLOOR_BYTES)
            if body is None:
                return
            pin = decode(Pin, body, key)
            if not recovers:
                let_go(self._store, layout, pin.id)
                self._note(data_directory, found, "")
            elif moment(pin.until) - moment(timestamp(self._ahead() or 0.0)) <= _LEFT:
                newer = renewed(pin, self._ahead() or 0.0)
                refused = write_pin_in_each(self._store, layout, newer)
                for why in refused:
                    events.warning("not_pinned", pin=newer.id, error=why, hint=NOT_PINNED)
                self._note(data_directory, found, newer.id)
                if not refused:  # else who did not take the newer one has this one still, which ends by itself
                    let_go(self._store, layout, pin.id)
        except (WalkeeperError, OSError) as problem:
            events.failure("pin_not_renewed", problem, data_directory=data_directory)

    def _note(self, data_directory: Path, found: state.State, pin: str) -> None:
        durable.place(data_directory / state.NAME, state.encode(msgspec.structs.replace(found, pin=pin)))
