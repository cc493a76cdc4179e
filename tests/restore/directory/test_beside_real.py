"""Restores where a server of the cluster runs, or its directories lie: nothing of it is written to."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.bare_host import BareHost, forget_crash
from tests.fixtures.taken import Place
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until

pytestmark = pytest.mark.postgres


class Production:
    """A server with a tablespace and a pg_wal elsewhere, and its backup; and where restores are tried on the same host."""

    def __init__(self, server: Postgres) -> None:
        self.server, self.place = server, Place(server)
        self.space, self.wal = new_directory("ts"), new_directory("w")
        server.stop()
        for each in (server.data / "pg_wal").iterdir():
            shutil.move(each, self.wal)
        (server.data / "pg_wal").rmdir()
        (server.data / "pg_wal").symlink_to(self.wal)
        server.start()
        server.execute(f"CREATE TABLESPACE ts LOCATION '{self.space}'")
        server.execute("CREATE TABLE said (word text) TABLESPACE ts; INSERT INTO said VALUES ('a')")
        assert self.place.take() == 0
        self.place.archive_wal()
        self.there = BareHost(self.place)
        self.moves = f"--tablespace={self.space}={self.there.directory}/moved"

    def refuses(self, data: Path, *arguments: str) -> str:
        """What it says, when it writes nothing."""
        before = _content(data, self.space, self.wal)
        said = self.there.run("restore", "--data-dir", str(data), *arguments)
        assert (said.returncode, said.stdout) == (1, ""), said.stdout + said.stderr
        assert "HINT: " in said.stderr
        assert _content(data, self.space, self.wal).items() >= before.items()
        return said.stderr

    def restore(self, data: Path, *arguments: str) -> str:
        said = self.there.run("restore", "--data-dir", str(data), "--json", *arguments)
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout

    @property
    def words(self) -> str:
        """Of the server itself, from its disk."""
        self.server.restart()
        return str(self.server.value("SELECT string_agg(word, '' ORDER BY word) FROM said"))


@pytest.fixture
def production() -> Iterator[Production]:
    with Postgres(new_directory("p")) as server:
        found = Production(server)
        yield found
        found.there.host.kill9()


def _content(*places: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_size for place in places if place.exists() for path in place.rglob("*")}


def test_p14_delta_writes_into_no_tablespace_and_no_pg_wal_of_another_server(production: Production) -> None:
    there = production.there
    production.restore(there.data, production.moves)
    production.server.execute("INSERT INTO said VALUES ('b')")
    production.server.checkpoint()
    told = production.refuses(there.data, "--delta")
    assert f"{production.space}: it is tablespace " in told
    assert f"of the server in {production.server.data}" in told
    copy = there.directory / "copy"
    subprocess.run(["cp", "-a", production.server.data, copy], check=True)
    forget_crash(copy)
    assert f"{production.space}: it is tablespace " in production.refuses(copy, "--delta")
    told = production.refuses(copy, "--delta", production.moves.replace("/moved", "/more"))
    assert f"{copy}/pg_wal: it is pg_wal of the server in {production.server.data}" in told
    subprocess.run(["sh", "-c", told.rpartition(" with: ")[2]], check=True)
    production.restore(copy, "--delta", production.moves.replace("/moved", "/more"))
    assert production.words == "ab"
    production.server.stop()  # its tablespace is still not the copy's
    assert "not the tablespace of what lies in" in production.refuses(copy, "--delta")
    assert "not the tablespace of what lies in" in production.refuses(there.data, "--delta")
    production.server.start()
    assert production.words == "ab"


def test_p14_delta_refuses_a_directory_where_a_server_may_run_that_is_not_seen(production: Production) -> None:
    """In another PID namespace: a container's, with the same volume."""
    server, data = production.server, production.server.data
    production.server.execute("INSERT INTO said VALUES ('b')")
    assert "a server runs there, with pid " in production.refuses(data, "--delta")
    command = production.there.command("restore", "--data-dir", str(data), "--delta")
    apart = _apart(command)
    if apart is None:
        pytest.skip("no PID namespace of one's own here")
    said = subprocess.run(apart, capture_output=True, text=True, check=False, timeout=120)
    assert (said.returncode, said.stdout) == (1, ""), said.stdout + said.stderr
    assert f"{data}: it has a postmaster.pid" in said.stderr
    assert production.words == "ab"
    server.execute("INSERT INTO said VALUES ('c')")
    production.place.archive_wal()
    server.host.kill9()
    said = subprocess.run(apart, capture_output=True, text=True, check=False, timeout=120)
    assert said.returncode == 1, said.stdout + said.stderr
    subprocess.run(["sh", "-c", said.stderr.strip().rpartition(" left it: ")[2]], check=True, timeout=60)
    subprocess.run(apart, check=True, timeout=120)


