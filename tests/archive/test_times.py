"""Which times an archive can restore: from few objects, also where commits are rare, over forks and in the tail."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import pytest

from tests.core.values import commit_record, history_text, message_record, wal_of
from tests.twins.memory_store import MemoryStore
from walkeeper.archive import tail
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.times import CommitTimes
from walkeeper.archive.write import Archive
from walkeeper.core.commits import Commit
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.tail import Piece
from walkeeper.errors import CannotTell, StoreUnavailable

SYSTEM = 7300000000000000001
SIZE = SegmentSize(MIB)
FIRST = 3
TWO = History(2, (Switch(1, Lsn(6 * MIB + 5000)),))


class Made:
    """An archive of some segments, with a commit at each of the given times and so much other WAL before each."""

    def __init__(self, history: History, commits: list[tuple[int, int]]) -> None:
        self.store = MemoryStore()
        self.layout = Layout("demo", None, SYSTEM)
        self.archive = Archive(self.store, self.layout, SIZE, Codec())
        records = [record for before, time in commits for record in (message_record(before), commit_record(time))]
        self.plains, places = wal_of(history, SIZE, SYSTEM, FIRST, records)
        self.commits = [Commit(*place, time) for place, (_, time) in zip(places[1::2], commits, strict=True)]
        self.times = CommitTimes(self.store, self.layout, Codec(), history, SIZE)
        self.archive.state_start(next(iter(self.plains)))
        if history.switches:
            self.archive.archive_history(history.timeline, history_text(history))
        self.begin, self.end = Lsn(FIRST * SIZE), Lsn((FIRST + len(self.plains)) * SIZE)

    def put(self, *without: int) -> None:
        """All but those whose WAL ends with zeros, which nobody would archive: as if there were a switch."""
        for segment, plain in self.plains.items():
            if segment.number not in without:
                self.store.objects[self.layout.file(segment, ".zst")] = (Codec().encode(plain), {})

    def put_tail(self, segment: Segment, *ends: int) -> None:
        begin = 0
        for end in ends:
            tail.put(self.archive, segment, Piece(begin, end, "o1"), self.plains[segment][begin:end])
            begin = end

    def fetched(self) -> list[str]:
        """Keys, each as often as it was read since this was asked last."""
        keys = [key for call, key in self.store.calls if call == "get"]
        self.store.calls.clear()
        return [key for key in keys if not key.endswith(".age")]


def busy(segments: int = 60) -> Made:
    """Some five commits a segment, a thousand microseconds apart."""
    made = Made(TWO, [(200_000, time) for time in range(1000, 1000 + segments * 5_000, 1000)])
    made.put()
    made.fetched()
    return made


def test_first_and_last_commit_cost_an_object_each() -> None:
    made = busy()
    assert made.times.between(made.begin, made.end) == (made.commits[0], made.commits[-1])
    assert len(made.fetched()) == 2


def test_bounds_inside_segments_are_kept_to() -> None:
    """A record that ends behind the end is not in the window: a recovery never gets there."""
    made = busy(6)
    for one in made.commits:
        assert made.times.first(one.begin, made.end) == one
        assert made.times.last(made.begin, one.end) == one
        assert made.times.last(made.begin, Lsn(one.end - 8)) != one
        assert made.times.last(one.begin, one.end) == made.times.first(one.begin, one.end) == one
        assert made.times.last(Lsn(one.begin + 8), one.end) is None
        assert made.times.first(Lsn(one.begin + 8), one.end) is None


def test_where_commits_are_rare_only_so_many_segments_are_looked_into() -> None:
    """A load of many gigabytes in one transaction."""
    made = Made(History(1), [(1000, 5), (30 * MIB, 6), (12 * MIB, 7)])
    made.put()
    made.fetched()
    begin, end = made.commits[0].end, made.commits[-1].begin
    assert made.times.between(begin, end, near=4) == (None, None)
    assert len(made.fetched()) <= 8
    assert made.times.between(begin, end) == (made.commits[1], made.commits[1])


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_the_tail_is_read_from_behind(pieces: int) -> None:
    made = busy(5)
    *_, segment = made.plains
    made.plains[segment] = made.plains[segment][: SIZE // 2]
    last = [one for one in made.commits if one.end <= segment.start + SIZE // 2][-1]
    del made.store.objects[made.layout.file(segment, ".zst")]
    del made.store.objects[made.layout.file(list(made.plains)[-2], ".zst")]  # not needed for the last one
    ends = [last.end - segment.start + 64 + part for part in range(pieces)]
    made.put_tail(segment, *ends)
    made.fetched()
    assert made.times.last(made.begin, Lsn(segment.start + ends[-1])) == last
    assert len(made.fetched()) <= 2 + pieces
    assert made.times.first(segment.start, Lsn(segment.start + ends[-1])) in made.commits


def test_p16_a_piece_that_is_said_to_go_beyond_its_segment_takes_no_memory() -> None:
    made = busy(5)
    *_, segment = made.plains
    del made.store.objects[made.layout.file(segment, ".zst")]
    end = SIZE // 2
    made.plains[segment] = made.plains[segment][:end]
    made.put_tail(segment, end)
    made.store.objects[f"{made.layout.tail(segment.name)}00000000-FFFFFFFF-forged.zst"] = (b"x", {})
    last = [one for one in made.commits if one.end <= segment.start + end][-1]
    tracemalloc.start()
    try:
        assert made.times.last(made.begin, Lsn(segment.start + end)) == last
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()


def test_what_is_not_there_or_damaged_is_not_taken_for_the_end() -> None:
    made = busy(5)
    key = made.layout.file(list(made.plains)[2], ".zst")
    body, metadata = made.store.objects.pop(key)
    with pytest.raises(StoreUnavailable):
        made.times.first(Lsn(5 * MIB), made.end)
    made.store.objects[key] = (body[:-3], metadata)
    with pytest.raises(CannotTell):
        made.times.first(Lsn(5 * MIB), made.end)


def test_the_position_of_a_time_is_where_a_recovery_stops() -> None:
    """Before the first record that is later: found by looking at a few segments."""
    made = busy(200)
    made.fetched()
    dice = random.Random(1)
    for one in dice.sample(made.commits, 20):
        assert made.times.position_of(one.time - 1, made.begin, made.end) == one.begin
        assert len(made.fetched()) <= 14
    assert made.times.position_of(made.commits[-1].time, made.begin, made.end) is None
    assert made.times.position_of(0, made.begin, made.end) == made.commits[0].begin


def _nearly_ordered(dice: random.Random) -> Iterator[tuple[int, int]]:
    """Times as many backends take them: each up to a segment's worth early or late; and now and then a long load."""
    for number in range(300):
        yield (
            dice.choice([500, 20_000, 100_000, 3 * MIB if number % 97 == 0 else 50_000]),
            10_000 * number + dice.randrange(60_000),
        )


@pytest.mark.parametrize("seed", range(5))
def test_times_that_only_nearly_rise_are_judged_as_postgresql_does(seed: int) -> None:
    dice = random.Random(seed)
    made = Made(History(1), list(_nearly_ordered(dice)))
    made.put()
    for _ in range(30):
        time = dice.randrange(made.commits[-1].time)
        stops = next((one.begin for one in made.commits if one.time > time), None)
        assert made.times.position_of(time, made.begin, made.end) == stops
