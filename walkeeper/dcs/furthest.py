"""The records of a cluster's several stores, read as one: the furthest counts."""

from __future__ import annotations

from collections.abc import Sequence

from walkeeper.core.lsn import Lsn
from walkeeper.dcs.base import Leader, RecordStore, Topology, Versioned
from walkeeper.dcs.claim import decoded
from walkeeper.errors import CasConflict, DcsError


class Furthest:
    """Only to be read. One that cannot be read may be the furthest: its error is raised."""

    def __init__(self, records: Sequence[RecordStore]) -> None:
        self._records = tuple(records)

    @property
    def reads_lag(self) -> bool:
        return any(records.reads_lag for records in self._records)

    def read(self) -> Versioned | None:
        """Of the cluster that the first one is of, where there is that."""
        return _furthest([each for each in (records.read() for records in self._records) if each is not None])

    def read_some(self) -> Versioned | None:
        """Of those that can be read and decoded: the furthest is no less. Raises as the first one where none can be read."""
        found: list[Versioned | None] = []
        problems: list[DcsError] = []
        for records in self._records:
            try:
                found.append(records.read())
            except DcsError as problem:
                problems.append(problem)
        if not found:
            raise problems[0]
        there = [each for each in found if each is not None]
        return _furthest([each for each in there if decoded(each).record is not None] or there)

    def leader(self) -> Leader | None:
        return self._records[0].leader()

    def write(self, document: bytes, expected: Versioned | None, guard: Leader | None = None) -> Versioned:  # noqa: ARG002
        raise CasConflict("record in the DCS: of several stores' records none is written here")

    def topology(self) -> Topology:
        return self._records[0].topology()

    def close(self) -> None:
        for records in self._records:
            records.close()


def _furthest(found: Sequence[Versioned]) -> Versioned | None:
    first = decoded(found[0]).record if found else None
    if first is not None:
        others = [(each, decoded(each).record) for each in found]
        found = [
            each for each, record in others if record is None or record.system_identifier == first.system_identifier
        ]
    return max(found, key=_position, default=None)


def _position(found: Versioned) -> tuple[int, Lsn]:
    """One that cannot be decoded comes first: whoever decodes it says so."""
    claim = decoded(found)
    if claim.record is None:
        return 1 << 32, Lsn(0)
    return claim.record.timeline, claim.record.position


def read_together(records: Sequence[RecordStore]) -> RecordStore:
    """``records``: one for each store, the first's first."""
    return records[0] if len(records) == 1 else Furthest(records)


def read_some(records: RecordStore) -> Versioned | None:
    """As ``Furthest.read_some``, where a position that is too low is better than none."""
    return records.read_some() if isinstance(records, Furthest) else records.read()
