"""When something is due again: a time of day, an interval, or a line as cron has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from walkeeper.lib.section import WrongValue
from walkeeper.lib.units import Interval

_TIME_OF_DAY: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])\Z")
_LEAST: Final = 60.0
_WANTED: Final = "expected a time of day such as 02:00, an interval such as 12h, a line as cron has it, or off"
_UNIT: Final = "An interval has a unit, as in 12h; a time of day is 02:00."


class Schedule(str):
    """As it was written; only ``off`` is false."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises ValueError. A time of day without quotes is a number to YAML: its minutes, where it begins with no 0."""
        if isinstance(value, int) and not isinstance(value, bool):
            quoted = f'"{value // 60:02}:{value % 60:02}"'
            raise WrongValue(_WANTED, hint=f"Quote a time of day: {quoted}." if 60 <= value < 1440 else _UNIT)
        text = "off" if value is False else value.strip() if isinstance(value, str) else ""
        if text.lower() == "off":
            return cls("off")
        if _cron(text):
            _checked(_cron(text))
        else:
            _interval(text)
        return cls(text)

    def __bool__(self) -> bool:
        return self != "off"

    def newest(self, now: datetime, before: datetime | None) -> datetime:
        """The newest moment at or before ``now`` at which it was due; both have a zone. Only for one that is not off.

        ``before``: the one that was made use of last, from which intervals count; without one, an interval is due now. A time of
        day is this host's: naive times have the clock's changes behind them.
        """
        if not (cron := _cron(self)):
            every = _interval(self)
            if before is None or before > now:
                return now
            return before + timedelta(seconds=(now - before).total_seconds() // every * every)
        return next(_moments(cron, now, back=True))

    def next(self, now: datetime, before: datetime | None) -> datetime:
        """The first moment after ``now``, with the same ``before``."""
        if not (cron := _cron(self)):
            return self.newest(now, before) + timedelta(seconds=_interval(self) if before is not None else 0)
        return next(_moments(cron, now, back=False))

    def missed(self, last: datetime, now: datetime) -> bool:
        """Whether its newest two moments have passed since what was done last."""
        return last < self.last_two(now)[0]

    def described(self, now: datetime, before: datetime | None) -> dict[str, str]:
        """For documents."""
        return {"schedule": str(self), "next": self.next(now, before).strftime("%Y-%m-%dT%H:%M:%SZ")}

    def last_two(self, now: datetime) -> tuple[datetime, datetime]:
        """The newest two moments, the older first. Of an interval: as if one began now."""
        if not (cron := _cron(self)):
            every = timedelta(seconds=_interval(self))
            return now - 2 * every, now - every
        moments = _moments(cron, now, back=True)
        newer = next(moments)
        return next(moments), newer


def _moments(cron: str, now: datetime, *, back: bool) -> Iterator[datetime]:
    """At or before ``now``, or after it, by this host's clock."""
    from cronsim import CronSim  # noqa: PLC0415 - for those who have such a schedule

    local = now.astimezone().replace(tzinfo=None) + timedelta(microseconds=1 if back else 0)
    for found in CronSim(cron, local, reverse=back):
        yield found.astimezone(UTC)


def _cron(text: str) -> str:
    """The line; empty for an interval."""
    if match := _TIME_OF_DAY.match(text):
        return f"{int(match[2])} {int(match[1])} * * *"
    return text if " " in text else ""


def _interval(text: str) -> float:
    """Seconds."""
    try:
        seconds = float(Interval.parse(text))
    except ValueError:
        raise ValueError(_WANTED) from None
    if seconds < _LEAST:
        raise ValueError("an interval must be a minute or more")
    return seconds


def _checked(line: str) -> None:
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - as above

    try:
        next(CronSim(line, datetime(2026, 1, 1), reverse=True))  # noqa: DTZ001 - cron knows no zones
    except (CronSimError, StopIteration):
        raise ValueError(_WANTED) from None
