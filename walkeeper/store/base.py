"""What every store can do. One conformance suite (tests/store/test_stores.py) holds all of them to these sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol, Self

from walkeeper.errors import TooLarge, WrongSetting

MAX_OBJECT: Final = 1024**3 + 64 * 1024**2
"""Bytes: the largest segment, in case that packing and encrypting made it no smaller, and what both add to it."""
SMALL: Final = 64 * 1024
"""Bytes: the limit for documents, such as histories, starts and gaps."""
PACKED_SHA256: Final = "packed-sha256"
"""What the SHA-256 of a body is called in its metadata, in hex, where they state it: a store that can is asked to check it."""
SLOWEST: Final = 64 * 1024
"""Bytes a second: a store that is slower than this has an outage."""


class AlreadyThere(Exception):
    """``create`` found an object under that key and changed nothing."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as the store describes it. ``size`` in bytes as stored; ``metadata`` is empty where it was lost.

    ``modified`` is the store's own word, in listings, for people: nothing but ``verify`` compares two of them.
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
    (walkeeper.errors). A call ends within a total time, however slowly an answer drips: a fixed one, and what the bytes that
    went or came take at SLOWEST. All may be called from several threads. None retries: the caller has the one loop for that.
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

    def get(self, key: str, limit: int = MAX_OBJECT) -> Body | None:
        """The whole body; None only when the store says that this object is not there (and the store itself is).

        Raises TooLarge, before the body is in memory, if it has more than ``limit`` bytes.
        """

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with ``prefix``, in key order, without their metadata."""

    def folders(self, prefix: str) -> Iterator[str]:
        """The names of the folders directly below ``prefix``, which is empty or ends with a slash, in the order of their keys.

        What is in them is not listed. One that has become empty may still be named.
        """

    def delete(self, key: str) -> None:
        """Remove an object; success when there is none.

        Deleted are probes, superseded tails, old signs of life, pins, and by ``expire`` what it has given up.
        """

    def probe(self) -> None:
        """Prove that the store can be written, read back and listed, and does not overwrite. Raises StoreUnfit if it does.

        Leaves nothing behind where the credentials may delete, and one small object under ``probe/`` where not.
        """


def too_large(name: str, size: int, limit: int) -> TooLarge:
    """``name`` is the object's, for people."""
    return TooLarge(
        f"{name}: {size} bytes, where {limit} are the most that it can have",
        hint="walkeeper did not write it. Look at who may write there, and move it away.",
    )


class StoreSettings(Protocol):
    """What the configuration says of one store, and what others must know of it before, or without, opening it."""

    @property
    def remote(self) -> bool:
        """Whether an answer costs a round trip over a network, so that looking ahead pays."""

    @property
    def local_directory(self) -> Path | None:
        """Where its objects are files on this host, or None."""

    @property
    def locked_seconds(self) -> float:
        """How long nobody can delete what is stored, as asked for with each object."""

    def checked(self) -> Self:
        """The same in one form, with every rule held against it. Raises WrongSetting."""

    def doubts(self) -> Iterable[WrongSetting]:
        """What works, and should not stay as it is: said loudly, and not refused."""

    def with_timeout(self, seconds: float) -> Self:
        """The same, with no time-out above that, for a caller that can get the WAL in another way."""

    def clock_ahead(self) -> float | None:
        """Seconds by which the store's clock is ahead of ours; None where nothing tells. Raises StoreUnavailable."""

    def kept_versions(self) -> str | None:
        """What keeps objects that somebody deletes or overwrites, for people: empty for nothing; None where stores of this kind
        have no such thing. Raises StoreDenied, StoreUnfit or StoreUnavailable.
        """

    def listing_command(self) -> str:
        """What a person types to see what this node sees there."""

    def open(self) -> Store:
        """Raises ConfigError or StoreUnfit; does not talk to the store yet."""
