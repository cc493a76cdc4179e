"""The store's bytes held against the local server's, before a takeover. Only looks; each function raises what differs.

A segment is compared by the checksum that the store states, so that nothing is downloaded but histories, and the piece of a tail
inside which a server was promoted. What may be compared:
files of the local server's own chain that are complete, and of a segment that is still being written as much as is flushed. The
boundary segment of an ancestor, which a server with ``archive_mode=off`` keeps under its final name with other bytes, is not in
that chain.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.archive import tail
from walkeeper.archive.tail import StoredPiece, stored_pieces
from walkeeper.archive.write import Archive
from walkeeper.core.beliefs import PROMOTE, expected_switches
from walkeeper.core.history import Switch, written_switches
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import HistoryFile, Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.record import Record
from walkeeper.core.second_life import Compared
from walkeeper.core.tail import longest_chain
from walkeeper.core.takeover import LocalServer, beyond
from walkeeper.errors import BadHistory, NotAuthentic, NumberUsedTwice, OtherBytes, Refused
from walkeeper.lib import events
from walkeeper.lib.parallel import in_parallel
from walkeeper.store.base import Body, ObjectInfo

_About = TypeVar("_About")
_Answer = TypeVar("_Answer")

AT_ONCE: Final = 8
"""Questions to the store on their way at the same time."""
PIECES: Final = 64
"""Pieces of the server's own timeline that are compared: the last ones."""
SEGMENTS: Final = 16
"""Segments up to the server's in which these are looked for."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store lists around the place where a takeover goes on."""

    histories: frozenset[int]
    first: Segment | None
    """Where the archive states to begin."""
    below: Receipt | None
    tail: tuple[StoredPiece, ...]
    """Pieces of the segment in which the record's frontier lies."""
    own: tuple[Segment, ...]
    """Whole segments of the server's own timeline: where that began, and where the server is."""


def look(archive: Archive, server: LocalServer, below: Segment | None, opened: Segment | None) -> Stored:
    """All questions that do not depend on each other, at the same time."""
    layout, store = archive.layout, archive.store
    timeline = server.history.timeline
    begun = server.history.switches[-1].lsn if server.history.switches else Lsn(0)
    folders = sorted({Segment.at(timeline, lsn, archive.size).name[:16] for lsn in (begun, server.lsn)})
    questions: dict[str, Callable[[], object]] = {
        "histories": lambda: frozenset(_history_numbers(store.list(layout.histories))),
        "first": archive.contents.start,
        "below": lambda: archive.find(below) if below is not None else None,
        "tail": lambda: tuple(stored_pieces(store, layout, opened.name)) if opened is not None else (),
        "own": lambda: tuple(
            sorted(segment for folder in folders for segment in archive.contents.segments(f"{folder}/"))
        ),
    }
    answers: dict[str, object] = dict(in_parallel(lambda name: (name, questions[name]()), questions, len(questions)))
    return Stored(**answers)  # type: ignore[arg-type]


def _answers(question: Callable[[_About], _Answer], of: Sequence[_About]) -> dict[_About, _Answer]:
    """Asked of each, some at the same time."""
    return dict(in_parallel(lambda each: (each, question(each)), of, min(AT_ONCE, len(of))))


def _history_numbers(listed: Iterable[ObjectInfo]) -> Iterator[int]:
    for info in listed:
        name = info.key.rpartition("/")[2]
        stem, dot, kind = name.partition(".")
        if dot and kind == "history" and len(stem) == 8 and all(c in "0123456789ABCDEF" for c in stem):
            yield int(stem, 16)


# --- histories --------------------------------------------------------------------------------------------------------


