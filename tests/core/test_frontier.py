from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt, TailReceipt
from walkeeper.core.tail import Piece

SIZE = SegmentSize(MIB)
HISTORY = History(2, (Switch(1, Lsn(5 * MIB + 100)),))


def receipt(number: int, timeline: int | None = None) -> Receipt:
    segment = HISTORY.segment(number, SIZE) if timeline is None else Segment(timeline, number, SIZE)
    return Receipt(segment, "0" * 64, 100, was_present=False)


@given(st.permutations(range(2, 12)))
def test_the_frontier_waits_for_the_first_missing_segment(order: list[int]) -> None:
    """Promise 4: it moves over an unbroken chain, in whatever order the uploads end."""
    frontier = Frontier(HISTORY, Lsn(2 * MIB), SIZE)
    stored: set[int] = set()
    for number in order:
        frontier.add(receipt(number))
        stored.add(number)
        expected = next(n for n in range(2, 13) if n not in stored)
        assert frontier.lsn == expected * MIB
        assert frontier.first_missing(()) == HISTORY.segment(expected, SIZE)


def test_a_receipt_of_another_branch_changes_nothing() -> None:
    frontier = Frontier(HISTORY, Lsn(5 * MIB), SIZE)
    assert not frontier.add(receipt(5, timeline=1))
    assert frontier.lsn == 5 * MIB
    assert frontier.add(receipt(5))


def test_a_receipt_from_below_changes_nothing() -> None:
    frontier = Frontier(HISTORY, Lsn(5 * MIB), SIZE)
    assert not frontier.add(receipt(3))
    assert frontier.lsn == 5 * MIB


def test_after_a_gap_it_goes_on_over_what_was_stored_meanwhile() -> None:
    frontier = Frontier(HISTORY, Lsn(2 * MIB), SIZE)
    frontier.add(receipt(4))
    assert frontier.add_gap(HISTORY.segment(2, SIZE), Lsn(4 * MIB))
    assert frontier.lsn == 5 * MIB


def test_a_gap_is_not_passed_before_what_lies_below_it_is_stored() -> None:
    """Segments 2 and 3 are still being uploaded when 4 and 5 turn out to be lost."""
    frontier = Frontier(HISTORY, Lsn(2 * MIB), SIZE)
    assert not frontier.add_gap(HISTORY.segment(4, SIZE), Lsn(6 * MIB))
    frontier.add(receipt(3))
    assert frontier.lsn == 2 * MIB
    frontier.add(receipt(2))
    assert frontier.lsn == 6 * MIB


def test_the_first_missing_segment_is_none_that_is_present_stored_or_lost() -> None:
    frontier = Frontier(HISTORY, Lsn(2 * MIB), SIZE)
    frontier.add_gap(HISTORY.segment(4, SIZE), Lsn(6 * MIB))
    frontier.add(receipt(6))
    assert frontier.first_missing(()) == HISTORY.segment(2, SIZE)
    assert frontier.first_missing({HISTORY.segment(2, SIZE), HISTORY.segment(3, SIZE)}) == HISTORY.segment(7, SIZE)


def test_pieces_up_to_the_end_of_a_segment_do_not_claim_the_whole_object() -> None:
    """A takeover begins with the segment of the frontier: below it all are there under their own names."""
    frontier = Frontier(HISTORY, Lsn(6 * MIB), SIZE)
    segment = Segment(2, 6, SIZE)
    assert frontier.add_tail(TailReceipt(segment, Piece(0, 1000, "me"), 0, ""))
    assert not frontier.add_tail(TailReceipt(segment, Piece(1000, SIZE, "me"), 0, ""))
    assert frontier.lsn == 6 * MIB + 1000
    assert frontier.next_segment == segment
    assert frontier.add(receipt(6))
    assert frontier.lsn == 7 * MIB
