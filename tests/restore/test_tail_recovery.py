"""Servers that recover with a tail: to its last row, and never to less than they had themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.fixtures.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from tests.parts.postgres import REPLICATOR, Postgres, restore_server
from tests.parts.processes import new_directory, wait_until
from tests.twins.memory_record import MemoryDcs
from walkeeper.archive import tail
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.open import Archives
from walkeeper.archive.read import fetch
from walkeeper.archive.tail_read import assemble
from walkeeper.archive.write import Archive
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.tail import longest_chain
from walkeeper.core.wal_records import ends_early
from walkeeper.push.place import Place
from walkeeper.push.storing import Pusher
from walkeeper.store.directory import DirectoryStore

pytestmark = pytest.mark.postgres
SIZE = SegmentSize(MIB)


@dataclass
class Site:
    """A primary that is archived with its tail, and servers that are restored from the archive."""

    directory: Path
    primary: Postgres
    servers: list[Postgres] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.directory / "store").mkdir()
        self.config.touch(mode=0o600)
        section = {"store": {"directory": str(self.directory / "store")}, "restore": {"deadline": "1s"}}
        self.config.write_text(yaml.safe_dump({"scope": "demo", "walkeeper": section}))
        self.store = DirectoryStore(self.directory / "store")
        self.dcs = MemoryDcs(slots=(HOLD_SLOT,))
        self.dcs.set_leader("a")
        self.layout = Layout("demo", None, self.primary.system_identifier)
        self.archive = Archive(self.store, self.layout, SIZE, Codec())
        self.rows = 0

    @property
    def config(self) -> Path:
        return self.directory / "patroni.yml"

    @property
    def command(self) -> str:
        return f"{sys.executable} -m walkeeper -c {self.config} restore-wal %f %p"

    def agent(self, server: Postgres | None = None) -> RunningAgent:
        config = config_of(server or self.primary, "a", self.directory, tail_interval=0.1)
        return RunningAgent(config, self.store, self.dcs)

    def insert(self, server: Postgres | None = None, count: int = 1) -> Lsn:
        """Rows in a transaction each. Where the last one's commit ends."""
        with (server or self.primary).connect() as connection:
            for _ in range(count):
                connection.execute("INSERT INTO t VALUES (%s, repeat('x', 300))", [self.rows])
                self.rows += 1
            row = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        return Lsn.parse(row[0])

    def restored(self, signal_file: str = "recovery.signal", **settings: str) -> Postgres:
        """A server on the base backup that reads the archive. It is not started."""
        server = restore_server(
            self.directory / "backup", new_directory("b") / "pg", self.command,
            signal_file=signal_file, settings=settings,  # type: ignore[arg-type]
        )  # fmt: skip
        with (server.data / "pg_hba.conf").open("a") as file:
            file.write("host replication all 127.0.0.1/32 trust\n")
        self.servers.append(server)
        return server


@pytest.fixture
def site(postgres: Postgres) -> Iterator[Site]:
    prepare(postgres)
    site = Site(new_directory("r"), postgres)
    with site.agent() as agent:
        wait_for(lambda: agent.archiving)
        postgres.base_backup(site.directory / "backup")
        postgres.execute("CREATE TABLE t (n int, filler text)")
        postgres.switch_wal()
        agent.wait_frontier(site.insert(count=20))
    yield site
    for server in site.servers:
        server.close()


def count(server: Postgres) -> int:
    return int(server.value("SELECT count(*) FROM t"))


def opened(server: Postgres) -> None:
    wait_until(lambda: not server.value("SELECT pg_is_in_recovery()"), "the end of recovery", logs=[server.log])


def test_a_restore_reaches_the_last_row_of_the_tail(site: Site) -> None:
    with site.agent() as agent:
        agent.wait_frontier(site.insert(count=30))
        site.primary.kill9()
    server = site.restored()
    server.start()
    opened(server)
    assert count(server) == site.rows == 50
    assert server.timeline() == 2


