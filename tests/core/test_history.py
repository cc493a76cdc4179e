import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.core.values import forked_pairs, histories, history_text, sizes
from walkeeper.core.history import History, Switch, parse_history
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.errors import BadHistory

SIZE = SegmentSize(16 * MIB)
THREE = History(3, (Switch(1, Lsn.parse("0/5000100")), Switch(2, Lsn.parse("0/9000000"))))


@given(histories())
def test_a_history_survives_its_file(history: History) -> None:
    assume(history.switches)
    assert parse_history(history.timeline, history_text(history)) == history


def test_postgresqls_own_file_is_read() -> None:
    content = b"1\t0/5000100\tno recovery target specified\n\n2\t0/9000000\tbefore 2000-01-01 \xe2\x82\xac\n"
    assert parse_history(3, content) == THREE


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "no end"), (b"1\t0/5000100\tx", "no end"), (b"\n", "no ancestor"), (b"# only\n", "no ancestor"),
        (b"1\t0/5000100\tx\r\n", "line 1"), (b"1 0/5\tx\n\0\n", "line 2"), (b"one\t0/5\tx\n", "line 1"), (b"1\n", "line 1"),
        (b"1\t5\tx\n", "line 1"), (b"1\t0/5\tx\n1\t0/6\tx\n", "line 2"), (b"2\t0/5\tx\n1\t0/6\tx\n", "line 2"),
        (b"3\t0/5\tx\n", "not an ancestor"), (b"0\t0/5\tx\n", "not an ancestor"), (b"\xc2\xb2\t0/5\tx\n", "line 1"),
        (b"1\t0/5\tx\n" * 10000, "more than any"),
    ],
)  # fmt: skip
def test_a_file_that_postgresql_did_not_write_is_refused(content: bytes, what: str) -> None:
    with pytest.raises(BadHistory, match=what):
        parse_history(3, content)


def test_a_standby_promoted_before_its_parents_beginning_has_nothing_of_the_parent() -> None:
    """Word for word what PostgreSQL 15 wrote: it knew of timeline 2, and had replayed timeline 1 up to 0/9806A8 only."""
    two = parse_history(2, b"1\t0/D83B00\tno recovery target specified\n")
    three = parse_history(
        3, b"1\t0/D83B00\tno recovery target specified\n\n2\t0/9806A8\tno recovery target specified\n"
    )
    size = SegmentSize(MIB)
    assert three.parts_from(two) == three.parts_from(History(1)) == Lsn.parse("0/9806A8")
    assert [three.timeline_of(number, size) for number in (8, 9, 13, 14)] == [1, 3, 3, 3]


@given(st.binary(max_size=200))
def test_no_content_does_worse_than_being_refused(content: bytes) -> None:
    try:
        assert parse_history(9, content).timeline == 9
    except BadHistory:
        pass


def test_the_chain_takes_the_newest_timeline_that_had_begun() -> None:
    assert [THREE.segment(number, SIZE).timeline for number in (0, 4, 5, 8, 9, 10)] == [1, 1, 2, 2, 3, 3]
    assert THREE.segment_at(Lsn.parse("0/50000FF"), SIZE).name == "000000020000000000000005"


def test_two_promotions_inside_one_segment_leave_the_middle_timeline_without_a_file() -> None:
    history = History(3, (Switch(1, Lsn.parse("0/5000100")), Switch(2, Lsn.parse("0/5000200"))))
    assert [history.segment(number, SIZE).timeline for number in (4, 5, 6)] == [1, 3, 3]


@given(histories(), sizes, st.integers(0, 1 << 18))
def test_the_chains_timelines_never_go_back(history: History, size: SegmentSize, number: int) -> None:
    assert history.timeline_of(number, size) <= history.timeline_of(number + 1, size)
    assert history.contains(history.segment(number, size))


@given(forked_pairs())
def test_the_fork_is_the_same_seen_from_both_sides(pair: tuple[History, History]) -> None:
    one, other = pair
    assert one.parts_from(other) == other.parts_from(one)


@given(histories())
def test_a_child_parts_from_its_parent_where_the_parent_ended(history: History) -> None:
    assume(history.switches)
    parent = History(history.switches[-1].timeline, history.switches[:-1])
    assert history.parts_from(parent) == history.switches[-1].lsn


@given(forked_pairs(), sizes, st.integers(0, 1 << 16))
def test_up_to_the_fork_and_no_further_both_chains_are_the_same_files(
    pair: tuple[History, History], size: SegmentSize, number: int
) -> None:
    one, other = pair
    forks = one.parts_from(other)
    assert forks is not None
    same = one.segment(number, size) == other.segment(number, size)
    assert same == ((number + 1) * size <= forks)


def test_siblings_that_forked_at_the_same_position_share_all_before_it() -> None:
    two = History(2, (Switch(1, Lsn.parse("0/5000100")),))
    three = History(3, (Switch(1, Lsn.parse("0/5000100")),))
    assert three.parts_from(two) == Lsn.parse("0/5000100")


def test_siblings_part_at_the_earlier_fork() -> None:
    """Timeline 2 promoted, archived and died; timeline 3 forked from 1 later on and does not know 2."""
    two = History(2, (Switch(1, Lsn.parse("0/5000100")),))
    three = History(3, (Switch(1, Lsn.parse("0/7000000")),))
    assert three.parts_from(two) == Lsn.parse("0/5000100")
    assert two.parts_from(two) is None
