"""When a server has to show that it is not of a life that the archive does not have, and what shows it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.second_life import Compared, SecondLife, both, in_question, is_shown, told

SIZE = SegmentSize(MIB)
ONE = History(1)
TWO = History(2, (Switch(1, Lsn(12 * MIB + 100)),))
EARLY = History(2, (Switch(1, Lsn(7 * MIB + 100)),))
THREE = History(3, (*TWO.switches, Switch(2, Lsn(15 * MIB))))
OTHER_THREE = History(3, (Switch(1, Lsn(13 * MIB)),))


def life(shared: int = 7, seen: int = 8 * MIB + 500, timeline: int = 1) -> SecondLife:
    return SecondLife(timeline, str(Lsn(shared * MIB)), str(Lsn(seen)), "a", "2026-11-29T10:00:00Z")


def asked(chain: History, number: int, recorded: int | None = 1, of: SecondLife | None = None) -> int | None:
    until = in_question(of or life(), recorded, chain, Lsn(number * MIB), SIZE)
    return None if until is None else until // MIB


def test_above_what_is_shared_it_has_to_show_whose_wal_it_has() -> None:
    assert asked(ONE, 9) == 9
    assert asked(TWO, 9) == 9
    assert asked(TWO, 9, of=life(0)) == 9  # nobody could tell what is shared


def test_what_both_lives_share_needs_nothing() -> None:
    assert asked(ONE, 7) is None
    assert asked(TWO, 7) is None
    assert asked(EARLY, 10) is None  # it left that timeline before they part


def test_of_a_timeline_that_was_left_no_more_is_asked_than_there_is() -> None:
    assert asked(TWO, 14) == 12
    assert asked(THREE, 20) == 12
    assert asked(THREE, 20, of=life(timeline=2)) == 15


def test_whoever_has_a_timeline_that_was_archived_since_is_not_asked_again() -> None:
    assert asked(TWO, 14, recorded=2) is None
    assert asked(THREE, 20, recorded=2) is None
    assert asked(OTHER_THREE, 12, recorded=2) == 12  # a member of the first timeline is
    assert asked(TWO, 14, recorded=None) == 12  # and one of which no record says anything


@pytest.mark.parametrize(
    ("timeline", "end", "shown"),
    [
        (1, 12 * MIB, True),  # all of it
        (1, 10 * MIB, True),  # behind the point where they part
        (1, 8 * MIB, False),  # that may be shared
        (2, 14 * MIB, False),  # it may have stored that itself
    ],
)
def test_only_a_match_behind_where_they_part_shows_it(timeline: int, end: int, shown: bool) -> None:
    assert is_shown(life(), Lsn(12 * MIB), [Compared("it", timeline, Lsn(end))]) is shown
    assert not is_shown(life(), Lsn(12 * MIB), [])
    assert not is_shown(life(), Lsn(12 * MIB), [Compared("it", timeline, Lsn(end), whole=False)])


def test_whoever_has_a_timeline_that_has_passed_is_not_asked_either() -> None:
    passed = replace(life(), passed=2)
    assert asked(TWO, 14, recorded=None, of=passed) is None
    assert asked(THREE, 20, recorded=1, of=passed) is None
    assert asked(OTHER_THREE, 12, recorded=None, of=passed) == 12
    assert asked(ONE, 12, recorded=None, of=passed) == 12


def test_a_life_that_is_seen_again_shares_what_it_did() -> None:
    known = replace(life(7, 8 * MIB), passed=3)
    assert both(known, life(7, 9 * MIB)) == known
    assert both(known, life(0, 9 * MIB)) == known  # the store was away
    assert both(life(0, 8 * MIB), life(7, 9 * MIB)) == life(7, 8 * MIB)


@pytest.mark.parametrize(
    ("shared", "seen", "stands"),
    [
        (5, 6, (5, 8)),  # the volume went back once more
        (0, 6, (0, 8)),  # while the store was away
        (5, 9, (5, 9)),
        (9, 10, (7, 10)),
    ],
)
def test_two_lives_share_the_less_and_only_what_lies_behind_both_shows_anything(
    shared: int, seen: int, stands: tuple[int, int]
) -> None:
    known, other = replace(life(7, 8 * MIB), passed=3), replace(life(shared, seen * MIB), at="2026-11-30T10:00:00Z")
    assert both(known, other) == replace(life(stands[0], stands[1] * MIB), at=other.at, passed=3)


def test_another_members_life_is_another_one_where_nobody_can_tell() -> None:
    known, other = life(7, 8 * MIB), replace(life(0, 9 * MIB), member="b")
    assert both(known, other) == other


def test_a_line_tells_the_first_and_the_last_of_many_segments_that_were_compared() -> None:
    many = [Compared(f"segment {n}", 1, Lsn(n)) for n in range(9)]
    assert told(many) == "segment 0, segment 1, 5 more, segment 7, segment 8"
    assert told([many[0], many[1], many[0]]) == "segment 0, segment 1"
    assert told([]) == "nothing"
