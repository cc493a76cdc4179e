"""What an object's metadata state of the plain bytes in it."""

from __future__ import annotations

import hashlib
from typing import Final

from walkeeper.store.base import ObjectInfo

FORMAT: Final = "1"


def stated_sha256(info: ObjectInfo, size: int) -> str | None:
    """The plain segment's checksum as the metadata state it; None where they are lost, garbled or of another size."""
    sha256 = info.metadata.get("sha256", "")
    whole = len(sha256) == hashlib.sha256().digest_size * 2 and all(c in "0123456789abcdef" for c in sha256)
    return sha256 if whole and info.metadata.get("size") == str(size) else None
