"""The record in Consul, through the client that Patroni built. A version is the key's ModifyIndex, which a write of the same
document again leaves as it is."""

from __future__ import annotations

import base64
import json
from http import HTTPStatus
from typing import Any

from consul import ACLPermissionDenied, ConsulException

from walkeeper.dcs.base import Leader, Versioned
from walkeeper.errors import CasConflict


class Consul:
    """One transaction writes the record and, where a guard is given, holds Patroni's leader key to it.

    An epoch is the leader key's ModifyIndex, which lasts as long as one leadership: Patroni renews its session, not the key.
    """

    def __init__(self, dcs: Any, key: str) -> None:
        self._client = dcs._client  # noqa: SLF001 - Patroni offers no compare-and-set on a key of one's own
        self._record = dcs.client_path(key)
        self._leader = dcs.leader_path

    def read(self) -> Versioned | None:
        found = self._get(self._record)
        return None if found is None else Versioned(_value(found), str(found["ModifyIndex"]))

    def leader(self) -> Leader | None:
        found = self._get(self._leader)
        return None if found is None else Leader(_value(found).decode(errors="replace"), str(found["ModifyIndex"]))

    def write(self, document: bytes, expected: Versioned | None, guard: Leader | None) -> Versioned:
        index = int(expected.version) if expected else 0  # 0 is Consul's own word for "only if it is not there"
        if guard is not None and guard.epoch:
            self._write_guarded(document, index, guard)
        elif not self._client.kv.put(self._record, document, cas=index):
            raise CasConflict("record in the DCS: somebody else wrote it first")
        # The answer to a PUT has no index. If somebody wrote since, the next write must fail: so the index of ours
        # is believed only together with our bytes.
        found = self.read()
        if found is None or found.document != document:
            raise CasConflict("record in the DCS: somebody else wrote it right after")
        return found

    def close(self) -> None:
        self._client.http.http.clear()

    def _write_guarded(self, document: bytes, index: int, guard: Leader) -> None:
        """Both in one transaction. https://developer.hashicorp.com/consul/api-docs/txn"""
        value = base64.b64encode(document).decode("ascii")
        operations = [
            {"KV": {"Verb": "cas", "Key": self._record, "Value": value, "Index": index}},
            {"KV": {"Verb": "check-index", "Key": self._leader, "Index": int(guard.epoch)}},
        ]
        elsewhere = {"dc": self._client.dc} if self._client.dc else {}  # as the client's own calls ask
        code, body = self._client.http.put(
            lambda answer: (answer.code, answer.body), "/v1/txn", params=elsewhere, data=json.dumps(operations)
        )
        if code == HTTPStatus.OK:
            return
        if code != HTTPStatus.CONFLICT:
            raise (ACLPermissionDenied if code == HTTPStatus.FORBIDDEN else ConsulException)(f"{code} {body}")
        errors = {error["OpIndex"]: error["What"] for error in json.loads(body)["Errors"]}
        if "Permission denied" in errors.values():
            raise ACLPermissionDenied("Permission denied")
        if 0 not in errors:
            raise CasConflict(f"leader key in the DCS: {guard.name} no longer holds it")
        raise CasConflict("record in the DCS: somebody else wrote it first")

    def _get(self, path: str) -> Any:
        return self._client.kv.get(path, consistency="consistent")[1]


def _value(found: Any) -> bytes:
    value = found["Value"] or b""
    return value if isinstance(value, bytes) else str(value).encode()
