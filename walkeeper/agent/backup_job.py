"""The cluster's backup job on this member: makes one when it is due, bids for it, runs ``walkeeper backup``, and beats.

In a process of its own, with less claim to the cores: what archives WAL is never in its way (promise P9). The DCS's key is read
and written beside the looks, through a connection of its own.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from signal import SIGINT
from typing import Final

from msgspec.structs import replace

from walkeeper.agent.problems import Problems
from walkeeper.config import Config
from walkeeper.control import spawn
from walkeeper.core import backup_job
from walkeeper.core.about import About
from walkeeper.core.backup import BackupId
from walkeeper.core.backup_job import BEAT_SECONDS, DAMAGED, Bidder, Job, Stands
from walkeeper.core.floor import moment, written
from walkeeper.core.record import Record
from walkeeper.dcs.base import RecordStore, Versioned
from walkeeper.errors import BackupFails, BadJob, CasConflict, DcsError, DcsUnavailable
from walkeeper.lib import events
from walkeeper.lib.child import bound
from walkeeper.lib.clock import Clock, now_utc, timestamp
from walkeeper.lib.schedule import Schedule

_NICE: Final = 10
_LINES: Final = 20
"""Of what the process said last: a failure's reason is among them."""
_STOP_SECONDS: Final = 10.0
SILENT_SECONDS: Final = 300.0
"""Seconds without an answer about this key after which that is a problem of its own."""
_PROGRESS: Final = re.compile(r"\bbackup_goes_on .*\bbytes=(\d+) of=(\d+)")


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the agent's looks say. ``record``: where this member owns it; ``me`` is None where the server is not known."""

    record: Record | None
    me: Bidder | None


class Child:
    """A command of walkeeper's own that runs beside the agent."""

    def __init__(self, config: Path, *arguments: str) -> None:
        """Raises OSError."""
        command = bound([sys.executable, "-P", "-m", "walkeeper", *arguments, "--config", config], SIGINT)
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            errors="replace", env=spawn.environment(), cwd="/", start_new_session=True,
        )  # fmt: skip
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)
        self._name = arguments[0]
        self._said: deque[str] = deque(maxlen=_LINES)
        self.come, self.of = 0, 0
        self._reader = threading.Thread(target=self._read, name=f"{self._name}-says", daemon=True)
        self._reader.start()

    def poll(self) -> int | None:
        """Its exit code, when everything that it said has been read; None while it runs."""
        return None if self._reader.is_alive() else self._process.wait()

    def why(self) -> str:
        """What it said of its failure, on one line."""
        said = [line for line in self._said if line.startswith(("walkeeper: ", "HINT: "))] or list(self._said)[-2:]
        text = " ".join(line.removeprefix("walkeeper: ") for line in said) or "it said nothing"
        code = self._process.returncode or 0
        return text if code >= 0 else f"it was ended by signal {-code}; the last that it said: {text}"

    def stop(self) -> None:
        """As ^C would, and SIGKILL if that does not help within seconds."""
        self._process.send_signal(SIGINT)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - it is a pipe
        with self._process.stderr as lines:
            for line in lines:
                self._said.append(line.strip()[:1000])
                if found := _PROGRESS.search(line):
                    self.come, self.of = int(found[1]), int(found[2])
                else:
                    events.info(f"{self._name}_says", text=self._said[-1])


