"""What happens in the night. Each is broken, is seen on the screens, and is fixed by what a screen or docs/operations.md says."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import psycopg
import yaml

from tests.incidents.night import Night
from tests.matrix.test_upgrade import begin_again, stop, upgrade, use
from tests.parts.cluster import Node
from tests.parts.processes import new_directory, wait_until
from walkeeper.store.s3.driver import S3Store

INCIDENTS: Final[dict[str, Callable[[Night], str]]] = {}
SCREENS: Final = ("status", "page", "health", "metrics", "doctor")


_LOST: Final = r"gap on timeline|Missing +0/|is lost|suspected lost:|walkeeper_(suspected_bytes|gaps) [1-9]"


def incident(function: Callable[[Night], str]) -> Callable[[Night], str]:
    INCIDENTS[function.__name__] = function
    return function


@incident
def credentials(night: Night) -> str:
    """The store's secret key was changed, and not on the hosts"""
    leader = night.cluster.wait_leader()
    night.bucket.stop()
    night.bucket.secret_key = "another-secret-of-the-tests"
    night.bucket.start()
    night.begin()
    night.wait_told(leader, r"SignatureDoesNotMatch|store_denied", SCREENS)
    night.fix("the new secret into secret_access_key_file; nothing is restarted")
    night.write_secret(night.bucket.secret_key)
    night.wait_well()
    return "secret_access_key_file"


@incident
def wrong_store(night: Night) -> str:
    """A typo in the prefix reaches every node with the next deployment"""
    cluster = night.cluster
    leader = cluster.wait_leader()
    assert cluster.walkeeper_config is not None
    right = cluster.walkeeper_config
    wrong = {**right, "store": {"s3": {**right["store"]["s3"], "prefix": "prodcution"}}}
    night.write_wal(9)
    night.wait_archived()  # an archive of less than a segment begins there anew, and lacks nothing
    night.begin()
    deploy(night, wrong)
    try:
        night.wait_told(leader, r"archive_missing|no archive", SCREENS)
    finally:  # or the incidents that follow would have another archive
        night.fix("the prefix put right, and the agents reloaded")
        deploy(night, right)
    night.wait_well()
    return "prefix put right; `walkeeper agent --reload`"


def deploy(night: Night, section: Mapping[str, Any]) -> None:
    """As a configuration management does: the file, and a reload of what it belongs to."""
    night.cluster.walkeeper_config = section
    for node in night.cluster.nodes:
        node.config.write_text(yaml.safe_dump(night.cluster.configuration(node)))
        night.type(node, "walkeeper agent --reload -c /etc/patroni.yml")


@incident
def staging(night: Night) -> str:
    """A copy of the cluster with production's configuration is started"""
    production = night.cluster.wait_leader()
    with_copy = night.make_cluster(new_directory("g"), nodes=1)
    (node,) = with_copy.nodes
    production.host.run(
        [
            *(production.bin_dir / "pg_basebackup", "-d", production.conninfo("replicator"), "-D", node.data),
            *("-X", "stream", "-c", "fast", "--no-sync"),
        ],
        timeout=120,
    )
    try:
        with_copy.etcd.start()
        node.start()
        with_copy.wait_leader(120)
        night.begin()
        night.wait_told(node, r"another_cluster|another cluster.s agent", SCREENS, timeout=240)
        before = night.record()
        night.write_wal(9, node=node)
        night.fix("the copy gets a prefix of its own, and its agent is restarted")
        assert with_copy.walkeeper_config is not None
        section = with_copy.walkeeper_config
        with_copy.walkeeper_config = {**section, "store": {"s3": {**section["store"]["s3"], "prefix": "staging"}}}
        node.config.write_text(yaml.safe_dump(with_copy.configuration(node)))
        night.type(node, "walkeeper agent --restart -c /etc/patroni.yml")
        wait_until(lambda: "All well." in night.look(node, "status"), "the copy archives elsewhere", 240, interval=1)
        night.wait_well()
        after = night.record()
        assert before is not None
        assert after is not None
        assert after.timeline == before.timeline
        night.type(production, "walkeeper verify -c /etc/patroni.yml")
    finally:
        with_copy.stop()
    return "another `prefix` for the copy"


