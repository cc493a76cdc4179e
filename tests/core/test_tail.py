"""The pure part of the tail: names, chains, merges, and what it does to the frontier."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.values import plain_segment
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt, TailReceipt
from walkeeper.core.tail import MERGED_AT_ONCE, Piece, due_for_merge, inner_fork, longest_chain
from walkeeper.core.wal_page import PAGE_SIZE, check_part
from walkeeper.errors import BadName, BadSegment

SIZE = SegmentSize(MIB)
ONE = History(1)
offsets = st.integers(0, 12)


def piece(begin: int, end: int, owner: str = "a") -> Piece:
    return Piece(begin, end, owner)


@given(st.integers(0, 1 << 30), st.integers(1, 1 << 30), st.text("0123456789abcdef", min_size=1, max_size=16))
def test_a_piece_has_a_name_and_is_found_by_it(begin: int, length: int, owner: str) -> None:
    one = Piece(begin, begin + length, owner)
    assert Piece.parse(one.name) == one


@pytest.mark.parametrize("name", ["", "x", "00000000-00000000-a", "00000001-00000000-a", "00000000-00000001-", "0-1-a"])
def test_other_names_are_no_pieces(name: str) -> None:
    with pytest.raises(BadName):
        Piece.parse(name)


def furthest(pieces: set[Piece], at: int = 0) -> int:
    return max((furthest(pieces, piece.end) for piece in pieces if piece.begin == at), default=at)


@given(st.sets(st.tuples(offsets, offsets).filter(lambda ends: ends[0] < ends[1]).map(lambda ends: piece(*ends))))
def test_the_longest_chain_is_unbroken_and_reaches_as_far_as_any(pieces: set[Piece]) -> None:
    chain = longest_chain(pieces)
    at = 0
    for one in chain:
        assert one in pieces
        assert one.begin == at
        at = one.end
    assert at == furthest(pieces)


def test_of_chains_that_reach_as_far_the_one_with_the_fewest_pieces_is_taken() -> None:
    parts = {piece(0, 1), piece(1, 2), piece(2, 3), piece(3, 4)}
    assert longest_chain({*parts, piece(0, 3)}) == [piece(0, 3), piece(3, 4)]


def test_merging_keeps_the_number_of_pieces_small_for_ever() -> None:
    levels: list[int] = []
    for count in range(1, 20_000):
        levels.append(0)
        while merged := due_for_merge(levels):
            levels[-merged:] = [levels[-1] + 1]
        assert sum(MERGED_AT_ONCE**level for level in levels) == count
        assert len(levels) <= 4 * MERGED_AT_ONCE


def tail_receipt(segment: Segment, begin: int, end: int, owner: str = "a") -> TailReceipt:
    return TailReceipt(segment, piece(begin, end, owner), 1, "")


def test_the_frontier_moves_with_the_tail_of_the_next_segment_and_of_no_other() -> None:
    frontier = Frontier(ONE, Lsn(5 * MIB), SIZE)
    here = Segment(1, 5, SIZE)
    assert not frontier.add_tail(tail_receipt(Segment(1, 6, SIZE), 0, 100))
    assert not frontier.add_tail(tail_receipt(Segment(2, 5, SIZE), 0, 100))
    assert not frontier.add_tail(tail_receipt(here, 8, 100))  # nothing from 0 on
    assert frontier.add_tail(tail_receipt(here, 0, 100))
    assert frontier.lsn == 5 * MIB + 100
    assert not frontier.add_tail(tail_receipt(here, 100, 200, "b"))  # another owner's bytes may be others
    assert not frontier.add_tail(tail_receipt(here, 104, 200))  # a hole
    assert frontier.add_tail(tail_receipt(here, 100, 200))
    assert frontier.lsn == 5 * MIB + 200
    assert frontier.next_segment == here
    assert frontier.add(Receipt(here, "", 1, was_present=False))
    assert frontier.lsn == 6 * MIB
    assert not frontier.add_tail(tail_receipt(here, 200, 300))
    assert not frontier.add_tail(tail_receipt(Segment(1, 6, SIZE), 200, 300))  # what was known is of another segment


def test_a_shorter_tail_of_a_new_owner_does_not_move_the_frontier_back() -> None:
    frontier = Frontier(ONE, Lsn(5 * MIB), SIZE)
    here = Segment(1, 5, SIZE)
    frontier.add_tail(tail_receipt(here, 0, 200))
    assert not frontier.add_tail(tail_receipt(here, 0, 100, "b"))
    assert frontier.lsn == 5 * MIB + 200
    assert frontier.add_tail(tail_receipt(here, 100, 300, "b"))


def test_a_tail_must_pass_the_forks_inside_its_segment() -> None:
    history = History(3, (Switch(1, Lsn(5 * MIB + 100)), Switch(2, Lsn(5 * MIB + 300))))
    assert inner_fork(history, Segment(3, 5, SIZE)) == 5 * MIB + 300
    assert inner_fork(history, Segment(3, 6, SIZE)) == 6 * MIB
    assert inner_fork(ONE, Segment(1, 5, SIZE)) == 5 * MIB


def test_each_page_must_be_the_segments_own() -> None:
    segment = Segment(2, 5, SIZE)
    plain = paged(segment)
    check_part(plain, 0, segment)
    check_part(plain[100:20000], 100, segment)
    check_part(plain[PAGE_SIZE : 3 * PAGE_SIZE], PAGE_SIZE, segment)
    with pytest.raises(BadSegment, match="header of another"):
        check_part(plain[: 3 * PAGE_SIZE], PAGE_SIZE, segment)
    with pytest.raises(BadSegment, match="header of another"):
        check_part(plain, 0, Segment(1, 5, SIZE))
    with pytest.raises(BadSegment, match="cut inside"):
        check_part(plain[: PAGE_SIZE + 10], 0, segment)
    with pytest.raises(BadSegment, match="header of another"):
        check_part(plain[:PAGE_SIZE] + bytes(PAGE_SIZE), 0, segment)


def paged(segment: Segment) -> bytes:
    """A segment each of whose pages has a true header."""
    pages = []
    for number in range(segment.size // PAGE_SIZE):
        header = plain_segment(segment, 7)[:24]
        at = (segment.start + number * PAGE_SIZE).to_bytes(8, "little")
        pages.append((header[:8] + at + header[16:]).ljust(PAGE_SIZE, b"w"))
    return b"".join(pages)
