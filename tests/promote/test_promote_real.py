"""A standby that lacks what its primary had acknowledged replays it from the store, and is promoted with every row."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from tests.fixtures.worlds import config_of, prepare
from tests.parts.postgres import Postgres, restore_server
from tests.parts.processes import new_directory, wait_until
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from walkeeper.archive import tail
from walkeeper.archive.open import open_archives
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.core.synchronous import standby_name
from walkeeper.core.tail import Piece
from walkeeper.promote import before, command
from walkeeper.promote.lose import Word

pytestmark = pytest.mark.postgres
SIZE = SegmentSize(MIB)
ROWS = 20
SESSION = "0123456789ab" + "f" * 20


@dataclass
class Pair:
    """A primary, and its standby, which has one row and hears nothing more."""

    primary: Postgres
    standby: Postgres
    directory: Path
    dcs: MemoryDcs

    def acknowledge(self) -> Lsn:
        """ROWS rows in two segments, stored as the owner does it: the first one whole, of the second what is flushed."""
        first = Segment.at(1, Lsn.parse(self.primary.lsn()), SIZE)
        archive = open_archives(self.config, to_read=True).archive(self.primary.system_identifier, SIZE)
        archive.state_start(first)
        for number in range(1, ROWS):
            self.primary.execute("INSERT INTO t VALUES (%s)", [number])
            if number == ROWS // 2:
                self.primary.switch_wal()
        end = Lsn.parse(self.primary.value("SELECT pg_current_wal_flush_lsn()::text"))
        opened = Segment.at(1, end, SIZE)
        assert opened.number == first.number + 1
        archive.archive_segment(first, (self.primary.pg_wal / first.name).read_bytes(), History(1))
        plain = (self.primary.pg_wal / opened.name).read_bytes()
        for begin, stop in ((0, 1000), (1000, end - opened.start)):
            tail.put(archive, opened, Piece(begin, stop, SESSION[:12] + "0000"), plain[begin:stop])
        record = Record(
            system_identifier=str(self.primary.system_identifier), segment_size=MIB, timeline=1, lsn=str(first.start),
            start=first.name, owner="a", session=SESSION, durability="store",
        )  # fmt: skip
        self.dcs.put(record.encode())
        return end

    def rows(self) -> list[int]:
        return [row[0] for row in self.standby.execute("SELECT n FROM t ORDER BY n")]

    def run(self, stalled: float = 60) -> int:
        return command.run(self.config, Word(self.config.spool_directory), stalled)

    def __post_init__(self) -> None:
        self.config = config_of(self.standby, "b", self.directory, durability="store")


@pytest.fixture
def pair(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    prepare(postgres)
    directory = new_directory("r")
    (directory / "store").mkdir()
    file = directory / "patroni.yml"
    file.touch(mode=0o600)
    section = {"store": {"directory": str(directory / "store")}, "restore": {"deadline": "1s"}}
    file.write_text(yaml.safe_dump({"scope": "demo", "walkeeper": section}))
    postgres.execute("CREATE TABLE t (n int)")
    postgres.base_backup(directory / "backup")
    standby = restore_server(
        directory / "backup",
        new_directory("b") / "pg",
        f"{sys.executable} -m walkeeper -c {file} restore-wal %f %p",
        signal_file="standby.signal",
        settings={
            "primary_conninfo": postgres.conninfo("postgres"),
            "wal_retrieve_retry_interval": "200ms",
            "wal_receiver_timeout": "0",
        },
    )
    with (standby.data / "pg_hba.conf").open("a") as hba:
        hba.write("host replication all 127.0.0.1/32 trust\n")
    dcs = MemoryDcs()
    dcs.set_leader("b")
    monkeypatch.setattr(command, "connect", lambda *_, **__: MemoryRecord(dcs))
    monkeypatch.setattr(before, "LEASE_OVER", 0.1)
    monkeypatch.setattr(before, "_STUCK", 0.5)
    try:
        standby.start()
        pair = Pair(postgres, standby, directory, dcs)
        postgres.switch_wal()
        postgres.execute("INSERT INTO t VALUES (0)")
        wait_until(lambda: pair.rows() == [0], "the first row", logs=[standby.log])
        [(sender,)] = postgres.execute("SELECT pid FROM pg_stat_replication")
        os.kill(sender, signal.SIGSTOP)
        yield pair
    finally:
        standby.close()


def test_a_standby_has_every_acknowledged_row_though_replication_was_held_back(pair: Pair) -> None:
    pair.acknowledge()
    pair.primary.kill9()
    assert pair.rows() == [0]
    assert pair.run() == command.GOES_ON
    assert pair.rows() == list(range(ROWS))
    pair.standby.promote()
    assert pair.rows() == list(range(ROWS))
    assert pair.run() == command.GOES_ON  # it is a primary


def test_a_primary_that_lives_on_and_sends_nothing_is_not_waited_for(pair: Pair) -> None:
    pair.acknowledge()
    [(receiver,)] = pair.standby.execute("SELECT pid FROM pg_stat_wal_receiver")
    assert pair.run() == command.GOES_ON
    assert pair.rows() == list(range(ROWS))
    assert (receiver,) not in pair.standby.execute("SELECT pid FROM pg_stat_wal_receiver")


def test_without_what_was_acknowledged_it_is_not_promoted_and_then_a_person_says_so(pair: Pair) -> None:
    pair.acknowledge()
    pair.primary.kill9()
    pair.standby.execute("SELECT pg_wal_replay_pause()")
    assert pair.run() == command.VETOED
    Word(pair.config.spool_directory).give()
    assert pair.run() == command.GOES_ON
    assert pair.rows() == [0]


def test_p8_an_empty_store_without_a_record_is_a_veto_where_its_own_settings_have_commits_wait(pair: Pair) -> None:
    """A standby's are its primary's: Patroni writes both."""
    pair.acknowledge()
    pair.primary.kill9()
    pair.dcs.wipe()
    (pair.directory / "store").rename(pair.directory / "elsewhere")
    (pair.directory / "store").mkdir()
    name = standby_name(pair.standby.system_identifier)
    pair.standby.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    pair.standby.execute("SELECT pg_reload_conf()")
    wait_until(lambda: pair.standby.value("SHOW synchronous_standby_names") == name, "the setting")
    assert pair.run(stalled=1) == command.VETOED
    pair.config = replace(pair.config, durability="local")  # an old configuration changes nothing
    assert pair.run(stalled=1) == command.VETOED
    (pair.directory / "store").rmdir()
    (pair.directory / "elsewhere").rename(pair.directory / "store")
    assert pair.run() == command.GOES_ON
    assert pair.rows() == list(range(ROWS))
