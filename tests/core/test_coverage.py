"""What of a chain is stored, held against a model that looks at one segment after the other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.core.values import histories
from walkeeper.core.coverage import (
    FOREVER,
    Archived,
    Coverage,
    Range,
    Ranges,
    Stretch,
    begins,
    chain,
    coverage,
    end_of,
    intersect,
    last_stored,
    merged,
    reach,
    subtract,
    touches,
    united,
)
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize

SIZE = SegmentSize(MIB)
MOST = 40
"""Segment numbers in these tests are below it."""

small_sets = st.frozensets(st.integers(0, MOST))
small_histories = histories(max_timelines=5, max_lsn=MOST * MIB)


def ranges(numbers: frozenset[int] | set[int]) -> Ranges:
    return merged((number, number + 1) for number in numbers)


def numbers(found: Sequence[Range]) -> set[int]:
    return {number for first, end in found for number in range(first, end)}


def files(found: Sequence[Stretch]) -> list[tuple[int, int]]:
    return [(timeline, number) for timeline, first, end in found for number in range(first, end)]


def is_tidy(found: Sequence[Range]) -> bool:
    return all(one.first < one.end for one in found) and all(
        one.end < other.first for one, other in itertools.pairwise(found)
    )


@given(st.lists(st.tuples(st.integers(0, MOST), st.integers(0, MOST))))
def test_ranges_are_merged_to_the_same_numbers(found: list[tuple[int, int]]) -> None:
    tidy = merged(found)
    assert is_tidy(tidy)
    assert numbers(tidy) == {number for first, end in found for number in range(first, end)}


@given(small_sets, small_sets)
def test_ranges_are_intersected_and_subtracted_as_sets_are(one: frozenset[int], other: frozenset[int]) -> None:
    assert intersect(ranges(one), ranges(other)) == ranges(one & other)
    assert subtract(ranges(one), ranges(other)) == ranges(one - other)


@given(small_sets, st.integers(0, MOST), st.integers(0, MOST))
def test_where_a_number_is_among_ranges_is_found(one: frozenset[int], first: int, end: int) -> None:
    found = ranges(one)
    assert end_of(found, first) == next(number for number in range(first, MOST + 2) if number not in one)
    assert touches(found, first, max(first, end)) == any(number in one for number in range(first, end))


@given(st.lists(small_sets, max_size=4))
def test_parts_in_order_are_united(parts: list[frozenset[int]]) -> None:
    assert united(*map(ranges, parts)) == ranges(frozenset().union(*parts))


@given(small_histories, st.integers(0, MOST), st.integers(0, MOST))
def test_the_chain_in_stretches_is_the_chain_segment_by_segment(history: History, first: int, end: int) -> None:
    expected = [(history.timeline_of(number, SIZE), number) for number in range(first, end)]
    assert files(chain(history, SIZE, first, end)) == expected


@st.composite
def archives(draw: st.DrawFn, history: History) -> tuple[set[tuple[int, int]], set[tuple[int, int]], Archived]:
    """Stored files and recorded gaps as sets of (timeline, number), and as ranges."""
    timelines = [*history.timelines, 41]
    stored = {timeline: draw(small_sets) for timeline in timelines}
    gaps = {timeline: draw(small_sets) for timeline in timelines}
    listed = Archived(
        {timeline: ranges(found) for timeline, found in stored.items()},
        {timeline: ranges(found) for timeline, found in gaps.items()},
        draw(st.frozensets(st.integers(1, 41))),
    )
    return (
        {(timeline, number) for timeline, found in stored.items() for number in found},
        {(timeline, number) for timeline, found in gaps.items() for number in found},
        listed,
    )


@given(st.data(), small_histories, st.integers(0, MOST), st.integers(0, MOST))
def test_what_is_found_is_what_a_look_at_each_segment_finds(
    data: st.DataObject, history: History, first: int, end: int
) -> None:
    stored, gaps, archived = data.draw(archives(history))
    found = coverage(archived, history, SIZE, first, end)
    expected = {(history.timeline_of(number, SIZE), number) for number in range(first, end)}
    whole = {(history.timeline_of(number, SIZE), number) for number in range(MOST + 1)}

    def holes(of: Coverage, *, recorded: bool) -> set[tuple[int, int]]:
        return set(files([hole.stretch for hole in of.holes if hole.recorded is recorded]))

    assert set(files(found.stored)) == expected & stored
    assert holes(found, recorded=False) == expected - stored - gaps
    assert holes(found, recorded=True) == (expected - stored) & gaps
    assert set(files(found.closed)) == expected & stored & gaps
    assert is_tidy(found.windows)
    assert numbers(found.windows) == {number for _, number in expected & stored}
    assert set(files(found.before)) == {(t, n) for t, n in whole & stored if n < first}
    assert set(files(found.beyond)) == {(t, n) for t, n in whole & stored if n >= end}
    assert set(files(found.orphans)) == stored - whole
    needed = set(range(history.timeline_of(first, SIZE) + 1, history.timeline + 1))
    assert numbers(found.missing_histories) == needed - set(archived.histories)


@given(st.data(), small_histories, st.integers(0, MOST))
def test_p4_the_reach_is_where_the_first_file_is_neither_stored_nor_a_recorded_gap(
    data: st.DataObject, history: History, first: int
) -> None:
    stored, gaps, archived = data.draw(archives(history))
    number = first
    while (history.timeline_of(number, SIZE), number) in stored | gaps:
        number += 1
    assert reach(archived, history, SIZE, first) == number


@given(st.data(), small_histories)
def test_the_last_stored_file_is_one_of_the_chain(data: st.DataObject, history: History) -> None:
    stored, _, archived = data.draw(archives(history))
    mine = [number for timeline, number in stored if history.timeline_of(number, SIZE) == timeline]
    assert last_stored(archived, history, SIZE) == (max(mine) + 1 if mine else None)


def test_a_gap_of_another_timeline_is_not_stepped_over() -> None:
    """Timeline 1's segments 4 to 9 were lost; timeline 2 forked in 6, and its own 6 and later ones may well come."""
    history = History(2, (Switch(1, Lsn(6 * MIB + 100)),))
    archived = Archived({1: [Range(0, 4)], 2: []}, {1: [Range(4, 10)]}, {2})
    assert reach(archived, history, SIZE, 0) == 6


def test_a_million_segments_are_one_range() -> None:
    archived = Archived({1: [Range(0, 1_000_000)]}, {}, ())
    found = coverage(archived, History(1), SIZE, 5, 900_000)
    assert found.windows == [Range(5, 900_000)]
    assert found.before == [Stretch(1, 0, 5)]
    assert found.beyond == [Stretch(1, 900_000, 1_000_000)]
    assert reach(archived, History(1), SIZE, 5) == 1_000_000
    assert chain(History(1), SIZE)[0].end == FOREVER


def test_a_start_counts_above_what_a_floor_gave_up_though_a_backup_is_kept_below_it() -> None:
    island = Archived({1: [Range(2, 4), Range(10, 20)]}, {}, ())
    assert begins([2, 10], island, History(1), SIZE) == 2
    floor = replace(island, below={1: [Range(0, 10)]})
    assert begins([2, 10], floor, History(1), SIZE) == 10
    assert (
        begins([2, 12], replace(floor, segments={1: [Range(2, 4), Range(10, 11), Range(13, 20)]}), History(1), SIZE)
        == 2
    )
