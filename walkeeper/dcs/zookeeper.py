"""The record in ZooKeeper (and Exhibitor), through the kazoo client that Patroni built."""

from __future__ import annotations

from typing import Any

from kazoo.exceptions import BadVersionError, NodeExistsError, NoNodeError

from walkeeper.dcs.base import Leader, Versioned
from walkeeper.errors import CasConflict


class ZooKeeper:
    """``timeout`` in seconds, for one request. The leader cannot be guarded: each leader's znode has version 0.

    A version is ``czxid.version``. A znode that was removed and created again starts at version 0 once more, so
    the version alone would take the new one for the old one; the czxid names the creation.
    """

    def __init__(self, dcs: Any, key: str, timeout: float) -> None:
        self._client = dcs._client  # noqa: SLF001 - Patroni's own helpers take version 0 for "no condition"
        self._record = dcs.client_path(key)
        self._leader = dcs.leader_path
        self._timeout = timeout

    def read(self) -> Versioned | None:
        found = self._get(self._record)
        return None if found is None else Versioned(found[0], _version(found[1]))

    def leader(self) -> Leader | None:
        found = self._get(self._leader)
        return None if found is None else Leader(found[0].decode(errors="replace"))

    def write(self, document: bytes, expected: Versioned | None, guard: Leader | None) -> Versioned:  # noqa: ARG002
        try:
            return self._create(document) if expected is None else self._replace(document, expected)
        except (BadVersionError, NodeExistsError, NoNodeError):
            raise CasConflict("record in the DCS: somebody else wrote it first") from None

    def close(self) -> None:
        self._client.stop()
        self._client.close()

    def _create(self, document: bytes) -> Versioned:
        created = self._client.create_async(self._record, document, makepath=True, include_data=True)
        return Versioned(document, _version(created.get(timeout=self._timeout)[1]))

    def _replace(self, document: bytes, expected: Versioned) -> Versioned:
        czxid, _, version = expected.version.partition(".")
        found = self._get(self._record)
        if found is None or str(found[1].czxid) != czxid:
            raise BadVersionError
        # A write without a version would be unconditional; this one is explicit, and may be 0.
        stat = self._client.set_async(self._record, document, version=int(version)).get(timeout=self._timeout)
        return Versioned(document, _version(stat))

    def _get(self, path: str) -> Any:
        """The value and its stat, or None. A read may be answered by a follower that lags behind: sync first."""
        self._client.sync_async(path).get(timeout=self._timeout)
        try:
            return self._client.get_async(path).get(timeout=self._timeout)
        except NoNodeError:
            return None


def _version(stat: Any) -> str:
    return f"{stat.czxid}.{stat.version}"
