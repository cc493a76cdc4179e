"""``walkeeper pre-promote`` on a node that is about to be promoted, and what its PostgreSQL fetches meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from tests.simulation.threads import Clock
from tests.simulation.wal import SIZE, SYSTEM
from walkeeper.archive.open import open_archives
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.synchronous import standby_name
from walkeeper.errors import PostgresError, WalkeeperError
from walkeeper.postgres.server import ServerState
from walkeeper.promote.before import Before, Candidate
from walkeeper.promote.standby import Replay
from walkeeper.promote.stored import End, Stored

if TYPE_CHECKING:
    from tests.simulation.nodes import Node
    from tests.simulation.seams import NodeProcess

STALLED = 20.0


class Promoting:
    """One run. ``passes``: how it ended; None before that."""

    def __init__(self, process: NodeProcess) -> None:
        self.passes: bool | None = None
        self.process = process

    @property
    def dead(self) -> bool:
        return self.process.dead and self.passes is None

    def kill(self) -> None:
        self.process.kill()


class StoredView(Stored):
    """Segments have no records here: recovery gets to the last byte."""

    def last_record(self, end: End, history: History, session: str, floor: Lsn) -> Lsn:
        return max(end.lsn, floor)


class StandbyView:
    """walkeeper.promote.standby.Standby: a server that replays what its restore_command brings it."""

    def __init__(self, process: NodeProcess) -> None:
        self._process = process
        self._node = process.node

    def _ask(self, what: str) -> None:
        self._process.step(f"standby.{what}")
        if not self._node.answers:
            self._process.loop.wait(2)
            raise PostgresError("the server: no answer")

    def state(self) -> ServerState:
        self._ask("state")
        node = self._node
        return ServerState(SYSTEM, not node.primary, node.branch.timeline, Lsn(node.lsn), SIZE, 15, "replica")

    def look(self) -> Replay:
        self._ask("look")
        node = self._node
        node.restore()
        waits_for = standby_name(SYSTEM) if node.world.invariants.commits_wait else ""
        return Replay(not node.primary, Lsn(node.lsn), node.branch.timeline, waits_for=waits_for)

    def history(self, timeline: int, stored: Callable[[int], History]) -> History:
        known = [branch for branch, _ in self._node.branch.ancestry() if branch.timeline == timeline]
        return known[0].written if known else stored(timeline)

    def stop_receiving(self, pid: int) -> None: ...


def pre_promote(node: Node) -> Promoting:
    """It begins now."""
    from tests.simulation.seams import NodeProcess, RecordView, StoreView, config_for  # noqa: PLC0415 - they know of nodes

    process = NodeProcess(node.world, node, f"pre-promote {node.name}")
    promoting = Promoting(process)

    def main() -> None:
        archives = open_archives(config_for(node), StoreView(node.world, process))
        candidate = Candidate(
            node.name,
            RecordView(process),
            cast("Any", StandbyView(process)),
            lambda server: StoredView(archives, server.system_identifier, server.segment_size),
            Clock(node.world.loop),
            stalled=STALLED,
        )
        try:
            node.note("may be promoted:", Before(candidate).run())
            promoting.passes = True
        except WalkeeperError as problem:
            node.note("may not be promoted:", problem)
            promoting.passes = False

    process.run(main)
    return promoting
