"""What the DCS says of the record, in one answer of four kinds. Whoever needs the record asks here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from walkeeper.core.record import Record, decode_record
from walkeeper.dcs.base import RecordStore, Versioned
from walkeeper.errors import BadRecord, DcsError, WalkeeperError


class Known(Enum):
    """``ABSENT``: the DCS said that there is no record. ``UNKNOWN``: it said nothing, which proves nothing."""

    RECORD = "record"
    ABSENT = "absent"
    UNREADABLE = "unreadable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Claim:
    """``record`` is set where it is RECORD; else ``why`` says it in words, and ``problem`` is the error, but for ABSENT."""

    known: Known
    record: Record | None = None
    why: str = ""
    problem: WalkeeperError | None = None

    @property
    def lost(self) -> bool:
        """Whether the DCS answered, and has no record that can be used."""
        return self.known in (Known.ABSENT, Known.UNREADABLE)


def unknown(problem: WalkeeperError) -> Claim:
    return Claim(Known.UNKNOWN, why=str(problem), problem=problem)


def decoded(found: Versioned | None) -> Claim:
    """Of what was read already."""
    if found is None:
        return Claim(Known.ABSENT, why="there is no record in the DCS")
    try:
        return Claim(Known.RECORD, decode_record(found.document))
    except BadRecord as problem:
        return Claim(Known.UNREADABLE, why=str(problem), problem=problem)


def read_claim(records: RecordStore) -> Claim:
    """Never raises what the DCS does."""
    try:
        return decoded(records.read())
    except DcsError as problem:
        return unknown(problem)
