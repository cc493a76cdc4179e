"""Timelines that the cluster has abandoned, whose number is the highest: which server is told of them, and which is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.core.values import control_file, history_text
from tests.fixtures.restoring import PLAIN, SEGMENT, SYSTEM, Node, answering, restore_command
from tests.parts.binaries import all_postgres
from tests.parts.postgres import Postgres, restore_server
from tests.parts.processes import new_directory, wait_until
from tests.twins.memory_record import MemoryRecord
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.history import History, Switch, parse_history
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.errors import CannotTell
from walkeeper.postgres.data_directory import Byte, read_control_file
from walkeeper.restore import command, exits
from walkeeper.restore.abandoned import Abandoned
from walkeeper.restore.branch import for_server
from walkeeper.store.directory import DirectoryStore

FORK: Final = Lsn(5 * MIB + 100)
BEYOND: Final = Lsn(9 * MIB)
DEAD: Final = History(2, (Switch(1, FORK),))
RECORD: Final = Record(
    system_identifier=str(SYSTEM), segment_size=MIB, timeline=1, lsn=str(BEYOND), start=SEGMENT.name, owner="a", session="s"
)  # fmt: skip


class Member(Node):
    """``b`` of a cluster that ``a`` leads on timeline 1; somebody was promoted beside the leader, on 2, which the archive has."""

    def configure(self, **restore: object) -> None:
        super().configure(**restore)
        self.config.write_text("name: b\n" + self.config.read_text())
        self.begin()

    def write_control(self, content: bytes) -> None:
        (self.data / "global" / "pg_control").write_bytes(content)

    def state(self, status: str, signal_file: str = "standby.signal") -> None:
        (self.data / signal_file).touch()
        lines = f"{os.getpid()}\n{self.data}\n1700000000\n5432\n/tmp\n*\n1 2\n{status:<8}\n"
        (self.data / "postmaster.pid").write_text(lines)

    def told(self, name: str = "00000002.history") -> bool:
        return {exits.DELIVERED: True, exits.ABSENT: False}[self.restore(name)]  # type: ignore[index]


@pytest.fixture
def member(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Member]:
    made = Member(short_path, monkeypatch)
    made.archive.archive_history(2, history_text(DEAD))
    made.write_control(control_file(1, BEYOND))
    made.dcs.set_leader("a")
    made.dcs.put(RECORD.encode())
    with answering(made):
        yield made


@pytest.mark.parametrize("status", ["starting", "standby"])
@pytest.mark.parametrize("checkpoint", [BEYOND, Lsn(FORK - 1000)], ids=["beyond the fork", "before it"])
def test_a_standby_of_the_leader_is_not_told(member: Member, status: str, checkpoint: Lsn) -> None:
    member.write_control(control_file(1, checkpoint))
    member.state(status)
    assert not member.told()


def test_when_all_start_again_nobody_is_told(member: Member) -> None:
    member.dcs.set_leader(None)
    member.state("starting")
    assert not member.told()


def test_a_dcs_that_is_silent_for_a_while_is_asked_again_while_the_server_starts(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told of the branch, it would not come back."""
    asked: list[History] = []

    def hides(self: Abandoned, history: History, data_directory: Path) -> bool:
        member.dcs.down = len(asked) < 2
        asked.append(history)
        return real(self, history, data_directory)

    real = Abandoned.hides
    monkeypatch.setattr(Abandoned, "hides", hides)
    member.write_control(control_file(1, Lsn(FORK - 1000)))
    member.state("starting")
    assert not member.told()
    assert len(asked) == 3


@pytest.mark.parametrize(("status", "down", "told"), [
    ("starting", False, False), ("standby", False, False), ("starting", True, None), ("standby", True, True),
])  # fmt: skip
def test_nor_is_it_told_where_no_agent_answers_in_time(
    member: Member, monkeypatch: pytest.MonkeyPatch, status: str, down: bool, told: bool | None
) -> None:
    """None: it cannot be told, and a server that starts goes on with the timeline that it is on."""
    monkeypatch.setattr(command, "open_all", lambda *_, **__: member.store)
    monkeypatch.setattr(command, "_records", lambda _, key="walkeeper": MemoryRecord(member.dcs, key))
    member.dcs.down = down
    member.write_control(control_file(1, Lsn(FORK - 1000)))
    member.state(status)
    try:
        found: bool | None = command.restore(member.config, "00000002.history", member.data, {}) is not None
    except CannotTell:
        found = None
    assert found is told


