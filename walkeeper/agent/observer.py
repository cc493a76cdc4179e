"""The looks: at the local PostgreSQL, its hold slot, the record, the leader and the members. Nothing here acts on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from walkeeper.agent.archiver.holding import Holding
from walkeeper.agent.archiver.whereabouts import Candidate, disk_of
from walkeeper.agent.members_look import MembersLook
from walkeeper.agent.observation import GoneMembers, Observation
from walkeeper.agent.problems import Problems
from walkeeper.config import Config
from walkeeper.core.about import About
from walkeeper.core.hold_slot import SlotState, how_to_make_safe, why_not_gap_safe
from walkeeper.core.lag import WalTimes
from walkeeper.core.lsn import Lsn
from walkeeper.core.members import Member, may_have, remember
from walkeeper.core.record import Record
from walkeeper.core.room import Disk, Trend
from walkeeper.core.stores_told import brief
from walkeeper.core.synchronous import standby_name
from walkeeper.dcs.base import RecordStore, Topology, Versioned
from walkeeper.dcs.claim import decoded
from walkeeper.errors import CommandFails, DcsError, DcsUnavailable, NotGapSafe, PostgresError, TwoAcknowledge
from walkeeper.lib.clock import Clock, timestamp
from walkeeper.page.document import SAMPLE_SECONDS
from walkeeper.page.facts import Sample
from walkeeper.postgres.server import AGENT_APPLICATION, CommandState, CommitsState, Server, ServerState

TOPOLOGY_SECONDS: Final = 10.0
DISK_TOLD_SECONDS: Final = 30.0
SAMPLES: Final = int(6 * 3600 / SAMPLE_SECONDS)
"""For the page, which draws the last six hours."""


class Observer:
    """For one thread, but that any may read ``observation``, ``topology``, ``samples`` and ``lag_seconds``."""

    def __init__(
        self,
        config: Config,
        records: RecordStore,
        problems: Problems,
        clock: Clock,
        holding: Holding,
        recall: Callable[[], dict[str, Member]] = dict,
        fills_disk: Callable[[], bool] = lambda: False,
    ) -> None:
        """``holding`` is told what the record says. ``recall`` tells the members that were seen before this process began; it
        raises DcsUnavailable. ``fills_disk``: whether a job of the cluster's writes to the disk of pg_wal here.
        """
        self.observation = Observation()
        self.topology: Topology | None = None
        self.members: dict[str, Member] = {}
        """Those that are, or were lately; replaced as a whole."""
        self.recalled = False
        """Whether ``members`` has those from before this process began."""
        self.samples: tuple[Sample, ...] = ()
        """The oldest first; replaced as a whole."""
        self._config = config
        self._records = records
        self._holding = holding
        self._recall = recall
        self._fills_disk = fills_disk
        self._problems = problems
        self._clock = clock
        self._server = Server(config.postgresql, config.agent.dcs_timeout, AGENT_APPLICATION)
        self._topology_at = 0.0
        self.wal_times = WalTimes()
        self.gone = GoneMembers()
        self.disk: Disk | None = None
        """Of pg_wal."""
        self._trend = Trend()
        self._wal_trend = Trend()
        self._wal_growth: float | None = None
        """Bytes of WAL a second."""
        self._members_look = MembersLook(config, clock)
        self._disk_told_at = -math.inf

    @property
    def standby_cluster(self) -> bool:
        return self.topology is not None and self.topology.standby_cluster

    def look(self) -> Observation:
        """At everything that a decision needs, in an order that the decision relies on."""
        server = self._look_at_server()
        slot = self._look_at_slot(server)  # before the record, which never is behind the slot
        found, record_known = self._look_at_record()
        leader, leader_known = self._look_at_leader()
        record = self._decode(found)
        if record_known:  # one that cannot be read is as good as none
            self._holding.note(self._config.store_name, record)
        self._look_at_topology(record or self.observation.record)
        return Observation(
            server=server, slot=slot, found=found, record=record, record_known=record_known, leader=leader,
            leader_known=leader_known,
        )  # fmt: skip

    def conclude(self, look: Observation) -> None:
        """The rest of that look, once it was acted on; then others read it."""
        self.observation = replace(
            look,
            at=self._clock.monotonic(),
            gap_unsafe=self._judge_slot(look),
            command=self._look_at_command(look.server),
            commits=self._look_at_commits(look.server),
        )
        self._look_at_disk(look.server)
        self._take_sample()

    def lag_seconds(self) -> float | None:
        """How long the oldest WAL has waited to pass the frontier; without the tail, the oldest complete segment. None
        without a frontier or a server.
        """
        record = self.observation.record
        if record is None or self.observation.server is None:
            return None
        oldest = record.position + (1 if self._config.tail_interval is not None else record.segment_size)
        return self.wal_times.waiting(self._clock.monotonic(), oldest)

    def other_members(self, frontier: Lsn) -> list[Candidate]:
        """Those that may have WAL from there on."""
        own, topology = self._config.postgresql, self.topology
        there = {member.name for member in topology.members} if topology is not None else set()
        if self._config.name not in there or not self.recalled:
            # Without our own key the others' may be lacking as well: Patroni writes them again into a DCS that was emptied.
            raise DcsUnavailable(
                "members in the DCS: not known yet",
                hint="A member may have the WAL that is looked for. The agent asks the DCS again.",
            )
        return [
            Candidate(
                member.name,
                own.of_member(member.host, member.port) if member.host and member.port else None,
                gone=member.name not in there,
            )
            for member in may_have(self.members, frontier)
            if member.name != self._config.name
        ]

    def disks(self) -> list[Disk]:
        """Those that the hold slot fills, as they were lately; the first call has members asked. Never waits.

        They fill no faster than WAL is written: what else is, for a while, the archive does not hold.
        """
        members = self.topology.members if self.topology is not None else ()
        held = tuple(each for each in members if each.name != self._config.name and not each.nofailover)
        seen = self._members_look.look(held, self.observation.record, None)
        disks = (self.disk, *(seen[each.name].disk for each in held if each.name in seen))
        return [replace(disk, growth=self._by_wal(disk.growth)) for disk in disks if disk is not None]

    def _by_wal(self, growth: float | None) -> float | None:
        return None if growth is None or self._wal_growth is None else min(growth, self._wal_growth)

    def close(self) -> None:
        """Let go of the server."""
        self._server.close()

    def _look_at_server(self) -> ServerState | None:
        at, stamp = self._clock.monotonic(), timestamp()
        try:
            state = self._server.state()
            if state.in_recovery and self.standby_cluster:
                state = replace(state, timeline=self._server.replay_timeline())
        except PostgresError as problem:
            self._problems.report(About.POSTGRESQL, problem, grace=True)
            return None
        self.wal_times.note(at, stamp, state.lsn)
        self._wal_growth = self._wal_trend.note(at, -state.lsn)
        self._problems.clear(About.POSTGRESQL)
        return state

    def _look_at_slot(self, server: ServerState | None) -> SlotState | PostgresError | None:
        if server is None:
            return PostgresError("the local server does not answer")
        try:
            return self._server.slot(self._config.hold_slot)
        except PostgresError as problem:
            self._problems.report(About.POSTGRESQL, problem, grace=True)
            return problem

    def _look_at_record(self) -> tuple[Versioned | None, bool]:
        try:
            found = self._records.read()
        except DcsError as problem:
            if not isinstance(problem, DcsUnavailable):
                self._holding.refused(self._config.store_name)
            self._problems.report(About.DCS, problem, grace=True)
            return None, False
        self._problems.clear(About.DCS)
        return found, True

    def _look_at_leader(self) -> tuple[str | None, bool]:
        try:
            leader = self._records.leader()
        except DcsError as problem:
            self._problems.report(About.DCS, problem)
            return None, False
        return leader.name if leader is not None else None, True

    def _look_at_topology(self, record: Record | None) -> None:
        now = self._clock.monotonic()
        if now < self._topology_at:
            return
        self._topology_at = now + TOPOLOGY_SECONDS
        try:
            self.topology = self._records.topology()
            if not self.recalled:
                self.members, self.recalled = self._recall(), True
        except DcsError as problem:
            self._problems.report(About.DCS, problem)
            return
        self.gone.note(now, timestamp(), {member.name for member in self.topology.members})
        self._remember(self.topology, record, now)

    def _remember(self, topology: Topology, record: Record | None, now: float) -> None:
        """Who may have WAL. The record's owner may, also where its key is gone by the first look, which takes over."""
        there = [Member(each.name, each.host, each.port, now) for each in topology.members]
        owner = record.owner if record is not None else None
        if owner is not None and owner not in self.members and not any(each.name == owner for each in there):
            there.append(Member(owner, None, None, now))
        ends = [each.lsn for each in topology.members if each.lsn is not None]
        if self.observation.server is not None:
            ends.append(self.observation.server.lsn)
        self.members = remember(self.members, there, now, Lsn(max(ends)) if ends else None)

    def _decode(self, found: Versioned | None) -> Record | None:
        claim = decoded(found)
        self._problems.report(About.RECORD, claim.problem)
        return claim.record

    def _look_at_command(self, server: ServerState | None) -> CommandState | None:
        """How archive_command fares, on a server that runs it."""
        if server is None or server.in_recovery:
            self._problems.clear(About.ARCHIVE_COMMAND)
            return None
        try:
            command = self._server.archive_command()
        except PostgresError as problem:
            self._problems.report(About.POSTGRESQL, problem, grace=True)
            return None
        fails: CommandFails | None = None
        if command.mode != "off" and command.fails:
            text = f"archive_command: it failed for {command.last_failed} and has not succeeded since"
            hint = (
                "PostgreSQL's log has what it said. PostgreSQL keeps all WAL from there on: watch the disk of pg_wal."
            )
            fails = CommandFails(text, hint=hint)
        self._problems.report(About.ARCHIVE_COMMAND, fails, grace=True)
        return command

    def _look_at_commits(self, server: ServerState | None) -> CommitsState | None:
        """Of a server whose commits are to wait for the store."""
        if self._config.durability != "store" or server is None or server.in_recovery:
            self._problems.clear(About.TWO_ACKNOWLEDGE)
            return None
        name = standby_name(server.system_identifier)
        try:
            commits = self._server.commits(name)
        except PostgresError as problem:
            self._problems.report(About.POSTGRESQL, problem, grace=True)
            return None
        two: TwoAcknowledge | None = None
        if commits.connected > 1:
            text = f"{self._config.name}: {commits.connected} walsenders are called {name}, and commits believe each of them"
            hint = "One is the agent's. Whose are the others? walkeeper doctor says how to see it; change the role's password."
            two = TwoAcknowledge(text, hint=hint)
        self._problems.report(About.TWO_ACKNOWLEDGE, two, grace=True)
        return commits

    def _judge_slot(self, look: Observation) -> str | None:
        """Why this node is not gap-safe; "" if it is, None if that cannot be told, or if nothing depends on it."""
        slot, record = look.slot, look.record
        if isinstance(slot, PostgresError) or record is None or self._config.store_name != self._holding.first:
            return None
        other = look.server is not None and str(look.server.system_identifier) != record.system_identifier
        if other or self._never_promoted(look):  # another cluster's positions say nothing of this one's
            self._problems.clear(About.NOT_GAP_SAFE)
            return None
        frontier = self._holding.position(self._config.store_name, record)
        if frontier is None:
            return None
        why, unsafe = why_not_gap_safe(slot, frontier, record.size), None
        if why:
            name = self._config.hold_slot
            declared = self.topology is None or name in self.topology.slots
            slots_off = self.topology is not None and self.topology.slots_off
            hint = how_to_make_safe(slot, name, declared=declared, slots_off=slots_off)
            unsafe = NotGapSafe(f"{self._config.name}: {why}", hint=hint)
        self._problems.report(About.NOT_GAP_SAFE, unsafe, grace=True)
        return why

    def _never_promoted(self, look: Observation) -> bool:
        """A replica with the tag nofailover."""
        members = self.topology.members if self.topology is not None else ()
        tagged = any(member.name == self._config.name and member.nofailover for member in members)
        return tagged and look.server is not None and look.server.in_recovery

    def _look_at_disk(self, server: ServerState | None) -> None:
        """How long it lasts; and tell the other nodes, by the name of the session here, also which stores are configured."""
        now = self._clock.monotonic()
        try:
            free, total = disk_of(self._config.data_dir / "pg_wal")
        except OSError:
            self.disk = None
            return
        if self._fills_disk():  # a proof leaves nothing there: how it fills the disk says nothing of PostgreSQL's WAL
            self._trend, growth = Trend(), None
        else:
            growth = self._trend.note(now, free)
        self.disk = Disk(free, total, growth)
        if server is None or now - self._disk_told_at < DISK_TOLD_SECONDS:
            return
        self._disk_told_at = now
        try:
            first = self._config.store_name == self._holding.first
            told = f" {brief(self._config.stores)}" if first else ""
            self._server.call_itself(f"{AGENT_APPLICATION} {self.disk.brief}{told}")
        except PostgresError as problem:
            self._problems.report(About.POSTGRESQL, problem, grace=True)

    def _take_sample(self) -> None:
        now, server, record = self._clock.monotonic(), self.observation.server, self.observation.record
        if self.samples and now - self.samples[-1].at < SAMPLE_SECONDS:
            return
        frontier = record.position if record is not None else None
        lsn = server.lsn if server is not None else None
        lag = None if lsn is None or frontier is None else max(0, lsn - frontier)
        sample = Sample(now, lsn, frontier, lag, self.lag_seconds(), record.owner if record is not None else None)
        self.samples = (*self.samples[1 - SAMPLES :], sample)
