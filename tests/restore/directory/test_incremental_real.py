"""Incremental backups of real servers: what a chain restores is what pg_combinebackup makes of it, file by file."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest

from tests.fixtures.bare_host import BareHost
from tests.fixtures.taken import Place, run_shell, shell_lines
from tests.parts.binaries import all_postgres, postgres_bin
from tests.parts.postgres import REPLICATOR, Postgres
from tests.parts.processes import new_directory, wait_until
from walkeeper.archive.expiry import read_pins
from walkeeper.backup import parent
from walkeeper.config import PostgresqlSettings
from walkeeper.core.backup import Backup, BackupId
from walkeeper.core.incremental import OLDEST
from walkeeper.dcs.base import Leader, Member, Topology
from walkeeper.lib.units import Age
from walkeeper.restore.directory import here
from walkeeper.restore.directory import plan as planning
from walkeeper.restore.directory.carry_out import Result, carry_out
from walkeeper.restore.directory.fetch import OURS
from walkeeper.restore.directory.model import Plan, Request
from walkeeper.store.directory import DirectoryStore

pytestmark = pytest.mark.postgres

BY_HAND: Final = "## A chain without walkeeper"
SETTINGS: Final = {"wal_keep_size": "256MB", "summarize_wal": "on", "max_wal_size": "1GB"}
NOT_THE_BACKUPS: Final = {*OURS, "postgresql.auto.conf", "walkeeper.log"}


def bin_dirs() -> Iterator[object]:
    """Servers that have incrementals: the newest of a wheel in ``make test``, each that is here in ``make matrix``."""
    able = [major for major in all_postgres() if major >= OLDEST]
    if not able:
        yield pytest.param(None, marks=pytest.mark.skip("no PostgreSQL 17 or newer is here"))
    wheels = [major for major in able if "site-packages" in str(postgres_bin(major))]
    for major in able:
        yield pytest.param(major, id=str(major), marks=() if major in wheels[-1:] else pytest.mark.slow)


def take(place: Place, kind: str) -> Backup:
    """After the second in which the last one began: it counts as older by its id alone."""
    begun = None if place.last is None else place.last.begun
    wait_until(lambda: begun is None or datetime.now(UTC) >= begun + timedelta(seconds=1), "the next second")
    assert place.take(incremental=kind == "incremental") == 0
    backup = place.taken()
    assert backup.kind == kind
    place.archive_wal()
    return backup


def restored(place: Place, directory: Path, **request: object) -> tuple[Plan, Result]:
    space = directory / "space"
    (oid,) = (each.oid for each in place.taken().tablespaces)
    asked = Request(directory=directory / "data", tablespaces=(f"{oid}={space}",), **request)  # type: ignore[arg-type]
    plan = planning.make(place.config, asked)
    here.check_place(plan)
    return plan, carry_out(plan, "/bin/false %f %p", lambda _: None)


def tree(*roots: Path) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for number, root in enumerate(roots):
        for path in root.rglob("*"):
            name = path.relative_to(root).as_posix()
            if not path.is_symlink() and name not in NOT_THE_BACKUPS:
                found[f"{number}/{name}"] = None if path.is_dir() else path.read_bytes()
    return found


class Changed:
    """A server whose files are changed in every way between its backups."""

    def __init__(self, major: int) -> None:
        self.server = Postgres(new_directory("i") / "pg", postgres_bin(major), settings=SETTINGS)
        self.server.__enter__()
        space = self.server.directory / "space"
        space.mkdir()
        for sql in (
            f"CREATE TABLESPACE other LOCATION '{space}'",
            "CREATE TABLE t AS SELECT g AS n, repeat('x', 200) AS m FROM generate_series(1, 10000) g",
            "CREATE INDEX ON t (n)",
            "CREATE TABLE shrinks AS SELECT g AS n, repeat('x', 500) AS m FROM generate_series(1, 5000) g",
            "CREATE TABLE goes AS SELECT 1 AS n",
            "CREATE TABLE u TABLESPACE other AS SELECT g AS n FROM generate_series(1, 5000) g",
            "CREATE UNLOGGED TABLE w AS SELECT 1 AS n",
            "CREATE TABLE seen AS SELECT g AS n FROM generate_series(1, 10000) g",
            "CREATE INDEX ON seen (n)",
            "VACUUM (ANALYZE) seen",
        ):
            self.server.execute(sql)
        self.place = Place(self.server)

    def change(self, turn: int) -> None:
        execute = self.server.execute
        execute("UPDATE t SET m = repeat(%s, 190) WHERE n %% 1000 = %s", [str(turn), turn])
        execute("INSERT INTO t SELECT g, 'new' FROM generate_series(1, 3000) g")
        execute("UPDATE u SET n = n + 1 WHERE n % 1000 = 0")
        execute(f"CREATE TABLE made{turn} AS SELECT g AS n FROM generate_series(1, 1000) g")
        if turn == 1:
            execute("DELETE FROM shrinks WHERE n > 2000")
            execute("VACUUM shrinks")
        if turn == 2:
            execute("DROP TABLE goes")
            execute("VACUUM FULL u")
        if turn == 3:
            execute("TRUNCATE made1")
            execute("INSERT INTO shrinks SELECT g, 'again' FROM generate_series(1, 3000) g")


@pytest.fixture(scope="module", params=bin_dirs())
def changed(request: pytest.FixtureRequest) -> Iterator[Changed]:
    found = Changed(request.param)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", f"{found.server.bin_dir}:{os.environ['PATH']}")
        yield found
    found.server.close()


def test_p14_a_chain_restores_to_what_pg_combinebackup_makes_of_it(changed: Changed, tmp_path: Path) -> None:
    place = changed.place
    chain = [take(place, "full")]
    for turn in range(1, 4):
        changed.change(turn)
        chain.append(take(place, "incremental"))
    chain.append(take(place, "incremental"))  # and nothing changed
    assert [each.parent for each in chain] == ["", *(each.id for each in chain[:-1])]
    assert chain[-1].packed_bytes < chain[0].packed_bytes / 4
    plan, result = restored(place, tmp_path)
    assert [each.id for each in plan.chain] == [each.id for each in chain]
    assert (result.kept, (tmp_path / "data/global/pg_control").exists()) == (0, True)
    by_hand = new_directory("h") / "pg"
    variables = {
        "A": place.root, "B": place.root / "backup" / chain[-1].id, "D": by_hand, "W": by_hand.with_name("scratch"),
        "C": "cat", "E": "",
    }  # fmt: skip
    (lines,) = shell_lines("backups.md", BY_HAND)
    run_shell(lines, variables, by_hand.parent)
    (oid,) = (each.oid for each in chain[-1].tablespaces)
    theirs = tree(by_hand, by_hand.with_name(f"pg-{oid}"))
    ours = tree(tmp_path / "data", tmp_path / "space")
    assert {path for path in theirs if "INCREMENTAL" in path} == set()
    assert ours.keys() ^ theirs.keys() <= {"0/pg_wal/summaries"}
    maps = {path for path in ours if path.endswith("_vm")}
    names = {part.path for piece in place.backups.index(chain[-1]) for part in piece.parts}
    whole = {path for path in maps if path.removeprefix("0/") in names}
    assert {path for path in theirs if ours[path] != theirs[path]} <= whole  # by hand all maps are made empty
    assert [path for path in maps - whole if ours[path]] == []
    assert maps - whole
    _, result = restored(place, tmp_path, delta=True)
    assert result.kept > 0
    assert tree(tmp_path / "data", tmp_path / "space") == ours
    shutil.rmtree(by_hand)


def test_p14_rows_that_were_deleted_between_two_backups_stay_so(changed: Changed) -> None:
    """The visibility map of an incremental lacks the bits that were cleared: an index-only scan would believe them."""
    place, server = changed.place, changed.server
    take(place, "full")
    server.execute("DELETE FROM seen WHERE n = 7")
    take(place, "incremental")
    there = BareHost(place)
    try:
        (oid,) = (each.oid for each in place.taken().tablespaces)
        told = there.run("restore", "--data-dir", str(there.data), f"--tablespace={oid}={there.directory}/s", "--json")
        assert told.returncode == 0, told.stdout + told.stderr
        there.start(json.loads(told.stdout))
        wait_until(lambda: there.value("SELECT NOT pg_is_in_recovery()"), "the end of the recovery")
        assert "Index Only Scan" in there.value("EXPLAIN SELECT n FROM seen WHERE n = 7")
        assert there.value("SELECT count(*) FROM seen WHERE n = 7") == 0
    finally:
        there.host.kill9()


@pytest.mark.slow
def test_p14_a_chain_is_proved_and_a_damaged_parent_is_said_of_all_that_build_on_it(changed: Changed) -> None:
    place = changed.place
    full = take(place, "full")
    changed.server.execute("INSERT INTO t SELECT 0, 'proved'")
    child = take(place, "incremental")
    there = BareHost(place)
    below = there.directory / "room"
    below.mkdir()
    try:
        proof = json.loads(there.run("verify", "--restore", str(below), "--json").stdout)
    finally:
        there.host.kill9()
    states = {each["state"] for each in proof["checks"]}
    may_be = {"ok", "absent"}
    if "site-packages" in str(changed.server.bin_dir):
        may_be.add("unsure")  # a wheel's pg_verifybackup crashes, and it has no amcheck
    assert (proof["backup"], states <= may_be) == (child.id, True), proof
    assert there.run("verify", "--deep").returncode == 0
    (piece, *_) = sorted((place.root / "backup" / full.id / "data").iterdir())
    piece.rename(place.directory / "away")
    said = there.run("verify").stdout
    assert f"backup {child.id}: it builds on {full.id}, which is damaged:" in " ".join(said.split())
    (place.directory / "away").rename(piece)
    listed = json.loads(there.run("backups", "--json").stdout)["backups"]
    assert (listed[-1]["id"], listed[-1]["kind"], listed[-1]["parent"]) == (child.id, "incremental", full.id)


@pytest.mark.slow
def test_a_quiet_standby_gets_the_leaders_checkpoint_and_without_it_a_full_backup(
    changed: Changed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, server = changed.place, changed.server
    standby = Postgres(new_directory("s") / "pg", server.bin_dir, settings=SETTINGS)
    mapping = f"--tablespace-mapping={server.directory / 'space'}={new_directory('t')}"
    server.host.run(
        [server.bin_dir / "pg_basebackup", "-D", standby.data, "-X", "stream", "--no-sync", "-c", "fast", mapping,
         "-d", server.conninfo(socket=True)]
    )  # fmt: skip
    standby.data.chmod(0o700)
    standby.configure({"primary_conninfo": server.conninfo(socket=True)})
    (standby.data / "standby.signal").touch()
    with standby:
        place.configure(standby)
        try:
            take(place, "full")
            capsys.readouterr()
            assert place.take(incremental=True) == 0
            assert place.taken().kind == "full"
            said = capsys.readouterr()
            assert "Full      not incremental: postgresql at" in said.out
            assert "no_checkpoint_on_leader" in said.err
            member = Member("leader", "primary", "running", "127.0.0.1", server.port, 1, 0)
            topology = Topology(Leader("leader"), (member,), False, False, ())
            monkeypatch.setattr(
                parent, "open_records", lambda _: SimpleNamespace(topology=lambda: topology, close=lambda: None)
            )
            server.execute(f"GRANT pg_checkpoint TO {REPLICATOR}")
            monkeypatch.setattr(PostgresqlSettings, "of_member", _trusted)
            take(place, "incremental")
            assert "no_checkpoint_on_leader" not in capsys.readouterr().err
        finally:
            place.configure(server)


def _trusted(self: PostgresqlSettings, host: str, port: int) -> PostgresqlSettings:
    """These servers ask for no password."""
    return dataclasses.replace(self, host=host, hostaddr=None, port=port)


@pytest.mark.slow
def test_the_clusters_own_are_incremental_until_the_full_one_is_old(
    changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Age, "least", 0.0)
    place, server = changed.place, changed.server
    kinds: list[tuple[str, str]] = []
    full = take(place, "full")
    try:
        for full_every in ("7d", "1ms"):
            place.configure(server, backup={"full_every": full_every})
            at = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
            job = BackupId(at, 1, f"fffffff{len(kinds)}")
            assert place.take(job=str(job)) == 0
            made = place.backups.read(job)
            assert isinstance(made, Backup)
            kinds.append((made.kind, made.parent))
            place.archive_wal()
            assert place.take(job=str(job)) == 0  # it is stored: nothing is taken again
    finally:
        place.configure(server)
    assert kinds == [("incremental", full.id), ("full", "")]


@pytest.mark.slow
def test_what_cannot_be_incremental_is_full_and_says_why(changed: Changed, capsys: pytest.CaptureFixture[str]) -> None:
    place, server = changed.place, changed.server
    take(place, "full")
    server.execute("ALTER SYSTEM SET summarize_wal = off")
    server.execute("SELECT pg_reload_conf()")
    wait_until(lambda: server.value("SHOW summarize_wal") == "off", "the setting")
    try:
        capsys.readouterr()
        assert place.take(incremental=True) == 0
        assert place.taken().kind == "full"
        assert "Full      not incremental: summarize_wal is off" in capsys.readouterr().out
    finally:
        server.execute("ALTER SYSTEM RESET summarize_wal")
        server.execute("SELECT pg_reload_conf()")
    wait_until(lambda: server.value("SHOW summarize_wal") == "on", "the setting")
    place.archive_wal()
    assert not [pin for pin in read_pins(DirectoryStore(place.store), place.layout) if pin.kind == "backup"]
