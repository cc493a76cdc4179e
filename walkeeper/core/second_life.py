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
from walkeeper.errors import OfSecondLife

MOST_LIVES: Final = 8
"""That are remembered: those of the newest timelines."""
MOST_TOLD: Final = 6
"""Names of what was compared that a line tells."""

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
    passed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    """The newest timeline above this one that was taken over since, by a server that was not of that life; 0: none."""

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
    whole: bool = True
    """Whether what lies before it, down to the record's frontier, is the same, too."""

    def __str__(self) -> str:
        return self.what


def told(compared: Iterable[Compared]) -> str:
    """In a line of the log."""
    names = list(dict.fromkeys(map(str, compared)))
    if len(names) > MOST_TOLD:
        names[2:-2] = [f"{len(names) - 4} more"]
    return ", ".join(names) or "nothing"


def both(known: SecondLife, seen: SecondLife) -> SecondLife:
    """One that stands for two of a timeline: the same again, of which the store has told now what it shares, or yet another. For
    two only what both share needs nothing, and only what lies behind both shows anything.
    """
    told = known.shared_up_to and seen.shared_up_to
    same = known.shared == seen.shared if told else (known.member == seen.member and known.seen_at <= seen.seen_at)
    if same:
        shared = max(known.shared_up_to, seen.shared_up_to)
        return known if shared == known.shared_up_to else msgspec.structs.replace(known, shared=str(shared))
    return msgspec.structs.replace(
        seen,
        shared=str(min(known.shared_up_to, seen.shared_up_to)),
        seen=str(max(known.seen_at, seen.seen_at)),
        passed=max(known.passed, seen.passed),
    )


def left_at(life: SecondLife, chain: History) -> Lsn | None:
    """Where a server with that chain has left the life's timeline; None: it has not."""
    after = zip(chain.switches, chain.timelines[1:], strict=True)
    return next((switch.lsn for switch, timeline in after if timeline > life.timeline), None)


def in_question(life: SecondLife, recorded: int | None, chain: History, lsn: Lsn, size: SegmentSize) -> Lsn | None:
    """The position up to which a server with that chain has to show the archive's own WAL, before it goes on at ``lsn``; None
    where it need not. ``recorded``: the record's timeline.

    What both lives share shows nothing, and needs nothing. Whoever has a timeline that was archived after it was held against
    that life has it from a server that passed.
    """
    passed = life.passed, 0 if recorded is None else recorded
    if any(timeline > life.timeline and chain.includes(timeline) for timeline in passed):
        return None
    left = left_at(life, chain)
    until = min(lsn, lsn if left is None else left).floor(size)
    return until if until > life.shared_up_to else None


def is_shown(life: SecondLife, until: Lsn, compared: Iterable[Compared]) -> bool:
    """Whether what was compared is the archive's own WAL up to ``until``, and so not that life's: two lives never come together
    again, so that one match behind the point where they part says it for all below. But that life may have stored some itself.
    """
    ends = [each.end for each in compared if each.whole and each.timeline <= life.timeline]
    return any(end >= until or end > life.seen_at for end in ends)


def not_shown(life: SecondLife, until: Lsn) -> OfSecondLife:
    since = f"above {life.shared}" if life.shared_up_to else "from somewhere on"
    return OfSecondLife(
        f"timeline {life.timeline}: at {life.at} {life.member}'s server had other WAL of it than the archive, {since}, and "
        f"nothing shows whose this server has up to {until}",
        hint="If it was built from that one, promote a member that was not (patronictl switchover). Where there is none: "
        "walkeeper takeover --accept, and then take a base backup: no older one is sure to restore past that position.",
    )
