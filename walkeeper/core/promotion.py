"""The promotion of a standby where commits wait for the store: whose session ends, what counts, and whether it has all of it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

import msgspec

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Record
from walkeeper.core.wal_page import Plain, first_difference

_ANYTHING: Final = msgspec.json.Decoder()
_NAMED: Final = 12
"""Characters of a session with which the owners' names of its pieces begin."""


def closed(record: Record, me: str, token: str) -> Record:
    """The record with its owner's session ended by this member. ``token`` is a new random one.

    The new session begins as the old one did: so the next candidate, too, knows whose pieces count.
    """
    return msgspec.structs.replace(record, session=f"{record.session[:_NAMED]}{token}"[:32], closed_by=me)


def ended(record: Record) -> bool:
    """Whether its owner has ended its own session: it acknowledges nothing more, and all that it did is in the store."""
    return bool(record.closed_by) and record.closed_by == record.owner


def may_be_read(document: bytes) -> bool:
    """Of a record that this version cannot read: whether another one may, which then goes on as its owner."""
    try:
        found = _ANYTHING.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(found, dict) and "session" in found


def believed(chains: Mapping[str, Plain], session: str) -> str | None:
    """Which owner's chain of pieces tells what may have been acknowledged; None where that cannot be told.

    The longest, where all agree as far as they go. Else the longest of those that agree with the session's own: it is the one
    that acknowledged, and an earlier one of the same server may have got further.
    """

    def agree(one: str, other: str) -> bool:
        return first_difference(chains[one], chains[other]) == min(len(chains[one]), len(chains[other]))

    def longest(owners: list[str]) -> str | None:
        best = max(owners, key=lambda owner: (len(chains[owner]), owner), default=None)
        return best if best is not None and all(agree(best, each) for each in owners) else None

    mine = longest([owner for owner in chains if session and owner.startswith(session[:_NAMED])])
    return longest(list(chains)) or (mine and longest([owner for owner in chains if agree(mine, owner)]))


class Standing(Enum):
    """Of a standby, to a position on the record's chain: it has replayed up to there, it may yet, or it never will."""

    THERE = "there"
    BEHIND = "behind"
    PARTED = "parted"


def shared(mine: History, replayed: Lsn, its: History) -> Lsn:
    """Up to where a standby that has replayed so far on its timeline has the WAL of the other chain."""
    parts = mine.parts_from(its)
    return replayed if parts is None else min(replayed, parts)


def standing(mine: History, replayed: Lsn, its: History, wanted: Lsn) -> Standing:
    """``wanted`` is on the chain ``its``. A standby on a timeline that came from it, at ``wanted`` or behind, is there, too."""
    if shared(mine, replayed, its) >= wanted:
        return Standing.THERE
    parts = mine.parts_from(its)
    if parts is None or (its.includes(mine.timeline) and replayed <= parts):
        return Standing.BEHIND
    return Standing.PARTED
