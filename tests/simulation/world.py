"""The world around the agents: three nodes, the DCS, the store, and what goes on by itself."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.parts.ways import Way
from tests.simulation.beside import Beside
from tests.simulation.handing_over import hand_over
from tests.simulation.invariants import Invariants
from tests.simulation.nodes import CHECKPOINT, TTL, Node
from tests.simulation.seams import StoreView, start_agent
from tests.simulation.threads import Loop, Process
from tests.simulation.wal import SIZE, SYSTEM, Branch
from tests.twins.memory_record import MemoryDcs
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import HistoryFile
from walkeeper.core.remembered import decode
from walkeeper.dcs.base import REMEMBERED, Member
from walkeeper.errors import NothingToCompare, OfSecondLife, StoreBehind

NAMES: Final = "abc"
FIRST_LSN: Final = 3 * SIZE
RESTART_DELAY: Final = 1.0


class World:
    """One cluster from its bootstrap on. ``directory`` is empty, and on a quick file system at best."""

    def __init__(
        self, dice: random.Random, directory: Path, *, archiver: Way = "streaming", tails: bool = False,
        trace: bool = False,
    ) -> None:  # fmt: skip
        self.loop = Loop(dice, trace=trace)
        self.directory = directory
        self.archiver = archiver
        self.file_times = itertools.count(1)
        self.tails = tails
        """Whether the agents ship the open segment; then clients write less, so that there is more of it."""
        self.sessions = 0
        self.dcs = MemoryDcs()
        self.guards = dice.random() < 0.7
        """Whether the DCS checks the leader key in a write's own transaction."""
        self.store = StoreView(self, None)
        self.layout = Layout("demo", None, SYSTEM)
        self.identity = directory / "identity"
        self.archive = Archive(self.store, self.layout, SIZE, Codec(identity_file=self.identity))
        """As we look into it ourselves."""
        self.elsewhere: dict[str, tuple[bytes, dict[str, str]]] | None = None
        """An empty store that the agents are shown instead: another prefix, a directory that is not mounted."""
        self.forgetful = False
        """Whether promotions choose their number without the archive: restore_command does not read it."""
        self.put_back = False
        """Whether somebody put an older record back, edited it, or put files of another time into a spool: it is for him to say that
        the leader archived what came since.
        """
        self.store_down = False
        self.late_by = 0.0
        """How many seconds later hosts see what another one has created in the store, as on NFS."""
        self.created: dict[str, tuple[str, float]] = {}
        """By whose host and when, by key."""
        self.reads_lag = False
        """Whether what is read of the DCS may be old."""
        self.lose_store_answers = 0
        self.wrong_answers = 0
        """How many of the next PUTs and listings the store answers wrongly."""
        self.rebuilds_take = 0.0
        """How long pg_rewind and base backups take; 0 for no time."""
        self.cluster_timeline = 1
        """As Patroni's key ``history`` says it."""
        self.somebody_chooses = False
        """Whether a person picks who is to lead, by ``patronictl failover``: Patroni would ask the one with the most WAL again and
        again, which is vetoed on an older timeline, and nobody else."""
        self.keys_expire = False
        """Whether a member's key in the DCS goes with its Patroni."""
        self.leader: Node | None = None
        self.leader_seen = 0.0
        self.branches = [Branch(0, 1)]
        self.nature = Process(self.loop, "world")
        self.invariants = Invariants(self)
        self.beside = Beside(self) if archiver == "several" else None
        """The second store."""
        if self.beside is not None:
            self.invariants.other, self.beside.invariants.other = self.beside.invariants, self.invariants
        self.nodes = [Node(self, name, 5001 + i, self.branches[0], FIRST_LSN) for i, name in enumerate(NAMES)]
        self.by_port = {node.port: node for node in self.nodes}
        self.busy = True
        """Whether clients write."""
        self.dcs.slots = ("walkeeper",)
        self.dcs.set_members(*map(self._key_of, self.nodes))
        self.nodes[0].primary = True
        self.set_leader(self.nodes[0])
        self._begin()

    def _begin(self) -> None:
        for node in self.nodes:
            self._every(1.0, node.look)
            self._every(0.7, lambda node=node: self._stream(node))  # type: ignore[misc]
            self._every(1.0, lambda node=node: self._write(node))  # type: ignore[misc]
            self._every(CHECKPOINT, lambda node=node: self._checkpoint(node))  # type: ignore[misc]
            self._every(RESTART_DELAY, lambda node=node: self._keep_agent(node))  # type: ignore[misc]
            if self.archiver == "command":
                self._every(1.0, lambda node=node: hand_over(node))  # type: ignore[misc]
        self._every(1.0, self._look_at_key)
        self._every(1.0, self._carry_slots)

    def _every(self, seconds: float, work: Callable[[], object]) -> None:
        def repeat() -> None:
            while True:
                self.loop.wait(seconds * self.loop.dice.uniform(0.5, 1.5))
                work()

        self.nature.run(repeat)

    def after(self, seconds: float, work: Callable[[], object]) -> None:
        def once() -> None:
            self.loop.wait(seconds)
            work()

        self.nature.run(once)

    # ---------------------------------------------------------------------------------------------- what goes on by itself

    def _stream(self, node: Node) -> None:
        upstream = self.leader
        if upstream is None or node.primary or upstream is node or not upstream.primary:
            return
        if node.answers and upstream.answers and node.reaches(upstream):
            node.receive(upstream)

    def _write(self, node: Node) -> None:
        if self.busy and node.primary and node.answers:
            node.write(self.loop.dice.randrange(SIZE // 4 if self.tails else SIZE))

    def _checkpoint(self, node: Node) -> None:
        if node.answers:
            node.checkpoint()

    def _keep_agent(self, node: Node) -> None:
        """The service manager."""
        if node.host_up and (node.agent is None or node.agent.dead):
            start_agent(self, node)

    def _look_at_key(self) -> None:
        if self.leader is not None and not self.dcs.down and self.loop.now - self.leader_seen > TTL:
            self.loop.note("dcs", "the leader key expires:", self.leader.name)
            self.set_leader(None)
        if self.keys_expire and not self.dcs.down:
            there = [node for node in self.nodes if self.loop.now - node.dcs_seen <= TTL]
            self.dcs.set_members(*(self._key_of(node) for node in there))

    def _key_of(self, node: Node) -> Member:
        return Member(node.name, "replica", "streaming", "host", node.port, 1, 1)

    def _carry_slots(self) -> None:
        """Through the DCS, or past it in failsafe mode."""
        leader = self.leader
        if leader is None or not leader.primary or not leader.answers or not leader.patroni_up:
            return
        if leader.slot is None or leader.slot.lost:
            leader.follow_slot(leader)
        for node in self.standbys_of(leader):
            if node.patroni_up:
                node.follow_slot(leader)

    # --------------------------------------------------------------------------------------------------------- questions

    def set_leader(self, node: Node | None) -> None:
        self.leader = node
        self.leader_seen = self.loop.now
        self.dcs.set_leader(node.name if node else None)

    def healthiest(self, node: Node) -> bool:
        """Patroni's choice among the members that it can ask; a primary that still runs needs no promotion."""
        asked = [n for n in self.nodes if n.answers and n.patroni_up and node.reaches(n) and n is not node]
        if self.archiver == "durable" and node.branch.timeline < self.cluster_timeline:
            return False  # check_timeline
        if self.somebody_chooses:
            asked = [n for n in asked if n.branch.timeline >= self.cluster_timeline]
        return node.answers and (node.primary or all(node.lsn >= n.lsn for n in asked))

    def standbys_of(self, primary: Node) -> list[Node]:
        return [
            n for n in self.nodes if n is not primary and not n.primary and n.branch is primary.branch and n.server_up
        ]

    def archive_knows(self, node: Node, timeline: int) -> bool:
        """restore_command's answer to a promotion, from the store or the DCS: what it cannot tell is a no."""
        if self.forgetful:
            return False
        key = self.layout.file(HistoryFile(timeline), "")
        if any(key in world.store.objects for world in self.stores_that_answer(node)):
            return True
        found = None if self.dcs.down or "dcs" in node.cut_off else self.dcs.documents.get(REMEMBERED)
        return found is not None and decode(found.document).text(timeline) is not None

    @property
    def all_invariants(self) -> list[Invariants]:
        """Of each store."""
        return [self.invariants] if self.beside is None else [self.invariants, self.beside.invariants]

    def stores_that_answer(self, node: Node) -> list[World | Beside]:
        """To that node."""
        found: list[World | Beside] = []
        if not self.store_down and "store" not in node.cut_off:
            found.append(self)
        if self.beside is not None and not self.beside.store_down and "far store" not in node.cut_off:
            found.append(self.beside)
        return found

    def reach_what_is_stored(self) -> None:
        """Clients write until the leader has what a stale spool had of the future, and handed in."""
        leader = self.leader
        if leader is None or not leader.primary or not leader.answers:
            return
        ahead = (leader.branch.segment(leader.lsn // SIZE + n) for n in range(5))
        if any(self.layout.file(segment, ".zst") in self.store.objects for segment in ahead):
            leader.write(SIZE)

    def accept_what_was_put_back(self) -> None:
        """``walkeeper takeover --accept``, by whoever put the record back, or files into a spool, where the leader has nothing left to
        show for itself."""
        leader = self.leader
        if not self.put_back or leader is None or leader.agent is None or leader.agent.dead:
            return
        passed = {NothingToCompare.reason, OfSecondLife.reason} | (
            {StoreBehind.reason} if self.invariants.edited_to else set()
        )
        if leader.refusals({}).get("reason") in passed:
            leader.refusals({"accept": True})

    def new_branch(self, timeline: int, parent: Branch, lsn: int) -> Branch:
        if any(branch.timeline == timeline for branch in self.branches):
            self.invariants.number_used_twice = True
            self.loop.note("world", "TIMELINE NUMBER USED TWICE:", timeline)
        branch = Branch(len(self.branches), timeline, parent, lsn)
        self.branches.append(branch)
        self.invariants.branched(branch)
        return branch

    def second_life(self, branch: Branch, lsn: int) -> Branch:
        """The same timeline again, from that position on."""
        for invariants in self.all_invariants:
            invariants.number_used_twice = True
        parent = branch.parent
        life = Branch(len(self.branches), branch.timeline, parent, branch.begun, lived=(branch, lsn))
        self.branches.append(life)
        return life

    def stored_up_to(self, branch: Branch, start: int) -> Lsn:
        """The first byte of that branch's chain from ``start`` on that is neither stored as it is nor in a recorded gap."""
        return self.invariants.stored_up_to(branch, start)
