"""From the store to plain files. What *absent* means is decided here, for what serves requests and for the command itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.tail_read import AssembledTail, assemble
from walkeeper.archive.write import opened, parts, prove_archive, suffixes, wal_file
from walkeeper.core.names import HistoryFile, Segment
from walkeeper.store.base import MAX_OBJECT, SMALL, Body, Store


class Source:
    """One store, for several clusters and threads.

    ``far``: each answer takes a while, so that questions are put together, and an archive that was found once is taken to
    be there still. A directory's is looked for each time: a disk may be unmounted.
    """

    def __init__(self, store: Store, codec: Codec, *, far: bool) -> None:
        self.store = store
        self._codec = codec
        self._far = far
        self._usual = codec.suffix
        self._proved: set[str] = set()

    def deliver(self, layout: Layout, name: str) -> bytes | None:
        """Exactly what was archived; None when it is proved absent. Raises BadName, CannotTell, or the store's errors."""
        file = wal_file(name)
        if file == HistoryFile(1):
            return None
        keys = {suffix: layout.file(file, suffix) for suffix in suffixes(file)}
        asked = _together if self._far else map
        limit = SMALL if isinstance(file, HistoryFile) else MAX_OBJECT
        answers = asked(lambda key: self.store.get(key, limit), [*keys.values()])
        for suffix, body in zip(keys, answers, strict=True):
            if body is not None:
                return opened(layout, self._codec, file, suffix, body)
        if layout.root not in self._proved:
            prove_archive(self.store, layout, name)
            if self._far:
                self._proved.add(layout.root)
        return None

    def tail(self, layout: Layout, name: str) -> AssembledTail | None:
        """What the tail has of a segment that ``deliver`` has just said is absent; None where it has none of it.

        It grows, and it may be less than the server's own copy: for this one answer only. Raises as ``deliver``.
        """
        return assemble(self.store, layout, self._codec, name) if isinstance(wal_file(name), Segment) else None

    def complete(self, layout: Layout, segment: Segment) -> Iterator[bytes] | None:
        """A segment that nobody has asked for yet, by one request if it is there; it is whole if the iteration ends without an
        error of the same kinds. None proves nothing.
        """
        for suffix in sorted(suffixes(segment), key=lambda suffix: suffix != self._usual):
            body = self.store.get(layout.file(segment, suffix))
            if body is not None:
                self._usual = suffix
                return parts(layout, self._codec, segment, suffix, body)
        return None


def _together(ask: Callable[[str], Body | None], keys: Sequence[str]) -> list[Body | None]:
    """The answers in the order of the keys. The first problem, in that order, is raised."""
    answers: dict[str, Body | Exception | None] = {}

    def put(key: str) -> None:
        try:
            answers[key] = ask(key)
        except Exception as problem:  # noqa: BLE001 - carried over to who asked
            answers[key] = problem

    others = [threading.Thread(target=put, args=(key,), name="restore-ask", daemon=True) for key in keys[1:]]
    for thread in others:
        thread.start()
    put(keys[0])
    for thread in others:
        thread.join()
    return [_raised(answers[key]) for key in keys]


def _raised(answer: Body | Exception | None) -> Body | None:
    if isinstance(answer, Exception):
        raise answer
    return answer
