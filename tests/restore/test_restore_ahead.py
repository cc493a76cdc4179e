"""Fetching ahead: what a recovery asks for next lies ready, within bounds, and nothing of it can do harm."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.values import control_file, histories, plain_segment, sizes
from tests.fixtures.restoring import PLAIN, SEGMENT, SYSTEM, Node, answering
from tests.parts.processes import wait_until
from walkeeper.core.branches import following
from walkeeper.core.history import History, parse_history
from walkeeper.core.lsn import SegmentSize
from walkeeper.core.names import Segment
from walkeeper.postgres.data_directory import running_server
from walkeeper.restore import exits, prefetch, serving
from walkeeper.restore.cache import Cache
from walkeeper.restore.prefetch import Prefetcher
from walkeeper.restore.recovery import Recovery

SERVER = ("postmaster.pid", "standby.signal")
SIZE = SEGMENT.size


def segment(number: int, timeline: int = 1) -> Segment:
    return Segment(timeline, number, SIZE)


@pytest.fixture
def node(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node(short_path, monkeypatch)
    node.server(SERVER)
    return node


@pytest.fixture
def agent(node: Node) -> Iterator[Node]:
    with answering(node):
        yield node


def store(node: Node, *segments: Segment) -> None:
    for one in segments:
        node.archive.archive_segment(one, plain_segment(one, SYSTEM), History(one.timeline))


def caches(node: Node) -> Path:
    return node.data.with_name("data.walkeeper") / "restore"


def ready(node: Node) -> list[str]:
    return sorted(path.name for path in caches(node).glob("*/0*"))


def wait_ready(node: Node, *segments: Segment) -> None:
    names = [one.name for one in segments]
    wait_until(lambda: ready(node) == names, f"{names} ready")


# ------------------------------------------------------------------------------------------------------ what comes next


@given(histories(), st.integers(0, 1 << 16), sizes)
def test_what_comes_next_is_the_chain(history: History, number: int, size: SegmentSize) -> None:
    first = history.segment(number, size)
    expected = [history.segment(number + ahead, size) for ahead in (1, 2, 3)]
    assert list(islice(following(first, [history, History(1)]), 3)) == expected


@given(histories(), st.integers(0, 1 << 16), sizes)
def test_without_a_history_that_fits_it_is_the_same_timeline(history: History, number: int, size: SegmentSize) -> None:
    other = Segment(history.timeline + 1, number, size)
    assert next(following(other, [history])) == Segment(other.timeline, number + 1, size)


def test_it_goes_on_across_a_timeline_switch_once_the_recovery_has_read_the_history(agent: Node) -> None:
    store(agent, segment(6), segment(7, 2), segment(8, 2))
    agent.archive.archive_history(2, b"1\t0/750000\tx\n")
    assert agent.restore("00000002.history") == exits.DELIVERED
    assert agent.restore() == exits.DELIVERED
    wait_ready(agent, segment(6), segment(7, 2), segment(8, 2))


def as_restored(node: Node, checkpoint: str) -> None:
    """A base backup's directory, in which no server has read where it begins."""
    (node.data / "global" / "pg_control").write_bytes(control_file(1, 0, system_identifier=SYSTEM, segment_size=SIZE))
    begins = f"START WAL LOCATION: 0/500028 (file {SEGMENT})\nCHECKPOINT LOCATION: {checkpoint}\n"
    (node.data / "backup_label").write_text(begins)


def test_where_a_base_backup_begins_is_fetched_while_its_server_asks_for_histories(agent: Node) -> None:
    store(agent, segment(6))
    as_restored(agent, "0/500060")
    assert agent.restore("00000002.history") == exits.ABSENT
    wait_ready(agent, SEGMENT, segment(6))


def test_a_checkpoint_that_is_read_before_replay_begins_leaves_ready_what_lies_ready(node: Node) -> None:
    store(node, segment(6), segment(7), segment(8))
    node.configure(ahead="2MiB")
    as_restored(node, "0/800060")
    with answering(node):
        assert node.restore("00000002.history") == exits.ABSENT
        wait_ready(node, SEGMENT, segment(6))
        assert node.restore(segment(8).name) == exits.DELIVERED
        assert ready(node) == [SEGMENT.name, segment(6).name]
        assert node.restore() == exits.DELIVERED
        wait_ready(node, segment(6), segment(7))
        assert node.restore(segment(8).name) == exits.DELIVERED  # the second time it has come there
        wait_until(lambda: not ready(node), "nothing ready")


