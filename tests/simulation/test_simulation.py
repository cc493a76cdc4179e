"""The agents in simulated worlds: every invariant after every step.

``make simulate`` runs more schedules, ``make simulate ARGS="--play …"`` one again, step by step.
"""

from __future__ import annotations

import pytest

from tests.parts.ways import WAYS, Way
from tests.simulation.__main__ import explain
from tests.simulation.faults import OFTEN
from tests.simulation.schedule import Schedule, play
from tests.simulation.wal import SIZE, Branch
from walkeeper.agent.archiver.one_run import OneRun
from walkeeper.archive.listed import Listed
from walkeeper.archive.write import Archive

pytestmark = pytest.mark.simulation

SCHEDULES = {"streaming": 80, "builtin": 25, "durable": 30, "command": 50, "several": 25}


@pytest.mark.parametrize("archiver", WAYS)
def test_every_invariant_holds_after_every_step_of_every_schedule(archiver: Way) -> None:
    outcomes = []
    for seed in range(SCHEDULES[archiver]):
        outcomes.append(play(Schedule(seed, archiver=archiver)))
        assert outcomes[-1].problem is None, f"{outcomes[-1].problem}\n{explain(outcomes[-1])}"
    some = 1 if archiver == "durable" else 2  # a promotion waits for the lease there
    assert sum(outcome.branches > some for outcome in outcomes) > len(outcomes) / 20  # the schedules do get somewhere


def test_p9_wal_that_nobody_has_any_longer_is_a_gap_and_holds_nothing_up() -> None:
    kinds = ("lose_slot", "power_loss", "store_down", "kill_agent")
    outcomes = []
    for seed in range(16):
        outcomes.append(play(Schedule(seed, kinds=kinds)))
        assert outcomes[-1].problem is None, f"{outcomes[-1].problem}\n{explain(outcomes[-1])}"
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
    for seed in range(40):
        outcome = play(Schedule(seed, kinds=kinds))
        assert outcome.problem is None, f"{outcome.problem}\n{explain(outcome)}"


@pytest.mark.parametrize("archiver", WAYS)
def test_a_full_disk_of_pg_wal_lost_callbacks_killed_scripts_and_clocks_that_jump_lose_nothing(archiver: Way) -> None:
    new = ("wal_disk_full", "no_callbacks", "late_callbacks", "kill_pre_promote", "jump_clock", "keys_expire")
    for seed in range(15_000_000, 15_000_012):
        outcome = play(Schedule(seed, kinds=(*new, "wal_disk_full", *OFTEN, "lose_slot"), archiver=archiver))
        assert outcome.problem is None, f"{outcome.problem}\n{explain(outcome)}"


def test_an_object_that_was_deleted_is_stored_again_where_the_leader_has_it() -> None:
    for seed in range(10):
        outcome = play(Schedule(seed, kinds=("delete_object", "kill_agent", "store_down", "switchover")))
        assert outcome.problem is None, f"{outcome.problem}\n{explain(outcome)}"


def test_p3_a_backlog_whose_names_are_listed_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a store that is far."""
    listings = []
    bound, listed = OneRun.bound, Listed._list

    def far(self: OneRun, archive: Archive) -> Archive:
        made = bound(self, archive)
        made.far = True
        return made

    def lists(self: Listed, beginning: str) -> None:
        listings.append(beginning)
        listed(self, beginning)

    monkeypatch.setattr(OneRun, "bound", far)
    monkeypatch.setattr(Listed, "_list", lists)
    kinds = ("store_down", "cut_store", "second_agent", "ungoverned", "late_store", "kill_agent", "switchover")
    for seed in range(20):
        outcome = play(Schedule(seed, kinds=kinds))
        assert outcome.problem is None, f"{outcome.problem}\n{explain(outcome)}"
    assert listings


def test_a_seed_decides_everything() -> None:
    def steps(seed: int) -> list[str]:
        lines = play(Schedule(seed), trace=True).trace
        return [
            line.partition('"session"')[0] for line in lines if "probe/" not in line
        ]  # but for names that are drawn again

    assert steps(7) == steps(7)
    assert steps(7) != steps(8)


def test_what_is_promoted_from_a_second_life_has_what_both_lives_share() -> None:
    first = Branch(0, 1)
    second = Branch(1, 1, lived=(first, 5 * SIZE))
    promoted = Branch(2, 2, second, 8 * SIZE)
    assert promoted.plain(4) == first.plain(4)
    assert promoted.plain(5) == second.plain(5) != first.plain(5)
    assert promoted.parts_from(first) == 5 * SIZE
    assert promoted.parts_from(second) == 8 * SIZE
