"""A dead primary's complete segment, which goes on beyond the fork, while the new branch's file of that number is not archived yet.

PostgreSQL takes the old one then, and reads on in it: what restore_command must not let happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import pytest
import yaml

from tests.fixtures.restoring import restore_command
from tests.fixtures.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, Postgres, restore_server
from tests.parts.processes import new_directory, wait_until
from tests.twins.memory_record import MemoryDcs
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.branches import left_at
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.restore.branch import for_server
from walkeeper.store.directory import DirectoryStore

SIZE: Final = SegmentSize(MIB)
BEFORE, BEYOND, AFTER = 100, 666, 200
"""Rows: before the fork, written by the dead primary beyond it, and by the new one."""


class Forked:
    """An archive with timeline 1 beyond the fork and 2's history, the new primary, and a base backup from before."""

    def __init__(self, directory: Path, backup: Path, primary: Postgres) -> None:
        self.directory, self.backup, self.primary = directory, backup, primary
        self.config = directory / "patroni.yml"
        self.config.touch(mode=0o600)
        self.config.write_text(
            yaml.safe_dump({"scope": "demo", "walkeeper": {"store": {"directory": str(directory / "store")}}})
        )


@pytest.fixture(scope="module")
def forked() -> Iterator[Forked]:
    directory = new_directory("f")
    (directory / "store").mkdir()
    store = DirectoryStore(directory / "store")
    dcs = MemoryDcs(slots=(HOLD_SLOT,))
    dcs.set_leader("a")
    with Postgres(directory / "a", segment_size_mb=1) as dead:
        prepare(dead)
        with RunningAgent(config_of(dead, "a", directory), store, dcs) as agent:
            wait_for(lambda: agent.archiving)
            dead.execute("CREATE TABLE t (n int)")
            backup = dead.base_backup(new_directory("b") / "base")
            streamed = dead.base_backup(new_directory("b") / "base", wal="stream")
            conninfo = dead.conninfo(REPLICATOR, password=REPLICATOR_PASSWORD)
            heir = restore_server(
                streamed, directory / "heir", "/bin/false", signal_file="standby.signal",
                settings={"primary_conninfo": conninfo},
            )  # fmt: skip
            with (heir.data / "pg_hba.conf").open("a") as rules:
                rules.write("host replication all 127.0.0.1/32 trust\n")
            heir.start()
            dead.execute("INSERT INTO t VALUES (%s)", [BEFORE])
            wait_until(lambda: heir.value("SELECT count(*) FROM t") == 1, "replication", logs=[heir.log])
            heir.execute("ALTER SYSTEM SET primary_conninfo = ''")
            heir.execute("SELECT pg_reload_conf()")
            wait_until(lambda: not heir.value("SELECT count(*) FROM pg_stat_wal_receiver"), "the end of replication")
            for step in range(3):
                dead.execute("INSERT INTO t VALUES (%s)", [BEYOND + step])
                last = dead.switch_wal()
            agent.wait_frontier(Segment.parse(last, SIZE).end)
        identifier = dead.system_identifier
    heir.promote()
    wait_until(lambda: not heir.value("SELECT pg_is_in_recovery()"), "the promotion", logs=[heir.log])
    heir.execute("INSERT INTO t VALUES (%s)", [AFTER])
    archive = Archive(store, Layout("demo", None, identifier), SIZE, Codec())
    archive.archive_history(2, (heir.pg_wal / "00000002.history").read_bytes())
    yield Forked(directory, backup, heir)
    heir.close()


@pytest.fixture
def restored(forked: Forked) -> Iterator[Callable[..., Postgres]]:
    made: list[Postgres] = []

    def restore(way: str, signal_file: Literal["recovery.signal", "standby.signal"], **settings: str) -> Postgres:
        directory = new_directory("c")
        server = restore_server(
            forked.backup, directory / "pg", restore_command(forked.config, way), signal_file=signal_file, settings=settings,
            env={"WALKEEPER_RUN_DIR": str(directory)},
        )  # fmt: skip
        made.append(server)
        server.start()
        return server

    yield restore
    for server in made:
        server.close()


def rows(server: Postgres) -> list[int]:
    return [n for (n,) in server.execute("SELECT n FROM t ORDER BY n")]


@pytest.mark.postgres
@pytest.mark.parametrize("way", ["served", "alone"])
def test_p6_a_restore_does_not_read_the_dead_branch_beyond_the_fork(
    forked: Forked, restored: Callable[..., Postgres], way: str
) -> None:
    server = restored(way, "recovery.signal")
    wait_until(lambda: not server.value("SELECT pg_is_in_recovery()"), "the end of recovery", logs=[server.log])
    assert rows(server) == [BEFORE]
    assert "cut_at_fork" in server.log.read_text() + "".join(
        path.read_text() for path in server.data.parent.parent.rglob("*.log") if path != server.log
    )


@pytest.mark.postgres
@pytest.mark.parametrize("way", ["served", "alone"])
def test_p6_a_standby_of_the_new_primary_does_not_read_it_either_and_streams(
    forked: Forked, restored: Callable[..., Postgres], way: str
) -> None:
    conninfo = forked.primary.conninfo(REPLICATOR, password=REPLICATOR_PASSWORD)
    server = restored(way, "standby.signal", primary_conninfo=conninfo)
    wait_until(lambda: rows(server) == [BEFORE, AFTER], "what the new primary wrote", logs=[server.log])


@pytest.mark.postgres
def test_whoever_asks_for_the_dead_branch_gets_all_of_it(forked: Forked, restored: Callable[..., Postgres]) -> None:
    server = restored("served", "recovery.signal", recovery_target_timeline="1")
    wait_until(lambda: not server.value("SELECT pg_is_in_recovery()"), "the end of recovery", logs=[server.log])
    assert rows(server) == [BEFORE, BEYOND, BEYOND + 1, BEYOND + 2]


def test_the_newest_history_says_where_a_timeline_was_left() -> None:
    segment = Segment(1, 5, SIZE)
    inside, beyond, earlier = Lsn(5 * MIB + 100), Lsn(7 * MIB), Lsn(4 * MIB)
    assert left_at([], segment) is None
    assert left_at([History(2, (Switch(1, inside),))], segment) == inside
    assert left_at([History(2, (Switch(1, beyond),))], segment) is None
    assert left_at([History(2, (Switch(1, segment.end),))], segment) is None
    assert left_at([History(2, (Switch(1, inside),)), History(3, (Switch(1, earlier),))], segment) == earlier
    assert left_at([History(3, (Switch(1, beyond),)), History(2, (Switch(1, inside),))], segment) is None
    assert left_at([History(4, (Switch(3, earlier),))], segment) is None


def test_what_is_no_segment_is_not_cut(tmp_path: Path) -> None:
    (tmp_path / "pg_wal").mkdir()
    history = b"1\t0/500000\tno reason\n"
    (tmp_path / "pg_wal" / "00000002.history").write_bytes(history)
    assert for_server("000000010000000000000005.partial", b"text", tmp_path) == b"text"
    assert for_server("00000002.history", history, tmp_path) == history
