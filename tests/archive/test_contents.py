"""What the archive holds, told by its listings; what is not walkeeper's does no harm there."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import cast

import pytest

from tests.core.values import new_objects
from tests.twins.memory_store import MemoryStore
from walkeeper.archive.contents import Contents, Inventory
from walkeeper.archive.layout import Layout
from walkeeper.archive.stored_runs import Run
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.store.base import ObjectInfo, Store

SIZE = SegmentSize(MIB)
LAYOUT = Layout("demo", None, 7)
FIRST = Segment(1, 3, SIZE)


def test_a_stray_object_beside_the_stated_start_is_not_a_start() -> None:
    store = MemoryStore()
    for name in ("readme.txt", f"{FIRST.name}.json", "0000000100000000FFFFFFFF.json"):
        store.create(f"{LAYOUT.starts}{name}", b"{}", {})
    assert Contents(store, LAYOUT, SIZE).start() == FIRST


def test_a_listing_that_is_cut_says_so() -> None:
    store = MemoryStore()
    for number in range(3, 7):
        store.create(LAYOUT.file(Segment(1, number, SIZE), ".zst"), b"x", {})
    contents = Contents(store, LAYOUT, SIZE)
    assert contents.listed(LAYOUT.wal).whole
    cut = contents.listed(LAYOUT.wal, at_most=3)
    assert not cut.whole
    assert cut.archived(SIZE).segments == {1: [(3, 6)]}


class Lists:
    """A store that lists names, and has nothing else."""

    url = "lists:"

    def __init__(self, infos: Iterable[ObjectInfo]) -> None:
        self.infos = list(infos)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (info for info in self.infos if info.key.startswith(prefix))


def listed(infos: Iterable[ObjectInfo]) -> Inventory:
    return Contents(cast("Store", Lists(infos)), LAYOUT, SIZE).listed(LAYOUT.wal)


def info(number: int, size: int = 10, suffix: str = ".zst", *, day: int | None = 1, timeline: int = 1) -> ObjectInfo:
    modified = None if day is None else datetime(2026, 11, day, 3, 4, 5, 678901, UTC)
    return ObjectInfo(LAYOUT.file(Segment(timeline, number, SIZE), suffix), size, {}, modified)


def test_each_run_keeps_its_bytes_and_its_times() -> None:
    found = listed([info(3, 7, day=2), info(4, 8, day=1), info(6, 9, day=3), info(8, 1, day=None), info(9, 2)])
    (runs,) = found.runs(SIZE).values()
    first, second, third = (datetime(2026, 11, day, 3, 4, 5, 678901, UTC) for day in (1, 2, 3))
    expected = [Run(3, 5, 15, first, second), Run(6, 7, 9, third, third), Run(8, 10, 3, first, first)]
    assert list(runs) == expected
    assert list(reversed(runs)) == expected[::-1]
    assert list(runs.numbers()) == [(3, 5), (6, 7), (8, 10)]
    assert (len(runs), runs.total()) == (3, (5, 27, first, third))


@pytest.mark.parametrize("seed", range(20))
def test_in_whatever_order_names_are_listed_the_same_is_found(seed: int) -> None:
    numbers = {1: [3, 4, 5, 8, 4094, 4095, 4096, 4097, 9000], 2: [9, 4096]}
    infos = [info(number, timeline=timeline) for timeline, those in numbers.items() for number in those]
    infos += [info(number, suffix=".zst.age") for number in (5, 6, 10)]
    random.Random(seed).shuffle(infos)
    found = listed(infos)
    assert found.archived(SIZE).segments == {
        1: [(3, 7), (8, 9), (10, 11), (4094, 4098), (9000, 9001)],
        2: [(9, 10), (4096, 4097)],
    }
    assert [(run.first, run.end, run.bytes) for run in found.runs(SIZE)[1, ".zst"]] == [
        (3, 6, 30), (8, 9, 10), (4094, 4098, 40), (9000, 9001, 10),
    ]  # fmt: skip


def test_a_name_that_no_segment_of_that_size_has_hides_none_beside_it() -> None:
    folder, next_folder = "0000000100000000", "0000000100000001"
    names = [f"{folder}/{folder}FFFFFFFF", f"{next_folder}/{next_folder}00000000"]
    last = f"{folder[:8]}FFFFFFFF"
    names.append(f"{last}/{last}FFFFFFFF")
    found = listed(ObjectInfo(f"{LAYOUT.wal}{name}.zst", 1, {}, None) for name in names)
    assert found.archived(SIZE).segments == {1: [(4096, 4097)]}
    assert found.impossible(SIZE) == 2


def test_what_a_store_says_that_cannot_be_is_no_error() -> None:
    far = timezone(timedelta(hours=14))
    wrong = [info(3, 10**30), info(5, 10**30), info(7, -(10**30)), info(9)]
    wrong[1] = replace(wrong[1], modified=datetime(1, 1, 1, tzinfo=far))
    wrong[2] = replace(wrong[2], modified=datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=14))))
    found = listed(wrong)
    (runs,) = found.runs(SIZE).values()
    assert list(runs.numbers()) == [(3, 4), (5, 6), (7, 8), (9, 10)]
    assert [run.first for run in runs] == [3, 5, 7, 9]
    assert runs.total().segments == 4


def test_a_listing_with_many_holes_is_few_objects() -> None:
    """Of both kinds, each between two of the other."""
    many = 10_000
    infos = [info(number, suffix=suffix) for suffix in (".zst", ".zst.age") for number in range(0, 2 * many, 2)]
    infos += [info(number, suffix=".zst.age", timeline=2) for number in range(1, 2 * many, 2)]

    def made() -> object:
        found = listed(infos)
        return found, found.runs(SIZE), found.archived(SIZE)

    made()
    assert new_objects(made) < many // 100
