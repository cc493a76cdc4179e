"""Room on a file system: what the spool leaves free there, before PostgreSQL is in danger."""

from __future__ import annotations

from typing import Final

from walkeeper.core.lsn import SegmentSize

LEAST: Final = 10
"""Segments that stay free, however small the disk is."""
SHARE: Final = 20
"""The part of a small disk that is enough: one in so many."""
SPARE: Final = 4
"""Segments above the reserve from which on the spool is filled again."""


def spool_reserve(total: int, wanted: int, size: SegmentSize) -> int:
    """Bytes that the spool leaves free on a file system of ``total``: ``wanted`` at most, and never half of it.

    So that a small one of its own (tmpfs) can be used as well.
    """
    return min(total // 2, max(LEAST * size, min(total // SHARE, wanted)))


def is_short(free: int, reserve: int, limit: int, size: SegmentSize, *, before: bool, waits: bool) -> bool:
    """Whether the spool has to do without its disk. ``before``: it already does; ``waits``: complete segments are not stored.

    With a backlog it goes on only where there is room for a full spool of ``limit`` bytes: else it would fill up, be emptied and
    be streamed again, over and over. All in bytes.
    """
    if not before:
        return free < reserve + size
    return free < reserve + (max(limit, SPARE * size) if waits else SPARE * size)
