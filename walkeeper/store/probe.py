"""The probe that every store goes through at start: does it keep what walkeeper relies on?"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Mapping
from typing import Final

from walkeeper.errors import StoreDenied, StoreUnavailable, StoreUnfit
from walkeeper.lib import events
from walkeeper.store.base import AlreadyThere, Store

_FIRST: Final = b"walkeeper looks whether this store keeps what it is given. This object can be deleted.\n"
_SECOND: Final = b"This must never be stored.\n"


def prove(
    store: Store,
    *,
    overwrites_hint: str,
    needs_metadata: bool,
    create: Callable[[str, bytes, Mapping[str, str]], None] | None = None,
) -> None:
    """Write one key twice, read it back, list it, delete it. Raises StoreUnfit if the store overwrites or loses.

    ``create``: what writes it first, where that is to find out more than the store's own.
    """
    key = f"probe/{uuid.uuid4()}"
    metadata = {"probe": "1"}
    # A proxy in between may send a request twice; what counts is what is there afterwards.
    with contextlib.suppress(AlreadyThere):
        (create or store.create)(key, _FIRST, metadata)
    try:
        _expect_refusal(store, key, overwrites_hint)
        _expect_object(store, key, metadata if needs_metadata else None)
        _expect_listing(store, key)
    finally:
        # Credentials that cannot delete are the better ones: one small object stays.
        with contextlib.suppress(StoreDenied, StoreUnavailable):
            store.delete(key)


def _expect_refusal(store: Store, key: str, hint: str) -> None:
    try:
        store.create(key, _SECOND, {})
    except AlreadyThere:
        return
    raise StoreUnfit(
        f"{store.url}: it overwrites objects, which would let two servers destroy each other's WAL", hint=hint
    )


def _expect_object(store: Store, key: str, metadata: dict[str, str] | None) -> None:
    if store.get(key) != _FIRST:
        raise StoreUnfit(
            f"{store.url}: it does not return what was stored", hint="Look at what lies between here and the store."
        )
    info = store.head(key)
    if info is None or info.size != len(_FIRST):
        raise StoreUnfit(f"{store.url}: it describes an object wrongly", hint="HEAD must return the size as stored.")
    if metadata is not None and dict(info.metadata) != metadata:
        raise StoreUnfit(
            f"{store.url}: it loses the metadata of objects",
            hint="Does a proxy remove headers such as x-amz-meta, x-goog-meta or x-ms-meta?",
        )


def _expect_listing(store: Store, key: str) -> None:
    if any(info.key == key for info in store.list(key)):  # this one alone: a bucket has a hundred clusters' probes
        return
    # Nothing relies on a listing that shows an object at once, so this is not a reason to refuse the store.
    events.warning("store_listing_late", store=store.url, hint="verify and status may show less than there is.")
