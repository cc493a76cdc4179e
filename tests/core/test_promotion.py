"""Before a promotion: whose pieces count, and whether a standby has what it needs."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.core.test_takeover import RECORD
from tests.core.values import PAGE, forked_pairs, message_record, wal_of
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.promotion import Standing, believed, closed, ended, shared, standing
from walkeeper.core.wal_records import can_be_read, last_end

SIZE = SegmentSize(MIB)
ONE = History(1)
TWO = History(2, (Switch(1, Lsn(500)),))
THREE = History(3, (Switch(1, Lsn(500)), Switch(2, Lsn(800))))
OWN = "0123456789ab"


def test_a_closed_record_is_anothers_and_says_still_whose_pieces_count() -> None:
    record = msgspec.structs.replace(RECORD, session=OWN + "f" * 20, durability="store")
    once = closed(record, "b", "1" * 32)
    assert (once.session, once.closed_by) == (OWN + "1" * 20, "b")
    assert msgspec.structs.replace(once, session=record.session, closed_by="") == record
    twice = closed(once, "c", "2" * 32)
    assert (twice.session, twice.closed_by) == (OWN + "2" * 20, "c")


def test_a_session_has_ended_where_its_owner_says_so_and_not_where_another_does() -> None:
    assert ended(msgspec.structs.replace(RECORD, closed_by=RECORD.owner))
    assert not ended(RECORD)
    assert not ended(closed(RECORD, "another", "1" * 32))
    assert not ended(msgspec.structs.replace(RECORD, owner=""))  # nobody's, as verify --rebuild writes it


def test_the_longest_chain_counts_where_all_agree() -> None:
    assert believed({}, OWN) is None
    assert believed({"x": b"abc", "y": b"ab", OWN + "0000": b"a"}, OWN) == "x"


def test_where_chains_differ_the_sessions_own_counts_and_what_agrees_with_it() -> None:
    assert believed({"x": b"abc", "y": b"axx"}, OWN) is None
    assert believed({"x": b"abc", "y": b"axx"}, "") is None
    assert believed({"x": b"axxxxx", OWN + "0001": b"abc"}, OWN) == OWN + "0001"
    assert believed({"x": b"axxxxx", "y": b"abcd", OWN + "0001": b"abc"}, OWN) == "y"
    assert believed({"x": b"axxxxx", "y": b"abcd", "z": b"abce", OWN + "0001": b"abc"}, OWN) is None
    assert believed({OWN + "0000": b"abd", OWN + "0001": b"abc"}, OWN) is None


def test_a_standby_is_there_behind_or_on_another_branch() -> None:
    assert standing(ONE, Lsn(400), ONE, Lsn(400)) is Standing.THERE
    assert standing(ONE, Lsn(399), ONE, Lsn(400)) is Standing.BEHIND
    # The record's timeline is newer: it follows, unless it has come further on its own.
    assert standing(ONE, Lsn(500), TWO, Lsn(600)) is Standing.BEHIND
    assert standing(ONE, Lsn(501), TWO, Lsn(600)) is Standing.PARTED
    assert standing(ONE, Lsn(700), TWO, Lsn(500)) is Standing.THERE  # nothing was acknowledged on the newer one
    # Its own is newer: it left the record's at or behind what is wanted, or before.
    assert standing(THREE, Lsn(900), TWO, Lsn(800)) is Standing.THERE
    assert standing(THREE, Lsn(900), TWO, Lsn(801)) is Standing.PARTED
    # Two children of one parent.
    other = History(3, (Switch(1, Lsn(450)),))
    assert standing(other, Lsn(900), TWO, Lsn(600)) is Standing.PARTED
    assert standing(other, Lsn(900), TWO, Lsn(450)) is Standing.THERE


@given(forked_pairs(), st.integers(0, 1 << 41), st.integers(0, 1 << 41))
def test_who_is_there_has_every_byte_of_the_chain_below(
    pair: tuple[History, History], replayed: int, wanted: int
) -> None:
    mine, its = pair
    verdict = standing(mine, Lsn(replayed), its, Lsn(wanted))
    assert (verdict is Standing.THERE) == (shared(mine, Lsn(replayed), its) >= wanted)
    if verdict is Standing.THERE and wanted:
        last = Lsn(wanted - 1)
        timeline = next(timeline for timeline in its.timelines if its.has(timeline, last))
        assert mine.has(timeline, last) or mine == its
    if verdict is Standing.BEHIND:
        assert its.includes(mine.timeline)


@given(
    st.lists(st.integers(30, 3 * PAGE) | st.just(MIB + 5000), min_size=1, max_size=8),
    st.integers(0, 3 * MIB),
)
def test_the_end_of_the_last_record_is_found_wherever_the_bytes_end(lengths: list[int], cut: int) -> None:
    """Also of one that began in the segment before, and where it ends exactly with the bytes."""
    segments, places = wal_of(ONE, SIZE, 7, 3, [message_record(length) for length in lengths])
    ends = [end for _, end in places]
    for stop in (min(3 * MIB + cut, ends[-1]), ends[cut % len(ends)], ends[cut % len(ends)] - 8):
        found = []
        for segment, whole in segments.items():
            plain = whole[: max(0, stop - segment.start)]
            if plain and (end := last_end(plain, segment)) is not None:
                found.append(end)
        assert max(found, default=0) == max((end for end in ends if end <= stop), default=0)


def test_what_has_another_form_cannot_be_read() -> None:
    segments, _ = wal_of(ONE, SIZE, 7, 3, [message_record(100)])
    segment, plain = next(iter(segments.items()))
    assert can_be_read(plain[:5000], segment)
    newer = b"\x77\xd1" + plain[2:]
    assert not can_be_read(newer, segment)
    larger_pages = plain[:36] + (16384).to_bytes(4, "little") + plain[40:]
    assert not can_be_read(larger_pages, segment)
