"""WAL from other members: streamed from them as a standby would, one segment after the other, until they are silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from walkeeper.agent.archiver.spool import Spool, spool_error
from walkeeper.agent.archiver.whereabouts import Candidate, Sources
from walkeeper.config import PostgresqlSettings
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import PARTIAL, Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.suspicion import Suspicions, says_no
from walkeeper.core.wal_page import Plain
from walkeeper.errors import BadSegment, DcsError, PostgresError, Refused
from walkeeper.lib import events
from walkeeper.lib.clock import Clock
from walkeeper.postgres.pg_receivewal import Receiver, Written
from walkeeper.postgres.wal_file import read_segment

STALLED_SECONDS: Final = 10.0
"""Seconds in which a member must deliver something: what a hanging one costs, once a look."""
LONGEST_SECONDS: Final = 1800.0
"""Seconds for one segment, however steadily it comes."""


def stream_segment(
    program: Path,
    spool: Spool,
    settings: PostgresqlSettings,
    wanted: Segment,
    clock: Clock,
    cancelled: Callable[[], bool],
) -> tuple[Plain | None, str]:
    """The segment as that server streams it, or None; and what was said. Raises SpoolError."""
    spool.clear_fetch()
    partial = spool.fetch / (wanted.name + PARTIAL)
    try:
        partial.touch(mode=0o600)
    except OSError as error:
        raise spool_error(error, partial) from None
    receiver = Receiver(program, spool.fetch, settings, spool.directory / "fetch.pgpass", clock)
    try:
        receiver.start(last=wanted)
        stalled = _Stalled(receiver, partial, wanted.size, clock)
        said = receiver.wait(LONGEST_SECONDS, lambda: cancelled() or stalled())
        return read_segment(spool.fetch / wanted.name, wanted), said
    except FileNotFoundError:
        return None, said
    except (PostgresError, BadSegment) as problem:
        return None, str(problem)
    except OSError as error:
        raise spool_error(error, spool.fetch / wanted.name) from None
    finally:
        receiver.stop()
        spool.clear_fetch()


class Members:
    """Asks them. For one thread."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._silences: dict[str, int] = {}
        self._said: dict[str, str] = {}

    def that_may_have(self, lsn: Lsn) -> Sequence[Candidate] | None:
        """WAL from there on; those that answered come first. None while the members are not known."""
        try:
            members = self._sources.members(lsn)
        except DcsError:
            return None
        return sorted(members, key=lambda member: self._silences.get(member.name, 0))

    def fetch(
        self, member: Candidate, suspicions: Suspicions, stopped: Callable[[], bool], most: int | None = None
    ) -> Iterator[Receipt]:
        """For ``most`` segments of what it has not refused, until it is silent: that costs a look a bounded time, not each
        segment. What it says is noted in ``suspicions``. Raises the store's errors.
        """
        sources = self._sources
        for wanted in islice(suspicions.wanted_from(member.name), most):
            if sources.program is None or member.settings is None or stopped():
                return
            plain, said = stream_segment(
                sources.program, sources.spool, member.settings, wanted, sources.clock, stopped
            )
            if plain is None:
                self._tell(member, wanted, said)
                if not says_no(said):
                    self._silences[member.name] = self._silences.get(member.name, 0) + 1
                    return
                suspicions.refuse(member.name, wanted.number, sources.clock.monotonic())
                continue
            self._silences[member.name] = 0
            try:
                receipt = sources.archive.archive_segment(wanted, plain, sources.history)
            except Refused as problem:
                events.failure("fetched_and_refused", problem, segment=wanted, member=member.name)
                return
            events.info("fetched_from_member", segment=wanted, member=member.name)
            suspicions.settle(wanted.number, wanted.number + 1)
            yield receipt

    def _tell(self, member: Candidate, wanted: Segment, said: str) -> None:
        """A member that is silent in the same way for an hour is told of once."""
        if said != self._said.get(member.name):
            self._said[member.name] = said
            events.info("not_fetched_from_member", segment=wanted, member=member.name, said=said)


class _Stalled:
    """Whether nothing has come for too long."""

    def __init__(self, receiver: Receiver, partial: Path, size: int, clock: Clock) -> None:
        self._receiver = receiver
        self._partial = partial
        self._size = size
        self._clock = clock
        self._written: Written | None = None
        self._moved_at = clock.monotonic()

    def __call__(self) -> bool:
        try:
            written = self._receiver.written(self._partial, self._size)
        except PostgresError:  # it has just ended, or its descriptors cannot be read
            written = None
        if written != self._written:
            self._written, self._moved_at = written, self._clock.monotonic()
        return self._clock.monotonic() - self._moved_at > STALLED_SECONDS
