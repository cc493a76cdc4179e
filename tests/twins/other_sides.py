"""The other side of a record: what Patroni, or a person, writes into the DCS past the record store.

Each speaks the server's own language, so that a mistake of the store cannot hide a mistake of the test.
"""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Protocol

from tests.parts.consul import ConsulServer
from tests.parts.etcd import Etcd
from tests.twins.memory_record import MemoryDcs
from walkeeper.dcs.base import Member


class OtherSide(Protocol):
    """What Patroni, or a person, does to the keys of one cluster, ``leader`` for instance. None removes the key."""

    def set(self, key: str, value: bytes | None) -> None: ...


class MemorySide:
    def __init__(self, dcs: MemoryDcs) -> None:
        self._dcs = dcs

    def set(self, key: str, value: bytes | None) -> None:
        if key == "leader":
            self._dcs.set_leader(value.decode() if value else None)
        elif key == "walkeeper":
            self._dcs.wipe()
            if value is not None:
                self._dcs.put(value)
        elif key == "config":
            found = json.loads(value or b"{}")
            self._dcs.standby_cluster = bool(found.get("standby_cluster", {}).get("host"))
            self._dcs.paused = bool(found.get("pause"))
            self._dcs.slots = tuple(found.get("slots") or ())
        elif key.startswith("members/"):
            data = json.loads(value or b"{}")
            url = urllib.parse.urlparse(data.get("conn_url", ""))
            facts = (data.get("timeline"), data.get("xlog_location"))
            role, state, api_url = data.get("role", ""), data.get("state", ""), data.get("api_url")
            member = Member(key[8:], role, state, url.hostname, url.port, *facts, api_url=api_url)
            self._dcs.set_members(*self._dcs.members, member)


class Etcd3Side:
    def __init__(self, etcd: Etcd, scope: str) -> None:
        self._etcd, self._prefix = etcd, f"/service/{scope}/"

    def set(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._etcd.delete(self._prefix + key)
        else:
            self._etcd.put(self._prefix + key, value)


class Etcd2Side:
    def __init__(self, etcd: Etcd, scope: str) -> None:
        self._url = f"{etcd.url}/v2/keys/service/{scope}/"

    def set(self, key: str, value: bytes | None) -> None:
        body = None if value is None else urllib.parse.urlencode({"value": value}).encode()
        method = "DELETE" if value is None else "PUT"
        request = urllib.request.Request(self._url + key, body, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()


class ZooKeeperSide:
    def __init__(self, client: Any, scope: str) -> None:
        self._client, self._prefix = client, f"/service/{scope}/"

    def set(self, key: str, value: bytes | None) -> None:
        path = self._prefix + key
        if value is None:
            self._client.delete(path)
            return
        self._client.ensure_path(path)
        self._client.set(path, value)


class ConsulSide:
    def __init__(self, consul: ConsulServer, scope: str) -> None:
        self._consul, self._prefix = consul, f"service/{scope}/"

    def set(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._consul.delete(self._prefix + key)
        else:
            self._consul.put(self._prefix + key, value)


class RaftSide:
    def __init__(self, dcs: Any) -> None:
        self._dcs = dcs

    def set(self, key: str, value: bytes | None) -> None:
        path = self._dcs.client_path(key)
        if value is None:
            assert self._dcs._sync_obj.delete(path)
        else:
            assert self._dcs._sync_obj.set(path, value.decode())


def patroni_file(directory: Path, scope: str, section: dict[str, Any], **more: Any) -> Path:
    """A patroni.yml with the least that Patroni needs to find its DCS; JSON is YAML."""
    path = directory / f"{scope}.yml"
    path.write_text(json.dumps({"scope": scope, "name": "node1", **section, **more}))
    return path
