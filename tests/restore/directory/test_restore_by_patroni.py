"""Patroni itself calls ``walkeeper restore``: for a replica of its cluster, and for a cluster from another one's archive."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.parts.cluster import Cluster, Node
from tests.parts.processes import wait_until
from walkeeper.core import backup_job
from walkeeper.core.backup_job import Job
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import decode_record
from walkeeper.dcs.base import BACKUP_JOB

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
WALKEEPER = str(Path(sys.executable).parent / "walkeeper")
REPLICAS = {
    "create_replica_methods": ["walkeeper", "basebackup"],
    "walkeeper": {
        "command": f"{WALKEEPER} restore --replica -c {{config}}",
        "keep_data": True,
        "no_params": True,
        "no_leader": True,
    },
}


def made(
    directory: Path,
    store: Path,
    extra: Mapping[str, Any],
    nodes: int,
    scope: str = "demo",
    backup: Mapping[str, Any] | None = None,
) -> Cluster:
    return Cluster(
        directory,
        nodes=nodes,
        scope=scope,
        walkeeper_config={
            "store": {"directory": str(store)},
            "agent": {"listen": "127.0.0.1:{metrics_port}"},
            "backup": {"schedule": "24h", **(backup or {})} if nodes > 1 else {},
        },
        extra=extra,
    )


@pytest.fixture
def store(short_path: Path) -> Path:
    (short_path / "store").mkdir()
    return short_path / "store"


@pytest.fixture
def cluster(short_path: Path, store: Path) -> Iterator[Cluster]:
    with made(short_path / "cluster", store, {"postgresql": REPLICAS}, 2) as cluster:
        yield cluster


def wait_archived(cluster: Cluster, lsn: Lsn) -> None:
    key = f"/service/{cluster.scope}/walkeeper"

    def archived() -> bool:
        document = cluster.etcd.get(key)
        return document is not None and decode_record(document).position >= lsn

    agents = [node.directory / "data.walkeeper" / "agent.log" for node in cluster.nodes]
    wait_until(archived, f"{cluster.scope} is archived to {lsn}", 300, logs=agents)


def wait_job(cluster: Cluster, *states: str) -> Job:
    """The cluster's backup job, when it is in one of them."""

    def job() -> Job | None:
        document = cluster.etcd.get(f"/service/{cluster.scope}/{BACKUP_JOB}")
        found = backup_job.decode(document) if document else None
        return found if found is not None and found.state in states else None

    agents = [node.directory / "data.walkeeper" / "agent.log" for node in cluster.nodes]
    return wait_until(job, f"the cluster's backup to be {states}", 300, logs=agents)


def begin_anew(cluster: Cluster, leader: Node) -> None:
    """A job whose backup begins in the archive: a replica that was made before the archive began has its last checkpoint before that."""
    (replica,) = cluster.replicas()
    wait_archived(cluster, end_of(leader))
    leader.execute("CHECKPOINT")
    end = end_of(leader)
    wait_until(lambda: replica.value(f"SELECT pg_last_wal_replay_lsn() >= '{end}'"), "the replica's replay", 60)
    replica.execute("CHECKPOINT")
    cluster.etcd.delete(f"/service/{cluster.scope}/{BACKUP_JOB}")


def run(node: Node, *command: str) -> str:
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False,
        env={**node.host.environment(), **node.env},
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def end_of(leader: Node) -> Lsn:
    return Lsn.parse(str(leader.value("SELECT pg_current_wal_lsn()::text")))


def words(node: Node) -> list[str]:
    with node.connect() as connection:
        return [word for (word,) in connection.execute("SELECT word FROM said ORDER BY word")]


