"""The agents in simulated worlds: every invariant after every step, and that the invariants would notice.

``make simulate`` runs more schedules, ``make simulate ARGS="--play …"`` one again, step by step.
"""

from __future__ import annotations

import pytest

from tests.simulation.__main__ import explain
from tests.simulation.mutations import MUTATIONS
from tests.simulation.schedule import Schedule, play, shrink
from walkeeper.config.model import ArchiverMode

SCHEDULES = {"streaming": 200, "command": 100}
ENOUGH = 600
"""In so many schedules each deliberate bug must be noticed."""


@pytest.mark.parametrize("archiver", ["streaming", "command"])
def test_every_invariant_holds_after_every_step_of_every_schedule(archiver: ArchiverMode) -> None:
    outcomes = []
    for seed in range(SCHEDULES[archiver]):
        outcomes.append(play(Schedule(seed, archiver=archiver)))
        assert outcomes[-1].problem is None, f"{outcomes[-1].problem}\n{explain(outcomes[-1])}"
    assert sum(outcome.branches > 2 for outcome in outcomes) > len(outcomes) / 10  # the schedules do get somewhere
    if archiver == "streaming":
        assert sum(outcome.gaps for outcome in outcomes) > 0


def test_p9_a_spool_whose_disk_runs_short_does_without_and_loses_nothing() -> None:
    """What is dropped there is what pg_wal has and the slot keeps; archiving goes on meanwhile."""
    kinds = (
        "disk_short",
        "disk_short",
        "store_down",
        "kill_agent",
        "switchover",
        "lose_slot",
        "power_loss",
        "dcs_down",
    )
    for seed in range(100):
        outcome = play(Schedule(seed, kinds=kinds))
        assert outcome.problem is None, f"{outcome.problem}\n{explain(outcome)}"


def test_an_object_that_was_deleted_is_stored_again_where_the_leader_has_it() -> None:
    for seed in range(25):
        outcome = play(Schedule(seed, kinds=("delete_object", "kill_agent", "store_down", "switchover")))
        assert outcome.problem is None, f"{outcome.problem}\n{explain(outcome)}"


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


def test_a_seed_decides_everything() -> None:
    def steps(seed: int) -> list[str]:
        lines = play(Schedule(seed), trace=True).trace
        return [
            line.partition('"session"')[0] for line in lines if "probe/" not in line
        ]  # but for names that are drawn again

    assert steps(7) == steps(7)
    assert steps(7) != steps(8)
