"""What the takeover needs from the local server: its state, the histories in pg_wal, and the bytes of its WAL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from walkeeper.core.history import History, parse_history
from walkeeper.core.hold_slot import SlotState, keeps
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.takeover import LocalServer
from walkeeper.errors import BadSegment, ConfigError, PostgresError
from walkeeper.lib import events
from walkeeper.lib.durable import fsync_dir
from walkeeper.postgres.data_directory import CLONE_OF, clone_of, read_histories
from walkeeper.postgres.server import ServerState
from walkeeper.postgres.wal_file import is_there, sums_of


@dataclass(frozen=True, slots=True)
class LocalWal:
    """The local server as the takeover needs it: its state and its timelines' histories, by number, as in pg_wal.

    ``ask`` is the server's state at this moment. ``sums`` are kept for who comes again: of a segment, by what says that its file
    is still the same. ``others_end``: from there on an archive of another store lacks its WAL. ``hold_slot``: of the server, as
    it is.
    """

    server: LocalServer
    histories: dict[int, bytes]
    pg_wal: Path
    ask: Callable[[], ServerState] | None = None
    sums: dict[tuple[object, ...], str] | None = None
    others_end: Lsn | None = None
    hold_slot: Callable[[], SlotState | None] = lambda: None

    def clone_of(self) -> str:
        """The archive that this server was restored from as another cluster's; empty for none. Raises PostgresError."""
        try:
            return clone_of(self.pg_wal.parent)
        except OSError as problem:
            raise PostgresError(f"{problem.filename}: {problem.strerror}") from None

    def forget_clone(self, archive: str) -> None:
        """That it came from there. Only said where that fails: what is refused then is archive-push without an agent."""
        mark = self.pg_wal.parent / CLONE_OF
        try:
            if clone_of(mark.parent) == archive:
                mark.unlink()
                fsync_dir(mark.parent)
        except OSError as problem:
            events.warning("clone_mark_stays", file=mark, error=problem.strerror, hint="Remove it by hand.")

    def now(self) -> LocalServer:
        """The same server, with as much WAL as it has by now. Raises PostgresError, also if it is another one by now."""
        if self.ask is None:
            return self.server
        state, known = self.ask(), self.server
        same = state.system_identifier == known.system_identifier and state.in_recovery == known.in_recovery
        # The timeline of a server in recovery is not exact there, nor is how far its WAL reaches.
        primary_differs = state.timeline != known.history.timeline or state.lsn < known.lsn
        if not same or (not state.in_recovery and primary_differs):
            raise PostgresError(
                "the local server: another one answers than a moment ago", hint="walkeeper looks again."
            )
        return replace(known, lsn=max(state.lsn, known.lsn))

    def sha256(self, segment: Segment, lsn: Lsn) -> str | None:
        """Of a whole segment below ``lsn``; None where the server no longer has it. Raises PostgresError."""
        file = self._file(segment)  # before it is read
        if segment.end <= lsn and self.sums is not None and file in self.sums:
            return self.sums[file]
        sha256 = self._sum(segment) if segment.end <= lsn else None
        if sha256 is not None and self.sums is not None and file:
            self.sums[file] = sha256
        return sha256

    def beginning(self, segment: Segment, size: int) -> bytes | None:
        """So many bytes of a segment, which must have been written; None where the server has no such file."""
        return read_beginning(self.pg_wal / segment.name, segment, size)

    def has(self, segment: Segment) -> bool:
        """Raises PostgresError where that cannot be told."""
        return is_there(self.pg_wal / segment.name)

    def begins(self) -> Lsn:
        """From where on the server has all whole segments of its WAL. Raises PostgresError where that cannot be told."""
        chain, size = self.server.history, self.server.segment_size
        number = self.server.lsn // size
        while number > 0 and self.has(chain.segment(number - 1, size)):
            number -= 1
        return Lsn(number * size)

    def unbroken(self, first: Segment, end: Lsn) -> list[Segment]:
        """The whole segments from ``first`` up to ``end`` that the server still has, without a break. Raises as ``has``."""
        chain, size = self.server.history, first.size
        below = (chain.segment(number, size) for number in range(end // size - 1, first.number - 1, -1))
        return list(takewhile(self.has, below))[::-1]

    def to_begin_with(self, lsn: Lsn) -> Segment:
        """Where an archive begins in an empty store: where the hold slot stands, which is behind the archive that it followed,
        whether or not anybody still knows of one. With several stores where the one furthest behind ends, if that is before: the
        slot may follow another. As far as the server still has all since: else with the segment that is open at ``lsn``. So, too,
        where the slot keeps nothing: its WAL may be gone before it is stored.

        Raises PostgresError.
        """
        chain, size, slot = self.server.history, self.server.segment_size, self.hold_slot()
        opened = chain.segment_at(lsn, size)
        held_from = slot.restart_lsn if slot is not None and keeps(slot, lsn) else None
        wanted = min(filter(None, (self.others_end, held_from)), default=lsn)
        if wanted >= opened.start:
            return opened
        return next(iter(self.unbroken(chain.segment_at(wanted, size), opened.start)), opened)

    def _file(self, segment: Segment) -> tuple[object, ...]:
        """What differs once it is another file, or was written to; empty where there is none."""
        if self.sums is None:
            return ()
        try:
            found = (self.pg_wal / segment.name).stat()
        except OSError:
            return ()
        return segment.name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _sum(self, segment: Segment) -> str | None:
        try:
            return sums_of(self.pg_wal / segment.name, segment).whole
        except (FileNotFoundError, BadSegment):
            return None
        except OSError as error:
            raise _unreadable(self.pg_wal / segment.name, error) from None


def read_beginning(path: Path, segment: Segment, size: int) -> bytes | None:  # noqa: ARG001 - a simulation needs it
    """The first ``size`` bytes of a file of WAL; None where there are not as many. Raises PostgresError."""
    try:
        with path.open("rb") as file:
            plain = file.read(size)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    return plain if len(plain) == size else None


def _unreadable(path: Path, error: OSError) -> PostgresError:
    return PostgresError(f"{path}: {error.strerror}", hint="The agent runs as PostgreSQL's own user, on its host.")


def read_local_wal(pg_wal: Path, state: ServerState, ask: Callable[[], ServerState] | None = None) -> LocalWal:
    """The server's history and the files it comes from, up to its own timeline. Raises PostgresError, ConfigError, BadHistory."""
    try:
        found = read_histories(pg_wal, own=state.timeline)
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}",
            hint="The agent runs as PostgreSQL's own user, on its host, and reads postgresql.data_dir of patroni.yml.",
        ) from None
    histories = {timeline: content for timeline, content in found.items() if timeline <= state.timeline}
    if state.timeline > 1 and state.timeline not in histories:
        raise PostgresError(
            f"{pg_wal}/{state.timeline:08X}.history: not there (yet)",
            hint="PostgreSQL writes this file when it is promoted.",
        )
    history = History(1) if state.timeline == 1 else parse_history(state.timeline, histories[state.timeline])
    server = LocalServer(state.system_identifier, state.segment_size, history, state.lsn, state.in_recovery)
    return LocalWal(server, histories, pg_wal, ask)
