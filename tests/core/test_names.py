import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.values import SIZES, lsns, segments, sizes
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import BackupFile, HistoryFile, PartialFile, Segment, parse_wal_name
from walkeeper.errors import BadName, BadSegment

SIZE = SegmentSize(16 * MIB)


@given(lsns)
def test_a_position_survives_its_text(lsn: Lsn) -> None:
    assert Lsn.parse(str(lsn)) == lsn


@given(segments())
def test_a_segment_survives_its_name(segment: Segment) -> None:
    assert Segment.parse(segment.name, segment.size) == segment
    assert len(segment.name) == 24


@given(segments())
def test_a_segment_begins_where_the_one_before_ends(segment: Segment) -> None:
    if segment.number:
        assert Segment(segment.timeline, segment.number - 1, segment.size).end == segment.start
    assert Segment.at(segment.timeline, segment.start, segment.size) == segment


@given(lsns, sizes)
def test_the_floor_is_the_start_of_the_segment_that_holds_the_position(lsn: Lsn, size: SegmentSize) -> None:
    assert lsn.floor(size) <= lsn < lsn.floor(size) + size
    assert lsn.floor(size) % size == 0


def test_the_last_segment_of_a_log_is_followed_by_the_first_of_the_next() -> None:
    last = Segment.parse("0000000A00000001000000FF", SIZE)
    assert Segment(last.timeline, last.number + 1, SIZE).name == "0000000A0000000200000000"
    assert last.timeline == 10


def test_names_count_in_hex_for_every_size() -> None:
    assert Segment.at(1, Lsn.parse("1/0"), SegmentSize(1024 * MIB)).name == "000000010000000100000000"
    assert Segment.at(1, Lsn.parse("0/FFFFFFFF"), SegmentSize(MIB)).name == "000000010000000000000FFF"
    assert Segment.at(31, Lsn.parse("0/5000028"), SIZE).name == "0000001F0000000000000005"


@pytest.mark.parametrize("size", SIZES)
def test_a_number_that_the_size_cannot_have_is_refused(size: SegmentSize) -> None:
    with pytest.raises(BadName, match="no such segment"):
        Segment.parse(f"0000000100000000{size.per_log:08X}", size)


@pytest.mark.parametrize("value", [0, 1, MIB - 1, MIB + 1, 3 * MIB, 2048 * MIB, -MIB])
def test_a_size_that_postgresql_does_not_have_is_refused(value: int) -> None:
    with pytest.raises(BadSegment):
        SegmentSize(value)


def test_every_kind_of_file_is_known() -> None:
    segment = Segment.parse("000000010000000000000005", SIZE)
    assert parse_wal_name("000000010000000000000005", SIZE) == segment
    assert parse_wal_name("000000010000000000000005.partial", SIZE) == PartialFile(segment)
    assert parse_wal_name("000000010000000000000005.00000028.backup", SIZE) == BackupFile(segment, 0x28)
    assert parse_wal_name("0000000B.history", SIZE) == HistoryFile(11)
    for name in ("000000010000000000000005", "000000010000000000000005.partial", "0000000B.history"):
        assert parse_wal_name(name, SIZE).name == name


@pytest.mark.parametrize(
    "name",
    [
        "", "-", "../x", "/etc/passwd", "a/b", "00000001000000000000000g", "00000001000000000000000a", "00000001000000000000000",
        "0000000100000000000000055", "000000010000000000000005.gz", "000000010000000000000005\n", "000000010000000000000005\0",
        "00000000.history", "0000000B.HISTORY", "000000000000000000000005", "٠00000010000000000000005",
        "000000010000000000000005.backup", "RECOVERYXLOG", "x" * 65,
    ],
)  # fmt: skip
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(BadName):
        parse_wal_name(name, SIZE)


@given(st.text(max_size=70))
def test_no_text_does_worse_than_being_refused(text: str) -> None:
    try:
        assert parse_wal_name(text, SIZE).name == text
    except BadName:
        pass


@pytest.mark.parametrize("text", ["", "0", "0/", "/0", "0/0/0", "g/0", "-1/0", "0/100000000", "0/0 ", " 0/0", "0/0\n"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(BadName):
        Lsn.parse(text)
