"""Which stores an agent's configuration names, and in which order: told to other nodes by the name of its session, which has
63 characters.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import permutations
from typing import Final

_BRIEF: Final = re.compile(r" (s=[0-9a-f]{6})\Z")
_MOST: Final = 5
"""Names of which each order is tried."""


def brief(names: Sequence[str]) -> str:
    """For the end of the session's name."""
    return f"s={hashlib.sha256(','.join(names).encode()).hexdigest()[:6]}"


def from_brief(session: str) -> str:
    """What ``brief`` said there; empty where it was not said, or cut."""
    found = _BRIEF.search(session)
    return "" if found is None else found[1]


def which(told: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names that were told, where they are some of these, in whichever order; else none."""
    some = names[:_MOST]
    orders = (each for count in range(1, len(some) + 1) for each in permutations(some, count))
    return next((order for order in orders if brief(order) == told), ())
