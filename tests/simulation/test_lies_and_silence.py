"""Schedules of those faults alone that lie, or say nothing: none of them leads an agent to build on a name, or to take silence for a no."""

from __future__ import annotations

import pytest

from tests.parts.ways import WAYS, Way
from tests.simulation.__main__ import explain
from tests.simulation.schedule import Schedule, play

pytestmark = pytest.mark.simulation


@pytest.mark.parametrize(
    "kinds",
    [
        ("roll_back", "kill_agent", "wipe_record", "store_down"),
        ("roll_back_under_the_agent", "kill_server", "freeze_agent"),
        ("twin_segments", "kill_agent", "freeze_agent", "lose_store_answers"),
        ("forget_numbers", "kill_patroni", "freeze_host", "power_loss", "switchover"),
        ("swap_store", "kill_agent", "switchover", "cut_dcs"),
        ("wipe_record", "garbage_record", "swap_store", "swap_store", "switchover"),
        ("lose_dcs", "lose_dcs", "swap_store", "swap_store", "switchover", "store_down"),
        ("lose_all", "switchover", "store_down", "kill_agent"),
        ("edit_record", "kill_agent", "switchover", "old_record"),
        ("lose_slot", "edit_record", "kill_agent"),
        ("another_lives", "kill_agent", "switchover", "store_down"),
    ],
    ids=lambda kinds: kinds[0],
)
def test_p13_names_that_lie_are_never_built_upon(kinds: tuple[str, ...]) -> None:
    """Volumes go back, numbers are taken twice, prefixes are exchanged, records are edited."""
    for seed in range(20):
        outcome = play(Schedule(seed, kinds=kinds))
        assert outcome.problem is None, f"{outcome.problem}\n{explain(outcome)}"


def test_p13_what_postgresql_hands_over_is_stored_in_no_other_archive() -> None:
    """Of twenty such schedules fifteen said that a segment was archived, and it was in the empty store."""
    for seed in range(20):
        outcome = play(Schedule(seed, kinds=("swap_store", "swap_store", "kill_agent"), archiver="command"))
        assert outcome.problem is None, f"{outcome.problem}\n{explain(outcome)}"


@pytest.mark.parametrize("archiver", ["streaming", "durable"])
@pytest.mark.parametrize("kind", ["stale_reads", "late_store", "second_agent", "freeze_long"])
def test_p8_what_is_old_late_or_there_twice_breaks_nothing(kind: str, archiver: Way) -> None:
    """Reads of the DCS and looks into the store that tell of a while ago, two agents of one member, one that slept for minutes."""
    for seed in range(8):
        kinds = (kind, kind, "switchover", "power_loss", "kill_patroni", "kill_agent", "wipe_record")
        outcome = play(Schedule(seed, kinds=kinds, archiver=archiver))
        assert outcome.problem is None, f"{outcome.problem}\n{explain(outcome)}"


WRONG = (
    *("wrong_answers", "wrong_record_answers", "step_clock", "sleep_host", "encrypt", "disbelieve_plain"),
    *("busy_slot", "unreserved_slot", "empty_slot", "slow_rebuilds"),
)
"""What store and DCS say of a write is not so, clocks are set, hosts differ in what they encrypt, and slots keep nothing."""


@pytest.mark.parametrize("archiver", WAYS)
def test_p4_p8_wrong_answers_set_clocks_other_suffixes_and_slots_that_keep_nothing_break_nothing(archiver: Way) -> None:
    kinds = (*WRONG, *WRONG, "switchover", "power_loss", "kill_patroni", "kill_agent", "disk_short", "store_down")
    for seed in range(17_000_000, 17_000_008):
        outcome = play(Schedule(seed, kinds=kinds, archiver=archiver))
        assert outcome.problem is None, f"{outcome.problem}\n{explain(outcome)}"


def test_p13_an_edited_record_moves_no_slot_under_another_store() -> None:
    """Of a hundred such schedules twenty recycled what one of the two stores lacked."""
    for seed in range(54, 74):
        outcome = play(Schedule(seed, kinds=("edit_record", "lose_slot"), archiver="several"))
        assert outcome.problem is None, f"{outcome.problem}\n{explain(outcome)}"


def test_p13_what_was_built_from_a_volume_that_went_back_and_promoted_is_never_spliced() -> None:
    for seed in (102, 178, 186, 190):  # they did before refusals were remembered
        outcome = play(Schedule(seed, kinds=("roll_back", "roll_back", "switchover")))
        assert outcome.problem is None, f"{outcome.problem}\n{explain(outcome)}"


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
    for seed in range(60, 110):
        outcomes.append(play(Schedule(seed, kinds=SILENT)))
        assert outcomes[-1].problem is None, f"{outcomes[-1].problem}\n{explain(outcomes[-1])}"
    assert sum(outcome.gaps for outcome in outcomes) > 0  # and what is nowhere becomes one
