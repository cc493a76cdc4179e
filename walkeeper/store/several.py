"""A cluster's stores, read as one: what the first that has it says. Each keeps an archive of its own; here none is written."""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final, TypeVar

from walkeeper.errors import WalkeeperError
from walkeeper.store.base import MAX_OBJECT, AlreadyThere, Body, ObjectInfo, Store

LAST_SECONDS: Final = 60.0
"""Seconds for which one that failed is asked after the others."""
_T = TypeVar("_T")


class Several:
    """Safe for several threads if the stores are. That something is not there is said only when each of them has said so: one
    that fails may have it, and its error is raised.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        """``stores``: two or more, the first first."""
        self.stores = tuple(stores)
        self._failed_at: dict[int, float] = {}

    @property
    def url(self) -> str:
        return " and ".join(store.url for store in self.stores)

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        """In each that can take it, for pins: who deletes from one store asks that one."""
        created = deque[bool]()

        def create(store: Store) -> None:
            try:
                store.create(key, body, metadata)
            except AlreadyThere:
                created.append(False)
            else:
                created.append(True)

        self._in_each(create)
        if not created[0]:  # who creates it in the first that answers is the one
            raise AlreadyThere(key)

    def head(self, key: str) -> ObjectInfo | None:
        return self._first(lambda store: store.head(key))

    def get(self, key: str, limit: int = MAX_OBJECT) -> Body | None:
        return self._first(lambda store: store.get(key, limit))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Of all of them; a key that several have is the first's."""
        merged = heapq.merge(*(store.list(prefix) for store in self.stores), key=attrgetter("key"))
        return (next(infos) for _, infos in groupby(merged, key=attrgetter("key")))

    def folders(self, prefix: str) -> Iterator[str]:
        found = {name for store in self.stores for name in store.folders(prefix)}
        return iter(sorted(found, key=lambda name: f"{name}/"))

    def delete(self, key: str) -> None:
        self._in_each(lambda store: store.delete(key))

    def probe(self) -> None:
        for store in self.stores:
            store.probe()

    def _first(self, ask: Callable[[Store], _T | None]) -> _T | None:
        problem: WalkeeperError | None = None
        for number in self._order():
            try:
                found = ask(self.stores[number])
            except WalkeeperError as error:
                self._failed_at[number] = time.monotonic()
                problem = problem or error
                continue
            self._failed_at.pop(number, None)
            if found is not None:
                return found
        if problem is not None:
            raise problem
        return None

    def _order(self) -> Iterable[int]:
        late = time.monotonic() - LAST_SECONDS
        return sorted(range(len(self.stores)), key=lambda number: self._failed_at.get(number, -math.inf) > late)

    def _in_each(self, do: Callable[[Store], None]) -> None:
        """Raises the first problem where not one of them does it."""
        problems = deque[WalkeeperError]()
        for store in self.stores:
            try:
                do(store)
            except WalkeeperError as problem:
                problems.append(problem)
        if len(problems) == len(self.stores):
            raise problems[0]
