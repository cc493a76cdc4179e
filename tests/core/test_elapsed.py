"""How old something is by what an archive shows of time (P15)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from walkeeper.core.elapsed import Elapsed

DAY = timedelta(days=1)
FIRST = datetime(2026, 11, 1, 2, tzinfo=UTC)


def seen(now: float, *days: float) -> Elapsed:
    return Elapsed.seen((FIRST + day * DAY for day in days), FIRST + now * DAY)


@pytest.mark.parametrize(
    ("now", "days", "age"),
    [
        (8, (0, 1, 2, 3, 4, 5, 6, 7), 8),
        (24, (0, 7, 14, 21), 24),
        (4, (0, 1, 3), 4),  # one was missed
        (61, (0, 30, 31), 61),
        (30, (0,), 30),  # one backup says nothing of intervals
        (366, (0, 1), 1),  # a year ahead
        (368, (0, 1, 366, 367), 3),  # and backups were taken meanwhile
        (4, (0, 1, 2, 3, 366, 367), 4),  # it is right again
        (0.9, (0, 0.1), 0.9),
        (31, (0, 30), 1),  # it stood still for a month
        (32, (0, 1, 31), 2),
    ],
)
def test_p15_an_interval_like_no_other_makes_nothing_older(now: float, days: tuple[float, ...], age: float) -> None:
    found = seen(now, *days)
    assert found.since(FIRST) == age * DAY


def test_p15_what_lies_inside_such_an_interval_is_as_old_as_its_end() -> None:
    found = seen(368, 0, 1, 366, 367)
    assert found.stood == (FIRST + DAY, FIRST + 366 * DAY)
    assert found.since(FIRST + 100 * DAY) == 2 * DAY
    assert found.since(FIRST + 367 * DAY) == DAY
    assert found.since(FIRST + 400 * DAY) < timedelta(0)
    assert found.now_since(FIRST + 100 * DAY) == FIRST + 102 * DAY
    assert found.now_since(FIRST + 367 * DAY) == FIRST + 368 * DAY