@pytest.mark.parametrize("asked", ["00000003.history", segment(7, 2).name])
def test_p6_what_lies_ready_of_a_branch_that_streaming_left_is_dropped(agent: Node, asked: str) -> None:
    """A standby that streams learns of a fork from its primary, and asks for histories before it asks for segments again."""
    store(agent, segment(6), segment(7), segment(8))
    assert agent.restore() == exits.DELIVERED
    wait_ready(agent, segment(6), segment(7), segment(8))
    (agent.data / "pg_wal" / "00000002.history").write_bytes(b"1\t0/750000\tx\n")
    assert agent.restore(asked) == exits.ABSENT
    assert ready(agent) == [segment(6).name]
    store(agent, segment(7, 2))
    assert agent.restore(segment(6).name) == exits.DELIVERED
    wait_ready(agent, segment(7, 2))


def test_a_recovery_that_goes_back_just_after_it_took_one_has_it_ready_again(agent: Node) -> None:
    """As a standby does that asks for a segment again. What was taken before counts before."""
    store(agent, segment(6))
    for _ in range(20):
        assert agent.restore() == exits.DELIVERED
        wait_ready(agent, segment(6))
        (cache,) = caches(agent).glob("*")
        cache.joinpath(segment(6).name).rename(agent.data / "pg_wal" / "RECOVERYXLOG")


def test_in_archive_recovery_the_last_segment_lies_ready_again(node: Node) -> None:
    """PostgreSQL fetches it once more when the next one is not there, and again when it ends the recovery."""
    (node.data / "standby.signal").rename(node.data / "recovery.signal")
    store(node, segment(6))
    with answering(node):
        assert node.restore() == exits.DELIVERED
        wait_ready(node, segment(6))
        for _ in range(3):
            (cache,) = caches(node).glob("*")
            cache.joinpath(segment(6).name).rename(node.data / "pg_wal" / "RECOVERYXLOG")
            wait_ready(node, segment(6))
            (node.data / "pg_wal" / "RECOVERYXLOG").write_bytes(b"")  # as PostgreSQL may write into what it has taken
            assert (cache / segment(6).name).read_bytes() == plain_segment(segment(6), SYSTEM)
        store(node, segment(7))
        assert node.restore(segment(7).name) == exits.DELIVERED
        wait_ready(node, segment(7))


@pytest.mark.parametrize(
    ("goes_back", "fork", "wanted"), [(True, None, segment(6)), (False, None, None), (True, "0/650000", None)]
)
def test_only_archive_recovery_goes_back_and_not_beyond_a_fork(
    node: Node, goes_back: bool, fork: str | None, wanted: Segment | None
) -> None:
    server = running_server(node.data)
    assert server is not None
    one = Recovery(server, node.archive.layout, Cache(caches(node), server), 0, goes_back=goes_back)
    one.moved(segment(6))
    one.barren.update([segment(7), segment(7, 2)])
    if fork is not None:
        one.read(parse_history(2, f"1\t{fork}\tx\n".encode()))
    assert one.wanted(1 << 30) == wanted


# --------------------------------------------------------------------------------------------------------------- bounds


def test_p9_what_lies_ready_is_bounded(node: Node) -> None:
    node.configure(ahead="3MiB")
    store(node, *map(segment, range(6, 16)))
    with answering(node):
        assert node.restore() == exits.DELIVERED
        wait_ready(node, *map(segment, range(6, 9)))
        assert node.restore(segment(6).name) == exits.DELIVERED
        wait_ready(node, *map(segment, range(7, 10)))
        assert node.restore(segment(12).name) == exits.DELIVERED  # it jumps: what lay ready is of no use
        wait_ready(node, *map(segment, range(13, 16)))
    assert not caches(node).exists()


