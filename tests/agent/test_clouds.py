"""A real agent whose store is an emulator of a cloud's, which goes away and comes back; and a backup in it that is restored."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests.fixtures.agents import Machine
from tests.fixtures.bare_host import BareHost
from tests.fixtures.taken import Place
from tests.fixtures.worlds import prepare
from tests.parts.azurite import HOW, Azurite, azurite_program
from tests.parts.etcd import Etcd
from tests.parts.fake_gcs import FakeGcs
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture(params=["fake-gcs", "azurite"])
def emulator(request: pytest.FixtureRequest) -> Iterator[FakeGcs | Azurite]:
    if request.param == "fake-gcs":
        with FakeGcs() as gcs:
            yield gcs
        return
    if azurite_program() is None:
        pytest.skip(HOW)
    with Azurite() as azure:
        yield azure


@pytest.fixture
def machine(emulator: FakeGcs | Azurite) -> Iterator[Machine]:
    with Etcd() as etcd, Postgres(new_directory("m") / "pg", auth="scram-sha-256") as server:
        prepare(server)
        machine = Machine("demo", server, etcd)
        machine.walkeeper["store"] = emulator.section("postgresql")
        machine.configure()
        try:
            yield machine
        finally:
            machine.close()


def run(machine: Machine, *arguments: str) -> str:
    command = [sys.executable, "-m", "walkeeper", "-c", str(machine.config), *arguments]
    return machine.host.run(command, env=machine.environment())


def test_nothing_is_lost_where_the_emulator_goes_away_and_comes_back(
    machine: Machine, emulator: FakeGcs | Azurite
) -> None:
    machine.start()
    machine.wait_owned()
    machine.wait_archived()
    emulator.stop()
    names = machine.server.complete_segments(3)
    written = {name: (machine.server.pg_wal / name).read_bytes() for name in names}
    machine.wait_says("store_unavailable")
    emulator.start()
    machine.wait_archived(seconds=60)
    assert "Sound" in run(machine, "verify")
    for name, wal in written.items():
        run(machine, "fetch", name, str(machine.directory))
        assert (machine.directory / name).read_bytes() == wal


def test_a_backup_in_it_is_restored_with_what_was_written_since(emulator: FakeGcs | Azurite) -> None:
    rows = "SELECT (count(*), sum(hashtext(m)))::text FROM t"
    with Postgres(new_directory("p")) as server:
        place = Place(server, emulator.section("postgresql"))
        server.execute("CREATE TABLE t AS SELECT md5(g::text) AS m FROM generate_series(1, 20000) g")
        assert place.take() == 0
        server.execute("INSERT INTO t SELECT 'after the backup'")
        place.archive_wal()
        there = BareHost(place)
        said = there.run("restore", "--data-dir", str(there.data), "--json")
        assert said.returncode == 0, said.stdout + said.stderr
        try:
            there.start(json.loads(said.stdout))
            wait_until(lambda: not there.value("SELECT pg_is_in_recovery()"), "the end of the recovery")
            assert there.value(rows) == server.value(rows)
        finally:
            there.host.kill9()
