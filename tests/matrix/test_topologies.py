"""Clusters that are wired in other ways than three equal members: under load, a kill, a handover, restored."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

import pytest

from tests.matrix.cell import archived, lost_nothing, outlives, says, verified
from tests.matrix.certificates import authority
from tests.parts.cluster import REPLICATOR, SUPERUSER, Node
from tests.parts.ledger import Ledger
from tests.parts.node import REWINDER
from tests.parts.processes import wait_until
from tests.test_cluster import Archived, restored_rows
from walkeeper.core.lsn import Lsn
from walkeeper.dcs.patroni import change_dynamic

pytestmark = [pytest.mark.cluster, pytest.mark.matrix, pytest.mark.slow]

ODD: Final = "pä'ss\"w\\ö rd%:@/?#&{}$=;"


def dynamic(**settings: Any) -> dict[str, Any]:
    return {"bootstrap": {"dcs": settings}}


def test_p4_five_members_of_which_one_cascades_and_one_is_never_promoted(short_path: Path) -> None:
    tags = {"node4": {"replicatefrom": "node3"}, "node5": {"nofailover": True}}
    it = archived(short_path, nodes=5, tags=tags)
    with it.cluster:
        outlives(it, short_path)


def test_p4_a_member_that_never_streams_is_promoted(short_path: Path) -> None:
    """Its WAL comes from the archive alone: it has what is stored, the tail included."""
    it = archived(short_path, tags={"node3": {"nostream": True}})
    cluster = it.cluster
    *others, never = cluster.nodes
    try:
        cluster.dcs.start()
        for node in others:
            node.start()
        leader = cluster.wait_leader()
        it.wait_owner(leader)
        never.start()  # it is built when the archive has begun: it needs all that is written since
        cluster.wait_ready()
        backup = leader.base_backup(short_path / "backup")
        with Ledger.heavy(cluster.conninfo(), mib_per_second=3) as ledger:
            ledger.wait_for(40)
            lsn = leader.value("SELECT pg_current_wal_flush_lsn()::text")
            replayed = "SELECT coalesce(pg_last_wal_replay_lsn() >= %s::pg_lsn, false)"
            wait_until(lambda: never.value(replayed, [lsn]), f"{lsn} from the archive", 60, logs=cluster.logs())
            assert not never.value("SELECT exists (SELECT FROM pg_stat_wal_receiver)")
            for node in others:
                cluster.kill_host(node)
            cluster.expire_leader()
            assert cluster.wait_leader(but_not=leader) is never
            it.wait_owner(never)
            ledger.wait_for(40)
            for node in others:
                cluster.start_node(node)
            cluster.wait_ready()
            ledger.wait_for(40)
        lost_nothing(it, short_path, backup, ledger, never)
    finally:
        cluster.stop()


@pytest.mark.parametrize("mode", [True, "quorum"])
def test_p4_synchronous_replication(short_path: Path, mode: bool | str) -> None:
    it = archived(short_path, synchronous=mode)
    with it.cluster:
        assert it.cluster.wait_leader().value("SHOW synchronous_standby_names")
        outlives(it, short_path)


def test_p4_failsafe_mode(short_path: Path) -> None:
    """The DCS is away for longer than the leader's ttl: it leads on, uploads go on, and the record waits."""
    it = archived(short_path, extra=dynamic(failsafe_mode=True))
    with it.cluster:
        leader = it.cluster.wait_leader()
        before = it.wait_owner(leader)
        it.cluster.etcd.freeze()
        try:
            wait_until(lambda: _in_failsafe_mode(leader), "failsafe mode", 120, logs=it.cluster.logs())
            layout = it.archive(before).layout
            stored = _stored(it, layout.root)
            end = it.finish_segment(leader)
            wait_until(
                lambda: _stored(it, layout.root) > stored, "an upload without the DCS", 60, logs=[it.log(leader)]
            )
            assert leader.writable()
        finally:
            it.cluster.etcd.thaw()
        assert it.wait_frontier(end).owner == leader.name
        outlives(it, short_path)


def _in_failsafe_mode(node: Node) -> bool:
    lines = str(node.rest("metrics")).splitlines()
    return any(line.startswith("patroni_failsafe_mode_is_active{") and line.endswith(" 1") for line in lines)


def _stored(it: Archived, root: str) -> int:
    return len([path for path in (it.store / root / "wal").rglob("*") if path.is_file()])


