"""The cluster's jobs on three members over a DCS in memory: whole BackupJobs, and what they run is played. To play many schedules:

python -m tests.simulation.jobs [--schedules N] [--from SEED] [--processes N]

Each plays random faults for some days of simulated time, and looks after every step that nothing runs where it should not, and
then, when all is well again, that the job comes to its end.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace as changed
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final
from unittest.mock import patch

import walkeeper.agent.backup_job
import walkeeper.core.backup_job
from tests.twins.hand_clock import HandClock
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from walkeeper.agent.backup_job import ALARM_SECONDS, BackupJob, Cluster, Kind, backups, proofs
from walkeeper.agent.child import Child
from walkeeper.agent.problems import Problems
from walkeeper.config import Config, load
from walkeeper.core.backup_job import LATER, MAX_ATTEMPTS, Bidder, Job, decode
from walkeeper.core.lsn import MIB
from walkeeper.core.record import Record
from walkeeper.errors import BadJob
from walkeeper.lib.schedule import Schedule

STEP: Final = 10.0
BEGUN: Final = datetime(2026, 11, 28, tzinfo=UTC)
RECORD: Final = Record(
    system_identifier="7", segment_size=MIB, timeline=1, lsn="0/3000000", start="000000010000000000000003", owner="a",
    session="s", updated_at="2026-11-28T00:00:00Z",
)  # fmt: skip
NEWEST: Final = "20261128T020000Z-00000003-1a2b3c4d"
NEWER: Final = "20261129T020000Z-00000003-5e6f7a8b"
"""For which a proof may wait."""
STEPS: Final = 80
HOURS: Final = 1
"""Between two jobs."""
PATIENCE: Final = 6
"""Hours in which two must come to their end when all is well again: what failed may have to pause for two."""


class Broken(Exception):
    """Something that must never be."""


class Played:
    """A command that runs until it is told how it ends."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.code: int | None = None
        self.stopped = False
        self.come, self.of = 0, 100

    def poll(self) -> int | None:
        self.come += 10
        return self.code

    def why(self) -> str:
        return "the server was shut down. HINT: start it"

    def stop(self) -> None:
        self.stopped = True

    @property
    def lives(self) -> bool:
        return self.code is None and not self.stopped


class Member:
    """``alive``: its agent steps; one that does not is frozen, and what it runs is not."""

    def __init__(self, cluster: Three, name: str) -> None:
        self.name = name
        self.records = MemoryRecord(cluster.dcs)
        self.problems = Problems(cluster.time)
        self.started: list[Played] = []
        self.facts = Cluster(None, Bidder(name=name, leads=False, replica=True))
        self._cluster = cluster
        self.alive = True
        self.alarm = ""
        self.clock_off = 0.0
        """How far its wall clock is ahead, in seconds."""
        self.start()

    def start(self) -> None:
        kind = self._cluster.kind(self._cluster.config)
        self.job = BackupJob(
            kind, self._cluster.config, self.records, self._facts, self.problems, self._cluster.time, self._run
        )

    def kill(self) -> None:
        """With what it runs, which is tied to it."""
        for each in self.started:
            each.code = -2 if each.code is None else each.code

    def _facts(self) -> Cluster:
        return changed(self.facts, alarm=self.alarm, newest=self._cluster.newest)

    def _run(self, _: Path, *arguments: str) -> Child:
        self.started.append(Played(*arguments))
        return self.started[-1]  # type: ignore[return-value]

    @property
    def running(self) -> Played | None:
        """What it started last, while that has not come to its end."""
        return self.started[-1] if self.started and self.started[-1].code is None else None

    @property
    def works(self) -> Played | None:
        """The backup, or the proof, that really runs there."""
        return next((each for each in self.started[-3:] if each.lives and each.arguments[0] != "expire"), None)


