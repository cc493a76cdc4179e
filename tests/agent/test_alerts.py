"""The alerts of examples/prometheus on what a real agent serves: it is broken on purpose, scraped, and promtool evaluates that."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Final

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.agents import Machine
from tests.fixtures.worlds import prepare
from tests.parts.etcd import Etcd
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until
from walkeeper.core import backup_job
from walkeeper.core.backup_job import MAX_ATTEMPTS, Job
from walkeeper.lib.clock import timestamp

PROMTOOL: Final = shutil.which("promtool")
RULES: Final = Path(__file__).parents[2] / "examples" / "prometheus" / "alerts.yml"
WITHOUT: Final = (
    "import pathlib, sys; from walkeeper.agent import archive_push; from walkeeper.postgres import programs; "
    "archive_push.TAKEOVER_SECONDS = 2.0; found = programs.folders; programs.folders = lambda *those: found(*those) if pathlib.Path({there!r}).exists() else []; "
    "from walkeeper.cli.main import main; sys.exit(main())"
)
"""An agent that finds no program of PostgreSQL's before ``there`` is, and holds archive-push back for two seconds."""
_serial = count()

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(PROMTOOL is None, reason="no promtool: it comes with Prometheus (Debian's package prometheus)"),
]


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with Etcd() as made:
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres(new_directory("m") / "pg") as running:
        prepare(running)
        yield running


@pytest.fixture
def machine(server: Postgres, etcd: Etcd) -> Iterator[Machine]:
    """In a cluster of its own, which leads and serves metrics."""
    with closing(Machine(f"alerts{next(_serial)}", server, etcd)) as made:
        made.configure(listen=f"127.0.0.1:{made.metrics_port}")
        yield made


def scraped(machine: Machine, *, waits: bool) -> list[dict[str, str]]:
    """What it serves now, as promtool's series, as if it stayed so for an hour. ``waits``: and WAL waited all the time.

    Without the disk of pg_wal, which is the machine's.
    """
    with urllib.request.urlopen(f"http://127.0.0.1:{machine.metrics_port}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    series = [{"series": 'up{job="walkeeper", instance="a"}', "values": "1x60"}]
    for sample in (sample for family in families for sample in family.samples if "_disk" not in sample.name):
        labels = ", ".join(f"{name}={json.dumps(value)}" for name, value in sample.labels.items())
        longer = 60 if waits and sample.name == "walkeeper_lag_seconds" else 0
        name = f'{sample.name}{{job="walkeeper", instance="a", {labels}}}'
        series.append({"series": name, "values": f"{sample.value}+{longer}x60"})
    return series


def alarms(machine: Machine, *, waits: bool) -> set[str]:
    """Which fire then."""
    asked = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "50m", "exp_samples": []}
    test = {"interval": "1m", "input_series": scraped(machine, waits=waits), "promql_expr_test": [asked]}
    file = machine.directory / "alerts_test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run(
        [PROMTOOL or "", "test", "rules", file], capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0 or "got:" in said, said
    return set(re.findall(r'alertname="(\w+)"', said.partition("got:")[2]))


def troubles(machine: Machine) -> set[str]:
    return {problem["reason"] for problem in (machine.report() or {"troubles": []})["troubles"]}


def wait_trouble(machine: Machine, reason: str, seconds: float = 60) -> None:
    wait_until(lambda: reason in troubles(machine), reason, seconds, logs=[machine.log])


def wait_alarms(machine: Machine, *expected: str, waits: bool = False) -> None:
    """Exactly these: what a look has just begun to see may lack a part."""
    found = [set[str]()]

    def same() -> bool:
        found.append(alarms(machine, waits=waits))
        return found[-1] == {*expected}

    try:
        wait_until(same, "the alerts", 60, interval=0.5, logs=[machine.log])
    except TimeoutError as late:
        raise AssertionError(f"{sorted(found[-1])}, not {sorted(expected)}") from late


def wait_well(machine: Machine) -> None:
    """Until all is archived, and no alert fires."""

    def well() -> bool:
        report = machine.report()
        return bool(report and report["agent"]["archiving"] and report["lag_bytes"] == 0 and not report["troubles"])

    wait_until(well, "all is archived", 60, logs=[machine.log])
    wait_alarms(machine)


def test_none_where_all_is_well_and_each_that_is_due_while_the_store_is_away(machine: Machine) -> None:
    with machine.start():
        machine.wait_archived()
        wait_well(machine)
        away = machine.store.rename(machine.directory / "away")
        machine.server.complete_segments(2)
        wait_trouble(machine, "store_unavailable")
        wait_until(lambda: (machine.report() or {}).get("lag_seconds"), "WAL that waits", logs=[machine.log])
        wait_alarms(machine, "WalkeeperStoreTrouble", "WalkeeperFrontierStands", "WalkeeperLagSeconds", waits=True)
        away.rename(machine.store)
        wait_well(machine)


