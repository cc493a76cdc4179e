"""From the store to plain files. What *absent* means is decided here, for what serves requests and for the command itself."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from walkeeper.archive import histories
from walkeeper.archive.codec import AGAIN, SUFFIXES, Codec, most, named
from walkeeper.archive.contents import starts
from walkeeper.archive.layout import Layout
from walkeeper.archive.tail_read import Listed, Tail, read_tail
from walkeeper.core.history import parse_history
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import BackupFile, HistoryFile, Segment, WalFile, parse_wal_name
from walkeeper.core.wal_page import Plain, SegmentHeader, check_header
from walkeeper.errors import CannotTell, Locked, NotAuthentic, Refused, TooLarge, WalkeeperError
from walkeeper.lib import events
from walkeeper.store.base import SMALL, Body, Store
from walkeeper.store.several import Several

_SMALLEST: Final = SegmentSize(MIB)
_LARGEST: Final = SegmentSize(1024 * MIB)
_T = TypeVar("_T")
MAX_LABEL_BYTES: Final = 64 * 1024
"""Bytes of the largest ``.backup`` file that is read."""


class Reader:
    """One store, to be read; for several clusters and threads. Needs no segment size: a segment says it itself.

    ``far``: each answer takes a while, so that questions are put together, and an archive that was found once is taken to
    be there still. A directory's is looked for each time: a disk may be unmounted.
    """

    def __init__(self, store: Store, codec: Codec, *, far: bool = False) -> None:
        self.store = store
        self._codec = codec
        self._far = far
        self._usual = codec.suffix
        self._proved: set[str] = set()
        self._starts: dict[str, list[str]] = {}

    def deliver(self, layout: Layout, name: str, size: int | None = None) -> bytes | None:
        """Exactly what was archived under that name, proved by its checksum; None when it is proved absent (P6).

        Absent is proved only where the archive states its start: a wrong prefix or an unmounted disk is not absence. Of a segment
        no more than ``size`` bytes are taken, where who asks knows them. Raises BadName, CannotTell, or the store's errors.
        """
        file = wal_file(name)
        if file == HistoryFile(1):
            return None
        size = size or _LARGEST
        problem: CannotTell | Refused | TooLarge | None = None
        for suffix, body in self._bodies(layout, file, size):
            try:
                if isinstance(body, NotAuthentic | TooLarge):
                    raise body
                return opened(layout, self._codec, file, suffix, body, size)
            except (CannotTell, Refused, TooLarge) as damaged:
                # Another suffix may have a whole one. Without its key nobody knows whether one is damaged.
                word = "stored_object_locked" if isinstance(damaged, Locked) else "stored_object_damaged"
                events.failure(word, damaged, key=layout.file(file, suffix))
                problem = problem or damaged
        if problem is not None:
            return self._from_another(layout, name, size, problem)
        if layout.root not in self._proved:
            self.prove(layout, name)
            if self._far:
                self._proved.add(layout.root)
        return None

    def prove(self, layout: Layout, name: str) -> None:
        """That the archive is there now. Raises CannotTell, or the store's errors."""
        stores = self.store.stores if isinstance(self.store, Several) else (self.store,)
        self._starts[layout.root] = [start for store in stores for start in prove_archive(store, layout, name)]

    def starts(self, layout: Layout) -> list[str]:
        """The segments that the archive states to begin with, as they were listed when it was proved last; else as they are."""
        return self._starts.get(layout.root) or starts(self.store, layout)

    def _from_another(self, layout: Layout, name: str, size: int, problem: CannotTell | Refused | TooLarge) -> bytes:
        """Where several stores are read as one, and what the first has of that file is damaged. Raises ``problem``."""
        for store in self.store.stores if isinstance(self.store, Several) else ():
            with suppress(WalkeeperError):
                plain = Reader(store, self._codec, far=self._far).deliver(layout, name, size)
                if plain is not None:
                    return plain
        raise problem

    def _bodies(self, layout: Layout, file: WalFile, size: int) -> Iterator[tuple[str, Body | NotAuthentic | TooLarge]]:
        """What there is of that file; what was stored again beside a damaged one last, as it is needed least."""
        asked = _together if self._far else map
        usual = suffixes(file)
        limit = (
            SMALL if isinstance(file, HistoryFile) else most(MAX_LABEL_BYTES if isinstance(file, BackupFile) else size)
        )
        for round_ in (usual, [AGAIN + suffix for suffix in usual]):
            answers = asked(lambda key: self._got(key, limit), [layout.file(file, suffix) for suffix in round_])
            yield from ((suffix, body) for suffix, body in zip(round_, answers, strict=True) if body is not None)

    def _got(self, key: str, limit: int) -> Body | NotAuthentic | TooLarge | None:
        """What somebody planted under one suffix keeps nobody from the other."""
        try:
            return self.store.get(key, limit)
        except (NotAuthentic, TooLarge) as problem:
            return problem

    def tail(self, layout: Layout, name: str, listed: Listed | None = None) -> Tail:
        """What the tail has of a segment that ``deliver`` has just said is absent.

        It grows, and it may be less than the server's own copy: for this one answer only. Raises as ``deliver``.
        """
        if not isinstance(wal_file(name), Segment):
            return Tail()
        return read_tail(self.store, layout, self._codec, name, listed)

    def complete(self, layout: Layout, segment: Segment) -> Iterator[bytes] | None:
        """A segment that nobody has asked for yet, by one request if it is there; it is whole if the iteration ends without an
        error of the same kinds. None proves nothing.
        """
        for suffix in sorted(suffixes(segment), key=lambda suffix: suffix != self._usual):
            body = self._got(layout.file(segment, suffix), most(segment.size))
            if body is not None and not isinstance(body, NotAuthentic | TooLarge):
                self._usual = suffix
                return parts(layout, self._codec, segment, suffix, body)
        return None


