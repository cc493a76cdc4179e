"""What is not streamed: a backlog, and all while the spool's disk is short. Nothing is lost. With a real server at the end."""

from __future__ import annotations

import shutil
import sys
import threading
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.core.values import plain_segment
from tests.fixtures.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory
from tests.twins.hand_clock import HandClock
from tests.twins.memory_record import MemoryDcs
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.archiver import whereabouts
from walkeeper.agent.archiver.spool import Spool
from walkeeper.agent.archiver.streaming import AGAIN_SECONDS, SILENCE_LIMIT, Streaming
from walkeeper.agent.observation import Observed
from walkeeper.agent.problems import Problems
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History
from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.errors import BadSegment, PostgresError, SpoolError, SpoolFull, SpoolShort
from walkeeper.postgres.pg_receivewal import Ended

SIZE = SegmentSize(MIB)
SYSTEM = 7
RESERVE, LIMIT, TOTAL = 10 * MIB, 8 * MIB, 1000 * MIB


class Receiver:
    running = False
    ended: Ended | None = None
    """How it ends at once, whenever it is started."""

    def start(self, last: Segment) -> None:
        self.running, self.last = True, last

    def stop(self) -> None:
        self.running = False

    def poll(self) -> Ended | None:
        self.running = self.ended is None
        return self.ended


class World:
    """Segments 3 to 8 are complete, in pg_wal as well as in the spool, and none is stored."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.pg_wal = directory / "pg_wal"
        self.pg_wal.mkdir()
        self.spool = Spool(directory / "spool", LIMIT)
        self.spool.open()
        self.receiver = Receiver()
        self.observed = Observed(True, Lsn(9 * MIB + 100), SlotState(True, Lsn(3 * MIB + 5), None, False))
        self.frontier = Frontier(History(1), Lsn(3 * MIB), SIZE)
        self.others = 0
        """Bytes that something else has on the disk."""
        archive = SimpleNamespace(size=SIZE, layout=SimpleNamespace(system_identifier=SYSTEM))
        self.clock = HandClock()
        self.problems = Problems(self.clock)
        sources = SimpleNamespace(
            archive=archive, history=History(1), pg_wal=self.pg_wal, spool=self.spool, clock=self.clock
        )
        self.asked: list[SlotState | PostgresError | None] = []
        """What the server says of the slot, once each, before it says what was seen at the last look."""
        self.source = Streaming(
            cast("Any", sources), cast("Any", self.receiver), 0, self.observed, self.problems, self.ask_slot
        )
        for number in range(3, 9):
            plain = plain_segment(Segment(1, number, SIZE), SYSTEM)
            for place in (self.pg_wal, self.spool.wal):
                (place / Segment(1, number, SIZE).name).write_bytes(plain)
        patch.setattr(whereabouts, "disk_of", lambda _: (TOTAL - self.others - self.spool.used(), TOTAL))

    def ask_slot(self) -> SlotState | None:
        found = self.asked.pop(0) if self.asked else self.observed.slot
        if isinstance(found, PostgresError):
            raise found
        return found

    def tend(self) -> str:
        """What it says about the disk."""
        try:
            assert self.source.tend(self.frontier, set(self.source.complete(self.frontier))) is None
        except SpoolShort as problem:
            return str(problem)
        return ""

    @property
    def spooled(self) -> list[int]:
        return [segment.number for segment in self.spool.complete(SIZE)]

    @property
    def waiting(self) -> list[int]:
        """What is to be uploaded, or is."""
        return [segment.number for segment in self.source.complete(self.frontier)]

    @property
    def open(self) -> list[str]:
        return [problem.what for problem in self.problems.open()]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Nothing counts as a backlog."""
    monkeypatch.setattr("walkeeper.agent.archiver.streaming.spool_reserve", lambda *_: RESERVE)
    monkeypatch.setattr("walkeeper.agent.archiver.streaming.BEHIND", sys.maxsize)
    return World(tmp_path, monkeypatch)


