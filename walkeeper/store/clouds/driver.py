"""A store in a bucket of Google's or in a container of Azure's, spoken to with obstore."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import obstore
import obstore.store
from obstore.exceptions import BaseError

from walkeeper.errors import StoreDenied, StoreError, StoreUnavailable
from walkeeper.lib.awaited import Awaited, Limit, Overdue
from walkeeper.store.base import SLOWEST, AlreadyThere, Body, ObjectInfo, too_large
from walkeeper.store.bucket import WAY, Bucket
from walkeeper.store.clouds.answers import read, store_error, there
from walkeeper.store.object_key import check_folder, check_key, check_list_prefix, check_metadata
from walkeeper.store.probe import prove

if TYPE_CHECKING:
    from obstore import ListStream, ObjectMeta
    from obstore.store import AzureStore, GCSStore

    from walkeeper.store.clouds.keys import CloudSettings  # noqa: F401 - named as text, in the base of a class

PIECE: Final = 1024 * 1024
"""Bytes that are read at a time: what comes in the end is counted by them."""
PAGE: Final = 1000
"""Names that a listing brings at a time."""

_OURS_TO_LIMIT: Final = timedelta(days=1)

_Client: TypeAlias = "GCSStore | AzureStore"
_T = TypeVar("_T")

_calls: Final = Awaited("clouds")


class CloudStore(Bucket["CloudSettings", "_Client"]):
    """What ``settings`` leave out is obstore's to find: environment, files of Google's tools, the machine's or the pod's
    identity.
    """

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        check_key(key)
        check_metadata(metadata)
        attributes = {self._settings.metadata_name(name): value for name, value in metadata.items()}
        try:
            answer = self._call(
                self._name(key),
                lambda client, _: obstore.put_async(
                    client, self._base + key, body, mode="create", attributes=attributes, use_multipart=False
                ),
                creates=len(body),
            )
        except StoreDenied:
            # Rights or tokens that let nobody overwrite: the refusal comes before the condition is looked at.
            with contextlib.suppress(StoreError):
                if self.head(key) is not None:
                    raise AlreadyThere(key) from None
            raise
        if not self._settings.tells_md5 or (answer["e_tag"] or "").strip('"') != _md5(body):
            self._confirm(key, len(body), metadata)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_list_prefix(prefix)
        name, folder = self._name(prefix), self._folder(prefix)
        found = self._call(name, lambda client, _: _ready(obstore.list(client, folder, chunk_size=PAGE)))
        last = ""
        while page := self._call(name, lambda _, __: _next(found)):
            for entry in page:
                key = entry["path"].removeprefix(self._base)
                # What marks an empty folder has a slash at its end, which the library takes off.
                if entry["path"] == folder:
                    continue
                if key < last <= f"{key}/" and entry["size"] == 0:
                    last = f"{key}/"
                    continue
                if key < last:
                    raise StoreUnavailable(
                        f"{self.url}: its listing is out of order at {key}",
                        hint="A storage account with a hierarchical namespace lists so: use one without. So does an object whose "
                        "name ends with a slash: move it away.",
                    )
                if not key.startswith(prefix):
                    if key > prefix:
                        return
                elif key != last:
                    yield ObjectInfo(key, entry["size"], {}, entry["last_modified"])
                last = key

    def folders(self, prefix: str) -> Iterator[str]:
        check_folder(prefix)
        found = self._call(
            self._name(prefix), lambda client, _: obstore.list_with_delimiter_async(client, self._folder(prefix))
        )
        start = len(self._base + prefix)
        for name in sorted(f"{each.removesuffix('/')[start:]}/" for each in found["common_prefixes"]):
            yield name[:-1]

    def probe(self) -> None:
        prove(
            self, overwrites_hint="The store does not honour the condition of a PUT: use another.", needs_metadata=True
        )

    def _head(self, key: str) -> ObjectInfo:
        answer = self._call(
            self._name(key),
            lambda client, _: obstore.get_async(client, self._base + key, options={"head": True}),
        )
        return ObjectInfo(key, answer.meta["size"], self._metadata(answer.attributes))

    def _first_byte(self, key: str) -> None:
        self._call(
            self._name(key),
            lambda client, _: obstore.get_async(client, self._base + key, options={"range": (0, 1)}),
        )

    def _get(self, key: str, limit: int) -> Body:
        return self._call(self._name(key), lambda client, time_left: self._read(client, time_left, key, limit))

    def _delete(self, key: str) -> None:
        self._call(self._name(key), lambda client, _: obstore.delete_async(client, self._base + key))

    def _build(self) -> _Client:
        """Raises the library's errors, or StoreDenied where no credentials or certificates can be made of what is there."""
        settings = self._settings
        options: dict[str, Any] = {
            "allow_http": (settings.endpoint or "").startswith("http:"),
            "connect_timeout": timedelta(seconds=settings.connect_timeout),
            "timeout": _OURS_TO_LIMIT,
        }
        try:
            if settings.ca_file is not None:
                options["root_certificate"] = settings.ca_file.read_bytes()
            client: _Client = getattr(obstore.store, settings.library)(
                config=settings.for_the_library,
                client_options=options,
                retry_config={"max_retries": 0, "retry_timeout": _OURS_TO_LIMIT},
            )
        except (BaseError, OSError, ValueError) as error:
            raise StoreDenied(
                f"{settings.place}: {read(str(error))}",
                hint="Look at the file or the variable with the credentials, and at ca_file. An agent reads them again by "
                "itself.",
            ) from None
        return client

    def _folder(self, prefix: str) -> str | None:
        """Where to list: the library takes whole folders only, and what else is in it is left out here."""
        return (self._base + prefix).rpartition("/")[0] or None

    def _metadata(self, attributes: Mapping[Any, str]) -> dict[str, str]:
        """Ours: in lower case, as only the store's own (Content-Type and such) are not."""
        return {self._settings.metadata_name(name): value for name, value in attributes.items() if name == name.lower()}

    async def _read(self, client: _Client, time_left: Limit, key: str, limit: int) -> Body:
        answer = await obstore.get_async(client, self._base + key)
        size = answer.meta["size"]
        if size > limit:
            raise too_large(self._name(key), size, limit)
        pieces, length = [], 0
        async for piece in answer.stream(min_chunk_size=PIECE):
            time_left.extend(len(piece) / SLOWEST)
            pieces.append(piece)
            length += len(piece)
            if length > size:
                break
        if length != size:
            raise StoreUnavailable(f"{self._name(key)}: {length} bytes came of {size}", hint=WAY)
        body = b"".join(pieces)
        pieces.clear()  # before the next copy: a segment may have a GiB
        return Body.of(body, self._metadata(answer.attributes))

    def _call(self, what: str, request: Callable[[_Client, Limit], Awaitable[_T]], *, creates: int | None = None) -> _T:
        """Run one request, perhaps one that creates an object of so many bytes, and may raise AlreadyThere then. All else that
        can go wrong becomes one of walkeeper's errors.
        """
        client = self._connected()
        seconds = self._settings.timeout + (creates or 0) / SLOWEST
        began = time.monotonic()
        try:
            return _calls.call(lambda time_left: request(client, time_left), seconds)
        except (BaseError, OSError, ValueError) as error:
            answer = read(str(error))
            if creates is not None and there(answer):
                raise AlreadyThere(what) from None
            problem = store_error(what, answer, rights=self._settings.rights)
            self._denied = self._denied or isinstance(problem, StoreDenied)
            raise problem from None  # its text may hold a token
        except Overdue:
            raise StoreUnavailable(
                f"{what}: no whole answer within {time.monotonic() - began:.0f} s",
                hint="The store, or what lies between, sends too slowly: look at the network, or raise timeout.",
            ) from None
        except Exception as error:
            # The class of a panic in the library lies in no module. It has happened at answers that no store gives.
            if type(error).__module__ != "pyo3_async_runtimes":
                raise
            raise StoreUnavailable(f"{what}: obstore failed: {error}", hint=WAY) from None


async def _ready(value: _T) -> _T:
    return value


async def _next(found: ListStream[Sequence[ObjectMeta]]) -> Sequence[ObjectMeta]:
    """The next page of the listing, empty at its end."""
    async for page in found:
        return page
    return ()


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()
