"""Runs of objects whose names follow each other, as a listing tells them: forty bytes each, where nothing follows anything."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final, NamedTuple

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)
_EARLIEST: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _TICK
_LATEST: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _TICK
_UNKNOWN: Final = -(1 << 63)
_MOST: Final = (1 << 63) - 1
"""Bytes of one run: a store that says more is not to be believed anyway."""


@dataclass(slots=True)
class Run:
    """Before the segment size is known, a number is the name's last sixteen digits."""

    first: int
    end: int
    bytes: int
    oldest: datetime | None
    newest: datetime | None

    def take_in(self, other: Run) -> None:
        """``other`` begins where this one ends."""
        self.end = other.end
        self.bytes += other.bytes
        self.oldest = _chosen(min, self.oldest, other.oldest)
        self.newest = _chosen(max, self.newest, other.newest)


class Total(NamedTuple):
    segments: int
    bytes: int
    oldest: datetime | None
    newest: datetime | None


class Runs:
    """Many of them. Only the last one is an object of its own, and may still grow."""

    __slots__ = ("_bytes", "_firsts", "_last", "_lengths", "_newest", "_oldest")

    def __init__(self) -> None:
        self._firsts = array("Q")
        self._lengths = array("Q")  # an end may have one bit more
        self._bytes = array("q")
        self._oldest = array("q")
        self._newest = array("q")
        self._last: Run | None = None

    @property
    def last(self) -> Run | None:
        return self._last

    def append(self, run: Run) -> None:
        self._pack()
        self._last = run

    def __len__(self) -> int:
        return len(self._firsts) + (self._last is not None)

    def __iter__(self) -> Iterator[Run]:
        yield from map(self._run, range(len(self._firsts)))
        if self._last is not None:
            yield self._last

    def __reversed__(self) -> Iterator[Run]:
        if self._last is not None:
            yield self._last
        yield from map(self._run, reversed(range(len(self._firsts))))

    def numbers(self) -> Iterator[tuple[int, int]]:
        """Their firsts and ends."""
        yield from ((first, first + length) for first, length in zip(self._firsts, self._lengths, strict=True))
        if self._last is not None:
            yield self._last.first, self._last.end

    def total(self) -> Total:
        self._pack()
        oldest = min((ticks for ticks in self._oldest if ticks != _UNKNOWN), default=_UNKNOWN)
        newest = max(self._newest, default=_UNKNOWN)
        return Total(sum(self._lengths), sum(self._bytes), _moment(oldest), _moment(newest))

    def in_order(self) -> Runs:
        """The same by their firsts."""
        if all(one <= other for (one, _), (other, _) in pairwise(self.numbers())):
            return self
        self._pack()
        found, order = Runs(), sorted(range(len(self)), key=self._firsts.__getitem__)
        found._firsts, found._lengths, found._bytes, found._oldest, found._newest = (
            array(column.typecode, map(column.__getitem__, order))
            for column in (self._firsts, self._lengths, self._bytes, self._oldest, self._newest)
        )
        return found

    def _pack(self) -> None:
        run, self._last = self._last, None
        if run is not None:
            self._firsts.append(run.first)
            self._lengths.append(run.end - run.first)
            self._bytes.append(min(max(run.bytes, 0), _MOST))
            self._oldest.append(_ticks(run.oldest))
            self._newest.append(_ticks(run.newest))

    def _run(self, at: int) -> Run:
        first = self._firsts[at]
        end = first + self._lengths[at]
        return Run(first, end, self._bytes[at], _moment(self._oldest[at]), _moment(self._newest[at]))


def _ticks(moment: datetime | None) -> int:
    return _UNKNOWN if moment is None else min(max((moment - _EPOCH) // _TICK, _EARLIEST), _LATEST)


def _moment(ticks: int) -> datetime | None:
    return None if ticks == _UNKNOWN else _EPOCH + timedelta(microseconds=ticks)


def _chosen(
    which: Callable[[datetime, datetime], datetime], one: datetime | None, other: datetime | None
) -> datetime | None:
    return which(one, other) if one is not None and other is not None else one or other