@pytest.fixture
def backlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The spool has nothing yet."""
    world = World(tmp_path, monkeypatch)
    for segment in world.spool.complete(SIZE):
        (world.spool.wal / segment.name).unlink()
    return world


def memory() -> Any:
    return cast("Any", SimpleNamespace(of=bytearray))


def store(world: World, *numbers: int) -> None:
    for number in numbers:
        world.frontier.add(Receipt(Segment(1, number, SIZE), "", 1, was_present=False))


def test_a_backlog_is_taken_from_pg_wal_and_streaming_begins_when_it_is_stored(backlog: World) -> None:
    assert backlog.waiting == [3, 4, 5, 6, 7, 8]  # at the first look
    assert backlog.tend() == ""
    assert backlog.waiting == [3, 4, 5, 6, 7, 8]
    first = Segment(1, 3, SIZE)
    assert backlog.source.read(first, memory()) == plain_segment(first, SYSTEM)
    store(backlog, 3, 4, 5, 6, 7)
    assert backlog.tend() == ""
    assert not backlog.receiver.running
    store(backlog, 8)
    assert backlog.tend() == ""
    assert backlog.receiver.running
    assert [path.name for path in backlog.spool.wal.iterdir()] == [Segment(1, 9, SIZE).name + ".partial"]


def test_what_is_left_of_open_segments_does_not_keep_a_backlog_from_ending(backlog: World) -> None:
    """Only the receiver's start puts it aside; with segments of 1 GiB one alone is more than half of the spool's limit."""
    for number in range(LIMIT // MIB // 2 + 1):
        (backlog.spool.wal / (Segment(2, number, SIZE).name + ".partial")).write_bytes(b"x" * MIB)
    assert backlog.tend() == ""
    assert not backlog.receiver.running
    store(backlog, 3, 4, 5, 6, 7, 8)
    assert backlog.tend() == ""
    assert backlog.receiver.running


def test_what_the_spool_has_is_no_backlog_and_one_that_pg_receivewal_is_behind_with_is_not_taken_from_it(
    backlog: World,
) -> None:
    """It may have delivered more than was looked at; where it hangs, that is to be noticed."""
    backlog.observed.lsn = Lsn(5 * MIB)
    assert backlog.tend() == ""
    assert backlog.receiver.running
    backlog.observed.lsn = Lsn(9 * MIB)
    assert backlog.tend() == ""
    assert backlog.receiver.running
    (backlog.spool.wal / Segment(1, 3, SIZE).name).write_bytes(b"x" * MIB)
    assert backlog.waiting == [3]
    backlog.receiver.ended = Ended(True, "")  # it got as far as there was room
    assert backlog.tend() == ""
    assert backlog.tend() == ""
    assert backlog.waiting == [3, 4, 5, 6, 7, 8]
    assert backlog.source.read(Segment(1, 3, SIZE), memory()) == b"x" * MIB  # nothing is read twice


def test_a_full_spool_is_no_reason_to_wait_and_streaming_begins_when_it_is_empty(backlog: World) -> None:
    """The record is where it was, so that the spool keeps what is stored."""
    for number in range(3, 9):
        shutil.copy(backlog.pg_wal / Segment(1, number, SIZE).name, backlog.spool.wal)
    backlog.spool.limit = 6 * MIB
    backlog.observed.lsn = Lsn(13 * MIB)
    for number in range(9, 13):
        (backlog.pg_wal / Segment(1, number, SIZE).name).write_bytes(b"x" * MIB)
    assert backlog.tend() == ""
    assert backlog.waiting == [*range(3, 13)]
    store(backlog, *range(3, 13))
    assert backlog.tend() == ""
    assert not backlog.receiver.running
    for segment in backlog.spool.complete(SIZE):
        (backlog.spool.wal / segment.name).unlink()
    assert backlog.tend() == ""
    assert backlog.receiver.running


def test_p4_a_backlog_that_the_hold_slot_does_not_keep_is_streamed(backlog: World) -> None:
    """PostgreSQL may recycle it at any time: the spool has to copy it."""
    kept = backlog.observed.slot
    for slot in (None, SlotState(True, Lsn(2 * MIB), None, True), SlotState(True, Lsn(4 * MIB), None, False)):
        assert backlog.tend() == ""
        assert not backlog.receiver.running
        backlog.observed.slot = slot
        assert backlog.tend() == ""
        assert backlog.receiver.running
        assert backlog.waiting == []
        backlog.source.stop()
        assert backlog.tend() == ""
        assert backlog.receiver.running  # nor does it begin so
        backlog.source.stop()
        backlog.observed.slot = kept
        backlog.clock.now += 60


def test_a_standby_clusters_leader_streams_its_backlog(backlog: World) -> None:
    backlog.observed.in_recovery = True
    assert backlog.tend() == ""
    assert backlog.receiver.running


def test_while_the_server_is_down_no_backlog_begins_and_one_goes_on(backlog: World) -> None:
    backlog.observed.server_up, backlog.observed.slot = False, None
    slot = SlotState(True, Lsn(3 * MIB), None, False)
    assert backlog.tend() == ""
    assert backlog.waiting == []
    backlog.observed.server_up, backlog.observed.slot = True, slot
    assert backlog.tend() == ""
    backlog.observed.server_up, backlog.observed.slot = False, None
    assert backlog.tend() == ""
    assert backlog.waiting == [3, 4, 5, 6, 7, 8]


def test_a_slot_that_could_not_be_asked_for_neither_ends_a_backlog_nor_begins_one(backlog: World) -> None:
    slot = backlog.observed.slot
    backlog.observed.slot = PostgresError("canceling statement due to statement timeout")
    assert backlog.tend() == ""
    assert backlog.receiver.running
    backlog.source.stop()
    backlog.observed.slot = slot
    backlog.clock.now += 60
    assert backlog.tend() == ""
    backlog.observed.slot = PostgresError("canceling statement due to statement timeout")
    assert backlog.tend() == ""
    assert not backlog.receiver.running
    assert backlog.waiting == [3, 4, 5, 6, 7, 8]


def test_a_spool_that_is_larger_than_one_look_keeps_no_backlog_from_pg_wal(
    backlog: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("walkeeper.agent.archiver.from_pg_wal.AHEAD", 1)
    for number in (3, 4):
        shutil.copy(backlog.pg_wal / Segment(1, number, SIZE).name, backlog.spool.wal)
    assert backlog.tend() == ""
    assert not backlog.receiver.running
    store(backlog, 3, 4)
    assert backlog.waiting == [3, 4, 5]


def test_an_old_file_that_cannot_be_removed_does_not_keep_streaming_from_beginning(backlog: World) -> None:
    assert backlog.tend() == ""
    (backlog.spool.wal / Segment(1, 2, SIZE).name).write_bytes(b"x" * MIB)
    store(backlog, 3, 4, 5, 6, 7, 8)
    assert backlog.waiting == [2]
    assert backlog.tend() == ""
    assert backlog.receiver.running


def test_a_pg_receivewal_that_got_as_far_as_it_should_works(world: World) -> None:
    """It may always end between two looks."""
    world.receiver.ended = Ended(False, "connection refused")
    for _ in range(4):
        assert world.tend() == ""
        world.clock.now += 20
    assert world.open == ["archiver_receiver"]
    world.receiver.ended = Ended(True, "")
    while not world.receiver.running:
        assert world.tend() == ""
        world.clock.now += 20
    assert world.tend() == ""
    assert world.open == []


def test_of_a_backlog_what_pg_wal_lacks_is_said_to_be_lost_and_what_goes_meanwhile_is_gone(backlog: World) -> None:
    assert backlog.tend() == ""
    (backlog.pg_wal / Segment(1, 4, SIZE).name).unlink()
    taken = set(backlog.source.complete(backlog.frontier))
    assert backlog.source.tend(backlog.frontier, taken) == Segment(1, 4, SIZE)
    with pytest.raises(FileNotFoundError):
        backlog.source.read(Segment(1, 4, SIZE), memory())
    assert not backlog.source.put_aside(Segment(1, 5, SIZE), BadSegment("damaged"))
    assert (backlog.pg_wal / Segment(1, 5, SIZE).name).exists()


def test_a_backlog_that_pg_wal_does_not_begin_with_is_asked_for_by_streaming(backlog: World) -> None:
    (backlog.pg_wal / Segment(1, 3, SIZE).name).unlink()
    assert backlog.tend() == ""
    assert backlog.receiver.running


def test_where_pg_wal_cannot_be_read_streaming_is_asked(backlog: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(path: Path) -> bool:
        raise PostgresError(f"{path}: Permission denied")

    assert backlog.tend() == ""
    with monkeypatch.context() as patch:
        patch.setattr("walkeeper.agent.archiver.from_pg_wal.is_there", unreadable)
        assert backlog.waiting == []
        assert backlog.tend() == ""
        assert backlog.receiver.running


def test_a_segment_that_cannot_be_put_aside_is_tried_again_and_ends_no_thread(
    backlog: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SpoolError("quarantine: No space left on device")

    monkeypatch.setattr(Spool, "_put_all_aside", full)
    assert not backlog.source.put_aside(Segment(1, 5, SIZE), BadSegment("damaged"))
    assert backlog.open == ["archiver_spool"]


def test_a_pg_receivewal_that_brings_nothing_is_said_though_a_backlog_goes_on_without_it(backlog: World) -> None:
    stored = Lsn(3 * MIB)
    for _ in range(3):
        backlog.frontier = Frontier(History(1), stored, SIZE)
        backlog.observed.lsn = Lsn(stored + 100)
        assert backlog.tend() == ""
        assert backlog.receiver.running
        backlog.observed.lsn = Lsn(stored + 5 * MIB)
        for segment in range(stored // MIB, stored // MIB + 5):
            (backlog.pg_wal / Segment(1, segment, SIZE).name).write_bytes(b"x" * MIB)
        for _ in range(3):
            backlog.clock.now += SILENCE_LIMIT / 2 + 1
            assert backlog.tend() == ""
        assert not backlog.receiver.running
        assert len(backlog.waiting) == 5  # without it
        stored = Lsn(stored + 5 * MIB)
    assert backlog.open == ["archiver_receiver"]


def test_a_spool_that_is_full_is_said_and_streaming_waits(world: World) -> None:
    world.spool.limit = 4 * MIB
    with pytest.raises(SpoolFull, match="the limit of 4 MiB is reached"):
        world.tend()
    assert not world.receiver.running


def test_what_pg_wal_has_goes_from_the_spool_newest_first_and_is_archived_from_there(world: World) -> None:
    assert world.tend() == ""
    assert world.receiver.running
    world.others = TOTAL - RESERVE - 6 * MIB  # what the spool has
    assert world.tend()
    assert not world.receiver.running
    assert world.spooled == [3, 4, 5, 6, 7, 8]
    world.others += MIB
    assert "9 MiB are free on its disk, below the reserve of 10 MiB" in world.tend()
    assert world.spooled == [3]
    assert [segment.number for segment in world.source.complete(world.frontier)] == [3, 4, 5, 6, 7, 8]
    for number in (3, 8):
        segment = Segment(1, number, SIZE)
        assert world.source.read(segment, memory()) == plain_segment(segment, SYSTEM)
    assert list(world.spool.wal.glob("*.partial")) == []


def test_it_stays_so_while_a_backlog_would_fill_it_again_and_goes_on_by_itself(world: World) -> None:
    world.others = TOTAL - RESERVE
    assert world.tend()
    assert world.spooled == []
    world.others = TOTAL - RESERVE - LIMIT + 1
    assert world.tend()
    world.observed.lsn = Lsn(3 * MIB + 5)  # nothing waits
    assert world.tend() == ""
    world.clock.now += AGAIN_SECONDS
    world.observed.lsn = Lsn(9 * MIB)
    world.others = TOTAL - RESERVE + 1
    assert world.tend()
    world.others = TOTAL - RESERVE - LIMIT
    assert world.tend() == ""
    assert world.receiver.running


@pytest.mark.parametrize(
    "why", ["no slot", "slot ahead", "slot lost", "logical", "server away", "other bytes", "not in pg_wal", "cut short"]
)
def test_what_pg_wal_may_not_have_tomorrow_stays(world: World, why: str) -> None:
    """Whatever the disk: it is the only copy."""
    assert 8 in world.waiting
    kept = world.pg_wal / Segment(1, 8, SIZE).name
    if why == "no slot":
        world.observed.slot = None
    elif why == "slot ahead":
        world.observed.slot = SlotState(True, Lsn(9 * MIB), None, False)
    elif why == "slot lost":
        world.observed.slot = SlotState(True, Lsn(2 * MIB), None, True)
    elif why == "logical":
        world.observed.slot = SlotState(False, Lsn(2 * MIB), None, False)
    elif why == "server away":
        world.observed.server_up = False
    elif why == "other bytes":
        kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    elif why == "not in pg_wal":
        kept.unlink()
        world.observed.lsn = Lsn(8 * MIB + 5)  # or it would be looked for
    else:
        kept.write_bytes(kept.read_bytes()[:-1])
    world.others = TOTAL
    assert world.tend()
    assert 8 in world.spooled


@pytest.mark.parametrize(
    "says", [None, SlotState(True, Lsn(3 * MIB), None, lost=True), SlotState(True, Lsn(9 * MIB), None, lost=False),
             SlotState(True, Lsn(3 * MIB), None, lost=False, unreserved=True), PostgresError("no answer")]
)  # fmt: skip
def test_p4_what_the_slot_keeps_is_asked_right_before_the_spool_gives_it_up(
    world: World, says: SlotState | PostgresError | None
) -> None:
    """At the last look it kept all of it; the server has invalidated it since, and made another one."""
    kept = world.observed.slot
    assert isinstance(kept, SlotState)
    world.others = TOTAL
    world.asked = [kept, kept, *[says] * 4]
    assert world.tend()
    assert world.spooled == [3, 4, 5, 6]


def test_what_another_cluster_left_is_not_handed_out_and_comes_again(world: World) -> None:
    left = Segment(1, 3, SIZE)
    (world.spool.wal / left.name).write_bytes(plain_segment(left, SYSTEM + 1))
    assert world.waiting == [4, 5, 6, 7, 8]
    assert world.tend() == ""
    assert (world.spool.wal / f"{left.name}.partial").exists()


def test_p13_what_the_server_wrote_before_its_volume_went_back_is_not_handed_out(world: World) -> None:
    """The spool lies elsewhere: its segments 6 and 7 are of the life before, 8 is beyond what the server has written again."""
    world.observed.lsn = Lsn(8 * MIB + 100)
    for number in (6, 7):
        place = world.pg_wal / Segment(1, number, SIZE).name
        place.write_bytes(place.read_bytes()[:-1] + b"n")
    assert world.waiting == [3, 4, 5]
    assert world.spooled == [3, 4, 5]


def test_what_pg_wal_no_longer_has_is_handed_out_from_the_spool(world: World) -> None:
    """It may be the only copy, and there is nothing to compare it with."""
    for number in (3, 4, 8):
        (world.pg_wal / Segment(1, number, SIZE).name).unlink()
    assert world.waiting == [3, 4, 5, 6, 7, 8]


def test_a_damaged_segment_of_pg_wal_is_not_put_aside(world: World) -> None:
    world.others = TOTAL
    world.tend()
    assert not world.source.put_aside(Segment(1, 8, SIZE), BadSegment("damaged"))
    assert (world.pg_wal / Segment(1, 8, SIZE).name).exists()


def test_a_disk_that_one_segment_makes_short_is_tried_ever_more_rarely(
    backlog: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 40 MiB, with segments of 16: once a second pg_receivewal was started, and what it had begun was dropped."""
    world, total = backlog, RESERVE + 7 * SIZE // 4
    monkeypatch.setattr("walkeeper.agent.archiver.streaming.spool_reserve", lambda *_: RESERVE)
    monkeypatch.setattr("walkeeper.agent.archiver.streaming.BEHIND", sys.maxsize)
    monkeypatch.setattr(whereabouts, "disk_of", lambda _: (total - SIZE * world.receiver.running, total))
    starts = []
    for _ in range(600):
        world.clock.now += 1
        ran = world.receiver.running
        world.tend()
        if world.receiver.running and not ran:
            starts.append(world.clock.now)
    waits = [later - before for before, later in pairwise(starts)]
    assert waits[0] < 5, "room that comes is used at once"
    assert 5 < len(waits) < 25
    assert min(waits[-3:]) > 40