def compare_histories(
    archive: Archive, local: LocalWal, stored: frozenset[int], record: Record | None
) -> tuple[dict[int, bytes], str]:
    """The local histories that the store lacks, and the SHA-256 of the one of the server's timeline as it is stored.

    Compared by timeline and position: who promoted writes a reason as well. An ancestor's says what the server's own begins with.
    Those up to the record's timeline need no look where the local server has the very history that the record states: who wrote
    that record has compared them. Raises NumberUsedTwice, BadHistory for a local one that is needed, or the store's errors.
    """
    chain = local.server.history
    if chain.timeline == 1:
        return _lacking(local, stored), ""
    text = local.histories.get(chain.timeline, b"")
    written = written_switches(chain.timeline, text)
    vouched = 1
    if record is not None and record.history_sha256 and chain.includes(record.timeline):
        known = local.histories.get(record.timeline)
        vouched = record.timeline if known is not None and _sha256(known) == record.history_sha256 else 1
    wanted = [timeline for timeline in chain.timelines if timeline in stored and timeline > max(1, vouched)]
    bodies = _answers(partial(_history, archive), wanted)
    for timeline in wanted:
        body = bodies[timeline]
        if body is not None:
            _compare_history(timeline, body, expected_switches(written, timeline), local)
    return _lacking(local, stored), _sha256(bodies.get(chain.timeline) or text)


def _history(archive: Archive, timeline: int) -> Body | None:
    return archive.store.get(archive.layout.file(HistoryFile(timeline), ""))


def _compare_history(timeline: int, body: Body, expected: tuple[Switch, ...], local: LocalWal) -> None:
    name = HistoryFile(timeline).name
    stated, says = body.metadata.get("sha256", _sha256(body)), tuple[Switch, ...]()
    try:
        says = written_switches(timeline, body)
        damage = "" if stated == _sha256(body) else f"{name}: its content is not what its checksum says"
    except BadHistory as problem:
        damage = str(problem)
    if damage:
        events.warning(
            "history_damaged", error=damage, hint="The object in the store is damaged, and nothing replaces it."
        )
        known = local.histories.get(timeline)
        if timeline != local.server.history.timeline or (known is not None and stated == _sha256(known)):
            return
    if says != expected:
        raise NumberUsedTwice(
            f"{name}: it is in the store with other content",
            hint="Timeline number used twice: two servers were promoted independently. Keep both. If the leader "
            "is on it, promote again with restore_command reading this archive: PostgreSQL chooses a free number. If "
            "the leader's timeline came from it, archive under another prefix, and take a base backup.",
        )


def _lacking(local: LocalWal, stored: frozenset[int]) -> dict[int, bytes]:
    """Histories of other branches fill holes that would stop PostgreSQL's search for the newest, but nothing depends on them."""
    found: dict[int, bytes] = {}
    for timeline in sorted(local.histories.keys() - stored):
        try:
            written_switches(timeline, local.histories[timeline])
        except BadHistory as problem:
            if local.server.history.includes(timeline):
                raise
            events.warning("history_of_other_branch", file=HistoryFile(timeline).name, error=problem)
            continue
        found[timeline] = local.histories[timeline]
    return found


# --- segments ---------------------------------------------------------------------------------------------------------


def compare_whole(stored: Receipt | None, local: LocalWal, lsn: Lsn) -> list[Compared]:
    """One stored segment, if both have the same; nothing if there is nothing to compare. Raises OtherBytes."""
    sha256 = None if stored is None else local.sha256(stored.segment, lsn)
    if stored is None or sha256 is None:
        return []
    if sha256 != stored.sha256:
        raise other_bytes(stored.segment, stored.segment.timeline)
    return [Compared(stored.segment.name, stored.segment.timeline, stored.segment.end)]


def compare_some(archive: Archive, segments: Sequence[Segment], local: LocalWal, lsn: Lsn) -> list[Compared]:
    """The first and the last that the store has of those that the local server still has: two lives never come together again."""
    here = [segment for segment in segments if segment.end <= lsn and local.has(segment)]
    ends = [_first_there(archive, here), _first_there(archive, here[::-1])]
    compared: list[Compared] = []
    for segment in dict.fromkeys(filter(None, ends)):
        compared += compare_whole(archive.find(segment), local, lsn)
    return compared


def compare_all(archive: Archive, segments: Sequence[Segment], local: LocalWal, lsn: Lsn) -> list[Compared]:
    """Each that both have: uploads go side by side, so that one of another life may lie between two of this one. So a match
    shows whose life is stored only where all from the first on match.
    """
    here = [segment for segment in segments if segment.end <= lsn and local.has(segment)]
    found = _answers(archive.find, here)
    compared, whole = list[Compared](), True
    for segment in segments:
        one = compare_whole(found.get(segment), local, lsn)
        whole = whole and bool(one)
        compared += [replace(each, whole=whole) for each in one]
    return compared


