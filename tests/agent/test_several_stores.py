"""A cluster with several stores: one hold slot, and WAL that one of them lacks and another has."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from tests.agent.test_beliefs import ALL, FORK, ONE, SIZE, SYSTEM, TWO, Life, World
from tests.agent.test_observer import observer_of
from tests.core.values import history_text
from tests.twins.hand_clock import HandClock
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.agent import Agent
from walkeeper.agent.archiver import lost_wal, member_wal, recorded_gaps
from walkeeper.agent.archiver.beliefs import check_record
from walkeeper.agent.archiver.elsewhere import GONE_SECONDS, OtherStore, OtherStores
from walkeeper.agent.archiver.holding import BEGIN_SECONDS, REFUSED_SECONDS, Holding, HoldSlot
from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.agent.archiver.lost_wal import LostWal
from walkeeper.agent.archiver.member_wal import Members
from walkeeper.agent.archiver.recorded_gaps import RecordedGaps
from walkeeper.agent.archiver.whereabouts import Candidate, Sources
from walkeeper.agent.problems import Problems
from walkeeper.agent.shared import Shared
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import Reader
from walkeeper.archive.write import Archive
from walkeeper.config.model import NamedStore
from walkeeper.core.backup_job import Job, claimed
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History
from walkeeper.core.hold_slot import SlotState, ends_lowest, followed
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.record import Gap, Record
from walkeeper.core.room import Disk
from walkeeper.core.suspicion import Suspicions
from walkeeper.core.takeover import LocalServer
from walkeeper.dcs.base import BACKUP_JOB
from walkeeper.dcs.furthest import Furthest
from walkeeper.errors import (
    BeyondServer,
    CasConflict,
    DcsUnavailable,
    NothingToCompare,
    OtherBytes,
    StoreUnavailable,
    WrongTimeline,
)
from walkeeper.lib import events
from walkeeper.lib.clock import SystemClock
from walkeeper.lib.schedule import Schedule
from walkeeper.store.directory.keys import DirectorySettings


def record(position: int, *, timeline: int = 1, owner: str = "a", start: int = 3, below: str = "") -> Record:
    return Record(
        system_identifier=str(SYSTEM),
        segment_size=int(SIZE),
        timeline=timeline,
        lsn=str(Lsn(position)),
        start=History(1).segment(start, SIZE).name,
        owner=owner,
        session="s",
        gaps=(),
        gaps_total=0,
        updated_at="2026-01-01T00:00:00Z",
        moved_at="2026-01-01T00:00:00Z",
        below_sha256=below,
    )


# ------------------------------------------------------------------------------------------------------------ the hold slot


@pytest.mark.parametrize(
    ("frontiers", "durable_in", "position"),
    [((7,), 1, 7), ((7, 5), 1, 7), ((7, 5), 2, 5), ((5, 7, 6), 2, 6), ((5, 7, 6), 3, 5), ((7,), 2, 7)],
)
def test_the_slot_follows_what_so_many_stores_have(frontiers: tuple[int, ...], durable_in: int, position: int) -> None:
    assert followed([Lsn(each) for each in frontiers], durable_in) == position


def by_owner(position: int, timeline: int = 1) -> Record:
    """With what its owner states of the WAL below."""
    return record(position, timeline=timeline, below="ab" * 32)


def holding(durable_in: int) -> tuple[Holding, HandClock]:
    clock = HandClock()
    return Holding(["main", "far"], durable_in, clock), clock


def test_p1_the_slot_does_not_move_before_the_other_record_is_known() -> None:
    held, _ = holding(2)
    assert held.position("main", record(9 * MIB)) is None
    with pytest.raises(DcsUnavailable) as caught:
        held.others("main")
    assert caught.value.hint
    held.note("far", by_owner(7 * MIB))
    assert held.position("main", record(9 * MIB)) == 7 * MIB
    assert held.position("main", record(9 * MIB), crowded=True) == 9 * MIB, (
        "P9: the disk is not filled for a second copy"
    )


def test_p13_a_record_that_a_person_edited_moves_no_slot_until_its_archive_is_taken_over() -> None:
    """Its store may lack what it says, and then this server is the one that has it."""
    held, clock = holding(2)
    held.note("far", by_owner(5 * MIB))
    held.note("far", replace(by_owner(9 * MIB), below_sha256=""))
    clock.now += BEGIN_SECONDS
    assert held.position("main", by_owner(8 * MIB)) == 0
    held.note("far", by_owner(5 * MIB))
    assert held.position("main", by_owner(8 * MIB)) == 5 * MIB
    held.note("far", record(3 * MIB + 8192))
    assert held.position("main", by_owner(8 * MIB)) == 3 * MIB + 8192, "it has just begun"


def test_p9_a_record_that_is_not_known_holds_the_slot_only_where_it_is_needed() -> None:
    held, _ = holding(1)
    assert held.position("main", by_owner(9 * MIB)) == 9 * MIB
    held, _ = holding(2)
    held.refused("far")
    assert held.position("main", by_owner(9 * MIB)) is None
    assert held.position("main", by_owner(9 * MIB), crowded=True) == 9 * MIB
    three = Holding(["main", "far", "third"], 2, HandClock())
    three.note("third", by_owner(7 * MIB))
    assert three.position("main", by_owner(9 * MIB)) == 7 * MIB


def test_p9_the_slot_waits_for_no_second_copy_where_a_members_disk_runs_short(tmp_path: Path) -> None:
    """It keeps the WAL there, too. Members are asked only where the slot stands far behind."""
    held, _ = holding(2)
    disks, asked = [Disk(500 * MIB, 1000 * MIB)], list[int]()

    def ask() -> list[Disk]:
        asked.append(1)
        return disks

    slot = HoldSlot("walkeeper", "main", held, tmp_path / "not there", ask)
    held.note("far", by_owner(9 * MIB))
    assert slot.follows(by_owner(12 * MIB), ONE) == 9 * MIB
    assert not asked
    assert slot.follows(by_owner(19 * MIB), ONE) == 9 * MIB
    disks.append(Disk(99 * MIB, 1000 * MIB))
    assert slot.follows(by_owner(12 * MIB), ONE) == 9 * MIB
    assert slot.follows(by_owner(19 * MIB), ONE) == 19 * MIB


def test_p11_a_record_that_may_not_be_read_keeps_no_other_archive_from_a_takeover_for_long() -> None:
    held, clock = holding(2)
    clock.now += 10 * REFUSED_SECONDS
    held.refused("far")
    with pytest.raises(DcsUnavailable):
        held.others("main")  # it may pass
    clock.now += REFUSED_SECONDS
    held.refused("far")
    assert held.others("main") == {}
    held.note("far", by_owner(5 * MIB))
    held.refused("far")
    clock.now += REFUSED_SECONDS
    assert held.others("main") == {"far": by_owner(5 * MIB)}, "it was known"


def test_p13_where_every_record_was_refused_none_is_passed_over_at_once() -> None:
    """Of wrong credentials that are put right: one is read a moment before the other."""
    held, clock = holding(2)
    held.refused("main")
    held.refused("far")
    clock.now += 10 * REFUSED_SECONDS
    held.note("main", by_owner(9 * MIB))
    held.refused("far")
    with pytest.raises(DcsUnavailable):
        held.others("main")


def test_with_durable_in_1_the_furthest_is_followed() -> None:
    held, _ = holding(1)
    held.note("far", by_owner(7 * MIB))
    assert held.position("main", record(5 * MIB)) == 7 * MIB
    held.note("far", None)
    assert held.position("main", record(5 * MIB)) == 5 * MIB


def test_a_store_whose_archive_does_not_begin_is_waited_for_and_not_for_ever() -> None:
    held, clock = holding(2)
    held.note("far", None)
    assert held.position("main", record(9 * MIB)) == 0
    clock.now += BEGIN_SECONDS
    assert held.position("main", record(9 * MIB)) == 9 * MIB
    held.note("far", by_owner(8 * MIB))
    assert held.position("main", record(9 * MIB)) == 8 * MIB


def test_p4_a_new_archive_begins_where_the_one_furthest_behind_ends_if_pg_wal_has_all_since(tmp_path: Path) -> None:
    server = LocalServer(SYSTEM, SIZE, TWO, Lsn(12 * MIB + 5000))

    def begins(*others: Record, here: range = range(3, 12), slot: SlotState | None = None) -> int:
        for number in range(13):
            path = tmp_path / TWO.segment(number, SIZE).name
            path.unlink(missing_ok=True)
            if number in here:
                path.touch()
                os.truncate(path, SIZE)
        local = LocalWal(server, {}, tmp_path, others_end=ends_lowest(others, server), hold_slot=lambda: slot)
        return local.to_begin_with(server.lsn).number

    assert begins() == 12
    assert begins(record(13 * MIB, timeline=2)) == 12  # further than this server, by now
    assert begins(record(11 * MIB + 9), record(12 * MIB, timeline=2)) == FORK // MIB, "its timeline ended there"
    assert begins(record(4 * MIB)) == 4
    assert begins(record(4 * MIB), here=range(6, 12)) == 6
    assert begins(record(4 * MIB), here=range(6, 11)) == 12
    assert begins(record(4 * MIB, timeline=3)) == 12, "of another branch"
    assert begins(replace(record(4 * MIB), system_identifier="1")) == 12
    held = SlotState(True, Lsn(6 * MIB + 9), None, lost=False)
    assert begins(slot=held) == 6
    assert begins(slot=held, here=range(8, 12)) == 8
    assert begins(record(4 * MIB), slot=held) == 4
    assert begins(record(13 * MIB, timeline=2), slot=held) == 6
    assert begins(slot=replaced(held, restart_lsn=None)) == 12
    assert begins(slot=replaced(held, restart_lsn=Lsn(13 * MIB))) == 12
    keeps_nothing = (
        replaced(held, unreserved=True), replaced(held, lost=True), replaced(held, physical=False), replaced(held, active_pid=9),
    )  # fmt: skip
    assert [begins(slot=each) for each in keeps_nothing] == [12] * 4, "that WAL may be gone before it is stored"
    assert begins(record(4 * MIB), slot=keeps_nothing[0]) == 4


def test_what_a_record_promises_is_on_its_chain_and_not_below_its_start() -> None:
    held, _ = holding(1)
    assert not held.promises("far", SYSTEM, ONE.segment(4, SIZE), ONE)
    held.note("far", record(7 * MIB))
    promised = [number for number in range(1, 9) if held.promises("far", SYSTEM, ONE.segment(number, SIZE), ONE)]
    assert promised == [3, 4, 5, 6]
    assert held.promises("far", SYSTEM, TWO.segment(4, SIZE), TWO)
    assert not held.promises("far", SYSTEM, TWO.segment(6, SIZE), TWO), "behind the fork it has another one"
    assert not held.promises("far", SYSTEM + 1, ONE.segment(4, SIZE), ONE)
    held.note("far", replace(record(7 * MIB), gaps=(Gap(1, str(Lsn(4 * MIB)), str(Lsn(5 * MIB))),)))
    assert [n for n in range(1, 9) if held.promises("far", SYSTEM, ONE.segment(n, SIZE), ONE)] == [3, 5, 6]
    held.note("far", record(7 * MIB, timeline=3))
    assert not held.promises("far", SYSTEM, TWO.segment(4, SIZE), TWO)


@pytest.mark.parametrize("durable_in", [1, 2])
def test_p1_what_another_store_has_of_a_branch_that_ended_lets_go_of_nothing_behind_the_fork(durable_in: int) -> None:
    """It was far ahead of the standby that was promoted, and has been away since."""
    held, _ = holding(durable_in)
    held.note("far", by_owner(60 * MIB))
    own, crowded = record(9 * MIB, timeline=2), durable_in == 2
    assert held.position("main", own, TWO, crowded=crowded) == 9 * MIB
    assert held.position("main", own, TWO) == (9 * MIB if durable_in == 1 else FORK)
    held.note("far", by_owner(60 * MIB, 3))
    assert held.position("main", own, TWO) == (9 * MIB if durable_in == 1 else 0)


def test_p5_the_record_of_another_cluster_moves_nothing() -> None:
    """After pg_upgrade, until somebody accepts the takeover in that store, too."""
    held, clock = holding(1)
    held.note("far", replace(by_owner(60 * MIB), system_identifier="7"))
    assert held.position("main", record(9 * MIB), ONE) == 9 * MIB
    held, clock = holding(2)
    held.note("far", replace(by_owner(60 * MIB), system_identifier="7"))
    assert held.position("main", record(9 * MIB), ONE) == 0
    clock.now += BEGIN_SECONDS
    assert held.position("main", record(9 * MIB), ONE) == 9 * MIB


# ------------------------------------------------------------------------------------------- WAL that another store has


class Two:
    """The archive of one store, which lacks everything, and another one's, which has segments 3 to 6."""

    def __init__(self) -> None:
        layout = Layout("demo", None, SYSTEM)
        self.other, self.life = MemoryStore(), Life()
        self.archive = Archive(MemoryStore(), layout, SIZE, Codec())
        their = Archive(self.other, layout, SIZE, Codec())
        for number in range(3, 7):
            segment = self.life.segment(number)
            their.archive_segment(segment, self.life.plain(segment), ONE)
        their.state_start(self.life.segment(3))
        store = OtherStore("far", Reader(self.other, Codec()), lambda segment, _: segment.number < 7)
        self.stores = OtherStores([store], self.archive, ONE)
        self.suspicions = Suspicions(ONE, SIZE)
        self.suspicions.suspect(3, 9, 0.0)

    def take(self, number: int, *, last: bool = False) -> bool:
        return self.stores.take(self.life.segment(number), self.suspicions, 1.0, last=last) is not None


