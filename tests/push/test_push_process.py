"""archive_command as PostgreSQL itself runs it: with the agent's process, and without it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.agents import SIZE, Machine
from tests.fixtures.pushing import SCRIPT
from tests.fixtures.worlds import prepare
from tests.parts.etcd import Etcd
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until
from walkeeper.core.names import Segment

pytestmark = pytest.mark.postgres
_serial = itertools.count(1)

COMMANDS = {
    "script": f"{SCRIPT} -c {{config}} %p",
    "command": "{python} -m walkeeper archive-push -c {config} %p",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres(new_directory("m") / "pg", auth="scram-sha-256", settings={"archive_mode": "on"}) as running:
        prepare(running)
        yield running


class Archived:
    """A server with an archive_command, and the machine of its agent."""

    def __init__(self, server: Postgres, machine: Machine, command: str, mode: str) -> None:
        self.server = server
        self.machine = machine
        machine.walkeeper["archiver"] = mode
        machine.configure()
        text = COMMANDS[command].format(config=machine.config, python=sys.executable)
        environment = f"WALKEEPER_RUN_DIR={machine.run_directory} WALKEEPER_PYTHON={sys.executable}"
        paths = ":".join(path for path in sys.path if path)
        with server.connect() as connection:
            set_it = f"ALTER SYSTEM SET archive_command = '{environment} PYTHONPATH={paths} {text}'"
            connection.execute(set_it.encode())
        server.execute("SELECT pg_reload_conf()")
        server.execute("SELECT pg_stat_reset_shared('archiver')")

    def wait_handed_over(self, name: str, seconds: float = 60) -> None:
        done = self.server.pg_wal / "archive_status" / f"{name}.done"
        wait_until(done.exists, f"{name} handed over", seconds, logs=[self.server.log, self.machine.log])

    @property
    def stats(self) -> dict[str, Any]:
        row = self.server.execute("SELECT archived_count, failed_count FROM pg_stat_archiver")[0]
        return {"archived": row[0], "failed": row[1]}


@pytest.fixture
def make(server: Postgres, etcd: Etcd) -> Iterator[Any]:
    machines: list[Machine] = []

    def build(command: str, mode: str) -> Archived:
        machines.append(Machine(f"push{next(_serial)}", server, etcd))
        return Archived(server, machines[-1], command, mode)

    yield build
    with server.connect() as connection:
        connection.execute("ALTER SYSTEM SET archive_command = '/bin/true'")
    server.execute("SELECT pg_reload_conf()")
    for machine in machines:
        machine.close()


@pytest.mark.parametrize(
    ("command", "mode"), [("script", "streaming"), ("command", "streaming"), ("script", "command")]
)
def test_postgresql_hands_over_everything_without_one_failure(make: Any, command: str, mode: str) -> None:
    archived = make(command, mode)
    machine = archived.machine
    machine.start()
    machine.wait_owned()
    names = archived.server.complete_segments(8)
    archived.wait_handed_over(names[-1])
    assert set(machine.stored()) >= set(names)
    end = Segment.parse(names[-1], SIZE).end
    wait_until(
        lambda: machine.record is not None and machine.record.position >= end, "the frontier", logs=[machine.log]
    )
    assert archived.stats["failed"] == 0
    assert bool(machine.receivers()) == (mode == "streaming")
    report = machine.wait_ready()
    assert report["agent"]["archiver"] == mode
    assert report["troubles"] == []


def test_h9_an_agent_that_was_killed_or_frozen_does_not_stop_postgresql_from_archiving(make: Any) -> None:
    archived = make("script", "command")
    machine = archived.machine
    agent = machine.start()
    machine.wait_owned()
    first = archived.server.switch_wal()
    archived.wait_handed_over(first)
    agent.pause()
    frozen = archived.server.switch_wal()
    archived.wait_handed_over(frozen)
    agent.resume()
    machine.host.kill9()
    alone = archived.server.switch_wal()
    archived.wait_handed_over(alone)
    assert {first, frozen, alone} <= set(machine.stored())
    machine.start()
    names = [archived.server.switch_wal()]
    archived.wait_handed_over(names[-1])
    end = Segment.parse(names[-1], SIZE).end
    wait_until(
        lambda: machine.record is not None and machine.record.position >= end, "the frontier", logs=[machine.log]
    )
    assert archived.stats["failed"] == 0


def test_p10_a_call_that_fails_shows_in_postgresqls_log_the_report_and_goes_away(make: Any) -> None:
    archived = make("script", "streaming")
    machine = archived.machine
    machine.start()
    machine.wait_owned()
    archived.wait_handed_over(archived.server.switch_wal())
    away = machine.store.with_name("away")
    machine.store.rename(away)
    name = archived.server.switch_wal()
    try:
        wait_until(lambda: archived.stats["failed"] > 0, "a failed call", 60, logs=[machine.log])
        report = wait_until(
            lambda: (report := machine.report()) and any("archive_command" in t["what"] for t in report["troubles"]) and report,
            "the report", logs=[machine.log],
        )  # fmt: skip
        assert report["archive_command"]["failed_count"] > 0
        said = archived.server.log.read_text()
        assert "walkeeper: archive-push: " in said
        assert "HINT: " in said.split("walkeeper: archive-push: ", 1)[1].split("\n")[0]
    finally:
        away.rename(machine.store)
    archived.server.switch_wal()  # or PostgreSQL waits a minute after three failures
    archived.wait_handed_over(name, 90)
    wait_until(lambda: not (machine.report() or {"troubles": 1})["troubles"], "all well", logs=[machine.log])
