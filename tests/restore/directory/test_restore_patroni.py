"""A Patroni cluster that goes back in time in place, by the steps of docs/recovery.md."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.parts.cluster import Cluster, Node
from tests.parts.postgres import SUPERUSER, SUPERUSER_PASSWORD
from tests.parts.processes import wait_until
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Record, decode_record

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
BIN = Path(sys.executable).parent


@pytest.fixture
def cluster(short_path: Path) -> Iterator[Cluster]:
    store = short_path / "store"
    store.mkdir()
    made = Cluster(
        short_path / "cluster",
        nodes=2,
        walkeeper_config={"store": {"directory": str(store)}, "agent": {"listen": "127.0.0.1:{metrics_port}"}},
    )
    with made:
        yield made


def record(cluster: Cluster) -> Record | None:
    document = cluster.etcd.get("/service/demo/walkeeper")
    return decode_record(document) if document else None


def wait_archived(cluster: Cluster, timeline: int, lsn: Lsn) -> None:
    def archived() -> bool:
        found = record(cluster)
        return found is not None and found.timeline >= timeline and found.position >= lsn

    agents = [node.directory / "data.walkeeper" / "agent.log" for node in cluster.nodes]
    wait_until(archived, f"timeline {timeline} or a later one is archived to {lsn}", 300, logs=agents)


def run(node: Node, *command: str, answers: str = "") -> str:
    said = subprocess.run(
        command, input=answers, capture_output=True, text=True, timeout=120, check=False,
        env={**node.host.environment(), **node.env},
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def words(connection: psycopg.Connection[Any]) -> list[str]:
    return [word for (word,) in connection.execute("SELECT word FROM said ORDER BY word")]


def test_a_cluster_goes_back_in_time_and_archives_on_from_there(cluster: Cluster) -> None:
    leader = cluster.wait_ready()
    walkeeper = str(BIN / "walkeeper")
    wait_archived(cluster, 1, Lsn(0))
    run(leader, walkeeper, "backup", "-c", str(leader.config))
    leader.execute("CREATE TABLE said (word text)")
    leader.execute("INSERT INTO said VALUES ('kept')")
    moment = str(leader.value("SELECT clock_timestamp()"))
    leader.execute("INSERT INTO said VALUES ('a mistake')")
    wait_archived(cluster, 1, Lsn.parse(leader.value("SELECT pg_current_wal_lsn()::text")))
    for node in sorted(cluster.nodes, key=lambda node: node is leader):  # 1. Patroni and the agents
        node.patroni.stop(signal.SIGTERM, 60)
        node.host.kill9()
    command = [walkeeper, "restore", "-c", str(leader.config), "--delta", "--to", moment, "--json"]
    done = json.loads(run(leader, *command))  # 2.
    leader.host.run(["sh", "-c", done["start"]], env=leader.env)  # 3.
    inside = psycopg.conninfo.make_conninfo(
        host=str(leader.data), port=5432, user=SUPERUSER, password=SUPERUSER_PASSWORD, dbname="postgres"
    )
    with psycopg.connect(inside, autocommit=True) as connection:
        paused = "SELECT pg_get_wal_replay_pause_state() = 'paused'"
        wait_until(lambda: (connection.execute(paused).fetchone() or [False])[0], "the target")
        assert words(connection) == ["kept"]
        connection.execute("SELECT pg_wal_replay_resume()")  # 4.
        recovers = "SELECT pg_is_in_recovery()"
        wait_until(lambda: (connection.execute(recovers).fetchone() or [True])[0] is False, "the new timeline")
    run(leader, str(cluster.bin_dir / "pg_ctl"), "-D", str(leader.data), "stop")
    run(  # 5.
        leader, str(BIN / "patronictl"), "-c", str(leader.config), "remove", "demo", answers="demo\nYes I am aware\n"
    )
    leader.start()  # 6.
    assert cluster.wait_leader(90) is leader
    leader.execute("INSERT INTO said VALUES ('after it')")
    wait_archived(cluster, 2, Lsn.parse(leader.value("SELECT pg_current_wal_lsn()::text")))
    slots = json.loads(cluster.etcd.get("/service/demo/config") or "{}").get("slots", {})
    assert "walkeeper" in slots
    for node in cluster.nodes:  # 7.
        if node is not leader:
            node.start()
    cluster.wait_ready(2)
    for node in cluster.nodes:
        with node.connect() as connection:
            wait_until(lambda: words(connection) == ["after it", "kept"], f"{node.name} has the rows")
    run(leader, walkeeper, "verify", "-c", str(leader.config))
