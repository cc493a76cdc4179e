"""What the stores over HTTP have in common: what an absence and a confirmation prove, and when credentials are read again."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import Final, Generic, Protocol, Self, TypeVar

from walkeeper.errors import NotFound, StoreDenied, StoreUnavailable
from walkeeper.lib.clock import Clock, SystemClock
from walkeeper.store.base import MAX_OBJECT, Body, ObjectInfo
from walkeeper.store.object_key import check_key

CREDENTIALS_AGE: Final = 5.0
"""Seconds: how soon after reading the credentials they may be read again, when the store denies."""
WAY: Final = "Look at what lies between here and the store, and at the store itself."


class BucketSettings(Protocol):
    @property
    def prefix(self) -> str:
        """In front of every key, without a slash at its end."""

    @property
    def place(self) -> str:
        """The bucket or container as a URL, for people, without the prefix."""

    def checked(self) -> Self:
        """As in StoreSettings."""

    def with_secret_again(self) -> Self:
        """The same, with the secrets that their files hold now."""


_Settings = TypeVar("_Settings", bound=BucketSettings)
_Client = TypeVar("_Client")


class Bucket(Generic[_Settings, _Client]):
    """A store's driver without its requests: those are the driver's, and raise walkeeper's errors.

    One client for all threads, made at the first call and again when credentials were refused.
    """

    def __init__(self, settings: _Settings, clock: Clock | None = None) -> None:
        """Raises ConfigError; asks nobody anything yet."""
        self._settings = settings.checked()
        self._base = f"{self._settings.prefix}/" if self._settings.prefix else ""
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._client: _Client | None = None
        self._built_at = 0.0
        self._denied = False
        """Whether the credentials were refused since they were read."""

    @property
    def url(self) -> str:
        return f"{self._settings.place}/{self._base}".rstrip("/")

    def head(self, key: str) -> ObjectInfo | None:
        check_key(key)
        try:
            return self._head(key)
        except NotFound:
            self._confirm_absent(key)
            return None
        except StoreDenied:
            with contextlib.suppress(NotFound, StoreUnavailable):
                self._first_byte(key)  # HEAD's refusal has no body, and GET's says why
            raise

    def get(self, key: str, limit: int = MAX_OBJECT) -> Body | None:
        check_key(key)
        try:
            return self._get(key, limit)
        except NotFound as error:
            if error.proved:
                return None
            raise

    def delete(self, key: str) -> None:
        check_key(key)
        try:
            self._delete(key)
        except NotFound as error:
            if not error.proved:
                raise

    def _head(self, key: str) -> ObjectInfo:
        raise NotImplementedError

    def _get(self, key: str, limit: int) -> Body:
        raise NotImplementedError

    def _first_byte(self, key: str) -> None:
        """Ask for it with GET, and take nothing."""
        raise NotImplementedError

    def _delete(self, key: str) -> None:
        raise NotImplementedError

    def _build(self) -> _Client:
        """A client, by ``_settings``."""
        raise NotImplementedError

    def _name(self, key: str) -> str:
        """An object for people, who may look after several buckets."""
        return f"{self._settings.place}/{self._base}{key}"

    def _confirm(self, key: str, size: int, metadata: Mapping[str, str]) -> None:
        """Of an object whose PUT was answered without a sum that tells."""
        info = self.head(key)
        if info is None or info.size != size or dict(info.metadata) != dict(metadata):
            raise StoreUnavailable(
                f"{self._name(key)}: not durable: the store confirmed it and describes something else", hint=WAY
            )

    def _confirm_absent(self, key: str) -> None:
        """That the object is missing, and not the bucket. HEAD answers 404 to both, and without a body."""
        try:
            self._first_byte(key)
        except NotFound as error:
            if error.proved:
                return
            raise
        raise StoreUnavailable(
            f"{self._name(key)}: not there for HEAD and there for GET",
            hint="Normal for a moment while it is written. If it stays so, look at what lies between here and the store.",
        )

    def _connected(self) -> _Client:
        """The client; a new one, with credentials read again, after a denial, at most every CREDENTIALS_AGE seconds."""
        with self._lock:
            now = self._clock.monotonic()
            if self._client is None or (self._denied and now - self._built_at >= CREDENTIALS_AGE):
                self._built_at = now
                if self._denied:
                    self._settings = self._settings.with_secret_again()
                self._denied = True  # also where nothing can be made of what the file holds now
                self._client = self._build()
                self._denied = False
            return self._client
