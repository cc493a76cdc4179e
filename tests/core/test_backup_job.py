"""The rules of the backup job: when one is made, who bids for it, how it ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from walkeeper.core.backup_job import (
    FIRST_PAUSE,
    LEADER_WAITS,
    LIMIT,
    MAX_ATTEMPTS,
    SILENCE_SECONDS,
    TOO_FAR_BEHIND,
    WAITS_SECONDS,
    Bidder,
    From,
    Job,
    Stands,
    alarm,
    beaten,
    claimed,
    decode,
    encode,
    ended,
    given_back,
    is_due,
    made_good,
    may_claim,
    nobody_bids,
)
from walkeeper.core.floor import written
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.room import Disk
from walkeeper.errors import BadJob

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
DUE = NOW - timedelta(hours=10)
JOB = Job(system_identifier="7", due=written(DUE), backup="20261128T020000Z-00000003-1a2b3c4d", at=written(DUE))
LEADER = Bidder(name="a", leads=True, replica=False)
REPLICA = Bidder(name="b", leads=False, replica=True)
FAR_BEHIND = Bidder(name="c", leads=False, replica=False)


@pytest.mark.parametrize(
    ("job", "due"),
    [
        (None, True),
        (JOB, False),  # nobody has begun it: it is still to be taken, and no second one
        (replace(JOB, state="running"), False),
        (replace(JOB, state="done"), False),
        (replace(JOB, state="failed"), False),
        (replace(JOB, state="done", due=written(DUE - timedelta(days=1))), True),
        (replace(JOB, state="failed", due=written(DUE - timedelta(days=9))), True),  # one for all that were missed
        (replace(JOB, state="running", due=written(DUE - timedelta(days=1))), False),
        (replace(JOB, state="done", due=written(NOW + timedelta(minutes=5))), False),  # clocks differ a little
        (replace(JOB, state="done", due=written(NOW + timedelta(days=300))), True),  # or were wrong
        (replace(JOB, state="wanted", due=written(NOW + timedelta(days=300))), True),
        (replace(JOB, state="running", system_identifier="8"), True),  # of a cluster that was here before
    ],
)
def test_one_job_for_each_moment_of_the_schedule(job: Job | None, due: bool) -> None:
    assert is_due(job, 7, DUE, NOW) is due


@pytest.mark.parametrize(
    ("job", "me", "prefer", "after"),
    [
        (JOB, REPLICA, "replica", 0),
        (JOB, LEADER, "replica", LEADER_WAITS),
        (JOB, FAR_BEHIND, "replica", None),
        (JOB, REPLICA, "leader", None),
        (JOB, LEADER, "leader", 0),
        (replace(JOB, node="b", attempt=1), REPLICA, "replica", FIRST_PAUSE + LEADER_WAITS),  # it has just failed here
        (replace(JOB, node="a", attempt=1), REPLICA, "replica", FIRST_PAUSE),
        (replace(JOB, node="a", attempt=1), LEADER, "replica", FIRST_PAUSE + 2 * LEADER_WAITS),
        (replace(JOB, node="c", attempt=2), LEADER, "replica", 2 * FIRST_PAUSE),  # it may be a failure of replicas only
        (replace(JOB, node="c", attempt=2), REPLICA, "replica", 2 * FIRST_PAUSE + LEADER_WAITS),
        (replace(JOB, node="a", attempt=3), REPLICA, "replica", 4 * FIRST_PAUSE + LEADER_WAITS),
        (replace(JOB, node="a", attempt=3), LEADER, "leader", 4 * FIRST_PAUSE),
        (replace(JOB, state="running", node="x"), REPLICA, "replica", SILENCE_SECONDS),
        (replace(JOB, state="running", node="x"), LEADER, "replica", SILENCE_SECONDS + LEADER_WAITS),
        (replace(JOB, state="running", node="b"), REPLICA, "replica", 0),  # this agent was started anew
        (replace(JOB, state="running", node="x"), LEADER, "leader", SILENCE_SECONDS),
        (replace(JOB, state="done", node="x"), REPLICA, "replica", None),
        (replace(JOB, state="failed", node="x"), REPLICA, "replica", None),
        (JOB, REPLICA, "spare", 0),
        (JOB, LEADER, "spare", None),
        (replace(JOB, node="c", attempt=5), LEADER, "spare", None),
        (JOB, Bidder(name="a", leads=True, replica=False, alone=True), "spare", LEADER_WAITS),
    ],
)
def test_who_bids_and_when(job: Job, me: Bidder, prefer: From, after: float | None) -> None:
    if after is None:
        assert not may_claim(job, me, 1e9, prefer)
    else:
        assert may_claim(job, me, after, prefer)
        assert after == 0 or not may_claim(job, me, after - 0.1, prefer)


@pytest.mark.parametrize(
    ("disk", "behind", "why"),
    [
        (None, None, ""),
        (Disk(500 << 30, 900 << 30, 1e6), TOO_FAR_BEHIND, ""),
        (Disk(2 << 30, 900 << 30, 0.0), 0, ""),  # nearly full, and it stays so
        (Disk(9 * MIB, 900 << 30, None), 0, "the disk of pg_wal has 9 MiB free"),
        (Disk(1 << 30, 900 << 30, (1 << 30) / 600), 0, "the disk of pg_wal fills, and would be full in 10 min"),
        (Disk(1 << 30, 900 << 30, -1e6), 0, ""),
        (None, TOO_FAR_BEHIND + 1, "it is 1 GiB behind the leader"),
    ],
)
def test_p9_a_member_in_need_has_nothing_else_to_do(disk: Disk | None, behind: int | None, why: str) -> None:
    assert alarm(disk, SegmentSize(MIB), behind) == why


def test_one_that_waits_is_waited_for_an_hour_and_its_pause() -> None:
    assert not nobody_bids(JOB, WAITS_SECONDS)
    assert nobody_bids(JOB, WAITS_SECONDS + 1)
    assert not nobody_bids(replace(JOB, attempt=3), WAITS_SECONDS + 4 * FIRST_PAUSE)
    assert nobody_bids(replace(JOB, attempt=3), WAITS_SECONDS + 4 * FIRST_PAUSE + 1)
    running = replace(JOB, state="running", node="x", attempt=3)
    assert not nobody_bids(running, WAITS_SECONDS)
    assert nobody_bids(running, WAITS_SECONDS + 1)
    assert not nobody_bids(replace(running, state="done"), 1e9)
    assert not nobody_bids(replace(running, state="failed"), 1e9)


@pytest.mark.parametrize(
    ("done", "good"),
    [
        (None, False),
        ((JOB.backup, written(NOW + timedelta(minutes=1))), True),
        ((JOB.backup, (NOW + timedelta(minutes=1)).isoformat(timespec="microseconds")), True),
        (("20261128T090000Z-00000003-00000000", written(NOW + timedelta(minutes=1))), True),
        ((JOB.backup, written(NOW)), False),
        ((JOB.backup, written(NOW - timedelta(days=1))), False),  # it has rotted since
        (("20261127T020000Z-00000003-00000000", written(NOW + timedelta(minutes=1))), False),  # of an older one
        ((JOB.backup, "yesterday"), False),
    ],
)
def test_what_was_done_by_hand_after_a_failure_makes_it_good(done: tuple[str, str] | None, good: bool) -> None:
    assert made_good(JOB.backup, written(NOW), done) is good


def test_an_attempt_that_fails_is_followed_by_another_until_there_were_enough() -> None:
    job = JOB
    for attempt in range(1, MAX_ATTEMPTS + 1):
        job = claimed(job, "b", written(NOW))
        assert (job.state, job.attempt, job.backup) == ("running", attempt, JOB.backup)
        job = ended(beaten(job, 5, 10), written(NOW), "no room")
        assert job.state == ("failed" if attempt == MAX_ATTEMPTS else "wanted")
        assert (job.why, job.node) == ("no room", "b")
    assert ended(claimed(JOB, "b", written(NOW)), written(NOW), "damaged", for_good=True).state == "failed"
    back = given_back(claimed(JOB, "b", written(NOW)), written(NOW))
    assert (back.state, back.attempt) == ("wanted", 0)
    lost = claimed(replace(job, state="running", why=""), "c", written(NOW))
    assert (lost.state, lost.why) == ("failed", "b no longer says anything of it")
    assert ended(claimed(JOB, "b", written(NOW)), written(NOW), "").state == "done"


def test_it_comes_back_as_it_was_written() -> None:
    assert decode(encode(JOB)) == JOB
    beats = [encode(beaten(JOB, count, 10)) for count in range(3)]
    assert len(set(beats)) == 3
    assert len(encode(ended(JOB, written(NOW), "x" * 9999))) < LIMIT


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"due": "yesterday"},
        {"due": "2026-13-28T00:00:00Z"},
        {"backup": "../x"},
        {"attempt": -1},
        {"attempt": 10**30},
        {"beat": "9" * 5000},
        {"state": "sleeping"},
        {"node": "n" * 257},
        {"system_identifier": "7" * 5000},
    ],
)
def test_p16_what_somebody_else_wrote_there_is_a_bad_job(change: dict[str, Any]) -> None:
    import json  # noqa: PLC0415

    with pytest.raises(BadJob, match="backup job in the DCS"):
        decode(json.dumps({**json.loads(encode(JOB)), **change}).encode())


@pytest.mark.parametrize("document", [b"", b"\xff", b"[" * 10_000, b"{" + b" " * LIMIT + b"}", b"null"])
def test_p16_garbage_is_one_too(document: bytes) -> None:
    with pytest.raises(BadJob):
        decode(document)


def test_silence_counts_only_while_it_can_be_heard() -> None:
    stands = Stands()
    assert stands.note("1", 100.0) == 0
    assert stands.note("1", 140.0) == 40
    assert stands.note("2", 141.0) == 0
    stands.forget()  # the DCS was away
    assert stands.note("2", 300.0) == 0
    assert stands.note("2", 331.0) == 31
