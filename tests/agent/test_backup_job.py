"""The jobs of the cluster on three members over a DCS in memory: what runs, and who runs it, is played."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace as changed
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from tests.agent.test_observer import observer_of
from tests.parts.processes import wait_until
from tests.simulation.jobs import NEWEST, RECORD, STEP, Broken, Played, Three, World
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.agent import Agent
from walkeeper.agent.backup_job import ALARM_SECONDS, SILENT_SECONDS, BackupJob, Cluster, Kind, backups, proofs
from walkeeper.agent.child import Child
from walkeeper.config import Config
from walkeeper.core import backup_job
from walkeeper.core.about import About
from walkeeper.core.backup_job import FIRST_PAUSE, LEADER_WAITS, MAX_ATTEMPTS, WAITS_SECONDS, Bidder, encode
from walkeeper.core.floor import moment, written
from walkeeper.dcs.base import BACKUP_JOB, PROOF_JOB
from walkeeper.lib.clock import SystemClock


def _forgets(job: BackupJob) -> None:
    """Deliberately: what runs is not ended."""
    job._child, job._mine = None, None


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
    assert (expire.arguments, three.job.expired) == (("expire", "--apply", "--job", three.job.backup), False)
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


@pytest.mark.parametrize(("kind", "reason"), [(backups, "backup_fails"), (proofs, "proof_fails")])
def test_what_is_done_by_hand_after_a_failure_ends_the_problem(
    tmp_path: Path, kind: Callable[[Config], Kind], reason: str
) -> None:
    three = Three(tmp_path, kind)
    three.pass_time()
    three.b.started[0].code = 3
    three.pass_time(2 * STEP)
    assert [problem.reason for problem in three.a.problems.open()] == [reason]
    older = written(moment(three.job.at) - timedelta(minutes=1))
    three.a.facts = changed(three.a.facts, done=(three.job.backup, older))
    three.pass_time()
    assert three.a.problems.open()
    three.a.facts = changed(three.a.facts, done=(three.job.backup, written(moment(older) + timedelta(minutes=2))))
    three.pass_time()
    assert not three.a.problems.open()
    assert three.job.state == "failed"


def test_each_end_of_a_job_is_told_once_to_every_member(three: Three) -> None:
    told: Counter[str] = Counter()
    for member in three.members:
        member.job._over = lambda name=member.name: told.update([name])  # type: ignore[misc]
    three.pass_time(60)
    assert not told
    three.b.started[0].code = 0
    three.pass_time(60)
    assert told == {"a": 1, "b": 1, "c": 1}
    three.a.started[0].code = 0
    three.pass_time(60)
    assert told == {"a": 2, "b": 2, "c": 2}  # expire has run
    three.dcs.put(encode(replace(three.job, due="2026-11-01T00:00:00Z")))
    three.pass_time(60)
    assert three.job.state == "running"
    three.b.started[1].code = 3
    three.pass_time(60)
    assert told == {"a": 3, "b": 3, "c": 3}


def test_the_agent_tells_its_jobs_what_the_store_has(short_path: Path) -> None:
    dcs, clock = MemoryDcs(), SystemClock()
    keys = {key: MemoryRecord(dcs) for key in (BACKUP_JOB, PROOF_JOB)}
    agent = Agent(observer_of(short_path)._config, MemoryStore(), MemoryRecord(dcs), clock, keys)
    assert agent._cluster(PROOF_JOB) == Cluster(None, None)
    at = "2026-11-28T02:00:00Z"
    found = {"newest": {"id": "b", "stop_at": at}, "proved": {"backup": "a", "at": at}}
    agent.backups = cast(Any, SimpleNamespace(summary=lambda _: found))
    assert agent._cluster(BACKUP_JOB) == Cluster(None, None, newest="b", done=("b", at))
    assert agent._cluster(PROOF_JOB) == Cluster(None, None, newest="b", done=("a", at))


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


def test_p9_what_runs_on_a_member_in_an_alarm_that_lasts_is_ended_and_another_goes_on(three: Three) -> None:
    three.pass_time()
    (backup,) = three.b.started
    three.b.alarm = "the disk of pg_wal fills"
    three.pass_time(ALARM_SECONDS - STEP)
    three.b.alarm = ""  # a moment's matter
    three.pass_time(2 * STEP)
    assert backup.lives
    three.b.alarm = "it is 2 GiB behind the leader"
    three.pass_time(ALARM_SECONDS + 2 * STEP)
    assert backup.stopped
    assert (three.job.state, three.job.node) == ("wanted", "b")
    three.b.started.clear()
    assert three.job.why == "it was ended for that host's sake: it is 2 GiB behind the leader"
    three.pass_time(FIRST_PAUSE)
    assert (three.job.state, three.job.node, three.job.attempt) == ("running", "c", 2)
    assert not three.b.started


def test_what_was_ended_while_the_dcs_was_away_says_why_when_it_is_back(three: Three) -> None:
    three.pass_time()
    three.b.alarm = "it is 2 GiB behind the leader"
    three.pass_time(ALARM_SECONDS)
    three.b.records.read_only = True
    three.pass_time()
    assert three.b.started[0].stopped
    three.b.started[0].code = 130
    three.b.records.read_only = False
    three.pass_time()
    assert three.job.why == "it was ended for that host's sake: it is 2 GiB behind the leader"


def test_p10_one_that_nobody_takes_is_a_problem_after_an_hour(three: Three) -> None:
    for member in three.members:
        member.alarm = "the disk of pg_wal fills"
    three.pass_time(WAITS_SECONDS)
    assert not three.a.problems.open()
    three.pass_time(3 * STEP)
    (problem,) = three.a.problems.open()
    assert "no member takes it" in problem.text
    assert "It waits for a replica or the leader" in problem.hint
    three.c.alarm = ""
    three.pass_time(2 * STEP)
    assert not three.a.problems.open()
    assert three.job.node == "c"


def test_a_proof_runs_on_a_replica_and_never_on_the_leader_of_others(tmp_path: Path) -> None:
    three = Three(tmp_path, proofs)
    three.pass_time()
    (proof,) = three.b.started
    assert proof.arguments == ("verify", "--restore", str(tmp_path), "--job", NEWEST)
    for member in (three.b, three.c):
        member.facts = Cluster(None, Bidder(name=member.name, leads=False, replica=False))
    proof.code = 2
    three.pass_time(2 * 3600)
    assert not three.a.started
    (problem,) = three.a.problems.open()
    assert (problem.what, problem.reason) == (About.PROOF_JOB, "proof_fails")
    assert "the last attempt, on b: the server was shut down" in problem.text
    three.a.facts = Cluster(RECORD, Bidder(name="a", leads=True, replica=False, alone=True))
    three.pass_time(3 * LEADER_WAITS)
    assert len(three.a.started) == 1


def test_p10_a_proof_whose_member_died_and_that_nobody_else_may_run_is_a_problem_after_an_hour(tmp_path: Path) -> None:
    three = Three(tmp_path, proofs)
    three.c.facts = Cluster(None, Bidder(name="c", leads=False, replica=False))
    three.pass_time(2 * WAITS_SECONDS)
    assert three.job.state == "running"
    assert not three.a.problems.open()  # it beats, however long it takes
    assert not three.a.job.silent
    three.b.alive = False
    three.pass_time(60)
    assert three.a.job.silent
    three.pass_time(WAITS_SECONDS - 60)
    assert not three.a.problems.open()
    three.pass_time(3 * STEP)
    (problem,) = three.a.problems.open()
    assert (problem.what, three.job.state) == (About.PROOF_JOB, "running")
    assert "b, which ran it, no longer says anything of it, and no member goes on with it" in problem.text
    assert "It waits for a replica" in problem.hint
    three.lead(three.a)
    three.pass_time(2 * STEP)
    assert not three.a.problems.open()
    assert three.job.node == "c"
    three.c.started[0].code = 0
    three.pass_time(300)
    assert (three.job.state, three.a.job.silent) == ("done", False)


def test_a_proof_that_waits_for_a_backup_is_not_one_that_nobody_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = Three(tmp_path, proofs)
    waits = {"waits": True}
    for member in three.members:
        monkeypatch.setattr(member.job, "_cluster", lambda member=member: changed(member._facts(), **waits))
    three.pass_time(2 * WAITS_SECONDS)
    assert three.job.state == "wanted"
    assert not three.b.started
    assert not three.a.problems.open()
    waits["waits"] = False
    three.pass_time()
    assert not three.a.problems.open()
    assert len(three.b.started) == 1


def test_a_backup_that_is_proved_wrong_is_told_at_once(tmp_path: Path) -> None:
    three = Three(tmp_path, proofs)
    three.pass_time()
    three.b.started[0].code = 3
    three.pass_time(2 * STEP)
    assert (three.job.state, three.job.attempt) == ("failed", 1)
    (problem,) = three.a.problems.open()
    assert problem.what == About.PROOF_JOB
    assert "walkeeper verify --restore does it now" in problem.hint


def test_a_proof_that_needs_a_newer_backup_waits_for_it_and_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = Three(tmp_path, proofs)
    known = {"newest": NEWEST}
    for member in three.members:
        monkeypatch.setattr(member.job, "_cluster", lambda member=member: changed(member._facts(), **known))
    three.pass_time()
    due = three.job.due
    three.b.started[0].code = backup_job.LATER
    three.pass_time(3 * WAITS_SECONDS)
    assert (three.job.state, three.job.attempt, three.job.later) == ("wanted", 0, True)
    assert not three.a.problems.open()
    assert [len(member.started) for member in three.members] == [0, 1, 0]
    known["newest"] = f"3{NEWEST[1:]}"
    three.pass_time(3 * STEP)
    assert (three.job.state, three.job.due, three.job.backup) == ("running", due, known["newest"])
    assert len(three.b.started) == 2


@pytest.mark.parametrize("kind", [backups, proofs])
def test_a_command_that_could_not_be_started_or_that_python_ended_has_found_no_damage(
    tmp_path: Path, kind: Callable[[Config], Kind]
) -> None:
    three = Three(tmp_path, kind)
    started = three.b.job._run

    def cannot(*_: object) -> Child:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    three.b.job._run = cannot
    three.pass_time(2 * STEP)
    assert (three.job.state, three.job.why) == ("wanted", "it could not be started")
    three.b.job._run = started
    three.pass_time(FIRST_PAUSE)
    assert (three.job.state, three.job.node, three.job.attempt) == ("running", "c", 2)
    three.c.started[0].code = 1
    three.pass_time()
    assert three.job.state == "wanted"


def test_there_is_no_proof_before_there_is_a_backup(tmp_path: Path) -> None:
    three = Three(tmp_path, proofs)
    three.newest = ""
    three.pass_time(600)
    assert three.dcs.record is None


@pytest.mark.parametrize("elsewhere", [True, False])
def test_it_is_known_whether_a_proof_writes_to_the_disk_of_pg_wal(tmp_path: Path, elsewhere: bool) -> None:
    three = Three(tmp_path, proofs)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pg_wal").symlink_to("/proc" if elsewhere else tmp_path)
    three.pass_time()
    assert three.b.job.fills_pg_wal_disk is not elsewhere
    three.b.started[0].code = 2
    three.pass_time()
    assert not three.b.job.fills_pg_wal_disk
    backup = Three(tmp_path)
    backup.pass_time()
    assert backup.b.started
    assert not backup.b.job.fills_pg_wal_disk


def test_what_a_killed_proof_has_left_is_removed_where_it_is_found(tmp_path: Path) -> None:
    three = Three(tmp_path, proofs)
    left = three.b.job.kind.left
    assert left is not None
    assert left.name == "walkeeper-verify-demo"
    three.pass_time()
    three.b.started[0].code = -9
    left.mkdir()
    three.b.job._run = Cleared(left)  # type: ignore[assignment]
    three.pass_time()
    assert not left.exists()
    assert (three.job.state, three.job.attempt) == ("wanted", 1)


class Cleared(Played):
    """What ``--clear`` runs; it ends at once."""

    def __init__(self, left: Path) -> None:
        super().__init__()
        self._left = left
        self.code = 0

    def __call__(self, _: Path, *arguments: str) -> Cleared:
        assert arguments == ("verify", "--restore", str(self._left.parent), "--clear")
        self._left.rmdir()
        return self


def test_p16_garbage_in_its_place_is_written_over_by_who_owns_the_record(three: Three) -> None:
    three.dcs.put(b"[" * 5000)
    three.pass_time()
    assert three.job.state in ("wanted", "running")


@pytest.mark.parametrize("seed", range(10))
def test_whatever_dies_and_whoever_leads_each_job_comes_to_an_end_and_nothing_runs_for_nobody(
    tmp_path: Path, seed: int
) -> None:
    World(tmp_path, seed).play()


@pytest.mark.parametrize(
    ("place", "name", "bug", "noticed"),
    [
        (BackupJob, "_let_go", _forgets, "runs"),
        (backup_job, "may_claim", lambda job, me, *_: not job.is_over and (me.leads or me.replica), "may not|runs"),
    ],
)
def test_a_deliberate_bug_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, bug: Any, noticed: str
) -> None:
    monkeypatch.setattr(place, name, bug)
    with pytest.raises(Broken, match=noticed):
        _play(tmp_path, range(30))


def _play(directory: Path, seeds: range) -> None:
    for seed in seeds:
        World(directory, seed).play()


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
