"""What a takeover believes, on real servers: a volume that goes back, a number that two promotions take, a member renamed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.fixtures.agents import Machine
from tests.fixtures.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from tests.parts.etcd import Etcd
from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, Postgres, restore_server
from tests.twins.memory_record import MemoryDcs
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.http.report import report
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment

pytestmark = pytest.mark.postgres
SIZE = SegmentSize(MIB)


class Cluster:
    """Servers that lead by turns, one store, one DCS."""

    def __init__(self, server: Postgres, directory: Path) -> None:
        prepare(server)
        self.server, self.directory = server, directory
        self.store = MemoryStore()
        self.dcs = MemoryDcs(slots=(HOLD_SLOT,))

    def agent(self, name: str, server: Postgres | None = None, **changes: object) -> RunningAgent:
        self.dcs.set_leader(name)
        config = config_of(server or self.server, name, self.directory, **changes)
        return RunningAgent(config, self.store, self.dcs, remembers=True)

    def standby(self, backup: Path, name: str) -> Postgres:
        conninfo = f"host=127.0.0.1 port={self.server.port} user={REPLICATOR} password={REPLICATOR_PASSWORD}"
        standby = restore_server(
            backup, self.directory / name, "false", bin_dir=self.server.bin_dir, signal_file="standby.signal",
            settings={"primary_conninfo": conninfo},
        )  # fmt: skip
        (standby.data / "pg_hba.conf").write_text("local all all trust\nhost all,replication all 127.0.0.1/32 trust\n")
        standby.start()
        return standby


@pytest.fixture
def cluster(postgres: Postgres, tmp_path: Path) -> Cluster:
    return Cluster(postgres, tmp_path)


def refusal(agent: RunningAgent) -> str:
    """The reason of the takeover that is refused; "" while none is."""
    problems = report(agent.agent)["troubles"]
    return next((each["reason"] for each in problems if each["what"] == "takeover_failed"), "")


def insert(server: Postgres, first: int, last: int) -> Lsn:
    """Rows, and the end of the segment that has the last of them."""
    server.execute(f"INSERT INTO life SELECT generate_series({first}, {last})")
    return Segment.parse(server.switch_wal(), SIZE).end


@pytest.mark.parametrize("tail_interval", [None, 0.2])
def test_p13_a_volume_that_went_back_is_never_spliced_into_its_archive(
    cluster: Cluster, tail_interval: float | None
) -> None:
    """3,000 rows, a snapshot, 2,000 more; then the snapshot again, and 5,000 rows of a second life."""
    server = cluster.server
    server.execute("CREATE TABLE life (row int)")
    with cluster.agent("a", tail_interval=tail_interval) as agent:
        wait_for(lambda: agent.archiving)
        agent.wait_frontier(insert(server, 1, 3000))
    server.stop()
    shutil.copytree(server.data, cluster.directory / "snapshot")
    server.start()
    with cluster.agent("a", tail_interval=tail_interval) as agent:
        wait_for(lambda: agent.archiving)
        agent.wait_frontier(insert(server, 3001, 4000))
        agent.wait_frontier(insert(server, 4001, 5000))
    record, stored = cluster.dcs.record, dict(cluster.store.objects)
    server.stop()
    shutil.rmtree(server.data)
    shutil.copytree(cluster.directory / "snapshot", server.data)
    server.start()
    with cluster.agent("a", tail_interval=tail_interval) as agent:
        wait_for(lambda: refusal(agent) == "beyond_server")
        for first in range(10_001, 15_000, 1000):
            insert(server, first, first + 999)
        server.checkpoint()  # so that the control file says that something has changed
        wait_for(lambda: refusal(agent) == "other_bytes")
        assert not agent.archiving
    assert cluster.dcs.record == record
    assert {key: cluster.store.objects.get(key) for key in stored} == stored
    assert {key for key in cluster.store.objects if "/wal/" in key} == {key for key in stored if "/wal/" in key}


def test_p13_a_volume_that_went_back_under_a_running_agent_is_never_spliced_into_its_archive(cluster: Cluster) -> None:
    """PostgreSQL crashes, and is started again on a snapshot, as Patroni does; its agent owns the record all the time."""
    server = cluster.server
    server.execute("CREATE TABLE life (row int)")
    server.stop()
    shutil.copytree(server.data, cluster.directory / "snapshot")
    server.start()
    with cluster.agent("a", tail_interval=0.2) as agent:
        for first in (1, 1001, 2001):
            agent.wait_frontier(insert(server, first, first + 999))
        server.kill9()
        shutil.rmtree(server.data)
        shutil.copytree(cluster.directory / "snapshot", server.data)
        stored = {key for key in cluster.store.objects if "/wal/" in key}
        frontier = agent.record.lsn
        server.start()
        for first in range(10_001, 16_001, 1000):
            insert(server, first, first + 999)
        wait_for(lambda: refusal(agent) == "other_bytes")
        assert agent.record.lsn == frontier
    assert {key for key in cluster.store.objects if "/wal/" in key} == stored


@pytest.mark.parametrize("seen", [True, False])
def test_p13_a_member_that_was_built_from_a_volume_that_went_back_is_not_promoted_into_its_archive(
    cluster: Cluster, seen: bool
) -> None:
    """It has no WAL from before the frontier; what shows whose it has is what the leader's agent saw, or nothing."""
    server = cluster.server
    server.execute("CREATE TABLE life (row int)")
    with cluster.agent("a") as agent:
        wait_for(lambda: agent.archiving)
        agent.wait_frontier(insert(server, 1, 1000))
    server.stop()
    shutil.copytree(server.data, cluster.directory / "snapshot")
    server.start()
    with cluster.agent("a") as agent:
        wait_for(lambda: agent.archiving)
        agent.wait_frontier(insert(server, 1001, 2000))
        agent.wait_frontier(insert(server, 2001, 3000))
    frontier = agent.frontier
    server.stop()
    shutil.rmtree(server.data)
    shutil.copytree(cluster.directory / "snapshot", server.data)
    server.start()
    if seen:
        with cluster.agent("a") as agent:
            wait_for(lambda: refusal(agent) == "beyond_server")
    for first in range(10_001, 15_000, 1000):
        assert insert(server, first, first + 999)
    record = cluster.dcs.record
    standby = cluster.standby(server.base_backup(cluster.directory / "backup", wal="fetch"), "b")
    try:
        oldest = min(path.name for path in standby.pg_wal.glob("0" * 7 + "1*"))
        assert Segment.parse(oldest, SIZE).start >= frontier
        server.stop()
        standby.promote()
        wait_for(lambda: not standby.value("SELECT pg_is_in_recovery()"))
        with cluster.agent("b", standby) as agent:
            if seen:
                wait_for(lambda: refusal(agent) == "second_life")
                assert cluster.dcs.record == record
                agent.agent.refusals.answer({"accept": True})
            wait_for(lambda: agent.archiving)
            assert (agent.record.timeline, agent.record.owner) == (2, "b")
    finally:
        standby.close()


