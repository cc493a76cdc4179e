"""What an object's metadata state: of the plain bytes in it, and of what they were packed to.

0.1.0 stated nothing of what was packed, and a store may lose all of it: what is not stated is not wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from walkeeper.errors import StoreUnavailable
from walkeeper.store.base import PACKED_SHA256, ObjectInfo

FORMAT: Final = "1"
_HEX: Final = frozenset("0123456789abcdef")


def stated(sha256: str, size: int, body: bytes, packed_sha256: str = "") -> dict[str, str]:
    """The metadata of an object with that ``body``; ``sha256`` and ``size`` are those of the plain bytes.

    A base backup's piece states the ``sha256`` of its zstd frame. ``packed_sha256``: that of the body, where it is known.
    """
    return {
        "format": FORMAT,
        "sha256": sha256,
        "size": str(size),
        PACKED_SHA256: packed_sha256 or hashlib.sha256(body).hexdigest(),
        "packed-size": str(len(body)),
    }


def is_whole(info: ObjectInfo) -> bool:
    """False for an object that is empty, or not as long as it was stored."""
    return info.size > 0 and info.metadata.get("packed-size", str(info.size)) == str(info.size)


def stated_sha256(info: ObjectInfo, size: int) -> str | None:
    """The plain bytes' checksum as the metadata state it; None where they are lost, garbled or of another size."""
    sha256 = info.metadata.get("sha256", "")
    whole = len(sha256) == hashlib.sha256().digest_size * 2 and _HEX.issuperset(sha256)
    return sha256 if whole and info.metadata.get("size") == str(size) else None


def agrees(metadata: Mapping[str, str], plain: bytes | bytearray) -> bool:
    """Whether those are the bytes that were stored, as far as the metadata say."""
    return metadata.get("sha256") in {None, hashlib.sha256(plain).hexdigest()}


def came_and_went(key: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{key}: the store says that it is there, and that it is not",
        hint="If it stays so, look at what lies between here and the store.",
    )
