"""What the spool leaves free, and when it does without its disk."""

from __future__ import annotations

import pytest

from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.room import LEAST, SPARE, TREND_SHORTEST, Disk, Trend, is_short, spool_reserve

SIZE = SegmentSize(16 * MIB)
GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("total", "wanted", "reserve"),
    [
        (10_000 * GIB, 16 * GIB, 16 * GIB),  # a twentieth would be 500 GiB
        (100 * GIB, 16 * GIB, 5 * GIB),
        (1 * GIB, 16 * GIB, LEAST * SIZE),
        (100 * GIB, 0, LEAST * SIZE),
        (64 * MIB, 16 * GIB, 32 * MIB),  # a tmpfs of its own: half of it can be used
    ],
)
def test_the_reserve_is_for_disks_of_every_size(total: int, wanted: int, reserve: int) -> None:
    assert spool_reserve(total, wanted, SIZE) == reserve


def test_with_a_backlog_it_goes_on_only_where_a_full_spool_has_room() -> None:
    """Else it would fill up, be emptied and streamed again, over and over."""
    total, reserve, limit = 100 * GIB, 5 * GIB, GIB
    spare = reserve + SPARE * SIZE

    def short(free: int, *, before: bool, waits: bool) -> bool:
        return is_short(free, total, reserve, limit, SIZE, before=before, waits=waits)

    assert short(reserve + SIZE - 1, before=False, waits=True)
    assert not short(reserve + SIZE, before=False, waits=True)
    assert short(spare - 1, before=True, waits=False)
    assert not short(spare, before=True, waits=False)
    assert short(spare, before=True, waits=True)
    assert not short(reserve + limit, before=True, waits=True)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("total", [40 * MIB, 64 * MIB, 100 * MIB, GIB])
def test_a_small_disk_of_its_own_is_used_again_once_it_is_nearly_empty(total: int, waits: bool) -> None:
    reserve, pages = spool_reserve(total, 16 * GIB, SIZE), 64 * 1024
    for before in (False, True):
        assert not is_short(total - pages, total, reserve, 2 * GIB, SIZE, before=before, waits=waits)
        assert is_short(reserve, total, reserve, 2 * GIB, SIZE, before=before, waits=waits)


def test_how_fast_a_disk_fills_is_told_from_some_minutes() -> None:
    trend = Trend()
    found = [(second, trend.note(second, 10**9 - second * 1000)) for second in range(0, 4000, 2)]
    assert [second for second, growth in found if growth is None] == list(range(0, 300, 2))
    assert {round(growth) for _, growth in found if growth is not None} == {1000}
    for second in range(4000, 4000 + int(TREND_SHORTEST) + 60, 2):
        growth = trend.note(second, 10**9 - 4_000_000)
    assert growth == 0, "a burst that is over, as of a bulk load, fills no disk"
    assert Disk(500, 1000, 0.5).seconds_left == 1000
    assert Disk(500, 1000, 0.0).seconds_left is None
    assert Disk(500, 1000).seconds_left is None


@pytest.mark.parametrize("growth", [None, 0.0, 40 * 1024.0, -3 * 1024.0])
def test_a_disk_is_told_by_the_name_of_a_session(growth: float | None) -> None:
    disk = Disk(123 << 30, 500 << 40, growth)
    name = f"walkeeper agent 0.2.0.dev0 {disk.brief}"
    assert len(name) <= 63
    assert Disk.from_brief(name) == disk


@pytest.mark.parametrize("name", ["walkeeper agent 0.2.0", "disk=", "disk=1/x", "disk=-1/2", f"disk={'9' * 40}/1"])
def test_what_says_no_disk_is_not_one(name: str) -> None:
    assert Disk.from_brief(name) is None
