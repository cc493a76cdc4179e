"""Proof that a segment is durable in the store."""

from __future__ import annotations

from dataclasses import dataclass

from walkeeper.core.names import Segment


@dataclass(frozen=True, slots=True)
class Receipt:
    """The store confirmed this segment. Only ``walkeeper.archive`` makes one; a test holds everybody to it.

    ``sha256`` is that of the plain segment, in hex. ``was_present`` says that the same bytes were stored before.
    ``stored_bytes`` is the size of the object.
    """

    segment: Segment
    sha256: str
    stored_bytes: int
    was_present: bool
