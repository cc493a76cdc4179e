"""archive-push through the agent: on a real PostgreSQL with archive_mode on; store and DCS in memory, so that they can fail."""

from __future__ import annotations

import collections
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from tests.agent.test_lost_wal import Pair
from tests.core.values import history_text, paged_segment
from tests.fixtures.pushing import SCRIPT
from tests.fixtures.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from tests.parts.postgres import Postgres
from tests.twins.memory_record import MemoryDcs
from tests.twins.memory_store import MemoryStore
from walkeeper.agent import archive_push, problems
from walkeeper.agent.archive_push import Pushing
from walkeeper.agent.archiver import refusals
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import fetch
from walkeeper.archive.seen import Seen, place_of
from walkeeper.archive.write import Archive
from walkeeper.core.about import About
from walkeeper.core.history import History, Switch, parse_history
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.errors import (
    ArchiveMissing,
    AtIt,
    BadName,
    Conflict,
    DcsUnavailable,
    NoLeadership,
    PostgresError,
    StoreUnavailable,
    WrongCluster,
)
from walkeeper.lib.clock import SystemClock
from walkeeper.postgres import wal_file
from walkeeper.postgres.data_directory import is_stopping
from walkeeper.push.place import Place
from walkeeper.push.storing import Pushed

pytestmark = pytest.mark.postgres
SIZE = SegmentSize(MIB)
MODES = ["streaming", "command"]
NEVER = {"archive_mode": "on", "archive_command": "false"}


class Node:
    """One server that leads and whose archive_command fails until ``archive_with``, its agent, and what the store was asked."""

    def __init__(self, server: Postgres, directory: Path, mode: str) -> None:
        prepare(server)
        self.server = server
        self.store = MemoryStore()
        self.dcs = MemoryDcs(slots=(HOLD_SLOT,))
        self.dcs.set_leader("a")
        self.layout = Layout("demo", None, server.system_identifier)
        self.archive = Archive(self.store, self.layout, SIZE, Codec())
        self.creates: collections.Counter[str] = collections.Counter()
        self.held = False
        self.refused: set[str] = set()
        self.store.before = self._before
        self.config = config_of(server, "a", directory, archiver=mode)
        self.agent = RunningAgent(self.config, self.store, self.dcs)
        self.run = directory / "run"
        self.run.mkdir(mode=0o700)
        self.pushing = Pushing(self.agent.agent, self.run, SystemClock())

    def _before(self, call: str, key: str) -> None:
        if call == "create" and "/wal/" in key:
            if self.held or key.rpartition("/")[2].removesuffix(".zst") in self.refused:
                raise StoreUnavailable("held up")
            self.creates[key.rpartition("/")[2].removesuffix(".zst")] += 1

    def push(self, name: str) -> object:
        return self.pushing.answer({"path": f"pg_wal/{name}", "cwd": str(self.server.data)})

    def push_until_done(self, name: str) -> None:
        def done() -> bool:
            try:
                self.push(name)
            except AtIt:
                return False
            return True

        wait_for(done)

    def archive_with(self, command: str) -> None:
        with self.server.connect() as connection:
            connection.execute(f"ALTER SYSTEM SET archive_command = '{command}'".encode())
        self.server.execute("SELECT pg_reload_conf()")

    def handed_over(self, name: str) -> bool:
        return (self.server.pg_wal / "archive_status" / f"{name}.done").exists()

    def markers(self) -> set[str]:
        return {path.name for path in self.run.rglob("0*") if len(path.name) == 24}


@pytest.fixture
def make(make_postgres: Callable[..., Postgres], short_path: Path) -> Iterator[Callable[[str], Node]]:
    made: list[Node] = []
    threads: list[threading.Thread] = []

    def start(mode: str) -> Node:
        node = Node(make_postgres(settings=NEVER), short_path, mode)
        made.append(node)
        node.agent.__enter__()
        wait_for(lambda: node.agent.archiving)
        threads.append(threading.Thread(target=node.pushing.run))
        threads[-1].start()
        return node

    yield start
    for node in made:
        node.pushing.stop()
        node.agent.__exit__(None, None, None)
    for thread in threads:
        thread.join(20)