class Three:
    """``a`` leads and owns the record."""

    def __init__(self, directory: Path, kind: Callable[[Config], Kind] = backups, schedule: str = "12h") -> None:
        file = directory / "patroni.yml"
        file.write_text(
            f"scope: demo\nname: a\npostgresql: {{data_dir: {directory}/data}}\n"
            f"walkeeper: {{store: {{directory: {directory}}}}}\n"
        )
        every = Schedule.parse(schedule)
        self.config = changed(
            load(file, {}), backup_schedule=every, backup_expire=Path("/etc/expire.yml"),
            backup_verify_schedule=every, backup_verify_directory=directory,
        )  # fmt: skip
        self.kind = kind
        self.newest = NEWEST
        self.time = HandClock()
        self.dcs = MemoryDcs()
        self.members = [Member(self, name) for name in "abc"]
        self.a, self.b, self.c = self.members
        self.lead(self.a)

    def lead(self, leader: Member) -> None:
        for each in self.members:
            me = Bidder(name=each.name, leads=each is leader, replica=each is not leader)
            each.facts = Cluster(RECORD if each is leader else None, me)

    def pass_time(self, seconds: float = STEP) -> None:
        for _ in range(int(seconds / STEP)):
            self.time.now += STEP
            for member in self.members:
                if member.alive:
                    member.job.step()

    @property
    def job(self) -> Job:
        assert self.dcs.record is not None
        return decode(self.dcs.record.document)


