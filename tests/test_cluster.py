"""walkeeper under real Patroni, wired as a user wires it; at the end the archive alone must give back every row."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.cluster import Cluster, Node, restore_server
from tests.parts.ledger import Ledger
from tests.parts.processes import wait_until
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.history import History, parse_history
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.record import Record, decode_record
from walkeeper.store.directory import DirectoryStore

pytestmark = pytest.mark.cluster
SIZE = SegmentSize(4 * MIB)
SCRIPT = Path(__file__).parent.parent / "walkeeper" / "shell" / "walkeeper-archive-push"


class Archived:
    """A cluster that is archived into a directory."""

    def __init__(self, cluster: Cluster, store: Path) -> None:
        self.cluster = cluster
        self.store = store

    @property
    def size(self) -> SegmentSize:
        return SegmentSize(self.cluster.segment_size_mb * MIB)

    def archive(self, record: Record) -> Archive:
        layout = Layout(self.cluster.scope, None, int(record.system_identifier))
        return Archive(DirectoryStore(self.store), layout, self.size, Codec())

    def record(self) -> Record | None:
        document = self.cluster.dcs.get(f"/service/{self.cluster.scope}/walkeeper")
        return decode_record(document) if document else None

    def wait_owner(self, node: Node) -> Record:
        def owned() -> Record | None:
            record = self.record()
            return record if record is not None and record.owner == node.name else None

        return wait_until(owned, f"{node.name} owns the record", logs=self.cluster.logs())

    def wait_frontier(self, lsn: Lsn) -> Record:
        def passed() -> Record | None:
            record = self.record()
            return record if record is not None and record.position >= lsn else None

        return wait_until(
            passed, f"the frontier passes {lsn}", 60, logs=[self.log(node) for node in self.cluster.nodes]
        )

    def log(self, node: Node) -> Path:
        return node.directory / "data.walkeeper" / "agent.log"

    def finish_segment(self, leader: Node) -> Lsn:
        """Where the segment ends that is open now; it is completed."""
        leader.execute("select pg_logical_emit_message(true, 'test', 'last')")
        return Lsn(Lsn.parse(leader.value("select pg_switch_wal()::text")).floor(self.size) + self.size)

    def status(self, node: Node) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "walkeeper", "--config", str(node.config), "status"]
        return subprocess.run(
            command,
            env={**node.host.environment(), **node.env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def mode() -> str:
    """``archiver`` of walkeeper's configuration; ``command`` also makes walkeeper's script PostgreSQL's archive_command."""
    return "streaming"


@pytest.fixture
def archived(short_path: Path, mode: str) -> Iterator[Archived]:
    store = short_path / "store"
    store.mkdir()
    command = f"WALKEEPER_PYTHON={{python}} {SCRIPT} -c {{config}} %p"
    cluster = Cluster(
        short_path / "cluster",
        segment_size_mb=SIZE // MIB,
        walkeeper_config={
            "store": {"directory": str(store)},
            "agent": {"listen": "127.0.0.1:{metrics_port}"},
            "archiver": mode,
        },
        settings={"archive_mode": "on"} if mode == "command" else None,
        extra={"postgresql": {"parameters": {"archive_command": command}}} if mode == "command" else None,
    )
    with cluster:
        yield Archived(cluster, store)


def restored_rows(archived: Archived, backup: Path, ledger: Ledger, wanted: set[int], directory: Path) -> list[int]:
    """Restore from the backup and the archive alone; the wanted rows that are missing."""
    config = directory / "restore.yml"
    scope = archived.cluster.scope
    config.write_text(f"scope: {scope}\nwalkeeper:\n  store:\n    directory: {archived.store}\n")
    command = f"{sys.executable} -m walkeeper -c {config} restore-wal %f %p"
    twice = {name: f"{max(80, 2 * archived.cluster.segment_size_mb)}MB" for name in ("min_wal_size", "max_wal_size")}
    server = restore_server(backup, directory / "restored", command, bin_dir=archived.cluster.bin_dir, settings=twice)
    try:
        server.start(60)
        wait_until(lambda: not server.value("select pg_is_in_recovery()"), "the restore is over", 60, logs=[server.log])
        with server.connect() as connection:
            return ledger.compare(connection, wanted)
    finally:
        server.close()


