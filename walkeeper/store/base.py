"""What every store can do. One conformance suite (tests/store/test_stores.py) holds all of them to these sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, Self


class AlreadyThere(Exception):
    """``create`` found an object under that key and changed nothing."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as the store describes it. ``size`` in bytes as stored; ``metadata`` is empty where it was lost.

    ``modified`` is the store's own word, in listings, and for people only: nothing decides by it.
    """

    key: str
    size: int
    metadata: Mapping[str, str]
    modified: datetime | None = field(default=None, compare=False)


class Body(bytes):
    """An object's bytes; ``metadata`` came with them in the same answer, and is empty where it was lost."""

    metadata: Mapping[str, str]

    @classmethod
    def of(cls, data: bytes, metadata: Mapping[str, str]) -> Self:
        body = cls(data)
        body.metadata = metadata
        return body


class Store(Protocol):
    """Objects under keys like ``a/b/c``; small values of ``metadata`` (ASCII) go with each.

    Every method may block for the store's own time-outs and raises StoreUnavailable, StoreDenied or StoreUnfit
    (walkeeper.errors). All may be called from several threads. None retries: the caller has the one loop for that.
    """

    @property
    def url(self) -> str:
        """For people: ``s3://bucket/prefix`` or ``file:///path``. Holds no secret."""

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        """Store an object that is not there yet, whole and durable before this returns, or not at all.

        Raises AlreadyThere, also when an earlier attempt of our own got through and its answer was lost.
        """

    def head(self, key: str) -> ObjectInfo | None:
        """Describe an object; None only when the store says that it is not there."""

    def get(self, key: str) -> Body | None:
        """The whole body; None only when the store says that this object is not there (and the store itself is)."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with ``prefix``, in key order, without their metadata."""

    def delete(self, key: str) -> None:
        """Remove an object; success when there is none. Only probes and superseded tails are ever deleted."""

    def probe(self) -> None:
        """Prove that the store can be written, read back and listed, and does not overwrite. Raises StoreUnfit if it does.

        Leaves nothing behind where the credentials may delete, and one small object under ``probe/`` where not.
        """