class BackupJob:
    """``step`` in one thread; ``seen`` for all. ``run`` starts a command of walkeeper's."""

    def __init__(
        self,
        config: Config,
        records: RecordStore,
        cluster: Callable[[], Cluster],
        problems: Problems,
        clock: Clock,
        run: Callable[..., Child] = Child,
    ) -> None:
        self._config = config
        self._schedule = config.backup_schedule or Schedule("off")
        self._records = records
        self._cluster = cluster
        self._problems = problems
        self._clock = clock
        self._run = run
        self._stands = Stands()
        self._child: Child | None = None
        self._mine: Job | None = None
        """What this member runs, as it was written last."""
        self._expires: tuple[str, Child] | None = None
        """After which backup."""
        self._expire_failed = ""
        self._heard_at = clock.monotonic()
        self._ended = threading.Event()
        self.seen: Job | None = None
        """As it was read last."""

    def work(self) -> None:
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
            stood = self._stands.note("" if found is None else found.version, self._clock.monotonic())
            cluster = self._cluster()
            if self._mine is not None:
                self._go_on(found, job, self._mine)
            elif cluster.record is not None and (due := self._due(job, cluster.record)) is not None:
                self._make(found, due, cluster.record)
            elif job is not None and cluster.me is not None:
                if backup_job.may_claim(job, cluster.me, stood, self._config.backup_source):
                    self._claim(found, job, cluster.me.name)
                elif cluster.record is not None:
                    self._expire(found, job)
            self._tell(job if cluster.record is not None else None)
        except CasConflict:
            self._stands.forget()  # somebody else was first; the next step sees what they wrote
        except DcsUnavailable as problem:
            self._stands.forget()  # a backup that runs goes on
            if self._clock.monotonic() - self._heard_at > SILENT_SECONDS:
                self._problems.report(About.BACKUP_JOB, problem)
        except DcsError as problem:
            self._problems.report(About.BACKUP_JOB, problem)

    def _decoded(self, found: Versioned | None) -> Job | None:
        try:
            self.seen = None if found is None else backup_job.decode(found.document)
        except BadJob as problem:
            self.seen = None
            events.warning("backup_job_unusable", error=problem, hint=problem.hint)
        return self.seen

    def _due(self, job: Job | None, record: Record) -> datetime | None:
        """The moment of the schedule that no job was made for yet; None where there is none."""
        now, before = now_utc(), None if job is None else moment(job.due)
        due = self._schedule.newest(now, before)
        return due if backup_job.is_due(job, int(record.system_identifier), due, now) else None

    def _make(self, found: Versioned | None, due: datetime, record: Record) -> None:
        now = now_utc()
        id_ = BackupId(now.strftime("%Y%m%dT%H%M%SZ"), record.timeline, secrets.token_hex(4))
        made = Job(system_identifier=record.system_identifier, due=written(due), backup=str(id_), at=timestamp())
        self._write(made, found)
        events.info("backup_job_made", backup=made.backup, due=made.due)

    def _claim(self, found: Versioned | None, job: Job, name: str) -> None:
        claimed = backup_job.claimed(job, name, timestamp())
        self._write(claimed, found)
        if claimed.state != "running":
            return
        events.info("backup_job_claimed", backup=job.backup, attempt=claimed.attempt, before=job.node or None)
        self._mine = claimed
        try:
            self._child = self._run(self._config.source, "backup", "--job", job.backup)
        except OSError as problem:
            events.error("backup_not_started", error=problem.strerror)

    def _go_on(self, found: Versioned | None, job: Job | None, mine: Job) -> None:
        """Beat, or say how it ended. Who finds that it is another's by now lets go of it."""
        same = job is not None and (job.node, job.attempt, job.backup) == (mine.node, mine.attempt, mine.backup)
        if job is not None and same and job.state != "running":  # as it was written, though the answer was lost
            self._let_go()
            return
        if job is None or not same:
            events.warning("backup_job_lost", backup=mine.backup, now_of=job and job.node)
            self._let_go()
            return
        code = 1 if self._child is None else self._child.poll()
        if code is None and self._child is not None:
            self._mine = backup_job.beaten(job, self._child.come, self._child.of)
            self._write(self._mine, found)
            return
        why = "" if code == 0 else "it could not be started" if self._child is None else self._child.why()
        self._write(backup_job.ended(job, timestamp(), why, for_good=code == DAMAGED), found)
        events.info("backup_job_ended", backup=mine.backup, attempt=mine.attempt, error=why or None)
        self._child, self._mine = None, None

    def _expire(self, found: Versioned | None, job: Job) -> None:
        """After each backup, by who owns the record, as all that is given up."""
        config = self._config.backup_expire
        if self._expires is not None and self._expires[0] != job.backup:
            self._expires[1].stop()  # of a backup before, when this member owned the record, too
            self._expires = None
        if job.state != "done" or job.expired or config is None:
            return
        if self._expires is None:
            try:
                self._expires = job.backup, self._run(config, "expire", "--apply")
            except OSError as problem:
                self._expire_failed = f"it could not be started: {problem.strerror}"
            return
        code = self._expires[1].poll()
        if code is None:
            return
        self._expire_failed = self._expires[1].why() if code != 0 else ""
        self._expires = None
        self._write(replace(job, expired=True, beat=job.beat + 1), found)

    def _tell(self, job: Job | None) -> None:
        """What lasts, on the member that owns the record; on others, None, it is over."""
        if job is None:
            self._expire_failed = ""
            self._problems.clear(About.BACKUP_JOB)
        elif job.state == "failed":
            self._problems.report(
                About.BACKUP_JOB,
                BackupFails(
                    f"backup {job.backup}, due {job.due}: {job.attempt} attempts, the last on {job.node}: {job.why}",
                    hint="walkeeper backup takes one now. The cluster tries again when the schedule says so.",
                ),
            )
        elif self._expire_failed:
            self._problems.report(
                About.BACKUP_JOB,
                BackupFails(
                    f"expire after backup {job.backup}: {self._expire_failed}",
                    hint=f"walkeeper expire -c {self._config.backup_expire} says more. It is run again after the next backup.",
                ),
            )
        else:
            self._problems.clear(About.BACKUP_JOB)

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
            if job is not None and (job.node, job.attempt, job.state) == (mine.node, mine.attempt, "running"):
                self._write(backup_job.given_back(job, timestamp()), found)

    def _let_go(self) -> None:
        if self._child is not None:
            self._child.stop()
        self._child, self._mine = None, None
