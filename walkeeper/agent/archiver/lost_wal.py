"""WAL that the local server has recycled: look in the store, in pg_wal, at the other members; only then is it a gap."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.agent.archiver.commit import Commit
from walkeeper.agent.archiver.source import Source
from walkeeper.agent.archiver.spool import Spool
from walkeeper.agent.observation import Observed
from walkeeper.agent.problems import Troubles
from walkeeper.archive.write import Archive
from walkeeper.config import PostgresqlSettings
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import PARTIAL, Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.record import Gap
from walkeeper.core.wal_page import Plain
from walkeeper.errors import BadSegment, PostgresError, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import Clock
from walkeeper.postgres.pg_receivewal import Receiver
from walkeeper.postgres.wal_file import read_segment

_FETCH_TIMEOUT: Final = 60.0
"""Seconds that another member has to deliver one segment."""
MEMBER_PATIENCE: Final = 15.0
"""Seconds that a member which may have lost WAL, and does not answer, is waited for before a gap is recorded."""


class MemberUnreachable(PostgresError):
    """Nobody who answered has it, and somebody who may have it did not answer."""

    reason = "member_unreachable"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where lost WAL may still be. ``members`` is asked anew each time: a returning member may have it."""

    archive: Archive
    history: History
    pg_wal: Path
    spool: Spool
    members: Callable[[], Sequence[PostgresqlSettings]]
    program: Path | None
    """pg_receivewal; without it no member can be asked."""
    clock: Clock
    cancelled: Callable[[], bool]


def is_lost(sources: Sources, wanted: Segment, server_lsn: Lsn) -> bool:
    """Whether the local server had that segment complete and has it no more, so that asking again cannot help."""
    return wanted.end <= server_lsn and not (sources.pg_wal / wanted.name).exists()


def find(sources: Sources, wanted: Segment) -> Receipt | None:
    """A receipt for ``wanted`` from wherever it still is; None if it is nowhere.

    Raises the store's errors, or MemberUnreachable while that cannot be told.
    """
    stored = sources.archive.find(wanted)
    if stored is not None:
        return stored
    plain = _from_pg_wal(sources, wanted) or _from_members(sources, wanted)
    return None if plain is None else sources.archive.archive_segment(wanted, plain, sources.history)


def _from_pg_wal(sources: Sources, wanted: Segment) -> Plain | None:
    try:
        return read_segment(sources.pg_wal / wanted.name, wanted)
    except (FileNotFoundError, BadSegment):
        return None


def _from_members(sources: Sources, wanted: Segment) -> Plain | None:
    unreachable: list[str] = []
    if sources.program is None:
        return None
    for settings in sources.members():
        member = f"{settings.host}:{settings.port}"
        try:
            plain, said = _stream_one(sources, sources.program, settings, wanted)
        except PostgresError as problem:
            plain, said = None, str(problem)
        if plain is not None:
            events.info("fetched_from_member", segment=wanted, member=member)
            return plain
        events.info("not_fetched_from_member", segment=wanted, member=member, said=said)
        if "connection to server" in said:
            unreachable.append(member)
    if unreachable:
        raise MemberUnreachable(
            f"{wanted}: the local server has it no more, and {', '.join(unreachable)} does not answer"
        )
    return None


def _stream_one(
    sources: Sources, program: Path, settings: PostgresqlSettings, wanted: Segment
) -> tuple[Plain | None, str]:
    """The segment as that server streams it, or None, and what pg_receivewal said."""
    sources.spool.clear_fetch()
    (sources.spool.fetch / (wanted.name + PARTIAL)).touch(mode=0o600)
    receiver = Receiver(program, sources.spool.fetch, settings, sources.spool.directory / "fetch.pgpass", sources.clock)
    receiver.start(last=wanted)
    said = receiver.wait(_FETCH_TIMEOUT, sources.cancelled)
    try:
        return read_segment(sources.spool.fetch / wanted.name, wanted), said
    except (FileNotFoundError, BadSegment):
        return None, said
    finally:
        sources.spool.clear_fetch()


class LostWal:
    """For the archiver's thread that has the frontier: what the local server has no more comes from elsewhere, or is a gap."""

    def __init__(
        self,
        sources: Sources,
        source: Source,
        frontier: Frontier,
        commit: Commit,
        observed: Observed,
        troubles: Troubles,
    ) -> None:
        self._sources = sources
        self._source = source
        self._frontier = frontier
        self._commit = commit
        self._observed = observed
        self._troubles = troubles
        self._missing: Segment | None = None
        self._missing_since = 0.0

    def recover(self, first: Segment, stopping: threading.Event) -> None:
        """From ``first`` on, up to where the local server can stream again: from elsewhere, or recorded as a gap."""
        self._troubles.report(
            "archiver_wal_missing",
            PostgresError(
                f"{first}: the local server has it no more", hint="Looking in the store and at the other members."
            ),
        )
        if self._missing != first:
            self._missing, self._missing_since = first, self._sources.clock.monotonic()
        gap_from: Segment | None = None
        wanted = first
        while is_lost(self._sources, wanted, self._observed.lsn) and not stopping.is_set():
            try:
                receipt = self._find(wanted)
            except WalkeeperError as problem:
                self._source.failed(problem)
                return
            if receipt is None and stopping.is_set():
                return
            if gap_from is not None and (receipt is not None or gap_from.timeline != wanted.timeline):
                if not self._state_gap(gap_from, wanted.start):
                    return
                gap_from = None
            if receipt is None:
                gap_from = gap_from or wanted
            elif self._frontier.add(receipt):
                self._commit.changed.set()
            wanted = self._sources.history.segment(wanted.number + 1, self._frontier.size)
        if gap_from is not None and not stopping.is_set() and not self._state_gap(gap_from, wanted.start):
            return
        self._troubles.clear("archiver_wal_missing")

    def _find(self, wanted: Segment) -> Receipt | None:
        """None means that it is nowhere. A member that does not answer is waited for, but not for long (P4: 30 s)."""
        try:
            return find(self._sources, wanted)
        except MemberUnreachable:
            if self._sources.clock.monotonic() - self._missing_since < MEMBER_PATIENCE:
                raise
            return None

    def _state_gap(self, first: Segment, end: Lsn) -> bool:
        """Record it in the store, then go on after it; False if the store did not take it (it is all tried again)."""
        try:
            self._sources.archive.record_gap(first, end)
        except WalkeeperError as problem:
            self._source.failed(problem)
            return False
        events.error(
            "gap",
            timeline=first.timeline,
            start=first.start,
            end=end,
            hint="This WAL exists nowhere any more. Take a base backup now: restores to a point inside or across the gap "
            "are not possible from earlier ones.",
        )
        self._frontier.add_gap(first, end)
        self._commit.state_gap(Gap(first.timeline, str(first.start), str(end)))
        return True
