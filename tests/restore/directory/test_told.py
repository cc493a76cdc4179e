"""What a restore prints is typed, as it is printed, on a host that is smaller than the one that is gone."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.fixtures.bare_host import BareHost
from tests.fixtures.taken import Place
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until

pytestmark = pytest.mark.postgres

LARGE = "huge_pages = on\nshared_buffers = '8000GB'\n"


class There:
    """A restore and a person who types what it prints. Two backups: the newer one has no postgresql.conf, as Debian's. Neither has
    a pg_hba.conf that lets anybody in on a socket."""

    def __init__(self, server: Postgres) -> None:
        self.server, self.place = server, Place(server)
        server.execute("CREATE TABLE said (word text); CREATE TABLE lost (); INSERT INTO said VALUES ('a')")
        conf = server.data / "postgresql.conf"
        small = conf.read_text()
        conf.write_text(small + LARGE)
        (server.data / "pg_hba.conf").write_text("host all all 10.0.0.0/8 scram-sha-256\n")
        self.first = self._take()
        server.execute("INSERT INTO said VALUES ('b')")
        self.time = str(server.value("SELECT clock_timestamp()"))
        server.execute("DROP TABLE lost; INSERT INTO said VALUES ('c')")
        self.place.archive_wal()
        conf.rename(server.directory / "postgresql.conf")
        (server.data / "postgresql.auto.conf").write_text(LARGE)
        self.second = self._take()
        server.execute("INSERT INTO said VALUES ('d')")
        self.later = str(server.value("SELECT clock_timestamp()"))
        server.execute("INSERT INTO said VALUES ('e')")
        self.place.archive_wal()
        self.host = BareHost(self.place)
        # What another cluster's people have in the environment here leads nowhere.
        self.env = {**self.host.env, "PGPORT": "1", "PGUSER": "postgres", "PGDATABASE": "postgres"}

    def _take(self) -> str:
        assert self.place.take() == 0
        return self.place.taken().id

    def restore(self, *arguments: str) -> tuple[str, list[str]]:
        """What it says, in one line, and the commands that are among that."""
        said = self.host.run("restore", "--data-dir", str(self.host.data), *arguments)
        assert said.returncode == 0, said.stdout + said.stderr
        return " ".join(said.stdout.split()), re.findall(r"^  (\S.*)$", said.stdout, re.MULTILINE)

    def refuses(self, *arguments: str) -> str:
        said = self.host.run("restore", "--data-dir", str(self.host.data), *arguments)
        assert said.returncode == 1, said.stdout + said.stderr
        return said.stderr

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, check=False, timeout=120,
            env=self.host.host.environment(self.env),
        )  # fmt: skip

    def words(self, *, paused: bool = False) -> str:
        ended = "pg_get_wal_replay_pause_state() = 'paused'" if paused else "NOT pg_is_in_recovery()"
        log = self.host.data / "walkeeper.log"
        wait_until(lambda: self.host.value(f"SELECT {ended}"), "the end of the recovery", logs=[log])
        return str(self.host.value("SELECT string_agg(word, '' ORDER BY word) FROM said"))


@pytest.fixture(scope="module")
def life() -> Iterator[There]:
    with Postgres(new_directory("p")) as server:
        yield There(server)


@pytest.fixture
def there(life: There) -> Iterator[There]:
    yield life
    life.host.host.kill9()
    shutil.rmtree(life.host.data)


def test_at_the_target_it_is_looked_at_ended_stopped_and_restored_anew(there: There) -> None:
    said, (start, resume, stop) = there.restore("--to", there.time)
    assert "Settings" not in said
    assert "pausing at the end of recovery" in said
    assert "Patroni, started earlier, replays beyond the target" in said
    assert there.type(start).returncode == 0, (there.host.data / "walkeeper.log").read_text()
    assert there.words(paused=True) == "ab"
    assert "pausing at the end of recovery" in (there.host.data / "walkeeper.log").read_text()
    locked = "SELECT count(*) FROM pg_locks WHERE relation = 'lost'::regclass AND mode = 'AccessExclusiveLock'"
    assert there.host.value(locked) == 1, "what it says of a query that hangs"
    if shutil.which("psql", path=there.env["PATH"]):
        assert there.type(resume).returncode == 0
    else:
        assert there.host.value("SELECT pg_wal_replay_resume() IS NOT NULL")
    assert there.words() == "ab"
    assert there.host.value("SELECT count(*) FROM lost") == 0
    assert "a server runs there" in there.refuses("--to", there.time)
    assert there.type(stop).returncode == 0
    assert "its recovery has ended since" in there.refuses("--to", there.time)
    there.restore("--to", there.time, "--delta")
    said, (start, *_) = there.restore("--to", there.time)
    assert "Nothing was done" in said
    assert there.type(start).returncode == 0
    assert there.words(paused=True) == "ab"


def test_what_shuts_down_at_the_target_is_opened_there(there: There) -> None:
    said, (start, opens) = there.restore("--to", there.later, "--action", "shutdown")
    assert "no postgresql.conf" in said
    assert "huge_pages, shared_buffers: comments now" in said
    log, pid = there.host.data / "walkeeper.log", there.host.data / "postmaster.pid"
    for count in (1, 2):
        there.type(start)  # pg_ctl sees a server that is ready, or that is gone already
        ended = "LOG:  shutdown at recovery target"
        wait_until(lambda: log.read_text().count(ended) == count and not pid.exists(), "the target", logs=[log])  # noqa: B023
    assert there.type(opens).returncode == 0, log.read_text()
    assert there.words() == "abcd"
