"""The record as status shows it. Its moments are by its owner's clock, and this node's may be another one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from walkeeper.core.record import Record
from walkeeper.lib.clock import seconds_since


def described(record: Record | None, ahead: float = 0.0) -> dict[str, Any] | None:
    """``ahead``: seconds by which its owner's clock is ahead of ours."""
    if record is None:
        return None
    return {
        "system_identifier": record.system_identifier,
        "segment_size": record.segment_size,
        "timeline": record.timeline,
        "frontier": record.lsn,
        "start": record.start,
        "owner": record.owner,
        "closed_by": record.closed_by or None,
        "gaps_total": record.gaps_total,
        "durability": record.durability or "local",
        "suspected": [{"timeline": gap.timeline, "start": gap.start, "end": gap.end} for gap in record.suspected],
        "trouble": record.trouble or None,
        "age_seconds": seconds_since(record.updated_at, ahead),
        "moved_seconds_ago": seconds_since(record.moved_at, ahead),
    }


def ahead_of(rows: Iterable[dict[str, Any]], record: Record | None) -> float:
    """Of the record's owner, by what its server says; 0 where that is not known."""
    owner = record.owner if record is not None else None
    return next((row["clock_ahead_seconds"] or 0.0 for row in rows if row["name"] == owner), 0.0)
