"""Restores where a server of the cluster runs, or its directories lie: nothing of it is written to."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.bare_host import BareHost
from tests.fixtures.taken import Place
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory

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
