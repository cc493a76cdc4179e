import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.values import PAGE, long_header, paged_segment, segments
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.wal_page import (
    HEADER_SIZE,
    MAGIC,
    SegmentHeader,
    check_every_page,
    check_header,
    check_pages,
    check_part,
    without_zeros,
)
from walkeeper.errors import BadSegment, WrongCluster

SYSTEM = 7300000000000000001
SEGMENT = Segment(2, 5, SegmentSize(MIB))
HISTORY = History(2, (Switch(1, Lsn(5 * MIB + 100)),))


def header(**kwargs: int) -> SegmentHeader:
    return SegmentHeader.parse(long_header(SEGMENT, SYSTEM, **kwargs), "x")


@given(segments())
def test_a_true_header_agrees_with_its_segment(segment: Segment) -> None:
    parsed = SegmentHeader.parse(long_header(segment, SYSTEM), segment.name)
    assert (parsed.timeline, parsed.address, parsed.segment_size) == (segment.timeline, segment.start, segment.size)
    check_header(parsed, segment, SYSTEM)


@pytest.mark.parametrize(("magic", "major"), MAGIC.items())
def test_each_known_magic_names_its_postgresql(magic: int, major: int) -> None:
    assert header(magic=magic).postgres_major == major


@pytest.mark.parametrize(
    "data", [b"", b"\0" * (HEADER_SIZE - 1), b"\0" * MIB, b"PK\x03\x04" + b"\0" * 100, b"\x10\xd1" + b"\0" * 100]
)
def test_what_is_no_first_page_is_refused(data: bytes) -> None:
    with pytest.raises(BadSegment):
        SegmentHeader.parse(data, "x")


@pytest.mark.parametrize("magic", [0xD107, 0xD121, 0xD123, 0xD12C, 0xD1FF])
def test_a_magic_that_is_newer_than_the_known_ones_or_between_them_is_of_no_known_major(magic: int) -> None:
    found = header(magic=magic)
    assert (found.magic, found.postgres_major) == (magic, None)
    check_header(found, SEGMENT, SYSTEM)


@pytest.mark.parametrize(
    ("magic", "what"),
    [
        (0xD05C, "that of a PostgreSQL older than 13"),
        (0xD105, "that of a PostgreSQL older than 13"),
        (0x0001, "not that of PostgreSQL 13 or newer"),
        (0xD05B, "not that of PostgreSQL 13 or newer"),
        (0xD200, "not that of PostgreSQL 13 or newer"),
        (0x22D1, "not that of PostgreSQL 13 or newer"),  # 19's, of a machine with the other byte order
        (0xFFFF, "not that of PostgreSQL 13 or newer"),
    ],
)
def test_a_magic_that_no_later_postgresql_can_have_is_refused(magic: int, what: str) -> None:
    with pytest.raises(BadSegment, match=f"page magic {magic:04X} is {what}"):
        header(magic=magic)


@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE), st.sampled_from([None, 0xD122, 0xD125]))
def test_random_bytes_are_no_segment_of_this_cluster(data: bytes, magic: int | None) -> None:
    data = data if magic is None else magic.to_bytes(2, "little") + data[2:]
    with pytest.raises((BadSegment, WrongCluster)):
        check_header(SegmentHeader.parse(data, "x"), SEGMENT, SYSTEM)


NEWER = 0xD125
"""An invented PostgreSQL 20's."""


def test_a_newer_postgresqls_pages_may_have_flags_that_are_not_known() -> None:
    plain = bytearray(paged_segment(SEGMENT, SYSTEM, HISTORY, magic=NEWER))
    plain[9 * PAGE + 2] = 0x10
    check_pages(plain, SEGMENT, HISTORY)
    plain[9 * PAGE + 2] = 0x12
    with pytest.raises(BadSegment, match="its flags are 0012"):
        check_pages(plain, SEGMENT, HISTORY)