def test_p4_what_another_store_has_is_taken_from_there_and_what_it_lacks_it_has_said_no_to() -> None:
    two = Two()
    assert two.stores.names == ["the store far"]
    assert two.take(4)
    assert two.archive.find(two.life.segment(4)) is not None
    assert not two.take(8)
    silent = [segment.number for segment in two.suspicions.wanted_from("the store far")]
    assert silent == [3, 4, 5, 6, 7], "8 was said no to"
    assert two.stores.promising(two.life.segment(6))
    assert not two.stores.promising(two.life.segment(7))


def test_p4_a_store_that_is_away_has_said_nothing_and_is_asked_once_in_a_look(caplog: pytest.LogCaptureFixture) -> None:
    two = Two()
    two.other.down = True
    assert not two.take(4)
    two.other.down = False
    assert not two.take(5), "not again in this look"
    assert [segment.number for segment in two.suspicions.wanted_from("the store far")] == [3, 4, 5, 6, 7, 8]
    two.stores.look()
    assert not two.take(4), "behind what it did not fail at"
    assert two.take(5)
    assert two.stores.put_off(two.suspicions) == [two.life.segment(4)]
    assert two.take(4, last=True)
    assert two.stores.put_off(two.suspicions) == []
    assert caplog.text.count("not_fetched_from_store") == 1


