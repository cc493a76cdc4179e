"""What the page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from walkeeper.core.coverage import Range
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.record import Gap


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment. ``at`` is monotonic seconds; positions and sizes in bytes, unknown is None."""

    at: float
    written: int | None
    """How far the local server's WAL reached."""
    archived: int | None
    """The record's frontier."""
    lag_bytes: int | None
    lag_seconds: float | None
    owner: str | None = None
    """Of the record: when another one comes, it has taken over."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What one listing of the store found. ``whole``: it saw every object, so that what it lacks is not there."""

    stored: Mapping[int, Sequence[Range]]
    histories: Mapping[int, History]
    gaps: tuple[Gap, ...]
    start: Lsn
    """Where the archive says that it begins: later than the record says, where it was shortened."""
    frontier: Lsn
    """The record's when the listing began: above it, absence means nothing."""
    whole: bool
    times: tuple[tuple[Lsn, str], ...] = ()
    """Commits here and there in the archive: where, and when, in UTC."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The record, as far as the picture needs it."""

    size: SegmentSize
    timeline: int
    frontier: Lsn
    start: Lsn
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A member, as Patroni's key for it says; ``behind`` in bytes after the leader."""

    name: str
    role: str
    state: str
    timeline: int | None
    lsn: Lsn | None
    behind: int | None
    leads: bool
    safe: bool | None = None
    """Gap-safe; None where that is not known, or nothing depends on it."""
    disk: Mapping[str, Any] | None = None
    """Of its pg_wal, as ``core.room.Disk`` describes it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything. ``report`` is the agent's, see walkeeper.agent.http.report; ``at`` is wall time for people."""

    at: str
    report: Mapping[str, Any]
    paused: bool | None = None
    members: tuple[Row, ...] | None = None
    claim: Claim | None = None
    listing: Listing | None = None
    listing_says: str = ""
    """Why there is no listing, or none that is new."""
    histories: Mapping[int, History] = field(default_factory=dict)
    """Those that this node knows beside the listing's."""
    samples: tuple[Sample, ...] = ()
    now: float = 0.0
    """Monotonic, as the samples' ``at``."""
