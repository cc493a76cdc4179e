"""What the page shows, gathered from the agent: nothing here waits for PostgreSQL, the DCS or the store.

What the store has is listed in the background, seldom, and only while somebody looks at the page. Between two listings the
frontier tells what came since: it moves over receipts only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from walkeeper.agent.agent import Agent
from walkeeper.agent.http.report import present, report
from walkeeper.agent.members_look import MembersLook, Seen
from walkeeper.archive.expiry import below_floors
from walkeeper.archive.layout import Layout
from walkeeper.archive.open import Archives
from walkeeper.archive.times import CommitTimes
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.dcs.base import Topology
from walkeeper.errors import WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import Clock, timestamp
from walkeeper.page.facts import Claim, Facts, Listing, Row

REFRESH_SECONDS: Final = 6 * 3600.0
SOON_SECONDS: Final = 60.0
"""Seconds until the next one after a failed listing, or when a timeline has come that the last one does not know."""
MAX_OBJECTS: Final = 500_000
"""Where one listing stops: 500 requests to S3, and 8 TB of WAL in segments of 16 MiB."""
MAX_HISTORIES: Final = 200
TIMES: Final = 4
"""Places of the archive whose time is looked for, an object each."""


@dataclass(frozen=True, slots=True)
class _Found:
    at: float
    system_identifier: str
    listing: Listing | None
    says: str


class StoreListing:
    def __init__(self, archives: Archives, clock: Clock) -> None:
        self._archives = archives
        self._clock = clock
        self._lock = threading.Lock()
        self._listing: threading.Thread | None = None
        self._found: _Found | None = None

    def look(self, record: Record) -> tuple[Listing | None, str]:
        """What was listed last, and what there is to say about it. Never waits; begins a listing where one is due."""
        with self._lock:
            found, running = self._found, self._listing is not None and self._listing.is_alive()
            if found is not None and found.system_identifier != record.system_identifier:
                found = None
            if not running and self._due(found, record):
                self._listing = threading.Thread(
                    target=self._list, args=(record, found), name="store-listing", daemon=True
                )
                self._listing.start()
        if found is None:
            return None, "The store is being listed. Until then this is what the record says."
        return found.listing, found.says

    def _due(self, found: _Found | None, record: Record) -> bool:
        if found is None:
            return True
        age = self._clock.monotonic() - found.at
        known = found.listing is not None and record.timeline in found.listing.histories
        return age > (REFRESH_SECONDS if known else SOON_SECONDS)

    def _list(self, record: Record, before: _Found | None) -> None:
        says, listing = "", before.listing if before else None
        try:
            listing = self._listed(record)
            if not listing.whole:
                says = f"The store has more than {MAX_OBJECTS:,} segments: only the first ones listed are looked at."
        except WalkeeperError as problem:
            events.warning("listing_failed", error=problem, hint=problem.hint)
            says = (
                f"The store could not be listed: {problem}. This is what the record says, and what was listed before."
            )
        self._found = _Found(self._clock.monotonic(), record.system_identifier, listing, says)

    def _listed(self, record: Record) -> Listing:
        layout = self._archives.layout(int(record.system_identifier))
        contents = self._archives.contents(layout.system_identifier, record.size)
        found = contents.listed(layout.wal, layout.gaps, layout.starts, at_most=MAX_OBJECTS)
        stored = found.archived(record.size).segments
        histories: dict[int, History] = {}
        for timeline in sorted({*stored, record.timeline}, reverse=True)[:MAX_HISTORIES]:
            history = contents.history(timeline)
            if history is not None:
                histories[timeline] = history
        branch = histories.get(record.timeline, History(record.timeline))
        below = below_floors(self._archives.store, layout)
        start = found.begins(branch, record.size, below) or Segment.parse(record.start, record.size)
        gaps = tuple(found.recorded_gaps(record.size))
        return Listing(
            stored,
            histories,
            gaps,
            start.start,
            record.position,
            found.whole,
            self._times(layout, record, histories, start),
        )

    def _times(
        self, layout: Layout, record: Record, histories: Mapping[int, History], start: Segment
    ) -> tuple[tuple[Lsn, str], ...]:
        """Of the first commit here and there: an object each, mostly. What cannot be read is left out."""
        history = History(1) if record.timeline == 1 else histories.get(record.timeline)
        if history is None or record.position <= start.start:
            return ()
        times = CommitTimes(self._archives.store, layout, self._archives.codec, history, record.size)
        end, found = record.position.floor(record.size), []
        for number in range(TIMES):
            begin = Lsn(start.start + (end - start.start) * number // TIMES).floor(record.size)
            with suppress(WalkeeperError):
                commit = times.first(begin, end, near=1)
                found += [(commit.begin, commit.when)] if commit is not None else []
        return tuple(dict.fromkeys(found))


def facts(agent: Agent, store_listing: StoreListing, members_look: MembersLook) -> Facts:
    now = time.monotonic()
    observation = present(agent, now)
    listing: Listing | None = None
    says = ""
    if observation.record is not None:
        listing, says = store_listing.look(observation.record)
    topology, record = agent.observer.topology, observation.record
    held = None if record is None else agent.shared.holding.position(agent.config.store_name, record)
    archiver = agent.archiver
    return Facts(
        at=timestamp(),
        report=report(agent),
        paused=topology.paused if topology else None,
        members=_rows(topology, observation.leader, members_look.look(topology.members, record, held))
        if topology
        else None,
        claim=_claim(observation.record),
        listing=listing,
        listing_says=says,
        histories={archiver.history.timeline: archiver.history} if archiver else {},
        samples=agent.observer.samples,
        now=now,
    )


def _claim(record: Record | None) -> Claim | None:
    if record is None:
        return None
    start = Segment.parse(record.start, record.size).start
    return Claim(record.size, record.timeline, record.position, start, record.gaps)


def _rows(topology: Topology, leader: str | None, seen: Mapping[str, Seen]) -> tuple[Row, ...]:
    if leader is None and topology.leader is not None:
        leader = topology.leader.name
    behind = topology.behind(leader)
    nothing = Seen(None, None)
    return tuple(
        Row(
            member.name,
            member.role,
            member.replication_state or member.state if member.state == "running" else member.state,
            member.timeline,
            None if member.lsn is None else Lsn(member.lsn),
            behind.get(member.name, 0),
            member.name == leader,
            seen.get(member.name, nothing).safe,
            disk.described() if (disk := seen.get(member.name, nothing).disk) else None,
        )
        for member in sorted(topology.members, key=lambda member: member.name)
    )
