"""Sets of segment numbers as sorted, disjoint runs: a million without a hole cost what one does."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator


class Runs:
    """A set of whole numbers. Not safe for several threads."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []
        """Not included."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each run, from its first number up to, not including, its end."""
        return iter(zip(self._firsts, self._ends, strict=True))

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __contains__(self, number: int) -> bool:
        return self.end_of(number) > number

    def end_of(self, number: int) -> int:
        """The first number from this one on that is not in the set."""
        at = bisect_right(self._firsts, number) - 1
        return max(number, self._ends[at]) if at >= 0 else number

    def add(self, first: int, end: int) -> None:
        """Those from ``first`` up to, not including, ``end``."""
        if first >= end:
            return
        low = bisect_right(self._firsts, first)
        if low and self._ends[low - 1] >= first:
            low -= 1
            first = self._firsts[low]
        high = bisect_right(self._firsts, end)
        end = max([end, *self._ends[max(low, high - 1) : high]])
        self._firsts[low:high], self._ends[low:high] = [first], [end]

    def remove(self, first: int, end: int) -> None:
        """Those from ``first`` up to, not including, ``end``, as far as they are in it."""
        if first >= end:
            return
        kept = [
            part
            for run in self
            for part in ((run[0], min(run[1], first)), (max(run[0], end), run[1]))
            if part[0] < part[1]
        ]
        self._firsts, self._ends = [part[0] for part in kept], [part[1] for part in kept]
