"""What docs/operations.md says of a major upgrade, done with pg_upgrade under Patroni, and then undone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.parts.binaries import all_postgres, postgres_bin
from tests.parts.cluster import Cluster, Node
from tests.parts.postgres import SUPERUSER, SUPERUSER_PASSWORD, restore_server
from tests.parts.processes import CHECKOUT, wait_until
from tests.test_cluster import SIZE, Archived
from walkeeper.core.lsn import MIB
from walkeeper.core.record import Record

pytestmark = [pytest.mark.cluster, pytest.mark.matrix, pytest.mark.slow]
OLD: Final = 15
NEW: Final = 17


def test_a_major_upgrade_and_its_rollback_as_documented(short_path: Path) -> None:
    for major in (OLD, NEW):
        assert major in all_postgres(), f"PostgreSQL {major} is not here: tools/postgres-from-debian"
    (short_path / "store").mkdir()
    cluster = Cluster(
        short_path / "cluster",
        nodes=2,
        bin_dir=postgres_bin(OLD),
        segment_size_mb=SIZE // MIB,
        walkeeper_config={"store": {"directory": str(short_path / "store")}, "agent": {"listen": "off"}},
    )
    with cluster:
        archived = Archived(cluster, short_path / "store")
        leader = cluster.wait_leader()
        old = archived.wait_owner(leader)
        leader.execute("CREATE TABLE life (row int)")
        backup = leader.base_backup(short_path / "backup")
        write(archived, leader, 1)
        before = identifiers(archived)

        stop(cluster)
        upgrade(cluster, leader)
        use(cluster, NEW)
        begin_again(cluster, leader)
        assert leader.value("SHOW server_version_num").startswith(str(NEW))
        wait_until(lambda: "wrong_cluster" in takeover(leader), "a refusal", 60, logs=logs(cluster))
        assert "wrong_cluster" in takeover(leader, "--accept")
        new = wait_record(archived, leader, old)
        write(archived, leader, 2)
        cluster.wait_ready()
        assert "Sound" in walkeeper(leader, "verify")
        assert "Sound" in walkeeper(leader, "verify", "--system-identifier", old.system_identifier)
        assert identifiers(archived) == {*before, new.system_identifier}

        stop(cluster)
        use(cluster, OLD)
        begin_again(cluster, leader)
        assert leader.value("SHOW server_version_num").startswith(str(OLD))
        wait_until(lambda: "wrong_cluster" in takeover(leader), "a refusal", 60, logs=logs(cluster))
        assert "wrong_cluster" in takeover(leader, "--accept")
        back = wait_record(archived, leader, new)
        assert (back.system_identifier, back.start) == (old.system_identifier, old.start)
        assert write(archived, leader, 3).gaps_total == 0
        cluster.wait_ready()
        assert "Sound" in walkeeper(leader, "verify", "--deep")
        assert restored(archived, leader, backup, short_path) == [1, 3]


def wait_record(archived: Archived, leader: Node, before: Record) -> Record:
    """That of another cluster than the one before."""

    def another() -> Record | None:
        record = archived.record()
        return record if record is not None and record.system_identifier != before.system_identifier else None

    record = wait_until(another, "another record", 60, logs=logs(archived.cluster))
    assert record.owner == leader.name
    return record


def write(archived: Archived, leader: Node, row: int) -> Record:
    leader.execute("INSERT INTO life VALUES (%s)", [row])
    return archived.wait_frontier(archived.finish_segment(leader))


def identifiers(archived: Archived) -> set[str]:
    return {path.name for path in (archived.store / "demo").iterdir()}


def logs(cluster: Cluster) -> list[Path]:
    return [*cluster.logs(), *(path for node in cluster.nodes for path in node.directory.glob("*.walkeeper/agent.log"))]


def walkeeper(node: Node, *arguments: str) -> str:
    """What it prints; it must exit 0."""
    return node.host.run(
        [sys.executable, "-m", "walkeeper", *arguments[:1], "-c", node.config, *arguments[1:]], env=node.env
    )


def takeover(node: Node, *arguments: str) -> str:
    """What ``walkeeper takeover`` prints, whatever its exit: nothing while there is no agent."""
    return subprocess.run(
        [sys.executable, "-m", "walkeeper", "takeover", "-c", str(node.config), *arguments],
        env=node.host.environment(node.env), cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False,
    ).stdout  # fmt: skip


def stop(cluster: Cluster) -> None:
    """Patroni on every node, the leader's last, and then the agents: a callback would start them again before."""
    leader = cluster.wait_leader()
    for node in sorted(cluster.nodes, key=lambda node: node is leader):
        assert node.patroni.stop(timeout=90) == 0
    for node in cluster.nodes:
        walkeeper(node, "agent", "--stop")
        # What restore-wal has started to fetch ahead ends when nobody asks any longer.
        wait_until(lambda node=node: not node.host.pids(), f"nothing runs on {node.name}", 60)  # type: ignore[misc]


def upgrade(cluster: Cluster, leader: Node) -> None:
    """pg_upgrade in its copying mode: the old data directory stays as it is."""
    old, new, data = cluster.bin_dir, postgres_bin(NEW), leader.directory / f"data{NEW}"
    password = leader.directory / "password"
    password.write_text(SUPERUSER_PASSWORD)
    leader.host.run(
        [new / "initdb", "-D", data, "-U", SUPERUSER, "-A", "scram-sha-256", "--pwfile", password, "-E", "UTF8", "--locale=C",
         "--data-checksums", f"--wal-segsize={cluster.segment_size_mb}", "--no-sync"],
        timeout=120,
    )  # fmt: skip
    password.unlink()
    leader.host.run(
        [
            new / "pg_upgrade",
            "-b",
            old,
            "-B",
            new,
            "-d",
            leader.data,
            "-D",
            data,
            "-U",
            SUPERUSER,
            "-s",
            leader.socket_dir,
        ],
        env={"PGPASSWORD": SUPERUSER_PASSWORD},
        timeout=300,
    )


def use(cluster: Cluster, major: int) -> None:
    """``bin_dir`` and ``data_dir`` in every patroni.yml; the initialize key is the other cluster's."""
    cluster.bin_dir = postgres_bin(major)
    for node in cluster.nodes:
        node.bin_dir = cluster.bin_dir
        node.data = node.directory / ("data" if major == OLD else f"data{major}")
    cluster.etcd.delete("/service/demo/initialize")


def begin_again(cluster: Cluster, first: Node) -> None:
    """The node with the upgraded data leads; the others are built, or follow, after it."""
    first.start()
    wait_until(first.writable, "the upgraded server", 120, logs=logs(cluster))
    for node in cluster.nodes:
        if node is not first:
            node.start()
    assert cluster.wait_leader(90) is first


def restored(archived: Archived, leader: Node, backup: Path, directory: Path) -> list[int]:
    command = f"{sys.executable} -m walkeeper -c {leader.config} restore-wal %f %p"
    server = restore_server(backup, directory / "restored", command, bin_dir=archived.cluster.bin_dir)
    try:
        server.start(60)
        wait_until(lambda: not server.value("select pg_is_in_recovery()"), "the restore is over", 60, logs=[server.log])
        return [row for (row,) in server.execute("SELECT row FROM life ORDER BY row")]
    finally:
        server.close()
