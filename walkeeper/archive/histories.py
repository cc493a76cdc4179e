"""Histories as they are stored: checked against their checksum each time they are read. So are those that the DCS remembers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from walkeeper.archive.authentic import Trust
from walkeeper.archive.codec import AGAIN
from walkeeper.archive.layout import Layout
from walkeeper.archive.stated import FORMAT, agrees
from walkeeper.core.history import MAX_HISTORY_BYTES, History, parse_history
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import HistoryFile, parse_wal_name
from walkeeper.core.remembered import Text
from walkeeper.errors import BadName, CannotTell
from walkeeper.lib import events
from walkeeper.store.base import SMALL, Body, Store


def keys(layout: Layout, timeline: int) -> Iterator[str]:
    """Where it may be: the second only where the first one is damaged."""
    return (layout.file(HistoryFile(timeline), suffix) for suffix in ("", AGAIN))


def check(key: str, body: Body) -> None:
    """That this is what was stored. Raises CannotTell."""
    if len(body) > MAX_HISTORY_BYTES or not agrees(body.metadata, body):
        raise CannotTell(
            f"{key}: its content is not what its checksum says",
            hint="The object in the store is damaged. Move it away: a takeover stores it again from pg_wal.",
        )


def content(store: Store, layout: Layout, timeline: int) -> bytes | None:
    """Its text; None where it is not stored. Raises CannotTell for a damaged one, or the store's errors."""
    problem: CannotTell | None = None
    for key in keys(layout, timeline):
        try:
            body = store.get(key, SMALL)
            if body is None:
                continue
            check(key, body)
        except CannotTell as damaged:
            events.failure("stored_object_damaged", damaged, key=key)
            problem = problem or damaged
            continue
        return body
    if problem is not None:
        raise problem
    return None


def metadata(text: bytes) -> dict[str, str]:
    return {"format": FORMAT, "sha256": hashlib.sha256(text).hexdigest()}


def remembered(layout: Layout, trust: Trust, timeline: int, text: bytes) -> Text:
    """For the DCS, with what its object in the store states, so that the same checks hold for both."""
    key = layout.file(HistoryFile(timeline), "")
    return Text(timeline, text, dict(trust.coded(key, text, metadata(text))))


def recalled(layout: Layout, trust: Trust, remembered: Text) -> bytes:
    """The text in it. Raises CannotTell, NotAuthentic or BadHistory: it is exactly what was written, or nothing."""
    key = f"{layout.file(HistoryFile(remembered.timeline), '')}, remembered in the DCS"
    body = Body.of(remembered.text, remembered.stated)
    if "sha256" not in body.metadata or not agrees(body.metadata, body):
        raise CannotTell(f"{key}: its content is not what its checksum says")
    trust.check_body(layout.file(HistoryFile(remembered.timeline), ""), body)
    parse_history(remembered.timeline, body)
    return body


def stored_history(store: Store, layout: Layout, timeline: int) -> History | None:
    """As ``content``; the first timeline has none and needs none. Raises BadHistory, too."""
    if timeline == 1:
        return History(1)
    text = content(store, layout, timeline)
    return None if text is None else parse_history(timeline, text)


def timelines(store: Store, layout: Layout) -> list[int]:
    """Whose history is listed, newest first, also where only what was stored again is left. Raises the store's errors."""
    found = set()
    for info in store.list(layout.histories):
        try:
            file = parse_wal_name(info.key.rpartition("/")[2].removesuffix(AGAIN), SegmentSize(MIB))
        except BadName:
            continue  # not ours
        if isinstance(file, HistoryFile):
            found.add(file.timeline)
    return sorted(found, reverse=True)
