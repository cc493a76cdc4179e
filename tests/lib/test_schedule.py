"""When something is due again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import yaml

from walkeeper.lib.schedule import Schedule
from walkeeper.lib.section import WrongValue


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("schedule", "now", "due"),
    [
        ("02:00", "2026-11-28 12:00", "2026-11-28 01:00"),
        ("02:00", "2026-11-28 01:00", "2026-11-28 01:00"),
        ("02:00", "2026-11-28 00:59:59", "2026-11-27 01:00"),
        ("2:30", "2026-07-28 12:00", "2026-07-28 00:30"),
        ("0 2 * * 0", "2026-11-28 12:00", "2026-11-22 01:00"),
        ("15 */6 * * *", "2026-11-28 12:00", "2026-11-28 11:15"),
        ("02:30", "2026-10-25 00:45", "2026-10-25 00:30"),  # the clock goes back: 02:30 comes twice, and counts once
        ("02:30", "2026-10-25 02:00", "2026-10-25 00:30"),
        ("03:30", "2026-03-29 02:00", "2026-03-29 01:30"),  # it went forward
    ],
)
def test_a_time_of_day_is_this_hosts(schedule: str, now: str, due: str) -> None:
    parsed = Schedule.parse(schedule)
    assert parsed
    assert parsed.newest(at(now), None) == at(due)
    assert parsed.newest(at(now), at(due)) == at(due)


def test_intervals_count_from_the_last_one_that_was_made_use_of() -> None:
    parsed, now = Schedule.parse("12h"), at("2026-11-28 12:00")
    assert parsed.newest(now, None) == now
    assert parsed.newest(now, now - timedelta(hours=11)) == now - timedelta(hours=11)
    assert parsed.newest(now, now - timedelta(hours=40)) == now - timedelta(hours=4)
    assert parsed.newest(now, now + timedelta(hours=5)) == now  # a clock that was wrong


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("schedule", "before", "upcoming", "two"),
    [
        ("02:00", None, "2026-11-29 01:00", ("2026-11-27 01:00", "2026-11-28 01:00")),
        ("0 2 * * 0", None, "2026-11-29 01:00", ("2026-11-15 01:00", "2026-11-22 01:00")),
        ("13:00", None, "2026-11-29 12:00", ("2026-11-27 12:00", "2026-11-28 12:00")),
        ("12h", None, "2026-11-28 12:00", ("2026-11-27 12:00", "2026-11-28 00:00")),
        ("12h", "2026-11-28 05:00", "2026-11-28 17:00", ("2026-11-27 12:00", "2026-11-28 00:00")),
        ("12h", "2026-11-26 05:00", "2026-11-28 17:00", ("2026-11-27 12:00", "2026-11-28 00:00")),
    ],
)
def test_what_is_next_and_what_the_last_two_were(
    schedule: str, before: str | None, upcoming: str, two: tuple[str, str]
) -> None:
    parsed, now = Schedule.parse(schedule), at("2026-11-28 12:00")
    assert parsed.next(now, None if before is None else at(before)) == at(upcoming)
    assert parsed.last_two(now) == (at(two[0]), at(two[1]))


def test_off_is_off() -> None:
    for text in ("off", "OFF", False):
        assert not Schedule.parse(text)
    assert Schedule.parse(" Off ") == "off"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "25:00",
        "2:60",
        "10s",
        "0",
        "-1h",
        "tomorrow",
        "* * *",
        "61 * * * *",
        "0 0 30 2 *",
        "0 2 * * 0 0 0 0",
        5,
        None,
    ],
)
def test_what_is_no_schedule_is_said(text: object) -> None:
    with pytest.raises(ValueError, match=r"expected a time of day|minute or more"):
        Schedule.parse(text)


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("22:30", 'Quote a time of day: "22:30".'),
        ("1:05", 'Quote a time of day: "01:05".'),
        ("12", "An interval has a unit, as in 12h; a time of day is 02:00."),
        ("86400", "An interval has a unit, as in 12h; a time of day is 02:00."),
    ],
)
def test_a_time_of_day_without_quotes_which_yaml_reads_as_a_number_has_a_hint(written: str, hint: str) -> None:
    with pytest.raises(WrongValue, match="expected a time of day") as raised:
        Schedule.parse(yaml.safe_load(written))
    assert raised.value.hint == hint
