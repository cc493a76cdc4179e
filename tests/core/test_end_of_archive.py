"""Where an archive ends, and where it has a hole: held against a model that looks at each file of each branch."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.core.values import forked_pairs, histories
from walkeeper.core.coverage import Range
from walkeeper.core.end_of_archive import Around, RecordedGap, hole_at, lost_history
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.tail import TailReach
from walkeeper.core.wal_records import last_whole

SIZE = SegmentSize(MIB)
MOST = 40
ONE = History(1)
TWO = History(2, (Switch(1, Lsn(5 * MIB + 100)),))


def segment(timeline: int, number: int) -> Segment:
    return Segment(timeline, number, SIZE)


def known_of(history: History) -> list[History]:
    """The histories that a cluster on that timeline has stored."""
    return [History(timeline, history.switches[:at]) for at, timeline in enumerate(history.timelines)]


numbers = st.integers(0, MOST)


@given(histories(max_timelines=5, max_lsn=MOST * MIB), numbers, numbers)
def test_p6_nothing_stored_before_the_end_is_ever_taken_for_more_behind_it(
    history: History, end: int, asked: int
) -> None:
    """All of a chain is stored up to ``end``, and its newest timeline has begun by then: there it ends."""
    begun = history.switches[-1].lsn if history.switches else 0
    assume(end * SIZE >= begun)
    stored = [history.segment(number, SIZE) for number in range(end)]
    found = hole_at(
        history.segment(end, SIZE),
        Around(stored, histories=known_of(history), frontier=(history.timeline, Lsn(end * SIZE))),
    )
    assert found is None
    if asked < end:
        assert hole_at(
            history.segment(asked, SIZE),
            Around(stored, histories=known_of(history), frontier=(history.timeline, Lsn(end * SIZE))),
        )


@given(
    histories(max_timelines=5, max_lsn=MOST * MIB),
    numbers,
    numbers,
    st.sampled_from(["stored", "gap", "history", "frontier"]),
)
def test_p6_a_file_with_more_of_its_branch_behind_it_is_a_hole_by_any_sign_of_that(
    history: History, asked: int, more: int, sign: str
) -> None:
    wanted = history.segment(asked, SIZE)
    behind = history.segment(asked + 1 + more, SIZE)
    around = Around(histories=known_of(history))
    if sign == "stored":
        assume(behind.timeline == wanted.timeline)  # else the history says it
        around = Around([behind])
    elif sign == "gap":
        assume(behind.timeline == wanted.timeline)
        around = Around(gaps=[RecordedGap(behind, behind.end)])
    elif sign == "history":
        assume(wanted.timeline != history.timeline)
    else:
        around = Around(histories=known_of(history), frontier=(history.timeline, Lsn(behind.start + 1)))
    found = hole_at(wanted, around)
    assert found is not None
    assert not found.recorded


@given(forked_pairs(), numbers, numbers)
def test_p6_what_lies_on_another_branch_follows_nothing(pair: tuple[History, History], asked: int, more: int) -> None:
    """Recovery along an abandoned branch ends where that branch does, however far the other one goes on."""
    dead, alive = pair
    wanted = dead.segment(asked, SIZE)
    assume(wanted.timeline == dead.timeline)
    assume(not alive.contains(wanted))
    stored = [alive.segment(number, SIZE) for number in range(asked + more)]
    around = Around(
        [each for each in stored if each.timeline != wanted.timeline],
        histories=[*known_of(dead), *known_of(alive)],
        frontier=(alive.timeline, Lsn((asked + more) * SIZE)),
    )
    assert hole_at(wanted, around) is None


@given(numbers, st.integers(1, MOST), numbers)
def test_p6_a_recorded_gap_is_a_hole_that_waiting_does_not_close(first: int, length: int, asked: int) -> None:
    gap = RecordedGap(segment(1, first), Lsn((first + length) * SIZE))
    found = hole_at(segment(1, asked), Around(gaps=[gap]))
    assert (found is not None) == (asked < first + length)
    assert (found is not None and found.recorded) == (first <= asked < first + length)
    assert hole_at(segment(2, asked), Around(gaps=[gap])) is None


def test_the_frontier_may_lie_in_a_segment_whose_tail_is_stored() -> None:
    inside = (1, Lsn(6 * MIB + 5000))
    assert hole_at(segment(1, 6), Around(frontier=inside))
    assert hole_at(segment(1, 6), Around(frontier=inside, tail=TailReach(5000, 5000))) is None
    assert hole_at(segment(1, 6), Around(frontier=inside, tail=TailReach(4999, 4999)))
    assert hole_at(segment(1, 5), Around(frontier=inside, tail=TailReach(5000, 5000)))
    assert hole_at(segment(1, 7), Around(frontier=inside)) is None


def test_a_segment_that_is_whole_by_its_pieces_is_neither_a_hole_nor_an_end() -> None:
    """With durability: store they go to its end, and the next one's begin before the whole segment is stored."""
    behind = [segment(1, 6)]
    assert hole_at(segment(1, 5), Around(behind, tail=TailReach(SIZE, SIZE, whole=True))) is None
    assert hole_at(segment(1, 5), Around(behind, tail=TailReach(SIZE, SIZE))) is not None  # two servers' pieces differ
    lost = Around(behind, [RecordedGap(segment(1, 5), Lsn(6 * MIB))], tail=TailReach(SIZE, SIZE, whole=True))
    assert hole_at(segment(1, 5), lost) is None


