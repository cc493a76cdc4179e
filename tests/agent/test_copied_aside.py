"""WAL that is looked for and lies in the pg_wal of a member that came back: copied aside, and handed in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.core.values import PAGE, paged_segment
from tests.fixtures.worlds import config_of
from tests.parts.postgres import Postgres
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.agent import Agent
from walkeeper.agent.archiver import leftovers
from walkeeper.agent.archiver.leftovers import Leftovers
from walkeeper.agent.archiver.spool import Spool
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap, Record
from walkeeper.errors import SpoolError
from walkeeper.lib.clock import SystemClock

SIZE = SegmentSize(MIB)
SYSTEM = 7300000000000000001
ONE = History(1)


def segment(number: int) -> Segment:
    return Segment(1, number, SIZE)


def plain_of(number: int) -> bytes:
    return bytes(paged_segment(segment(number), SYSTEM, ONE))


def gap(first: int, end: int) -> Gap:
    return Gap(1, str(Lsn(first * MIB)), str(Lsn(end * MIB)))


def record(*, suspected: tuple[Gap, ...] = (), gaps: tuple[Gap, ...] = (), at: int = 5) -> Record:
    return Record(
        system_identifier=str(SYSTEM), segment_size=MIB, timeline=1, lsn=str(Lsn(at * MIB)), start=segment(2).name,
        owner="b", session="s", suspected=suspected, gaps=gaps,
    )  # fmt: skip


class Member:
    """One that is back, with segments 4 to 9 in pg_wal."""

    def __init__(self, directory: Path, limit: int = 64 * MIB) -> None:
        self.store = MemoryStore()
        self.archive = Archive(self.store, Layout("demo", None, SYSTEM), SIZE, Codec())
        self.archive.state_start(segment(2))
        self.pg_wal = directory / "pg_wal"
        self.pg_wal.mkdir()
        for number in range(4, 10):
            (self.pg_wal / segment(number).name).write_bytes(plain_of(number))
        (self.pg_wal / "archive_status").mkdir()
        self.spool = Spool(directory / "spool", limit)
        self.spool.open()
        self.leftovers = Leftovers(self.spool, 0)

    def look(self, record: Record) -> list[int]:
        """What is stored then."""
        for _ in range(20):
            copied = self.leftovers.copy_one_aside(record, self.pg_wal)
            if not copied and not self.leftovers.hand_in_one(self.archive, record):
                break
        return sorted(each.number for each in self.archive.contents.segments())


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(tmp_path)


def test_p4_what_is_suspected_lost_is_handed_in_from_pg_wal(member: Member) -> None:
    assert member.look(record()) == []
    assert member.look(record(suspected=(gap(5, 7),))) == [5, 6]


def test_p4_a_recorded_gap_is_closed_the_same_way(member: Member) -> None:
    assert member.look(record(gaps=(gap(6, 8),), at=9)) == [6, 7]
    assert member.spool.complete(SIZE) == []  # the record has passed them


def test_it_is_copied_before_anything_is_sent(member: Member) -> None:
    """The store may be slow, and PostgreSQL about to start."""
    looked_for = record(suspected=(gap(5, 8),))
    begun = set(member.store.objects)
    while member.leftovers.copy_one_aside(looked_for, member.pg_wal):
        pass
    assert set(member.store.objects) == begun
    for path in member.pg_wal.glob("0*"):
        path.unlink()
    assert member.look(looked_for) == [5, 6, 7]


def test_p13_nothing_is_handed_in_to_a_store_in_which_no_archive_begins(member: Member) -> None:
    """It may be the wrong one: a takeover would take for the archive what lies there."""
    member.store.objects.clear()
    assert member.look(record(suspected=(gap(5, 7),), at=7)) == []
    assert member.store.objects == {}
    assert [each.number for each in member.spool.complete(SIZE)] == [5, 6]
    member.archive.state_start(segment(2))
    assert member.look(record(suspected=(gap(5, 7),), at=7)) == [5, 6]


def test_a_file_that_postgresql_has_begun_to_use_again_is_not_handed_in(member: Member) -> None:
    (member.pg_wal / segment(5).name).write_bytes(plain_of(4))
    (member.pg_wal / segment(6).name).write_bytes(plain_of(6)[: MIB // 2])
    (member.pg_wal / segment(7).name).unlink()
    (member.pg_wal / segment(7).name).symlink_to(member.pg_wal / segment(8).name)
    assert member.look(record(suspected=(gap(5, 9),))) == [8]
    assert member.look(record(suspected=(gap(5, 9),))) == [8]


def test_p13_a_file_of_the_spool_is_not_dropped_because_its_name_is_stored(member: Member) -> None:
    """Other bytes have the name: what lies here may be the only copy of this server's WAL."""
    other = bytearray(plain_of(5))
    other[3 * PAGE + 100] ^= 1
    member.archive.archive_segment(segment(5), bytes(other), ONE)
    (member.spool.wal / segment(5).name).write_bytes(plain_of(5))
    member.look(record(at=9))
    (kept,) = member.spool.quarantine.iterdir()
    assert kept.read_bytes() == plain_of(5)