@pytest.mark.parametrize("mode", ["streaming", "command"])
def test_p4_no_row_below_the_frontier_is_lost_over_a_crash_failover_and_a_switchover(
    archived: Archived, short_path: Path, mode: str
) -> None:
    cluster = archived.cluster
    first = cluster.wait_leader()
    archived.wait_owner(first)
    backup = first.base_backup(short_path / "backup")
    with Ledger.heavy(cluster.conninfo(), mib_per_second=3) as ledger:
        ledger.wait_for(40)
        old, new = cluster.fail_over()
        archived.wait_owner(new)
        ledger.wait_for(40)
        cluster.start_node(old)
        cluster.wait_ready()
        third = cluster.switchover()
        archived.wait_owner(third)
        ledger.wait_for(40)
    if mode == "streaming":
        end = Lsn.parse(third.value("select pg_current_wal_flush_lsn()::text"))  # inside the open segment: the tail
    else:
        end = archived.finish_segment(third)
    record = archived.wait_frontier(end)
    assert record.gaps_total == 0
    archive = archived.archive(record)
    content = DirectoryStore(archived.store).get(f"{archive.layout.root}history/{record.timeline:08X}.history")
    assert content is not None
    history = parse_history(record.timeline, content)
    first_segment = archive.contents.start()
    assert first_segment is not None
    # The chain in the store says the same as the record, but for the tail.
    assert archive.contents.frontier(history) == record.position.floor(SIZE)
    wanted = ledger.covered(history, record.position)
    assert len(wanted) == len(ledger.rows())
    assert restored_rows(archived, backup, ledger, wanted, short_path) == []
    if mode == "command":
        assert int(third.value("SELECT archived_count FROM pg_stat_archiver")) > 0
    answer = archived.status(old)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "All well" in answer.stdout


def test_the_agent_follows_a_patroni_that_is_paused_restarted_or_gone(archived: Archived) -> None:
    cluster = archived.cluster
    leader = cluster.wait_leader()
    session = archived.wait_owner(leader).session
    cluster.patch_config({"pause": True})
    wait_until(lambda: (leader.rest("patroni") or {}).get("pause"), "Patroni knows of the pause")
    leader.patroni.stop()  # in a pause PostgreSQL goes on without it
    assert leader.writable()
    record = archived.wait_frontier(archived.finish_segment(leader))
    assert record.session == session
    cluster.etcd.freeze()
    try:
        end = archived.finish_segment(leader)
        key = archived.archive(record).layout.file(History(1).segment_at(Lsn(end - 1), SIZE), ".zst")
        wait_until(lambda: DirectoryStore(archived.store).head(key) is not None, "an upload without the DCS")
    finally:
        cluster.etcd.thaw()
    record = archived.wait_frontier(end)
    assert record.session == session
    cluster.patch_config({"pause": None})


@pytest.mark.parametrize("mode", ["command"])
def test_p6_a_branch_that_the_cluster_gave_up_leads_no_member_astray(archived: Archived) -> None:
    """Its number is the highest in the archive, and PostgreSQL looks for the highest."""
    cluster = archived.cluster
    leader = cluster.wait_ready()
    archived.wait_owner(leader)
    diverged, third = cluster.replicas()
    cluster.patch_config({"pause": True})
    wait_until(lambda: all((node.rest("patroni") or {}).get("pause") for node in cluster.nodes), "the pause")
    diverged.patroni.pause()  # one that looks while a server is being promoted takes it for a standby, and never rewinds it
    diverged.execute("SELECT pg_promote()")
    histories = archived.archive(archived.wait_owner(leader)).layout.root + "history"
    wait_until((archived.store / histories / "00000002.history").exists, "the other branch's history")
    diverged.patroni.resume()
    for _ in range(2):
        archived.wait_frontier(archived.finish_segment(leader))
    cluster.patch_config({"pause": None})
    assert cluster.wait_ready(3) is leader, "it was rewound"

    cluster.kill_host(third)
    cluster.start_node(third)
    cluster.wait_ready(3)
    diverged.rest("reinitialize", {"force": True}, timeout=20)
    wait_until(
        lambda: (diverged.rest("patroni") or {}).get("state") != "streaming", "a new copy is begun", interval=0.01
    )
    assert cluster.wait_ready(3) is leader

    for node in cluster.nodes:
        cluster.kill_host(node)
    for node in cluster.nodes:
        cluster.start_node(node)
    cluster.wait_ready(3)
    last = cluster.switchover()
    record = archived.wait_owner(last)
    history = archived.archive(record).contents.history(record.timeline)
    assert history is not None
    assert record.timeline > 2, "a number that nobody has had"
    assert not history.includes(2)
    archived.wait_frontier(archived.finish_segment(last))
