"""When WAL that the local server no longer has is a gap: sets of segments, members, and what they have said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.members import REMEMBERED_SECONDS, SETTLED_SECONDS, Member, may_have, remember
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.record import Gap
from walkeeper.core.runs import Runs
from walkeeper.core.suspicion import (
    SETTLE_SECONDS,
    Forgotten,
    Lost,
    Suspicions,
    Why,
    below_reserve,
    covers,
    says_no,
    stretches,
)

SIZE = SegmentSize(MIB)
HISTORY = History(2, (Switch(1, Lsn(8 * MIB + 100)),))
GAP_PATIENCE = 3600.0
EDITS = st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 40)), max_size=20)


# ------------------------------------------------------------------------------------------------------------------ runs


@given(EDITS)
def test_runs_are_the_set_that_was_put_in(edits: list[tuple[bool, int, int]]) -> None:
    runs, expected = Runs(), set[int]()
    for adds, first, end in edits:
        (runs.add if adds else runs.remove)(first, end)
        expected = expected | set(range(first, end)) if adds else expected - set(range(first, end))
    assert [number for first, end in runs for number in range(first, end)] == sorted(expected)
    assert all(end < following for (_, end), (following, _) in zip(runs, list(runs)[1:], strict=False))  # and merged
    for number in range(42):
        assert (number in runs) == (number in expected)
        assert runs.end_of(number) == next(n for n in range(number, 99) if n not in expected)


# ---------------------------------------------------------------------------------------------------------- the frontier


@given(st.permutations(range(2, 12)), st.sets(st.integers(2, 11)))
def test_a_suspicion_holds_the_frontier_and_nothing_else(order: list[int], suspected: set[int]) -> None:
    """Promise 4: what is behind it is stored meanwhile, and the frontier passes it only with a receipt or a recorded gap."""
    frontier = Frontier(HISTORY, Lsn(2 * MIB), SIZE)
    for number in suspected:
        frontier.suspect(number, number + 1)
    stored: set[int] = set()
    for number in order:
        frontier.add(Receipt(HISTORY.segment(number, SIZE), "0" * 64, 1, was_present=False))
        stored.add(number)
        reached = next(n for n in range(2, 13) if n not in stored)
        assert frontier.lsn == reached * MIB
        wanted = next(n for n in range(reached, 13) if n not in stored | suspected)
        assert frontier.first_missing(()) == HISTORY.segment(wanted, SIZE)
        left = {n for first, end in frontier.suspected for n in range(first, end)}
        assert left == suspected - stored


def test_the_frontier_passes_a_suspicion_that_became_a_gap() -> None:
    frontier = Frontier(HISTORY, Lsn(2 * MIB), SIZE)
    frontier.suspect(2, 4)
    assert not frontier.add(Receipt(HISTORY.segment(4, SIZE), "0" * 64, 1, was_present=False))
    assert frontier.add_gap(HISTORY.segment(2, SIZE), Lsn(4 * MIB))
    assert frontier.lsn == 5 * MIB
    assert frontier.suspected == ()


# ---------------------------------------------------------------------------------------------------------- what is said

REMOVED = [
    (
        'rc 1: error: could not send replication command "START_REPLICATION": ERROR:  requested WAL segment '
        "000000010000000000000003 has already been removed"
    ),
    (
        "rc 1: error: unexpected termination of replication stream: ERROR:  requested WAL segment 000000010000000000000003 has "
        "already been removed"
    ),
    (
        "rc 1: unexpected termination of replication stream: ERROR:  requested WAL segment 000000010000000000000003 has already been "
        "removed"
    ),
]
SILENCES = [
    'rc 1: error: connection to server at "b" (10.0.0.2), port 5432 failed: Connection refused',
    "rc 1: error: could not connect to server: Connection refused",  # libpq 13
    'rc 1: error: could not translate host name "b" to address: Temporary failure in name resolution',
    "rc 1: FATAL:  the database system is starting up",
    (
        'rc 1: error: could not send replication command "START_REPLICATION": ERROR:  requested starting point 0/5000000 is ahead of '
        "the WAL flush position of this server 0/4000000"
    ),
    "rc 1: error: requested starting point 0/5000000 on timeline 1 is not in this server's history",
    "rc 1: das angeforderte WAL-Segment 000000010000000000000003 wurde schon entfernt",
    "rc -9: no output",
    "rc 0: no output",
    "pg_receivewal: cannot be started (Resource temporarily unavailable)",
    "stopped: it did not come to an end",
    "",
]


@pytest.mark.parametrize("said", REMOVED)
def test_a_walsender_says_no_in_the_words_of_any_version(said: str) -> None:
    assert says_no(said)


@pytest.mark.parametrize("said", SILENCES)
def test_p4_could_not_ask_is_never_does_not_have_it(said: str) -> None:
    assert not says_no(said)


# ------------------------------------------------------------------------------------------------------------ when a gap


def suspicions(first: int = 5, end: int = 8, now: float = 0.0) -> Suspicions:
    found = Suspicions(HISTORY, SIZE)
    found.suspect(first, end, now)
    return found


def gaps(
    found: Suspicions, now: float, members: list[str] | None, accepted: tuple[Gap, ...] = (), *, short: bool = False
) -> list[tuple[int, int, Why]]:
    told = found.gaps(now, members, accepted, GAP_PATIENCE, short_of_disk=short)
    return [(lost.first.number, lost.end, why) for lost, why in told]


def test_a_gap_is_proved_when_every_member_has_said_no_to_each_segment() -> None:
    found = suspicions()
    for number in (5, 6, 7):
        found.refuse("b", number, 1.0)
    assert found.silent(["b", "c"]) == ["c"]
    assert gaps(found, 100.0, ["b", "c"]) == []
    for number in (5, 6, 7):
        assert number in {segment.number for segment in found.wanted_from("c")}
        found.refuse("c", number, 100.0)
    assert (
        gaps(found, 100.0 + SETTLE_SECONDS - 1, ["b", "c"]) == []
    )  # their agents may be handing in what their spools have
    assert gaps(found, 100.0 + SETTLE_SECONDS, ["b", "c"]) == [(5, 8, Why.PROVED)]


def test_where_nobody_else_could_have_it_nobody_is_waited_for() -> None:
    assert gaps(suspicions(), SETTLE_SECONDS - 1, []) == []
    assert gaps(suspicions(), SETTLE_SECONDS, []) == [(5, 8, Why.PROVED)]


def test_while_the_members_are_not_known_nothing_is_proved() -> None:
    assert gaps(suspicions(), GAP_PATIENCE - 1, None) == []
    assert gaps(suspicions(), GAP_PATIENCE, None) == [(5, 8, Why.WAITED)]


def test_a_silent_member_is_waited_for_until_patience_is_over_or_the_disk_runs_short() -> None:
    found = suspicions(now=50.0)
    assert gaps(found, 50.0 + GAP_PATIENCE - 1, ["b"]) == []
    assert gaps(found, 50.0 + GAP_PATIENCE, ["b"]) == [(5, 8, Why.WAITED)]
    assert gaps(found, 51.0, ["b"], short=True) == [(5, 8, Why.DISK)]


def test_a_later_suspicion_is_waited_for_as_long_as_the_first() -> None:
    found = suspicions(5, 7, now=0.0)
    found.suspect(5, 8, 1000.0)
    assert found.since() == 0.0
    assert gaps(found, GAP_PATIENCE, ["b"]) == [(5, 7, Why.WAITED)]
    found.settle(5, 7)
    assert found.since() == 1000.0
    assert gaps(found, 1000.0 + GAP_PATIENCE, ["b"]) == [(7, 8, Why.WAITED)]


def test_what_a_person_accepts_is_a_gap_at_once_and_nothing_else_is() -> None:
    accepted = (Gap(1, str(Lsn(5 * MIB)), str(Lsn(7 * MIB))), Gap(2, str(Lsn(7 * MIB)), str(Lsn(8 * MIB))))
    assert gaps(suspicions(), 0.0, ["b"], accepted) == [(5, 7, Why.ACCEPTED)]


def test_a_gap_lies_within_one_timeline() -> None:
    assert stretches(HISTORY, SIZE, [(5, 11), (20, 21)]) == [
        Lost(Segment(1, 5, SIZE), 8),
        Lost(Segment(2, 8, SIZE), 11),
        Lost(Segment(2, 20, SIZE), 21),
    ]
    assert gaps(suspicions(7, 9), SETTLE_SECONDS, []) == [(7, 8, Why.PROVED), (8, 9, Why.PROVED)]


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("bc")), max_size=40), st.sets(st.integers(0, 9)))
def test_nothing_is_proved_that_one_member_has_not_refused(answers: list[tuple[int, str]], found: set[int]) -> None:
    told = suspicions(0, 10)
    for number, member in answers:
        told.refuse(member, number, 0.0)
    for number in found:
        told.settle(number, number + 1)
    refused = {member: {number for number, who in answers if who == member} for member in "bc"}
    lost = {n for first, end, _ in gaps(told, SETTLE_SECONDS, ["b", "c"]) for n in range(first, end)}
    assert lost == (refused["b"] & refused["c"]) - found
    assert bool(told) == (len(found) < 10)


def test_one_accepted_range_covers_another() -> None:
    accepted = [Gap(1, "0/300000", "0/600000")]
    assert covers(accepted, Gap(1, "0/300000", "0/600000"))
    assert covers(accepted, Gap(1, "0/400000", "0/500000"))
    assert not covers(accepted, Gap(2, "0/400000", "0/500000"))
    assert not covers(accepted, Gap(1, "0/500000", "0/700000"))
    assert not covers([], Gap(1, "0/500000", "0/700000"))


def test_the_disk_of_pg_wal_keeps_a_tenth_and_ten_segments() -> None:
    assert below_reserve(99 * MIB, 1000 * MIB, SIZE)
    assert not below_reserve(100 * MIB, 1000 * MIB, SIZE)
    assert below_reserve(9 * MIB, 20 * MIB, SIZE)
    assert not below_reserve(10 * MIB, 20 * MIB, SIZE)


def test_p9_the_disk_of_pg_wal_keeps_what_an_hour_of_wal_takes() -> None:
    assert below_reserve(359 * MIB, 1000 * MIB, SIZE, growth=0.1 * MIB)
    assert not below_reserve(361 * MIB, 1000 * MIB, SIZE, growth=0.1 * MIB)
    assert not below_reserve(100 * MIB, 1000 * MIB, SIZE, growth=-1.0 * MIB), "it empties"


# --------------------------------------------------------------------------------------------------------------- members


def there(*names: str, now: float) -> list[Member]:
    return [Member(name, name, 5432, now) for name in names]


def test_a_member_whose_key_is_gone_is_asked_until_the_frontier_has_passed_what_it_had() -> None:
    known = remember({}, there("a", "b", now=0.0), 0.0, Lsn(100))
    known = remember(known, there("a", now=10.0), 10.0, Lsn(200))
    assert sorted(known) == ["a", "b"]
    assert known["b"].horizon is None
    known = remember(known, there("a", now=70.0), SETTLED_SECONDS + 10, Lsn(300))
    assert known["b"].horizon == 300
    known = remember(known, there("a", now=80.0), SETTLED_SECONDS + 20, Lsn(400))
    assert known["b"].horizon == 300
    assert [member.name for member in may_have(known, Lsn(299))] == ["a", "b"]
    assert [member.name for member in may_have(known, Lsn(300))] == ["a"]


def test_a_member_that_comes_back_may_have_everything_again() -> None:
    gone = {"b": Member("b", "old", 5432, 0.0, Lsn(300))}
    known = remember(gone, there("b", now=100.0), 100.0, Lsn(400))
    assert may_have(known, Lsn(10_000)) == [Member("b", "b", 5432, 100.0)]


def test_a_member_whose_key_is_gone_for_a_day_was_removed() -> None:
    known = {"b": Member("b", "b", 5432, 0.0)}
    assert "b" in remember(known, [], REMEMBERED_SECONDS, None)
    assert "b" not in remember(known, [], REMEMBERED_SECONDS + 1, None)


def test_the_memory_of_members_is_bounded() -> None:
    known: dict[str, Member] = {}
    for number in range(1000):
        known = remember(known, there(f"pod-{number}", now=number), number, Lsn(1))
    assert len(known) == 64
    assert "pod-999" in known


# ------------------------------------------------------------------------------------------------------------- forgotten


def test_a_member_that_a_person_forgets_is_neither_asked_nor_waited_for() -> None:
    found = suspicions()
    found.forget([Forgotten("b", 2, Lsn(8 * MIB))])
    assert list(found.wanted_from("b")) == []
    assert (found.silent(["b", "c"]), found.forgotten(["b", "c"])) == (["c"], ["b"])
    assert gaps(found, SETTLE_SECONDS, ["b", "c"]) == []
    for number in (5, 6, 7):
        found.refuse("c", number, 0.0)
    assert gaps(found, SETTLE_SECONDS, ["b", "c"]) == [(5, 8, Why.FORGOTTEN)]
    assert gaps(found, SETTLE_SECONDS - 1, ["b", "c"]) == []


def test_a_word_says_nothing_of_what_was_written_after_it() -> None:
    found = suspicions(7, 10)
    found.forget([Forgotten("b", 2, Lsn(8 * MIB))])
    assert [segment.number for segment in found.wanted_from("b")] == [8, 9]
    found.forget([Forgotten("b", 1, Lsn(20 * MIB))])  # said before timeline 2 began, at segment 8
    assert [segment.number for segment in found.wanted_from("b")] == [8, 9]


def test_a_member_that_is_back_is_asked_and_waited_for_again() -> None:
    found = suspicions()
    found.forget([Forgotten("b", 2, Lsn(8 * MIB))])
    found.forget([])
    assert (found.silent(["b"]), found.forgotten(["b"])) == (["b"], [])


def test_what_a_member_has_said_itself_needs_no_word() -> None:
    found = suspicions(5, 6)
    found.refuse("b", 5, 0.0)
    found.forget([Forgotten("b", 2, Lsn(8 * MIB))])
    assert found.forgotten(["b"]) == []
    assert gaps(found, SETTLE_SECONDS, ["b"]) == [(5, 6, Why.PROVED)]
