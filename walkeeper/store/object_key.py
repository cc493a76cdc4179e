"""What a key, a prefix and metadata may look like: the same in every store, so that an archive can move between them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from walkeeper.errors import BadName, Refused

MAX_KEY: Final = 800
"""Characters. S3 has 1024 bytes for prefix and key together."""
MAX_PART: Final = 200
"""Characters between two slashes. File systems have 255 bytes, and a temporary name is longer than the final one."""
MAX_METADATA: Final = 2000
"""Characters of all names and values. S3 has 2 KB."""

_PASSING: Final = re.compile(r"probe/|(?:[^/]+/)+?[0-9]+/(?:tail|life|pin)/", re.ASCII)
_PART: Final = re.compile(r"[!-.0-~]+\Z", re.ASCII)
_METADATA_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z", re.ASCII)
_METADATA_VALUE: Final = re.compile(r"[!-~]([ -~]*[!-~])?\Z", re.ASCII)


def check_key(key: str) -> None:
    """Raises BadName for anything but visible ASCII in parts that are neither empty nor start with a dot."""
    if len(key) > MAX_KEY or not all(is_part(part) for part in key.split("/")):
        raise BadName(f"{key[:MAX_KEY]!r}: not a key of a stored object")


def check_list_prefix(prefix: str) -> None:
    """The start of a key, up to any character of it. Raises BadName."""
    *parts, last = prefix.split("/")
    if len(prefix) > MAX_KEY or not all(is_part(part) for part in parts) or (last and not is_part(last)):
        raise BadName(f"{prefix[:MAX_KEY]!r}: not the start of a key")


def check_folder(prefix: str) -> None:
    """The start of a key up to a slash, or nothing at all. Raises BadName."""
    check_list_prefix(prefix)
    if prefix and not prefix.endswith("/"):
        raise BadName(f"{prefix!r}: not a folder")


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Names in lower case, values that every store returns as they were: not empty, for one. Raises Refused."""
    for name, value in metadata.items():
        if not _METADATA_NAME.match(name) or not _METADATA_VALUE.match(value):
            raise Refused(f"metadata {name!r}: stores do not keep such a name or value")
    if sum(len(name) + len(value) for name, value in metadata.items()) > MAX_METADATA:
        raise Refused(f"metadata: more than {MAX_METADATA} characters")


def is_passing(key: str) -> bool:
    """Whether an archive deletes it in its daily work: probes, pieces of tails, signs of life and pins."""
    return _PASSING.match(key) is not None


def is_part(part: str) -> bool:
    """What may stand between two slashes."""
    return len(part) <= MAX_PART and not part.startswith(".") and _PART.match(part) is not None
