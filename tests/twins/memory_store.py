"""A store in memory, with a hook before and after each call, in which a test can wait, raise, or note what happened."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

from walkeeper.errors import StoreUnavailable
from walkeeper.store.base import MAX_OBJECT, AlreadyThere, Body, ObjectInfo, too_large
from walkeeper.store.object_key import check_folder, check_key, check_list_prefix, check_metadata
from walkeeper.store.probe import prove

Hook = Callable[[str, str], None]


class MemoryStore:
    """``before`` and ``after`` get the method's name and the key or prefix.

    What ``before`` raises happens instead of the call; what ``after`` raises is an answer that got lost: the call took
    effect. ``down`` makes every call fail. ``calls`` lists all that were made. ``objects`` may be changed freely.
    """

    def __init__(self, *, before: Hook | None = None, after: Hook | None = None) -> None:
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.calls: list[tuple[str, str]] = []
        self.before = before
        self.after = after
        self.down = False
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return "memory://store"

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        check_key(key)
        check_metadata(metadata)
        self._enter("create", key)
        with self._lock:
            if key in self.objects:
                raise AlreadyThere(key)
            self.objects[key] = (bytes(body), dict(metadata))
        self._leave("create", key)

    def head(self, key: str) -> ObjectInfo | None:
        check_key(key)
        self._enter("head", key)
        with self._lock:
            found = self.objects.get(key)
        self._leave("head", key)
        return None if found is None else ObjectInfo(key, len(found[0]), dict(found[1]))

    def get(self, key: str, limit: int = MAX_OBJECT) -> Body | None:
        check_key(key)
        self._enter("get", key)
        with self._lock:
            found = self.objects.get(key)
        self._leave("get", key)
        if found is not None and len(found[0]) > limit:
            raise too_large(key, len(found[0]), limit)
        return None if found is None else Body.of(*found)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_list_prefix(prefix)
        self._enter("list", prefix)
        with self._lock:
            found = sorted((key, len(body)) for key, (body, _) in self.objects.items() if key.startswith(prefix))
        self._leave("list", prefix)
        for key, size in found:
            yield ObjectInfo(key, size, {})

    def folders(self, prefix: str) -> Iterator[str]:
        check_folder(prefix)
        self._enter("folders", prefix)
        with self._lock:
            below = (key.removeprefix(prefix).partition("/") for key in self.objects if key.startswith(prefix))
            found = sorted({name + slash for name, slash, _ in below if slash})
        self._leave("folders", prefix)
        yield from (name[:-1] for name in found)

    def delete(self, key: str) -> None:
        check_key(key)
        self._enter("delete", key)
        with self._lock:
            self.objects.pop(key, None)
        self._leave("delete", key)

    def probe(self) -> None:
        prove(self, overwrites_hint="", needs_metadata=True)

    def _enter(self, method: str, key: str) -> None:
        with self._lock:
            self.calls.append((method, key))
        if self.before is not None:
            self.before(method, key)
        if self.down:
            raise StoreUnavailable(f"{key}: the store is down", hint="A test took it down.")

    def _leave(self, method: str, key: str) -> None:
        if self.after is not None:
            self.after(method, key)
