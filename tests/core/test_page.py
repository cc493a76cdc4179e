import pytest
from hypothesis import given

from tests.core.worlds import long_header, segments
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.page import HEADER_SIZE, MAGIC, SegmentHeader, check_header
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


def test_a_page_of_a_timeline_that_is_no_ancestor_is_refused() -> None:
    with pytest.raises(BadSegment, match="no ancestor"):
        check_header(header(timeline=1), SEGMENT, SYSTEM, History(2))


def test_another_segment_size_is_refused() -> None:
    with pytest.raises(BadSegment, match="bytes a segment"):
        check_header(header(), Segment(2, 5, SegmentSize(2 * MIB)), SYSTEM)