def test_p4_a_standby_cluster_and_its_promotion(short_path: Path) -> None:
    """It archives what it receives into a place of its own; promoted, it goes on from there."""
    for name in ("there", "here"):
        (short_path / name).mkdir()
    source = archived(short_path / "there", nodes=1, scope="source")
    with source.cluster:
        theirs = source.cluster.wait_leader()
        source.wait_owner(theirs)
        it = archived(short_path / "here", scope="mirror", extra=dynamic(standby_cluster=_standby_of(theirs.port)))
        cluster = it.cluster
        try:
            cluster.dcs.start()
            for node in cluster.nodes:
                node.start()
            standby_leader = wait_until(lambda: _standby_leader(it), "a standby leader", 120, logs=cluster.logs())
            before = it.wait_owner(standby_leader)
            backup = theirs.base_backup(short_path / "backup")
            with Ledger.heavy(source.cluster.conninfo(), mib_per_second=3) as ledger:
                ledger.wait_for(80)
            it.wait_frontier(source.finish_segment(theirs))
            source.cluster.kill_host(theirs)
            cluster.patch_config({"standby_cluster": None})
            leader = cluster.wait_leader()
            wait_until(lambda: (it.record() or before).timeline == 2, "the new timeline", 60, logs=[it.log(leader)])
            cluster.wait_ready()
            ledger.move(cluster.conninfo())
            with ledger:
                ledger.wait_for(40)
                it.wait_owner(cluster.fail_over()[1])
                ledger.wait_for(40)
            lost_nothing(it, short_path, backup, ledger, cluster.wait_leader())
        finally:
            cluster.stop()


def _standby_leader(it: Archived) -> Node | None:
    members = (it.cluster.nodes[0].rest("cluster") or {}).get("members", [])
    streaming = [each for each in members if each["state"] in {"streaming", "in archive recovery", "running"}]
    names = [each["name"] for each in streaming if each["role"] == "standby_leader"]
    return it.cluster.node(names[0]) if names and len(streaming) == len(it.cluster.nodes) else None


def test_p4_two_sites_that_change_places_and_back(short_path: Path) -> None:
    """Each archives all the time, as the primary or as what receives from it; each archive restores all rows."""
    for name in ("there", "here"):
        (short_path / name).mkdir()
    there = archived(short_path / "there", nodes=1, scope="there")
    with there.cluster:
        (theirs,) = there.cluster.nodes
        there.wait_owner(theirs)
        here = archived(
            short_path / "here", nodes=1, scope="here", extra=dynamic(standby_cluster=_standby_of(theirs.port))
        )
        (ours,) = here.cluster.nodes
        try:
            here.cluster.dcs.start()
            ours.start()
            wait_until(lambda: _standby_leader(here), "a standby leader", 120, logs=here.cluster.logs())
            here.wait_owner(ours)
            backup = theirs.base_backup(short_path / "backup")
            with Ledger.heavy(there.cluster.conninfo(), mib_per_second=3) as ledger:
                ledger.wait_for(40)
            for timeline, new, old in ((2, here, there), (3, there, here)):
                _change_places(new, old)
                ledger.move(new.cluster.conninfo())
                with ledger:
                    ledger.wait_for(40)
                end = new.finish_segment(new.cluster.wait_leader())
                assert (new.wait_frontier(end).timeline, old.wait_frontier(end).timeline) == (timeline, timeline)
            record = here.wait_frontier(Lsn.parse(theirs.value("SELECT pg_current_wal_flush_lsn()::text")))
            assert record.gaps_total == 0
            assert [each for each in verified(ours)["findings"] if each["severity"] != "note"] == []
            rows = {row.id for row in ledger.rows()}
            assert restored_rows(here, backup, ledger, rows, short_path / "here") == []
            lost_nothing(there, short_path / "there", backup, ledger, theirs)
        finally:
            here.cluster.stop()


def _standby_of(port: int) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": port, "create_replica_methods": ["basebackup"]}


def _change_places(new: Archived, old: Archived) -> None:
    """As a person does: first the one that leads becomes a standby of the other, then that is promoted."""
    (promoted,) = new.cluster.nodes
    old.cluster.patch_config({"standby_cluster": _standby_of(promoted.port)})
    wait_until(lambda: _standby_leader(old), "the old one follows", 120, logs=old.cluster.logs())
    new.cluster.patch_config({"standby_cluster": None})
    new.cluster.wait_leader()


