"""Sizes, numbers and durations as people read them: the same amount reads the same in every message, table and picture."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: float) -> str:
    """Bytes, with three digits at most: ``1 MiB``, ``5.25 MiB``, ``198 MiB``."""
    if count < 1024:
        return f"{count:.0f} B"
    power = min(len(_UNITS), (int(count).bit_length() - 1) // 10)
    number = count / 1024**power
    return f"{number:.0f} {_UNITS[power - 1]}" if number >= 100 else f"{number:.3g} {_UNITS[power - 1]}"


def rate(count: float) -> str:
    """Bytes a second."""
    return f"{size(count)}/s"


def counted(count: int, noun: str) -> str:
    """``1 segment``, ``1,204 segments``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def to_the_second(moment: str) -> str:
    """A time in ISO 8601, in UTC, as people are shown it: without a fraction of a second."""
    return re.sub(r"T([0-9:]+)(?:\.[0-9]+)?(?:Z|\+00:00)$", r" \1 UTC", moment)


def duration(seconds: float) -> str:
    """Seconds, in the one unit that says it best, or two."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, rest = divmod(whole, 3600)
    if hours >= 48:
        days, hours = divmod(hours, 24)
        return f"{days} days {hours} h" if hours else f"{days} days"
    return f"{hours} h {rest // 60} min" if rest >= 60 else f"{hours} h"