def test_a_standby_reads_the_tail_as_it_grows_and_then_the_complete_segment(site: Site) -> None:
    server = site.restored("standby.signal", wal_retrieve_retry_interval="200ms")
    server.start()
    wait_until(lambda: rows_or_0(server) == site.rows, "the first rows", logs=[server.log])
    with site.agent() as agent:
        for switch in (False, True, False):
            agent.wait_frontier(site.insert())
            wait_until(lambda: rows_or_0(server) == site.rows, "the next row", logs=[server.log])
            if switch:
                agent.wait_frontier(Segment.parse(site.primary.switch_wal(), SIZE).end)
    assert server.value("SELECT pg_is_in_recovery()")


def rows_or_0(server: Postgres) -> int:
    return count(server) if server.value("SELECT to_regclass('t') IS NOT NULL") else 0


@pytest.mark.parametrize("ahead", ["standby", "tail", "neither"])
def test_p6_a_standby_is_never_handed_less_than_it_has_received(site: Site, ahead: str) -> None:
    """Its replay is paused behind what it has received; the primary dies; the promotion replays what the archive gives."""
    standby = site.restored(
        "standby.signal", primary_conninfo=site.primary.conninfo("postgres"), wal_retrieve_retry_interval="200ms"
    )
    with site.agent() as agent:
        standby.start()
        end = site.insert()
        wait_until(lambda: received(standby) >= end, "streaming", logs=[standby.log])
        wait_until(lambda: rows_or_0(standby) == site.rows, "replay")
        standby.execute("SELECT pg_wal_replay_pause()")
        wait_until(lambda: standby.value("SELECT pg_get_wal_replay_pause_state()") == "paused", "the pause")
        end = site.insert(count=20)
        wait_until(lambda: received(standby) >= end, "20 rows")
        agent.wait_frontier(end)
        if ahead == "tail":
            site.primary.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'walreceiver'"
            )
            wait_until(lambda: not standby.execute("SELECT pid FROM pg_stat_wal_receiver"), "the walreceiver's end")
            agent.wait_frontier(site.insert(count=20))
    if ahead == "standby":
        end = site.insert(count=20)
        wait_until(lambda: received(standby) >= end, "20 rows")
    replayed = Lsn.parse(str(standby.value("SELECT pg_last_wal_replay_lsn()")))
    assert replayed < end
    before = len(standby.log.read_text())
    site.primary.kill9()
    standby.execute("SELECT pg_wal_replay_resume()")
    standby.promote()
    assert count(standby) == site.rows
    delivered = f'restored log file "{Segment.at(1, end, SIZE)}" from archive'
    assert (delivered in standby.log.read_text()[before:]) == (ahead == "tail")


def received(standby: Postgres) -> Lsn:
    return Lsn.parse(str(standby.value("SELECT coalesce(pg_last_wal_receive_lsn(), '0/0')::text")))


@pytest.mark.parametrize("mode", ["on", "always"])
@pytest.mark.parametrize("signal_file", ["recovery.signal", "standby.signal"])
def test_what_postgresql_hands_over_of_a_padded_segment_is_told_from_complete_ones(
    site: Site, mode: str, signal_file: str
) -> None:
    """A plain copy stands for archive_command. With ``always`` the padded segment comes under its real name."""
    with site.agent() as agent:
        end = site.insert(count=30)
        agent.wait_frontier(end)
        site.primary.kill9()
    handed = new_directory("h")
    server = site.restored(signal_file, archive_mode=mode, archive_command=f"cp %p {handed}/%f")
    server.start()
    wait_until(lambda: rows_or_0(server) == site.rows, "the rows", logs=[server.log])
    if signal_file == "standby.signal":
        server.promote()
    opened(server)
    last = server.switch_wal()
    wait_until((handed / last).exists, "the new timeline's segment", logs=[server.log])
    early = {
        path.name: ends_early(path.read_bytes(), Segment.parse(path.name, SIZE))
        for path in handed.iterdir()
        if len(path.name) == len(last)
    }
    padded = Segment.at(1, end, SIZE).name
    assert [name for name, found in early.items() if found is not None] == ([padded] if mode == "always" else [])
    assert not [path.name for path in handed.glob("*.partial")]
    if mode == "always":
        assert early[padded] == end


