"""The record in Patroni's own (deprecated) raft store. A version is the index of the entry."""

from __future__ import annotations

from typing import Any

from walkeeper.dcs.base import Leader, Versioned
from walkeeper.errors import CasConflict, DcsUnavailable


class Raft:
    """Every write is decided by the raft leader. Reads are from the local copy of the log, which first catches up with a write
    of our own to a key that says nothing: without that it can be any time old.
    """

    def __init__(self, dcs: Any, key: str) -> None:
        self._store = dcs._sync_obj  # noqa: SLF001 - Patroni offers no create-only on a key of one's own
        self._record = dcs.client_path(key)
        self._catching_up = dcs.client_path(f"{key}-read")
        self._leader = dcs.leader_path

    def read(self) -> Versioned | None:
        self._catch_up()
        found = self._store.get(self._record)
        return None if found is None else Versioned(found["value"].encode(), str(found["index"]))

    def leader(self) -> Leader | None:
        self._catch_up()
        found = self._store.get(self._leader)
        return None if found is None else Leader(found["value"])

    def write(self, document: bytes, expected: Versioned | None, guard: Leader | None) -> Versioned:  # noqa: ARG002
        condition = {"prevIndex": int(expected.version)} if expected else {"prevExist": False}
        written = self._store.set(self._record, document.decode(), handle_raft_error=False, **condition)
        if written:
            return Versioned(document, str(written["index"]))
        # Patroni's client sends again automatically, so that this answer may be to a second attempt.
        found = self.read()
        if found is not None and found.document == document and found != expected:
            return found
        raise CasConflict("record in the DCS: somebody else wrote it first")

    def _catch_up(self) -> None:
        if not self._store.set(self._catching_up, "", handle_raft_error=False):
            raise DcsUnavailable("raft: the leader did not take a write", hint="Check that raft has a quorum.")

    def close(self) -> None:
        self._store.destroy()
