"""A second life of a timeline: a server that led had other WAL of it than the archive, because its volume went back or two
servers wrote it. What is promoted later may have come from that server, and lack all that would show it. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from walkeeper.core.floor import Moment
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize

MOST_LIVES: Final = 8
"""That are remembered: those of the newest timelines."""

_Position = Annotated[str, Meta(max_length=17)]


class SecondLife(msgspec.Struct, frozen=True):
    """What ``member`` had when it led, at ``at``: the archive's own WAL up to ``shared``, as far as whole segments showed it
    ("0/0" where nobody could tell), and above other WAL of ``timeline``, or already of an earlier one. It ended at ``seen``.
    """

    timeline: Annotated[int, Meta(ge=1, le=2**32 - 1)]
    shared: _Position
    seen: _Position
    member: Annotated[str, Meta(max_length=256)]
    at: Moment

    @property
    def shared_up_to(self) -> Lsn:
        return Lsn.parse(self.shared)

    @property
    def seen_at(self) -> Lsn:
        return Lsn.parse(self.seen)


@dataclass(frozen=True, slots=True)
class Compared:
    """What store and server have the same of, up to ``end``, as it is stored under ``timeline``."""

    what: str
    timeline: int
    end: Lsn

    def __str__(self) -> str:
        return self.what


def both(known: SecondLife, seen: SecondLife) -> SecondLife:
    """One that stands for two of a timeline: the same again, or yet another. One that ends lower has gone back once more."""
    told = [life.shared_up_to for life in (known, seen) if life.shared_up_to]
    again = seen.seen_at < known.seen_at
    shared = Lsn(0) if again and not seen.shared_up_to else min(told, default=Lsn(0))
    lowest = min(known.seen_at, seen.seen_at)
    if (shared, lowest) == (known.shared_up_to, known.seen_at):
        return known
    return msgspec.structs.replace(seen, shared=str(shared), seen=str(lowest))


def in_question(life: SecondLife, recorded: int | None, chain: History, lsn: Lsn, size: SegmentSize) -> Lsn | None:
    """The position up to which a server with that chain has to show the archive's own WAL, before it goes on at ``lsn``; None
    where it need not. ``recorded``: the record's timeline.

    What both lives share shows nothing, and needs nothing. Whoever has a timeline that was archived after it was held against
    that life has it from a server that passed.
    """
    if recorded is not None and recorded > life.timeline and chain.includes(recorded):
        return None
    after = zip(chain.switches, chain.timelines[1:], strict=True)
    end = next((switch.lsn for switch, timeline in after if timeline > life.timeline), lsn)
    until = min(lsn, end).floor(size)
    return until if until > life.shared_up_to else None


def is_shown(life: SecondLife, until: Lsn, compared: Iterable[Compared]) -> bool:
    """Whether what was compared is the archive's own WAL up to ``until``, and so not that life's: two lives never come together
    again, so that one match behind the point where they part says it for all below.
    """
    return any(each.timeline <= life.timeline and (each.end >= until or each.end > life.seen_at) for each in compared)