def _apart(command: list[str]) -> list[str] | None:
    """The command in a PID namespace of its own; None where the kernel has none for us."""
    words = ["unshare", "--user", "--map-current-user", "--pid", "--fork", "--mount-proc"]
    try:
        subprocess.run([*words, "true"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError):
        return None
    return [*words, *command]


def test_p14_no_restore_is_made_where_its_wal_leads_into_a_running_servers_tablespace(production: Production) -> None:
    server, there = production.server, production.there
    space = _make_later(production)
    told = production.refuses(there.data, production.moves)
    assert f" in {space}, which the server in {server.data} has" in told
    assert production.there.run("restore", "--data-dir", str(there.data), production.moves, "--dry-run").returncode == 1
    assert not there.data.exists()
    assert production.place.take() == 0
    production.place.archive_wal()
    production.restore(there.data, production.moves, f"--tablespace={space}={there.directory}/later")


def test_p14_a_restore_in_place_opens_nothing_that_a_later_tablespace_has_left(production: Production) -> None:
    """The directory is emptied as the hint says, and PostgreSQL makes the tablespace again."""
    server, there = production.server, production.there
    space = _make_later(production)
    wait = "SELECT clock_timestamp() > $1"
    when = str(server.value("SELECT clock_timestamp()"))
    wait_until(lambda: server.value(wait.replace("$1", f"'{when}'::timestamptz + interval '1 s'")), "a second")
    server.execute("INSERT INTO later SELECT n FROM generate_series(1, 5000) n")
    server.checkpoint()
    production.place.archive_wal()
    server.stop()
    there.data = server.data
    told = production.refuses(server.data, "--delta", "--to", when)
    (left,) = space.iterdir()
    assert f"{left}: it is of tablespace " in told
    subprocess.run(["sh", "-c", told.rpartition(" all is well: ")[2]], check=True, timeout=60)
    assert [path.name for path in space.iterdir()] == [f"old_{left.name}"]
    paused = "SELECT pg_get_wal_replay_pause_state() = 'paused'"
    for _ in ("after a stop", "after a kill, with the link that the first one has made again"):
        document = json.loads(production.restore(server.data, "--delta", "--to", when))
        there.start(document)
        wait_until(lambda: there.value(paused), "the target", logs=[there.data / "walkeeper.log"])
        assert there.value("SELECT pg_wal_replay_resume() IS NOT NULL")
        wait_until(lambda: not there.value("SELECT pg_is_in_recovery()"), "the promotion")
        for _ in range(3):  # they get the numbers of those that came after the target: rows of these would be committed
            assert there.value("SELECT pg_current_xact_id() IS NOT NULL")
        assert there.value("SELECT count(*) FROM later") == 1
        there.host.kill9()
        shutil.rmtree(left)


def _make_later(production: Production) -> Path:
    """A tablespace that the backup lacks, with one row."""
    found = new_directory("ts")
    production.server.execute(f"CREATE TABLESPACE later LOCATION '{found}'")
    production.server.execute("CREATE TABLE later (n int) WITH (autovacuum_enabled = off) TABLESPACE later")
    production.server.execute("INSERT INTO later VALUES (0)")
    production.place.archive_wal()
    return found
