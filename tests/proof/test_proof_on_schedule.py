"""A proof that the cluster runs by itself: a real agent, a real server, a real etcd. Alone, the leader is whose turn it is."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.fixtures.agents import Machine
from tests.fixtures.worlds import prepare
from tests.parts.etcd import Etcd
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until
from walkeeper.archive.layout import Layout
from walkeeper.archive.proofs import newest_proof
from walkeeper.core import backup_job
from walkeeper.core.backup_job import Job
from walkeeper.core.proof import scratch_name
from walkeeper.dcs.base import PROOF_JOB
from walkeeper.postgres.data_directory import running_server
from walkeeper.store.directory import DirectoryStore

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Etcd() as etcd, Postgres(new_directory("v") / "pg", auth="scram-sha-256") as server:
        prepare(server)
        with closing(Machine("demo", server, etcd)) as made:
            yield made


def test_p9_p10_an_agent_that_is_killed_leaves_nothing_of_its_proof_and_the_next_one_makes_it_up(
    machine: Machine,
) -> None:
    room = new_directory("room")
    agent = machine.start()
    machine.wait_archived()
    backup = [sys.executable, "-m", "walkeeper", "-c", machine.config, "backup"]
    machine.host.run(backup, env=machine.environment())
    machine.wait_archived()
    agent.send(signal.SIGTERM)
    agent.wait()
    machine.walkeeper["backup"] = {"verify_schedule": "1d", "verify_directory": str(room), "max_rate": "1GB"}
    machine.configure()

    def job() -> Job | None:
        document = machine.etcd.get(f"/service/{machine.scope}/{PROOF_JOB}")
        return None if document is None else backup_job.decode(document)

    agent = machine.start()
    place = room / scratch_name(machine.scope, None)
    server = wait_until(lambda: running_server(place / "data"), "the restored server", 240, logs=[machine.log])
    agent.send(signal.SIGKILL)
    agent.wait()
    wait_until(lambda: not Path(f"/proc/{server.pid}").exists() and not place.exists(), "the end of its proof", 240)
    (place / "data" / "base").mkdir(parents=True)  # as a host that lost its power would have left it
    place.chmod(0o700)

    agent = machine.start()
    wait_until(lambda: not (place / "data" / "base").exists(), "a host that is cleared", 240, logs=[machine.log])
    done = wait_until(
        lambda: found if (found := job()) is not None and found.is_over else None, "a proof", 300, logs=[machine.log]
    )
    assert (done.state, done.attempt) == ("done", 2), done.why
    layout = Layout(machine.scope, None, machine.server.system_identifier)
    proof = newest_proof(DirectoryStore(machine.store), layout)
    assert proof is not None
    assert proof.backup == done.backup
    assert not place.exists()
    report = machine.report()
    assert report is not None
    assert report["proof_job"]["state"] == "done", json.dumps(report["proof_job"])
    assert report["proof_schedule"]["schedule"] == "1d"
    agent.send(signal.SIGTERM)
    agent.wait()
