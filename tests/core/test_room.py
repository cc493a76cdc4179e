"""What the spool leaves free, and when it does without its disk."""

from __future__ import annotations

import pytest

from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.room import LEAST, SPARE, is_short, spool_reserve

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
    reserve, limit = 5 * GIB, GIB
    assert is_short(reserve + SIZE - 1, reserve, limit, SIZE, before=False, waits=True)
    assert not is_short(reserve + SIZE, reserve, limit, SIZE, before=False, waits=True)
    spare = reserve + SPARE * SIZE
    assert is_short(spare - 1, reserve, limit, SIZE, before=True, waits=False)
    assert not is_short(spare, reserve, limit, SIZE, before=True, waits=False)
    assert is_short(spare, reserve, limit, SIZE, before=True, waits=True)
    assert not is_short(reserve + limit, reserve, limit, SIZE, before=True, waits=True)