@incident
def deleted_object(night: Night) -> str:
    """Somebody deletes the object of a segment"""
    leader = night.cluster.wait_leader()
    key, back = take_away(night, write_and_recycle(night))
    night.begin()
    night.wait_told(leader, r"object_missing|no longer in the store", SCREENS, timeout=400)
    night.fix("the object put back from a copy")
    back()
    night.wait_well(400)
    return f"the object put back ({key.rpartition('/')[2]})"


def owner_store(night: Night) -> S3Store:
    return S3Store(msgspec.structs.replace(night.bucket.settings(), access_key_id="owner"))


def write_and_recycle(night: Night) -> str:
    """A segment that is stored, and that no member's pg_wal has any longer."""
    first = night.write_wal(1)
    night.write_wal(40)
    night.wait_archived()

    wait_until(lambda: recycled(night, first), f"{first} is recycled", 180, interval=2)
    night.wait_archived()
    return first


def recycled(night: Night, segment: str) -> bool:
    """Whether no server has it any more, after some WAL and a checkpoint."""
    night.write_wal(4)
    night.checkpoint()
    return all(segment not in node.segments() for node in night.cluster.nodes if node.running)


def take_away(night: Night, segment: str) -> tuple[str, Callable[[], None]]:
    """Its key, and what puts the object back."""
    store = owner_store(night)
    (info,) = (
        each for each in store.list("demo/") if each.key.rpartition("/")[2].startswith(segment) and "/wal/" in each.key
    )
    body = store.get(info.key)
    assert body is not None
    store.delete(info.key)
    return info.key, lambda: store.create(info.key, body, body.metadata)


@incident
def stuck_member(night: Night) -> str:
    """A replica was down, and the WAL that it needs is gone from the leader and from the store"""
    cluster = night.cluster
    leader, lost = cluster.wait_leader(), cluster.replicas()[-1]
    cluster.patch_config(
        {"member_slots_ttl": 0}
    )  # for how long Patroni keeps the slot of one that is gone: half an hour
    cluster.kill_host(lost)
    cluster.expire_member(lost)
    needed = write_and_recycle(night)
    _, back = take_away(night, needed)
    cluster.patch_config({"member_slots_ttl": None})
    lost.start()
    night.begin()
    night.wait_told(leader, rf"{lost.name} is .* behind the leader and does not stream", ("status",), timeout=240)
    command = printed(night, leader, rf"patronictl reinit demo {lost.name}")
    night.fix(command)
    night.type(lost, f"{command.replace('patronictl', 'patronictl -c /etc/patroni.yml')} --force")
    cluster.wait_ready(3, 180)
    back()
    night.wait_well(400)
    return "`patronictl reinit`"


@incident
def disk(night: Night) -> str:
    """The store is away until the disks of pg_wal are full and PostgreSQL has stopped"""
    if night.disks is None:
        raise RuntimeError("the machine's own disk is not filled: tools/with-small-disks, as root, makes small ones")
    cluster = night.cluster
    leader = cluster.wait_leader()
    dumps = [node.directory / "somebodys-dump" for node in cluster.nodes]
    for dump in dumps:
        dump.write_bytes(bytes(20 << 20))
    night.bucket.stop()
    night.begin()
    while free_megabytes(leader) > 60:
        night.write_wal(4)
    while "the disk of pg_wal on" not in night.look(leader, "status"):  # what the spool has goes first
        night.write_wal(4)
    night.wait_told(
        leader,
        r"the disk of pg_wal on|ERROR disk_room|walkeeper_pg_wal_disk_free_bytes|Disk of pg_wal [.0-9]+ MiB",
        ("status", "doctor", "page", "metrics"),
    )
    with contextlib.suppress(psycopg.Error):
        while True:
            night.write_wal(2, node=leader)
    night.say("note", f"PostgreSQL has stopped on {leader.name}, {free_megabytes(leader)} MB are free")
    time.sleep(30)
    night.look_everywhere("full-")
    night.fix(
        "operations.md, Disk full: what is not the database's is removed; max_slot_wal_keep_size; the store comes back"
    )
    for dump in dumps:
        dump.unlink()
    leader = cluster.wait_leader(180)
    night.say("note", f"{leader.name} leads, {free_megabytes(leader)} MB are free")
    night.look_everywhere("again-")
    change = "patronictl -c /etc/patroni.yml edit-config --set postgresql.parameters.max_slot_wal_keep_size={} --force"
    night.type(leader, change.format("64MB"))
    night.type(leader, "patronictl -c /etc/patroni.yml reload demo --force")
    wait_until(lambda: leader.value("SHOW max_slot_wal_keep_size") == "64MB", "the limit", 60)
    night.checkpoint()
    night.say("note", f"{free_megabytes(leader)} MB are free")
    night.look_everywhere("limited-")
    night.bucket.start()
    night.type(leader, change.format("null"))
    night.type(leader, "patronictl -c /etc/patroni.yml reload demo --force")
    recover_from_gap(night)
    return "room for some segments, `max_slot_wal_keep_size`, `gap accept`, `backup`"