def test_p13_a_damaged_object_of_another_store_is_not_taken_and_keeps_nobody_from_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    two = Two()
    key = two.archive.layout.file(two.life.segment(4), ".zst")
    body, metadata = two.other.objects[key]
    two.other.objects[key] = (body[:-9] + b"x" * 9, metadata)
    for _ in range(3):
        two.stores.look()
        assert not two.take(4)
    assert two.take(5)
    assert two.stores.promising(two.life.segment(5))
    assert not two.stores.promising(two.life.segment(4)), "so that somebody hears of it"
    assert two.archive.find(two.life.segment(4)) is None
    assert 4 in {segment.number for segment in two.suspicions.wanted_from("the store far")}, "it has not said no"
    assert caplog.text.count("not_fetched_from_store") == 1


def test_p4_a_no_that_is_said_again_counts_from_the_first_time() -> None:
    suspicions = Suspicions(ONE, SIZE)
    suspicions.suspect(3, 4, 0.0)
    for now in range(1, 30, 5):
        suspicions.refuse("the store far", 3, float(now))
    assert suspicions.gaps(12.0, ["the store far"], (), 3600, short_of_disk=False)


class Looking(Two):
    """An owner whose server has recycled segments 3 to 6, which the other store has."""

    def __init__(self, directory: Path, promised: int = 7, **changes: Any) -> None:
        super().__init__()
        self.clock = HandClock()
        self.problems = Problems(self.clock)
        store = OtherStore("far", Reader(self.other, Codec()), lambda segment, _: segment.number < promised)
        nobody = cast("Any", None)
        sources = Sources(self.archive, ONE, directory, nobody, lambda _: (), None, self.clock, lambda: False, (store,))
        sources = replaced(sources, **changes)
        self.lost = LostWal(sources, Frontier(ONE, Lsn(3 * MIB), SIZE), 3600.0, self.problems)
        self.lost.suspect(self.life.segment(3), Lsn(7 * MIB + 1))

    def looks(self, seconds: float) -> None:
        """For so long, each five seconds."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now += 5
            self.lost._take_in()
            self.lost._look(lambda: False)

    @property
    def told(self) -> list[str]:
        return [problem.text for problem in self.problems.open()]

    @property
    def lacks(self) -> list[int]:
        return [number for number in range(3, 7) if self.archive.find(self.life.segment(number)) is None]


@pytest.fixture
def looking(tmp_path: Path) -> Looking:
    return Looking(tmp_path)


def disk_runs_short(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lost_wal, "short_of_disk", lambda *_: True)


def test_p4_p10_while_there_is_room_a_store_that_promises_is_waited_for_and_people_hear_of_it(looking: Looking) -> None:
    looking.other.down = True
    looking.looks(30)
    assert "waiting for the store far" in looking.told[0]
    looking.looks(2 * 3600)
    assert looking.lost.gaps.empty()
    assert looking.lost.missing is not None
    assert (looking.lost.missing.waiting_for, looking.lost.missing.until) == (("the store far",), "")
    looking.other.down = False
    looking.looks(5)
    assert looking.lacks == []


def test_p4_a_look_that_fails_makes_no_gap_of_what_a_store_promises_though_the_disk_is_short(
    looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is when the slot follows the furthest that the others have to fetch the most."""
    disk_runs_short(monkeypatch)
    served: list[str] = []
    answers = 0

    def away(_: str, key: str) -> None:
        nonlocal answers
        if "/wal/" not in key or any(name in key for name in served):
            return
        if not answers:
            raise StoreUnavailable("a store that is away, now and then")
        answers -= 1
        served.append(key.rpartition("/")[2].partition(".")[0])

    looking.other.before = away
    for _ in range(4):
        looking.looks(GONE_SECONDS - 5)
        answers = 1
        looking.looks(5)
    assert looking.lost.gaps.empty()
    assert looking.lacks == []


