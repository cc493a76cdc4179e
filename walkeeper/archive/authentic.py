"""A store that believes an object only if a holder of the key made it, and none that is plain where all are encrypted.

Everything that is written through it carries a code (``walkeeper.core.authentication``), without a request more. What is read is
checked in the same answer. Listings have no metadata: where a name alone says something (starts, gaps, histories, floors, pins),
each listed object is looked at, once; segments are not, so that a listing says how many there are and not whose.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from walkeeper.config import Config
from walkeeper.core.authentication import CODE, Demand, code_of, is_authentic, sums_of
from walkeeper.errors import (
    BadName,
    Changed,
    NotAuthentic,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    StoreUnfit,
    TooLarge,
)
from walkeeper.lib import events
from walkeeper.lib.parallel import in_parallel
from walkeeper.store.base import MAX_OBJECT, Body, ObjectInfo, Store

_ROOT: Final = re.compile(r"(?:[^/]+/){1,2}([0-9]{1,20})/(?=[a-z]+/)")
_BY_NAME: Final = ("start/", "gap/", "history/", "expire/", "pin/")
_AT_ONCE: Final = 8
_CHUNK: Final = 64
"""Names of a listing that are read before the first of them is given on."""
_REMEMBERED: Final = 10_000
"""Names that were found authentic, and are not looked at again: objects are never replaced."""


@dataclass(frozen=True, slots=True)
class Trust:
    """``keys``: the first is for what is written; none: no codes. ``encrypted``: nothing plain is believed."""

    keys: tuple[bytes, ...] = field(default=(), repr=False)
    encrypted: bool = False
    demand: Demand = field(default_factory=Demand)

    @classmethod
    def of(cls, config: Config) -> Trust:
        keys = tuple(key.encode() for key in config.authentication_keys)
        # An identity alone is of an archive that was encrypted once: what is new in it is plain.
        encrypted = bool(config.encryption_recipients or config.plain_before)
        return cls(keys, encrypted, Demand(config.authentic_since, config.plain_before))

    def coded(self, key: str, body: bytes, metadata: Mapping[str, str]) -> Mapping[str, str]:
        """The metadata of an object that is to be stored under ``key``, with a code where there are keys."""
        found = _ROOT.match(key)
        if found is None or not self.keys:
            return metadata
        metadata = sums_of(body, metadata)
        return {**metadata, CODE: code_of(self.keys[0], int(found[1]), key[found.end() :], metadata)}

    def check_body(self, key: str, body: Body) -> None:
        """As ``check``, of bytes that are here. Raises NotAuthentic."""
        if self.check(key, len(body), body.metadata):
            sha256 = hashlib.sha256(body).hexdigest()
            if not hmac.compare_digest(sha256, body.metadata["packed-sha256"]):
                raise Changed(
                    f"{key}: its content is not what its authentication code says", hint="The object was changed."
                )

    def check(self, key: str, size: int, metadata: Mapping[str, str]) -> bool:
        """Whether there is a code, and it is right. Raises NotAuthentic."""
        found = _ROOT.match(key)
        if found is None:
            return False
        name, demand = key[found.end() :], self.demand
        if self.encrypted and demand.encryption(name):
            raise NotAuthentic(
                f"{key}: it is plain, and this archive is encrypted",
                hint="If the archive was plain once, encryption.plain_before says up to which segment. If it never was, somebody "
                "planted that object: look at who may write there, and move it away.",
            )
        if not self.keys:
            return False
        if CODE not in metadata and not demand.code(name):
            return False
        if CODE not in metadata:
            raise NotAuthentic(
                f"{key}: it has no authentication code",
                hint="If somebody without the key stored it, move it away. Or a copy left its metadata behind; "
                "authentication.since says from which segment on there must be one.",
            )
        if not is_authentic(self.keys, int(found[1]), name, metadata):
            raise NotAuthentic(
                f"{key}: its authentication code is not one of the keys here",
                hint="Somebody without the key stored it, or authentication.key_files lacks the key of that time.",
            )
        if metadata.get("packed-size") != str(size):
            raise Changed(f"{key}: {size} bytes, its authentication code says otherwise", hint="It was changed.")
        return True


class AuthenticStore:
    """Safe for several threads if the store is. NotAuthentic: the name is taken, and what has it counts for nothing."""

    def __init__(self, store: Store, trust: Trust) -> None:
        self._store = store
        self._trust = trust
        self._known: set[str] = set()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self._store.url

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        self._store.create(key, body, self._trust.coded(key, body, metadata))

    def head(self, key: str) -> ObjectInfo | None:
        """Raises NotAuthentic, too."""
        info = self._store.head(key)
        if info is not None:
            self._trust.check(key, info.size, info.metadata)
        return info

    def get(self, key: str, limit: int = MAX_OBJECT) -> Body | None:
        """Raises NotAuthentic, too; of one that cannot be read as well, if its metadata can."""
        try:
            body = self._store.get(key, limit)
        except (TooLarge, StoreDenied):
            with contextlib.suppress(StoreError):
                self.head(key)
            raise
        if body is not None:
            self._trust.check_body(key, body)
        return body

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        listed = self._store.list(prefix)
        if not self._trust.keys:
            yield from listed
            return
        while some := list(islice(listed, _CHUNK)):
            doubted = [info.key for info in some if _says_by_name(info.key) and info.key not in self._known]
            looks = dict(in_parallel(self._look_at, doubted, min(_AT_ONCE, len(doubted))))
            yield from (info for info in some if looks.get(info.key, True))

    def folders(self, prefix: str) -> Iterator[str]:
        return self._store.folders(prefix)

    def delete(self, key: str) -> None:
        self._store.delete(key)

    def probe(self) -> None:
        """That metadata stay, too: a code is one."""
        self._store.probe()
        if not self._trust.keys:
            return
        key = f"probe/{uuid.uuid4()}"
        self._store.create(key, b"x", {CODE: "probe"})
        try:
            info = self._store.head(key)
            if info is None or info.metadata.get(CODE) != "probe":
                raise StoreUnfit(
                    f"{self.url}: it loses the metadata of objects, and with them authentication codes",
                    hint="A directory's file system must keep extended attributes (user_xattr); or do without authentication.",
                )
        finally:
            with contextlib.suppress(StoreDenied, StoreUnavailable):
                self._store.delete(key)

    def _look_at(self, key: str) -> tuple[str, bool]:
        try:
            self.head(key)
        except (NotAuthentic, BadName) as problem:  # of a name that no key has, neither
            events.failure("object_not_authentic", problem, key=key)
            return key, False
        with self._lock:
            if len(self._known) < _REMEMBERED:
                self._known.add(key)
        return key, True


def _says_by_name(key: str) -> bool:
    found = _ROOT.match(key)
    return found is not None and key.startswith(_BY_NAME, found.end())


def believing(store: Store, config: Config) -> Store:
    """The store, with what the configuration demands of objects."""
    trust = Trust.of(config)
    return AuthenticStore(store, trust) if trust.keys or trust.encrypted else store
