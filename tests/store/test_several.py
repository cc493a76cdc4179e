"""Several stores, read as one: what none could be asked for is never said to be absent."""

from __future__ import annotations

import pytest

from tests.twins.memory_store import MemoryStore
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import Reader
from walkeeper.archive.write import Archive
from walkeeper.core.lsn import SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import CannotTell, StoreUnavailable
from walkeeper.store.several import Several


def two() -> tuple[MemoryStore, MemoryStore, Several]:
    near, far = MemoryStore(), MemoryStore()
    return near, far, Several([near, far])


def test_the_first_that_has_it_is_read() -> None:
    near, far, both = two()
    far.create("a/1", b"far", {"of": "far"})
    near.create("a/2", b"near", {})
    far.create("a/2", b"other", {})
    assert both.get("a/1") == b"far"
    assert both.get("a/2") == b"near"
    info = both.head("a/1")
    assert info is not None
    assert info.metadata == {"of": "far"}
    assert [(info.key, info.size) for info in both.list("a/")] == [("a/1", 3), ("a/2", 4)]
    assert list(both.folders("")) == ["a"]


@pytest.mark.parametrize("down", [0, 1])
def test_p6_absent_is_what_each_of_them_has_said(down: int) -> None:
    near, far, both = two()
    (near, far)[1 - down].create("a/1", b"there", {})
    assert both.get("a/2") is None
    (near, far)[down].down = True
    assert both.get("a/1") == b"there", "one is enough for what it has"
    for ask in (
        lambda: both.get("a/2"),
        lambda: both.head("a/2"),
        lambda: list(both.list("a/")),
        lambda: list(both.folders("")),
    ):
        with pytest.raises(StoreUnavailable):
            ask()
    (near, far)[down].down = False
    assert both.get("a/2") is None


def test_one_that_failed_is_asked_last_until_it_answers() -> None:
    """Each call to a store that hangs costs its time-out, and a recovery makes one for each segment."""
    near, far, both = two()
    far.create("a/1", b"far", {})
    near.down = True
    assert both.get("a/1") == b"far"
    near.calls.clear()
    assert both.get("a/1") == b"far"
    assert near.calls == []
    near.down = False
    assert both.get("a/2") is None, "asked where the others do not have it"
    near.create("a/1", b"near", {})
    assert both.get("a/1") == b"near"


def test_a_pin_is_put_into_each_that_can_take_it() -> None:
    near, far, both = two()
    near.down = True
    both.create("pin/1", b"x", {})
    assert set(far.objects) == {"pin/1"}
    near.down = False
    both.delete("pin/1")
    assert not far.objects
    near.down = far.down = True
    with pytest.raises(StoreUnavailable):
        both.create("pin/2", b"x", {})


def test_p6_absent_is_proved_only_where_each_archive_has_begun() -> None:
    """The far one lies on a disk that is not mounted, say, and the near one was away."""
    near, far, both = two()
    layout, asked = Layout("demo", None, 7), Segment(2, 9, SegmentSize(1 << 20))
    Archive(near, layout, asked.size, Codec()).state_start(asked)
    with pytest.raises(CannotTell):
        Reader(both, Codec()).deliver(layout, asked.name)
    Archive(far, layout, asked.size, Codec()).state_start(asked)
    assert Reader(both, Codec()).deliver(layout, asked.name) is None
