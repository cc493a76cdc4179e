"""What is done with each kind of file that PostgreSQL hands over: the one place where that is decided.

==============  ============================================================================================
segment         stored under its own name; other bytes under that name: Conflict
                of a timeline that this server has left: then kept as a ``.partial``
padded segment  not stored where its bytes are in the tail; else as a ``.partial``
``.history``    the same
``.backup``     the same: a label has its own position in its name
``.partial``    kept, whatever is there: two branches of one timeline may each leave one, and neither is wrong
==============  ============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from walkeeper.archive.examine import problem_with
from walkeeper.archive.open import Archives
from walkeeper.archive.read import MAX_LABEL_BYTES
from walkeeper.archive.tail_read import assemble
from walkeeper.archive.write import Archive, damaged_twice
from walkeeper.core.branches import left_at
from walkeeper.core.history import MAX_HISTORY_BYTES, History, parse_history
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import HistoryFile, PartialFile, Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.wal_page import Plain, SegmentHeader, check_header
from walkeeper.core.wal_records import ends_early
from walkeeper.errors import BadName, BadSegment, CannotTell, Conflict, WalkeeperError
from walkeeper.lib import events
from walkeeper.postgres.data_directory import read_control_file
from walkeeper.postgres.wal_file import MAX_BYTES, WalBytes, read_wal_file
from walkeeper.push.place import Place
from walkeeper.restore.branch import followed

Known = Callable[[Segment], Receipt | None]
"""A receipt that somebody has already, or is about to have; None: find out yourself."""


class Pushed(NamedTuple):
    """A file that the archive has. ``receipt`` is that of a segment, ``mtime_ns`` as in WalBytes."""

    receipt: Receipt | None = None
    mtime_ns: int | None = None


class Pusher:
    """Stores files of one scope's servers. Safe for several threads if the store is."""

    def __init__(self, archives: Archives) -> None:
        self._archives = archives

    def push(self, place: Place, known: Known = lambda _: None) -> Pushed:
        """Returns when the archive provably has that file with these bytes (P1). Raises Refused or the store's errors."""
        system = system_identifier(place)
        file = place.file
        if isinstance(file, Segment):
            return self._push_segment(place, system, known)
        size = SegmentSize(MIB) if isinstance(file, HistoryFile) else file.segment.size
        archive = self._archives.archive(system, size)
        if isinstance(file, HistoryFile):
            archive.archive_history(file.timeline, bytes(_read(place, MAX_HISTORY_BYTES).plain))
        elif isinstance(file, PartialFile):
            plain = _read(place, MAX_BYTES).plain
            _check_partial(place, plain, system)
            archive.keep_file(file, plain)
        else:
            archive.archive_file(file, _read(place, MAX_LABEL_BYTES).plain)
        return Pushed()

    def _push_segment(self, place: Place, system: int, known: Known) -> Pushed:
        content = _read(place, MAX_BYTES)
        segment = _segment_of(place.name, content.plain)
        archive = self._archives.archive(system, segment.size)
        end = ends_early(content.plain, segment)
        if end is not None:
            self._keep_padded(archive, segment, content.plain, end)
            return Pushed()
        history = _local_history(place, segment.timeline)
        try:
            receipt = archive.confirm_segment(segment, content.plain, history, known(segment))
            if receipt.was_present and not place.is_ready and problem_with(archive, segment) is not None:
                receipt = _store_beside(archive, segment, content.plain, history)
        except Conflict:
            fork = left_at(followed(place.data_directory), segment)
            if fork is None:
                raise
            self._keep_what_was_left(archive, segment, content.plain, fork)
            return Pushed()
        return Pushed(receipt, content.mtime_ns)

    def _keep_what_was_left(self, archive: Archive, segment: Segment, plain: Plain, fork: Lsn) -> None:
        """What a standby received of a dead primary's segment, and went on without. Once it is promoted, a checkpoint marks it
        ``.ready``; the primary may have stored the whole of it. Up to the fork the new timeline's segment has it.
        """
        archive.keep_file(PartialFile(segment), plain)
        events.info(
            "left_behind", file=segment, fork=fork, kept="as a .partial", why="the store has another of that name"
        )

    def _keep_padded(self, archive: Archive, segment: Segment, plain: Plain, end: Lsn) -> None:
        """A segment that restore-wal made from a tail, and PostgreSQL hands over under its real name (``archive_mode =
        always``). What it says must be in the store, and it must never be taken for the complete one.
        """
        check_header(SegmentHeader.parse(plain, segment.name), segment, archive.layout.system_identifier)
        used = plain[: end - segment.start]
        try:
            tail = assemble(archive.store, archive.layout, archive.codec, segment.name)
        except CannotTell:
            tail = None  # encrypted, and this node has no key
        in_tail = tail is not None and tail.plain[: len(used)] == used
        if not in_tail:
            archive.keep_file(PartialFile(segment), plain)
        events.info("padded_segment", file=segment, end=end, kept="in the tail" if in_tail else "as a .partial")


def _store_beside(archive: Archive, segment: Segment, plain: Plain, history: History | None) -> Receipt:
    """Who asks for it by hand doubts the store, which has been read: what is there states nothing wrong, and is damaged."""
    receipt = archive.put_beside(archive.pack(segment, plain, history))
    if problem_with(archive, segment) is not None:
        raise damaged_twice(archive.layout.file(segment, archive.codec.suffix))
    return receipt


def system_identifier(place: Place) -> int:
    """Of the server whose file that is. Raises BadName."""
    try:
        return read_control_file(place.data_directory).system_identifier
    except CannotTell as problem:
        raise BadName(
            f"{place.path}: not in a data directory ({problem})",
            hint="archive_command gives %p, and PostgreSQL runs it in its data directory.",
        ) from None


def _read(place: Place, limit: int) -> WalBytes:
    try:
        return read_wal_file(place.path, limit)
    except FileNotFoundError:
        raise BadName(f"{place.path}: there is no such file", hint="archive_command gives %p.") from None


def _segment_of(name: str, plain: Plain) -> Segment:
    header = SegmentHeader.parse(plain, name)
    if header.segment_size != len(plain):
        raise BadSegment(f"{name}: {len(plain)} bytes, its header says {header.segment_size}")
    return Segment.parse(name, header.segment_size)


def _check_partial(place: Place, plain: Plain, system_identifier: int) -> None:
    segment = _segment_of(place.name.removesuffix(".partial"), plain)
    check_header(SegmentHeader.parse(plain, place.name), segment, system_identifier)


def _local_history(place: Place, timeline: int) -> History | None:
    """As pg_wal has it; None where it no longer has it: then the page's timeline is only known to be no newer."""
    if timeline == 1:
        return History(1)
    try:
        return parse_history(timeline, bytes(read_wal_file(place.pg_wal / HistoryFile(timeline).name).plain))
    except (FileNotFoundError, WalkeeperError):
        return None