def test_p13_two_promotions_under_one_number_at_one_position_are_not_one_timeline(cluster: Cluster) -> None:
    server = cluster.server
    server.execute("CREATE TABLE life (row int)")
    with cluster.agent("a") as agent:
        wait_for(lambda: agent.archiving)
        agent.wait_frontier(insert(server, 1, 1000))
    backup = server.base_backup(cluster.directory / "backup", wal="fetch")
    first, second = cluster.standby(backup, "b"), cluster.standby(backup, "c")
    try:
        streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        wait_for(lambda: server.value(streaming) == 2)
        for standby in (first, second):
            standby.physical_slot(HOLD_SLOT)
        server.stop()
        ends = "SELECT pg_last_wal_receive_lsn()::text"
        wait_for(lambda: first.value(ends) == second.value(ends))
        for standby in (first, second):
            standby.promote()
            wait_for(lambda standby=standby: not standby.value("SELECT pg_is_in_recovery()"))  # type: ignore[misc]
        assert first.timeline() == second.timeline() == 2
        histories = [(standby.pg_wal / "00000002.history").read_bytes() for standby in (first, second)]
        assert histories[0] == histories[1]
        with cluster.agent("b", first) as agent:
            agent.wait_frontier(insert(first, 2001, 3000))
            assert agent.record.timeline == 2
        record, stored = cluster.dcs.record, dict(cluster.store.objects)
        for first_row in (4001, 5001, 6001):
            insert(second, first_row, first_row + 999)
        with cluster.agent("c", second) as agent:
            wait_for(lambda: refusal(agent) == "other_bytes")
        assert cluster.dcs.record == record
        assert cluster.store.objects == stored
        # Promoted again, it would not come through either: what it wrote on timeline 2 is not in the archive, and cannot be.
        cluster.dcs.wipe()
        for key in [key for key in cluster.store.objects if "/life/" in key]:
            del cluster.store.objects[key]  # that nobody watches for minutes
        with cluster.agent("c", second) as agent:
            wait_for(lambda: refusal(agent) == "other_bytes")
    finally:
        first.close()
        second.close()