def shared_up_to(archive: Archive, local: LocalWal) -> Lsn:
    """The end of the last whole segment of which both have the same; 0 where nothing shows it. Two lives never come together
    again: so it takes a look at the store for each time that what the server has can be halved.
    """
    server, first = local.now(), archive.contents.start()
    if first is None:
        return Lsn(0)
    chain, size = server.history, archive.size
    lowest, end = max(local.begins() // size, first.number), server.lsn // size

    def differs(number: int) -> bool:
        stored = archive.find(chain.segment(number, size))
        return stored is None or stored.sha256 != local.sha256(stored.segment, server.lsn)

    parts = lowest + bisect_left(range(lowest, end), True, key=differs)
    return Lsn(parts * size) if parts > lowest or lowest == first.number else Lsn(0)


def _first_there(archive: Archive, segments: Sequence[Segment]) -> Segment | None:
    """Whose name is not all that the store has of it."""
    return next((segment for segment, there in archive.contents.looks(segments) if there), None)


def compare_own(
    archive: Archive, stored: Stored, local: LocalWal, frontier: Lsn, settled: Lsn
) -> tuple[list[Compared], bool]:
    """What is stored of the server's own timeline, before it writes there itself; and whether there is anything at all.

    Two servers that were promoted at one position under one number write the same history. What lies above ``frontier`` may have
    another life's before it. Pieces up to ``settled`` were compared: others may lie beside those on which the record rests.
    Raises OtherBytes, BeyondServer or StandbyLags.
    """
    pieces = _own_tail(archive, local.server, stored, frontier)
    own_tail = [(segment, each) for segment, each in pieces if segment.start + each.piece.end > settled]
    if not stored.own and not own_tail:
        return [], False
    server = local.now()  # after the listing
    timeline = server.history.timeline
    whole = [segment for segment in stored.own if segment.timeline == timeline and server.history.contains(segment)]
    own_tail.sort(key=lambda one: (one[0].number, one[1].piece), reverse=True)
    last = list(islice(_there(archive, own_tail), PIECES))
    highest = _first_there(archive, whole[::-1])
    ends = [highest.end] if highest is not None else []
    ends += [Lsn(segment.start + each.piece.end) for segment, each, _ in last]
    if max(ends, default=Lsn(0)) > server.lsn:
        raise beyond(f"{archive.store.url}: what is stored of timeline {timeline}, up to {max(ends)},", server)
    compared = compare_some(archive, whole, local, server.lsn)
    for segment in sorted({segment for segment, _, _ in last}):
        heads = {each: info for one, each, info in last if one == segment}
        compared += _compare_pieces(segment, heads, local, timeline)
    return [replace(each, whole=each.end <= frontier) for each in compared], bool(ends)


def other_life(archive: Archive, local: LocalWal) -> int:
    """The server's timeline, where the store has other WAL of it, or more than the server; else 0. Raises the store's errors."""
    try:
        compare_own(archive, look(archive, local.server, None, None), local, Lsn(0), Lsn(0))
    except Refused as problem:
        return problem.second_life_of
    return 0


def _own_tail(
    archive: Archive, server: LocalServer, stored: Stored, frontier: Lsn
) -> list[tuple[Segment, StoredPiece]]:
    """The pieces of its timeline from the frontier's segment on, to the one above the server's: folder by folder, as where nobody
    may delete there are those of each segment. The frontier's may be listed already.
    """
    chain, size = server.history, archive.size
    end = max(server.lsn, frontier) // size + 2
    segments = (chain.segment(number, size) for number in range(max(frontier // size, end - SEGMENTS), end))
    own = [segment for segment in segments if segment.timeline == chain.timeline]

    def pieces(segment: Segment) -> list[tuple[Segment, StoredPiece]]:
        known = [each for each in stored.tail if each.segment == segment.name]
        return [(segment, each) for each in known or stored_pieces(archive.store, archive.layout, segment.name)]

    return [one for found in _answers(pieces, own).values() for one in found]


def _there(
    archive: Archive, pieces: Sequence[tuple[Segment, StoredPiece]]
) -> Iterator[tuple[Segment, StoredPiece, ObjectInfo]]:
    """Those of which not only the name is there, in order."""
    left = iter(pieces)
    while some := list(islice(left, AT_ONCE)):
        heads = _answers(partial(_head, archive), [each for _, each in some])
        yield from ((segment, each, info) for segment, each in some if (info := heads[each]) is not None)


def compare_tail(
    archive: Archive, record: Record, stored: Stored, opened: Segment, end: Lsn, local: LocalWal
) -> list[Compared]:
    """The pieces on which the record's frontier rests, up to ``end``. Raises OtherBytes.

    Others, of a server that was cut off, may lie beside them: one chain that goes as far as the record says must have our bytes:
    also those of a server that was promoted inside that segment, as a base backup of the first life may end there.
    """
    by_owner: dict[str, list[StoredPiece]] = {}
    for each in stored.tail:
        by_owner.setdefault(each.piece.owner, []).append(each)
    segment = local.server.history.segment(opened.number, archive.size)
    problem: OtherBytes | None = None
    for owner in sorted(by_owner):
        chain = longest_chain([each.piece for each in by_owner[owner]])
        if not chain or opened.start + chain[-1].end < record.position:
            continue
        usable = [each for each in by_owner[owner] if each.piece in chain and opened.start + each.piece.begin < end]
        whole = [each for each in usable if opened.start + each.piece.end <= end]
        try:
            compared = _compare_pieces(segment, _answers(partial(_head, archive), whole), local, opened.timeline)
            for forked in set(usable) - set(whole):
                compared += _compare_beginning(archive, forked, segment, end, local, opened.timeline)
            if compared:
                return compared
        except OtherBytes as found:
            problem = found
    if problem is not None:
        raise problem
    return []


def _compare_pieces(
    segment: Segment, heads: Mapping[StoredPiece, ObjectInfo | None], local: LocalWal, timeline: int
) -> list[Compared]:
    """``timeline``: under which they are stored."""
    plain = local.beginning(segment, max(each.piece.end for each in heads)) if heads else None
    if plain is None:
        return []
    stated = {each: info.metadata.get("sha256") for each, info in heads.items() if info is not None}
    told = {each: sha256 for each, sha256 in stated.items() if sha256}
    wrong = [each for each, sha256 in told.items() if sha256 != _sha256(plain[each.piece.begin : each.piece.end])]
    if wrong:
        raise other_bytes(f"{segment}, its tail {min(wrong, key=lambda each: each.piece).piece.name}", timeline)
    end = max((each.piece.end for each in told), default=0)
    return [Compared(f"tail of {segment}", timeline, Lsn(segment.start + end))] if told else []


def _compare_beginning(
    archive: Archive, stored: StoredPiece, segment: Segment, end: Lsn, local: LocalWal, timeline: int
) -> list[Compared]:
    """Of a piece inside which the server's timeline began, up to there, by its bytes: one of each owner at most."""
    here = local.beginning(segment, end - segment.start)
    there = None if here is None else tail.content(archive, stored)
    if here is None or there is None:
        return []
    if not there.startswith(here[stored.piece.begin :]):
        raise other_bytes(f"{segment}, its tail {stored.piece.name}", timeline)
    return [Compared(f"tail of {segment}", timeline, end)]


def _head(archive: Archive, stored: StoredPiece) -> ObjectInfo | None:
    """None for what somebody without the key planted, too: it says nothing."""
    try:
        return archive.store.head(stored.key)
    except NotAuthentic as problem:
        events.failure("object_not_authentic", problem, key=stored.key)
        return None


def other_bytes(what: object, timeline: int, store: str = "") -> OtherBytes:
    """``store``: the name of another one."""
    where = f"the store {store}" if store else "the store"
    problem = OtherBytes(f"{what}: {where} has other bytes than this server", hint=PROMOTE)
    problem.second_life_of = timeline
    return problem


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