class World(Three):
    """Three members, and a wall clock that goes with the simulated one. Its dice are the seed's."""

    def __init__(self, directory: Path, seed: int) -> None:
        super().__init__(directory, proofs if seed % 2 else backups, f"{HOURS}h")
        self.dice = random.Random(seed)
        self.made: dict[str, str] = {}
        """The backup of each moment."""
        self.counts: Counter[str] = Counter()
        self._steps = self.a
        self._alarmed: Counter[str] = Counter()
        """Steps with an alarm, by member, while it could write."""

    def wall(self) -> datetime:
        """By the clock of the member whose step it is."""
        return BEGUN + timedelta(seconds=self.time.now + self._steps.clock_off)

    @property
    def _known(self) -> Job | None:
        try:
            return None if self.dcs.record is None else self.job
        except BadJob:
            return None

    def play(self) -> None:
        """Raises Broken."""
        with (
            patch.object(walkeeper.agent.backup_job, "now_utc", self.wall),
            patch.object(walkeeper.core.backup_job, "decode", lru_cache(100)(decode)),
            patch.object(walkeeper.agent.backup_job, "timestamp", lambda: self.wall().strftime("%Y-%m-%dT%H:%M:%SZ")),
        ):
            for _ in range(STEPS):
                self._fault()
                for _ in range(self.dice.choice((1, 1, 4, 20, 60))):
                    self._step()
            self._end_well()

    def _fault(self) -> None:
        dice, member = self.dice, self.dice.choice(self.members)
        match dice.randrange(17):
            case 0:
                self.lead(member)
            case 1:
                member.alive = False
            case 2:
                member.kill()
                member.start()
            case 3:
                self.dcs.down = not self.dcs.down
            case 4:
                member.records.lose_answers = 1
            case 5 | 6 | 7:
                for each in self.members:
                    if each.running is not None:
                        codes = (0, 0, 1, 2, 3, -9, *([LATER] if self.kind is proofs else ()))
                        each.running.code = dice.choice(codes)
            case 8:
                member.alarm = "" if member.alarm else "the disk of pg_wal fills"
            case 9:
                member.records.cut_off = not member.records.cut_off
            case 10:
                member.job.stop()
                member.job.work()
                member.start()
            case 11:
                me = member.facts.me
                if me is not None:  # it stays behind, or catches up
                    member.facts = changed(member.facts, me=changed(me, replica=not me.replica and not me.leads))
            case 16:
                member.clock_off = dice.choice((-3600.0, 3600.0, 86400.0, -86400.0))
            case 12:
                self.dcs.put(dice.choice((b"", b"{}", b"[" * 3000)))
            case _:
                for each in self.members:
                    each.alive, each.records.cut_off, each.alarm = True, False, ""

    def _step(self) -> None:
        self.time.now += STEP
        for member in self.dice.sample(self.members, 3):
            if not member.alive:
                continue
            self._steps = member
            before = len(member.started)
            could_write = not self.dcs.down and not member.records.cut_off and not member.records.lose_answers
            member.job.step()
            self._look(member, before, could_write)

    def _look(self, member: Member, before: int, could_write: bool) -> None:
        for new in member.started[before:]:
            self.counts[new.arguments[0]] += 1
            if new.arguments[0] == "expire":
                continue
            me = member.facts.me
            if member.alarm:
                raise Broken(f"{member.name} begins in an alarm")
            if me is None or not (me.replica or me.leads) or (self.kind is proofs and me.leads):
                raise Broken(f"{member.name} begins, and may not")
        if len([each for each in member.started[-3:] if each.lives and each.arguments[0] != "expire"]) > 1:
            raise Broken(f"{member.name} runs two")
        self._alarmed[member.name] = self._alarmed[member.name] + 1 if member.alarm and could_write else 0
        if member.works is not None and self._alarmed[member.name] * STEP > ALARM_SECONDS + 2 * STEP:
            raise Broken(f"{member.name} goes on in an alarm")
        if not could_write:
            return
        job = self._known
        if job is None:
            return
        if job.attempt > MAX_ATTEMPTS:
            raise Broken(f"{job.attempt} attempts")
        if member.works is not None and (job.state, job.node) != ("running", member.name):
            raise Broken(f"{member.name} runs what is {job.state} on {job.node}")
        if member.works is None and not member.running and (job.state, job.node) == ("running", member.name):
            self.counts["nobody's"] += 1
        if self.made.setdefault(job.due, job.backup) != job.backup:
            self.counts["made again"] += 1

    def _end_well(self) -> None:
        """All is well: two jobs come to their end one after the other, and then nothing runs."""
        self.dcs.down = False
        self.newest = NEWER
        for member in self.members:
            member.alive, member.records.cut_off, member.records.lose_answers, member.alarm = True, False, 0, ""
            member.clock_off = 0.0
        self.lead(self.a)
        until = self.time.now + PATIENCE * 3600
        ends: set[str] = set()
        while self.time.now < until and len(ends) < 2:
            self._step()
            for member in self.members:
                if member.running is not None:
                    member.running.code = 0
            job = self._known
            if job is not None and job.state == "done":
                ends.add(job.due)
        if len(ends) < 2:
            raise Broken(f"{len(ends)} came to their end in {PATIENCE} hours")
        if any(member.works is not None for member in self.members):
            raise Broken("something runs that nobody waits for")
        self.counts["done"] += len(ends)


def play(seed: int) -> tuple[int, str, Counter[str], float]:
    """What was broken, empty for nothing; what happened, and the simulated seconds."""
    logging.disable()
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory), seed)
        try:
            world.play()
        except Broken as problem:
            return seed, str(problem), world.counts, world.time.now
        return seed, "", world.counts, world.time.now


def main() -> int:
    """1 when an invariant was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.jobs")
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    begun, failed, seconds, counts = time.monotonic(), 0, 0.0, Counter[str]()
    with ProcessPoolExecutor(arguments.processes) as pool:
        seeds = range(arguments.first, arguments.first + arguments.schedules)
        for seed, problem, found, simulated in pool.map(play, seeds, chunksize=10):
            counts += found
            seconds += simulated
            if problem:
                failed += 1
                print(f"seed {seed}: {problem}", flush=True)
    happened = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    took = time.monotonic() - begun
    print(f"{arguments.schedules} schedules, {failed} broken; {seconds / 86400:.0f} days in {took:.0f} s: {happened}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
