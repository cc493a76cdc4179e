"""The agents in simulated worlds: every invariant after every step, and that the invariants would notice.

``make simulate`` runs more schedules, ``make simulate ARGS="--play …"`` one again, step by step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.simulation.__main__ import explain
from tests.simulation.mutations import MUTATIONS
from tests.simulation.schedule import Schedule, play, shrink
from walkeeper.config.model import ArchiverMode

SCHEDULES = {"streaming": 200, "command": 100}
ENOUGH = 600
"""In so many schedules each deliberate bug must be noticed."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("archiver", ["streaming", "command"])
def test_every_invariant_holds_after_every_step_of_every_schedule(archiver: ArchiverMode) -> None:
    outcomes = []
    for seed in range(SCHEDULES[archiver]):
        outcomes.append(play(Schedule(seed, archiver=archiver)))
        assert outcomes[-1].problem is None, f"{outcomes[-1].problem}\n{explain(outcomes[-1])}"
    assert sum(outcome.branches > 2 for outcome in outcomes) > len(outcomes) / 10  # the schedules do get somewhere
    if archiver == "streaming":
        assert sum(outcome.gaps for outcome in outcomes) > 0


@pytest.mark.parametrize(
    "kinds",
    [
        ("roll_back", "kill_agent", "wipe_record", "store_down"),
        ("twin_segments", "kill_agent", "freeze_agent", "lose_store_answers"),
        ("forget_numbers", "kill_patroni", "freeze_host", "power_loss", "switchover"),
        ("swap_store", "kill_agent", "switchover", "cut_dcs"),
        ("edit_record", "kill_agent", "switchover", "old_record"),
    ],
    ids=lambda kinds: kinds[0],
)
def test_p13_names_that_lie_are_never_built_upon(kinds: tuple[str, ...]) -> None:
    """Volumes go back, numbers are taken twice, prefixes are exchanged, records are edited."""
    for seed in range(100):
        outcome = play(Schedule(seed, kinds=kinds))
        assert outcome.problem is None, f"{outcome.problem}\n{explain(outcome)}"


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


SILENT = (
    "lose_slot",
    "lose_slot",
    "jump_slot",
    "mute_member",
    "unknown_name",
    "cut_members",
    "kill_server",
    "power_loss",
)
"""Where WAL is recycled that is not archived, and those who have it hang, are not found, restart, and come back."""


def test_p4_silence_of_whatever_kind_is_never_a_no() -> None:
    outcomes = []
    for seed in range(100):
        outcomes.append(play(Schedule(seed, kinds=SILENT)))
        assert outcomes[-1].problem is None, f"{outcomes[-1].problem}\n{explain(outcomes[-1])}"
    assert sum(outcome.gaps for outcome in outcomes) > 0  # and what is nowhere becomes one
