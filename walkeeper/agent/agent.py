"""The agent: looks at the local PostgreSQL, the record and the leader every few seconds, and does what follows from it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from typing import Final

from walkeeper.agent.archiver.archiver import Archiver
from walkeeper.agent.archiver.assembly import assemble, find_receiver
from walkeeper.agent.archiver.leftovers import Leftovers
from walkeeper.agent.archiver.local_wal import read_local_wal
from walkeeper.agent.archiver.lost_wal import Sources
from walkeeper.agent.archiver.ownership import NotLeader, take_over
from walkeeper.agent.archiver.refusals import Refusals, situation
from walkeeper.agent.archiver.spool import Spool
from walkeeper.agent.observation import Observed, Seen
from walkeeper.agent.problems import Troubles
from walkeeper.agent.samples import Samples
from walkeeper.agent.threads import Crew
from walkeeper.archive.codec import open_codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.config import Config, PostgresqlSettings
from walkeeper.core.desired import Desired, ServerView, View, desired
from walkeeper.core.hold_slot import SlotState, why_not_gap_safe
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.record import Record, decode_record
from walkeeper.core.takeover import StandbyLags
from walkeeper.dcs.base import RecordStore, Topology, Versioned
from walkeeper.errors import (
    BadRecord,
    DcsError,
    DcsUnavailable,
    PostgresError,
    Refused,
    SpoolError,
    WalkeeperError,
)
from walkeeper.lib import events
from walkeeper.lib.clock import Clock, timestamp
from walkeeper.lib.retry import Backoff
from walkeeper.page.facts import Sample
from walkeeper.postgres.data_directory import changed_at
from walkeeper.postgres.server import AGENT_APPLICATION, CommandState, Server, ServerState
from walkeeper.store.base import Store

ALERT_SECONDS: Final = 10.0
"""How long after a callback the agent looks several times a second: a promotion ends some time after it."""
ALERT_INTERVAL: Final = 0.2
TOPOLOGY_SECONDS: Final = 10.0
STUCK_SECONDS: Final = 120.0
"""After which an archiver that was told to end never will: more than all time-outs of store, DCS and server together."""
LEFTOVER_SECONDS: Final = 5.0
"""How long one look may hand in what the spool has left."""


class NotGapSafe(WalkeeperError):
    """This node could lose WAL if it became the primary now."""

    waiting_helps = True
    reason = "not_gap_safe"


class CommandFails(WalkeeperError):
    """PostgreSQL's own archiver does not get on, and keeps what it has not handed over."""

    waiting_helps = True
    reason = "archive_command"


class NoLeadership(WalkeeperError):
    """A server that is out of recovery, on a node that does not hold Patroni's leader key."""

    waiting_helps = True
    reason = "no_leadership"


