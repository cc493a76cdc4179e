"""Signs of life: whether somebody else keeps an archive alive. No I/O: listings and one's own monotonic clock come in.

The owner of a record renews a sign in the store. Who finds no record cannot tell a rebuilt DCS from a copy of the cluster that
runs with its configuration, but by this: only in the second case somebody goes on renewing while one watches.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

RENEW_SECONDS: Final = 60.0
"""Seconds between two signs of life."""
WATCH_SECONDS: Final = 150.0
"""Seconds without a new sign after which nobody is alive: two renewals, and some for a slow store."""
RENEWED: Final = 2
"""So often somebody's sign moves who lives. Once is what was on its way: an owner that was frozen gives a late one, and ends."""
TOKEN: Final = re.compile(r"[0-9a-f]{16}\Z")
"""What a token looks like: drawn when a record is written where there was none, and kept in the record."""


@dataclass(frozen=True, slots=True)
class _Sign:
    number: int
    at: float
    moved: int


class LifeWatch:
    """Several listings of one archive's signs, by one watcher. ``newest`` is the highest number by token; times in seconds."""

    def __init__(self) -> None:
        self._begun = False
        self._signs: dict[str, _Sign] = {}
        self._planted: dict[str, int] = {}

    def note(self, now: float, newest: Mapping[str, int]) -> None:
        """A token that was not there at the first listing is a movement, too."""
        for token, number in newest.items():
            known = self._signs.get(token)
            if (known is None or number > known.number) and number != self._planted.get(token):
                moved = known.moved + 1 if known is not None else int(self._begun)
                self._signs[token] = _Sign(number, now, moved)
        self._planted = {token: number for token, number in self._planted.items() if token in newest}
        self._begun = True

    def disbelieve(self, token: str, number: int) -> None:
        """That sign is planted: it is no news again, and no movement."""
        self._planted[token] = number

    def news(self, newest: Mapping[str, int], own: Collection[str]) -> list[str]:
        """Others' tokens that have moved, if that is believed."""
        known = {token: sign.number for token, sign in self._signs.items()}
        return [
            token
            for token, number in newest.items()
            if self._begun and token not in own and number > known.get(token, -1) and number != self._planted.get(token)
        ]

    def moved(self, own: Collection[str]) -> list[str]:
        """Others' tokens that have moved since the watch began."""
        return self._moved(own, 1)

    def renewed(self, own: Collection[str]) -> list[str]:
        """Those of them that somebody keeps moving."""
        return self._moved(own, RENEWED)

    def alive(self, now: float, own: Collection[str]) -> list[str]:
        """Those of them that moved less than WATCH_SECONDS ago."""
        return [token for token in self.moved(own) if now - self._signs[token].at < WATCH_SECONDS]

    def left(self, now: float, own: Collection[str]) -> float:
        """For how many seconds others' tokens must be watched still; 0 where all have stood still long enough."""
        ends = [sign.at + WATCH_SECONDS - now for token, sign in self._signs.items() if token not in own]
        return max(0.0, *ends) if ends else 0.0

    def _moved(self, own: Collection[str], times: int) -> list[str]:
        return [token for token, sign in self._signs.items() if sign.moved >= times and token not in own]
