"""A store whose calls may never come back, as those of a directory whose mount hangs: each behind a time limit.

A system call that hangs cannot be ended. It is left behind in its thread, and what it was asked for may still happen: as with
any answer that was lost, the next attempt finds out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final, TypeVar

from walkeeper.errors import StoreUnavailable
from walkeeper.lib.deadline import DeadlineExceeded, Deadlines
from walkeeper.store.base import MAX_OBJECT, Body, ObjectInfo, Store

LONGEST_CALL: Final = 65.0
"""Seconds, without those for the bytes of an object: as for a bucket with its default time-outs."""
SLOWEST: Final = 1024 * 1024
"""Bytes a second, above what a store over a network may need: how large an object is is only known once it is open."""
_AT_ONCE: Final = 1000
"""Names of a listing between two looks at the time."""

_T = TypeVar("_T")


class Limited:
    """``seconds`` for a call that carries no object."""

    def __init__(self, store: Store, seconds: float = LONGEST_CALL) -> None:
        self._store = store
        self._seconds = seconds
        self._calls = Deadlines("store")

    @property
    def url(self) -> str:
        return self._store.url

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        self._within(key, lambda: self._store.create(key, body, metadata), len(body))

    def head(self, key: str) -> ObjectInfo | None:
        return self._within(key, lambda: self._store.head(key))

    def get(self, key: str, limit: int = MAX_OBJECT) -> Body | None:
        """How large it is is not known before; the limit says how long it may take at most."""
        return self._within(key, lambda: self._store.get(key, limit), limit)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found = self._store.list(prefix)
        while part := self._within(prefix, lambda: list(islice(found, _AT_ONCE))):
            yield from part

    def folders(self, prefix: str) -> Iterator[str]:
        yield from self._within(prefix, lambda: list(self._store.folders(prefix)))

    def delete(self, key: str) -> None:
        self._within(key, lambda: self._store.delete(key))

    def probe(self) -> None:
        self._within("", self._store.probe)

    def _within(self, key: str, call: Callable[[], _T], size: int = 0) -> _T:
        try:
            return self._calls.call(call, self._seconds + size / SLOWEST)
        except DeadlineExceeded as problem:
            raise StoreUnavailable(
                f"{self.url}{'/' if key else ''}{key}: {problem}",
                hint="Look at the mount and at what it is mounted from.",
            ) from None
