"""``walkeeper verify --restore`` on a real server's archive: what is proved, what is remembered, and that nothing stays behind."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.bare_host import BareHost
from tests.fixtures.taken import Place
from tests.parts.postgres import Postgres
from tests.parts.processes import Process, new_directory, wait_until
from walkeeper.archive.expiry import read_pins
from walkeeper.archive.open import open_archives
from walkeeper.archive.proofs import damaged, newest_proof, write_proof
from walkeeper.core import backup_job
from walkeeper.core.proof import Proof
from walkeeper.core.windows import consistent_at
from walkeeper.postgres.data_directory import running_server

pytestmark = pytest.mark.postgres


class Prover:
    """Runs the command on another host than the server's: three lines of configuration, and an empty directory."""

    def __init__(self, server: Postgres) -> None:
        self.place = Place(server)
        space = new_directory("ts")
        server.execute(f"CREATE TABLESPACE elsewhere LOCATION '{space}'")
        server.execute("CREATE TABLE said (word text) TABLESPACE elsewhere; CREATE INDEX ON said (word)")
        server.execute("INSERT INTO said SELECT n::text FROM generate_series(1, 10000) n")
        server.execute(
            "UPDATE pg_database SET datcollversion = '1' WHERE datname = 'postgres'"
        )  # as made on another host
        assert self.place.take() == 0
        server.execute(
            "ALTER SYSTEM SET max_connections = 321"
        )  # which the backup's own files and control file do not have
        self.place.archive_wal()
        server.restart()
        server.execute("INSERT INTO said VALUES ('after')")
        self.end = str(server.value("SELECT pg_current_wal_insert_lsn()"))
        self.place.archive_wal()
        self.there = BareHost(self.place)
        self.below = self.there.directory / "room"
        self.below.mkdir()

    def run(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        said = self.there.run("verify", "--restore", str(self.below), "--json", *arguments)
        return said.returncode, json.loads(said.stdout), said.stdout + said.stderr

    def start(self) -> Process:
        return self.there.begin("verify", "--restore", str(self.below))

    def nothing_stays(self) -> bool:
        store = open_archives(self.place.config).store
        return not list(self.below.iterdir()) and not read_pins(store, self.place.layout)


@pytest.fixture(scope="module")
def prover() -> Iterator[Prover]:
    server = Postgres(new_directory("p"))
    server.init()
    server.host.run([server.bin_dir / "pg_checksums", "--enable", "--no-sync", "-D", server.data])
    with server:
        found = Prover(server)
        yield found
        found.there.host.kill9()


def test_p14_a_backup_is_restored_started_checked_remembered_and_removed(prover: Prover) -> None:
    code, found, said = prover.run()
    assert code == 0, said
    backup = prover.place.taken()
    assert (found["verdict"], found["backup"], found["databases"]) == ("sound", backup.id, 2)
    assert found["last_commit"] is not None
    assert found["other_collation"] == ["postgres"]
    states = {each["name"]: each["state"] for each in found["checks"]}
    assert set(states) == {"pg_verifybackup", "pg_amcheck", "pg_checksums"}
    assert set(states.values()) <= {"ok", "absent"}
    assert prover.nothing_stays()
    proof = newest_proof(open_archives(prover.place.config).store, prover.place.layout)
    assert proof is not None
    assert (proof.backup, proof.lsn, proof.timeline) == (backup.id, found["lsn"], 1)
    assert proof.checks == tuple(name for name, state in states.items() if state == "ok")
    listed = prover.there.run("backups").stdout
    assert f"Proved    {proof.at[:10]} " in listed


@pytest.mark.slow
def test_killed_or_interrupted_its_server_ends_and_the_next_one_clears_up(prover: Prover) -> None:
    place = prover.below / "walkeeper-verify-demo"

    def until_the_server_runs(process: Process) -> int:
        def pid() -> int:
            assert process.alive, process.log.read_text()
            server = running_server(place / "data")
            return 0 if server is None else server.pid

        wait_until(pid, "the restored server")
        return pid()

    killed = prover.start()
    server = until_the_server_runs(killed)
    killed.send(signal.SIGKILL)
    killed.wait()
    wait_until(lambda: not Path(f"/proc/{server}").exists(), "the end of its server")
    assert place.exists()
    told = prover.start()
    server = until_the_server_runs(told)
    told.send(signal.SIGTERM)
    assert told.wait() == 130
    assert not Path(f"/proc/{server}").exists()
    assert prover.nothing_stays()


def test_a_piece_that_is_lost_is_damage_and_remembered_as_that(prover: Prover) -> None:
    before = {*(prover.place.root / "proof").glob("*")}
    backup = prover.place.taken()
    piece = max((prover.place.root / "backup" / backup.id / "data").iterdir(), key=lambda path: path.stat().st_size)
    away = piece.rename(prover.place.directory / "away")
    try:
        code, found, said = prover.run("--to", "immediate", "--job", backup.id)
    finally:
        away.rename(piece)
    assert (code, found["verdict"], found["remembered"]) == (backup_job.DAMAGED, "damaged", False), said
    assert piece.name in found["checks"][0]["text"]
    (new,) = {*(prover.place.root / "proof").glob("*")} - before
    assert new.name.startswith(f"damaged-{backup.id}-")
    assert piece.name in new.read_text()
    assert prover.nothing_stays()


def test_p15_a_backup_in_which_damage_was_found_is_proved_again_by_its_stop_though_there_is_a_newer_one(
    prover: Prover,
) -> None:
    backup, place = prover.place.taken(), prover.place
    store = open_archives(place.config).store
    write_proof(
        store,
        place.layout,
        Proof(backup=backup.id, at="2026-11-01T00:00:00Z", timeline=1, lsn="0/0", damage="pg_verifybackup: torn"),
    )
    assert place.take() == 0
    place.archive_wal()
    code, found, said = prover.run("--to", str(consistent_at(backup)))
    assert (code, found["backup"], found["remembered"]) == (0, backup.id, True), said
    assert place.taken().id != backup.id
    assert damaged(store, place.layout) == {}


@pytest.mark.slow
def test_a_table_that_is_broken_inside_is_found_and_every_target_can_be_tried() -> None:
    """Without data checksums PostgreSQL backs it up without a word."""
    with Postgres(new_directory("p")) as server:
        found = Prover(server)
        code, told, said = found.run("--to", found.end)
        assert (code, told["lsn"]) == (0, found.end), said
        path = server.data / server.value("SELECT pg_relation_filepath('said')")
        server.stop()
        with path.open("r+b") as file:
            file.seek(8192 - 64)
            file.write(b"\xff" * 64)
        server.start()
        assert found.place.take() == 0
        found.place.archive_wal()
        code, told, said = found.run("--to", "immediate")
        assert (code, told["verdict"]) == (1, "damaged"), said
        (damage,) = [each for each in told["checks"] if each["state"] == "damage"]
        assert damage["name"] == "pg_amcheck"
        assert damaged(open_archives(found.place.config).store, found.place.layout) == {}
        assert found.nothing_stays()
        found.there.host.kill9()


_FITS_BETTER = """create function public.verify_heapam(relation oid, on_error_stop bool, check_toast bool, skip text,
    startblock bigint default null, endblock bigint default null,
    out blkno bigint, out offnum int, out attnum int, out msg text) returns setof record language plpgsql as
$$ begin execute 'copy (select) to program ''touch {}'''; return; end $$"""
"""Than amcheck's own, which takes a regclass, where that is in the same schema: pg_amcheck gives it an oid."""


def test_p16_no_user_of_the_database_runs_a_program_where_it_is_proved(prover: Prover) -> None:
    server, trace = prover.place.server, prover.there.directory / "was-here"
    if not (server.bin_dir / "pg_amcheck").exists():
        pytest.skip("no pg_amcheck here")
    server.execute("CREATE EXTENSION amcheck SCHEMA public")
    server.execute("CREATE ROLE mallory LOGIN")
    server.execute("GRANT CREATE ON SCHEMA public TO mallory")
    try:
        with server.connect("mallory") as mallory:
            mallory.execute(_FITS_BETTER.format(trace).encode())
        prover.place.archive_wal()
        code, found, said = prover.run()
    finally:
        for each in ("DROP EXTENSION amcheck", "DROP OWNED BY mallory", "DROP ROLE mallory"):
            server.execute(each)
    assert not trace.exists()
    assert code == 0, said
    assert ("pg_amcheck", "ok") in {(each["name"], each["state"]) for each in found["checks"]}


def test_p14_a_proof_touches_no_tablespace_that_was_made_after_the_backup() -> None:
    """Where the server lives: its WAL names the directory in which that works."""
    with Postgres(new_directory("p")) as server:
        found = Prover(server)
        _make_later(server, found.place)
        server.execute("INSERT INTO later SELECT n FROM generate_series(1, 50) n")
        server.checkpoint()
        rows = server.value("SELECT count(*) FROM later")
        code, told, said = found.run()
        assert (code, told["verdict"]) == (2, "cannot tell"), said
        assert f"the backup lacks tablespace {_later(server)} in " in told["problem"]
        assert "walkeeper backup" in told["hint"]
        assert found.run("--job", found.place.taken().id)[0] == backup_job.LATER
        server.restart()
        assert server.value("SELECT count(*) FROM later") == rows
        assert found.place.take() == 0
        found.place.archive_wal()
        code, told, said = found.run()
        assert code == 0, said
        server.execute("DROP TABLE later")
        server.execute("DROP TABLESPACE later")
        found.place.archive_wal()
        code, told, said = found.run()
        assert code == 0, said
        assert {each["state"] for each in told["checks"]} <= {"ok", "absent"}
        assert found.nothing_stays()
        found.there.host.kill9()


def test_p14_a_tablespace_that_nobody_saw_ends_a_proof_before_it_is_written() -> None:
    """Made on another host, by a server that has stopped, or while the backup was being restored."""
    with Postgres(new_directory("p")) as server:
        found = Prover(server)
        place = _make_later(server, found.place)
        server.checkpoint()
        oid = _later(server)
        server.stop()
        before = _content(place)
        code, told, said = found.run()
        assert (code, told["verdict"]) == (2, "cannot tell"), said
        assert f"the backup lacks tablespace {oid} in {place}, which its WAL makes" in told["problem"]
        assert _content(place) == before
        away = place.rename(place.with_name("away"))
        assert f"lacks tablespace {oid} in {place}, which its WAL makes" in found.run()[1]["problem"]
        assert _content(away) == before
        assert found.nothing_stays()
        found.there.host.kill9()


def _make_later(server: Postgres, place: Place) -> Path:
    found = new_directory("ts")
    server.execute(f"CREATE TABLESPACE later LOCATION '{found}'")
    server.execute("CREATE TABLE later (n int) TABLESPACE later")
    server.execute("INSERT INTO later VALUES (0)")
    place.archive_wal()
    return found


def _later(server: Postgres) -> int:
    return int(server.value("SELECT oid FROM pg_tablespace WHERE spcname = 'later'"))


def _content(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
