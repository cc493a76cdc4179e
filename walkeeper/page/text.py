"""Text for people: escaped, and without what cannot be printed."""

from __future__ import annotations

import html


def esc(text: object) -> str:
    """Into HTML, as content or attribute. What cannot be printed (controls, text that runs backwards) is a ``?``."""
    return html.escape("".join(c if c.isprintable() else "?" for c in str(text)), quote=True)


def count(number: int, one: str, many: str = "") -> str:
    """``3 gaps``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def moment(stamp: str) -> str:
    """``2026-11-23T08:51:09Z`` as people write it."""
    return stamp.replace("T", " ").removesuffix("Z") + " UTC" if stamp.endswith("Z") else stamp