def test_the_leader_itself_is_not_told_while_it_starts_as_a_standby(member: Member) -> None:
    member.dcs.set_leader("b")
    member.dcs.put(msgspec.structs.replace(RECORD, owner="b").encode())
    member.state("starting")
    assert not member.told()


@pytest.mark.parametrize(
    "why",
    [
        "it is being promoted by Patroni", "it may be promoted by hand", "nobody leads", "another one leads", "no standby", "pg_rewind",
        "no record", "a record that cannot be read", "another cluster's record", "no DCS", "the record follows it", "it is the server's own",
        "the frontier is not beyond the fork", "the next timeline comes from the leader's",
    ],
)  # fmt: skip
def test_in_every_other_case_the_answer_is_what_the_archive_has(member: Member, why: str) -> None:
    member.state("standby", "recovery.signal" if why == "no standby" else "standby.signal")
    if why == "it is being promoted by Patroni":
        member.dcs.set_leader("b")
    elif why == "it may be promoted by hand":
        member.dcs.paused = True
    elif why == "nobody leads":
        member.dcs.set_leader(None)
    elif why == "another one leads":
        member.dcs.set_leader("c")
    elif why == "pg_rewind":
        (member.data / "postmaster.pid").unlink()
    elif why == "no record":
        member.dcs.wipe()
    elif why == "a record that cannot be read":
        member.dcs.put(b"{")
    elif why == "another cluster's record":
        member.dcs.put(msgspec.structs.replace(RECORD, system_identifier="1").encode())
    elif why == "no DCS":
        member.dcs.down = True
    elif why == "the record follows it":
        member.dcs.put(msgspec.structs.replace(RECORD, timeline=2).encode())
    elif why == "it is the server's own":
        member.write_control(control_file(2, BEYOND))
    elif why == "the frontier is not beyond the fork":
        member.dcs.put(msgspec.structs.replace(RECORD, lsn=str(Lsn(FORK - FORK % 8))).encode())
    elif why == "the next timeline comes from the leader's":
        member.archive.archive_history(3, history_text(History(3, (Switch(1, BEYOND),))))
    assert member.told()


def test_one_that_starts_while_another_than_the_records_owner_leads_is_told(member: Member) -> None:
    member.dcs.set_leader("c")
    member.write_control(control_file(1, Lsn(FORK - 1000)))
    member.state("starting")
    assert member.told()


