"""A cluster on each DCS: under load, its leader killed, handed over, restored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.matrix.cell import archived, outlives
from tests.matrix.certificates import authority
from tests.matrix.dcs import ConsulDcs, Etcd2Dcs, RaftDcs, ZooKeeperDcs
from tests.parts.consul import HOW as CONSUL_HOW
from tests.parts.consul import consul_program
from tests.parts.dcs import Dcs, Etcd3
from tests.parts.etcd import Etcd
from tests.parts.zookeeper import HOW as ZOOKEEPER_HOW
from tests.parts.zookeeper import zookeeper_found

pytestmark = [pytest.mark.cluster, pytest.mark.matrix, pytest.mark.slow]


def test_p4_etcd_v3_with_passwords_tls_and_client_certificates(short_path: Path) -> None:
    """walkeeper has a user of its own, with the rights of examples/dcs/etcd-role.sh. etcd's JSON gateway, which Patroni uses,
    refuses certificates that have a common name."""
    etcd = Etcd(tls=authority(short_path / "tls", client="/O=members of the cluster"))
    it = archived(short_path, guarded=True, dcs=Etcd3(etcd, "demo", guarded=True))
    with it.cluster:
        outlives(it, short_path)


def test_p4_consul_with_acls(short_path: Path) -> None:
    """walkeeper has a token of its own, with the policy of examples/dcs/consul-policy.hcl."""
    assert consul_program() is not None, CONSUL_HOW
    it = archived(short_path, guarded=True, dcs=ConsulDcs("demo"))
    with it.cluster:
        outlives(it, short_path)


@pytest.mark.parametrize("kind", ["etcd", "zookeeper", "raft"])
def test_p4_another_dcs(short_path: Path, kind: str) -> None:
    assert kind != "zookeeper" or zookeeper_found(), ZOOKEEPER_HOW
    kinds: dict[str, Callable[[], Dcs]] = {
        "etcd": Etcd2Dcs,
        "zookeeper": ZooKeeperDcs,
        "raft": lambda: RaftDcs(short_path),
    }
    it = archived(short_path, dcs=kinds[kind]())
    with it.cluster:
        outlives(it, short_path)
