"""Facts for the page: a cluster with a past, for its tests and for the screenshots in docs/."""

from __future__ import annotations

import math
from typing import Any, Final

from walkeeper.core.coverage import Range
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.record import Gap
from walkeeper.page.facts import Claim, Facts, Listing, Row, Sample

SIZE: Final = SegmentSize(16 * MIB)
NOW: Final = 100_000.0
FORK_2: Final = Lsn.parse("0/2A0003C8")
FORK_3: Final = Lsn.parse("0/260000D8")
FORK_4: Final = Lsn.parse("0/5E1234A0")
FRONTIER: Final = Lsn.parse("0/93540D18")
WRITTEN: Final = Lsn.parse("0/93A41F20")
HISTORIES: Final = {
    1: History(1),
    2: History(2, (Switch(1, FORK_2),)),
    3: History(3, (Switch(1, FORK_3),)),
    4: History(4, (Switch(1, FORK_3), Switch(3, FORK_4))),
}
"""Timeline 2 died after a few segments; 3 left timeline 1 before it did, and 4 goes on from 3."""
GAP: Final = Gap(3, "0/3C000000", "0/3F000000")
TROUBLE: Final = {
    "what": "archiver_store",
    "reason": "store_unavailable",
    "text": "s3://our-wal/demo/7371963849124/wal/0000000400000000/000000040000000000000091.zst: no answer within 30 s",
    "hint": "It is tried again. The hold slot keeps the WAL in pg_wal meanwhile: watch that disk.",
    "since": "2026-11-23T08:40:11Z",
}


def report(**changes: Any) -> dict[str, Any]:
    """As the agent of a leader gives it."""
    whole: dict[str, Any] = {
        "agent": {
            "name": "node2", "scope": "demo", "version": "0.1.0", "pid": 4711, "started_at": "2026-11-23T02:11:40Z",
            "looked_seconds_ago": 0.7, "store": "s3://our-wal/postgresql", "archiving": True, "timeline": 4,
            "stored_up_to": str(FRONTIER), "uploaded_segments": 51, "uploaded_bytes": 91_000_000,
            "spool_bytes": 48 * MIB, "spool_limit": 1024 * MIB,
        },
        "server": {"system_identifier": "7371963849124", "in_recovery": False, "timeline": 4, "lsn": str(WRITTEN), "major": 17},
        "leader": "node2",
        "record_known": True,
        "record": {"owner": "node2", "timeline": 4, "frontier": str(FRONTIER), "segment_size": int(SIZE), "gaps": 0},
        "lag_bytes": WRITTEN - FRONTIER,
        "lag_seconds": 0.0,
        "gap_safe": True,
        "hold_slot": {"restart_lsn": str(FRONTIER), "lost": False, "active_pid": None},
        "troubles": [],
        "last_error": TROUBLE,
        "refused_total": {"store_unavailable": 2},
    }  # fmt: skip
    return {**whole, **changes}


def claim(*, gaps: tuple[Gap, ...] = ()) -> Claim:
    return Claim(SIZE, 4, FRONTIER, Lsn.parse("0/0A000000"), gaps)


def listing(*, gap: bool = False) -> Listing:
    first, third, fourth = 0x0A, FORK_3 // SIZE, FORK_4 // SIZE
    stored: dict[int, tuple[Range, ...]] = {
        1: (Range(first, FORK_2 // SIZE),),
        2: (Range(FORK_2 // SIZE, FORK_2 // SIZE + 3),),
        3: (Range(third, fourth),),
        4: (Range(fourth, 0x8F),),
    }
    if gap:
        stored[3] = (Range(third, 0x3C), Range(0x3F, fourth))
    return Listing(stored, HISTORIES, (GAP,) if gap else (), Lsn.parse("0/0A000000"), Lsn(0x8F * SIZE), whole=True)


def members() -> tuple[Row, ...]:
    return (
        Row("node1", "replica", "streaming", 4, Lsn(WRITTEN - 9_000), 9_000, leads=False),
        Row("node2", "primary", "running", 4, WRITTEN, 0, leads=True),
        Row("node3", "replica", "starting", None, None, None, leads=False),
    )


def samples(hours: float = 6) -> tuple[Sample, ...]:
    """A day's load, and an hour ago an outage of the store for six minutes."""
    count = int(hours * 360)
    loads = [10 * MIB * (0.3 + 0.25 * math.sin(n / 90) + 0.08 * math.sin(n / 7)) for n in range(count)]
    found = []
    written = archived = WRITTEN - sum(loads)
    for number, load in enumerate(loads):
        at = NOW - (count - 1 - number) * 10.0
        written += load
        away = 3300 < NOW - at < 3660
        if not away:
            archived = min(written - (written % SIZE), archived + 10 * 24 * MIB)
        lag = written - archived
        found.append(Sample(at, round(written), round(archived), round(lag), 3660 - (NOW - at) if away else 0.0))
    return tuple(found)


def well() -> Facts:
    return Facts(
        at="2026-11-23T08:51:09Z", report=report(), paused=False, members=members(), claim=claim(), listing=listing(),
        samples=samples(), now=NOW,
    )  # fmt: skip


def unwell() -> Facts:
    """A gap, and the store away."""
    troubled = report(troubles=[TROUBLE], lag_seconds=252.0, record={**report()["record"], "gaps": 1})
    return Facts(
        at="2026-11-23T08:51:09Z", report=troubled, paused=True, members=members(), claim=claim(gaps=(GAP,)),
        listing=listing(gap=True), samples=samples(), now=NOW,
    )  # fmt: skip
