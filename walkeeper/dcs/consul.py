"""The record in Consul, through the client that Patroni built. A version is the key's ModifyIndex, which a write of the same
document again leaves as it is."""

from __future__ import annotations

from typing import Any

from walkeeper.dcs.base import Leader, Versioned
from walkeeper.errors import CasConflict


class Consul:
    """The leader is not guarded here: Consul's transactions could, which nobody has tried yet."""

    def __init__(self, dcs: Any, key: str) -> None:
        self._client = dcs._client  # noqa: SLF001 - Patroni offers no compare-and-set on a key of one's own
        self._record = dcs.client_path(key)
        self._leader = dcs.leader_path

    def read(self) -> Versioned | None:
        found = self._get(self._record)
        return None if found is None else Versioned(_value(found), str(found["ModifyIndex"]))

    def leader(self) -> Leader | None:
        found = self._get(self._leader)
        return None if found is None else Leader(_value(found).decode(errors="replace"))

    def write(self, document: bytes, expected: Versioned | None, guard: Leader | None) -> Versioned:  # noqa: ARG002
        # 0 is Consul's own word for "only if it is not there".
        if not self._client.kv.put(self._record, document, cas=int(expected.version) if expected else 0):
            raise CasConflict("record in the DCS: somebody else wrote it first")
        # The answer to a PUT has no index. If somebody wrote since, the next write must fail: so the index of ours
        # is believed only together with our bytes.
        found = self.read()
        if found is None or found.document != document:
            raise CasConflict("record in the DCS: somebody else wrote it right after")
        return found

    def close(self) -> None:
        self._client.http.http.clear()

    def _get(self, path: str) -> Any:
        return self._client.kv.get(path, consistency="consistent")[1]


def _value(found: Any) -> bytes:
    value = found["Value"] or b""
    return value if isinstance(value, bytes) else str(value).encode()