@pytest.mark.parametrize("magic", [0xD110, NEWER])
@pytest.mark.parametrize("other", [0xD118, 0xD124, NEWER + 1])
def test_a_segment_has_one_magic_in_all_its_pages(magic: int, other: int) -> None:
    plain = bytearray(paged_segment(SEGMENT, SYSTEM, HISTORY, magic=magic))
    check_part(bytes(plain[:20_000]), 0, SEGMENT)
    plain[PAGE : PAGE + 2] = other.to_bytes(2, "little")
    with pytest.raises(BadSegment, match=f"its magic is {other:04X}"):
        check_pages(plain, SEGMENT, HISTORY)
    with pytest.raises(BadSegment, match="the page at 0/502000 has the header of another one"):
        check_part(bytes(plain[:20_000]), 0, SEGMENT)


def test_another_clusters_segment_is_refused() -> None:
    with pytest.raises(WrongCluster):
        check_header(header(), SEGMENT, SYSTEM + 1)


def test_a_recycled_segment_under_a_new_name_is_refused() -> None:
    with pytest.raises(BadSegment, match="first page is that of"):
        check_header(header(), Segment(2, 6, SEGMENT.size), SYSTEM)


def test_a_page_newer_than_the_name_is_refused() -> None:
    with pytest.raises(BadSegment, match="newer than its name"):
        check_header(header(timeline=3), SEGMENT, SYSTEM)


def test_the_boundary_segment_may_begin_with_its_parents_page() -> None:
    check_header(header(timeline=1), SEGMENT, SYSTEM, HISTORY)


def test_a_page_of_a_timeline_that_is_not_an_ancestor_is_refused() -> None:
    with pytest.raises(BadSegment, match="not an ancestor"):
        check_header(header(timeline=1), SEGMENT, SYSTEM, History(2))


def test_another_segment_size_is_refused() -> None:
    with pytest.raises(BadSegment, match="bytes a segment"):
        check_header(header(), Segment(2, 5, SegmentSize(2 * MIB)), SYSTEM)


WHOLE = paged_segment(SEGMENT, SYSTEM, HISTORY)


def patched(page: int, offset: int, value: bytes) -> bytes:
    at = page * PAGE + offset
    return WHOLE[:at] + value + WHOLE[at + len(value) :]


def test_every_page_of_a_true_segment_agrees_with_it() -> None:
    check_pages(WHOLE, SEGMENT, HISTORY)
    check_pages(WHOLE, SEGMENT)


@pytest.mark.parametrize("written", [HEADER_SIZE, PAGE, PAGE + 30, MIB - PAGE, MIB - 1])
def test_zeros_up_to_the_end_are_what_a_switch_leaves(written: int) -> None:
    check_pages(paged_segment(SEGMENT, SYSTEM, HISTORY, written=written), SEGMENT, HISTORY)


@pytest.mark.parametrize(
    ("page", "offset", "value", "what"),
    [
        (1, 0, b"\0\0", "its magic is 0000"),
        (127, 0, b"\x13\xd1", "its magic is D113"),
        (1, 0, bytes(PAGE), "its magic is 0000"),
        (9, 2, b"\2\0", "its flags are 0002"),
        (9, 2, b"\0\1", "its flags are 0100"),
        (9, 4, b"\1\0\0\0", "of timeline 1, after a page of 2"),
        (9, 4, b"\3\0\0\0", "of timeline 3"),
        (9, 8, b"\1", "it is the page of 0/512001"),
        (0, 36, b"\0\0\0\0", "a page has 0 bytes"),
        (0, 36, b"\1\x20\0\0", "a page has 8193 bytes"),
    ],
)
def test_a_page_that_does_not_belong_there_is_told_by_its_position(
    page: int, offset: int, value: bytes, what: str
) -> None:
    with pytest.raises(BadSegment, match=what):
        check_pages(patched(page, offset, value), SEGMENT, HISTORY)


