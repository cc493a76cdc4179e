"""A host: its PostgreSQL with pg_wal and hold slot, the spool's disk, its Patroni, and the agent as a process.

What a server does is what was measured of real ones: where pg_receivewal starts, what a slot keeps, what a rewound node has.
"""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.handing_over import Command
from tests.simulation.invariants import JUST_NOW
from tests.simulation.promoting import Promoting, pre_promote
from tests.simulation.threads import Process
from tests.simulation.wal import SIZE, SYSTEM, Branch, PgWal, write_segment
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import HistoryFile, Segment
from walkeeper.dcs.base import Leader, Versioned

if TYPE_CHECKING:
    from tests.simulation.world import World

TTL: Final = 10.0
RETRY_TIMEOUT: Final = 5.0
CHECKPOINT: Final = 4.0
ANY_SEGMENT: Final = "FF" * 12
SHUT_DOWN, IN_RECOVERY, IN_PRODUCTION = 1, 5, 6
"""``DBState`` of pg_control."""


@dataclass(slots=True)
class Slot:
    """The hold slot. ``sound``: its position came from the agent or, over Patroni, from a sound one; a slot that was
    made again is ahead of the frontier through nobody's fault."""

    restart_lsn: int
    sound: bool = True
    lost: bool = False
    unreserved: bool = False
    """The next checkpoint makes it lost."""
    reserves: bool = True
    """Whether it keeps anything: restart_lsn is NULL where it does not."""
    active: bool = False
    """Somebody streams from it, and it follows him."""

    def keeps(self, lsn: int) -> bool:
        """All from there on, until somebody who may moves it."""
        given_up = self.lost or self.unreserved or self.active
        return self.reserves and not given_up and self.restart_lsn <= lsn


