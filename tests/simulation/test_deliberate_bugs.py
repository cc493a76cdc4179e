"""That the invariants of the simulation would notice: each fixed bug, put in again on purpose, violates one."""

from __future__ import annotations

import pytest

from tests.simulation.mutations import MUTATIONS
from tests.simulation.schedule import Schedule, play, shrink

pytestmark = pytest.mark.simulation

ENOUGH = 600
"""In so many schedules each deliberate bug must be noticed."""


def first_violation(name: str, monkeypatch: pytest.MonkeyPatch) -> Schedule | None:
    """The first schedule that notices that bug."""
    bug = MUTATIONS[name]
    bug.put_in(monkeypatch)
    seeds = range(bug.first, bug.first + ENOUGH)
    schedules = (Schedule(seed, kinds=bug.kinds, archiver=bug.archiver) for seed in seeds)
    return next((schedule for schedule in schedules if play(schedule).problem is not None), None)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_deliberate_bug_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_violation(name, monkeypatch) is not None


def test_a_schedule_that_fails_is_shrunk_to_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = first_violation("resume_at_the_record_blindly", monkeypatch)
    assert found is not None
    smallest = shrink(found)
    assert smallest.kept is not None
    assert len(smallest.kept) <= len(found.faults)
    assert play(Schedule.parse(str(smallest))).problem is not None