def fetch(store: Store, layout: Layout, codec: Codec, name: str) -> bytes | None:
    """One file, as ``Reader.deliver``."""
    return Reader(store, codec).deliver(layout, name)


def wal_file(name: str) -> WalFile:
    """Any name that PostgreSQL asks for; the segment size in it means nothing. Raises BadName."""
    return parse_wal_name(name, _SMALLEST)


def suffixes(file: WalFile) -> tuple[str, ...]:
    """All under which that file may be stored, if nothing was damaged."""
    return ("",) if isinstance(file, HistoryFile) else SUFFIXES


def opened(layout: Layout, codec: Codec, file: WalFile, suffix: str, body: Body, size: int = _LARGEST) -> bytes:
    """The plain file in a stored body, checked. Raises CannotTell or Refused for what is damaged or another's."""
    if isinstance(file, HistoryFile):
        histories.check(layout.file(file, suffix), body)
        parse_history(file.timeline, body)
        return body
    with named(layout.file(file, suffix)):
        if isinstance(file, BackupFile):
            plain = codec.decode(suffix, body, MAX_LABEL_BYTES)
        else:
            plain = _segment_bytes(codec, suffix, body, file, size)
        _check_fetched(body.metadata, plain, file, layout)
    return plain


def _segment_bytes(codec: Codec, suffix: str, body: Body, file: WalFile, size: int) -> bytes:
    """No more of them than the segment's own header says that there are."""
    pieces = codec.parts(suffix, body, size)
    first = next(pieces, b"")
    left = SegmentHeader.parse(first, file.name).segment_size - len(first)
    found = [first]
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise CannotTell(f"{file.name}: longer than its header says", hint="The object in the store is damaged.")
        found.append(piece)
    return b"".join(found)


def parts(layout: Layout, codec: Codec, segment: Segment, suffix: str, body: Body) -> Iterator[bytes]:
    """As ``opened``, piece by piece: what came is what was archived only if this ends without CannotTell or Refused."""
    sha256 = hashlib.sha256()
    size = 0
    with named(layout.file(segment, suffix)):
        for part in codec.parts(suffix, body, segment.size):
            if size == 0:
                check_header(SegmentHeader.parse(part, segment.name), segment, layout.system_identifier)
            sha256.update(part)
            size += len(part)
            yield part
        _check_sum(body.metadata, sha256.hexdigest(), segment)
        if size != segment.size:
            raise CannotTell(
                f"{segment}: {size} bytes, a whole one has {segment.size}", hint="The object in the store is damaged."
            )


def prove_archive(store: Store, layout: Layout, name: str) -> list[str]:
    """That what is not here is not archived: the segments that it begins with. Raises CannotTell where none was ever begun."""
    found = starts(store, layout)
    if not found:
        raise CannotTell(
            f"{name}: there is no archive under {store.url}/{layout.root}",
            hint="Is it the right bucket, prefix and scope, and is the disk mounted? An archive begins with start/.",
        )
    return found


def _check_fetched(metadata: Mapping[str, str], plain: Plain, file: WalFile, layout: Layout) -> None:
    _check_sum(metadata, hashlib.sha256(plain).hexdigest(), file)
    if isinstance(file, Segment):
        header = SegmentHeader.parse(plain, file.name)
        check_header(header, Segment.parse(file.name, header.segment_size), layout.system_identifier)
        if len(plain) != header.segment_size:
            raise CannotTell(
                f"{file.name}: {len(plain)} bytes, a whole one has {header.segment_size}",
                hint="The object in the store is damaged.",
            )


def _check_sum(metadata: Mapping[str, str], sha256: str, file: WalFile) -> None:
    if metadata.get("sha256", sha256) != sha256:
        raise CannotTell(
            f"{file.name}: its content is not what its checksum says", hint="The object in the store is damaged."
        )


def _together(ask: Callable[[str], _T], keys: Sequence[str]) -> list[_T]:
    """The answers in the order of the keys. The first problem, in that order, is raised."""
    answers: dict[str, tuple[_T] | Exception] = {}

    def put(key: str) -> None:
        try:
            answers[key] = (ask(key),)
        except Exception as problem:  # noqa: BLE001 - carried over to who asked
            answers[key] = problem

    others = [threading.Thread(target=put, args=(key,), name="restore-ask", daemon=True) for key in keys[1:]]
    for thread in others:
        thread.start()
    put(keys[0])
    for thread in others:
        thread.join()
    return [_raised(answers[key]) for key in keys]


def _raised(answer: tuple[_T] | Exception) -> _T:
    if isinstance(answer, Exception):
        raise answer
    return answer[0]
