"""The ends of transactions in made-up WAL. In that of real servers, with pg_waldump as the oracle: test_wal_of_servers."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.values import commit_record, message_record, wal_of
from walkeeper.core.commits import Commit, commits, commits_back, crosses, since_2000, written
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment

SIZE = SegmentSize(MIB)


def test_a_time_is_written_as_recovery_target_time_takes_it() -> None:
    moment = datetime(2026, 11, 28, 8, 15, 2, 123456, tzinfo=UTC)
    assert written(since_2000(moment)) == "2026-11-28T08:15:02.123456Z"
    assert written(0) == "2000-01-01T00:00:00.000000Z"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(30, 400_000), st.booleans()), min_size=1, max_size=12))
def test_all_are_found_from_both_ends_also_over_the_end_of_a_segment(made: list[tuple[int, int, bool]]) -> None:
    records = [
        record
        for time, (more, length, aborted) in enumerate(made)
        for record in (message_record(length), commit_record(time, aborted=aborted, more=more))
    ]
    segments, places = wal_of(History(1), SIZE, 7, 3, records)
    expected = [
        Commit(*place, time, aborted)
        for time, (place, (*_, aborted)) in enumerate(zip(places[1::2], made, strict=True))
    ]
    found: list[Commit] = []
    back: list[Commit] = []
    plains = [*segments.values(), b""]
    for (segment, plain), following in zip(segments.items(), plains[1:], strict=True):
        here = list(commits(plain, segment, following=following))
        across = crosses(plain, segment, following)
        assert here == [*commits(plain, segment), *([across] if across else [])]
        found += here
        back = [*commits_back(plain, segment, None, following), *back]
    assert found == expected
    assert back == expected[::-1]
    for one in expected:
        segment = Segment.at(1, one.begin, SIZE)
        plain = segments[segment]
        assert next(commits(plain, segment, one.begin, plains[plains.index(plain) + 1])) == one
        if one.end <= segment.end:
            assert next(commits_back(plain, segment, one.end)) == one
            assert next(commits_back(plain, segment, Lsn(one.end - 8)), None) != one


def test_a_record_that_was_cut_off_by_a_promotion_is_not_an_end() -> None:
    """The next timeline's first page does not go on with it."""
    filler = message_record(SIZE - 40 - 127 * 24 - 64)
    (first, second), _ = wal_of(History(1), SIZE, 7, 3, [filler, commit_record(5, more=100)])
    plains, _ = wal_of(History(1), SIZE, 7, 3, [filler, commit_record(5, more=100)])
    assert crosses(plains[first], first, plains[second]) is not None
    other, _ = wal_of(History(2, (Switch(1, first.end),)), SIZE, 7, 4, [commit_record(6)])
    assert crosses(plains[first], first, next(iter(other.values()))) is None


def test_a_damaged_one_is_not_believed() -> None:
    segments, ((begin, _),) = wal_of(History(1), SIZE, 7, 3, [commit_record(5)])
    ((segment, plain),) = segments.items()
    at = begin - segment.start + 30
    assert list(commits(plain, segment))
    assert not list(commits(plain[:at] + bytes([plain[at] ^ 1]) + plain[at + 1 :], segment))
