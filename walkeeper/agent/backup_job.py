"""A job of the cluster's on this member, a base backup or a proof that they restore: makes one when it is due, bids for it, runs
walkeeper's own command, and beats.

In a process of its own, with less claim to the cores: what archives WAL is never in its way (promise P9). The DCS's key is read
and written beside the looks, through a connection of its own.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from walkeeper.agent.child import Child
from walkeeper.agent.problems import Problems
from walkeeper.config import Config
from walkeeper.core import backup_job
from walkeeper.core.about import About
from walkeeper.core.backup import BackupId
from walkeeper.core.backup_job import BEAT_SECONDS, DAMAGED, LATER, SILENCE_SECONDS, Bidder, Done, From, Job, Stands
from walkeeper.core.floor import moment, written
from walkeeper.core.proof import scratch_name
from walkeeper.core.record import Record
from walkeeper.dcs.base import RecordStore, Versioned
from walkeeper.errors import BackupFails, BadJob, CasConflict, DcsError, DcsUnavailable, ProofFails, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import Clock, now_utc, timestamp
from walkeeper.lib.schedule import Schedule

SILENT_SECONDS: Final = 300.0
"""Seconds without an answer about this key after which that is a problem of its own."""
ALARM_SECONDS: Final = 60.0
"""Seconds for which an alarm must last before what runs is ended for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What the cluster does by itself. ``word`` begins lines of the log.

    ``left``: a directory that is there where one was killed, and what ``clear`` removes.
    """

    word: str
    about: About
    fails: type[WalkeeperError]
    schedule: Schedule
    source: From
    command: Callable[[Job], tuple[str, ...]]
    by_hand: str
    left: Path | None = None
    clear: tuple[str, ...] = ()


def backups(config: Config) -> Kind:
    return Kind(
        word="backup",
        about=About.BACKUP_JOB,
        fails=BackupFails,
        schedule=config.backup_schedule or Schedule("off"),
        source=config.backup_source,
        command=lambda job: ("backup", "--job", job.backup, *in_store(config)),
        by_hand="walkeeper backup takes one now.",
    )


def in_store(config: Config) -> tuple[str, ...]:
    """The option that names its store to a command of walkeeper's, where there are others."""
    return ("--store", config.store_name) if config.others else ()