def test_p6_a_tail_that_was_stored_further_than_it_can_be_read_does_not_end_there() -> None:
    short = TailReach(4000, 9000, "tail/x")
    found = hole_at(segment(1, 5), Around(tail=short))
    assert found is not None
    assert "tail/x" in found.why
    assert hole_at(segment(1, 5), Around(tail=TailReach(9000, 9000))) is None


def test_a_tail_that_is_short_only_beyond_the_fork_ends_there() -> None:
    """A takeover stores its history, and then writes the record: between the two the frontier is the old timeline's."""
    for frontier in (None, (1, Lsn(5 * MIB + 9000)), (2, Lsn(5 * MIB + 9000))):
        for reached, holds in ((99, False), (100, True), (4000, True)):
            tail = TailReach(reached, 9000, "tail/x")
            found = hole_at(segment(1, 5), Around(histories=[TWO], frontier=frontier, tail=tail))
            assert (found is None) == holds


def test_a_record_on_a_timeline_of_which_nothing_is_known_proves_no_end() -> None:
    assert hole_at(segment(1, 6), Around(frontier=(3, Lsn(2 * MIB))))
    assert hole_at(segment(3, 6), Around(frontier=(1, Lsn(20 * MIB)))) is None
    assert hole_at(segment(3, 6), Around(frontier=(3, Lsn(6 * MIB)))) is None


def test_the_forks_own_segment_belongs_to_the_newer_timeline() -> None:
    """PostgreSQL asks for the newer one's first; of the older one nothing follows."""
    around = Around([segment(2, 6)], histories=[TWO])
    assert hole_at(segment(2, 5), around)
    assert hole_at(segment(1, 5), around) is None
    assert hole_at(segment(1, 4), around)


def test_what_is_named_is_the_nearest() -> None:
    found = hole_at(segment(1, 3), Around([segment(1, 9), segment(1, 5), segment(1, 2)]))
    assert found is not None
    assert found.why == "000000010000000000000005 is there"


def test_p6_a_history_that_a_newer_one_comes_from_was_there() -> None:
    four = History(4, (Switch(1, Lsn(5 * MIB)), Switch(3, Lsn(8 * MIB))))
    assert lost_history(3, [four], 1)
    assert lost_history(2, [four], 1) is None  # a timeline that nobody came from
    assert lost_history(5, [four], 1) is None
    assert lost_history(3, [four], 3) is None  # the archive begins there, with what came before never stored
    assert lost_history(3, [], 1) is None
    assert lost_history(3, [], 1, [3])
    assert "00000004.history is not" in str(lost_history(3, [], 1, [5, 4, 2]))
    assert lost_history(3, [], 1, [2]) is None
    assert lost_history(3, [], 3, [3]) is None


def test_the_last_record_of_an_empty_segment_is_not_known() -> None:
    assert last_whole(bytes(MIB), segment(1, 3)) is None


def test_p6_below_the_floor_nothing_is_an_end() -> None:
    found = hole_at(segment(1, 4), Around(given_up=[Range(0, 3), Range(4, 6)]))
    assert found is not None
    assert found.given_up
    assert hole_at(segment(1, 3), Around(given_up=[Range(0, 3), Range(4, 6)])) is None