@pytest.mark.parametrize("why", ["the spool's limit", "the disk"])
def test_p9_no_more_is_copied_than_there_is_room(tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    member = Member(tmp_path, limit=2 * MIB)
    if why == "the disk":
        monkeypatch.setattr(leftovers, "disk_of", lambda _: (5 * MIB, 1000 * MIB))
    assert member.look(record(suspected=(gap(5, 9),))) == ([5, 6] if why == "the spool's limit" else [])


def test_a_pg_wal_that_cannot_be_read_holds_nothing_up(member: Member) -> None:
    assert not member.leftovers.copy_one_aside(record(suspected=(gap(5, 9),)), member.pg_wal / "nowhere")


def test_what_could_not_be_copied_is_tried_again_after_the_others(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_in, fails = member.spool.copy_in, {segment(5), segment(6)}

    def failing(wanted: Segment, kept: Path) -> bool:
        if wanted in fails:
            raise SpoolError(f"{kept}: Input/output error")
        return copy_in(wanted, kept)

    monkeypatch.setattr(member.spool, "copy_in", failing)
    looked_for = record(suspected=(gap(5, 9),))
    for _ in range(3):
        with pytest.raises(SpoolError):
            member.look(looked_for)
    assert member.spool.complete(SIZE) == [segment(7), segment(8)]
    fails.clear()
    assert member.look(looked_for) == [5, 6, 7, 8]


def test_one_that_postgresql_still_writes_is_copied_once_it_is_whole(member: Member) -> None:
    path = member.pg_wal / segment(5).name
    path.write_bytes(plain_of(5)[: MIB // 2])
    assert member.look(record(suspected=(gap(5, 6),))) == []
    path.write_bytes(plain_of(5))
    assert member.look(record(suspected=(gap(5, 6),))) == [5]


def test_what_cannot_be_copied_keeps_nothing_in_the_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = SimpleNamespace(data=tmp_path, port=1, bin_dir=None)
    member = Member(tmp_path)
    agent = Agent(
        config_of(cast(Postgres, server), "a", tmp_path), member.store, MemoryRecord(MemoryDcs()), SystemClock()
    )
    agent.spool.open()
    (agent.spool.wal / segment(6).name).write_bytes(plain_of(6))

    def failing(*_: object) -> bool:
        raise SpoolError("x")

    monkeypatch.setattr(agent.spool, "copy_in", failing)
    agent._hand_in_leftovers(None, record(suspected=(gap(5, 8),)))
    assert [each.number for each in member.archive.contents.segments()] == [6]
    assert [problem.reason for problem in agent.problems.open()] == ["spool"]


def test_a_copy_that_was_not_finished_is_removed_at_the_next_start(member: Member) -> None:
    left = member.spool.directory / f"{segment(5).name}.copy"
    left.write_bytes(b"x")
    member.spool.open()
    assert not left.exists()
