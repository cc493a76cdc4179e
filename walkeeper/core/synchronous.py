"""``durability: store``: what may be acknowledged, and until when (design: "durability: store"; hard cases of the same name).

An acknowledgement says that a position is in the store, and commits believe it. It is given only while the record was confirmed
as ours a short while ago: whoever is to be promoted ends our session first, waits for the lease, and looks then what the store
has. So what was acknowledged is found there, whichever of the two is the slower: what counts is when it was stored.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Final

from walkeeper.core.lsn import Lsn
from walkeeper.core.receipt import TailReceipt

LEASE: Final = 6.0
"""Seconds after the request that confirmed it for which an owner of the record may acknowledge."""
RENEWED: Final = LEASE / 3
"""Seconds after which it is to be confirmed again."""
LEASE_OVER: Final = LEASE * 1.25
"""Seconds for which who has ended an owner's session waits: clocks do not run at quite the same rate."""
RELEASE: Final = 1.0
"""Seconds without movement after which nothing is promised, so that a server that shuts down does not wait for the store."""
SAMPLE: Final = 0.25
"""Seconds of WAL whose wait is told as one."""
PREFIX: Final = "walkeeper_"


def standby_name(system_identifier: int) -> str:
    """The ``application_name`` that ``synchronous_standby_names`` has to name; another cluster's receiver has another one."""
    return f"{PREFIX}{system_identifier % 0x1_0000_0000:08x}"


def named(setting: str) -> list[str]:
    """Whom ``synchronous_standby_names`` names, in lower case: PostgreSQL compares so."""
    inside = re.search(r"\((.*)\)", setting)
    found = re.findall(r'"[^"]*"|[^\s,()]+', inside[1] if inside else setting)
    return [name.strip('"').lower() for name in found]


def always_asks(setting: str, name: str) -> bool:
    """Whether no commit goes without that standby: ``[FIRST] N (…)`` takes the first N that are there, ANY any N."""
    names = named(setting)
    if name not in names:
        return False
    number = re.match(r"\s*(ANY\b|FIRST\b)?\s*(\d+)\s*\(", setting, re.IGNORECASE)
    wanted = int(number[2]) if number else 1
    if number and (number[1] or "").upper() == "ANY":
        return wanted >= len(names)
    return names.index(name) < wanted


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """That everything below ``lsn`` is durable. Only ``Promise`` makes one, of receipts; a test holds everybody to it."""

    lsn: Lsn


NOTHING: Final = Acknowledgement(Lsn(0))
"""No promise: PostgreSQL does not count who says so among its synchronous standbys, and no commit is released by it."""


class StoredRun:
    """What of one stream is in the store without a hole, from ``start`` on. Not safe for several threads."""

    def __init__(self, start: Lsn) -> None:
        self.start = start
        self.end = start
        self._next = 0
        self._ahead: dict[int, TailReceipt] = {}

    def add(self, serial: int, receipt: TailReceipt) -> list[TailReceipt]:
        """``serial`` counts the parts of the stream from 0 on. Which receipts are in order by now, each once."""
        self._ahead[serial] = receipt
        in_order = []
        while (following := self._ahead.pop(self._next, None)) is not None:
            in_order.append(following)
            self.end = following.end
            self._next += 1
        return in_order


class Promise:
    """What the server is told. All times are of one monotonic clock, in seconds. Not safe for several threads."""

    def __init__(self, degrade_after: float | None) -> None:
        self.degraded = False
        """What is acknowledged was received, and is not stored."""
        self.given = NOTHING
        """What holds: it was said last, or would be if the server were not released."""
        self._degrade_after = degrade_after
        self._moved_at = 0.0
        self._owed = Lsn(0)
        """Up to where was ever acknowledged. Another stream begins below it."""
        self._waiting: deque[tuple[Lsn, float]] = deque()
        """What was received and is not stored: up to where, and since when. A few a second."""

    def begin(self, now: float) -> None:
        """Another stream: nothing of it is stored. Who was degraded stays so until the store has caught up."""
        self.given, self._moved_at = NOTHING, now
        self._waiting.clear()

    def give(self, now: float, stored: Lsn, received: Lsn, *, leased: bool) -> Acknowledgement:
        """``stored``: the end of the unbroken stored run of this stream; 0 where something before the stream is not stored.
        ``leased``: whether the record was ours within the lease; to be asked after ``stored`` was read, and never before.
        """
        self._note(now, stored, received)
        if stored >= max(received, self._owed):
            self.degraded = False
        elif leased and self._degrade_after is not None and self.waited(now) > self._degrade_after:
            self.degraded = True
        wanted = received if self.degraded else stored
        if leased and wanted > self.given.lsn:
            self.given, self._moved_at = Acknowledgement(wanted), now
            self._owed = max(self._owed, wanted)
        if self.given.lsn >= received:
            self._moved_at = now
        return NOTHING if now - self._moved_at > RELEASE else self.given

    def waited(self, now: float) -> float:
        """Seconds for which the oldest WAL that was received has waited to be stored."""
        return now - self._waiting[0][1] if self._waiting else 0.0

    def stands(self, now: float) -> float:
        """Seconds for which nothing more has been acknowledged, though there is more."""
        return now - self._moved_at

    def _note(self, now: float, stored: Lsn, received: Lsn) -> None:
        reached, since = self._waiting[-1] if self._waiting else (stored, now - SAMPLE)
        if received > reached and now - since < SAMPLE:
            self._waiting[-1] = (received, since)
        elif received > reached:
            self._waiting.append((received, now))
        while self._waiting and self._waiting[0][0] <= stored:
            self._waiting.popleft()