def test_p4_one_server_that_is_reached_by_its_unix_socket_alone(short_path: Path) -> None:
    hba = ["local all all scram-sha-256", "local replication all scram-sha-256"]
    extra = {"postgresql": {"use_unix_socket": True, "use_unix_socket_repl": True, "pg_hba": hba}}
    it = archived(short_path, nodes=1, extra=extra)
    (node,) = it.cluster.nodes
    it.cluster.libpq |= {user: {"host": str(node.socket_dir)} for user in (SUPERUSER, REPLICATOR)}
    with it.cluster:
        it.wait_owner(node)
        backup = node.base_backup(short_path / "backup")
        with Ledger.heavy(it.cluster.conninfo(), mib_per_second=3) as ledger:
            ledger.wait_for(40)
            it.cluster.kill_host(node)
            it.cluster.start_node(node)
            it.cluster.wait_ready()
            ledger.wait_for(40)
        lost_nothing(it, short_path, backup, ledger, node)


def test_p4_certificates_instead_of_passwords_and_a_rest_api_that_wants_them_too(short_path: Path) -> None:
    users = (SUPERUSER, REPLICATOR, REWINDER)
    tls = authority(short_path / "tls", **{user: f"/CN={user}" for user in users}, member="/O=members")

    def files(user: str) -> dict[str, str]:
        names = {"sslcert": f"{user}.crt", "sslkey": f"{user}.key", "sslrootcert": "ca.crt"}
        return {"sslmode": "verify-full", **{name: str(tls / file) for name, file in names.items()}}

    member = {"certfile": str(tls / "member.crt"), "keyfile": str(tls / "member.key"), "cacert": str(tls / "ca.crt")}
    server = {"certfile": str(tls / "server.crt"), "keyfile": str(tls / "server.key"), "cafile": str(tls / "ca.crt")}
    ssl_files = {
        "ssl_cert_file": server["certfile"],
        "ssl_key_file": server["keyfile"],
        "ssl_ca_file": server["cafile"],
    }
    nothing = {"password": None}
    extra = {
        "restapi": {**server, "verify_client": "required"},
        "ctl": member,
        "postgresql": {
            "parameters": {"ssl": "on", **ssl_files},
            "pg_hba": ["hostssl all all 127.0.0.1/32 cert", "hostssl replication all 127.0.0.1/32 cert"],
            "authentication": {
                "superuser": files(SUPERUSER) | nothing,
                "replication": files(REPLICATOR) | nothing,
                "rewind": files(REWINDER) | nothing,
            },
        },
    }
    extra["bootstrap"] = {
        "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, {"wal-segsize": "4"}, {"auth": "trust"}, "data-checksums"]
    }
    libpq = {user: {**files(user), "password": ""} for user in users}
    it = archived(short_path, extra=extra, libpq=libpq)
    context = ssl.create_default_context(cafile=tls / "ca.crt")
    context.load_cert_chain(tls / "member.crt", tls / "member.key")
    for node in it.cluster.nodes:
        node.rest_tls = context
    with it.cluster:
        leader = it.cluster.wait_ready()
        it.wait_owner(leader)
        found = says(leader, "doctor", "--json")["findings"]
        assert [each for each in found if each["severity"] == "error" and each["state"] != "ok"] == []
        url = f"https://127.0.0.1:{leader.rest_port}/patroni"
        change_dynamic(leader.config, url, {"failsafe_mode": True})  # as doctor --fix does
        assert leader.rest("config")["failsafe_mode"] is True
        outlives(it, short_path)


def test_p4_passwords_and_a_scope_with_odd_characters(short_path: Path) -> None:
    roles = {"superuser": SUPERUSER, "replication": REPLICATOR, "rewind": REWINDER}
    authentication = {role: {"password": ODD} for role in roles}
    it = archived(
        short_path,
        scope="Prod_1.eu@x=+-",
        extra={"postgresql": {"authentication": authentication}},
        libpq={user: {"password": ODD} for user in roles.values()},
    )
    with it.cluster:
        outlives(it, short_path)


def test_p4_archive_mode_always(short_path: Path) -> None:
    """Each standby hands over what it receives, too."""
    it = archived(short_path, archiver="command", settings={"archive_mode": "always"})
    with it.cluster:
        leader = it.cluster.wait_ready()
        it.wait_frontier(it.finish_segment(leader))
        name = max(segment.name for segment in it.archive(it.wait_owner(leader)).contents.segments())
        query = "SELECT coalesce(last_archived_wal >= %s, false) FROM pg_stat_archiver"

        def handed_over() -> bool:
            return all(node.value(query, [name]) for node in it.cluster.nodes)

        wait_until(handed_over, f"each member archived {name}", 60, logs=[it.log(node) for node in it.cluster.nodes])
        outlives(it, short_path)
