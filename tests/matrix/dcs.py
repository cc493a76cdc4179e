"""DCSs for the cells of the matrix, besides etcd v3."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.parts.consul import ConsulServer, least_rights, patronis_rights
from tests.parts.etcd import Etcd
from tests.parts.node import Node
from tests.parts.processes import free_port
from tests.parts.zookeeper import ZooKeeperServer


class Etcd2Dcs:
    """The old API, which Patroni calls ``etcd``."""

    def __init__(self) -> None:
        self._etcd = Etcd(v2=True)

    def start(self) -> None:
        self._etcd.start()

    def section(self, node: Node) -> Mapping[str, Any]:
        return {"etcd": {"host": self._etcd.host}}

    def get(self, key: str) -> bytes | None:
        answer = self._ask(key, "GET")
        return None if answer is None else str(answer["node"]["value"]).encode()

    def expire(self, key: str) -> None:
        self._ask(key, "DELETE")

    def close(self) -> None:
        self._etcd.close()

    def _ask(self, key: str, method: str) -> dict[str, Any] | None:
        request = urllib.request.Request(f"{self._etcd.url}/v2/keys{key}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None


class ZooKeeperDcs:
    def __init__(self) -> None:
        self._server = ZooKeeperServer()
        self._client: Any = None

    def start(self) -> None:
        from kazoo.client import KazooClient  # noqa: PLC0415 - it comes with patroni[zookeeper]

        self._server.start()
        self._client = KazooClient(self._server.host)
        self._client.start()

    def section(self, node: Node) -> Mapping[str, Any]:
        return {"zookeeper": {"hosts": [self._server.host]}}

    def get(self, key: str) -> bytes | None:
        from kazoo.exceptions import NoNodeError  # noqa: PLC0415 - likewise

        try:
            return bytes(self._client.get(key)[0])
        except NoNodeError:
            return None

    def expire(self, key: str) -> None:
        with contextlib.suppress(Exception):
            self._client.delete(key)

    def close(self) -> None:
        if self._client is not None:
            self._client.stop()
            self._client.close()
        self._server.close()


class ConsulDcs:
    """ACLs are on: Patroni has what it needs, and walkeeper's own token, for a file of its own, examples/dcs's policy."""

    def __init__(self, scope: str) -> None:
        self._server = ConsulServer()
        self._scope = scope
        self._tokens = {"patroni": "", "walkeeper": ""}

    def start(self) -> None:
        self._server.start()
        rules = {"patroni": patronis_rights(self._scope), "walkeeper": least_rights(self._scope)}
        self._tokens = {name: self._server.token(name, rule) for name, rule in rules.items()}

    def section(self, node: Node) -> Mapping[str, Any]:
        return {"consul": {"host": self._server.host, "token": self._tokens["patroni"]}}

    def walkeepers(self, node: Node) -> Mapping[str, Any]:
        return {"consul": {"host": self._server.host, "token": self._tokens["walkeeper"]}}

    def get(self, key: str) -> bytes | None:
        return self._server.get(key.removeprefix("/"))

    def expire(self, key: str) -> None:
        self._server.delete(key.removeprefix("/"))

    def close(self) -> None:
        self._server.close()


class RaftDcs:
    """Patroni's own: every node is a member of it. Whoever is in the tests reads a copy of the log, as patronictl does."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._addresses: dict[str, str] = {}
        self._names = [f"node{number}" for number in range(1, 4)]
        self._client: Any = None

    def start(self) -> None:
        """The nodes are it."""
        self._addresses = {name: f"127.0.0.1:{free_port()}" for name in self._names}

    def section(self, node: Node) -> Mapping[str, Any]:
        others = [address for name, address in self._addresses.items() if name != node.name]
        data = str(node.directory / "raft")
        return {"raft": {"self_addr": self._addresses[node.name], "partner_addrs": others, "data_dir": data}}

    def get(self, key: str) -> bytes | None:
        from patroni.dcs import get_dcs  # noqa: PLC0415 - as a client of the nodes, not as what is tested

        if self._client is None:
            raft = {"partner_addrs": list(self._addresses.values()), "data_dir": str(self._directory)}
            config = {
                "scope": "tests",
                "name": "tests",
                "loop_wait": 1,
                "ttl": 20,
                "retry_timeout": 3,
                "patronictl": True,
            }
            self._client = get_dcs({**config, "raft": raft})
        found = self._client._sync_obj.get(key)
        return None if found is None else str(found["value"]).encode()

    def expire(self, key: str) -> None:
        """Its ttl ends it."""

    def close(self) -> None:
        if self._client is not None:
            self._client._sync_obj.destroy()
