"""Many tuples of whole numbers in little memory: eight bytes for each number, where the tuples alone would take a hundred."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import eq
from typing import TypeVar, overload

T = TypeVar("T", bound=tuple[int, ...])


class Packed(Sequence[T]):
    """A list of them that does not change: each is made again when it is asked for. ``make`` is their class.

    Numbers are from 0 to 2^64 - 1. Raises OverflowError for others.
    """

    __slots__ = ("_columns", "_make")

    def __init__(self, make: Callable[..., T], rows: Iterable[tuple[int, ...]] = ()) -> None:
        self._make = make
        self._columns: tuple[array[int], ...] = ()
        for row in rows:
            if not self._columns:
                self._columns = tuple(array("Q") for _ in row)
            for column, number in zip(self._columns, row, strict=True):
                column.append(number)

    def __len__(self) -> int:
        return len(self._columns[0]) if self._columns else 0

    def __iter__(self) -> Iterator[T]:
        return map(self._make, *self._columns) if self._columns else iter(())

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Packed[T]: ...
    def __getitem__(self, index: int | slice) -> T | Packed[T]:
        if isinstance(index, int):
            if not self._columns:
                raise IndexError(index)
            return self._make(*(column[index] for column in self._columns))
        part: Packed[T] = Packed(self._make)
        part._columns = tuple(column[index] for column in self._columns)
        return part

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))
