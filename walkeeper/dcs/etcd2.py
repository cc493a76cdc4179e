"""The record in etcd, API v2, through the client that Patroni built. A version is the key's modifiedIndex."""

from __future__ import annotations

from typing import Any

import etcd

from walkeeper.dcs.base import Leader, Versioned
from walkeeper.errors import CasConflict


class Etcd2:
    """``timeout`` in seconds, for one request. The leader cannot be guarded: a write compares one key only."""

    def __init__(self, dcs: Any, key: str, timeout: float) -> None:
        self._client = dcs._client  # noqa: SLF001 - Patroni's own helpers take version 0 for "no condition"
        self._record = dcs.client_path(key)
        self._leader = dcs.leader_path
        self._timeout = timeout

    def read(self) -> Versioned | None:
        found = self._get(self._record)
        return None if found is None else Versioned((found.value or "").encode(), str(found.modifiedIndex))

    def leader(self) -> Leader | None:
        found = self._get(self._leader)
        return None if found is None else Leader(found.value or "")

    def write(self, document: bytes, expected: Versioned | None, guard: Leader | None) -> Versioned:  # noqa: ARG002
        condition = {"prevIndex": int(expected.version)} if expected else {"prevExist": "false"}
        try:
            # With a time-out of our own the request is sent once. Sent twice, it could lose against itself.
            answer = self._client.api_execute(
                self._client.key_endpoint + self._record,
                "PUT",
                {"value": document.decode(), **condition},
                timeout=self._timeout,
            )
            written = self._client._result_from_response(answer)  # noqa: SLF001
        except (etcd.EtcdCompareFailed, etcd.EtcdKeyNotFound, etcd.EtcdAlreadyExist):
            raise CasConflict("record in the DCS: somebody else wrote it first") from None
        return Versioned(document, str(written.modifiedIndex))

    def close(self) -> None:
        self._client.http.clear()

    def _get(self, key: str) -> Any:
        try:
            return self._client.read(key, quorum=True)
        except etcd.EtcdKeyNotFound:
            return None
