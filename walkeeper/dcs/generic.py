"""The record in any DCS that Patroni knows, by way of Patroni's own code for its dynamic configuration.

For Kubernetes, and for what Patroni may learn later. The object's key for the dynamic configuration is exchanged for
walkeeper's while a record is read or written; nothing but the thread that runs these methods may use the object.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from walkeeper.dcs.base import Leader, Versioned
from walkeeper.errors import CasConflict, DcsUnavailable


class Generic:
    """The document is JSON for Patroni: what is not comes back as ``{}``, and what is as msgspec would write it.

    A first write over a key that is there is refused as far as Patroni's code can refuse it: by Kubernetes, and here.
    """

    def __init__(self, dcs: Any, key: str) -> None:
        self._dcs = dcs
        self._key = key

    def read(self) -> Versioned | None:
        return _versioned(self._config())

    def leader(self) -> Leader | None:
        leader = self._dcs.get_cluster().leader
        return Leader(leader.name) if leader and leader.name else None

    def write(self, document: bytes, expected: Versioned | None, guard: Leader | None) -> Versioned:  # noqa: ARG002
        found = self._config()
        before = _versioned(found)
        if (before and before.version) != (expected and expected.version):
            raise CasConflict("record in the DCS: somebody else wrote it first")
        with self._own_key():
            done = self._put(document.decode(), found and found.version)
        after = self.read()
        if after is not None and after != before and json.loads(after.document) == json.loads(document):
            return Versioned(document, after.version)
        if after == before and not done:
            raise DcsUnavailable(
                "record in the DCS: the write was not accepted",
                hint="Look whether Patroni itself can write to the DCS, and with which rights.",
            )
        raise CasConflict("record in the DCS: somebody else wrote it first")

    def close(self) -> None:
        """Patroni has no way to close just any DCS object."""

    def _config(self) -> Any:
        with self._own_key():
            return self._dcs.get_cluster().config

    def _put(self, document: str, version: Any) -> bool:
        if version is None and hasattr(self._dcs, "patch_or_create_config"):
            # Kubernetes: Patroni would patch an object that it already sees, whatever its version.
            return bool(self._dcs.patch_or_create_config({self._key: document}, None, patch=False, retry=False))
        return bool(self._dcs.set_config_value(document, version))

    @contextmanager
    def _own_key(self) -> Iterator[None]:
        self._dcs._CONFIG = self._key  # noqa: SLF001 - hides the class's own, for this object only
        try:
            yield
        finally:
            del self._dcs._CONFIG  # noqa: SLF001


def _versioned(config: Any) -> Versioned | None:
    if config is None:
        return None
    document = json.dumps(config.data, separators=(",", ":"), ensure_ascii=False)
    return Versioned(document.encode(), str(config.version))