def test_p13_what_a_server_that_was_started_again_hands_over_waits_until_it_was_compared(
    make: Callable[[str], Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its volume may have gone back. Here the DCS is away, and then the takeover is refused."""
    monkeypatch.setattr(refusals, "LOOK_AGAIN", 5.0)
    node = make("command")
    for name in node.server.complete_segments(2):
        node.push_until_done(name)
    node.agent.wait_frontier(Segment.parse(name, SIZE).end)
    node.dcs.down = True
    node.server.kill9()
    node.server.start()
    name = node.server.switch_wal()
    wait_for(lambda: not node.agent.archiving)
    with pytest.raises(PostgresError, match="started again"):
        node.push_until_done(name)
    elsewhere, node.store.objects = node.store.objects, {}
    node.dcs.down = False
    wait_for(lambda: node.agent.agent.refusals.problem)
    with pytest.raises(ArchiveMissing):
        node.push_until_done(name)
    assert node.creates[name] == 0
    node.store.objects = elsewhere
    node.agent.agent.poke()
    wait_for(lambda: node.agent.archiving, 90)
    node.push_until_done(name)


def test_p13_what_is_handed_over_waits_for_the_first_takeover_of_an_agent(
    make: Callable[[str], Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole host was started again. Nobody has compared the server with the archive, nor looked whether the store has one."""
    monkeypatch.setattr(archive_push, "TAKEOVER_SECONDS", 2.0)
    node = make("command")
    name = node.server.switch_wal()
    pushed: list[Place] = []

    def push(place: Place, *_: object) -> Pushed:
        pushed.append(place)
        return Pushed()

    begun = RunningAgent(node.config, node.store, node.dcs).agent
    running, node.pushing = node.pushing, Pushing(begun, node.run, SystemClock())
    monkeypatch.setattr(node.pushing._pusher, "push", push)  # of that one: the other looks ahead meanwhile
    begun.problems.report(About.POSTGRESQL, PostgresError("the server starts"))  # as the last look before it did
    begun.shut_out_at = SystemClock().monotonic()
    with pytest.raises(PostgresError, match="not taken over yet"):
        node.push_until_done(name)
    assert pushed == []
    begun.untried = False
    node.push_until_done(name)
    assert [place.name for place in pushed] == [name]
    node.pushing = running


def test_p13_a_record_that_is_not_read_in_time_ends_no_wait_for_the_takeover(
    make_postgres: Callable[..., Postgres], short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The takeover has read it already, or reads it a moment later."""
    monkeypatch.setattr(archive_push, "TAKEOVER_SECONDS", 2.0)
    server = make_postgres(settings=NEVER)
    node = Node(server, short_path, "command")  # its agent takes nothing over
    name = server.switch_wal()
    records = node.agent.agent.records

    def late() -> NoReturn:
        raise DcsUnavailable("no answer", hint="A test did this.")

    monkeypatch.setattr(records, "read", late)
    with pytest.raises(PostgresError, match="not taken over yet"):
        node.push_until_done(name)
    assert node.creates[name] == 0


def test_p13_what_a_refused_primary_hands_over_while_it_stops_is_refused_too(
    make_postgres: Callable[..., Postgres], short_path: Path
) -> None:
    """And by Patroni, once it has stopped and the leader key is gone: PostgreSQL would take it for archived."""
    server = make_postgres(settings=NEVER)
    node = Node(server, short_path, "command")
    with node.agent:
        node.agent.wait_frontier(Segment.parse(server.complete_segments(1)[-1], SIZE).end)
    node.store.objects.clear()
    node.creates.clear()
    shutil.rmtree(node.config.spool_directory)  # what this host has seen
    name = server.switch_wal()
    with RunningAgent(node.config, node.store, node.dcs) as agent:
        node.pushing = Pushing(agent.agent, node.run, SystemClock())
        wait_for(lambda: agent.agent.refusals.problem)

        def is_refused() -> None:
            with pytest.raises(ArchiveMissing):
                node.push_until_done(name)

        is_refused()
        with server.connect():
            os.kill(server.pid, signal.SIGTERM)  # waits for that session
            wait_for(lambda: is_stopping(server.data))
            is_refused()
            node.dcs.set_leader(None)
            wait_for(lambda: agent.agent.observer.observation.leader is None)
            is_refused()
        server.stop()
        is_refused()
        node.dcs.set_leader("b")
        wait_for(lambda: agent.agent.observer.observation.leader == "b")
        is_refused()
    assert node.creates[name] == 0


def test_an_agent_that_cannot_get_into_postgresql_holds_up_nothing_that_is_handed_over(
    make_postgres: Callable[..., Postgres], short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its password is wrong, or there are too many connections. It can try no takeover, however long that is."""
    monkeypatch.setattr(problems, "GRACE_SECONDS", 0.5)
    server = make_postgres(settings=NEVER)
    node = Node(server, short_path, "command")
    name = server.switch_wal()
    shut_out = replace(node.config, node=replace(node.config.node, postgresql=replace(node.config.postgresql, port=1)))
    with RunningAgent(shut_out, node.store, node.dcs) as agent:
        node.pushing = Pushing(agent.agent, node.run, SystemClock())
        node.push_until_done(name)
        assert "postgresql" in agent.problems()
        assert agent.agent.untried
    assert node.creates[name] == 1


def test_g3_where_the_dcs_denies_the_record_what_is_handed_over_is_stored(
    make_postgres: Callable[..., Postgres], short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takeover ends there, however long that is. What it had to compare it had compared before, of that run of the server."""
    monkeypatch.setattr(archive_push, "TAKEOVER_SECONDS", 2.0)
    server = make_postgres(settings=NEVER)
    node = Node(server, short_path, "command")
    node.agent.records.read_only = True
    name = server.switch_wal()

    def stored(name: str) -> bool:
        try:
            node.push_until_done(name)
        except PostgresError:
            return False
        return True

    with node.agent:
        wait_for(lambda: stored(name))
        assert not node.agent.archiving
        wait_for(lambda: "takeover_failed" in node.agent.problems())
        with monkeypatch.context() as patch:
            patch.setattr(node.agent.agent, "_try_takeover", lambda *_: None)  # as in the seconds before the next one
            server.restart()
            second = server.switch_wal()
            with pytest.raises(PostgresError, match=r"started again|not taken over yet"):
                node.push_until_done(second)
        wait_for(lambda: stored(second))
    assert (node.creates[name], node.creates[second]) == (1, 1)


def test_g3_what_the_dcs_denies_after_it_was_compared_is_refused_no_longer(
    make_postgres: Callable[..., Postgres], short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's disk was not mounted. Once it is, takeovers compare well, and the DCS takes no record from them."""
    monkeypatch.setattr(refusals, "LOOK_AGAIN", 0.5)
    server = make_postgres(settings=NEVER)
    node = Node(server, short_path, "command")
    with node.agent:
        node.agent.wait_frontier(Segment.parse(server.complete_segments(1)[-1], SIZE).end)
    elsewhere, node.store.objects = node.store.objects, {}
    name = server.switch_wal()
    agent = RunningAgent(node.config, node.store, node.dcs)
    agent.records.read_only = True
    with agent:
        node.pushing = Pushing(agent.agent, node.run, SystemClock())
        wait_for(lambda: agent.agent.refusals.problem)
        with pytest.raises(ArchiveMissing):
            node.push_until_done(name)
        node.store.objects = elsewhere
        wait_for(lambda: agent.agent.refusals.problem is None)
        node.push_until_done(name)
        assert not agent.archiving
    assert node.creates[name] == 1


def test_g3_a_record_that_may_not_be_read_is_as_a_dcs_that_is_away(
    make_postgres: Callable[..., Postgres], short_path: Path
) -> None:
    """No takeover can compare anything, however long that is: only the archive that this host has seen is stored into."""
    server = make_postgres(settings=NEVER)
    node = Node(server, short_path, "command")
    node.agent.records.denied = True
    first, second = server.switch_wal(), server.complete_segments(1)[0]
    with node.agent:
        node.push_until_done(first)
        wait_for(lambda: "takeover_failed" in node.agent.problems())
        assert node.agent.agent.untried
        node.config.spool_directory.mkdir(mode=0o700, exist_ok=True)
        Seen(node.config.spool_directory).keep("file:///elsewhere/demo")
        with pytest.raises(ArchiveMissing):
            node.push_until_done(second)
    assert (node.creates[first], node.creates[second]) == (1, 0)


def test_p13_the_store_is_looked_at_again_where_the_archive_was_seen_since(
    make_postgres: Callable[..., Postgres], short_path: Path
) -> None:
    """An agent that had seen none began to serve."""
    server = make_postgres(settings=NEVER)
    node = Node(server, short_path, "command")  # its agent takes nothing over
    node.dcs.down = True
    first, second = server.switch_wal(), server.complete_segments(1)[0]
    node.push_until_done(first)
    node.config.spool_directory.mkdir(mode=0o700)
    Seen(node.config.spool_directory).keep(place_of(node.agent.agent.archives, server.system_identifier))
    with pytest.raises(ArchiveMissing, match="no archive is there"):
        node.push_until_done(second)
    assert set(node.creates) == {first}
    node.archive.state_start(Segment.parse(first, SIZE))
    node.push_until_done(second)
    asked: list[str] = []
    node.store.before = lambda call, _: asked.append(call)
    node.push_until_done(second)
    assert "list" not in asked


@pytest.mark.parametrize("mode", MODES)
def test_a_call_is_answered_when_the_archive_has_it_and_nothing_is_uploaded_twice(
    make: Callable[[str], Node], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_push, "TAKEN_UP", 30)
    node = make(mode)
    names = []
    for _ in range(10):
        names.append(name := node.server.switch_wal())
        node.push_until_done(name)  # most of these calls come between two looks into pg_wal
        assert fetch(node.store, node.layout, Codec(), name) == (node.server.pg_wal / name).read_bytes()
    node.agent.wait_frontier(Segment.parse(names[-1], SIZE).end)
    wait_for(lambda: Lsn.parse(node.server.restart_lsn(HOLD_SLOT) or "0/0") >= Segment.parse(names[-1], SIZE).start)
    for name in names:
        node.push(name)
    assert set(node.creates.values()) == {1}
    # By hand, for what PostgreSQL has handed over, the store is looked at.
    status = node.server.pg_wal / "archive_status"
    (status / f"{names[0]}.ready").rename(status / f"{names[0]}.done")
    node.store.delete(node.layout.file(Segment.parse(names[0], SIZE), ".zst"))
    node.push_until_done(names[0])
    assert fetch(node.store, node.layout, Codec(), names[0]) is not None


def test_command_mode_needs_no_replication_connection_and_no_spool(make: Callable[[str], Node]) -> None:
    """Nobody calls: the agent goes ahead of PostgreSQL's archiver."""
    node = make("command")
    names = node.server.complete_segments(6)
    node.agent.wait_frontier(Segment.parse(names[-1], SIZE).end)
    assert node.server.execute("SELECT pid FROM pg_stat_replication") == []
    assert list(node.agent.agent.spool.wal.iterdir()) == []
    assert {name: node.creates[name] for name in names} == dict.fromkeys(names, 1)


@pytest.mark.parametrize("mode", MODES)
def test_p1_a_call_is_never_answered_before_the_store_has_it(
    make: Callable[[str], Node], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_push, "ANSWER", 0.3)
    node = make(mode)
    node.held = True
    (name,) = node.server.complete_segments(1)
    for _ in range(3):
        with pytest.raises((AtIt, StoreUnavailable)):
            node.push(name)
    assert node.markers() == set()
    node.held = False

    def stored() -> bool:
        try:
            node.push(name)
        except (AtIt, StoreUnavailable):
            return False
        return True

    wait_for(stored)
    assert fetch(node.store, node.layout, Codec(), name) is not None


@pytest.mark.parametrize("mode", MODES)
def test_p3_other_bytes_in_the_store_are_a_loud_conflict_and_are_never_acknowledged(
    make: Callable[[str], Node], mode: str
) -> None:
    node = make(mode)
    name = Segment.parse(node.server.switch_wal(), SIZE)
    following = node.agent.agent.archiver
    assert following is not None
    ahead = following.history.segment(name.number + 1, SIZE)
    body = Codec().encode(b"\0" * SIZE)
    node.store.create(node.layout.file(ahead, ".zst"), body, {"sha256": "0" * 64, "size": str(int(SIZE))})
    assert node.server.switch_wal() == ahead.name

    def refused() -> bool:
        try:
            node.push(ahead.name)
        except AtIt:
            return False
        except Conflict:
            return True
        raise AssertionError("acknowledged")

    wait_for(refused)
    assert "push_refused" in node.agent.problems()
    assert following.uploads.conflict == ahead
    assert ahead.name not in node.markers()
    assert node.agent.frontier <= ahead.start


def test_other_bytes_of_a_file_that_is_not_this_servers_say_nothing_of_it(make: Callable[[str], Node]) -> None:
    node = make("command")
    following = node.agent.agent.archiver
    assert following is not None
    far = following.history.segment(200, SIZE)
    node.store.create(
        node.layout.file(far, ".zst"), Codec().encode(b"\0" * SIZE), {"sha256": "0" * 64, "size": str(int(SIZE))}
    )
    elsewhere = node.run / "elsewhere"
    (elsewhere / "pg_wal").mkdir(parents=True)
    (elsewhere / "global").symlink_to(node.server.data / "global")
    for data, met in ((elsewhere, None), (node.server.data, far)):
        (data / "pg_wal" / far.name).write_bytes(paged_segment(far, node.server.system_identifier, following.history))
        with pytest.raises(Conflict):
            node.pushing.answer({"path": f"pg_wal/{far.name}", "cwd": str(data)})
        assert following.uploads.conflict == met
        (data / "pg_wal" / far.name).unlink()


@pytest.mark.parametrize("mode", MODES)
def test_what_is_ready_and_archived_is_marked_and_handed_over_by_the_shell_alone(
    make: Callable[[str], Node], mode: str
) -> None:
    node = make(mode)
    names = node.server.complete_segments(5)
    wait_for(lambda: node.markers() >= set(names))
    node.config.source.write_text("")
    command = f"WALKEEPER_RUN_DIR={node.run} WALKEEPER_PYTHON=/bin/false {SCRIPT} -c {node.config.source} %p"
    node.archive_with(command)
    wait_for(lambda: all(node.handed_over(name) for name in names), 30)  # Python was never started


def test_in_a_backlog_an_answer_marks_what_comes_next_and_nothing_that_is_not_stored(
    make: Callable[[str], Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_push, "_ready", lambda _: [])  # nobody else looks ahead
    monkeypatch.setattr(wal_file, "TICK_NS", 0)
    node = make("command")
    names = node.server.complete_segments(1)
    first = Segment.parse(names[0], SIZE)
    node.refused.add(Segment(first.timeline, first.number + 3, SIZE).name)  # before it can be stored
    names += node.server.complete_segments(4)
    assert names[3] in node.refused
    node.agent.wait_frontier(Segment.parse(names[2], SIZE).end)

    def marked() -> bool:
        node.push_until_done(names[0])
        return node.markers() >= set(names[1:3])

    wait_for(marked)  # not at once: the files must be a moment old
    assert names[3] not in node.markers()
    node.refused.clear()
    node.push_until_done(names[3])
    node.push_until_done(names[2])
    wait_for(lambda: node.push(names[2]) == {} and names[3] in node.markers())


def test_p1_a_marked_segment_that_was_changed_is_compared_again(make: Callable[[str], Node]) -> None:
    node = make("command")
    (name,) = node.server.complete_segments(1)
    wait_for(lambda: name in node.markers())
    assert node.push(name) == {}
    path = node.server.pg_wal / name
    plain = path.read_bytes()
    path.write_bytes(plain[:100] + bytes([plain[100] ^ 1]) + plain[101:])  # not in the header of a page
    with pytest.raises(Conflict):
        node.push(name)
    path.write_bytes(plain)
    assert node.push(name) == {}


def test_work_that_takes_long_is_joined_and_not_begun_again(
    make: Callable[[str], Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_push, "ANSWER", 0.1)
    node = make("command")
    node.server.execute("SELECT 1")
    name = node.server.switch_wal()
    node.agent.wait_frontier(Segment.parse(name, SIZE).end)
    go = threading.Event()
    begun: list[str] = []

    def slowly(place: Place) -> None:
        begun.append(place.name)
        go.wait(60)

    monkeypatch.setattr(node.pushing, "_push", slowly)
    node.pushing.stop()
    for _ in range(4):
        with pytest.raises(AtIt):
            node.push(name)
    assert begun == [name]
    go.set()
    wait_for(lambda: node.pushing._jobs and all(job.ended.is_set() for job in node.pushing._jobs.values()))
    assert node.push(name) == {}


def test_what_the_archiver_may_not_touch_is_refused_and_its_thread_survives(make: Callable[[str], Node]) -> None:
    node = make("command")
    for path in ("", "pg_wal/x", "../pg_wal/000000010000000000000001", "/nowhere/pg_wal/000000010000000000000001"):
        with pytest.raises(BadName):
            node.pushing.answer({"path": path, "cwd": str(node.server.data)})
    with pytest.raises(BadName):
        node.pushing.answer({"verb": "push"})
    name = node.server.switch_wal()
    content = bytearray((node.server.pg_wal / name).read_bytes())
    content[24] ^= 1  # the system identifier
    other = f"{name[:8]}000000FF{name[16:]}"
    (node.server.pg_wal / other).write_bytes(content)
    with pytest.raises(WrongCluster):
        node.push(other)
    (node.server.pg_wal / other).unlink()
    node.push_until_done(name)


def test_p4_alone_a_promoted_server_archives_from_the_frontier_what_it_has_as_done(
    make_postgres: Callable[..., Postgres], short_path: Path
) -> None:
    """The primary dies with segments that it had completed and not archived; on its standby they are marked as done."""
    pair = Pair(make_postgres(settings=NEVER), short_path)
    standby = pair.add_standby(hold_slot=True)
    try:
        with pair.agent("a", archiver="command") as agent:
            agent.wait_frontier(Segment.parse(pair.primary.switch_wal(), SIZE).end)
            frontier = agent.frontier

            def hold_up(call: str, key: str) -> None:
                if call == "create" and "/wal/" in key:
                    raise StoreUnavailable("held up")

            pair.store.before = hold_up
            lost = pair.primary.complete_segments(6)
            pair.caught_up()
            pair.primary.kill9()
        assert agent.frontier == frontier
        status = standby.pg_wal / "archive_status"
        assert [name for name in lost if (status / f"{name}.done").exists()] == lost
        had = {name: (standby.pg_wal / name).read_bytes() for name in lost}  # recycled once they are archived
        pair.store.before = lambda *_: None
        pair.dcs.set_leader("b")
        standby.promote()
        with pair.agent("b", archiver="command") as agent:
            end = Segment.parse(standby.switch_wal(), SIZE).end
            agent.wait_frontier(end, 30)
            assert agent.record.gaps_total == 0
            assert standby.execute("SELECT pid FROM pg_stat_replication") == []
        history = parse_history(2, (standby.pg_wal / "00000002.history").read_bytes())
        for segment in pair.chain(history, frontier, end):
            assert pair.archive.find(segment) is not None
            stored = fetch(pair.store, pair.layout, Codec(), segment.name)
            assert stored == (had.get(segment.name) or (standby.pg_wal / segment.name).read_bytes())
        assert {segment.name for segment in pair.archive.contents.segments()} >= set(lost)
    finally:
        standby.close()


def test_what_a_hot_standby_hands_over_is_stored(make_postgres: Callable[..., Postgres], short_path: Path) -> None:
    """``archive_mode = always``: it is ready, too, and nobody's second primary."""
    pair = Pair(make_postgres(settings=NEVER), short_path)
    standby = pair.add_standby(hold_slot=True)
    try:
        name = pair.primary.switch_wal()
        pair.caught_up()
        with pair.agent("b", archiver="command") as agent:
            run = short_path / "run"
            run.mkdir(mode=0o700)
            pushing = Pushing(agent.agent, run, SystemClock())
            wait_for((standby.pg_wal / name).exists)
            asked = {"path": f"pg_wal/{name}", "cwd": str(standby.data)}

            def stored() -> bool:
                try:
                    return pushing.answer(asked) == {}
                except AtIt:
                    return False

            wait_for(stored)
        assert pair.archive.find(Segment.parse(name, SIZE)) is not None
    finally:
        standby.close()


def test_p8_a_primary_that_does_not_lead_takes_no_name_from_the_leader(
    make_postgres: Callable[..., Postgres], short_path: Path
) -> None:
    """Both were promoted at once, one of them by hand: they have the same number, and the same history."""
    server = make_postgres(settings=NEVER)
    node = Node(server, short_path, "command")
    node.dcs.set_leader("b")
    with node.agent:
        name = server.switch_wal()
        with pytest.raises(NoLeadership, match="Patroni's leader is b"):
            node.push_until_done(name)
        assert not node.store.objects
        node.dcs.down = True
        node.push_until_done(name)  # as a leader does, whose archiver has not come up
        node.dcs.down = False
        history = "00000002.history"
        (server.pg_wal / history).write_bytes(history_text(History(2, (Switch(1, Lsn(0xA000A0)),))))
        for led, owner in ((2, "b"), (1, "c")):
            node.dcs.put(a_record(node, led, owner).encode())
            with pytest.raises(NoLeadership):  # the leader has that number, or is about to choose one
                node.push_until_done(history)
        node.dcs.put(a_record(node, 1, "b").encode())
        node.push_until_done(history)  # the leader, promoted once more, must not choose it
        last = server.switch_wal()
        with pytest.raises(NoLeadership, match="PostgreSQL accepts writes here"):
            node.push_until_done(last)
        server.stop()
        with pytest.raises(NoLeadership, match="it was written here"):
            node.push_until_done(last)  # as it is asked again by a server that stops, and by Patroni before a rewind
        node.dcs.put(a_record(node, 1, "a").encode())
        node.push_until_done(last)  # who led did write it as the leader
        assert set(node.creates) == {name, last}
        assert node.archive.contents.history(2) is not None


def a_record(node: Node, timeline: int, owner: str) -> Record:
    return Record(
        system_identifier=str(node.layout.system_identifier), segment_size=MIB, timeline=timeline, lsn="0/900000",
        start="000000010000000000000001", owner=owner, session="s",
    )  # fmt: skip


def test_b4_a_file_that_cannot_be_read_is_waited_for(make: Callable[[str], Node]) -> None:
    node = make("command")
    node.held = True
    name = node.server.switch_wal()
    path = node.server.pg_wal / name
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    node.held = False
    wait_for(lambda: "archiver_store" in node.agent.problems())
    assert name not in node.creates
    path.chmod(0o600)
    node.agent.wait_frontier(Segment.parse(name, SIZE).end, 30)
