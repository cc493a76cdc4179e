"""The last commit that is archived, from this node's own pg_wal."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.core.values import commit_record, message_record, wal_of
from walkeeper.agent import last_commit
from walkeeper.agent.last_commit import LastCommit
from walkeeper.core.commits import Commit
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.record import Record

SIZE = SegmentSize(MIB)
END = Lsn(1 << 40)


def record(frontier: int, timeline: int = 1, system: str = "7") -> Record:
    return Record(
        system_identifier=system, segment_size=MIB, timeline=timeline, lsn=str(Lsn(frontier)), start="000000010000000000000003",
        owner="node1", session="s",
    )  # fmt: skip


class Server:
    """A pg_wal with a commit after so much other WAL, each."""

    def __init__(self, pg_wal: Path, lengths: list[int]) -> None:
        records = [
            part for time, length in enumerate(lengths) for part in (message_record(length), commit_record(time))
        ]
        segments, places = wal_of(History(1), SIZE, 7, 3, records)
        self.commits = [Commit(*place, time) for time, place in enumerate(places[1::2])]
        self.ends = [end for _, end in places]
        self.pg_wal = pg_wal
        for segment, plain in segments.items():
            (pg_wal / segment.name).write_bytes(plain)

    def last(self, frontier: int) -> Commit | None:
        return next((one for one in reversed(self.commits) if one.end <= frontier), None)


@pytest.mark.parametrize("seed", range(6))
def test_it_follows_the_frontier_wherever_that_stops(tmp_path: Path, seed: int) -> None:
    """At the end of any record, and at segments' ends."""
    dice = random.Random(seed)
    server = Server(tmp_path, [dice.choice([100, 9000, 300_000, 1_500_000]) for _ in range(40)])
    known = LastCommit(tmp_path)
    for frontier in sorted(dice.sample([*server.ends, *(end.floor(SIZE) for end in server.ends)], 30)):
        if frontier > 3 * MIB:
            assert known.below(record(frontier), END) == server.last(frontier)
            assert known.below(record(frontier), END) == LastCommit(tmp_path).below(record(frontier), END)


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    """What was there before may be recycled by now."""
    server = Server(tmp_path, [100_000] * 40)
    known = LastCommit(tmp_path)
    assert known.below(record(5 * MIB), END) == server.last(5 * MIB)
    for number in (3, 4):
        (tmp_path / f"00000001000000000000000{number}").unlink()
    assert known.below(record(6 * MIB), END) == server.last(6 * MIB)
    assert LastCommit(tmp_path).below(record(server.ends[0]), END) is None


def test_what_this_node_does_not_have_is_not_known(tmp_path: Path) -> None:
    server = Server(tmp_path, [100_000] * 20)
    known = LastCommit(tmp_path)
    assert known.below(record(5 * MIB), Lsn(5 * MIB - 1)) is None
    assert known.below(record(5 * MIB), Lsn(5 * MIB)) == server.last(5 * MIB)
    assert known.below(record(5 * MIB, timeline=2), END) is None  # another branch's files
    assert known.below(record(4 * MIB), END) == server.last(4 * MIB)  # it went back: an archive that was put back


def test_what_was_known_of_another_cluster_is_forgotten(tmp_path: Path) -> None:
    """One that was initialised again, under an agent that went on: it writes the same timeline, from the same position."""
    server = Server(tmp_path, [100_000] * 20)
    known = LastCommit(tmp_path)
    assert known.below(record(5 * MIB), END) is not None
    for path in tmp_path.iterdir():
        path.unlink()
    again = Server(tmp_path, [1000, 5 * MIB])
    for frontier in (5 * MIB, 6 * MIB):
        assert known.below(record(frontier, system="8"), END) == again.last(frontier) != server.last(frontier)


def test_one_look_reads_so_much_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_commit, "MOST", 2 * MIB)
    server = Server(tmp_path, [1000, 5 * MIB, 1000])
    known = LastCommit(tmp_path)
    assert known.below(record(server.commits[0].end), END) == server.commits[0]
    assert known.below(record(7 * MIB), END) is None
    assert known.below(record(server.commits[2].end), END) == server.commits[2]
