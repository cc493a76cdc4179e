"""What the agent's threads only carry out: what is done about a failure, what may be written, moved and removed, and when."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.about import About
from walkeeper.core.commitment import (
    MAX_PROBLEM,
    problem_for_record,
    record_is_due,
    removable,
    slot_may_move,
)
from walkeeper.core.desired import ServerView, View, writes_without_leading
from walkeeper.core.failed_upload import Retry, retry_after
from walkeeper.core.hold_slot import SlotState, how_to_make_safe
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.record import Gap, Record
from walkeeper.errors import (
    BadSegment,
    Conflict,
    SpoolError,
    StoreDenied,
    StoreUnavailable,
    WalkeeperError,
    WrongCluster,
)

SIZE = SegmentSize(MIB)
RECORD = Record(
    system_identifier="7", segment_size=MIB, timeline=1, lsn=str(Lsn(8 * MIB)), start="0" * 7 + "1" + "0" * 15 + "1",
    owner="a", session="s", trouble="a store is away",
)  # fmt: skip


def receipt(number: int) -> Receipt:
    return Receipt(Segment(1, number, SIZE), "0" * 64, 1, was_present=False)


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (BadSegment("x"), Retry(About.ARCHIVER_REFUSED, damaged=True, slowly=True)),
        (Conflict("x"), Retry(About.ARCHIVER_REFUSED, damaged=False, slowly=True)),
        (StoreDenied("x"), Retry(About.ARCHIVER_STORE, damaged=False, slowly=True)),
        (StoreUnavailable("x"), Retry(About.ARCHIVER_STORE, damaged=False, slowly=False)),
        (SpoolError("x"), Retry(About.ARCHIVER_STORE, damaged=False, slowly=False)),
    ],
)
def test_only_what_people_must_fix_is_tried_again_slowly(problem: WalkeeperError, expected: Retry) -> None:
    assert retry_after(problem) == expected


@pytest.mark.parametrize("problem", [Conflict("x"), WrongCluster("x"), BadSegment("x")])
def test_what_is_refused_below_the_frontier_is_of_no_use(problem: WalkeeperError) -> None:
    assert retry_after(problem, below=True).damaged
    assert not retry_after(StoreUnavailable("x"), below=True).damaged


@pytest.mark.parametrize(
    ("lsn", "gaps", "problem", "unsaid", "due"),
    [
        (8 * MIB, [], "a store is away", 29.0, False),
        (7 * MIB, [], "a store is away", 0.0, False),
        (8 * MIB + 8, [], "a store is away", 0.0, True),
        (8 * MIB, [Gap(1, "0/0", "0/100000")], "a store is away", 0.0, True),
        (8 * MIB, [], "", 0.0, True),
        (8 * MIB, [], "a store is away", 31.0, True),  # nothing waits, and other nodes can only tell so by the record
    ],
)
def test_the_record_is_written_only_when_it_says_less_than_is_known(
    lsn: int, gaps: list[Gap], problem: str, unsaid: float, due: bool
) -> None:
    assert record_is_due(RECORD, Lsn(lsn), gaps, (), problem, unsaid) == due


def test_the_record_is_written_when_wal_is_suspected_lost_and_when_it_is_found() -> None:
    suspected = (Gap(1, "0/800000", "0/900000"),)
    assert record_is_due(RECORD, Lsn(8 * MIB), (), suspected, RECORD.trouble, 0.0)
    told = msgspec.structs.replace(RECORD, suspected=suspected)
    assert not record_is_due(told, Lsn(8 * MIB), (), suspected, RECORD.trouble, 0.0)
    assert record_is_due(told, Lsn(8 * MIB), (), (), RECORD.trouble, 0.0)


def test_the_record_carries_the_oldest_problem_cut_short() -> None:
    assert problem_for_record([]) == ""
    assert problem_for_record(["x" * 1000, "y"]) == "x" * MAX_PROBLEM


@pytest.mark.parametrize(
    ("slot", "may"),
    [
        (SlotState(True, Lsn(7 * MIB), None, lost=False), True),
        (SlotState(True, Lsn(8 * MIB), None, lost=False), False),
        (SlotState(True, Lsn(9 * MIB), None, lost=False), False),
        (SlotState(True, None, None, lost=False), False),
        (SlotState(True, Lsn(7 * MIB), 4711, lost=False), False),
        (SlotState(True, Lsn(7 * MIB), None, lost=True), False),
        (SlotState(False, Lsn(7 * MIB), None, lost=False), False),
        (None, False),
    ],
)
def test_the_slot_moves_up_to_the_record_if_it_is_ours_to_move(slot: SlotState | None, may: bool) -> None:
    assert slot_may_move(slot, Lsn(8 * MIB)) == may


SLOTS = st.none() | st.builds(
    SlotState, st.booleans(), st.none() | st.integers(0, 100 * MIB).map(Lsn), st.none(), lost=st.booleans()
)


@given(st.integers(0, 100), st.integers(0, 100 * MIB), SLOTS, st.booleans())
def test_the_spool_never_loses_a_byte_that_the_record_has_not_passed(
    number: int, recorded: int, slot: SlotState | None, crowded: bool
) -> None:
    passed = (number + 1) * MIB <= recorded
    assert removable(receipt(number), Lsn(recorded), (), slot, crowded=crowded) == passed


@pytest.mark.parametrize(
    ("number", "slot", "crowded", "goes"),
    [
        (12, SlotState(True, Lsn(7 * MIB), None, lost=False), False, True),
        (12, SlotState(True, Lsn(12 * MIB), None, lost=False), False, True),
        (12, SlotState(True, Lsn(12 * MIB + 1), None, lost=False), False, False),
        (12, SlotState(True, Lsn(7 * MIB), None, lost=True), False, False),
        (12, SlotState(True, Lsn(7 * MIB), None, lost=False, unreserved=True), False, False),
        (12, SlotState(True, Lsn(7 * MIB), 4711, lost=False), False, False),
        (12, SlotState(False, Lsn(7 * MIB), None, lost=False), False, False),
        (12, None, False, False),
        (12, None, True, True),
        (8, SlotState(True, Lsn(7 * MIB), None, lost=False), True, False),
    ],
)
def test_behind_a_suspicion_the_spool_loses_what_the_slot_keeps_or_what_it_has_no_room_for(
    number: int, slot: SlotState | None, crowded: bool, goes: bool
) -> None:
    assert removable(receipt(number), Lsn(8 * MIB), ((9, 11),), slot, crowded=crowded) == goes


@pytest.mark.parametrize(
    ("in_recovery", "leads", "archiving", "writes"),
    [
        (False, False, None, True), (True, False, None, False), (False, None, None, False), (False, True, None, False),
        (False, False, 1, False),
    ],
)  # fmt: skip
def test_a_primary_that_does_not_lead_is_told_of_only_when_that_is_known(
    in_recovery: bool, leads: bool | None, archiving: int | None, writes: bool
) -> None:
    view = View(ServerView(in_recovery, 1), leads, standby_cluster=False, archiving_timeline=archiving, fenced=False)
    assert writes_without_leading(view) == writes


@pytest.mark.parametrize(
    ("slot", "declared", "says"),
    [
        (None, False, "edit-config"),
        (None, True, "max_replication_slots"),
        (SlotState(True, Lsn(1), 4711, lost=False), True, "stream from this slot"),
        (SlotState(True, Lsn(1), None, lost=False), True, "when the frontier has passed"),
        (SlotState(True, Lsn(1), None, lost=True), True, "SELECT pg_drop_replication_slot('walkeeper')"),
        (SlotState(True, None, None, lost=False), True, "pg_drop_replication_slot"),
        (SlotState(True, Lsn(1), None, lost=False, unreserved=True), True, "Raise max_slot_wal_keep_size"),
        (SlotState(False, Lsn(1), None, lost=False), True, "pg_drop_replication_slot"),
    ],
)
def test_a_node_that_is_not_gap_safe_is_told_what_to_do(slot: SlotState | None, declared: bool, says: str) -> None:
    assert says in how_to_make_safe(slot, "walkeeper", declared=declared)
