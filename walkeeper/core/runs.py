"""Sets of segment numbers as sorted, disjoint runs: a million without a hole cost what one does, and a run sixteen bytes."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Runs:
    """A set of whole numbers. Not safe for several threads."""

    def __init__(self) -> None:
        self._firsts = array("Q")
        self._ends = array("Q")
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
        self._put(low, high, [(first, end)])

    def remove(self, first: int, end: int) -> None:
        """Those from ``first`` up to, not including, ``end``, as far as they are in it."""
        if first >= end:
            return
        low, high = bisect_right(self._ends, first), bisect_left(self._firsts, end)
        if low < high:
            parts = ((self._firsts[low], first), (end, self._ends[high - 1]))
            self._put(low, high, [part for part in parts if part[0] < part[1]])

    def _put(self, low: int, high: int, runs: list[tuple[int, int]]) -> None:
        self._firsts[low:high] = array("Q", [first for first, _ in runs])
        self._ends[low:high] = array("Q", [end for _, end in runs])