def test_p3_archive_push_keeps_what_a_padded_segment_says_and_never_takes_it_for_complete(site: Site) -> None:
    with site.agent() as agent:
        end = site.insert(count=30)
        agent.wait_frontier(end)
        site.primary.kill9()
    padded = Segment.at(1, end, SIZE)
    push = f"{sys.executable} -m walkeeper -c {site.config} archive-push %p"
    server = site.restored(archive_mode="always", archive_command=push)
    server.start()
    opened(server)
    last = Segment.parse(server.switch_wal(), SIZE)
    wait_until(lambda: site.archive.find(last), "the new timeline's segment", 60, logs=[server.log])
    assert server.value("SELECT failed_count FROM pg_stat_archiver") == 0
    assert site.archive.find(padded) is None
    assert f'padded_segment file={padded} end={end} kept="in the tail"' in server.log.read_text()
    for stored in tail.stored_pieces(site.store, site.layout, padded.name):
        site.store.delete(stored.key)
    handed = Place(server.data, padded.name)
    Pusher(Archives(site.store, "demo", None, Codec())).push(handed)
    assert site.archive.find(padded) is None
    kept = fetch(site.store, site.layout, Codec(), f"{padded.name}.partial")
    assert kept == handed.path.read_bytes()


def test_p3_after_such_a_recovery_archiving_goes_on_without_conflict_and_is_restored_again(site: Site) -> None:
    with site.agent() as agent:
        end = site.insert(count=30)
        agent.wait_frontier(end)
        site.primary.kill9()
    padded = Segment.at(1, end, SIZE)
    server = site.restored()
    server.start()
    opened(server)
    server.physical_slot(HOLD_SLOT)
    with site.agent(server) as agent:
        wait_for(lambda: agent.archiving)
        assert agent.record.timeline == 2
        agent.wait_frontier(site.insert(server, count=5))
        agent.wait_frontier(Segment.parse(server.switch_wal(), SIZE).end)
        agent.wait_frontier(site.insert(server, count=5))
        assert agent.problems() == set()
        wait_for(lambda: not list(tail.stored_pieces(site.store, site.layout, padded.name)))
    stored = set(site.archive.contents.segments())
    assert padded not in stored
    assert Segment(2, padded.number, SIZE) in stored
    server.kill9()
    again = site.restored()
    again.start()
    opened(again)
    assert count(again) == site.rows == 60
    assert again.timeline() == 3
    older = site.restored(recovery_target_timeline="1")
    older.start()
    opened(older)
    assert count(older) == 50  # the rest of timeline 1 is in the segment of timeline 2


def test_p2_what_a_dead_primary_shipped_beyond_the_fork_stays(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The promoted standby had less. Its branch is what a recovery follows; the rest is nowhere else."""
    standby = site.restored(
        "standby.signal", primary_conninfo=site.primary.conninfo(REPLICATOR), restore_command="false"
    )
    caplog.set_level("INFO", "walkeeper")
    with site.agent() as agent:
        standby.start()
        end = site.insert()
        wait_until(lambda: received(standby) >= end, "streaming", logs=[standby.log])
        agent.wait_frontier(end)
        standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        standby.execute("SELECT pg_reload_conf()")
        wait_until(lambda: not standby.execute("SELECT pid FROM pg_stat_wal_receiver"), "the end of streaming")
        common = site.rows
        beyond = site.insert(count=10)
        agent.wait_frontier(beyond)
        site.primary.kill9()
    dead = Segment.at(1, beyond, SIZE)
    standby.promote()
    standby.physical_slot(HOLD_SLOT)
    with site.agent(standby) as agent:
        agent.wait_frontier(site.insert(standby, count=3))
        cut = assemble(site.store, site.layout, Codec(), dead.name)
        assert cut is not None
        assert dead.start + len(cut.plain) < beyond
        agent.wait_frontier(Segment.parse(standby.switch_wal(), SIZE).end)
        wait_for(lambda: "tail_kept" in caplog.text)
        agent.wait_frontier(site.insert(standby, count=3))
    left = longest_chain([stored.piece for stored in tail.stored_pieces(site.store, site.layout, dead.name)])
    assert dead.start + left[-1].end >= beyond
    standby.kill9()
    server = site.restored()
    server.start()
    opened(server)
    assert count(server) == common + 6
