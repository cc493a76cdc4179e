"""The agent: looks at the local PostgreSQL, the record and the leader every few seconds, and does what follows from it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

from walkeeper.agent.archiver.archiver import Archiver, find_receiver
from walkeeper.agent.archiver.beliefs import check_record
from walkeeper.agent.archiver.holding import HoldSlot
from walkeeper.agent.archiver.leftovers import Leftovers
from walkeeper.agent.archiver.life import Watcher
from walkeeper.agent.archiver.local_wal import read_local_wal
from walkeeper.agent.archiver.one_run import OneRun
from walkeeper.agent.archiver.ownership import check_alone, take_over
from walkeeper.agent.archiver.refusals import LEFT_SECONDS, Refusals, Rival, situation
from walkeeper.agent.archiver.spool import Spool
from walkeeper.agent.archiver.whereabouts import Sources
from walkeeper.agent.backup_job import BackupJob, Cluster, backups, proofs
from walkeeper.agent.backups import BackupsLook
from walkeeper.agent.last_commit import LastCommit
from walkeeper.agent.observation import Observation, Observed
from walkeeper.agent.observer import Observer
from walkeeper.agent.pace import Pace
from walkeeper.agent.probe import Probe
from walkeeper.agent.problems import Problems
from walkeeper.agent.remembering import Remembering
from walkeeper.agent.seen_archive import SeenArchive
from walkeeper.agent.shared import Shared
from walkeeper.agent.threads import Supervisor
from walkeeper.archive.open import open_archives
from walkeeper.config import Config
from walkeeper.core import backup_job
from walkeeper.core.about import About
from walkeeper.core.backup_job import MOST_BEHIND, Bidder
from walkeeper.core.desired import Desired, ServerView, View, desired, why_stop, writes_without_leading
from walkeeper.core.hold_slot import SlotState, ends_lowest
from walkeeper.core.record import Record
from walkeeper.dcs.base import BACKUP_JOB, PROOF_JOB, RecordStore, Versioned
from walkeeper.errors import (
    DcsUnavailable,
    NoLeadership,
    NotLeader,
    PostgresError,
    RecordDenied,
    Refused,
    SpoolError,
    StandbyLags,
    TakeoverRuns,
    WalkeeperError,
    Watching,
)
from walkeeper.lib import events
from walkeeper.lib.clock import Clock, timestamp
from walkeeper.lib.retry import Backoff
from walkeeper.postgres.data_directory import changed_at
from walkeeper.postgres.server import AGENT_APPLICATION, Server, ServerState
from walkeeper.store.base import Store

_NO_JOBS: Final[Mapping[str, RecordStore]] = MappingProxyType({})
STUCK_SECONDS: Final = 120.0
"""Seconds after which an archiver that was told to end never will: more than all time-outs of store, DCS and server together."""
TAKEOVER_SECONDS: Final = 5.0
"""Seconds for which a look waits for a takeover, which mostly takes less; after that it goes on beside the looks."""
TOLD_AFTER: Final = 20.0
"""Seconds after which a takeover that goes on is told."""
LEFTOVER_SECONDS: Final = 5.0
"""Seconds for which one look may hand in what the spool has left."""


class _Takeover:
    """One that runs, in a thread of its own, or has ``ended``."""

    def __init__(self, about: object, accepted: frozenset[str], begun_at: float, run: OneRun) -> None:
        """``about``: the situation in which it was begun. ``accepted``: reasons of refusals that it passes. ``run``: the run of
        the server that it compares.
        """
        self.about = about
        self.accepted = accepted
        self.begun_at = begun_at
        self.run = run
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None
        self.archiver: Archiver | None = None
        self.problem: WalkeeperError | None = None


class Agent:
    """One per node. ``run`` works until ``stop`` is called from a signal, or until a thread dies."""

    def __init__(
        self,
        config: Config,
        store: Store,
        records: RecordStore,
        clock: Clock,
        jobs: Mapping[str, RecordStore] = _NO_JOBS,
        remembered: RecordStore | None = None,
        shared: Shared | None = None,
    ) -> None:
        """``jobs``: their keys in the DCS, by name, where the cluster takes or proves backups by itself; ``remembered``: the
        key of what is remembered beside the record; ``shared``: what the agents of several stores have in common.
        """
        self.config = config
        self.store = store
        self.records = records
        self.beside: tuple[Agent, ...] = ()
        """Those of the other stores, in the same process."""
        self.shared = shared or Shared(config, clock)
        self.problems = Problems(clock)
        self.supervisor = Supervisor(self.shared.ended, self.shared.label(config))
        self.archives = open_archives(config, store)
        self.shared.stores[config.store_name] = self.archives.reader()
        self.remembering = Remembering(config.name, remembered, self.archives, self.problems, clock)
        self.observer = Observer(
            config, records, self.problems, clock, self.shared.holding, self.remembering.members,
            lambda: any(job.fills_pg_wal_disk for job in self.jobs.values()),
        )  # fmt: skip
        self.last_commit = LastCommit(config.data_dir / "pg_wal")
        self.archiver: Archiver | None = None
        self.started_at = timestamp()
        self.spool = Spool(config.spool_directory, config.spool_limit)
        self._seen_archive = SeenArchive(config.spool_directory, self.archives, clock, self.supervisor.start)
        self._clock = clock
        self.backups = BackupsLook(self.archives, config, clock)
        self.jobs: dict[str, BackupJob] = {}
        for key, of in ((BACKUP_JOB, backups), (PROOF_JOB, proofs)):
            if key in jobs:
                cluster, over = partial(self._cluster, key), self._look_at_backups
                self.jobs[key] = BackupJob(of(config), config, jobs[key], cluster, self.problems, clock, over=over)
        if BACKUP_JOB in self.jobs:
            self.shared.backup_jobs[config.store_name] = self.jobs[BACKUP_JOB]
        self._job_threads: list[threading.Thread] = []
        self._committer_server = Server(config.postgresql, config.agent.dcs_timeout, AGENT_APPLICATION)
        self._leftovers = Leftovers(self.spool, config.spool_reserve)
        self._pace = Pace(config.agent.poll_interval, clock)
        self._probe = Probe(self.archives.store, self.problems)
        self._stopping = False
        self._observing: threading.Thread | None = None
        self._takeover_backoff = Backoff(0.2, 10)
        self._takeover_at = 0.0
        self.untried = True  # whether no takeover has compared anything, or may, since this member leads
        self.shut_out_at = 0.0  # when the last look began, where it did not get into PostgreSQL and no takeover runs
        self.compared: tuple[OneRun, Refused | None] | None = None
        """The run that was compared last, whoever leads by now, and what it was refused for, if it was."""
        self._takeover: _Takeover | None = None
        self.refusals = Refusals(clock, self.poke)
        self.watcher = Watcher(clock)
        self._rival = Rival(config.name, self.problems, clock)
        self._ending_since = 0.0
        """When an archiver was told to end that still runs; 0 where there is none."""

    # --- from outside ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work. Raises ConfigError where the spool cannot be used."""
        self.spool.open()
        self._observing = self.supervisor.start("observe", self._observe)
        self.supervisor.start("probe", self._probe.try_it)
        for job in self.jobs.values():
            self._job_threads.append(self.supervisor.start(f"{job.kind.word}-job", job.work))

    def poke(self) -> None:
        """Look now, and often for a while. Safe from every thread; never blocks."""
        self._pace.be_alert()
        self._pace.poke()

    def stop(self) -> None:
        """End within ``agent.stop_timeout``: the receiver is stopped, uploads are finished or left to the next start."""
        self._stopping = True
        self._pace.poke()
        for job in self.jobs.values():
            job.stop()
        if self.archiver is None and self._observing is not None:
            self._observing.join(self.config.agent.stop_timeout)  # it may be about to start one
        takeover = self._takeover  # read once: the observer may still conclude it, or end the archiver
        if takeover is not None and takeover.thread is not None:
            takeover.thread.join(self.config.agent.stop_timeout)
        archiver = self.archiver
        if archiver is not None:
            archiver.stop(self.config.agent.stop_timeout)
        for thread in self._job_threads:
            thread.join(self.config.agent.stop_timeout)
        self.observer.close()
        self._committer_server.close()
        self.records.close()
        self.remembering.close()

    def spool_used(self) -> int | None:
        """Bytes; None where the spool cannot be read."""
        try:
            return self.spool.used()
        except SpoolError:
            return None

    # --- looking ------------------------------------------------------------------------------------------------

    def _observe(self) -> None:
        while not self._stopping:
            self._look_and_act()
            if (owned := self._owned) is not None:
                self.problems.report(About.ARCHIVER_BACKUPS, self.backups.tend(owned))
            self._pace.wait(eager=self.archiver is not None and self.archiver.over.is_set())

    def _look_and_act(self) -> None:
        begun = self._clock.monotonic()
        look = self.observer.look()
        if look.record is not None:
            self.watcher.remember(look.record.life)
            if look.server is not None:
                owned = self._owned  # a takeover does not end where no archive is
                self._seen_archive.note(look.server.system_identifier, owned or look.record, there=owned is not None)
        if self.archiver is not None:
            self._tell_archiver(self.archiver, look)
        self._act(look)
        self.shut_out_at = begun if look.server is None and self._takeover is None else 0.0
        self._remember(look)
        self.observer.conclude(look)
        self._hand_in_leftovers(look.server, look.record)

    def _tell_archiver(self, archiver: Archiver, look: Observation) -> None:
        ours = look.server is not None and self._is_its_cluster(look.server, archiver)
        archiver.observed.server_up = ours
        archiver.observed.slot = look.slot if ours else PostgresError("the server is down")
        if look.server is not None and ours:
            archiver.observed.lsn, archiver.observed.in_recovery = look.server.lsn, look.server.in_recovery
        if look.record_known and not archiver.ownership.still_ours(look.found):
            archiver.over.set()
        archiver.ownership.other_leader = look.leader if look.leader != self.config.name else None

    def _remember(self, look: Observation) -> None:
        """By the owner, where the DCS has just answered."""
        archiver, topology = self.archiver, self.observer.topology
        if archiver is not None and not archiver.over.is_set() and look.record_known and topology is not None:
            there = {member.name for member in topology.members}
            own, at = archiver.ownership, archiver.observed.lsn if archiver.uploads.conflict is not None else None
            self.remembering.tend(own.record, self.observer.members, there, own.lives, at)
        elif look.leads(self.config.name) is False:
            self.remembering.follow()
        elif look.record_known and self._takeover is None:
            self.remembering.note_again()

    def _is_its_cluster(self, state: ServerState, archiver: Archiver) -> bool:
        """Before anything is written or moved by what that server says: a directory can be exchanged in a pause."""
        if state.system_identifier == int(archiver.ownership.record.system_identifier):
            return True
        hint = "The data directory under this agent is another cluster's by now. The archive is left as it is."
        events.error("data_directory_exchanged", system_identifier=state.system_identifier, hint=hint)
        archiver.over.set()
        return False

    # --- acting -------------------------------------------------------------------------------------------------

    def _act(self, look: Observation) -> None:
        self._conclude_takeover()
        archiver = self.archiver
        self._rival.is_gone(leads=look.leads(self.config.name))
        view = View(
            server=None if look.server is None else ServerView(look.server.in_recovery, look.server.timeline),
            leads=look.leads(self.config.name),
            standby_cluster=self.observer.standby_cluster,
            archiving_timeline=archiver.history.timeline if archiver is not None else None,
            fenced=archiver is not None and archiver.over.is_set(),
            restarted=archiver is not None and archiver.run.over,
        )
        wanted = desired(view)
        if wanted is Desired.STOP and archiver is not None:
            self._end_archiver(archiver, view)
        if wanted is Desired.TAKE_OVER and look.server is not None:
            self._try_takeover(look.server, look.found)
        elif wanted is Desired.WATCH and look.leads(self.config.name) is False:
            self.untried = True
            self.refusals.over()
            self.watcher.forget()
            self.problems.clear(About.TAKEOVER_FAILED)
        self._report_leadership(view)

    def _end_archiver(self, archiver: Archiver, view: View) -> None:
        archiver.stop(self.config.agent.stop_timeout)
        if archiver.living:  # a thread is still inside the store; the next look tries again
            self._ending_since = self._ending_since or self._clock.monotonic()
            if self._clock.monotonic() - self._ending_since > STUCK_SECONDS:
                self.supervisor.report_stuck(archiver.living)
            return
        self.archiver, self._ending_since = None, 0.0
        if view.fenced:
            self._rival.lost(archiver.ownership.record.session)
        self._pace.be_alert()
        events.info("archiver_stopped", why=why_stop(view), stored_up_to=archiver.stored_up_to)

    def _try_takeover(self, server: ServerState, found: Versioned | None) -> None:
        if self._takeover is not None:
            return
        now = self._clock.monotonic()
        control = changed_at(self.config.data_dir / "global" / "pg_control")
        if self._rival.has(found):
            self._takeover_at = now + LEFT_SECONDS
        about = situation(found, server.system_identifier, server.timeline, control)
        if self.refusals.stands(about) or (now < self._takeover_at and not self.refusals.accepted):
            return
        self._takeover = takeover = _Takeover(about, self.refusals.accepted, now, OneRun(self.config.data_dir))
        takeover.thread = self.supervisor.start("takeover", lambda: self._run_takeover(takeover, server))
        takeover.ended.wait(TAKEOVER_SECONDS)
        self._conclude_takeover()

    def _run_takeover(self, takeover: _Takeover, server: ServerState) -> None:
        """Beside the looks: it may have to list the whole archive, and the watchdog waits for each look."""
        try:
            takeover.archiver = self._take_over(server, takeover.accepted, takeover.about)
        except WalkeeperError as problem:
            takeover.problem = problem
        finally:
            takeover.ended.set()
            self._pace.poke()

    def _conclude_takeover(self) -> None:
        takeover, now = self._takeover, self._clock.monotonic()
        if takeover is None:
            return
        if not takeover.ended.is_set():
            if now - takeover.begun_at > TOLD_AFTER:
                self.problems.report(About.TAKEOVER_RUNS, TakeoverRuns(now - takeover.begun_at))
            return
        self._takeover = None
        self.problems.clear(About.TAKEOVER_RUNS)
        problem = takeover.problem
        if isinstance(problem, NotLeader):
            return
        if problem is not None:
            self._takeover_at = now + self._takeover_backoff.failed()
            if isinstance(problem, Refused):
                self.compared = takeover.run, problem
                self.refusals.refused(problem, takeover.about, takeover.accepted)
            elif isinstance(problem, RecordDenied):
                self.compared = takeover.run, None
                if not takeover.accepted:  # what a person has let pass would be refused again
                    self.refusals.over()
            self.untried = not isinstance(problem, Refused | RecordDenied | Watching)  # last, for archive-push
            self.problems.report(
                About.TAKEOVER_FAILED, problem, grace=isinstance(problem, StandbyLags | DcsUnavailable)
            )
            return
        self._takeover_backoff.succeeded()
        self.refusals.over()
        self.problems.clear(About.TAKEOVER_FAILED)
        self.compared = takeover.run, None
        self.archiver, self.untried = takeover.archiver, False
        if self.archiver is not None and not self._stopping:
            self.archiver.start(self.supervisor, self.config.upload_workers, self.config.uploads)

    def _take_over(self, server: ServerState, accepted: frozenset[str], about: object = None) -> Archiver:
        """Not started yet."""
        run = OneRun(self.config.data_dir, self.poke)  # before anything is compared
        self._committer_server.begin_anew()  # its session may have ended with the server that the one before was of
        pg_wal = self.config.data_dir / "pg_wal"
        local = read_local_wal(pg_wal, server, self._committer_server.state)
        older = self.remembering.before_takeover(local)
        local = replace(local, histories={**older, **local.histories}, hold_slot=self._hold_slot)
        archive = run.bound(self.archives.archive(server.system_identifier, server.segment_size))
        receiver = find_receiver(self.config, server.major)  # before the record is ours: without it nothing is archived
        stores = self.shared.other_stores(self.config, server.system_identifier)
        alone = partial(check_alone, self.config.name, self.records, local, accepted)
        with self.remembering.second_lives(archive, local, alone, about) as second_lives:
            others = self.shared.holding.others(self.config.store_name)
            for store, record in others.items():
                if record is not None:
                    check_record(self.config.name, store, record, local, accepted)
            local = replace(local, others_end=ends_lowest(filter(None, others.values()), local.server))
            self._probe.ensure()
            ownership = take_over(
                self.config.name, self.records, archive, local, self.watcher, accepted, self.config.durability,
                [store.reader.store.url for store in stores], second_lives, self.config.waits_for_other,
                there_was_one=self.remembering.owned_before or self._seen_archive.has(server.system_identifier),
            )  # fmt: skip
        sources = Sources(
            archive, local.server.history, pg_wal, self.spool, self.observer.other_members, receiver, self._clock,
            lambda: self._stopping, stores, self.observer.disks,
        )  # fmt: skip
        observed = Observed(True, server.lsn, None, self.observer.wal_times, server.in_recovery)
        slot = HoldSlot(self.config.hold_slot, self.config.store_name, self.shared.holding, pg_wal, self.observer.disks)
        return Archiver(self.config, ownership, sources, self._committer_server, slot, observed, self.problems, run)

    def _hold_slot(self) -> SlotState | None:
        return self._committer_server.slot(self.config.hold_slot)

    @property
    def _owned(self) -> Record | None:
        """The record, where this member owns it."""
        archiver = self.archiver
        return None if archiver is None or archiver.over.is_set() else archiver.ownership.record

    def _look_at_backups(self) -> None:
        """At once, and beside this thread."""
        self.backups.refresh()
        self.backups.summary(self._owned)

    def _cluster(self, key: str) -> Cluster:
        """For one of the jobs. Safe from its thread."""
        look, topology, owned, name = self.observer.observation, self.observer.topology, self._owned, self.config.name
        summary = self.backups.summary(owned)
        newest, done = backup_job.newest(summary, "backup"), backup_job.newest(summary, self.jobs[key].kind.word)
        known = Cluster(owned, None, newest="" if newest is None else newest[0], done=done)
        backup = self.jobs[BACKUP_JOB].seen if BACKUP_JOB in self.jobs else None
        runs = key == PROOF_JOB and backup is not None and backup.state == "running"
        if runs or (key == BACKUP_JOB and self.shared.backup_runs_before(self.config)):  # one after the other
            known = replace(known, waits=True)
        if look.server is None or topology is None:
            return known
        state = next((member.replication_state for member in topology.members if member.name == name), None)
        behind = topology.behind(look.leader).get(name)
        follows = look.server.in_recovery and state in (None, "streaming") and behind is not None
        near = behind is not None and behind <= MOST_BEHIND
        alone = all(member.name == name for member in topology.members)
        me = Bidder(name=name, leads=look.leader == name, replica=follows and near, alone=alone)
        return replace(known, me=me, alarm=backup_job.alarm(self.observer.disk, look.server.segment_size, behind))

    def _report_leadership(self, view: View) -> None:
        problem = NoLeadership(
            f"{self.config.name}: PostgreSQL accepts writes here, and Patroni's leader is somebody else",
            hint="Two primaries, or a promotion by hand. What is written here is not archived. Ask patronictl list.",
        )
        self.problems.report(About.NO_LEADERSHIP, problem if writes_without_leading(view) else None)

    def _hand_in_leftovers(self, server: ServerState | None, record: Record | None) -> None:
        if self.archiver is not None or record is None or (server is not None and not server.in_recovery):
            return
        archive = self.archives.archive(int(record.system_identifier), record.size)
        until = self._clock.monotonic() + LEFTOVER_SECONDS

        def has_time() -> bool:
            return self._clock.monotonic() < until and not self._pace.poked

        try:
            try:
                while has_time() and self._leftovers.copy_one_aside(record, self.config.data_dir / "pg_wal"):
                    pass
            finally:  # what cannot be copied keeps nothing in the spool
                while has_time() and self._leftovers.hand_in_one(archive, record):
                    pass
            self.problems.clear(About.LEFTOVERS)
        except WalkeeperError as problem:
            self.problems.report(About.LEFTOVERS, problem)