def test_a_file_system_that_does_not_say_is_not_short(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whereabouts, "disk_of", lambda _: (0, 0))
    assert world.tend() == ""


@pytest.mark.postgres
def test_archiving_goes_on_without_the_disk_and_streams_again_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store is away, the spool fills what is left, and is emptied; all is archived from pg_wal."""
    directory = new_directory("d")
    monkeypatch.setattr("walkeeper.agent.archiver.streaming.BEHIND", sys.maxsize)
    free = [1000 * MIB]
    monkeypatch.setattr(
        whereabouts, "disk_of", lambda path: (free[0] if path.name == "wal" else 1000 * MIB, 1000 * MIB)
    )
    with Postgres(directory / "pg", settings={"max_wal_size": "32MB"}) as server:
        prepare(server)
        dcs, store = MemoryDcs(slots=(HOLD_SLOT,)), MemoryStore()
        dcs.set_leader("a")
        with RunningAgent(config_of(server, "a", directory, tail_interval=0.2), store, dcs) as agent:
            wait_for(lambda: agent.archiving)
            store.down = True
            spool = agent.agent.spool
            names = server.complete_segments(4)
            wait_for(lambda: names[-1] in {segment.name for segment in spool.complete(SIZE)})
            free[0] = 5 * MIB
            wait_for(lambda: spool.used() == 0)
            wait_for(lambda: "archiver_spool" in agent.problems())
            names += server.complete_segments(3)
            store.down = False
            agent.wait_frontier(Segment.parse(names[-1], SIZE).end)
            assert spool.used() == 0
            free[0] = 1000 * MIB
            server.execute("CREATE TABLE t ()")
            agent.wait_frontier(server.lsn())
            wait_for(lambda: agent.problems() == set())


@pytest.mark.postgres
def test_p4_what_a_slot_kept_at_the_last_look_alone_stays_in_the_spool_and_is_archived_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store is away, PostgreSQL gives the slot up since the last look, and removes what it kept."""
    directory, asked = new_directory("d"), threading.Event()
    monkeypatch.setattr("walkeeper.agent.archiver.streaming.BEHIND", sys.maxsize)
    free = [1000 * MIB]
    monkeypatch.setattr(
        whereabouts, "disk_of", lambda path: (free[0] if path.name == "wal" else 1000 * MIB, 1000 * MIB)
    )
    really = Streaming._keeps_now

    def keeps_now(source: Streaming, segment: Segment) -> bool:
        asked.set()
        return really(source, segment)

    with Postgres(directory / "pg", settings={"max_wal_size": "32MB"}) as server:
        prepare(server)
        dcs, store = MemoryDcs(slots=(HOLD_SLOT,)), MemoryStore()
        dcs.set_leader("a")
        with RunningAgent(config_of(server, "a", directory), store, dcs) as agent:
            wait_for(lambda: agent.archiving)
            store.down = True
            spool = agent.agent.spool
            names = server.complete_segments(6)
            wait_for(lambda: names[-1] in {segment.name for segment in spool.complete(SIZE)})
            monkeypatch.setattr(Streaming, "_keeps", lambda *_: True)  # as the last look said
            monkeypatch.setattr(Streaming, "_keeps_now", keeps_now)
            server.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
            server.execute("SELECT pg_reload_conf()")
            wait_for(lambda: (slot := agent.agent._committer_server.slot(HOLD_SLOT)) and slot.unreserved)
            free[0] = 5 * MIB
            assert asked.wait(30)
            wait_for(lambda: "archiver_spool" in agent.problems())
            server.checkpoint()
            wait_for(lambda: names[0] not in server.segments())
            assert set(names) <= {segment.name for segment in spool.complete(SIZE)}
            store.down = False
            agent.wait_frontier(Segment.parse(names[-1], SIZE).end)
            assert agent.record.gaps_total == 0
