"""Text for people: escaped, without what cannot be printed, and numbers that fit."""

from __future__ import annotations

import html
from typing import Final

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")


def esc(text: object) -> str:
    """Into HTML, as content or attribute. What cannot be printed (controls, text that runs backwards) is a ``?``."""
    return html.escape("".join(c if c.isprintable() else "?" for c in str(text)), quote=True)


def size(count: float) -> str:
    """Bytes."""
    if count < 1024:
        return f"{count:.0f} B"
    power = min(len(_UNITS), (int(count).bit_length() - 1) // 10)
    number = count / 1024**power
    return f"{number:.0f} {_UNITS[power - 1]}" if number >= 100 else f"{number:.3g} {_UNITS[power - 1]}"


def rate(count: float) -> str:
    """Bytes a second."""
    return f"{size(count)}/s"


def duration(seconds: float) -> str:
    """Seconds, in the one unit that says it best, or two."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, rest = divmod(whole, 3600)
    return f"{hours} h {rest // 60} min" if rest >= 60 else f"{hours} h"


def count(number: int, one: str, many: str = "") -> str:
    """``3 gaps``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def moment(stamp: str) -> str:
    """``2026-11-23T08:51:09Z`` as people write it."""
    return stamp.replace("T", " ").removesuffix("Z") + " UTC" if stamp.endswith("Z") else stamp
