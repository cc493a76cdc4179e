"""What the cluster remembers beside the record, in a second document in the DCS: the texts of histories, for when the store is
away, the members, whose keys expire, and servers that had other WAL than the archive. No I/O.

It is written at takeovers, refused ones too, and when members come or go: the record, which is written each second, must stay
small.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from walkeeper.core.floor import Moment, moment, written
from walkeeper.core.lsn import Lsn
from walkeeper.core.members import MOST, SETTLED_SECONDS, Member
from walkeeper.core.second_life import MOST_LIVES, SecondLife, both
from walkeeper.errors import BadRecord, WalkeeperError

SCHEMA: Final = 1
LIMIT: Final = 128 * 1024
"""Bytes of the largest document that is read."""
TEXT_BYTES: Final = 32 * 1024
"""Bytes that all texts take in the document, the newest ones: that of 200 timelines takes 12,000, in base64."""
LONGEST_NAME: Final = 256
"""Characters of a name or an address that is remembered."""

_Word = Annotated[str, Meta(max_length=256)]
_HINT: Final = "The agent that takes over next writes it anew."


class Text(msgspec.Struct, frozen=True):
    """The history of one timeline, byte for byte, and the metadata that its object in the store has (an authentication code)."""

    timeline: Annotated[int, Meta(ge=2, le=2**32 - 1)]
    text: Annotated[bytes, Meta(max_length=TEXT_BYTES)]
    stated: Annotated[dict[_Word, _Word], Meta(max_length=16)]


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """A member. ``gone_at``: when its key was there last, "" where it is there; ``horizon``: as of ``core.members.Member``."""

    name: _Word
    host: Annotated[str, Meta(max_length=LONGEST_NAME)] | None = None
    port: int | None = None
    gone_at: Moment | None = None
    horizon: _Word = ""


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """``texts``: newest first. Unknown fields of later versions are passed over."""

    schema: int = SCHEMA
    system_identifier: Annotated[str, Meta(pattern=r"^[0-9]{1,20}\Z")]
    texts: Annotated[tuple[Text, ...], Meta(max_length=1024)] = ()
    members: Annotated[tuple[Seen, ...], Meta(max_length=MOST)] = ()
    second_lives: Annotated[tuple[SecondLife, ...], Meta(max_length=MOST_LIVES)] = ()
    """One for each timeline, the newest first."""

    def text(self, timeline: int) -> Text | None:
        return next((text for text in self.texts if text.timeline == timeline), None)

    def with_texts(self, texts: Mapping[int, Text | None]) -> Remembered:
        """These in place of those of the same numbers; None: none of that number. Of all only the newest that have room."""
        both = {**{text.timeline: text for text in self.texts}, **texts}
        kept, room = list[Text](), TEXT_BYTES
        for text in sorted(filter(None, both.values()), key=lambda each: -each.timeline):
            room -= len(msgspec.json.encode(text))
            if room < 0:
                break
            kept.append(text)
        return replace(self, texts=tuple(kept))

    def with_life(self, seen: SecondLife) -> Remembered:
        """And that one, which may be the one that is known of its timeline, or yet another."""
        known = {life.timeline: life for life in self.second_lives}
        before = known.get(seen.timeline)
        known[seen.timeline] = seen if before is None else both(before, seen)
        newest = sorted(known.values(), key=lambda life: -life.timeline)
        return replace(self, second_lives=tuple(newest[:MOST_LIVES]))

    def with_lives(self, became: Mapping[SecondLife, SecondLife | None]) -> Remembered:
        """Those as a takeover left them. One that has changed since stays."""
        now = (became.get(life, life) for life in self.second_lives)
        return replace(self, second_lives=tuple(filter(None, now)))


_DECODER: Final = msgspec.json.Decoder(Remembered)


def encode(remembered: Remembered) -> bytes:
    return msgspec.json.encode(remembered)


def decode(document: bytes) -> Remembered:
    """Raises BadRecord for everything that this version cannot rely on."""
    try:
        if len(document) > LIMIT:
            raise BadRecord(f"{len(document)} bytes, limit {LIMIT}")
        found = _DECODER.decode(document)
        if found.schema != SCHEMA:
            raise BadRecord(f"schema {found.schema}, this version knows {SCHEMA}")
        for each in found.members:
            _ = each.gone_at and moment(each.gone_at), each.horizon and Lsn.parse(each.horizon)
        for life in found.second_lives:
            _ = life.shared_up_to, life.seen_at, moment(life.at)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, WalkeeperError) as problem:
        raise BadRecord(f"remembered in the DCS: {problem}", hint=_HINT) from None
    return found


def seen(members: Iterable[Member], there: Iterable[str], now: float, at: datetime) -> tuple[Seen, ...]:
    """For the document. ``there``: whose keys are. ``now``, by the clock of ``seen_at``, is ``at`` by the wall clock."""
    names = set(there)
    return tuple(
        Seen(
            member.name,
            member.host,
            member.port,
            None if member.name in names else written(at - timedelta(seconds=now - member.seen_at)),
            "" if member.horizon is None else str(member.horizon),
        )
        for member in sorted(members, key=lambda each: each.name)
        if max(len(member.name), len(member.host or "")) <= LONGEST_NAME
    )[:MOST]


def recalled(members: Iterable[Seen], now: float, at: datetime) -> dict[str, Member]:
    """The other way round, by the reader's clocks. Who was there when that was written may have WAL that was written since."""
    found = {}
    for each in members:
        age = 0.0 if each.gone_at is None else max(0.0, (at - moment(each.gone_at)).total_seconds())
        horizon = Lsn.parse(each.horizon) if each.horizon and age > SETTLED_SECONDS else None
        found[each.name] = Member(each.name, each.host, each.port, now - age, horizon)
    return found


def without_moments(members: Iterable[Seen]) -> tuple[object, ...]:
    """What must change for the document to be written again: who is there, where, and what it may have."""
    return tuple((each.name, each.host, each.port, each.gone_at is None, each.horizon) for each in members)
