"""A cluster of two with ``durability: store``: whoever is promoted has every acknowledged row, though replication brought none."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import psycopg
import pytest

from tests.parts.cluster import Cluster, Node
from tests.parts.processes import wait_until
from tests.restore.test_standby_catch_up import freeze_replication, rows
from tests.test_cluster import SIZE, Archived
from walkeeper.core.lsn import MIB
from walkeeper.core.synchronous import standby_name

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
ROWS: Final = 200


@pytest.fixture
def archived(short_path: Path) -> Iterator[Archived]:
    """Two nodes, asynchronous replication, a walreceiver that waits for a silent primary however long it takes."""
    store = short_path / "store"
    store.mkdir()
    cluster = Cluster(
        short_path / "cluster",
        nodes=2,
        proxied=True,
        segment_size_mb=SIZE // MIB,
        walkeeper_config={
            "store": {"directory": str(store)},
            "durability": "store",
            "agent": {"listen": "127.0.0.1:{metrics_port}"},
        },
        settings={"wal_receiver_timeout": "0"},
        extra={"postgresql": {"pre_promote": "{python} -m walkeeper pre-promote --config {config}"}},
    )
    with cluster:
        yield Archived(cluster, store)


class Writer:
    """Commits one row after the other on that node, and knows which of them were acknowledged."""

    def __init__(self, node: Node, first: int = 0) -> None:
        self._first = first
        self.acknowledged: list[int] = []
        self._node = node
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = self._first
        with suppress(psycopg.Error), self._node.connect() as connection:
            while not self._stop.is_set():
                connection.execute("INSERT INTO t VALUES (%s)", [number])
                self.acknowledged.append(number)
                number += 1

    def wait(self, count: int) -> None:
        wait_until(lambda: len(self.acknowledged) >= count, f"{count} rows", 60)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(30)


def waits_for_store(archived: Archived, leader: Node, standby: Node) -> None:
    """Commits on that leader wait for the store from now on, and there is a table on both."""
    record = archived.wait_owner(leader)
    assert record.durability == "store"
    leader.execute("CREATE TABLE t (n int)")
    wait_until(lambda: rows_or_none(standby) == [], "the table is replicated")
    name = standby_name(int(record.system_identifier))
    archived.cluster.patch_config({"postgresql": {"parameters": {"synchronous_standby_names": name}}})
    wait_synchronous(archived, leader)
    wait_until(lambda: standby.value("SHOW synchronous_standby_names") == name, "the standby is told as much")


def wait_synchronous(archived: Archived, leader: Node) -> None:
    name = standby_name(int(archived.wait_owner(leader).system_identifier))
    sync = "SELECT count(*) FROM pg_stat_replication WHERE application_name = %s AND sync_state = 'sync'"
    wait_until(
        lambda: leader.value(sync, [name]) == 1,
        "the store is the synchronous standby",
        30,
        logs=archived.cluster.logs(),
    )


@pytest.mark.parametrize("fault", ["its host dies", "its Patroni dies, and it lives on", "it is cut off from the DCS"])
def test_p1_whoever_is_promoted_has_every_row_that_was_acknowledged(archived: Archived, fault: str) -> None:
    cluster = archived.cluster
    leader = cluster.wait_leader()
    [standby] = cluster.replicas()
    waits_for_store(archived, leader, standby)

    freeze_replication(leader, standby)
    writer = Writer(leader)
    writer.wait(ROWS)
    assert len(rows(standby)) < ROWS
    if fault == "its host dies":
        cluster.kill_host(leader)
    elif leader.proxy is not None and fault == "it is cut off from the DCS":
        leader.proxy.cut()
    else:
        os.kill(leader.patroni.pid, signal.SIGKILL)
    cluster.expire_leader()
    new = cluster.wait_leader(but_not=leader)
    acknowledged = len(writer.acknowledged)
    found = rows(new)
    assert sorted({*range(acknowledged)} - {*found}) == []
    assert archived.wait_owner(new).closed_by == ""
    if fault != "its host dies":
        assert len(writer.acknowledged) == acknowledged  # if the old primary accepts rows, it acknowledges none
        cluster.kill_host(leader)
    writer.end()


def test_p9_a_switchover_goes_there_and_back_and_no_row_is_missing(archived: Archived) -> None:
    cluster = archived.cluster
    leader = cluster.wait_leader()
    [standby] = cluster.replicas()
    waits_for_store(archived, leader, standby)
    acknowledged: list[int] = []
    for to in (standby, leader):
        old = cluster.wait_leader()
        writer = Writer(old, len(acknowledged) + 1000)
        writer.wait(60)
        assert cluster.switchover(to) is to
        writer.end()
        acknowledged += writer.acknowledged
        assert sorted({*acknowledged} - {*rows(to)}) == []
        wait_synchronous(archived, to)
        cluster.wait_ready()


def rows_or_none(node: Node) -> list[int] | None:
    return rows(node) if node.value("SELECT to_regclass('t') IS NOT NULL") else None
