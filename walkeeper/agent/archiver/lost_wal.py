"""WAL that the local server has recycled: look in the store, in pg_wal, at the other members; only then is it a gap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from walkeeper.agent.archiver.spool import Spool
from walkeeper.archive.write import Archive
from walkeeper.config import PostgresqlSettings
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import PARTIAL, Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.wal_page import Plain
from walkeeper.errors import BadSegment, PostgresError
from walkeeper.lib import events
from walkeeper.lib.clock import Clock
from walkeeper.postgres.pg_receivewal import Receiver
from walkeeper.postgres.wal_file import read_segment

_FETCH_TIMEOUT = 60.0
"""Seconds that another member has to deliver one segment."""


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