def proofs(config: Config) -> Kind:
    below = config.backup_verify_directory
    return Kind(
        word="proof",
        about=About.PROOF_JOB,
        fails=ProofFails,
        schedule=config.backup_verify_schedule or Schedule("off"),
        source="spare",
        command=lambda job: ("verify", "--restore", str(below), "--job", job.backup),
        by_hand="walkeeper verify --restore does it now, on any host.",
        left=below / scratch_name(config.scope, config.group),
        clear=("verify", "--restore", str(below), "--clear"),
    )


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the agent's looks say. ``record``: where this member owns it; ``me`` is None where the server is not known.

    ``alarm``: why nothing should run here. ``newest``: the id of the newest complete backup, empty for none that is known.
    ``waits``: for the other job, which runs: nobody begins this one, and no time counts against it. ``done``: the newest of what
    this job is for, by whomever.
    """

    record: Record | None
    me: Bidder | None
    alarm: str = ""
    newest: str = ""
    waits: bool = False
    done: Done | None = None


class BackupJob:
    """One kind of them. ``step`` in one thread; ``seen`` for all. ``run`` starts a command of walkeeper's."""

    def __init__(
        self,
        kind: Kind,
        config: Config,
        records: RecordStore,
        cluster: Callable[[], Cluster],
        problems: Problems,
        clock: Clock,
        run: Callable[..., Child] = Child,
        over: Callable[[], None] = lambda: None,
    ) -> None:
        """``over`` is called where a job, on whichever member, has come to its end, and when expire has after it."""
        self.kind = kind
        self._config = config
        self._records = records
        self._cluster = cluster
        self._problems = problems
        self._clock = clock
        self._run = run
        self._over = over
        self._known_over: tuple[object, ...] | None = None
        """The end that was told."""
        self._stands = Stands()
        self._child: Child | None = None
        self._mine: Job | None = None
        """What this member runs, as it was written last."""
        self._expires: tuple[str, Child] | None = None
        """After which backup."""
        self._expire_failed = ""
        self._heard_at = clock.monotonic()
        self._alarmed_at: float | None = None
        self._ended_for = ""
        """The alarm for which what runs here was ended."""
        self._ended = threading.Event()
        self.seen: Job | None = None
        """As it was read last."""
        self.silent = False
        """Whether who runs it has said nothing for so long that another may go on."""
        self.fills_pg_wal_disk = False
        """Whether what runs here writes to the disk of pg_wal."""

    def work(self) -> None:
        self._clear()
        while not self._ended.is_set():
            self.step()
            self._ended.wait(BEAT_SECONDS)
        self._give_up()
        self._records.close()

    def stop(self) -> None:
        """Soon: a backup that runs here is ended, and another member, or the next start, goes on with it."""
        self._ended.set()

    def step(self) -> None:
        """One look at the job, and what follows from it."""
        try:
            found = self._records.read()
            self._heard_at = self._clock.monotonic()
            job = self._decoded(found)
            cluster = self._cluster()
            if cluster.waits:
                self._stands.forget()
            stood = self._stands.note("" if found is None else found.version, self._clock.monotonic())
            runs = self._mine is None and job is not None and job.state == "running"
            self.silent = runs and stood > SILENCE_SECONDS
            if self._mine is not None:
                self._go_on(found, job, self._mine, self._lasting(cluster.alarm))
            elif (record := cluster.record) is not None and (due := self._due(job, record, cluster.newest)) is not None:
                self._make(found, due, record, cluster.newest)
            elif job is not None and (me := self._bidder(job, cluster, stood)) is not None:
                self._claim(found, job, me.name)
            elif job is not None and cluster.record is not None:
                self._expire(found, job)
            self._tell(job if cluster.record is not None else None, stood, cluster.done)
            self._tell_over()
        except CasConflict:
            self._stands.forget()  # somebody else was first; the next step sees what they wrote
        except DcsUnavailable as problem:
            self._stands.forget()  # a backup that runs goes on
            if self._clock.monotonic() - self._heard_at > SILENT_SECONDS:
                self._problems.report(self.kind.about, problem)
        except DcsError as problem:
            self._problems.report(self.kind.about, problem)

    def _decoded(self, found: Versioned | None) -> Job | None:
        try:
            self.seen = None if found is None else backup_job.decode(found.document)
        except BadJob as problem:
            self.seen = None
            events.warning(f"{self.kind.word}_job_unusable", error=problem, hint=problem.hint)
        return self.seen

    def _due(self, job: Job | None, record: Record, newest: str) -> datetime | None:
        """The moment of the schedule that no job was made for yet; None where there is none, or nothing to prove."""
        if self.kind.about is About.PROOF_JOB and not newest:
            return None
        if job is not None and job.later and newest > job.backup:
            return moment(job.due)
        now, before = now_utc(), None if job is None else moment(job.due)
        due = self.kind.schedule.newest(now, before)
        return due if backup_job.is_due(job, int(record.system_identifier), due, now) else None

    def _make(self, found: Versioned | None, due: datetime, record: Record, newest: str) -> None:
        id_ = newest
        if self.kind.about is About.BACKUP_JOB:
            id_ = str(BackupId(now_utc().strftime("%Y%m%dT%H%M%SZ"), record.timeline, secrets.token_hex(4)))
        made = Job(system_identifier=record.system_identifier, due=written(due), backup=id_, at=timestamp())
        self._write(made, found)
        events.info(f"{self.kind.word}_job_made", backup=made.backup, due=made.due)

    def _bidder(self, job: Job, cluster: Cluster, stood: float) -> Bidder | None:
        """This member, if it bids."""
        me = cluster.me
        if me is None or cluster.waits or cluster.alarm or not backup_job.may_claim(job, me, stood, self.kind.source):
            return None
        return me

    def _lasting(self, alarm: str) -> str:
        """An alarm that does not pass by itself; "" for none."""
        now = self._clock.monotonic()
        if not alarm or self._alarmed_at is None:
            self._alarmed_at = now if alarm else None
            return ""
        return alarm if now - self._alarmed_at >= ALARM_SECONDS else ""

    def _claim(self, found: Versioned | None, job: Job, name: str) -> None:
        claimed = backup_job.claimed(job, name, timestamp())
        self._write(claimed, found)
        if claimed.state != "running":
            return
        word = self.kind.word
        events.info(f"{word}_job_claimed", backup=job.backup, attempt=claimed.attempt, before=job.node or None)
        self._mine, self._alarmed_at, self._ended_for = claimed, None, ""
        self.fills_pg_wal_disk = self._is_on_pg_wal_disk()
        try:
            self._child = self._run(self._config.source, *self.kind.command(job))
        except OSError as problem:
            events.error(f"{word}_not_started", error=problem.strerror)

    def _go_on(self, found: Versioned | None, job: Job | None, mine: Job, alarm: str) -> None:
        """Beat, or say how it ended. Who finds that it is another's by now lets go of it."""
        same = job is not None and _run_of(job) == _run_of(mine)
        if job is not None and same and job.state != "running":  # as it was written, though the answer was lost
            self._let_go()
            return
        if job is None or not same:
            events.warning(f"{self.kind.word}_job_lost", backup=mine.backup, now_of=job and job.node)
            self._let_go()
            return
        code = 1 if self._child is None else self._child.poll()
        if code is None and self._child is not None and not alarm:
            self._mine = backup_job.beaten(job, self._child.come, self._child.of)
            self._write(self._mine, found)
            return
        if code is None and self._child is not None:
            self._ended_for = alarm
            self._child.stop()
        why = "" if code == 0 else "it could not be started" if self._child is None else self._child.why()
        if self._ended_for and why:
            why = f"it was ended for that host's sake: {self._ended_for}"
        if code == LATER:
            self._write(backup_job.postponed(job, timestamp(), why), found)
        else:
            self._write(backup_job.ended(job, timestamp(), why, for_good=code == DAMAGED), found)
        events.info(f"{self.kind.word}_job_ended", backup=mine.backup, attempt=mine.attempt, error=why or None)
        self._let_go()

    def _expire(self, found: Versioned | None, job: Job) -> None:
        """After each backup, by who owns the record, as all that is given up."""
        config = self._config.backup_expire if self.kind.about is About.BACKUP_JOB else None
        if self._expires is not None and self._expires[0] != job.backup:
            self._expires[1].stop()  # of a backup before, when this member owned the record, too
            self._expires = None
        if job.state != "done" or job.expired or config is None:
            return
        if self._expires is None:
            try:
                self._expires = (
                    job.backup,
                    self._run(config, "expire", "--apply", "--job", job.backup, *in_store(self._config)),
                )
            except OSError as problem:
                self._expire_failed = f"it could not be started: {problem.strerror}"
            return
        code = self._expires[1].poll()
        if code is None:
            return
        self._expire_failed = self._expires[1].why() if code != 0 else ""
        self._expires = None
        self._write(replace(job, expired=True, beat=job.beat + 1), found)

    def _tell(self, job: Job | None, stood: float, done: Done | None) -> None:
        """What lasts, on the member that owns the record; on others, None, it is over."""
        kind, what = self.kind, "" if job is None else f"{self.kind.word} of {job.backup}, due {job.due}"
        again = f"{kind.by_hand} The cluster tries again when the schedule says so."
        problem: WalkeeperError | None = None
        if job is None:
            self._expire_failed = ""
        elif job.state == "failed":
            if not backup_job.made_good(job.backup, job.at, done):
                problem = kind.fails(f"{what}: {job.attempt} attempts, the last on {job.node}: {job.why}", hint=again)
        elif backup_job.nobody_bids(job, stood):
            who = {"leader": "the leader", "replica": "a replica or the leader", "spare": "a replica"}[kind.source]
            last = "no member takes it" + (f"; the last attempt, on {job.node}: {job.why}" if job.why else "")
            if job.state == "running":
                last = f"{job.node}, which ran it, no longer says anything of it, and no member goes on with it"
            problem = kind.fails(
                f"{what}: {last}",
                hint=f"It waits for {who}, with an agent that has this schedule: one that streams, is not far behind, and has "
                f"room on the disk of pg_wal. {kind.by_hand}",
            )
        elif self._expire_failed:
            problem = BackupFails(
                f"expire after backup {job.backup}: {self._expire_failed}",
                hint=f"walkeeper expire -c {self._config.backup_expire} says more. It is run again after the next backup.",
            )
        self._problems.report(kind.about, problem)

    def _tell_over(self) -> None:
        job = self.seen
        over = (*_run_of(job), job.expired) if job is not None and job.is_over else None
        if over != self._known_over:
            self._known_over = over
            if over is not None:
                self._over()

    def _write(self, job: Job, expected: Versioned | None) -> None:
        self._records.write(backup_job.encode(job), expected)
        self.seen = job

    def _give_up(self) -> None:
        """So that another member need not wait until this one is taken for dead."""
        mine = self._mine
        self._let_go()
        if self._expires is not None:
            self._expires[1].stop()
        if mine is None:
            return
        with suppress(DcsError):
            found = self._records.read()
            job = self._decoded(found)
            if job is not None and job.state == "running" and _run_of(job) == _run_of(mine):
                self._write(backup_job.given_back(job, timestamp()), found)

    def _let_go(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.stop()
        self._child, self._mine = None, None
        if not self._ended.is_set():
            self._clear()
        self.fills_pg_wal_disk = False

    def _is_on_pg_wal_disk(self) -> bool:
        """In this thread: another one's directory may be a mount that hangs."""
        try:
            below = self.kind.left and self.kind.left.parent.stat().st_dev
            return below == (self._config.data_dir / "pg_wal").stat().st_dev
        except OSError:
            return False

    def _clear(self) -> None:
        """What one that was killed has left on this host."""
        if self.kind.left is None or not self.kind.left.is_dir():
            return
        try:
            child = self._run(self._config.source, *self.kind.clear)
        except OSError:
            return
        while child.poll() is None and not self._ended.wait(1.0):
            pass
        child.stop()


def _run_of(job: Job) -> tuple[object, ...]:
    return job.node, job.attempt, job.backup, job.due
