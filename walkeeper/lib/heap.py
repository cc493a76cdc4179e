"""glibc's heap, for a process that runs for years, or has large blocks in several threads."""

from __future__ import annotations

import ctypes
from typing import Final

LARGE: Final = 1024 * 1024
"""Bytes from which on a block is mapped by itself."""
_M_MMAP_THRESHOLD: Final = -3


def return_large_blocks() -> None:
    """What is large goes back to the system when it is freed. By default glibc keeps it, once for each thread that had some:
    freeing a block raises the size below which the next ones come out of the thread's own arena (mallopt(3)).

    Does nothing where the C library has no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE)
