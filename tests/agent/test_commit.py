"""What the commit writes, and whose hold slot it moves. The server is a twin: no real one can be rewound between the record and its slot on demand."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import cast

import pytest

from tests.agent.test_beliefs import SIZE, SYSTEM, TWO, Life, World
from tests.twins.hand_clock import HandClock
from walkeeper.agent.archiver.commit import EARLY_INTERVAL, Commit
from walkeeper.agent.archiver.holding import Holding, HoldSlot
from walkeeper.agent.archiver.lease import Lease
from walkeeper.agent.archiver.source import Source
from walkeeper.agent.observation import Observed
from walkeeper.agent.problems import Problems
from walkeeper.core.frontier import Frontier
from walkeeper.core.hold_slot import SlotState, slot_target
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.record import Gap
from walkeeper.core.suspicion import Lost
from walkeeper.lib.clock import SystemClock, since_boot
from walkeeper.postgres.server import Server, ServerState


class Rewound:
    """Says of which cluster and timeline it is, and notes where its slot is moved."""

    def __init__(self, system: int, timeline: int, replays: int | None = None) -> None:
        """``replays``: of a server in recovery, which shows ``timeline``."""
        self._state = ServerState(system, replays is not None, timeline, Lsn(20 * MIB), SIZE, 17, "replica")
        self._replays = replays
        self.moved: list[Lsn] = []

    def state(self) -> ServerState:
        return self._state

    def replay_timeline(self) -> int:
        assert self._replays is not None
        return self._replays

    def slot(self, _name: str) -> SlotState:
        return SlotState(physical=True, restart_lsn=Lsn(3 * MIB), active_pid=None, lost=False)

    def advance_slot(self, _name: str, target: Lsn) -> None:
        self.moved.append(target)


class Rounds(threading.Event):
    """Set after so many rounds."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = count

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0

    def wait(self, timeout: float | None = None) -> bool:
        return False


def committing(tmp_path: Path, server: Rewound) -> Commit:
    world, life, clock = World(tmp_path), Life(TWO), SystemClock()
    world.files("a", life, range(3, 10))
    world.owned(life, number=9)
    owner = world.take_over("a", TWO, 10 * MIB)
    return Commit(
        owner, Frontier(TWO, owner.record.position, SIZE), cast(Source, None), cast(Server, server),
        HoldSlot("walkeeper", "main", Holding(["main"], 1, clock), tmp_path),
        Observed(server_up=True, lsn=Lsn(20 * MIB)), Problems(clock), clock,
    )  # fmt: skip


def test_an_owner_that_acknowledges_nothing_more_says_so_in_the_record_once(tmp_path: Path) -> None:
    commit = committing(tmp_path, Rewound(SYSTEM, 2))
    commit._lease = lease = Lease()
    lease.confirmed(since_boot())
    lease.ended.set()
    lease.confirmed(since_boot() + 1)
    assert not lease.holds()
    owner, frontier = commit.ownership, commit._frontier.lsn
    assert owner.record.closed_by == ""
    assert commit._write_record(frontier, [])
    assert owner.record.closed_by == owner.record.owner == "a"
    assert owner.still_ours(owner._records.read())
    assert not commit._write_record(frontier, [])
    owner.write(Lsn(frontier + 8))
    assert owner.record.closed_by == "a"


@pytest.mark.parametrize(
    ("system", "timeline", "moves"),
    [(SYSTEM, 2, True), (SYSTEM, 1, False), (SYSTEM, 3, False), (SYSTEM + 1, 2, False)],
    ids=["its own", "rewound to the timeline before", "to a newer one", "another cluster's server"],
)
def test_an_owner_moves_the_slot_only_of_the_server_that_its_record_is_of(
    tmp_path: Path, system: int, timeline: int, moves: bool
) -> None:
    server = Rewound(system, timeline)
    commit = committing(tmp_path, server)
    assert commit._follow_with_slot() is not None
    assert server.moved == ([slot_target(commit.ownership.record.position, SIZE)] if moves else [])


@pytest.mark.parametrize(
    ("shows", "replays", "moves"),
    [(1, 2, True), (2, 3, False), (2, 2, True)],
    ids=["before its restartpoint", "that follows another one by now", "as it is"],
)
def test_a_standby_leaders_timeline_is_the_one_that_it_replays(
    tmp_path: Path, shows: int, replays: int, moves: bool
) -> None:
    server = Rewound(SYSTEM, shows, replays)
    committing(tmp_path, server)._follow_with_slot()
    assert bool(server.moved) == moves


def test_the_record_names_each_gap_that_its_position_has_passed(tmp_path: Path) -> None:
    """Also if the frontier passes one between the two looks of a round: then the position is that of before."""
    commit = committing(tmp_path, Rewound(SYSTEM, 2))
    gap, before = Lost(TWO.segment(9, SIZE), 11), commit.ownership.record.position
    first = commit._problem

    def passes_it() -> str:
        commit.state_gap(gap.as_gap())
        commit._frontier.add_gap(gap.first, gap.end_lsn)
        return first()

    commit._problem = passes_it  # type: ignore[method-assign]
    written: list[tuple[Lsn, int]] = []
    real = commit.ownership.write

    def write(lsn: Lsn, gaps: tuple[Gap, ...] = (), *more: object, **_: object) -> None:
        written.append((lsn, len(gaps)))
        real(lsn, gaps)

    commit.ownership.write = write  # type: ignore[method-assign, assignment]
    commit.changed.set()
    commit.run(Rounds(2))
    assert all(gaps for lsn, gaps in written if lsn > before)
    assert written[-1][0] == gap.end_lsn


def test_what_comes_last_waits_for_no_interval_once_a_second(tmp_path: Path) -> None:
    class Paused(threading.Event):
        times = 0

        def wait(self, timeout: float | None = None) -> bool:
            self.times += 1
            return False

    commit, stopping, clock = committing(tmp_path, Rewound(SYSTEM, 2)), Paused(), HandClock()
    commit._clock = clock
    commit._pause(stopping)  # all of it: more is on its way
    commit.settled.set()
    commit._pause(stopping)
    assert stopping.times == 0
    commit._pause(stopping)
    assert stopping.times == 1
    clock.now += EARLY_INTERVAL
    commit._pause(stopping)
    assert stopping.times == 1