def test_p4_a_store_that_was_away_an_hour_ago_is_given_time_again(
    looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asked it since: a member had the rest."""
    disk_runs_short(monkeypatch)
    looking.other.down = True
    looking.looks(5)
    looking.lost._suspicions.settle(3, 7)
    looking.clock.now += 3600
    looking.lost.suspect(looking.life.segment(3), Lsn(7 * MIB + 1))
    looking.looks(GONE_SECONDS)
    assert looking.lost.gaps.empty()
    looking.other.down = False
    looking.looks(5)
    assert looking.lacks == []


def test_p9_no_disk_is_filled_for_a_store_that_does_not_come_back_and_if_it_does_the_gap_is_closed(
    looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_runs_short(monkeypatch)
    looking.other.down = True
    looking.looks(GONE_SECONDS + 10)
    assert str(looking.lost.gaps.get_nowait()) == "0/300000 to 0/700000 of timeline 1"
    recorded = looking.lost._recorded
    recorded.look(lambda: False)
    assert ["only the store far has this WAL" in text for text in looking.told if text.startswith("gap")] == [True]
    looking.other.down = False
    looking.clock.now += recorded_gaps.LOOK_SECONDS
    recorded.look(lambda: False)
    recorded.look(lambda: False)
    assert looking.lacks == []
    assert not [text for text in looking.told if text.startswith("gap")]


@pytest.mark.parametrize("silent_from", [7, 5])
def test_p4_what_a_member_is_handing_over_is_no_gap_though_a_disk_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_from: int
) -> None:
    """A look takes only so many; where the member is silent, the rest is a gap with the next look."""
    disk_runs_short(monkeypatch)
    monkeypatch.setattr(lost_wal, "ASKED", 1)
    member = Candidate("b", cast("Any", object()))
    looking = Looking(tmp_path, stores=(), members=lambda _: (member,), program=tmp_path / "pg_receivewal")

    def stream_segment(*arguments: Any) -> tuple[bytes | None, str]:
        wanted = arguments[3]
        return (looking.life.plain(wanted), "") if wanted.number < silent_from else (None, "no answer")

    monkeypatch.setattr(member_wal, "stream_segment", stream_segment)
    looking.looks(5.0 * (silent_from - 3))
    assert looking.lacks == list(range(silent_from, 7))
    assert looking.lost.gaps.empty()
    looking.looks(5)
    gaps = [looking.lost.gaps.get() for _ in range(looking.lost.gaps.qsize())]
    assert [(gap.first.number, gap.end) for gap in gaps] == ([(5, 7)] if silent_from == 5 else [])


def test_p4_what_another_store_is_handing_over_is_no_gap_though_a_disk_is_short_and_one_answer_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record, which is behind, promises nothing."""
    disk_runs_short(monkeypatch)
    looking = Looking(tmp_path, promised=3)
    fails_at(looking, 4)
    looking.looks(5)
    assert looking.lacks == [4, 5, 6]
    assert looking.lost.gaps.empty()
    looking.other.before = None
    looking.looks(5)
    assert looking.lacks == []
    assert looking.lost.gaps.empty()


def fails_at(looking: Looking, *numbers: int) -> None:
    names = [looking.life.segment(number).name for number in numbers]

    def before(_: str, key: str) -> None:
        if any(name in key for name in names):
            raise StoreUnavailable(f"{key}: an error each time")

    looking.other.before = before


def test_p4_an_object_that_a_store_always_fails_at_hides_none_behind_it_and_is_told(looking: Looking) -> None:
    fails_at(looking, 3, 5)
    looking.looks(60)
    assert looking.lacks == [3, 5]
    (told,) = looking.told
    assert told.startswith(
        "WAL 0/300000 to 0/400000 of timeline 1 and 1 more ranges: neither this server nor the store"
    )
    assert looking.life.segment(3).name in told
    assert told.endswith("an error each time), while the disk of pg_wal has room")
    fails_at(looking, 3)
    looking.looks(10)
    assert looking.lacks == [3]
    looking.other.before = None
    looking.looks(5)
    assert looking.lacks == []


def test_p4_a_recorded_gap_is_closed_though_a_store_always_fails_at_what_lies_before_it(
    looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        disk_runs_short(patch)
        looking.other.down = True
        looking.looks(GONE_SECONDS + 10)
    looking.other.down = False
    fails_at(looking, 3, 4)
    monkeypatch.setattr(recorded_gaps, "ASKED", 1)
    for _ in range(8):
        looking.clock.now += recorded_gaps.LOOK_SECONDS
        looking.lost._recorded.look(lambda: False)
    assert looking.lacks == [3, 4]
    assert ["only the store far has this WAL" in text for text in looking.told if text.startswith("gap")] == [True]


def test_p4_what_one_store_failed_at_and_another_is_still_to_be_asked_for_is_asked_for_once_in_a_look(
    looking: Looking, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "walkeeper")
    near = MemoryStore()
    near.objects = dict(looking.other.objects)
    (far,) = looking.lost._sources.stores
    stores = (OtherStore("near", Reader(near, Codec()), far.promises), far)
    sources = replaced(looking.lost._sources, stores=stores)
    looking.archive.record_gap(looking.life.segment(3), Lsn(7 * MIB))
    others = OtherStores(stores, looking.archive, ONE)
    gaps = RecordedGaps(sources, Members(sources), others, looking.problems)
    near.down = True  # it fails at 3, and is not asked for 4
    fails_at(looking, 4)
    gaps.look(lambda: False)
    assert looking.lacks == [4, 5, 6]
    near.down = False
    near.calls.clear()
    looking.clock.now += recorded_gaps.LOOK_SECONDS
    gaps.look(lambda: False)
    assert looking.lacks == []
    name = looking.life.segment(4).name
    assert len([key for _, key in near.calls if name in key]) == 1
    assert caplog.text.count(f"gap_filled segment={name}") == 1


def test_p4_a_recorded_gap_is_closed_that_is_longer_than_what_is_asked_for_in_a_look(
    looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded_gaps, "ASKED", 1)
    looking.archive.record_gap(looking.life.segment(3), Lsn(7 * MIB))
    looking.archive.archive_segment(looking.life.segment(4), looking.life.plain(looking.life.segment(4)), ONE)
    looking.other.calls.clear()
    for _ in range(3):
        looking.lost._recorded.look(lambda: False)
    assert looking.lacks == []
    asked = [key.rpartition("/")[2].partition(".")[0] for call, key in looking.other.calls if call == "get"]
    assert asked == [looking.life.segment(number).name for number in (3, 5, 6)]


def test_p9_the_patience_being_over_does_not_make_a_dead_stores_promise_better(
    looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking.other.down = True
    looking.looks(2 * 3600)
    assert looking.lost.gaps.empty()
    disk_runs_short(monkeypatch)
    looking.looks(5)
    assert looking.lost.gaps.qsize() == 1


# -------------------------------------------------------------------------------------- a takeover, and the other's record


def local(world: World, history: History, lsn: int) -> LocalWal:
    return LocalWal(LocalServer(SYSTEM, SIZE, history, Lsn(lsn)), {}, world.directory / "a")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def sha256_of(world: World, life: Life, number: int) -> str:
    world.stores(life, number)
    found = world.archive.find(life.segment(number))
    assert found is not None
    return found.sha256


def test_p13_two_servers_do_not_archive_one_timeline_in_a_store_each(world: World) -> None:
    """The first was promoted while one store was away, the second while the other was."""
    life = Life(TWO)
    world.files("a", life, ALL)
    theirs = record(9 * MIB, timeline=2, owner="b")
    with pytest.raises(NothingToCompare) as caught:
        check_record("a", "far", theirs, local(world, TWO, 20 * MIB), ())
    assert "record of the store far" in str(caught.value)
    check_record("a", "far", theirs, local(world, TWO, 20 * MIB), {"nothing_to_compare"})
    other = sha256_of(world, Life(TWO, b"n", FORK), 8)
    with pytest.raises(OtherBytes):
        check_record("a", "far", record(9 * MIB, timeline=2, owner="b", below=other), local(world, TWO, 20 * MIB), ())


def test_p13_a_volume_that_went_back_is_noticed_by_the_other_stores_record_too(world: World) -> None:
    life = Life()
    world.files("a", life, range(3, 7))
    with pytest.raises(BeyondServer):
        check_record("a", "far", record(9 * MIB), local(world, ONE, 7 * MIB), ())
    check_record("a", "far", record(9 * MIB), local(world, ONE, 7 * MIB), {"beyond_server"})
    other = sha256_of(world, Life(letter=b"n", until=5 * MIB), 5)
    with pytest.raises(OtherBytes):
        check_record("a", "far", record(6 * MIB, below=other), local(world, ONE, 7 * MIB), ())


def test_p13_two_servers_that_took_one_number_at_one_position_are_told_apart_by_their_histories(world: World) -> None:
    """Before either has archived a whole segment of it."""
    life = Life(TWO)
    world.files("a", life, ALL)
    server = LocalServer(SYSTEM, SIZE, TWO, Lsn(6 * MIB))
    wal = LocalWal(server, {2: history_text(TWO)}, world.directory / "a")
    below = sha256_of(world, life, 4)
    theirs = record(FORK, timeline=2, owner="b", below=below)
    with pytest.raises(NothingToCompare):
        check_record("a", "far", theirs, wal, ())
    with pytest.raises(OtherBytes):
        check_record("a", "far", replace(theirs, owner="a", history_sha256="0" * 64), wal, ())
    same = hashlib.sha256(history_text(TWO)).hexdigest()
    check_record("a", "far", replace(theirs, owner="a", history_sha256=same), wal, ())


def test_what_is_legitimate_goes_on(world: World) -> None:
    life = Life(TWO)
    world.files("a", life, ALL)
    same = sha256_of(world, life, 8)
    for theirs in (
        record(9 * MIB, timeline=2, below=same),
        record(9 * MIB, timeline=2, owner="b", below=same),  # renamed
        record(9 * MIB, owner="b"),  # promoted since: it lies beyond the fork
        record(4 * MIB, owner="b"),  # it was away
    ):
        check_record("a", "far", theirs, local(world, TWO, 20 * MIB), ())
    branch = History(3, TWO.switches[:1])
    check_record("a", "far", record(9 * MIB, timeline=2, owner="b"), local(world, branch, 20 * MIB), ())


def test_a_server_on_an_older_timeline_than_the_other_record_does_not_take_over(world: World) -> None:
    with pytest.raises(WrongTimeline):
        check_record("a", "far", record(9 * MIB, timeline=2), local(world, ONE, 20 * MIB), ())


# ------------------------------------------------------------------------------------------------------- told and asked


def test_the_furthest_of_several_records_counts_and_one_that_cannot_be_read_may_be_that() -> None:
    dcs = MemoryDcs()
    main, far = MemoryRecord(dcs, "walkeeper"), MemoryRecord(dcs, "walkeeper-far")
    both = Furthest([main, far])
    assert both.read() is None
    dcs.put(record(9 * MIB).encode(), "walkeeper")
    dcs.put(record(5 * MIB, timeline=2).encode(), "walkeeper-far")
    assert both.read() == dcs.documents["walkeeper-far"]
    dcs.put(b"{}", "walkeeper")
    assert both.read() == dcs.documents["walkeeper"], "whoever decodes it says so"
    with pytest.raises(CasConflict):
        both.write(b"{}", None)
    far.cut_off = True
    with pytest.raises(DcsUnavailable):
        both.read()


def test_what_a_store_has_to_do_with_is_in_each_line_of_its_threads() -> None:
    events.always_say(store="far")
    try:
        assert events.line("takeover", {"owner": "a"}) == "takeover store=far owner=a"
    finally:
        events.always_say()
    assert events.line("takeover", {"owner": "a"}) == "takeover owner=a"


# ---------------------------------------------------------------------------------------------------------- base backups


def test_each_store_has_scheduled_backups_of_its_own_one_after_the_other(short_path: Path) -> None:
    clock, dcs = SystemClock(), MemoryDcs()
    config = replaced(
        observer_of(short_path)._config,
        backup_schedule=Schedule("02:00"),
        backup_verify_schedule=Schedule("04:00"),
        others=(NamedStore("far", DirectorySettings(short_path / "far")),),
    )
    shared = Shared(config, clock)
    main, far = (
        Agent(
            each,
            MemoryStore(),
            MemoryRecord(dcs),
            clock,
            {BACKUP_JOB: MemoryRecord(dcs, each.key(BACKUP_JOB))},
            None,
            shared,
        )
        for each in (config, config.of_store("far"))
    )
    assert far.config.backup_verify_schedule is None, "the first is proved"
    job = Job(system_identifier=str(SYSTEM), due="2026-11-29T02:00:00Z", backup="B", at="2026-11-29T02:00:00Z")
    assert main.jobs[BACKUP_JOB].kind.command(job) == ("backup", "--job", "B", "--store", "main")
    assert far.jobs[BACKUP_JOB].kind.command(job) == ("backup", "--job", "B", "--store", "far")
    assert not far._cluster(BACKUP_JOB).waits
    main.jobs[BACKUP_JOB].seen = claimed(job, "a", "2026-11-29T02:00:00Z")
    assert far._cluster(BACKUP_JOB).waits
    assert not main._cluster(BACKUP_JOB).waits
    main.jobs[BACKUP_JOB].silent = True  # its member is gone
    assert not far._cluster(BACKUP_JOB).waits
