"""A standby whose primary died replays from the archive what replication had not brought, before it is promoted."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.parts.cluster import Cluster, Node
from tests.parts.processes import wait_until
from tests.test_cluster import SIZE, Archived
from walkeeper.core.history import History, parse_history
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.record import Record
from walkeeper.store.directory import DirectoryStore

pytestmark = pytest.mark.cluster
SEGMENTS: Final = 6
MAXIMUM_LAG: Final = MIB
"""Patroni's default for maximum_lag_on_failover: less than one of the segments that replication does not bring."""


@pytest.fixture
def archived(short_path: Path) -> Iterator[Archived]:
    """Two nodes, asynchronous replication, a walreceiver that waits for a silent primary however long it takes."""
    store = short_path / "store"
    store.mkdir()
    cluster = Cluster(
        short_path / "cluster",
        nodes=2,
        segment_size_mb=SIZE // MIB,
        walkeeper_config={"store": {"directory": str(store)}, "agent": {"listen": "127.0.0.1:{metrics_port}"}},
        settings={"wal_receiver_timeout": "0"},
        extra={"bootstrap": {"dcs": {"maximum_lag_on_failover": MAXIMUM_LAG}}},
    )
    with cluster:
        yield Archived(cluster, store)


def freeze_replication(leader: Node, standby: Node) -> None:
    """Its walsender says nothing more, and dies with the host: what it has not sent is never received."""
    sql = "SELECT pid FROM pg_stat_replication WHERE application_name = %s"
    os.kill(int(leader.value(sql, [standby.name])), signal.SIGSTOP)


def positions(standby: Node) -> tuple[Lsn, Lsn]:
    """Received and replayed."""
    row = standby.execute("SELECT pg_last_wal_receive_lsn()::text, pg_last_wal_replay_lsn()::text")[0]
    return Lsn.parse(row[0]), Lsn.parse(row[1])


def write_rows(leader: Node, numbers: range) -> Lsn:
    """One row in each of so many segments, which are completed. The end of the last."""
    for number in numbers:
        leader.execute("INSERT INTO t VALUES (%s)", [number])
        end = Lsn.parse(leader.value("SELECT pg_switch_wal()::text")).floor(SIZE) + SIZE
    return Lsn(end)


def rows(node: Node) -> list[int]:
    return [row[0] for row in node.execute("SELECT n FROM t ORDER BY n")]


def history_of(archived: Archived, record: Record) -> History:
    layout = archived.archive(record).layout
    content = DirectoryStore(archived.store).get(f"{layout.root}history/{record.timeline:08X}.history")
    assert content is not None
    return parse_history(record.timeline, content)


def wait_patroni_knows(cluster: Cluster, position: Lsn) -> None:
    """What a standby's lag is measured against: the leader's position as Patroni wrote it to the DCS."""

    def known() -> bool:
        status = cluster.etcd.get(f"/service/{cluster.scope}/status")
        return status is not None and json.loads(status)["optime"] >= position

    wait_until(known, f"Patroni knows that the leader reached {position}", logs=cluster.logs())


def test_p4_a_standby_replays_from_the_archive_what_replication_had_not_brought(archived: Archived) -> None:
    cluster = archived.cluster
    leader = cluster.wait_leader()
    [standby] = cluster.replicas()
    archived.wait_owner(leader)
    leader.execute("CREATE TABLE t (n int)")
    write_rows(leader, range(1))
    wait_until(lambda: rows(standby) == [0], "the first row is replicated")

    freeze_replication(leader, standby)
    end = write_rows(leader, range(1, SEGMENTS))
    # More than the maximum lag lies in the segment that is still open: without its tail nobody would be promoted.
    leader.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', %s))", [2 * MAXIMUM_LAG])
    leader.execute("INSERT INTO t VALUES (%s)", [SEGMENTS])
    end = Lsn.parse(leader.value("SELECT pg_current_wal_flush_lsn()::text"))
    archived.wait_frontier(end)
    wait_patroni_knows(cluster, end)
    received, replayed = positions(standby)
    assert max(received, replayed) + SIZE < end  # more behind than Patroni lets a new leader be
    assert rows(standby) == [0]

    cluster.kill_host(leader)
    cluster.expire_leader()
    new = cluster.wait_leader(but_not=leader)
    assert new is standby
    assert rows(new) == list(range(SEGMENTS + 1))

    archived.wait_owner(new)
    end_of_new = write_rows(new, range(SEGMENTS + 1, SEGMENTS + 2))
    record = archived.wait_frontier(end_of_new)
    history = history_of(archived, record)
    assert history.switches[-1].lsn >= end  # it forked after all that the archive had
    assert record.gaps_total == 0
    assert archived.archive(record).contents.frontier(history) == record.position.floor(SIZE)

    cluster.start_node(leader)  # the old primary finds its way back
    cluster.wait_ready()
    wait_until(lambda: rows(leader) == list(range(SEGMENTS + 2)), "the old primary has every row")
