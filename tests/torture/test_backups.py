"""What the torture makes of the cluster's own base backups, without a cluster; then one on which the member that takes it dies."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack

import pytest
from msgspec.structs import replace

from benchmarks.places import DirectoryPlace
from tests.parts.processes import wait_until
from tests.torture.backups import Jobs, Reading, allowed, has_left
from tests.torture.beliefs import FAULTS
from tests.torture.check import whole_up_to
from tests.torture.rig import Diary, Rig
from tests.torture.run import Tally, _check, _check_backups
from walkeeper.core.backup_job import Job, claimed, ended, given_back
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import Lsn

AT = "2026-11-29T02:00:00Z"
FIRST, SECOND = "20261129T020000Z-00000001-1a2b3c4d", "20261129T020200Z-00000001-5e6f7a8b"
WANTED = Job(system_identifier="7300000000000000001", due=AT, backup=FIRST, at=AT)
OLD, NEW, KEPT = "a" * 64, "b" * 64, "c" * 64


class Seen(Jobs):
    """Told a document after the other, a second apart; ``there`` is what is stored meanwhile."""

    def __init__(self, *documents: Job, there: dict[str, int] | None = None) -> None:
        super().__init__(120.0)
        for at, job in enumerate(documents):
            self.note(float(at), job, lambda _: there)

    @property
    def ends(self) -> list[tuple[str, int, str]]:
        return [(run.node, run.attempt, run.end) for run in self.runs]


def test_what_was_done_to_a_job_is_told_by_its_documents() -> None:
    one = claimed(WANTED, "a", AT)
    failed = ended(one, AT, "the server was shut down")
    two = claimed(failed, "b", AT)
    back = given_back(two, AT)
    three = claimed(back, "b", AT)
    taken = claimed(three, "c", AT)
    seen = Seen(WANTED, one, replace(one, beat=9), failed, two, back, three, taken, ended(taken, AT, ""))
    assert seen.ends == [
        ("a", 1, "failed: the server was shut down"),
        ("b", 2, "given back"),
        ("b", 2, "c has it now"),
        ("c", 3, "done"),
    ]
    assert (seen.made, seen.done, seen.given_up) == ([FIRST], {FIRST}, [])
    assert "1 backups were disturbed" in str(seen.facts(1))


def test_a_job_that_failed_was_given_up_and_what_was_overtaken_has_to_be_complete() -> None:
    one = claimed(WANTED, "a", AT)
    following = replace(WANTED, backup=SECOND, due="2026-11-29T02:02:00Z")
    assert (Seen(one, following).given_up, Seen(one, following).done) == ([], {FIRST})
    assert "it failed after 1 attempts: damaged" in Seen(one, ended(one, AT, "damaged", for_good=True)).given_up[0]
    assert Seen(one, ended(one, AT, ""), following).given_up == []


def test_one_attempt_more_may_be_had_after_all_is_well() -> None:
    running = claimed(WANTED, "a", AT)
    assert allowed(running, claimed(running, "b", AT)) == 2
    assert allowed(ended(running, AT, "it died"), running) == 2
    assert allowed(running, replace(WANTED, backup=SECOND)) == 1
    assert allowed(None, running) == 1


def test_what_is_sent_again_is_counted_once_a_backup_is_complete() -> None:
    one = claimed(WANTED, "a", AT)
    two = claimed(one, "b", AT)
    seen = Seen(one, two, ended(two, AT, ""), there={OLD: 10, KEPT: 1000})
    seen.count(FIRST, {OLD: 10, KEPT: 1000, NEW: 12}, [KEPT, NEW])
    (again,) = seen.again.values()
    assert (again.same, again.kept, again.sent, again.useless) == (False, 1000, 12, 10)
    undisturbed = Seen(one, ended(one, AT, ""))
    undisturbed.count(FIRST, {NEW: 12}, [NEW])
    assert (undisturbed.again, undisturbed.complete) == ({}, {FIRST})


def test_a_leader_that_sends_more_than_it_may_is_noticed() -> None:
    seen = Seen()
    for second in range(10):
        seen.read("a", 7, 100.0 + second, second * 1000)
        seen.read("b", 8, 100.0 + second, second * 1200)
    assert [reading.node for reading in seen.too_fast(1000)] == ["b"]
    assert Reading("a", (0.0, 0), (0.0, 0)).rate == 0.0


def test_a_backup_of_a_branch_that_was_left_before_its_stop_can_not_be_complete() -> None:
    history = History(3, (Switch(1, Lsn(0x3000000)), Switch(2, Lsn(0x4000000))))
    assert has_left(history, {"timeline": 1, "stop_lsn": "0/3000100"})
    assert not has_left(history, {"timeline": 1, "stop_lsn": "0/2000100"})
    assert not has_left(history, {"timeline": 3, "stop_lsn": "0/9000000"})
    assert has_left(history, {"timeline": 4, "stop_lsn": "0/2000100"})


def test_the_position_that_a_refused_restore_names_is_read_from_its_hint() -> None:
    said = "walkeeper: --to latest: the archive is not whole: after 0/55D8518 WAL is missing\nHINT: --to 0/55D8518 restores up to there. walkeeper"
    assert whole_up_to(said) == Lsn(0x55D8518)
    assert whole_up_to("walkeeper: no backup is complete\nHINT: Take one.") is None


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_backup_whose_member_dies_is_complete_after_one_more_attempt_and_restores() -> None:
    with Rig(DirectoryPlace(), Diary(), rate=0.3, backups_each=60.0) as rig:
        assert rig.jobs is not None
        wait_until(lambda: (job := rig.job()) is not None and job.state == "running", "a backup that runs", 120)
        kill, _, _ = FAULTS["kill_backup_member"]
        with kill(rig, rig.cluster.nodes[0]):
            time.sleep(1)
        rig.settle()
        _check_backups(rig, rig.jobs)
        tally = Tally(Counter())
        assert _check(rig, None, tally, [])
        assert tally.rows > 0
        assert [run.done for run in rig.jobs.runs][:2] == [False, True]
        assert rig.diary.violations == []


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_stored_under_a_prefix_that_is_wrong_for_a_while() -> None:
    with Rig(DirectoryPlace(), Diary(), rate=0.3) as rig:
        swap, _, _ = FAULTS["prefix_swapped"]
        for kind in range(6):
            while len(rig.diary.entries) % 6 != kind:
                rig.diary.tell("note", "another kind of it")
            with ExitStack() as ending:
                ending.enter_context(swap(rig, rig.cluster.wait_leader()))
                rig.ledger.wait_for(50)
            before = rig.wait_caught_up()
            rig.ledger.wait_for(20)
            assert rig.wait_caught_up().position > before.position
        assert rig.diary.violations == []
