"""``durability: store`` on a real server: when a commit returns, when it does not, and when the server may go."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import psycopg
import pytest

from tests.fixtures.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from tests.parts.postgres import Postgres
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.archiver import lease, received
from walkeeper.archive import tail
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.tail_read import read_tail
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.synchronous import standby_name
from walkeeper.errors import StoreUnavailable

pytestmark = pytest.mark.postgres
SIZE = SegmentSize(MIB)


class Held:
    """A store whose pieces and segments wait at a gate."""

    def __init__(self) -> None:
        self.store = MemoryStore(before=self._before)
        self.open = threading.Event()
        self.open.set()
        self.waiting = 0

    def _before(self, call: str, key: str) -> None:
        if call == "create" and ("/tail/" in key or "/wal/" in key):
            self.waiting += 1
            if not self.open.wait(60):
                raise StoreUnavailable("held up")


class Committing:
    """One server that leads, whose commits wait for the store, and its agent."""

    def __init__(self, server: Postgres, directory: Path, **changes: object) -> None:
        prepare(server)
        server.execute("CREATE TABLE t (n int)")
        self.server = server
        self.held = Held()
        self.dcs = MemoryDcs(slots=(HOLD_SLOT,))
        self.dcs.set_leader("a")
        self.layout = Layout("demo", None, server.system_identifier)
        config = config_of(server, "a", directory, receiver="builtin", durability="store", **changes)
        self.running = RunningAgent(config, self.held.store, self.dcs)
        self.name = standby_name(server.system_identifier)
        self._threads = ThreadPoolExecutor(8)

    def __enter__(self) -> Self:
        self.running.__enter__()
        wait_for(self.standby)
        for statement in (f"ALTER SYSTEM SET synchronous_standby_names = '{self.name}'", "SELECT pg_reload_conf()"):
            self.server.execute(statement)
        wait_for(lambda: self.standby() == "sync")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.held.open.set()
        self.running.__exit__(kind, error, where)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def standby(self) -> str | None:
        found = self.server.execute(
            f"SELECT sync_state FROM pg_stat_replication WHERE application_name = '{self.name}' AND state = 'streaming'"
        )
        return str(found[0][0]) if found else None

    def commit(self, rows: int = 1) -> Future[Lsn]:
        """A commit on its way; its result is a position below its end."""

        def insert() -> Lsn:
            with psycopg.connect(self.server.conninfo()) as session:
                session.execute("INSERT INTO t SELECT generate_series(1, %s)", [rows])
                row = session.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
                session.commit()
                assert row is not None
                return Lsn.parse(row[0])

        return self._threads.submit(insert)

    def waiters(self) -> int:
        return int(str(self.server.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")))

    def stored(self) -> Lsn:
        """Up to where the store has timeline 1, by what a restore would read."""
        number = Segment.parse(self.running.record.start, SIZE).number
        while True:
            segment = Segment(1, number, SIZE)
            found = read_tail(self.held.store, self.layout, Codec(), segment.name).assembled
            reached = len(found.plain) if found else 0
            if any(key.startswith(self.layout.file(segment, "")) for key in self.held.store.objects):
                reached = SIZE
            if reached < SIZE:
                return Lsn(segment.start + reached)
            number += 1

    def problems(self) -> set[str]:
        return self.running.problems()


def test_a_commit_returns_when_the_store_has_it_and_not_before(postgres: Postgres, tmp_path: Path) -> None:
    with Committing(postgres, tmp_path) as one:
        for _ in range(5):
            end = one.commit().result(30)
            assert one.stored() > end
        one.held.open.clear()
        commits = [one.commit() for _ in range(3)]
        wait_for(lambda: one.waiters() == 3 and one.held.waiting)
        assert not any(commit.done() for commit in commits)
        one.held.open.set()
        for commit in commits:
            assert commit.result(30) < one.stored()


def test_a_session_that_says_so_changes_a_role_while_all_others_wait(postgres: Postgres, tmp_path: Path) -> None:
    """docs/operations.md"""
    with Committing(postgres, tmp_path) as one:
        one.held.open.clear()
        commit = one.commit()
        wait_for(lambda: one.waiters() == 1)
        with psycopg.connect(postgres.conninfo(), autocommit=True) as session:
            session.execute("SET synchronous_commit TO local")
            session.execute("ALTER ROLE CURRENT_USER CONNECTION LIMIT 100")
        assert not commit.done()
        one.held.open.set()
        end = commit.result(30)
        assert one.stored() > end


def test_p9_clients_that_hold_all_connections_do_not_keep_the_agent_from_acknowledging(
    make_postgres: Callable[..., Postgres], tmp_path: Path
) -> None:
    """The member has just been promoted: they came first, and wait for it."""
    few = {"max_connections": "10", "superuser_reserved_connections": "3", "max_wal_senders": "5"}
    server = make_postgres(settings=few)
    one = Committing(server, tmp_path)
    one.dcs.set_leader("b")
    for statement in (
        "CREATE ROLE app LOGIN; GRANT INSERT ON t TO app",
        f"ALTER SYSTEM SET synchronous_standby_names = '{one.name}'",
        "SELECT pg_reload_conf()",
    ):
        server.execute(statement)

    def commit() -> None:
        with suppress(psycopg.OperationalError), psycopg.connect(server.conninfo(user="app")) as session:
            session.execute("INSERT INTO t VALUES (1)")

    with one.running, ThreadPoolExecutor(10) as clients:
        commits = [clients.submit(commit) for _ in range(10)]
        wait_for(lambda: one.waiters() + sum(each.done() for each in commits) == 10)
        assert one.waiters() >= 5
        one.dcs.set_leader("a")
        for each in commits:
            each.result(60)


def test_a_long_load_over_segment_ends_is_acknowledged_and_leaves_few_objects(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received, "ROOM", 2 * MIB)
    with Committing(postgres, tmp_path) as one:
        for _ in range(4):
            with psycopg.connect(postgres.conninfo()) as session:
                session.execute("INSERT INTO t SELECT generate_series(1, 30000)")
                row = session.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
            assert row is not None
            assert one.stored() > Lsn.parse(row[0])
        end = one.commit().result(30)
        one.running.wait_frontier(end)
        opened = Segment.at(1, end, SIZE)
        wait_for(lambda: {piece.segment for piece in tail.stored_pieces(one.held.store, one.layout)} <= {opened.name})


@pytest.mark.parametrize("rows", [1, 40000])
def test_p9_a_server_that_shuts_down_does_not_wait_for_the_store(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Nor where more waits than the agent has room for."""
    monkeypatch.setattr(received, "ROOM", MIB // 4)
    with Committing(postgres, tmp_path) as one:
        one.commit().result(30)
        one.held.open.clear()
        commit = one.commit(rows)
        wait_for(lambda: one.waiters() == 1 and one.held.waiting)
        postgres.stop("fast", timeout=20)  # it raises where that takes longer
        with pytest.raises(psycopg.Error):
            commit.result(30)


def test_p8_a_server_that_was_shut_down_has_its_session_ended_and_another_start_begins_another(
    postgres: Postgres, tmp_path: Path
) -> None:
    with Committing(postgres, tmp_path) as one:
        one.commit().result(30)
        session = one.running.record.session
        postgres.stop("fast")
        wait_for(lambda: one.running.record.closed_by == "a")
        assert one.running.record.session == session
        postgres.start()
        one.commit().result(30)
        assert (one.running.record.closed_by, one.running.record.session == session) == ("", False)


def test_p9_a_stream_that_a_stray_signal_ended_begins_again_and_the_session_goes_on(
    postgres: Postgres, tmp_path: Path
) -> None:
    """A walsender takes SIGUSR2 for the server's shutdown, and ends in the same way."""
    with Committing(postgres, tmp_path) as one:
        one.commit().result(30)
        walsenders = "SELECT max(pid) FROM pg_stat_replication"
        pid = int(str(postgres.value(walsenders)))
        os.kill(pid, signal.SIGUSR2)
        wait_for(lambda: postgres.value(walsenders) not in (pid, None))
        one.commit().result(30)
        assert one.running.record.closed_by == ""


def test_p8_who_is_fenced_acknowledges_nothing_more(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE", 1.0)
    monkeypatch.setattr(lease, "RENEWED", 0.3)
    with Committing(postgres, tmp_path) as one:
        one.commit().result(30)
        one.held.open.clear()
        commit = one.commit()
        wait_for(lambda: one.waiters() == 1 and one.held.waiting)
        another = msgspec.structs.replace(one.running.record, session="f" * 32, closed_by="b")
        records = MemoryRecord(one.dcs)
        records.write(another.encode(), records.read())
        one.dcs.set_leader("b")
        archiver = one.running.agent.archiver
        assert archiver is not None
        synchronous = archiver.synchronous
        assert synchronous is not None
        wait_for(lambda: not synchronous._lease.holds())
        one.held.open.set()
        wait_for(lambda: one.standby() is None)
        assert one.waiters() == 1
        assert not commit.done()


def test_p8_a_silent_dcs_ends_the_lease_and_its_answer_begins_it_again(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE", 1.0)
    monkeypatch.setattr(lease, "RENEWED", 0.3)
    with Committing(postgres, tmp_path) as one:
        one.commit().result(30)
        archiver = one.running.agent.archiver
        assert archiver is not None
        synchronous = archiver.synchronous
        assert synchronous is not None
        one.running.records.cut_off = True
        wait_for(lambda: not synchronous._lease.holds())
        commit = one.commit()
        wait_for(lambda: one.waiters() == 1 and one.stored() > Lsn.parse(postgres.lsn()) - 1000)
        assert not commit.done()
        one.running.records.cut_off = False
        commit.result(30)


def test_degrade_after_goes_on_without_the_store_loudly_until_it_has_caught_up(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received, "ROOM", MIB // 2)
    with Committing(postgres, tmp_path, degrade_after=1.0) as one:
        one.commit().result(30)
        assert "archiver_degraded" not in one.problems()
        one.held.open.clear()
        before = one.stored()
        assert one.commit().result(30) >= before
        assert one.stored() == before
        assert "archiver_degraded" in one.problems()
        for _ in range(12):  # more than there is room for
            with psycopg.connect(postgres.conninfo()) as session:
                session.execute("INSERT INTO t SELECT generate_series(1, 10000)")
        end = one.commit().result(30)
        one.held.open.set()
        wait_for(lambda: "archiver_degraded" not in one.problems())
        assert one.stored() > end
        one.held.open.clear()
        assert not one.commit().done()
