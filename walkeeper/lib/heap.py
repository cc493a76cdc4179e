"""glibc's heap, for a process that runs for years, or has large blocks in several threads."""

from __future__ import annotations

import ctypes
from typing import Any, Final

LARGE: Final = 1024 * 1024
"""Bytes from which on a block is mapped by itself."""
_LARGEST: Final = 32 * 1024 * 1024
"""The most that glibc takes for that."""
_TRIMMED: Final = 128 * 1024
"""glibc's own: so many free bytes at the end of an arena are given back."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def return_large_blocks() -> None:
    """What is large goes back to the system when it is freed. By default glibc keeps it, once for each thread that had some:
    freeing a block raises the size below which the next ones come out of the thread's own arena (mallopt(3)). What is free now
    goes back at once, but for the ends of other threads' arenas.

    Does nothing where the C library has no such setting.
    """
    if _set(LARGE, _TRIMMED):
        _libc().malloc_trim(0)


def give_back_end() -> None:
    """The free end of this thread's arena: glibc looks at it when something large is freed there, and at no other time."""
    bytes(_TRIMMED)


def keep_large_blocks() -> None:
    """From now on what is freed stays, for the next one of that size: a page that is fresh costs more than what is written to it.
    For a while in which large blocks come and go; ``return_large_blocks`` ends it.
    """
    _set(_LARGEST, _LARGEST)


def _set(mapped: int, trimmed: int) -> bool:
    """Whether there is such a setting."""
    mallopt = getattr(_libc(), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, mapped) and mallopt(_M_TRIM_THRESHOLD, trimmed))


def _libc() -> Any:
    return ctypes.CDLL(None)
