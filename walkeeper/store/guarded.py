"""A store that takes nothing any more once its guard objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from walkeeper.store.base import MAX_OBJECT, Body, ObjectInfo, Store


class Guarded:
    """``check`` raises one of walkeeper's errors, which ``create`` then raises, too."""

    def __init__(self, store: Store, check: Callable[[], None]) -> None:
        self._store = store
        self._check = check

    @property
    def url(self) -> str:
        return self._store.url

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        self._check()
        self._store.create(key, body, metadata)

    def head(self, key: str) -> ObjectInfo | None:
        return self._store.head(key)

    def get(self, key: str, limit: int = MAX_OBJECT) -> Body | None:
        return self._store.get(key, limit)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._store.list(prefix)

    def folders(self, prefix: str) -> Iterator[str]:
        return self._store.folders(prefix)

    def delete(self, key: str) -> None:
        self._store.delete(key)

    def probe(self) -> None:
        self._store.probe()