def test_p13_no_archive_begins_in_an_empty_store_after_the_whole_dcs_was_lost(cluster: Cluster) -> None:
    """The machines start again: the store's disk is not mounted, and the DCS is a new one."""
    server = cluster.server
    server.execute("CREATE TABLE life (row int)")
    with cluster.agent("a") as agent:
        wait_for(lambda: agent.archiving)
        agent.wait_frontier(insert(server, 1, 10))
        wait_for((agent.agent.config.spool_directory / "archive-seen").exists)
    stored = dict(cluster.store.objects)
    cluster.store.objects.clear()
    cluster.dcs.documents.clear()
    with cluster.agent("a") as agent:
        wait_for(lambda: refusal(agent) == "archive_missing")
        assert not any("/start/" in f"/{key}" for key in cluster.store.objects)
        assert cluster.dcs.record is None
        assert not agent.archiving
    cluster.store.objects.update(stored)
    with cluster.agent("a") as agent:
        wait_for(
            lambda: refusal(agent) == "watching"
        )  # whether somebody else keeps it alive, as after each loss of the DCS


def test_p4_a_second_archive_begins_where_the_hold_slot_stands_if_nobody_knows_of_the_first(cluster: Cluster) -> None:
    """DCS and spools are lost, and the store is an empty one: between what the two have nothing is missing."""
    server = cluster.server
    with cluster.agent("a") as agent:
        wait_for(lambda: agent.archiving)
        agent.wait_frontier(Segment.parse(server.complete_segments(3)[-1], SIZE).end)
        frontier, spool = agent.record.position, agent.agent.config.spool_directory
    shutil.rmtree(spool)
    cluster.store.objects.clear()
    cluster.dcs.documents.clear()
    last = server.complete_segments(4)[-1]
    server.checkpoint()
    with cluster.agent("a") as agent:
        agent.wait_frontier(Segment.parse(last, SIZE).end)
        assert Segment.parse(agent.record.start, SIZE).start <= frontier
        assert agent.record.gaps_total == 0


def test_a_member_that_was_renamed_goes_on_without_a_person(cluster: Cluster) -> None:
    """Also with wal_keep_size=0: the hold slot keeps the last whole segment that is stored."""
    with cluster.agent("a") as agent:
        wait_for(lambda: agent.archiving)
        end = Segment.parse(cluster.server.complete_segments(4)[-1], SIZE).end
        agent.wait_frontier(end)
        wait_for(lambda: Lsn.parse(cluster.server.restart_lsn(HOLD_SLOT) or "0/0") >= end - SIZE)
    cluster.server.checkpoint()
    with cluster.agent("new-name") as agent:
        agent.wait_frontier(Segment.parse(cluster.server.switch_wal(), SIZE).end)
        assert agent.record.owner == "new-name"