@pytest.mark.parametrize(
    ("control", "told"),
    [
        (control_file(1, BEYOND), False),
        (control_file(1, FORK - 1000, FORK + 1), False),  # as pg_rewind leaves it
        (control_file(1, FORK - 1000, FORK), True),
        (control_file(1, FORK), False),
        (control_file(2, BEYOND), True),
        (control_file(1, BEYOND, version=1900), True),
    ],
)
def test_a_standby_that_has_wal_from_beyond_the_fork_is_not_told_while_it_starts(
    member: Member, control: bytes, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no DCS, and so without knowing what the cluster has abandoned: PostgreSQL would no longer start."""
    monkeypatch.setattr("walkeeper.restore.serving.PATIENCE", 0.0)
    member.dcs.down = True
    member.write_control(control)
    member.state("starting")
    assert member.told() is told
    member.state("standby")
    assert member.told(), "PostgreSQL itself refuses it then, and goes on"


def test_several_that_were_abandoned_are_all_withheld(member: Member) -> None:
    member.archive.archive_history(3, history_text(History(3, (Switch(1, FORK), Switch(2, Lsn(FORK + 800))))))
    member.state("starting")
    assert not member.told()
    assert not member.told("00000003.history")


def test_a_history_that_the_server_cannot_follow_does_not_cut_what_it_follows(tmp_path: Path) -> None:
    """PostgreSQL leaves it in pg_wal, and goes on with the timeline that it was on."""
    (tmp_path / "pg_wal").mkdir()
    (tmp_path / "global").mkdir()
    (tmp_path / "pg_wal" / "00000002.history").write_bytes(history_text(DEAD))
    written = tmp_path / "global" / "pg_control"
    for content, cut in [
        (control_file(1, FORK - 1000), True),
        (control_file(1, FORK - 1000, FORK), True),
        (control_file(1, FORK - 1000, FORK + 1), False),
        (control_file(1, BEYOND), False),
        (control_file(2, BEYOND), True),
        (control_file(3, BEYOND), True),  # it comes from there, or from elsewhere: then 3's own history says so
    ]:
        written.write_bytes(content)
        assert (for_server(SEGMENT.name, PLAIN, tmp_path) != PLAIN) is cut


def test_of_a_control_file_whose_form_is_not_known_the_identity_is_read(tmp_path: Path) -> None:
    (tmp_path / "global").mkdir()
    (tmp_path / "global" / "pg_control").write_bytes(control_file(1, BEYOND, version=1900))
    found = read_control_file(tmp_path)
    assert (found.system_identifier, found.had, found.segment_size) == (SYSTEM, (), None)
    for size, read in ((64 * MIB, 64 * MIB), (3 * MIB, None), (0xFFFFFFFF, None)):
        (tmp_path / "global" / "pg_control").write_bytes(control_file(1, BEYOND, segment_size=size))
        assert read_control_file(tmp_path).segment_size == read
    whole = control_file(1, BEYOND, segment_size=MIB).rstrip(b"\0")
    (tmp_path / "global" / "pg_control").write_bytes(whole[:-4])
    assert read_control_file(tmp_path).segment_size is None


def archive_with(directory: Path, server: Postgres, history: bytes) -> Path:
    """An archive of that server's cluster with the history of a timeline 2; the configuration to restore from it."""
    store = directory / "store"
    store.mkdir()
    layout = Layout("demo", None, server.system_identifier)
    archive = Archive(DirectoryStore(store), layout, SegmentSize(MIB), Codec())
    archive.state_start(Segment(1, 1, SegmentSize(MIB)))
    archive.archive_history(2, history)
    config = directory / "restore.yml"
    config.touch(mode=0o600)
    config.write_text(f"scope: demo\nwalkeeper:\n  store:\n    directory: {store}\n")
    return config


@pytest.mark.postgres
@pytest.mark.parametrize("major", sorted(all_postgres()))
@pytest.mark.parametrize("rows_beyond", [1, 2000], ids=["in the fork's segment", "and in later ones"])
def test_p6_a_primary_that_wrote_beyond_the_fork_claims_no_ancestry_that_it_does_not_have(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, rows_beyond: int, major: int
) -> None:
    """It starts as a standby after its crash, and is promoted before Patroni could rewind it (torture, seed 405)."""
    monkeypatch.setenv("WALKEEPER_RUN_DIR", str(short_path))
    programs = all_postgres()[major]
    with Postgres(new_directory("a"), programs, segment_size_mb=1, settings={"wal_keep_size": "64MB"}) as primary:
        primary.execute("CREATE TABLE t (n int)")
        primary.checkpoint()
        heir = restore_server(
            primary.base_backup(new_directory("b") / "base", wal="stream"), new_directory("b") / "pg", "/bin/false",
            bin_dir=programs,
        )  # fmt: skip
        heir.start()
        wait_until(lambda: not heir.value("SELECT pg_is_in_recovery()"), "the promotion", logs=[heir.log])
        content = (heir.pg_wal / "00000002.history").read_bytes()
        heir.close()
        (fork,) = (switch.lsn for switch in parse_history(2, content).switches)
        config = archive_with(short_path, primary, content)
        primary.execute(f"INSERT INTO t SELECT generate_series(1, {rows_beyond})")
        end = Lsn.parse(str(primary.value("SELECT pg_current_wal_flush_lsn()::text")))
        primary.kill9()
        (primary.data / "standby.signal").touch()
        primary.configure({"restore_command": restore_command(config, "served")})
        primary.start()
        primary.promote()
        assert primary.value("SELECT count(*) FROM t") == rows_beyond
        claims = parse_history(3, (primary.pg_wal / "00000003.history").read_bytes())
        assert claims.timelines == (1, 3)
        assert claims.switches[0].lsn >= end > fork


@pytest.mark.postgres
@pytest.mark.parametrize("major", sorted(all_postgres()))
@pytest.mark.parametrize("way", ["served", "alone"])
def test_a_member_that_was_promoted_apart_starts_after_its_rewind(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, major: int
) -> None:
    """The archive has its history by then, and pg_rewind has removed that from pg_wal."""
    monkeypatch.setenv("WALKEEPER_RUN_DIR", str(short_path))
    programs = all_postgres()[major]
    settings = {"wal_keep_size": "64MB", "wal_log_hints": "on"}
    with Postgres(new_directory("a"), programs, segment_size_mb=1, settings=settings) as leader:
        leader.execute("CREATE TABLE t (n int)")
        diverged = restore_server(
            leader.base_backup(new_directory("b") / "base", wal="stream"), new_directory("b") / "pg", "/bin/false",
            bin_dir=programs, settings=settings,
        )  # fmt: skip
        diverged.start()
        wait_until(lambda: not diverged.value("SELECT pg_is_in_recovery()"), "the promotion", logs=[diverged.log])
        diverged.execute("INSERT INTO t VALUES (0)")
        config = archive_with(short_path, leader, (diverged.pg_wal / "00000002.history").read_bytes())
        diverged.stop()
        try:
            leader.execute("INSERT INTO t SELECT generate_series(1, 2000)")
            leader.host.run(
                [programs / "pg_rewind", "--target-pgdata", diverged.data, "--source-server", leader.conninfo()]
            )
            (diverged.data / "standby.signal").touch()
            restore = restore_command(config, way)
            diverged.configure({"restore_command": restore, "primary_conninfo": leader.conninfo(), **settings})
            diverged.start()
            wait_until(
                lambda: diverged.value("SELECT count(*) FROM t") == 2000, "the leader's rows", logs=[diverged.log]
            )
            # The rows may have come from the archive first.
            wait_until(
                lambda: leader.value("SELECT count(*) FROM pg_stat_replication") == 1, "a stream", logs=[diverged.log]
            )
        finally:
            diverged.close()


@pytest.mark.postgres
@pytest.mark.parametrize("major", sorted(all_postgres()))
def test_the_control_file_of_a_real_server_says_what_the_server_says(major: int) -> None:
    with Postgres(new_directory("control"), all_postgres()[major]) as server:
        server.execute("CREATE TABLE t (n int)")
        server.checkpoint()
        found = read_control_file(server.data)
        assert (found.system_identifier, found.had) == (server.system_identifier, (checkpoint(server),))
        assert found.wrote
        ((size,),) = server.execute("SELECT setting::int FROM pg_settings WHERE name = 'wal_segment_size'")
        assert found.segment_size == size
        backup = server.base_backup(new_directory("b") / "base", wal="stream")
        standby = restore_server(
            backup, new_directory("c") / "pg", "/bin/false", bin_dir=all_postgres()[major], signal_file="standby.signal"
        )
        try:
            standby.start()
            ((end, timeline),) = standby.execute(
                "SELECT min_recovery_end_lsn::text, min_recovery_end_timeline FROM pg_control_recovery()"
            )
            found = read_control_file(standby.data)
            assert found.had == (checkpoint(standby), Byte(timeline, Lsn(Lsn.parse(end) - 1)))
            assert not found.wrote
        finally:
            standby.close()


def checkpoint(server: Postgres) -> Byte:
    ((lsn, timeline),) = server.execute("SELECT checkpoint_lsn::text, timeline_id FROM pg_control_checkpoint()")
    return Byte(timeline, Lsn.parse(lsn))