def test_the_dcs_is_away(server: Postgres) -> None:
    with Etcd() as etcd, closing(Machine("alerts", server, etcd)) as machine:
        machine.configure(listen=f"127.0.0.1:{machine.metrics_port}")
        with machine.start():
            machine.wait_archived()
            wait_well(machine)
            etcd.kill()
            wait_trouble(machine, "dcs_unavailable")
            wait_alarms(machine, "WalkeeperDcsUnknown")
            etcd.restart()
            wait_well(machine)


def test_postgresql_is_down(etcd: Etcd) -> None:
    with Postgres(new_directory("m") / "pg") as server:
        prepare(server)
        with closing(Machine(f"alerts{next(_serial)}", server, etcd)) as machine:
            machine.configure(listen=f"127.0.0.1:{machine.metrics_port}")
            with machine.start():
                machine.wait_archived()
                server.stop()
                wait_trouble(machine, "postgres")
                wait_alarms(machine, "WalkeeperOtherTrouble")
                server.start()
                wait_well(machine)


def test_archive_command_fails(etcd: Etcd) -> None:
    settings = {"archive_mode": "on", "archive_command": "false"}
    with Postgres(new_directory("m") / "pg", settings=settings) as server:
        prepare(server)
        with closing(Machine(f"alerts{next(_serial)}", server, etcd)) as machine:
            machine.configure(listen=f"127.0.0.1:{machine.metrics_port}")
            with machine.start():
                machine.wait_archived()
                wait_trouble(machine, "archive_command")
                wait_alarms(machine, "WalkeeperArchiveCommandFails")


def test_a_server_that_takes_writes_and_does_not_lead(machine: Machine) -> None:
    machine.lead("b")
    with machine.start():
        wait_trouble(machine, "no_leadership")
        wait_alarms(machine, "WalkeeperTwoPrimaries", "WalkeeperNoOwner")
        machine.lead("a")
        wait_well(machine)


def test_a_record_that_cannot_be_read_is_no_dcs_that_does_not_answer(machine: Machine) -> None:
    """Where this member does not lead: its takeover would write a new one."""
    machine.lead("b")
    machine.etcd.put(f"/service/{machine.scope}/walkeeper", "{}")
    with machine.start():
        wait_trouble(machine, "bad_record")
        wait_alarms(machine, "WalkeeperRecordUnreadable", "WalkeeperTwoPrimaries", "WalkeeperNoOwner")


def test_a_takeover_that_is_refused(machine: Machine) -> None:
    with machine.start():
        machine.wait_archived()
    shutil.rmtree(machine.store / machine.scope)
    with machine.start():
        wait_trouble(machine, "archive_missing")
        wait_alarms(machine, "WalkeeperRefused", "WalkeeperNoOwner")


def test_a_takeover_without_pg_receivewal_is_told_also_to_archive_command_and_goes_on_when_it_is_there(
    machine: Machine,
) -> None:
    there = machine.directory / "there"
    with machine.start(program=WITHOUT.format(there=str(there))):
        wait_trouble(machine, "config")
        machine.server.complete_segments(2)
        wait_alarms(machine, "WalkeeperNoOwner", "WalkeeperOtherTrouble")
        push = [sys.executable, "-m", "walkeeper", "-c", str(machine.config), "archive-push"]
        done = subprocess.run(
            [*push, machine.server.pg_wal / machine.server.segments()[0]],
            env={**os.environ, **machine.environment()}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "not taken over yet, and nothing was compared: pg_receivewal: not found in" in done.stderr
        assert "HINT: Install the client programs" in done.stderr
        there.touch()
        machine.wait_archived(seconds=60)
        wait_well(machine)


def test_a_scheduled_backup_fails_at_its_last_attempt(machine: Machine) -> None:
    """For real: its command cannot read the configuration any more."""
    half_a_year_away = (datetime.now(UTC).month + 5) % 12 + 1
    machine.walkeeper["backup"] = {"source": "leader", "schedule": f"0 4 1 {half_a_year_away} *"}
    machine.configure()
    identifier = str(machine.server.system_identifier)
    with machine.start():
        machine.wait_archived()
        wait_well(machine)
        machine.config.write_text("scope: [")
        job = Job(
            system_identifier=identifier, due=timestamp(), at=timestamp(), state="running", node="a",
            backup="20261128T020000Z-00000001-1a2b3c4d", attempt=MAX_ATTEMPTS - 1,
        )  # fmt: skip
        machine.etcd.put(f"/service/{machine.scope}/walkeeper-backup", backup_job.encode(job))
        wait_trouble(machine, "backup_fails")
        wait_alarms(machine, "WalkeeperBackupFails")