def test_a_page_of_a_timeline_that_is_not_an_ancestor_is_told() -> None:
    five = Segment(5, 5, SEGMENT.size)
    history = History(5, (Switch(1, Lsn(5 * MIB + 100)), Switch(3, Lsn(5 * MIB + 300_000))))
    plain = paged_segment(five, SYSTEM, history)
    check_pages(plain, five, history)
    with pytest.raises(BadSegment, match="of timeline 3, after a page of 1"):
        check_pages(plain, five, History(5, (Switch(1, Lsn(5 * MIB + 100)), Switch(4, Lsn(5 * MIB + 300_000)))))


@pytest.mark.parametrize("used", [0, 1, 8191, 8192, 8193, 20_000, 24_576])
def test_the_length_without_zeros_is_what_rstrip_leaves(used: int) -> None:
    for data in (b"\0" * 100 + b"x" * used, b"x" * used + b"\0" * 9000, b"x" * used):
        assert without_zeros(data) == len(data.rstrip(b"\0"))


@given(
    st.integers(0, 127), st.sampled_from([0, 1, 4, 8, 9, 12, 15]), st.integers(1, 255),
    st.sampled_from([None, 3 * PAGE, 77 * PAGE + 100]),
)  # fmt: skip
def test_all_pages_at_once_say_what_page_by_page_says(page: int, offset: int, flip: int, written: int | None) -> None:
    """The look at each segment that is stored, held against the plain one: any byte of any header that is looked at."""
    whole = bytearray(paged_segment(SEGMENT, SYSTEM, HISTORY, written=written))
    check_every_page(whole, SEGMENT, HISTORY)
    whole[page * PAGE + offset] ^= flip
    for history in (HISTORY, None):
        refused = []
        for look in (check_every_page, check_pages):
            try:
                look(whole, SEGMENT, history)
            except BadSegment:
                refused.append(look)
        if written is not None and page * PAGE >= written:
            assert check_every_page in refused
        elif page > 0 or offset > 7:
            assert (check_every_page in refused) == (check_pages in refused) or page == 0


@pytest.mark.parametrize("written", [HEADER_SIZE, PAGE, PAGE + 30, MIB - PAGE, MIB - 1, MIB])
def test_zeros_up_to_the_end_have_true_pages_before_them(written: int) -> None:
    check_every_page(paged_segment(SEGMENT, SYSTEM, HISTORY, written=written), SEGMENT, HISTORY)


@pytest.mark.parametrize("page", [1, 60, 126])
def test_a_page_that_is_empty_in_the_middle_is_refused(page: int) -> None:
    gone = WHOLE[: page * PAGE] + bytes(PAGE) + WHOLE[(page + 1) * PAGE :]
    with pytest.raises(BadSegment, match="it is empty, and more follows"):
        check_every_page(gone, SEGMENT, HISTORY)


def test_pages_of_another_segment_behind_the_last_own_one_are_refused() -> None:
    """A segment that is still being written lies in the file of an old one."""
    old = paged_segment(Segment(2, 2, SEGMENT.size), SYSTEM)
    with pytest.raises(BadSegment, match="it is the page of 0/250000"):
        check_every_page(WHOLE[: 40 * PAGE] + old[40 * PAGE :], SEGMENT, HISTORY)


def test_pages_of_a_timeline_that_is_not_an_ancestor_are_refused() -> None:
    with pytest.raises(BadSegment, match="not an ancestor of 2"):
        check_every_page(WHOLE, SEGMENT, History(2))


@pytest.mark.parametrize("size", [MIB - 1, MIB + 1, MIB + 8192, 8192, 40])
def test_p16_pages_of_a_file_that_is_not_a_whole_segment_are_refused(size: int) -> None:
    segment = Segment(1, 5, SegmentSize(MIB))
    plain = (paged_segment(segment, 7, History(1)) + bytes(8192))[:size]
    with pytest.raises(BadSegment, match="a whole segment has 1048576"):
        check_pages(plain, segment)
