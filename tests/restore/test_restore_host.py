"""restore-wal in real recoveries: on a host without an agent, for pg_rewind, for a standby that comes and goes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.fixtures.agents import command_line
from tests.fixtures.archived import BATCH, Archived, archived, rows, wait_rows
from tests.fixtures.restoring import SCRIPT, listening
from tests.fixtures.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from tests.parts.postgres import REPLICATOR, Postgres, restore_server
from tests.parts.processes import new_directory, wait_until
from tests.parts.scripted_s3 import ScriptedS3, deaf
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from walkeeper.config import load
from walkeeper.control import paths
from walkeeper.control.server import AgentLock, ControlServer
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.lib.clock import SystemClock
from walkeeper.restore.serving import Restoring
from walkeeper.store.directory import DirectoryStore
from walkeeper.store.open import open_store

pytestmark = pytest.mark.postgres
SEGMENTS = 12


@pytest.fixture(scope="module")
def archive() -> Archived:
    return archived(1, SEGMENTS)


class Bare:
    """A host without an agent: servers on the archive's backup, and a run directory."""

    def __init__(self, archive: Archived) -> None:
        self.archive = archive
        self.directory = new_directory("h")
        self.run = self.directory / "run"
        self.run.mkdir(mode=0o700)
        self.servers: list[Postgres] = []

    def command(self) -> str:
        return f"{SCRIPT} -c {self.archive.config} %f %p"

    def environment(self) -> dict[str, str]:
        return {"WALKEEPER_RUN_DIR": str(self.run), "WALKEEPER_PYTHON": os.environ["WALKEEPER_PYTHON"]}

    def server(self, signal_file: str = "recovery.signal", **settings: str) -> Postgres:
        server = restore_server(
            self.archive.backup, self.directory / f"pg{len(self.servers)}", self.command(),
            signal_file=signal_file,  # type: ignore[arg-type]
            settings={"wal_retrieve_retry_interval": "100ms", **settings}, env=self.environment(),
        )  # fmt: skip
        self.servers.append(server)
        return server

    def hosts(self) -> set[int]:
        """The processes that prefetch."""
        return {
            pid
            for server in self.servers
            for pid in server.host.pids()
            if "walkeeper.restore.host" in command_line(pid)
        }

    def links(self) -> list[Path]:
        return list((self.run / "ready").glob("*"))

    @contextmanager
    def agent(self) -> Iterator[Restoring]:
        """As much of an agent as restore-wal sees."""
        socket = Path(paths.socket_path(self.archive.config, self.environment()))
        config = load(self.archive.config, {})
        restoring = Restoring(
            config, open_store(config.store), self.run, SystemClock(), lambda _: MemoryRecord(MemoryDcs())
        )
        with AgentLock(Path(paths.lock_path(str(socket)))) as lock:
            with listening(ControlServer(socket, lock, {"restore": restoring.answer})):
                restoring.start(lambda name, work: threading.Thread(target=work, name=name, daemon=True).start())
                yield restoring
            restoring.stop()


@pytest.fixture
def bare(archive: Archived, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bare]:
    monkeypatch.setenv("WALKEEPER_PYTHON", sys.executable)
    archive.configure()
    made = Bare(archive)
    yield made
    for server in made.servers:
        server.close()


def wait_open(server: Postgres) -> None:
    wait_until(lambda: not server.value("SELECT pg_is_in_recovery()"), "the end of recovery", 60, logs=[server.log])


# ------------------------------------------------------------------------------------------------------------ a bare host


def test_on_a_bare_host_the_first_call_starts_what_prefetches_and_it_leaves_nothing(bare: Bare) -> None:
    server = bare.server("standby.signal")
    server.start()
    wait_rows(server, bare.archive.rows)
    wait_until(lambda: len(bare.hosts()) == 1, "one process")
    assert len(bare.links()) == 1
    server.stop("fast")
    wait_until(lambda: not bare.hosts(), "its end")
    assert bare.links() == []
    assert [*bare.run.glob("restore-*")] == []
    assert not server.data.with_name("data.walkeeper").exists()


def test_p7_whoever_prefetches_may_be_killed_at_any_time(bare: Bare) -> None:
    server = bare.server()
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.15):
            for pid in bare.hosts():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        server.start()
        wait_open(server)
    finally:
        done.set()
        killer.join()
    assert rows(server) == bare.archive.rows


def test_an_agent_that_comes_and_goes_changes_nothing(bare: Bare) -> None:
    later = [bare.archive.object(name) for name in bare.archive.segments[3:]]
    for path in later:
        path.rename(path.with_suffix(".later"))
    server = bare.server("standby.signal")
    try:
        server.start()
        wait_rows(server, 3 * BATCH)
        wait_until(bare.hosts, "the process")
        for number, path in enumerate(later):
            with bare.agent() if number % 3 == 1 else ExitStack():
                path.with_suffix(".later").rename(path)
                wait_rows(server, (4 + number) * BATCH)
    finally:
        for path in later:
            if not path.exists():
                path.with_suffix(".later").rename(path)
    assert server.value("SELECT pg_is_in_recovery()")


