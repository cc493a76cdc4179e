"""glibc's heap, for a process that runs for years, or has large blocks in several threads."""

from __future__ import annotations

import ctypes
from typing import Final

LARGE: Final = 1024 * 1024
"""Bytes from which on a block is mapped by itself."""
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def return_large_blocks() -> None:
    """What is large goes back to the system when it is freed. By default glibc keeps it, once for each thread that had some:
    freeing a block raises the size below which the next ones come out of the thread's own arena (mallopt(3)).

    Does nothing where the C library has no such setting.
    """
    _set(_M_MMAP_THRESHOLD, LARGE)


def share_among_threads() -> None:
    """One heap for all threads: what one of them has freed the others use. By default glibc makes up to eight for each core.

    Call it before there are threads. Does nothing where the C library has no such setting.
    """
    _set(_M_ARENA_MAX, 1)


def _set(what: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(what, value)
