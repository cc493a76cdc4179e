"""The open segment from its tail, for restore-wal: where the complete one is proved absent, and only what helps.

What restore_command delivers replaces the server's own copy of that segment. So a tail is delivered only if it has all whole
records of the local copy and more: a standby may have acknowledged what no tail has.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from walkeeper.archive.codec import AGE, Codec
from walkeeper.archive.histories import stored_history, timelines
from walkeeper.archive.layout import Layout
from walkeeper.archive.tail import StoredPiece, stored_pieces
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import HistoryFile, Segment
from walkeeper.core.tail import MAX_PIECE, NO_TAIL, Piece, TailReach, inner_fork, longest_chain
from walkeeper.core.wal_page import SegmentHeader, check_header, check_part, first_difference
from walkeeper.core.wal_records import goes_beyond
from walkeeper.errors import BadName, BadSegment, CannotTell, NotAuthentic, TooLarge, WrongCluster
from walkeeper.lib import events
from walkeeper.store.base import Body, Store

_ATTEMPTS: Final = 5
_AT_ONCE: Final = 8


class _Changed(Exception):
    """A piece that was listed is gone: it was merged, or the segment was completed."""


@dataclass(frozen=True, slots=True)
class AssembledTail:
    """The beginning of a segment, as far as its tail goes, ``plain``. It grows: ask again each time, and keep it for nobody."""

    segment: Segment
    owner: str
    plain: bytes

    def beyond(self, pg_wal: Path) -> bytes | None:
        """The segment with zeros behind its tail; None if that brings nothing that the copy in ``pg_wal`` lacks.

        True for as long as nobody writes there: PostgreSQL has stopped its receiver while it waits for us. Raises CannotTell.
        """
        end = Lsn(self.segment.start + len(self.plain))
        local = _local_copy(pg_wal / self.segment.name)
        if local is not None and not goes_beyond(self.plain, local, self.segment):
            events.info("tail_not_delivered", file=self.segment, end=end, why="the local copy has as much")
            return None
        events.info("tail_delivered", file=self.segment, end=end, owner=self.owner)
        return self.plain.ljust(self.segment.size, b"\0")


class Listed(NamedTuple):
    """What who asks has listed already: a segment's pieces, and after them the timelines that have a history."""

    pieces: list[StoredPiece]
    timelines: list[int]


class Tail(NamedTuple):
    """``assembled``: what may be delivered, or None. ``reach``: how far it goes before anything is cut off at a fork."""

    assembled: AssembledTail | None = None
    reach: TailReach = NO_TAIL


def assemble(store: Store, layout: Layout, codec: Codec, name: str) -> AssembledTail | None:
    """As ``read_tail``, without how far it should go."""
    return read_tail(store, layout, codec, name).assembled


def read_tail(store: Store, layout: Layout, codec: Codec, name: str, listed: Listed | None = None) -> Tail:
    """What the pieces of the segment with that name make together, up to where the newest branch left this timeline.

    Call it when the complete segment has just been found absent; that there is no tail is then proved, too. Raises CannotTell
    or the store's errors.
    """
    found = None
    if listed is not None:
        with suppress(_Changed):
            found = _chains(store, layout, codec, name, listed.pieces)
    known = listed.timelines if listed is not None and found is not None else None
    chains, reach = found or read_chains(store, layout, codec, name)
    believed = _believed(store, layout, chains, known)
    whole = believed is not None and len(believed.plain) == believed.segment.size
    return Tail(believed, replace(reach, whole=whole))


def read_chains(store: Store, layout: Layout, codec: Codec, name: str) -> tuple[list[AssembledTail], TailReach]:
    """The longest provable chain of each owner, nowhere cut off, and how far they go. Raises as ``read_tail``."""
    for _ in range(_ATTEMPTS):
        listed = list(stored_pieces(store, layout, name))
        with suppress(_Changed):
            return _chains(store, layout, codec, name, listed)
    raise CannotTell(f"{name}: its tail is being replaced", hint="The complete segment is about to be in the store.")


def _believed(
    store: Store, layout: Layout, chains: list[AssembledTail], known: list[int] | None
) -> AssembledTail | None:
    """``known``: the timelines that have a history, where they were listed after the pieces."""
    if not chains:
        return None
    best = max(chains, key=lambda chain: (len(chain.plain), chain.owner))
    segment = best.segment
    found = timelines(store, layout) if known is None else known
    end = min(len(best.plain), *(_agreed(best, other) for other in chains), _branch_end(store, layout, segment, found))
    if segment.start + end <= inner_fork(_history(store, layout, segment.timeline), segment):
        return None  # an older timeline's file of that number may have more
    return AssembledTail(segment, best.owner, best.plain[:end])


