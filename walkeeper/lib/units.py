"""Sizes and durations as people write them."""

from __future__ import annotations

import math
import re
from typing import ClassVar, Final, Self

from walkeeper.lib.section import WrongValue

_NUMBER: Final = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]*)")

_BYTES: Final = {
    "": 1,
    "b": 1,
    **dict.fromkeys(("kb", "kib"), 1024),
    **dict.fromkeys(("mb", "mib"), 1024**2),
    **dict.fromkeys(("gb", "gib"), 1024**3),
    **dict.fromkeys(("tb", "tib"), 1024**4),
}
_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

LONGEST: Final = 366 * 86400.0
"""Seconds. A longer wait is a mistake, and some system calls refuse it."""


class Size(int):
    """Bytes. PostgreSQL's units, where MB is 1024 kB; MiB says the same more clearly."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """``1GiB``, ``512MB``, or a plain number of bytes. Raises ValueError."""
        number = _quantity(value, _BYTES, "a size such as 512MiB, 1GiB, or a number of bytes")
        if number != int(number) or number >= 2**63:
            raise ValueError("it is not a whole number of bytes below 8 EiB")
        return cls(number)


class Rate(int):
    """Bytes a second that a server can be asked to send at most (``MAX_RATE`` of BASE_BACKUP), or 0 for ``off``."""

    lowest: ClassVar[int] = 32 * 1024
    highest: ClassVar[int] = 1024**3

    @classmethod
    def parse(cls, value: object) -> Self:
        """``50MB``, or a plain number of bytes. Raises ValueError."""
        if value is False or (isinstance(value, str) and value.strip().lower() == "off"):
            return cls(0)
        number = _quantity(value, _BYTES, "a size such as 50MB, or off")
        if not cls.lowest <= number <= cls.highest:
            raise ValueError("it must be from 32kB to 1GB")
        return cls(number)


class Seconds(float):
    """A duration."""

    longest: ClassVar[float] = LONGEST
    wanted: ClassVar[str] = "a duration such as 500ms, 5s, 2min, or a number of seconds"

    @classmethod
    def parse(cls, value: object) -> Self:
        """``5s``, ``500ms``, ``2min``, or a plain number of seconds, above 0. Raises ValueError."""
        number = _quantity(value, _SECONDS, cls.wanted)
        if not 0 < number <= cls.longest:
            raise ValueError(
                f"it must be above 0 and no more than {'a year' if cls.longest == LONGEST else '100 years'}"
            )
        return cls(number)


class Interval(Seconds):
    """A duration, or 0 for ``off``."""

    @classmethod
    def parse(cls, value: object) -> Self:
        if value is False or (isinstance(value, str) and value.strip().lower() == "off"):
            return cls(0)
        return super().parse(value)


class Age(Interval):
    """How old something may get, or 0 for ``off``. Whoever leaves out the unit does not mean seconds."""

    longest = 100 * LONGEST
    wanted = "a duration such as 14d or 12h, or off"
    least: ClassVar[float] = 60.0

    @classmethod
    def parse(cls, value: object) -> Self:
        """``14d``, ``12h``. Raises ValueError."""
        text = str(value).strip()
        if re.fullmatch(r"[0-9.]{1,20}", text):
            raise WrongValue(f"{text} has no unit", hint=f"Write {text}d for days, or {text}h for hours.")
        found = super().parse(value)
        if 0 < found < cls.least:
            raise WrongValue("less than a minute", hint="Name days or hours, as in 14d or 12h; or off.")
        return found


def _quantity(value: object, units: dict[str, int] | dict[str, float], wanted: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"expected {wanted}")
        return value
    match = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    unit = units.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"expected {wanted}")
    number = float(match[1]) if "." in match[1] else int(match[1])
    return number * unit