def test_p9_a_promotion_waits_for_a_store_that_hangs_once_and_not_for_each_call(bare: Bare) -> None:
    server = bare.server("standby.signal")
    with bare.agent():
        server.start()
        wait_rows(server, bare.archive.rows)
    with ScriptedS3() as s3:
        s3.always("GET", deaf)
        where = {"bucket": "wal", "endpoint": s3.endpoint, "region": "x", "path_style": True}
        bare.archive.configure(
            store={"s3": where | {"access_key_id": "first-key", "secret_access_key": "of-the-tests"}}
        )
        with bare.agent():
            before = server.log.stat().st_size
            server.promote()
            said = server.log.read_text()[before:]
        s3.closing.set()
    assert not server.value("SELECT pg_is_in_recovery()")
    assert rows(server) == bare.archive.rows
    assert said.count("has not answered within") <= 2  # the second by what served before the agent came
    assert said.count("does not answer at the moment") >= 2


def test_p9_eight_restores_at_once_on_one_host(bare: Bare) -> None:
    servers = [bare.server() for _ in range(8)]
    for server in servers:
        server.start(wait=False)
    for server in servers:
        server.wait_ready(120)
        wait_open(server)
        assert rows(server) == bare.archive.rows
        assert len(bare.hosts()) <= 1
        server.close()


# --------------------------------------------------------------------------------------- pg_rewind; archive and streaming


class Living:
    """A primary that an agent archives, and a standby of it."""

    def __init__(self, bare: Bare) -> None:
        self.directory = new_directory("l")
        self.bare = bare
        self.primary = Postgres(self.directory / "a", settings={"wal_log_hints": "on"}, env=bare.environment())
        self.dcs = MemoryDcs(slots=(HOLD_SLOT,))
        self.dcs.set_leader("a")

    @contextmanager
    def running(self) -> Iterator[RunningAgent]:
        with self.primary:
            prepare(self.primary)
            self.primary.execute("CREATE TABLE t (n int)")
            (self.directory / "store").mkdir()
            config = config_of(self.primary, "a", self.directory)
            with RunningAgent(config, DirectoryStore(self.directory / "store"), self.dcs) as agent:
                wait_for(lambda: agent.archiving)
                yield agent

    def archive_more(self, agent: RunningAgent, segments: int = 2) -> None:
        """As many rows and segments, archived."""
        for _ in range(segments):
            self.primary.execute("INSERT INTO t VALUES (1)")
            last = self.primary.switch_wal()
        agent.wait_frontier(Segment.parse(last, SegmentSize(MIB)).end)

    def standby(self) -> Postgres:
        backup = self.primary.base_backup(self.directory / "backup", wal="stream")
        self.bare.archive.config.touch(mode=0o600)
        server = restore_server(
            backup, self.directory / "b", self.bare.command(), signal_file="standby.signal",
            settings={"wal_retrieve_retry_interval": "100ms", "wal_log_hints": "on"}, env=self.bare.environment(),
        )  # fmt: skip
        with (server.data / "pg_hba.conf").open("a") as rules:
            rules.write("local replication all trust\nhost replication all 127.0.0.1/32 trust\n")
        self.bare.servers.append(server)
        return server


@pytest.fixture
def living(bare: Bare) -> Iterator[Living]:
    made = Living(bare)
    bare.archive.configure(store={"directory": str(made.directory / "store")})
    yield made
    made.primary.close()


def test_a_standby_alternates_between_archive_and_streaming(living: Living) -> None:
    with living.running() as agent:
        standby = living.standby()
        standby.start()
        for expected in range(3, 25, 3):
            living.archive_more(agent)
            wait_rows(standby, expected - 1)
            assert standby.value("SELECT count(*) FROM pg_stat_wal_receiver") == 0
            standby.execute(f"ALTER SYSTEM SET primary_conninfo = '{living.primary.conninfo(REPLICATOR)}'")
            standby.execute("SELECT pg_reload_conf()")
            living.primary.execute("INSERT INTO t VALUES (2)")  # in no segment that is archived
            wait_rows(standby, expected)
            standby.execute("ALTER SYSTEM RESET primary_conninfo")
            standby.execute("SELECT pg_reload_conf()")
            wait_until(
                lambda: standby.value("SELECT count(*) FROM pg_stat_wal_receiver") == 0, "the end of streaming", 20
            )
        assert "FATAL:  could not" not in standby.log.read_text()


@pytest.mark.parametrize("with_agent", [True, False])
def test_pg_rewind_gets_what_the_server_has_recycled(living: Living, with_agent: bool) -> None:
    with living.running() as agent:
        primary = living.primary
        standby = living.standby()
        standby.start()
        living.archive_more(agent)
        wait_rows(standby, 2)
        forked = primary.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
        standby.promote()
        standby.execute("INSERT INTO t VALUES (3)")
        standby.checkpoint()
        for _ in range(4):
            living.archive_more(agent, 3)
            primary.checkpoint()
        kept = primary.segments()[0]
        primary.stop("fast")
    target, source = primary.data, standby.conninfo(socket=True)
    with (target / "postgresql.conf").open("a") as settings:  # which pg_rewind reads
        settings.write(f"restore_command = '{living.bare.command()}'\n")
    command: list[str | Path] = [primary.bin_dir / "pg_rewind", "-c", "-P", "-D", target, "--source-server", source]
    with living.bare.agent() if with_agent else ExitStack():
        primary.host.run(command, env=living.bare.environment())
    assert kept > forked  # or it would not have needed the archive
    rewound = Postgres(living.directory / "a", settings={"wal_log_hints": "on"})
    rewound.settings |= {"primary_conninfo": standby.conninfo(), "hot_standby": "on"}
    rewound.configure({})
    (target / "standby.signal").touch()
    living.bare.servers.append(rewound)
    rewound.start()
    standby.execute("INSERT INTO t VALUES (4)")
    wait_rows(rewound, rows(standby))
    assert not list(target.glob("pg_wal/*.walkeeper.*"))
