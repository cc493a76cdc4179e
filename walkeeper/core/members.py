"""The members of the cluster that may have WAL, remembered after their keys in the DCS are gone.

A dead leader's key expires within half a minute, and it is the one member that may have what nobody else has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from walkeeper.core.lsn import Lsn

REMEMBERED_SECONDS: Final = 86400.0
"""Seconds after which a member without a key counts as removed from the cluster."""
SETTLED_SECONDS: Final = 60.0
"""Seconds after which a member without a key no longer receives WAL, or goes its own way."""
MOST: Final = 64
"""Members that are remembered."""


@dataclass(frozen=True, slots=True)
class Member:
    """``host`` and ``port`` are None where only its name is known. ``seen_at``: when its key was last there.

    ``horizon``: the end of all WAL at a time when it no longer received any; None as long as it may receive some.
    """

    name: str
    host: str | None
    port: int | None
    seen_at: float
    horizon: Lsn | None = None


def remember(known: Mapping[str, Member], there: Iterable[Member], now: float, lsn: Lsn | None) -> dict[str, Member]:
    """``known`` after one look at the keys that are ``there``; ``lsn`` is the end of all WAL, None where it is not known."""
    found = {member.name: member for member in there}
    kept: dict[str, Member] = {}
    for name, member in known.items():
        if name in found or now - member.seen_at > REMEMBERED_SECONDS:
            continue
        settled = member.horizon is None and now - member.seen_at > SETTLED_SECONDS
        kept[name] = replace(member, horizon=lsn) if settled else member
    newest = sorted(kept.values(), key=lambda member: -member.seen_at)[: max(0, MOST - len(found))]
    return {member.name: member for member in (*found.values(), *newest)}


def may_have(known: Mapping[str, Member], frontier: Lsn) -> list[Member]:
    """Those that may have WAL from the frontier on: all but those that went before the frontier stood there."""
    return [member for member in known.values() if member.horizon is None or member.horizon > frontier]