def _chains(
    store: Store, layout: Layout, codec: Codec, name: str, listed: list[StoredPiece]
) -> tuple[list[AssembledTail], TailReach]:
    """The longest provable chain of each owner. Raises _Changed, CannotTell, or the store's errors."""
    by_owner: dict[str, dict[Piece, StoredPiece]] = defaultdict(dict)
    for stored in listed:
        by_owner[stored.piece.owner][stored.piece] = stored
    opener = _Opener(store, layout, codec, name)
    found = [chain for owner in sorted(by_owner) if (chain := opener.chain(owner, by_owner[owner])) is not None]
    if opener.locked and not opener.opened:
        raise CannotTell(
            f"{name}: its tail is encrypted, and the key does not open it",
            hint="Set encryption.identity_file to the file with the private key.",
        )
    chains = [named for owner in by_owner.values() if (named := longest_chain(owner))]
    reach = TailReach(
        max((len(chain.plain) for chain in found), default=0),
        max((chain[-1].end for chain in chains), default=0),
        opener.ignored,
    )
    return found, reach


class _Opener:
    """Fetches and checks the pieces of one segment. ``opened`` and ``locked`` count those that could and could not be opened,
    ``ignored`` is the key of the first one that is damaged.
    """

    def __init__(self, store: Store, layout: Layout, codec: Codec, name: str) -> None:
        self._store = store
        self._layout = layout
        self._codec = codec
        self._name = name
        self.opened = 0
        self.locked = 0
        self.ignored = ""

    def chain(self, owner: str, pieces: dict[Piece, StoredPiece]) -> AssembledTail | None:
        """Without those that turn out to be torn, or to lie: then the longest of what is left."""
        plain: dict[Piece, bytes] = {}
        left = dict(pieces)
        while chosen := longest_chain(left):
            wanted = [piece for piece in chosen if piece not in plain]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                bodies = list(pool.map(lambda piece: self._got(pieces[piece]), wanted))
            first: Segment | None = None
            for piece in chosen:
                body = bodies[wanted.index(piece)] if piece in wanted else None
                try:
                    if piece in wanted:
                        plain[piece] = self._open(pieces[piece], body)
                    first = first or self._first(plain[piece])
                    check_part(plain[piece], piece.begin, first)
                except (CannotTell, TooLarge, BadSegment, BadName, WrongCluster) as problem:
                    events.failure("tail_piece_ignored", problem, key=pieces[piece].key)
                    self.ignored = self.ignored or pieces[piece].key
                    del left[piece]
                    break
            else:
                assert first is not None  # noqa: S101 - a chain has a piece at 0
                return AssembledTail(first, owner, b"".join(plain[piece] for piece in chosen)[: first.size])
        return None

    def _got(self, stored: StoredPiece) -> Body | NotAuthentic | TooLarge | None:
        try:
            return self._store.get(stored.key, stored.most)
        except (NotAuthentic, TooLarge) as problem:
            return problem

    def _open(self, stored: StoredPiece, body: Body | NotAuthentic | TooLarge | None) -> bytes:
        """Its bytes. Raises CannotTell, TooLarge or BadSegment for a damaged one."""
        if isinstance(body, NotAuthentic | TooLarge):
            raise body
        if body is None:
            raise _Changed
        try:
            data = self._codec.decode(stored.suffix, body, MAX_PIECE)
        except CannotTell:
            self.locked += stored.suffix.endswith(AGE)
            raise
        self.opened += 1
        piece, stated = stored.piece, body.metadata.get("sha256")
        if len(data) != piece.end - piece.begin or stated not in {None, hashlib.sha256(data).hexdigest()}:
            raise BadSegment(f"{stored.key}: its content is not what its name and checksum say")
        return data

    def _first(self, data: bytes) -> Segment:
        """The segment, as the piece at its start describes it."""
        header = SegmentHeader.parse(data, self._name)
        segment = Segment.parse(self._name, header.segment_size)
        check_header(header, segment, self._layout.system_identifier)
        return segment


def _agreed(best: AssembledTail, other: AssembledTail) -> int:
    """How far to believe: two primaries on one timeline may have written different WAL, and nothing tells who was right."""
    same = first_difference(best.plain, other.plain)
    if same == len(other.plain):
        return len(best.plain)
    events.warning(
        "tails_differ",
        segment=best.segment,
        owners=f"{best.owner},{other.owner}",
        at=Lsn(best.segment.start + same),
        hint="Two servers wrote this timeline. What both say is delivered; to choose one, move the other's pieces away.",
    )
    return same


def _branch_end(store: Store, layout: Layout, segment: Segment, found: list[int]) -> int:
    """Where this timeline ended for the newest one that came from it: beyond, recovery to the latest timeline must not read."""
    newest = max((timeline for timeline in found if timeline > segment.timeline), default=None)
    if newest is None:
        return segment.size
    switches = _history(store, layout, newest).switches
    end = next((switch.lsn for switch in switches if switch.timeline == segment.timeline), segment.end)
    return max(0, min(end, segment.end) - segment.start)


def _history(store: Store, layout: Layout, timeline: int) -> History:
    history = stored_history(store, layout, timeline)
    if history is None:
        key = layout.file(HistoryFile(timeline), "")
        raise CannotTell(f"{key}: not there, and a tail of its timeline is", hint="A takeover stores it first.")
    return history


def _local_copy(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotTell(
            f"{path}: {error.strerror}", hint="A tail is compared with this file: it must be readable, or absent."
        ) from None
