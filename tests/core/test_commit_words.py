"""What is said of commits that wait for the store."""

from __future__ import annotations

from typing import Any, Final

import pytest

from walkeeper.core.commit_words import kind, more, now

FOUND: Final[dict[str, Any]] = {
    "state": "store", "acknowledged": "2/4A1F9D88", "waited_seconds": 0.02, "waiting_commits": 3, "standby_name": "walkeeper_00000007",
    "waited_for": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ("return when the store has them", "acknowledged up to 2/4A1F9D88; 3 wait now", "")),
        (
            {"state": "waiting", "waited_seconds": 64.0, "waiting_commits": None},
            (
                "wait: nothing was acknowledged for 64 s",
                "acknowledged up to 2/4A1F9D88; how many wait is not known",
                "bad",
            ),
        ),
        (
            {"state": "degraded", "waited_seconds": 130.0, "waiting_commits": 0},
            (
                "return without the store, which is 2 min 10 s behind",
                "acknowledged up to 2/4A1F9D88; 0 wait now",
                "bad",
            ),
        ),
        (
            {"state": "none", "acknowledged": None, "waited_seconds": None, "waited_for": None},
            ("nothing is acknowledged yet", "3 wait now", "odd"),
        ),
        (
            {"waited_for": False, "waiting_commits": 0},
            (
                "do not wait for the store",
                "synchronous_standby_names does not demand walkeeper_00000007; acknowledged up to 2/4A1F9D88; 0 wait now",
                "bad",
            ),
        ),
    ],
)
def test_each_state_says_what_a_commit_waits_for(changes: dict[str, Any], said: tuple[str, str, str]) -> None:
    found = {**FOUND, **changes}
    assert (now(found), more(found), kind(found)) == said