def test_p9_it_fetches_by_as_many_threads_as_it_may_and_by_one_when_enough_lies_ready(node: Node) -> None:
    """So that the server has a processor to replay on."""
    node.configure(workers=3)
    store(node, *map(segment, range(6, 20)))
    keys = {node.archive.layout.file(segment(number), ".zst"): number for number in range(6, 20)}
    others: dict[int, int] = {}
    fetching, lock = set[str](), threading.Lock()

    def before(_: str, key: str) -> None:
        if key in keys:
            with lock:
                others[keys[key]] = len(fetching)
                fetching.add(key)
            time.sleep(0.02)

    def after(_: str, key: str) -> None:
        with lock:
            fetching.discard(key)

    node.store.before, node.store.after = before, after
    with answering(node):
        assert node.restore() == exits.DELIVERED
        wait_ready(node, *map(segment, range(6, 20)))
    assert 0 < max(others.values()) < 3
    assert [others[number] for number in range(14, 20)] == [0] * 6  # when 14 is chosen, six lie ready


@pytest.mark.parametrize("end", ["idle", "gone"])
def test_what_lies_ready_is_removed_when_nobody_asks_any_more(
    node: Node, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    store(node, segment(6))
    with answering(node):
        assert node.restore() == exits.DELIVERED
        wait_ready(node, segment(6))
        if end == "idle":
            monkeypatch.setattr(prefetch, "IDLE_SECONDS", 0.1)
        else:
            (node.data / "postmaster.pid").unlink()
        wait_until(lambda: not caches(node).exists(), "the cache's end")
        assert node.restoring.prefetcher.recoveries == 0


def test_what_killed_processes_left_is_removed(node: Node) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = caches(node) / f"{gone.pid}-1.1"
    left.mkdir(parents=True)
    (left / SEGMENT.name).touch()
    run = node.lock.parent
    (run / "ready").mkdir(mode=0o700)
    (run / "ready" / "1.1.x").symlink_to(left)
    with answering(node):
        assert node.restore() == exits.DELIVERED
        assert not left.exists()
    node.begin()
    assert not (run / "ready" / "1.1.x").is_symlink()


# --------------------------------------------------------------------------------------------------------------- honesty


def test_p6_absent_is_found_out_anew_each_time(agent: Node) -> None:
    assert agent.restore() == exits.DELIVERED
    for _ in range(3):
        assert agent.restore(segment(6).name) == exits.ABSENT
        assert agent.restore("00000002.history") == exits.ABSENT
    store(agent, segment(6))
    agent.archive.archive_history(2, b"1\t0/750000\tx\n")
    assert agent.restore(segment(6).name) == exits.DELIVERED
    assert agent.restore("00000002.history") == exits.DELIVERED


def test_p6_a_damaged_segment_ahead_is_found_out_by_its_own_request(agent: Node) -> None:
    store(agent, *map(segment, range(6, 10)))
    key = agent.archive.layout.file(segment(7), ".zst")
    whole = agent.store.objects[key]
    agent.store.objects[key] = (whole[0][:-1], whole[1])
    assert agent.restore() == exits.DELIVERED
    assert agent.restore(segment(6).name) == exits.DELIVERED
    assert agent.restore(segment(7).name) == exits.ASK_AGAIN
    agent.store.objects[key] = whole
    assert agent.restore(segment(7).name) == exits.DELIVERED
    assert agent.restore(segment(8).name) == exits.DELIVERED


def test_p6_no_room_where_it_would_lie_ready_costs_nothing_but_time(
    agent: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Cache, "lay", full)
    store(agent, segment(6), segment(7))
    for number in (5, 6, 7):
        assert agent.restore(segment(number).name) == exits.DELIVERED


@pytest.mark.parametrize("removed", [True, False])
def test_what_fails_on_its_way_to_a_server_that_was_removed_is_no_error(
    node: Node, monkeypatch: pytest.MonkeyPatch, *, removed: bool
) -> None:
    """As a proof's is at its end."""
    begun, go, tried = threading.Event(), threading.Event(), threading.Event()
    store(node, segment(6))
    lay, fetch, failed = Cache.lay, Prefetcher._fetch, list[Segment]()

    def late(cache: Cache, name: str, parts: Any) -> None:
        if name == segment(6).name:
            begun.set()
            go.wait(60)
            if not removed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        lay(cache, name, parts)

    def whole(prefetcher: Prefetcher, recovery: Recovery, one: Segment) -> None:
        fetch(prefetcher, recovery, one)
        if one == segment(6):
            tried.set()

    monkeypatch.setattr(Cache, "lay", late)
    monkeypatch.setattr(Prefetcher, "_fetch", whole)
    monkeypatch.setattr(Prefetcher, "_failed", lambda _, one, __: failed.append(one))
    with answering(node):
        assert node.restore() == exits.DELIVERED
        assert begun.wait(60)
        if removed:
            shutil.rmtree(caches(node).parent)
        go.set()
        assert tried.wait(60)
    assert failed == ([] if removed else [segment(6)])


@pytest.mark.parametrize("kind", ["a file", "of others"])
def test_where_nothing_can_lie_ready_all_is_served_all_the_same(node: Node, kind: str) -> None:
    if kind == "a file":
        caches(node).parent.touch()
    else:
        caches(node).mkdir(parents=True)
        caches(node).chmod(0o777)
    store(node, segment(6))
    with answering(node):
        assert node.restore() == exits.DELIVERED
        assert node.restore(segment(6).name) == exits.DELIVERED


def test_pg_rewind_is_served_straight_from_the_store(agent: Node) -> None:
    """Its server is down."""
    (agent.data / "postmaster.pid").unlink()
    store(agent, segment(6), segment(7))
    for number in (7, 6, 5):
        assert agent.restore(segment(number).name) == exits.DELIVERED
    assert not caches(agent).exists()


# ------------------------------------------------------------------------------------------------------------ slow stores


def hold(node: Node, go: threading.Event) -> None:
    node.store.before = lambda *_: (go.wait(60) and None) or None


def test_p9_what_comes_too_late_for_who_asked_is_there_when_it_asks_again(
    agent: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "SILENCE", 0.2)
    go = threading.Event()
    hold(agent, go)
    assert agent.restore() == exits.ASK_AGAIN
    go.set()
    wait_ready(agent, SEGMENT)
    asked = len(agent.store.calls)
    assert agent.restore() == exits.DELIVERED
    assert (agent.data / "pg_wal" / "RECOVERYXLOG").read_bytes() == PLAIN
    assert ("get", agent.archive.layout.file(SEGMENT, ".zst")) not in agent.store.calls[asked:]


def test_in_archive_recovery_a_slow_answer_is_waited_for(agent: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "SILENCE", 0.2)
    (agent.data / "standby.signal").rename(agent.data / "recovery.signal")
    store(agent, segment(6))  # else that one would lie ready again
    go = threading.Event()
    hold(agent, go)
    threading.Timer(1, go.set).start()
    assert agent.restore() == exits.DELIVERED
    assert agent.store.calls.count(("get", agent.archive.layout.file(SEGMENT, ".zst"))) == 1


def test_p6_in_archive_recovery_no_answer_at_all_is_the_deadlines_end(
    node: Node, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving, "SILENCE", 0.2)
    node.configure(deadline="1s")
    (node.data / "standby.signal").rename(node.data / "recovery.signal")
    go = threading.Event()
    hold(node, go)
    with answering(node):
        assert node.restore() == exits.STOP_RECOVERY
        go.set()
    said = capfd.readouterr().err
    assert f"restore_failed file={SEGMENT.name} exit=255 " in said
    assert "HINT: " in said


def test_two_who_ask_for_the_same_share_one_fetch(agent: Node) -> None:
    go = threading.Event()
    hold(agent, go)
    answers: list[Any] = []
    request = {"file": SEGMENT.name, "destination": str(agent.data / "pg_wal" / "x"), "pid": os.getpid()}
    threads = [
        threading.Thread(target=lambda pid=pid: answers.append(agent.restoring.answer({**request, "pid": pid})))
        for pid in (os.getpid(), os.getppid())
    ]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert [answer["delivered"] for answer in answers] == [True, True]