def test_p8_an_owner_stores_on_and_records_nothing_while_another_member_leads(cluster: Cluster) -> None:
    """Its Patroni was killed. Nobody with the key is a pause, and there the frontier moves."""
    with cluster.agent("a") as agent:
        wait_for(lambda: agent.archiving)
        agent.wait_frontier(Segment.parse(cluster.server.complete_segments(2)[-1], SIZE).end)
        cluster.dcs.set_leader("b")
        wait_for(lambda: agent.agent.observer.observation.leader == "b")
        record = cluster.dcs.record
        last = cluster.server.complete_segments(2)[-1]
        wait_for(lambda: any(last in key for key in cluster.store.objects))
        wait_for(lambda: "archiver_record" in agent.problems())
        assert cluster.dcs.record == record
        cluster.dcs.set_leader(None)
        agent.wait_frontier(Segment.parse(last, SIZE).end)
        wait_for(lambda: "archiver_record" not in agent.problems())


def test_p13_the_data_directory_of_another_cluster_under_a_running_agent_changes_nothing(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Exchanged in a pause: its slot is not moved, and nothing is written into the archive of the cluster that was there."""
    server = cluster.server
    other = Postgres(tmp_path_factory.mktemp("other"), bin_dir=server.bin_dir, segment_size_mb=1)
    with other:
        prepare(other)
        other.complete_segments(3)
        other.stop()
        with cluster.agent("a") as agent:
            wait_for(lambda: agent.archiving)
            agent.wait_frontier(Segment.parse(server.complete_segments(2)[-1], SIZE).end)
            server.stop()
            frontier, stored = agent.record.lsn, set(cluster.store.objects)
            before = server.data.rename(server.data.with_name("before"))
            shutil.copytree(other.data, server.data)
            for name in ("postgresql.conf", "postgresql.auto.conf"):
                shutil.copy(before / name, server.data / name)
            server.start()
            slot = server.restart_lsn(HOLD_SLOT)
            wait_for(lambda: refusal(agent) == "wrong_cluster")
            server.complete_segments(3)
            wait_for(
                lambda: (
                    agent.agent.observer.observation.server is not None
                    and agent.agent.observer.observation.server.lsn >= Lsn.parse(server.lsn())
                )
            )
            assert server.restart_lsn(HOLD_SLOT) == slot
            assert agent.record.gaps_total == 0
            assert agent.record.lsn == frontier
        assert set(cluster.store.objects) == stored


def test_a_person_sees_a_refusal_and_lets_it_pass_once(postgres: Postgres) -> None:
    """With the command, an agent of its own process and etcd: the record was edited to lie beyond the server."""
    prepare(postgres)
    with Etcd() as etcd:
        machine = Machine("accepted", postgres, etcd)

        def takeover(*arguments: str) -> tuple[int, str]:
            command = [sys.executable, "-m", "walkeeper", "-c", str(machine.config), "takeover", *arguments]
            environment = {**os.environ, **machine.environment()}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
            return done.returncode, done.stdout + done.stderr

        try:
            with machine.start():
                end = machine.wait_archived(2)
                assert takeover() == (0, "No takeover is refused on this node.\n")
                assert takeover("--accept")[0] == 1
            record = machine.record
            assert record is not None
            edited = msgspec.structs.replace(record, lsn=str(Lsn(end + 500 * SIZE)), below_sha256="")
            etcd.put("/service/accepted/walkeeper", edited.encode().decode())
            with machine.start():
                machine.wait_says("beyond_server")
                code, said = takeover()
                assert code == 1
                assert said.startswith("Refused: beyond_server: record in the DCS: the frontier")
                assert machine.record == edited
                code, said = takeover("--accept")
                assert (code, said.partition(":")[0]) == (0, "Accepted, for the next takeover of this agent only")
                machine.wait_says("takeover_accepted")
                wait_for(lambda: machine.record is not None and machine.record.session != record.session)
                machine.wait_archived(1)
                assert takeover()[0] == 0
        finally:
            machine.close()