def test_a_replica_and_another_cluster_come_from_the_store(cluster: Cluster, store: Path, short_path: Path) -> None:
    leader = cluster.wait_ready()
    other = next(node for node in cluster.nodes if node is not leader)
    assert "replica has been created using basebackup" in other.log.read_text()  # there was no backup yet
    assert "Error creating replica using method walkeeper" in other.log.read_text()
    leader.execute("CREATE TABLE said (word text)")
    leader.execute("INSERT INTO said VALUES ('first')")
    job = wait_job(cluster, "done", "failed")
    assert job.state == "done"
    leader.execute("INSERT INTO said VALUES ('second')")
    moment = str(leader.value("SELECT clock_timestamp()"))
    leader.execute("INSERT INTO said VALUES ('later')")
    wait_archived(cluster, end_of(leader))

    other.patroni.stop(signal.SIGTERM, 60)
    other.host.kill9()
    shutil.rmtree(other.data)
    sent = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND query LIKE 'BASE_BACKUP%'"
    assert leader.value(sent) == 0
    other.start()
    cluster.wait_ready(2)
    assert "replica has been created using walkeeper" in other.log.read_text()
    assert not (other.data / "recovery.signal").exists()
    wait_until(lambda: words(other) == ["first", "later", "second"], "its rows")
    said = run(leader, WALKEEPER, "pins", "-c", str(leader.config), "--json")
    assert [pin["kind"] for pin in json.loads(said)] == ["restore"]

    bootstrap = {
        "method": "walkeeper",
        "walkeeper": {
            "command": f"{WALKEEPER} restore --bootstrap --from demo --to '{moment}' -c {{config}}",
            "keep_existing_recovery_conf": True,
            "no_params": True,
        },
    }
    with made(short_path / "copy", store, {"bootstrap": bootstrap}, 1, "copy") as copy:
        new = copy.wait_leader()
        assert words(new) == ["first", "second"]
        new.execute("INSERT INTO said VALUES ('in the copy')")
        wait_archived(copy, end_of(new))
        run(new, WALKEEPER, "verify", "-c", str(new.config))
        assert (new.data / "walkeeper_clone_of").read_text().endswith(f"/demo/{system_identifier(leader)}/")
        assert {each.name for each in store.iterdir()} >= {"demo", "copy"}
    run(leader, WALKEEPER, "verify", "--deep", "-c", str(leader.config))
    assert words(leader) == ["first", "later", "second"]


@pytest.mark.timeout(900)  # it watches for two and a half minutes whether the old cluster lives
def test_a_cluster_whose_hosts_and_dcs_are_all_gone_comes_back_and_archives_on(short_path: Path, store: Path) -> None:
    """As docs/recovery.md says under "All hosts are gone", also after Patroni has made an empty cluster in its place."""
    with made(short_path / "gone", store, {}, 2) as cluster:
        leader = cluster.wait_ready()
        system = system_identifier(leader)
        leader.execute("CREATE TABLE said (word text)")
        assert wait_job(cluster, "done", "failed").state == "done"
        leader.execute("INSERT INTO said VALUES ('to the last second')")
        end = end_of(leader)
        wait_archived(cluster, end)
    shutil.rmtree(short_path / "gone")
    with made(short_path / "empty", store, {}, 1) as mistake:
        wait_archived(mistake, end_of(mistake.wait_leader()))
    shutil.rmtree(short_path / "empty")
    command = f"{WALKEEPER} restore --bootstrap -c {{config}} --system-identifier {system}"
    bootstrap = {
        "method": "walkeeper",
        "walkeeper": {"command": command, "keep_existing_recovery_conf": True, "no_params": True},
    }
    with made(short_path / "new", store, {"bootstrap": bootstrap, "postgresql": REPLICAS}, 2) as cluster:
        leader = cluster.wait_ready()
        assert words(leader) == ["to the last second"]
        leader.execute("INSERT INTO said VALUES ('and on')")
        assert system_identifier(leader) == system
        wait_archived(cluster, end_of(leader))
        run(leader, WALKEEPER, "verify", "-c", str(leader.config))
        found = json.loads(run(leader, WALKEEPER, "backups", "--json", "-c", str(leader.config)))
        assert found["windows"][0]["start_lsn"] < str(end) < found["windows"][0]["end_lsn"]


def test_the_leader_goes_on_where_a_replica_died_with_the_backup(short_path: Path, store: Path) -> None:
    slow = {"max_rate": "768kB"}
    with made(short_path / "cluster", store, {}, 2, backup=slow) as cluster:
        leader = cluster.wait_ready()
        begin_anew(cluster, leader)
        begun = wait_job(cluster, "running")
        assert begun.node != leader.name
        pieces = store / "demo" / system_identifier(leader) / "backup" / begun.backup / "data"
        agents = [node.directory / "data.walkeeper" / "agent.log" for node in cluster.nodes]
        wait_until(lambda: pieces.exists() and any(pieces.iterdir()), "a piece", 120, logs=agents)
        cluster.kill_host(begun.node)
        job = wait_job(cluster, "done", "failed")
        assert (job.state, job.node, job.attempt, job.backup) == ("done", leader.name, 2, begun.backup)
        run(leader, WALKEEPER, "verify", "--deep", "-c", str(leader.config))
        listed = json.loads(run(leader, WALKEEPER, "backups", "--json", "-c", str(leader.config)))
        assert [each["state"] for each in listed["backups"]] == ["complete"]


def system_identifier(node: Node) -> str:
    return str(node.value("SELECT system_identifier FROM pg_control_system()"))