class Agent:
    """One per node. ``run`` works until ``stop`` is called from a signal, or until a thread dies."""

    def __init__(self, config: Config, store: Store, records: RecordStore, clock: Clock) -> None:
        self.config = config
        self.store = store
        self.records = records
        self.troubles = Troubles(clock)
        self.crew = Crew()
        self.seen = Seen()
        self.topology: Topology | None = None
        self.archiver: Archiver | None = None
        self.started_at = timestamp()
        self.spool = Spool(config.spool_directory, config.spool_limit)
        self.samples = Samples()
        self._clock = clock
        self._codec = open_codec(config)
        self._server = Server(config.postgresql, config.agent.dcs_timeout, AGENT_APPLICATION)
        self._committer_server = Server(config.postgresql, config.agent.dcs_timeout, AGENT_APPLICATION)
        self._leftovers = Leftovers(self.spool)
        self._poked = threading.Event()
        self._alert_until = 0.0
        self._stopping = False
        self._probing = threading.Lock()
        self._probed = False
        self._takeover_backoff = Backoff(0.2, 10)
        self._takeover_at = 0.0
        self.refusals = Refusals(clock, self.poke)
        self._topology_at = 0.0
        self._ending_since = 0.0
        """When an archiver was told to end that has not; 0 where there is none."""
        self._passed: deque[tuple[float, Lsn]] = deque(maxlen=3600)

    # --- from outside ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work. Raises ConfigError where the spool cannot be used."""
        self.spool.open()
        self.crew.start("observe", self._observe)
        self.crew.start("probe", self._probe_at_start)

    def poke(self) -> None:
        """Look now, and often for a while. Safe from every thread; never blocks."""
        self._alert_until = self._clock.monotonic() + ALERT_SECONDS
        self._poked.set()

    def stop(self) -> None:
        """End within ``agent.stop_timeout``: the receiver is stopped, uploads are finished or left to the next start."""
        self._stopping = True
        self._poked.set()
        if self.archiver is not None:
            self.archiver.stop(self.config.agent.stop_timeout)
        self._server.close()
        self._committer_server.close()
        self.records.close()

    def _probe_at_start(self) -> None:
        try:
            self._ensure_probed()
        except WalkeeperError as problem:
            self.troubles.report("store_probe", problem)

    def _ensure_probed(self) -> None:
        """Nothing is archived into a store that was not seen to keep its word. Once per process."""
        with self._probing:
            if not self._probed:
                self.store.probe()
                self._probed = True
                self.troubles.clear("store_probe")

    def spool_used(self) -> int | None:
        """Bytes; None where the spool cannot be read."""
        try:
            return self.spool.used()
        except SpoolError:
            return None

    def lag_seconds(self) -> float | None:
        """How long the oldest WAL has waited to pass the frontier; without the tail, the oldest complete segment. None
        without a frontier or a server.
        """
        record, server = self.seen.record, self.seen.server
        if record is None or server is None:
            return None
        waiting_from = record.position + (1 if self.config.tail_interval is not None else record.segment_size)
        passed = next((at for at, lsn in self._passed if lsn >= waiting_from), None)
        return 0.0 if passed is None else self._clock.monotonic() - passed

    # --- looking ------------------------------------------------------------------------------------------------

    def _observe(self) -> None:
        while not self._stopping:
            self._look_and_act()
            self._wait()

    def _wait(self) -> None:
        alert = self._clock.monotonic() < self._alert_until
        eager = alert or (self.archiver is not None and self.archiver.over.is_set())
        self._poked.wait(ALERT_INTERVAL if eager else self.config.agent.poll_interval)
        self._poked.clear()

    def _look_and_act(self) -> None:
        server = self._look_at_server()
        slot = self._look_at_slot(server)  # before the record, which never is behind the slot
        found, record_known = self._look_at_record()
        leader, leader_known = self._look_at_leader()
        self._look_at_topology()
        record = self._decode(found)
        archiver = self.archiver
        if archiver is not None:
            if record_known and not archiver.ownership.still_ours(found):
                archiver.over.set()
            archiver.ownership.other_leader = leader if leader != self.config.name else None
        self._act(server, leader == self.config.name if leader_known else None, found)
        unsafe = self._judge_slot(slot, record)
        seen_slot = None if isinstance(slot, PostgresError) else slot
        self.seen = Seen(
            self._clock.monotonic(), server, seen_slot, record, record_known, leader, leader_known, unsafe,
            self._look_at_command(server),
        )  # fmt: skip
        self._take_sample()
        self._hand_in_leftovers(server, record)

    def _take_sample(self) -> None:
        """For the page's charts."""
        now, server, record = self._clock.monotonic(), self.seen.server, self.seen.record
        if not self.samples.due(now):
            return
        lag = max(0, server.lsn - record.position) if server is not None and record is not None else None
        self.samples.add(
            Sample(now, server.lsn if server else None, record.position if record else None, lag, self.lag_seconds())
        )

    def _look_at_server(self) -> ServerState | None:
        state: ServerState | None = None
        try:
            state = self._server.state()
            if state.in_recovery and self.topology is not None and self.topology.standby_cluster:
                state = replace(state, timeline=self._server.replay_timeline())
            self._passed.append((self._clock.monotonic(), state.lsn))
            self.troubles.clear("postgresql")
        except PostgresError as problem:
            self.troubles.report("postgresql", problem, grace=True)
        if self.archiver is not None:
            ours = state is not None and self._is_its_cluster(state, self.archiver)
            observed = self.archiver.observed
            observed.server_up = ours
            observed.lsn = state.lsn if state is not None and ours else observed.lsn
        return state

    def _is_its_cluster(self, state: ServerState, archiver: Archiver) -> bool:
        """Before anything is written or moved by what that server says: a directory can be exchanged in a pause."""
        if state.system_identifier == int(archiver.ownership.record.system_identifier):
            return True
        hint = "The data directory under this agent is another cluster's by now. The archive is left as it is."
        events.error("another_cluster", system_identifier=state.system_identifier, hint=hint)
        archiver.over.set()
        return False

    def _look_at_record(self) -> tuple[Versioned | None, bool]:
        try:
            found = self.records.read()
        except DcsError as problem:
            self.troubles.report("dcs", problem, grace=True)
            return None, False
        self.troubles.clear("dcs")
        return found, True

    def _look_at_leader(self) -> tuple[str | None, bool]:
        try:
            leader = self.records.leader()
        except DcsError as problem:
            self.troubles.report("dcs", problem)
            return None, False
        return leader.name if leader is not None else None, True

    def _look_at_topology(self) -> None:
        now = self._clock.monotonic()
        if now < self._topology_at:
            return
        self._topology_at = now + TOPOLOGY_SECONDS
        try:
            self.topology = self.records.topology()
        except DcsError as problem:
            self.troubles.report("dcs", problem)

    def _decode(self, found: Versioned | None) -> Record | None:
        if found is None:
            self.troubles.clear("record")
            return None
        try:
            record = decode_record(found.document)
        except BadRecord as problem:
            self.troubles.report("record", problem)
            return None
        self.troubles.clear("record")
        return record

    def _look_at_slot(self, server: ServerState | None) -> SlotState | PostgresError | None:
        if server is None:
            return PostgresError("the local server does not answer")
        try:
            return self._server.slot(self.config.hold_slot)
        except PostgresError as problem:
            self.troubles.report("postgresql", problem, grace=True)
            return problem

    def _look_at_command(self, server: ServerState | None) -> CommandState | None:
        """How archive_command fares, on a server that runs it."""
        if server is None or server.in_recovery:
            self.troubles.clear("archive_command")
            return None
        try:
            command = self._server.archive_command()
        except PostgresError as problem:
            self.troubles.report("postgresql", problem, grace=True)
            return None
        if command.mode != "off" and command.fails:
            text = f"archive_command: it failed for {command.last_failed} and has not succeeded since"
            hint = (
                "PostgreSQL's log has what it said. PostgreSQL keeps all WAL from there on: watch the disk of pg_wal."
            )
            self.troubles.report("archive_command", CommandFails(text, hint=hint), grace=True)
        else:
            self.troubles.clear("archive_command")
        return command

    def _judge_slot(self, slot: SlotState | PostgresError | None, record: Record | None) -> str | None:
        """Why this node is not gap-safe; "" if it is, None if that cannot be told."""
        if isinstance(slot, PostgresError) or record is None:
            return None
        why = why_not_gap_safe(slot, record.position, record.size)
        if why:
            self.troubles.report(
                "not_gap_safe",
                NotGapSafe(f"{self.config.name}: {why}", hint=_slot_hint(slot, self.config.hold_slot, self.topology)),
                grace=True,
            )
        else:
            self.troubles.clear("not_gap_safe")
        return why

    # --- acting -------------------------------------------------------------------------------------------------

    def _act(self, server: ServerState | None, leads: bool | None, found: Versioned | None) -> None:
        standby_cluster = self.topology is not None and self.topology.standby_cluster
        archiver = self.archiver
        view = View(
            server=None if server is None else ServerView(server.in_recovery, server.timeline),
            leads=leads,
            standby_cluster=standby_cluster,
            archiving_timeline=archiver.history.timeline if archiver is not None else None,
            fenced=archiver is not None and archiver.over.is_set(),
        )
        wanted = desired(view)
        if wanted is Desired.STOP and archiver is not None:
            self._end_archiver(archiver, view)
        if wanted is Desired.TAKE_OVER and server is not None:
            self._try_takeover(server, found)
        elif wanted is Desired.WATCH and leads is False:
            self.refusals.over()
            self.troubles.clear("takeover_failed")
        self._report_leadership(view)

    def _end_archiver(self, archiver: Archiver, view: View) -> None:
        archiver.stop(self.config.agent.stop_timeout)
        if not archiver.ended:  # a thread is still inside the store; the next look tries again
            self._ending_since = self._ending_since or self._clock.monotonic()
            if self._clock.monotonic() - self._ending_since > STUCK_SECONDS:
                self.crew.report_stuck(archiver.living)
            return
        self.archiver, self._ending_since = None, 0.0
        self._alert_until = self._clock.monotonic() + ALERT_SECONDS
        events.info(
            "archiver_stopped",
            why="fenced" if view.fenced else "the server is in recovery or on another timeline",
            stored_up_to=archiver.stored_up_to,
        )

    def _try_takeover(self, server: ServerState, found: Versioned | None) -> None:
        now = self._clock.monotonic()
        control = changed_at(self.config.data_dir / "global" / "pg_control")
        about = situation(found, server.system_identifier, server.timeline, control)
        if self.refusals.stands(about) or (now < self._takeover_at and not self.refusals.accepted):
            return
        try:
            self.archiver = self._take_over(server)
        except NotLeader:
            return
        except WalkeeperError as problem:
            self._takeover_at = now + self._takeover_backoff.failed()
            if isinstance(problem, Refused):
                self.refusals.refused(problem, about)
            self.troubles.report("takeover_failed", problem, grace=isinstance(problem, StandbyLags))
            return
        self._takeover_backoff.succeeded()
        self.refusals.over()
        self.troubles.clear("takeover_failed")

    def _take_over(self, server: ServerState) -> Archiver:
        self._ensure_probed()
        pg_wal = self.config.data_dir / "pg_wal"
        local = read_local_wal(pg_wal, server, self._server.state)
        archive = self._archive(server.system_identifier, server.segment_size)
        ownership = take_over(self.config.name, self.records, archive, local, self.refusals.accepted)
        sources = Sources(
            archive,
            local.server.history,
            pg_wal,
            self.spool,
            self._other_members,
            find_receiver(self.config, server.major),
            self._clock,
            lambda: self._stopping,
        )
        observed = Observed(server_up=True, lsn=server.lsn)
        archiver = assemble(self.config, ownership, sources, self._committer_server, observed, self.troubles)
        archiver.start(self.crew, self.config.upload_workers, self.config.uploads)
        return archiver

    def _report_leadership(self, view: View) -> None:
        writable = view.server is not None and not view.server.in_recovery
        if writable and view.leads is False and view.archiving_timeline is None:
            self.troubles.report(
                "no_leadership",
                NoLeadership(
                    f"{self.config.name}: PostgreSQL accepts writes here, and Patroni's leader is somebody else",
                    hint="Two primaries, or a promotion by hand. What is written here is not archived. Ask patronictl list.",
                ),
            )
        else:
            self.troubles.clear("no_leadership")

    def _hand_in_leftovers(self, server: ServerState | None, record: Record | None) -> None:
        if self.archiver is not None or record is None or (server is not None and not server.in_recovery):
            return
        archive = self._archive(int(record.system_identifier), record.size)
        try:
            until = self._clock.monotonic() + LEFTOVER_SECONDS
            while self._clock.monotonic() < until and not self._poked.is_set():
                if not self._leftovers.hand_in_one(archive, record):
                    break
            self.troubles.clear("leftovers")
        except WalkeeperError as problem:
            self.troubles.report("leftovers", problem)

    def _archive(self, system_identifier: int, size: SegmentSize) -> Archive:
        layout = Layout(self.config.scope, self.config.group, system_identifier)
        return Archive(self.store, layout, size, self._codec)

    def _other_members(self) -> list[PostgresqlSettings]:
        if self.topology is None:
            raise DcsUnavailable("members in the DCS: not known yet", hint="One of them may have what is looked for.")
        own = self.config.postgresql
        return [
            replace(own, host=member.host, port=member.port)
            for member in self.topology.members
            if member.name != self.config.name and member.host and member.port
        ]


def _slot_hint(slot: SlotState | None, name: str, topology: Topology | None) -> str:
    if topology is not None and name not in topology.slots:
        return f"Declare it: patronictl edit-config --set slots.{name}.type=physical --force"
    if slot is None:
        return "Patroni makes it within seconds; a member with the nofailover tag gets none."
    if slot.active_pid is not None:
        return "Nothing may stream from this slot: stop that process, or give walkeeper.hold_slot another name."
    return "It becomes safe by itself when the frontier has passed that position: normal on a node that was just built."
