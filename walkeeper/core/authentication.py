"""Who made an object: a code that only holders of a key can make, over its name, its cluster, its sizes and sums.

Pure, for every kind of object: ``code_of`` makes one, ``is_authentic`` checks it, ``Demand`` says for which objects there must be
one. HMAC with SHA-256 (RFC 2104), over the lines of ``_message``.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

CODE: Final = "hmac-sha256"
"""The name of the code among an object's metadata."""
COVERED: Final = ("format", "sha256", "size", "packed-sha256", "packed-size")
"""The metadata that it covers: of the plain bytes, and of the object as it is stored. The last two are always there."""
_VERSION: Final = "walkeeper object 1"
_NAMES_A_SEGMENT: Final = re.compile(r"(?:wal/[0-9A-F]{16}|tail|gap|start)/([0-9A-F]{24})(?![0-9A-F])")
_NAMES_A_TIMELINE: Final = re.compile(r"history/([0-9A-F]{8})\.history")
_OF_A_BACKUP: Final = re.compile(r"backup/[0-9]{8}T[0-9]{6}Z-([0-9A-F]{8})-")


def code_of(key: bytes, system_identifier: int, name: str, stated: Mapping[str, str]) -> str:
    """In hex. ``name`` is the object's below the cluster's root: ``wal/…``. Without scope and prefix an archive can move."""
    return hmac.new(key, _message(system_identifier, name, stated), hashlib.sha256).hexdigest()


def is_authentic(keys: Sequence[bytes], system_identifier: int, name: str, stated: Mapping[str, str]) -> bool:
    """Whether a holder of one of those keys stated that. Whether the bytes are those that are stated is another question."""
    found = stated.get(CODE, "").encode()
    return any(hmac.compare_digest(code_of(key, system_identifier, name, stated).encode(), found) for key in keys)


def sums_of(body: bytes, stated: Mapping[str, str]) -> dict[str, str]:
    """``stated``, with the sum and the size of the object as it is stored, where they are not there yet."""
    if "packed-sha256" in stated:
        return dict(stated)
    return {**stated, "packed-sha256": hashlib.sha256(body).hexdigest(), "packed-size": str(len(body))}


@dataclass(frozen=True, slots=True)
class Demand:
    """From where on something is demanded of objects: names of segments, in which both timeline and position count.

    Below ``since`` an object needs no code, and below ``plain_before`` it may be plain although the archive is encrypted; so may
    base backups up to that timeline, which need a code always. Empty: no object may.
    """

    since: str = ""
    plain_before: str = ""

    def code(self, name: str) -> bool:
        """Whether that object must have one."""
        return not _below(name, self.since)

    def encryption(self, name: str) -> bool:
        """Whether that object must be encrypted."""
        if not name.endswith(".zst"):
            return False
        if backup := _OF_A_BACKUP.match(name):  # its name has no position, and is no proof of age either
            return backup[1] > self.plain_before[:8]
        return name.startswith(("wal/", "tail/", "backup/")) and not _below(name, self.plain_before)


def _below(name: str, first: str) -> bool:
    """By timeline and position: a newer timeline may begin below ``first``. An object of neither, as a backup's, never is."""
    if not first:
        return False
    if segment := _NAMES_A_SEGMENT.match(name):
        return segment[1][:8] <= first[:8] and segment[1][8:] < first[8:]
    timeline = _NAMES_A_TIMELINE.match(name)
    return timeline is not None and timeline[1] <= first[:8]


def _message(system_identifier: int, name: str, stated: Mapping[str, str]) -> bytes:
    """One line each, none of which can hold an end of line: names and metadata are visible ASCII."""
    lines = [_VERSION, str(system_identifier), name, *(f"{each}={stated.get(each, '')}" for each in COVERED)]
    return "\n".join(lines).encode()
