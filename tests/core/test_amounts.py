"""Sizes and durations for people."""

from __future__ import annotations

import pytest

from walkeeper.core import amounts
from walkeeper.core.lsn import MIB


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (MIB, "1 MiB"), (5.25 * MIB, "5.25 MiB"),
        (198.4 * MIB, "198 MiB"), (1024 * MIB - 1, "1024 MiB"), (1536 * MIB, "1.5 GiB"), (1 << 60, "1024 PiB"),
    ],
)  # fmt: skip
def test_sizes_are_for_people(count: float, text: str) -> None:
    assert amounts.size(count) == text


def test_one_is_not_told_as_many() -> None:
    found = [amounts.counted(count, "segment") for count in (0, 1, 2, 1204)]
    assert found == ["0 segments", "1 segment", "2 segments", "1,204 segments"]


def test_times_are_told_to_the_second() -> None:
    assert amounts.to_the_second("2026-11-27T02:04:11.123456+00:00") == "2026-11-27 02:04:11 UTC"
    assert amounts.to_the_second("2026-11-27T02:04:11+00:00") == "2026-11-27 02:04:11 UTC"
    assert amounts.to_the_second("2026-11-27T02:04:11Z") == "2026-11-27 02:04:11 UTC"
    assert amounts.to_the_second("") == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"), (119, "119 s"), (252, "4 min 12 s"), (1500, "25 min"), (3 * 3600 + 90, "3 h 1 min"), (47 * 3600, "47 h"),
        (50 * 3600, "2 days 2 h"), (72 * 3600, "3 days"),
    ],
)  # fmt: skip
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert amounts.duration(seconds) == text
