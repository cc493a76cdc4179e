"""The backup job on three members over a DCS in memory: what runs, and who runs it, is played."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace as changed
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.agent.test_life import Time
from tests.parts.processes import wait_until
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from walkeeper.agent.backup_job import SILENT_SECONDS, BackupJob, Child, Cluster
from walkeeper.agent.problems import Problems
from walkeeper.config import load
from walkeeper.core.about import About
from walkeeper.core.backup_job import LEADER_WAITS, MAX_ATTEMPTS, Bidder, Job, decode, encode
from walkeeper.core.lsn import MIB
from walkeeper.core.record import Record
from walkeeper.lib.schedule import Schedule

STEP = 10.0
RECORD = Record(
    system_identifier="7", segment_size=MIB, timeline=1, lsn="0/3000000", start="000000010000000000000003", owner="a",
    session="s", updated_at="2026-11-28T00:00:00Z",
)  # fmt: skip


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


class Member:
    def __init__(self, cluster: Three, name: str) -> None:
        self.name = name
        self.records = MemoryRecord(cluster.dcs)
        self.problems = Problems(cluster.time)
        self.started: list[Played] = []
        self.facts = Cluster(None, Bidder(name=name, leads=False, replica=True))
        self._cluster = cluster
        self.alive = True
        self.start()

    def start(self) -> None:
        self.job = BackupJob(
            self._cluster.config, self.records, lambda: self.facts, self.problems, self._cluster.time, self._run
        )

    def _run(self, _: Path, *arguments: str) -> Child:
        self.started.append(Played(*arguments))
        return self.started[-1]  # type: ignore[return-value]

    @property
    def running(self) -> Played | None:
        return self.started[-1] if self.started and self.started[-1].code is None else None


class Three:
    """``a`` leads and owns the record."""

    def __init__(self, directory: Path) -> None:
        file = directory / "patroni.yml"
        file.write_text(f"scope: demo\nname: a\nwalkeeper: {{store: {{directory: {directory}}}}}\n")
        self.config = changed(
            load(file, {}), backup_schedule=Schedule.parse("12h"), backup_expire=Path("/etc/expire.yml")
        )
        self.time = Time()
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


@pytest.fixture
def three(tmp_path: Path) -> Three:
    return Three(tmp_path)


def test_a_replica_takes_it_and_the_owner_expires_after_it(three: Three) -> None:
    three.pass_time()
    assert (three.job.state, three.job.node, three.job.attempt) == ("running", "b", 1)
    (backup,) = three.b.started
    assert backup.arguments == ("backup", "--job", three.job.backup)
    three.pass_time(300)
    assert three.job.bytes > 0
    assert [len(member.started) for member in three.members] == [0, 1, 0]
    backup.code = 0
    three.pass_time(3 * STEP)
    assert three.job.state == "done"
    (expire,) = three.a.started
    assert (expire.arguments, three.job.expired) == (("expire", "--apply"), False)
    expire.code = 0
    three.pass_time(600)
    assert three.job.expired
    assert [len(member.started) for member in three.members] == [1, 1, 0]
    three.dcs.put(encode(replace(three.job, due="2026-11-01T00:00:00Z")))
    three.pass_time(2 * STEP)
    assert [len(member.started) for member in three.members] == [1, 2, 0]
    assert three.b.started[1].arguments != backup.arguments


def test_the_leader_takes_it_where_no_replica_does_within_a_minute(three: Three) -> None:
    for member in (three.b, three.c):
        member.facts = Cluster(None, Bidder(name=member.name, leads=False, replica=False))
    three.pass_time(LEADER_WAITS)
    assert three.job.state == "wanted"
    three.pass_time(2 * STEP)
    assert (three.job.state, three.job.node) == ("running", "a")


def test_another_member_goes_on_where_a_dead_one_stopped(three: Three) -> None:
    three.pass_time()
    begun = three.job
    three.b.alive = False
    three.pass_time(2 * STEP)
    assert three.dcs.record is not None
    assert three.dcs.record.document == encode(begun)
    three.pass_time(3 * STEP)
    assert (three.job.node, three.job.attempt, three.job.backup) == ("c", 2, begun.backup)
    three.b.alive = True  # it was only slow: what it runs is ended, and the other is left alone
    three.pass_time()
    assert three.b.started[0].stopped
    three.c.started[0].code = 0
    three.pass_time()
    assert three.job.state == "done"


def test_a_dcs_that_is_away_ends_nothing_and_nobody_is_taken_for_dead(three: Three) -> None:
    three.pass_time()
    three.dcs.down = True
    three.pass_time(600)
    three.dcs.down = False
    three.pass_time(600)
    assert (three.job.node, three.job.attempt) == ("b", 1)
    assert not three.b.started[0].stopped
    three.dcs.down = True
    three.b.started[0].code = 0
    three.pass_time(100)
    three.dcs.down = False
    three.pass_time()
    assert three.job.state == "done"


def test_an_answer_that_was_lost_costs_an_attempt_and_nothing_else(three: Three) -> None:
    three.b.records.lose_answers = 1
    three.pass_time(3 * STEP)
    assert (three.job.state, three.job.node, three.job.attempt) == ("running", "b", 2)
    assert len(three.b.started) == 1


def test_p10_what_fails_on_each_is_a_problem_with_a_name_until_the_next_one_is_due(three: Three) -> None:
    while not three.dcs.record or not three.job.is_over:
        three.pass_time()
        for member in three.members:
            if member.running is not None:
                member.running.code = 1
    three.pass_time()
    assert three.job.state == "failed"
    assert sum(len(member.started) for member in three.members) == MAX_ATTEMPTS
    assert all(member.started for member in three.members)  # the leader too: it may be a failure of replicas only
    assert 3600 < three.time.now < 4 * 3600  # a store may be away for an hour
    (problem,) = three.a.problems.open()
    assert problem.what == About.BACKUP_JOB
    assert "the server was shut down" in problem.text
    assert not three.b.problems.open()
    three.lead(three.b)  # a failover: it is the other's to say now
    three.pass_time()
    assert not three.a.problems.open()
    assert [problem.what for problem in three.b.problems.open()] == [About.BACKUP_JOB]
    three.dcs.put(encode(replace(three.job, due="2026-11-01T00:00:00Z")))
    three.pass_time(2 * STEP)
    assert not three.b.problems.open()


def test_p10_a_damaged_one_is_not_tried_again_and_nothing_expires_after_it(three: Three) -> None:
    three.pass_time()
    three.b.started[0].code = 3
    three.pass_time(600)
    assert (three.job.state, three.job.attempt) == ("failed", 1)
    assert not three.a.started
    assert [problem.what for problem in three.a.problems.open()] == [About.BACKUP_JOB]


def test_p10_an_expire_that_fails_is_a_problem_until_the_next_one(three: Three) -> None:
    three.pass_time()
    three.b.started[0].code = 0
    three.pass_time(2 * STEP)
    three.a.started[0].code = 1
    three.pass_time(3 * STEP)
    (problem,) = three.a.problems.open()
    assert "expire after backup" in problem.text
    three.dcs.put(encode(replace(three.job, due="2026-11-01T00:00:00Z")))
    three.pass_time(2 * STEP)
    three.b.started[1].code = 0
    three.pass_time(2 * STEP)
    three.a.started[1].code = 0
    three.pass_time(2 * STEP)
    assert not three.a.problems.open()


def test_an_expire_that_is_still_running_is_of_its_own_backup_only(three: Three) -> None:
    three.pass_time()
    three.b.started[0].code = 0
    three.pass_time(2 * STEP)
    assert len(three.a.started) == 1
    three.dcs.put(encode(replace(three.job, due="2026-11-01T00:00:00Z")))
    three.pass_time(2 * STEP)
    three.b.started[1].code = 0
    three.pass_time(3 * STEP)
    assert three.a.started[0].stopped
    assert len(three.a.started) == 2
    assert not three.job.expired


def test_p10_a_key_that_does_not_answer_is_a_problem_after_minutes(three: Three) -> None:
    three.a.records.cut_off = True
    three.pass_time(SILENT_SECONDS)
    assert not three.a.problems.open()
    three.pass_time(3 * STEP)
    assert [problem.what for problem in three.a.problems.open()] == [About.BACKUP_JOB]
    three.a.records.cut_off = False
    three.pass_time(STEP)
    assert not three.a.problems.open()


def test_an_agent_that_is_stopped_gives_it_back_and_one_that_was_killed_goes_on_at_once(three: Three) -> None:
    three.pass_time()
    three.b.job.stop()
    three.b.job.work()
    assert three.b.started[0].stopped
    assert (three.job.state, three.job.attempt) == ("wanted", 0)  # that is no attempt
    three.b.alive = False
    three.pass_time()
    assert (three.job.node, three.job.attempt) == ("c", 1)
    three.c.start()
    three.pass_time()
    assert (three.job.node, three.job.attempt, len(three.c.started)) == ("c", 2, 2)


def test_p16_garbage_in_its_place_is_written_over_by_who_owns_the_record(three: Three) -> None:
    three.dcs.put(b"[" * 5000)
    three.pass_time()
    assert three.job.state in ("wanted", "running")


@pytest.mark.parametrize("seed", range(40))
def test_whatever_dies_and_whoever_leads_each_backup_comes_to_an_end(three: Three, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(150):
        match dice.randrange(12):
            case 0:
                three.lead(dice.choice(three.members))
            case 1:
                dice.choice(three.members).alive = False
            case 2:
                dice.choice(three.members).start()  # its agent was killed, and starts anew
            case 3:
                three.dcs.down = not three.dcs.down
            case 4:
                dice.choice(three.members).records.lose_answers = 1
            case 5 | 6:
                for member in three.members:
                    if member.running is not None:
                        member.running.code = dice.choice((0, 1))
            case _:
                for member in three.members:
                    member.alive = True
        three.pass_time(dice.choice((STEP, 4 * STEP)))
    three.dcs.down = False
    for member in three.members:
        member.alive = True
    three.lead(three.a)
    for _ in range(1500):
        three.pass_time()
        for member in three.members:
            if member.running is not None:
                member.running.code = 0
    assert three.job.is_over
    assert three.job.attempt <= MAX_ATTEMPTS


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    file = tmp_path / "patroni.yml"
    file.write_text(f"scope: demo\nname: a\nwalkeeper: {{store: {{directory: {tmp_path}/nowhere}}}}\n")
    made = Child(file, "backup", "--job", "20261128T020000Z-00000003-1a2b3c4d")
    yield made
    made.stop()


def test_a_command_that_fails_says_why_on_one_line(child: Child) -> None:
    wait_until(lambda: child.poll() is not None, "its end", 60)
    assert child.poll() != 0
    assert "HINT: " in child.why()
    assert "\n" not in child.why()
    assert "Traceback" not in child.why()


def test_a_command_that_was_killed_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel that ran out of memory, for instance, in the middle of its progress."""
    (tmp_path / "walkeeper").mkdir()
    (tmp_path / "walkeeper" / "__init__.py").touch()
    (tmp_path / "walkeeper" / "__main__.py").write_text(
        "import os, sys\nprint('backup_begins', file=sys.stderr, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    monkeypatch.setattr("walkeeper.control.spawn.environment", lambda: {"PYTHONPATH": str(tmp_path)})
    child = Child(tmp_path / "patroni.yml", "backup")
    wait_until(lambda: child.poll() is not None, "its end", 60)
    assert child.why() == "it was ended by signal 9; the last that it said: backup_begins"


def test_a_command_that_runs_is_ended_as_by_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "walkeeper").mkdir()
    (tmp_path / "walkeeper" / "__init__.py").touch()
    (tmp_path / "walkeeper" / "__main__.py").write_text(
        "import sys, time\nprint('x INFO backup_goes_on backup=y bytes=5 of=9', file=sys.stderr, flush=True)\n"
        "try: time.sleep(600)\nexcept KeyboardInterrupt: sys.exit(130)\n"
    )
    monkeypatch.setattr("walkeeper.control.spawn.environment", lambda: {"PYTHONPATH": str(tmp_path)})
    file = tmp_path / "patroni.yml"
    child = Child(file, "backup")
    wait_until(lambda: (child.come, child.of) == (5, 9), "its progress", 60)
    assert child.poll() is None
    child.stop()
    wait_until(lambda: child.poll() is not None, "its end", 60)
    assert child.poll() == 130
