"""The record in etcd, API v3, through the client that Patroni built."""

from __future__ import annotations

import base64
from typing import Any, Final

from walkeeper.dcs.base import Leader, Room, Versioned
from walkeeper.errors import CasConflict

QUOTA: Final = 2 * 1024**3
"""etcd's own, where it does not say another one: before 3.6 it says none."""
_COMPACTED: Final = 11
"""gRPC's OUT_OF_RANGE, for a revision that is gone."""
_TOKEN_TOO_OLD: Final = frozenset({"AuthOldRevision", "InvalidAuthToken"})


class Etcd3:
    """One transaction writes the record and, where a guard is given, holds Patroni's leader key to it.

    A version is the key's mod_revision; an epoch is the leader key's create_revision, which lives as long as one
    leadership: Patroni renews the lease of the key, and a new leader creates it again.
    """

    def __init__(self, dcs: Any, key: str) -> None:
        self._client = dcs._client  # noqa: SLF001 - Patroni offers no compare-and-set on a key of one's own
        self._record = _encode(dcs.client_path(key))
        self._leader = _encode(dcs.leader_path)

    def read(self) -> Versioned | None:
        found = self._range(self._record)
        if found is None:
            return None
        return Versioned(_decode(found.get("value", "")), str(found["mod_revision"]))

    def leader(self) -> Leader | None:
        found = self._range(self._leader)
        if found is None:
            return None
        return Leader(_decode(found.get("value", "")).decode(errors="replace"), str(found["create_revision"]))

    def write(self, document: bytes, expected: Versioned | None, guard: Leader | None) -> Versioned:
        revision = expected.version if expected else "0"
        compare = [{"key": self._record, "target": "MOD", "mod_revision": revision}]
        if guard is not None:
            compare.append({"key": self._leader, "target": "VALUE", "value": _encode(guard.name)})
        if guard is not None and guard.epoch:
            compare.append({"key": self._leader, "target": "CREATE", "create_revision": guard.epoch})
        answer = self._rpc(
            "/kv/txn",
            {
                "compare": compare,
                "success": [{"request_put": {"key": self._record, "value": _encode(document)}}],
                "failure": [{"request_range": {"key": self._record}}],
            },
        )
        if answer.get("succeeded"):
            return Versioned(document, str(answer["header"]["revision"]))
        kvs = answer["responses"][0]["response_range"].get("kvs", [])
        if guard is not None and revision == (str(kvs[0]["mod_revision"]) if kvs else "0"):
            raise CasConflict(f"leader key in the DCS: {guard.name} no longer holds it")
        raise CasConflict("record in the DCS: somebody else wrote it first")

    def room(self) -> Room:
        """Of the member that answers."""
        said = self._rpc("/maintenance/status", {})
        revision, quota = int(said["header"]["revision"]), int(said.get("dbSizeQuota", 0))
        return Room(int(said.get("dbSize", 0)), quota or QUOTA, revision, self._was_compacted())

    def _was_compacted(self) -> bool:
        try:
            self._rpc("/kv/range", {"key": self._record, "revision": 1})
        except Exception as problem:
            if getattr(problem, "code", None) != _COMPACTED:
                raise
            return True
        return False

    def close(self) -> None:
        self._client.http.clear()

    def _range(self, key: str) -> dict[str, Any] | None:
        # Not serializable: such a read may be answered by a member that is cut off.
        kvs = self._rpc("/kv/range", {"key": key, "serializable": False}).get("kvs", [])
        return kvs[0] if kvs else None

    def _rpc(self, method: str, fields: dict[str, Any]) -> dict[str, Any]:
        """One request, sent once; or twice where the first was refused for its token, and so had no effect."""

        def send(client: Any, *, retry: Any = None) -> Any:
            return client.call_rpc(method, dict(fields), retry)

        answer: dict[str, Any]
        try:
            answer = self._client.handle_auth_errors(send)
        except Exception as problem:
            if type(problem).__name__ not in _TOKEN_TOO_OLD:
                raise
            # Patroni before 4.1 logs in again at the next request only.
            answer = self._client.handle_auth_errors(send)
        return answer


def _encode(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode("ascii")


def _decode(value: str) -> bytes:
    return base64.b64decode(value)
