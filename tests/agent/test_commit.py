"""Whose hold slot is moved. The server is a twin: no real one can be rewound between the record and its slot on demand."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from tests.agent.test_beliefs import SIZE, SYSTEM, TWO, Life, World
from walkeeper.agent.archiver.commit import Commit
from walkeeper.agent.archiver.source import Source
from walkeeper.agent.observation import Observed
from walkeeper.agent.problems import Problems
from walkeeper.core.frontier import Frontier
from walkeeper.core.hold_slot import SlotState, slot_target
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.lib.clock import SystemClock
from walkeeper.postgres.server import Server, ServerState


class Rewound:
    """Says of which cluster and timeline it is, and notes where its slot is moved."""

    def __init__(self, system: int, timeline: int) -> None:
        self._state = ServerState(system, False, timeline, Lsn(20 * MIB), SIZE, 17, "replica")
        self.moved: list[Lsn] = []

    def state(self) -> ServerState:
        return self._state

    def slot(self, _name: str) -> SlotState:
        return SlotState(physical=True, restart_lsn=Lsn(3 * MIB), active_pid=None, lost=False)

    def advance_slot(self, _name: str, target: Lsn) -> None:
        self.moved.append(target)


@pytest.mark.parametrize(
    ("system", "timeline", "moves"),
    [(SYSTEM, 2, True), (SYSTEM, 1, False), (SYSTEM, 3, False), (SYSTEM + 1, 2, False)],
    ids=["its own", "rewound to the timeline before", "to a newer one", "another cluster's server"],
)
def test_an_owner_moves_the_slot_only_of_the_server_that_its_record_is_of(
    tmp_path: Path, system: int, timeline: int, moves: bool
) -> None:
    world, life, server, clock = World(tmp_path), Life(TWO), Rewound(system, timeline), SystemClock()
    world.files("a", life, range(3, 10))
    world.owned(life, number=9)
    owner = world.take_over("a", TWO, 10 * MIB)
    commit = Commit(
        owner, Frontier(TWO, owner.record.position, SIZE), cast(Source, None), cast(Server, server), "walkeeper",
        Observed(server_up=True, lsn=Lsn(20 * MIB)), Problems(clock), clock,
    )  # fmt: skip
    assert commit._follow_with_slot() is not None
    assert server.moved == ([slot_target(owner.record.position, SIZE)] if moves else [])