def free_megabytes(node: Node) -> int:
    return shutil.disk_usage(node.data).free >> 20


def recover_from_gap(night: Night) -> None:
    leader = night.cluster.wait_leader()
    night.wait_told(leader, _LOST, ("status",), timeout=240)
    night.look_everywhere("gap")
    night.type(leader, f"{printed(night, leader, r'walkeeper gap accept [0-9A-F/]+')} -c /etc/patroni.yml")
    night.type(leader, "walkeeper backup -c /etc/patroni.yml")
    night.wait_well(480)  # what has filled a disk is said for five minutes more


def printed(night: Night, node: Node, pattern: str) -> str:
    """What status says to type, as it stands there."""

    def found() -> list[str]:
        return re.findall(pattern, " ".join(night.look(node, "status").split()))

    return str(wait_until(found, pattern, 120)[0])


@incident
def gap(night: Night) -> str:
    """The store away, `max_slot_wal_keep_size` passed on all members, and then the leader lost with its disk"""
    cluster = night.cluster
    leader = cluster.wait_leader()
    cluster.patch_config({"postgresql": {"parameters": {"max_slot_wal_keep_size": "8MB"}}})
    wait_until(lambda: leader.value("SHOW max_slot_wal_keep_size") == "8MB", "the limit", 60)
    night.bucket.stop()
    first = night.write_wal(9)
    wait_until(lambda: recycled(night, first), f"{first} is recycled", 180, interval=2)
    cluster.kill_host(leader)
    for path in leader.directory.glob("data*"):
        shutil.rmtree(path, ignore_errors=True)
    cluster.expire_leader()
    cluster.expire_member(leader)
    night.bucket.start()
    new = cluster.wait_leader(90, but_not=leader)
    night.begin()
    night.wait_told(new, _LOST, SCREENS, timeout=240)
    night.look_everywhere("missing")
    night.fix("the lost node is built again; walkeeper gap accept; walkeeper backup")
    cluster.patch_config({"postgresql": {"parameters": {"max_slot_wal_keep_size": None}}})
    leader.start()
    cluster.wait_ready(3, 180)
    recover_from_gap(night)
    return "`walkeeper gap accept`, `walkeeper backup`"


@incident
def upgrade_back(night: Night) -> str:
    """pg_upgrade, and back again an hour later"""
    cluster = night.cluster
    leader = cluster.wait_leader()
    night.ledger.stop()
    try:
        stop(cluster)
        upgrade(cluster, leader)
        use(cluster, 17)
        begin_again(cluster, leader)
        night.begin()
        night.wait_told(leader, r"wrong_cluster|of system identifier", SCREENS)
        night.type(leader, "walkeeper takeover --accept -c /etc/patroni.yml")
        wait_until(lambda: cluster.wait_ready(3, 180), "three", 180)
        night.look_everywhere("upgraded")
        stop(cluster)
        use(cluster, 15)
        begin_again(cluster, leader)
        night.wait_told(leader, r"wrong_cluster|of system identifier", SCREENS)
        night.fix("walkeeper takeover --accept")
        night.type(leader, "walkeeper takeover --accept -c /etc/patroni.yml")
        cluster.wait_ready(3, 180)
        night.wait_well()
    finally:
        night.ledger.start()
    return "`walkeeper takeover --accept`"
