"""Many ranges in little memory: a sequence as any other, in which nothing is an object of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.values import new_objects
from walkeeper.core.coverage import Archived, Range, begins, coverage, missing, reach
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.packed import Packed
from walkeeper.core.runs import Runs
from walkeeper.core.windows import Holdings

SIZE = SegmentSize(MIB)
HOLES = 20_000
BRANCH = History(2, (Switch(1, Lsn(HOLES * MIB)),))

numbers = st.integers(0, (1 << 64) - 1)


def every_second() -> Archived:
    """Segments 0, 2, 4 and so on, the second half of them of another timeline."""
    found = [Range(number, number + 1) for number in range(0, 2 * HOLES, 2)]
    return Archived({1: Packed(Range, found[: HOLES // 2]), 2: Packed(Range, found[HOLES // 2 :])}, {}, {2})


@given(st.lists(st.tuples(numbers, numbers)), st.integers(-4, 4), st.integers(-4, 4))
def test_it_is_the_list_that_it_was_made_of(rows: list[tuple[int, int]], begin: int, end: int) -> None:
    found, model = Packed(Range, rows), [Range(*row) for row in rows]
    assert found == model
    assert (len(found), list(reversed(found))) == (len(model), model[::-1])
    assert model == found
    assert tuple(model) == found[:]
    assert found[begin:end] == model[begin:end]
    for index in range(-len(model), len(model)):
        assert found[index] == model[index]
    with pytest.raises(IndexError):
        found[len(model)]


def test_another_sequence_is_not_equal() -> None:
    assert Packed(Range, [(1, 2)]) != [Range(1, 3)]
    assert Packed(Range, [(1, 2)]) != []
    assert Packed(Range) != "no sequence of ranges"
    assert Packed(Range, [(1, 2)]) != 5


@pytest.mark.parametrize(
    "look_at",
    [
        lambda archived: coverage(archived, BRANCH, SIZE, 0, 2 * HOLES - 1),
        lambda archived: coverage(archived, History(3), SIZE, 0, 2 * HOLES - 1),
        lambda archived: missing(archived, BRANCH, SIZE, 0, 2 * HOLES),
        lambda archived: holdings(archived).usable,
    ],
    ids=["coverage", "orphans", "missing", "usable"],
)
def test_what_is_found_among_many_holes_is_few_objects(look_at: Callable[[Archived], Any]) -> None:
    archived = every_second()
    look_at(archived)  # what is made once, by the first call
    assert new_objects(lambda: look_at(archived)) < HOLES // 100


def holdings(archived: Archived) -> Holdings:
    histories = {1: History(1), 2: BRANCH}
    return Holdings(archived=archived, size=SIZE, system_identifier=7, kept=BRANCH, histories=histories)


def test_every_hole_is_in_what_decides() -> None:
    """Nothing that is decided is decided by a part of them."""
    archived = every_second()
    found = coverage(archived, BRANCH, SIZE, 0, 2 * HOLES)
    assert (len(found.stored), len(found.holes), len(found.windows)) == (HOLES, HOLES, HOLES)
    assert len(missing(archived, BRANCH, SIZE, 0, 2 * HOLES)) == HOLES
    assert [reach(archived, BRANCH, SIZE, 2 * each) for each in (0, HOLES // 2, HOLES - 1)] == [
        1, HOLES + 1, 2 * HOLES - 1,
    ]  # fmt: skip
    assert begins([0, 2 * HOLES - 2], archived, BRANCH, SIZE) == 0


small = st.integers(0, 30)


@given(st.lists(st.tuples(st.booleans(), small, small)))
def test_runs_are_a_set_of_numbers(steps: list[tuple[bool, int, int]]) -> None:
    runs, model = Runs(), set[int]()
    for adds, first, end in steps:
        (runs.add if adds else runs.remove)(first, end)
        model = model | {*range(first, end)} if adds else model - {*range(first, end)}
        assert {number for begun, ended in runs for number in range(begun, ended)} == model
        assert all(one[1] < other[0] for one, other in zip(list(runs), list(runs)[1:], strict=False))
    assert [runs.end_of(number) == number for number in range(31)] == [number not in model for number in range(31)]
