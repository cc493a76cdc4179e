"""What the record takes from Patroni's configuration, and what it leaves alone."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
import urllib3.util.connection
import yaml

from tests.parts.etcd import Etcd
from tests.parts.processes import free_port
from tests.twins.other_sides import patroni_file
from walkeeper.dcs.base import RECORD, Leader
from walkeeper.dcs.consul import Consul
from walkeeper.dcs.patroni import PatroniRecord, connect
from walkeeper.errors import ConfigError

DOCUMENT: Final = b'{"lsn":"0/3000000"}'
_scopes = (f"config{number}" for number in itertools.count(1))


def test_yaml_is_left_as_it_was() -> None:
    assert yaml.safe_load.__module__ == "yaml"
    assert yaml.safe_load.__name__ == "safe_load"


def test_what_asks_the_dns_is_loaded_where_srv_records_name_the_servers_alone() -> None:
    program = """
import sys
import walkeeper.dcs.patroni
from patroni.dcs import etcd, etcd3
print("dns.message" in sys.modules, etcd.resolver.query.__module__, "dns.message" in sys.modules)
"""
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert said.split() == ["False", "dns.resolver", "True"]


def test_urllib3_is_left_as_it_was(etcd: Etcd, tmp_path: Path) -> None:
    before = urllib3.util.connection.create_connection
    for kind in ("etcd3", "etcd"):
        store = connect(patroni_file(tmp_path, next(_scopes), {kind: {"host": etcd.host}}))
        assert store.read() is None
        assert urllib3.util.connection.create_connection is before
        store.close()


def test_the_environment_is_left_as_it_was(tmp_path: Path, etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRONI_ETCD3_HOST", etcd.host)
    file = patroni_file(tmp_path, next(_scopes), {})
    for _ in range(2):
        with contextlib.closing(connect(file)) as store:
            assert store.read() is None


def test_the_keys_lie_where_patroni_has_its_own(tmp_path: Path, etcd: Etcd) -> None:
    scope = next(_scopes)
    file = patroni_file(tmp_path, scope, {"etcd3": {"host": etcd.host}}, namespace="/db//prod/", walkeeper={"a": 1})
    with contextlib.closing(connect(file)) as store:
        store.write(DOCUMENT, None)
    assert etcd.get(f"/db/prod/{scope}/walkeeper") == DOCUMENT


def test_each_citus_group_has_a_record_of_its_own(tmp_path: Path, etcd: Etcd) -> None:
    scope = next(_scopes)
    for group in (0, 1):
        citus = {"group": group, "database": "citus"}
        file = patroni_file(tmp_path, scope, {"etcd3": {"host": etcd.host}}, citus=citus)
        with contextlib.closing(connect(file)) as store:
            store.write(b'{"group":%d}' % group, None)
            etcd.put(f"/service/{scope}/{group}/leader", f"leader{group}")
            topology = store.topology()
            assert topology.leader is not None
            assert topology.leader.name == f"leader{group}"
    assert etcd.get(f"/service/{scope}/0/walkeeper") == b'{"group":0}'
    assert etcd.get(f"/service/{scope}/1/walkeeper") == b'{"group":1}'


def test_the_member_need_not_be_named_in_the_file(tmp_path: Path, etcd: Etcd) -> None:
    file = tmp_path / "patroni.yml"
    file.write_text(json.dumps({"scope": next(_scopes), "etcd3": {"host": etcd.host}}))
    with contextlib.closing(connect(file)) as store:
        assert store.read() is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not found"),
        ("", ""),
        ("[1, 2]", ""),
        ("a: [", "it is not YAML"),
        ("etcd3: {host: '127.0.0.1:1'}", "it has no scope"),
        ("scope: x", "it names no DCS that can be used here"),
        ("{scope: x, etcd9: {}}", "it names no DCS that can be used here"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_before_any_call(
    tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "patroni.yml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        connect(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_nothing_is_asked_of_the_network_before_the_first_call(tmp_path: Path) -> None:
    file = patroni_file(tmp_path, "x", {"etcd3": {"host": f"127.0.0.1:{free_port()}"}})
    store = connect(file)
    assert isinstance(store, PatroniRecord)
    store.close()


@pytest.mark.parametrize(("dc", "asked"), [("far", {"dc": "far"}), (None, {})])
def test_consuls_transaction_goes_to_the_datacenter_that_patroni_is_told(dc: str | None, asked: dict[str, str]) -> None:
    """A stand-in: two datacenters cannot be had here. The client's own calls ask for ``dc`` by themselves, and this is not one."""
    found: list[dict[str, str]] = []

    def put(callback: Callable[[Any], Any], path: str, *, params: dict[str, str], data: str) -> Any:
        assert (path, len(json.loads(data))) == ("/v1/txn", 2)
        found.append(params)
        return callback(SimpleNamespace(code=200, body=""))

    stored = {"Value": b"{}", "ModifyIndex": 8}
    kv = SimpleNamespace(get=lambda *_, **__: (8, stored))
    client = SimpleNamespace(dc=dc, kv=kv, http=SimpleNamespace(put=put))
    records = Consul(SimpleNamespace(_client=client, client_path=str, leader_path="leader"), "record")
    assert records.write(b"{}", None, Leader("a", "7")).version == "8"
    assert found == [asked]


def test_what_patroni_remembers_of_kubernetes_may_be_old_and_what_the_others_answer_is_not() -> None:
    kinds = ("etcd", "etcd3", "consul", "zookeeper", "exhibitor", "raft", "kubernetes", "what comes next")
    lag = {kind for kind in kinds if PatroniRecord(kind, {}, 1.0, RECORD).reads_lag}
    assert lag == {"kubernetes", "what comes next"}
