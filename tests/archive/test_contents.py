"""What the archive holds, told by its listings; what is not walkeeper's does no harm there."""

from __future__ import annotations

from tests.twins.memory_store import MemoryStore
from walkeeper.archive.contents import Contents
from walkeeper.archive.layout import Layout
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment

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
