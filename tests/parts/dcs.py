"""What a Patroni cluster of the tests keeps its state in: etcd v3 unless a test brings another."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final, Protocol

from tests.parts.etcd import Etcd, least_rights
from tests.parts.node import Node

PATRONI: Final = {"username": "patroni", "password": "patronis"}
WALKEEPER: Final = {"username": "walkeeper", "password": "walkeepers"}
ROOT_PASSWORD: Final = "roots"
"""In etcd, where it is guarded."""


class Dcs(Protocol):
    """Keys are whole ones: ``/service/demo/leader``."""

    def start(self) -> None:
        """Until it answers."""

    def section(self, node: Node) -> Mapping[str, Any]:
        """Of that node's patroni.yml."""

    def get(self, key: str) -> bytes | None: ...

    def expire(self, key: str) -> None:
        """Let what the key lives by run out now, where that can be done; its ttl ends it in any case."""

    def close(self) -> None: ...


class Etcd3:
    """``guarded``: it asks for passwords; Patroni's user has all that is the cluster's, WALKEEPER the rights of
    examples/dcs/etcd-role.sh. Through a node's proxy, where it has one."""

    def __init__(self, etcd: Etcd, scope: str, *, guarded: bool) -> None:
        self._etcd, self._scope, self._guarded = etcd, scope, guarded

    def start(self) -> None:
        self._etcd.start()
        if self._guarded:
            self._etcd.require_password(ROOT_PASSWORD)
            self._etcd.add_user(PATRONI["username"], PATRONI["password"], {f"/service/{self._scope}/": "READWRITE"})
            self._etcd.add_user(WALKEEPER["username"], WALKEEPER["password"], least_rights(self._scope))

    def section(self, node: Node) -> Mapping[str, Any]:
        port = node.proxy.port if node.proxy else self._etcd.port
        where = {"host": f"127.0.0.1:{port}", "use_proxies": node.proxy is not None}
        return {"etcd3": {**where, **self._etcd.client, **(PATRONI if self._guarded else {})}}

    def walkeepers(self, node: Node) -> Mapping[str, Any]:
        return {"etcd3": {**self.section(node)["etcd3"], **WALKEEPER}}

    def get(self, key: str) -> bytes | None:
        return self._etcd.get(key)

    def expire(self, key: str) -> None:
        fields = {"key": base64.b64encode(key.encode()).decode()}
        kvs = self._etcd.rpc("/kv/range", fields).get("kvs", [])
        lease = kvs[0].get("lease", "0") if kvs else "0"
        if lease == "0":
            self._etcd.delete(key)
        else:
            self._etcd.rpc("/lease/revoke", {"ID": lease})

    def close(self) -> None:
        self._etcd.close()
