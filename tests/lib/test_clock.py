"""The wall clock, as people are told of it."""

from __future__ import annotations

import pytest

from walkeeper.lib import clock


@pytest.mark.parametrize(
    ("stamp", "ahead", "age"),
    [
        ("2026-11-26T11:59:00Z", 0.0, 60.0),
        ("2026-11-26T11:59:00Z", 30.0, 90.0),
        ("2026-11-26T12:59:00+01:00", 0.0, 60.0),
        ("2026-11-26T12:01:00Z", 0.0, 0.0),  # a clock that is ahead is not known to be
        ("yesterday", 0.0, None),
        ("", 0.0, None),
    ],
)
def test_an_age_is_reckoned_by_the_clock_of_who_wrote_it(
    monkeypatch: pytest.MonkeyPatch, stamp: str, ahead: float, age: float | None
) -> None:
    monkeypatch.setattr(clock, "wall_seconds", lambda: 1795694400.0)  # 2026-11-26 12:00 UTC
    assert clock.seconds_since(stamp, ahead) == age