class Node:
    """One member of the cluster. ``lsn`` is how far its WAL is flushed."""

    def __init__(self, world: World, name: str, port: int, branch: Branch, lsn: int) -> None:
        self.world = world
        self.name = name
        self.port = port
        self.directory = world.directory / name
        self.pg_wal = PgWal(self.directory / "pg_wal", world.file_times)
        self.branch = branch
        self.lsn = lsn
        self.redo = lsn
        self.primary = False
        self.server_up = True
        self.ending = False
        """It is shutting down, and its walsenders still send."""
        self.server_started = 0
        """How often: connections do not outlive a start."""
        self.host_up = True
        self.boots = 1
        self.patroni_up = True
        self.dcs_seen = 0.0
        self.slot: Slot | None = Slot(lsn)
        self.cut_off: set[str] = set()
        """What this node cannot reach: "dcs", "store" or "members"."""
        self.disk_short = False
        """The spool's disk is nearly full."""
        self.room: int | None = None
        """How many segments fit on the disk that pg_wal and the spool share; None: enough."""
        self.short_until = -1e9
        """When the last shortage of that disk was over."""
        self.callbacks_after: float | None = 0.0
        """Seconds from what Patroni has a callback for to its call; None: it never gets there."""
        self.clock_off = 0.0
        """How far its wall clock is ahead, in seconds."""
        self.slept = 0.0
        """Seconds that its monotonic clock does not know of."""
        self.frozen_until = 0.0
        self.mute = False
        """Its server takes connections from other hosts, and says nothing."""
        self.name_unknown = False
        """Other hosts do not find it by its name."""
        self.half_rebuilt = False
        """What rebuilds it is not done with its files, and it cannot start."""
        self.encrypts = False
        """Whether its agents store encrypted from now on."""
        self.plain_before = ANY_SEGMENT
        """Up to which segment they believe what is plain, then."""
        self.wrong_record_answers = 0
        """How many of its next writes to the DCS are answered wrongly."""
        self.agent: Process | None = None
        self.second_agent: Process | None = None
        """Of the same member, with a configuration and a spool of its own, by mistake."""
        self.remembers_dcs: tuple[dict[str, Versioned], Leader | None] | None = None
        """What its agent reads of the DCS instead: as it was a while ago."""
        self.called: tuple[Process, str] | None = None
        """Which agent's session calls itself how."""
        self.promoting: Promoting | None = None
        self.orphans: list[Promoting] = []
        """What a Patroni that was killed had begun before a promotion, and nobody waits for."""
        self.promoting_dies_in: int | None = None
        """The step of the next run before a promotion at which it is killed."""
        self.waits_until = 0.0
        """Its Patroni takes no part in the race for the leader key before that."""
        self.receivers: list[Process] = []
        self.commands: list[Command] = []
        """What its PostgreSQL runs as archive_command: one at most, and what outlived a server that was killed."""
        self.pokes: Callable[[], None] = lambda: None
        self.refusals: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {}
        """What ``walkeeper takeover`` asks its agent."""
        self.kept: set[Segment] = set()
        """What its checkpoints leave, as by wal_keep_size."""
        self.push: Callable[[Mapping[str, Any]], object] | None = None
        """The agent's side of archive-push."""
        self.pg_wal.put(branch, lsn // SIZE - 1)
        (self.directory / "global").mkdir()
        self._write_control(IN_PRODUCTION)

    def _write_control(self, state: int) -> None:
        content = struct.pack("=QI4xi128x", SYSTEM, 1300, state)
        (self.directory / "global" / "pg_control").write_bytes(content)

    @property
    def data(self) -> Path:
        return self.directory

    @property
    def bin_dir(self) -> None:
        return None

    @property
    def dice(self) -> random.Random:
        return self.world.loop.dice

    @property
    def frozen(self) -> bool:
        return self.frozen_until > self.world.loop.now

    @property
    def answers(self) -> bool:
        """Whether its server can be asked."""
        return self.server_up and self.host_up and not self.frozen

    def reaches(self, other: Node) -> bool:
        return other is self or not ({"members"} & (self.cut_off | other.cut_off))

    def note(self, what: str, about: object = "") -> None:
        self.world.loop.note(self.name, what, about)

    # ------------------------------------------------------------------------------------------------------- PostgreSQL

    def write(self, count: int) -> None:
        """That many bytes more of its branch. Where the next segment does not fit it ends in a panic, with what it has flushed."""
        wanted = self.lsn + count
        self._extend(self.branch, wanted, written=True)
        if self.lsn < wanted:
            self.note("has no room", f"at {Lsn(self.lsn)}")
            self.crash()

    @property
    def free(self) -> int:
        """Segments that its disk has room for, beside the one that it has open."""
        if self.room is None:
            return 1 << 20
        spool = sum(1 for _ in (self.directory / "spool" / "wal").glob("0*"))
        return max(0, self.room - len(self.pg_wal.segments) - (self.lsn % SIZE > 0) - spool)

    @property
    def is_short(self) -> bool:
        """Whether that disk is short of room, or was a moment ago; of another member's that is told each half a minute, and then
        believed for a minute.
        """
        now = self.world.loop.now
        ago = {node.name: JUST_NOW if node is self else 30 + 60 + JUST_NOW for node in self.world.nodes}
        return any(node.room is not None or node.short_until > now - ago[node.name] for node in self.world.nodes)

    @property
    def stuck(self) -> bool:
        """Whether it cannot even end its crash recovery, which writes a record."""
        return self.lsn % SIZE == 0 and not self.free

    def _extend(self, branch: Branch, lsn: int, *, written: bool = False) -> None:
        first = self.lsn // SIZE
        if self.room is not None:
            lsn = min(lsn, (-(-self.lsn // SIZE) + self.free) * SIZE)
        self.branch, self.lsn = branch, max(self.lsn, lsn)
        for number in range(first, self.lsn // SIZE):
            self.pg_wal.put(branch, number, ready=written and self.world.archiver == "command")

    def has(self, segment: Segment) -> bool:
        return segment in self.pg_wal.segments

    def has_from(self, branch: Branch, number: int) -> bool:
        """Whether it can stream that branch from there on."""
        return all(self.has(branch.segment(n)) for n in range(number, self.lsn // SIZE))

    def receive(self, upstream: Node) -> None:
        """Streaming replication, for a while."""
        branch = upstream.branch
        if self.branch is not branch and self.branch.parts_from(branch) < self.lsn:
            self.rebuild(upstream, "rewound")
        elif self.lsn > upstream.lsn or not upstream.has_from(branch, self.lsn // SIZE):
            self.rebuild(upstream, "rebuilt")
        else:
            if self.branch is not branch:
                self.pg_wal.put_histories(branch)
            behind = upstream.lsn - self.lsn
            self._extend(branch, self.lsn + int(behind * self.dice.choice([0.3, 0.9, 1, 1])))

    def restore(self) -> None:
        """What restore_command brings, of the newest timeline that this server can follow."""
        stores = self.world.stores_that_answer(self)
        if not stores:
            return
        for branch in sorted(self.world.branches, key=lambda branch: -branch.timeline):
            history = self.world.layout.file(HistoryFile(branch.timeline), "")
            there = branch.parent is None or any(history in world.store.objects for world in stores)
            if there and (branch is self.branch or self.branch.parts_from(branch) >= self.lsn):
                end = max(world.invariants.stored_run(branch, self.lsn // SIZE * SIZE) for world in stores)
                if end > self.lsn:
                    self.note("restores", f"{branch} up to {Lsn(end)}")
                    if branch is not self.branch:
                        self.pg_wal.put_histories(branch)
                    self._extend(branch, end)
                return

    def rebuild(self, upstream: Node, how: str) -> None:
        """pg_rewind or a base backup: its slot is made again, at the redo pointer, and its older WAL is gone."""
        self.note(how, f"from {upstream.name}, redo {Lsn(upstream.redo)}")
        if self.world.rebuilds_take:
            upstream = self._replace_files(upstream)
        self.pg_wal.clear()
        self.branch, self.redo = upstream.branch, max(upstream.redo, upstream.branch.begun)
        self.lsn = self.redo
        self.pg_wal.put_histories(self.branch)
        if not upstream.has_from(self.branch, self.redo // SIZE):
            self.redo = self.lsn = upstream.lsn
        self._extend(self.branch, upstream.lsn)
        self.slot = Slot(self.redo, sound=False)
        self.primary = False
        self.restart()

    def _replace_files(self, upstream: Node) -> Node:
        """With the server stopped: histories come first, then its segments go, one after the other. From whom it then follows: where
        the other one left meanwhile, it is rebuilt again.
        """
        world = self.world
        self.crash()
        self.slot, self.half_rebuilt = None, True
        self.pg_wal.put_histories(upstream.branch)
        theirs = sorted(self.pg_wal.segments)
        self.dice.shuffle(theirs)
        for segment in theirs:
            world.loop.wait(world.rebuilds_take / len(theirs))
            self.pg_wal.drop(segment)
        while not (
            self.host_up and (leader := world.leader) and leader is not self and leader.primary and leader.answers
        ):
            world.loop.wait(1)
        self.half_rebuilt = False
        return leader

    def restart(self) -> None:
        if self.ending:
            self._write_control(IN_PRODUCTION if self.primary else IN_RECOVERY)
        self.server_started += 1
        self.server_up, self.ending = True, False
        (self.directory / "postmaster.pid").write_text(f"1\n{self.directory}\n{self.server_started}\n{self.port}\n")

    def crash(self) -> None:
        """The postmaster is killed; its WAL is on disk."""
        self.server_up = self.ending = False
        self.server_started += 1

    def go_back(self, lsn: int, *, alone: bool = False) -> None:
        """The volume is put back to a snapshot, the spool with it; everything on the machine starts again, and writes on.

        ``alone``: only its server does, and the agent finds itself beside another life of it.
        """
        self.note("goes back", f"to {Lsn(lsn)}")
        for process in () if alone else self.processes():
            process.kill()
        for segment in [segment for segment in self.pg_wal.segments if segment.end > lsn]:
            self.pg_wal.drop(segment)
        if not alone:
            shutil.rmtree(self.directory / "spool" / "wal", ignore_errors=True)
        self.branch, self.lsn, self.redo = self.world.second_life(self.branch, lsn), lsn, min(self.redo, lsn)
        if self.slot is not None:
            self.slot.restart_lsn = min(self.slot.restart_lsn, lsn)
        self.restart()
        self.write(100)

    def shut_down(self) -> None:
        """A fast shutdown: no session is left, and its walsenders end when all was received."""
        self.note("shuts down", f"at {Lsn(self.lsn)}")
        self.server_up, self.ending = False, True
        self._write_control(SHUT_DOWN)

    def demote(self) -> None:
        """A fast shutdown, after which it starts as a standby. pg_receivewal gets everything before (unless it hangs)."""
        self.note("demoted", f"at {Lsn(self.lsn)}")
        self.primary = False
        self.restart()

    def promote(self) -> None:
        """PostgreSQL takes the first timeline number that neither pg_wal nor restore_command knows a history of."""
        timeline = self.branch.timeline + 1
        while self.pg_wal.knows(timeline) or self.world.archive_knows(self, timeline):
            timeline += 1
        self.branch = self.world.new_branch(timeline, self.branch, self.lsn)
        self.pg_wal.put_histories(self.branch)
        self.note("promoted", self.branch)
        if self.world.archiver == "command":
            self.pg_wal.mark_ready(HistoryFile(timeline).name)
        self.primary = True
        self.write(100)

    def checkpoint(self) -> None:
        """Recycle what neither the slot, nor a standby, nor crash recovery needs."""
        self.redo = max(self.redo, self.branch.begun, self.lsn - self.dice.randrange(2 * SIZE))
        keep = self.redo
        if self.slot is not None:
            self.slot.lost = self.slot.lost or self.slot.unreserved
            if self.slot.active:
                self.slot.restart_lsn = self.lsn
            if not self.slot.lost and self.slot.reserves:
                keep = min(keep, self.slot.restart_lsn)
        if self.primary:
            keep = min([keep, *(other.lsn for other in self.world.standbys_of(self))])
        for segment in sorted(self.pg_wal.segments):
            if segment in self.kept:
                continue
            if segment.end <= keep and not (self.primary and self.pg_wal.is_ready(segment.name)):
                self.pg_wal.drop(segment)
                self.world.invariants.recycled(self, segment)

    # ----------------------------------------------------------------------------------------------------------- Patroni

    def look(self) -> None:
        """One turn of Patroni's loop."""
        world = self.world
        if not (self.host_up and self.patroni_up) or self.frozen:
            return
        now = world.loop.now
        if world.dcs.down or "dcs" in self.cut_off:
            if self.primary and self.server_up and now - self.dcs_seen > RETRY_TIMEOUT:
                self.demote()
            return
        self.dcs_seen = now
        if self.ending:
            return
        if not self.server_up:
            if not self.stuck and not self.half_rebuilt:
                self.restart()
            return
        leader = world.leader
        if leader is self:
            world.leader_seen = now
            if self.primary:
                world.cluster_timeline = self.branch.timeline
            if not self.primary and world.archiver != "durable":
                self.promote()
            elif not self.primary:
                self._pre_promote()
        elif leader is not None:
            self._stop_promoting()
            if self.primary:
                self.demote()
        elif world.healthiest(self) and now >= self.waits_until:
            self.note("takes the leader key")
            world.set_leader(self)
            self.poke()

    def _pre_promote(self) -> None:
        """The script runs while it keeps the leader key; a veto gives that back, and it stays out of the race for a while."""
        promoting = self.promoting
        if promoting is None:
            self.promoting = pre_promote(self)
            self.promoting.process.die_in, self.promoting_dies_in = self.promoting_dies_in, None
        elif promoting.passes is not None or promoting.dead:
            self._stop_promoting()
            if promoting.passes:
                self.promote()
            else:
                self.note("gives the leader key back")
                self.waits_until = self.world.loop.now + TTL
                self.world.set_leader(None)

    def _stop_promoting(self) -> None:
        if self.promoting is not None:
            self.promoting.kill()
            self.promoting = None

    def follow_slot(self, leader: Node) -> None:
        """Patroni copies the position of the leader's slot, and makes a slot where there is none."""
        theirs = leader.slot
        if self.slot is None or self.slot.lost:
            self.slot = Slot(self.redo, sound=False)
        elif self.slot.active or not self.slot.reserves or theirs is None or theirs.lost or not theirs.reserves:
            return
        elif self.slot.restart_lsn < theirs.restart_lsn <= self.lsn:
            self.slot.restart_lsn = theirs.restart_lsn
            self.slot.sound = self.slot.sound and theirs.sound

    def poke(self) -> None:
        """A callback; it may be lost, come twice, or so late that another agent gets it."""
        for _ in range(self.dice.choice([0, 1, 1, 2])) if self.agent is not None and not self.agent.dead else ():
            if self.callbacks_after:
                self.world.after(self.callbacks_after * self.dice.random(), self._call)
            elif self.callbacks_after is not None:
                self._call()

    def _call(self) -> None:
        if self.agent is not None and not self.agent.dead:
            self.pokes()

    # -------------------------------------------------------------------------------------------------------- the machine

    def processes(self) -> list[Process]:
        promoting = self.promoting.process if self.promoting is not None else None
        found = (
            self.agent,
            self.second_agent,
            promoting,
            *(orphan.process for orphan in self.orphans),
            *self.receivers,
            *self.commands,
        )
        return [process for process in found if process is not None and not process.dead]

    def freeze(self, seconds: float) -> None:
        """Everything on it stops, and later goes on as if nothing had been."""
        self.frozen_until = self.world.loop.now + seconds
        for process in self.processes():
            process.freeze(seconds)

    def power_off(self) -> None:
        """What was not synced is lost: the spool's files keep their size, and some their first page."""
        self.note("power loss")
        self.host_up = False
        self.crash()
        for process in self.processes():
            process.kill()
        self.promoting = None
        self.boots += 1
        for path in sorted((self.directory / "spool" / "wal").glob("*")):
            if len(path.name) == 24 and self.dice.random() < 0.7:
                kept = path.read_bytes()[: self.dice.choice([0, 48])]
                write_segment(path, kept or b"\0")

    def power_on(self) -> None:
        self.host_up = True
