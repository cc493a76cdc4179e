"""The spool whose disk runs short: it does without, and loses nothing. With a real server at the end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.core.values import plain_segment
from tests.fixtures.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory
from tests.twins.memory_record import MemoryDcs
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.archiver import lost_wal
from walkeeper.agent.archiver.spool import Spool
from walkeeper.agent.archiver.streaming import Streaming
from walkeeper.agent.observation import Observed
from walkeeper.agent.problems import Problems
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History
from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import BadSegment, SpoolShort
from walkeeper.lib.clock import SystemClock

SIZE = SegmentSize(MIB)
SYSTEM = 7
RESERVE, LIMIT, TOTAL = 10 * MIB, 8 * MIB, 1000 * MIB


class Receiver:
    running = False

    def start(self, last: Segment) -> None:
        self.running, self.last = True, last

    def stop(self) -> None:
        self.running = False

    def poll(self) -> None: ...


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
        archive = SimpleNamespace(size=SIZE)
        sources = SimpleNamespace(
            archive=archive, history=History(1), pg_wal=self.pg_wal, spool=self.spool, clock=SystemClock()
        )
        self.source = Streaming(
            cast("Any", sources), cast("Any", self.receiver), 0, self.observed, Problems(SystemClock())
        )
        for number in range(3, 9):
            plain = plain_segment(Segment(1, number, SIZE), SYSTEM)
            for place in (self.pg_wal, self.spool.wal):
                (place / Segment(1, number, SIZE).name).write_bytes(plain)
        patch.setattr(lost_wal, "disk_of", lambda _: (TOTAL - self.others - self.spool.used(), TOTAL))

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


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("walkeeper.agent.archiver.streaming.spool_reserve", lambda *_: RESERVE)
    return World(tmp_path, monkeypatch)


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
        assert world.source.read(segment, cast("Any", SimpleNamespace(of=bytearray))) == plain_segment(segment, SYSTEM)
    assert list(world.spool.wal.glob("*.partial")) == []


def test_it_stays_so_while_a_backlog_would_fill_it_again_and_goes_on_by_itself(world: World) -> None:
    world.others = TOTAL - RESERVE
    assert world.tend()
    assert world.spooled == []
    world.others = TOTAL - RESERVE - LIMIT + 1
    assert world.tend()
    world.observed.lsn = Lsn(3 * MIB + 5)  # nothing waits
    assert world.tend() == ""
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


def test_a_damaged_segment_of_pg_wal_is_not_put_aside(world: World) -> None:
    world.others = TOTAL
    world.tend()
    assert not world.source.put_aside(Segment(1, 8, SIZE), BadSegment("damaged"))
    assert (world.pg_wal / Segment(1, 8, SIZE).name).exists()


def test_a_file_system_that_does_not_say_is_not_short(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_wal, "disk_of", lambda _: (0, 0))
    assert world.tend() == ""


@pytest.mark.postgres
def test_archiving_goes_on_without_the_disk_and_streams_again_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store is away, the spool fills what is left, and is emptied; all is archived from pg_wal."""
    directory = new_directory("d")
    free = [1000 * MIB]
    monkeypatch.setattr(lost_wal, "disk_of", lambda path: (free[0] if path.name == "wal" else 1000 * MIB, 1000 * MIB))
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
