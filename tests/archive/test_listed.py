"""One listing in place of a question for each other name of a segment: what it says, for how long, and of which ones."""

from __future__ import annotations

import threading
import time

import pytest

from tests.core.values import plain_segment
from tests.twins.hand_clock import HandClock
from tests.twins.memory_store import MemoryStore
from walkeeper.archive.codec import STORED, Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.listed import HOLDS, MOST, REST, Listed
from walkeeper.archive.write import Archive
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import PartialFile, Segment
from walkeeper.core.receipt import Receipt
from walkeeper.errors import Conflict, StoreDenied

SYSTEM = 7300000000000000001
SIZE = SegmentSize(MIB)
LAYOUT = Layout("demo", None, SYSTEM)
ONE = History(1)
OTHERS = STORED[1:]


class World:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = MemoryStore()
        self.archive = Archive(self.store, LAYOUT, SIZE, Codec())
        self.listed = Listed(self.archive)

    def known(self, number: int, timeline: int = 1, *, ask: bool = False) -> list[str] | None:
        found = self.listed.suffixes(Segment(timeline, number, SIZE), ask=ask)
        return None if found is None else list(found)

    def plant(self, number: int, suffix: str, fill: bytes = b"w") -> None:
        """As a second writer, with other settings, stores it."""
        segment, elsewhere = Segment(1, number, SIZE), MemoryStore()
        other = Archive(elsewhere, LAYOUT, SIZE, Codec())
        other.archive_segment(segment, plain_segment(segment, SYSTEM, fill=fill), ONE)
        self.store.objects[LAYOUT.file(segment, suffix)] = elsewhere.objects[LAYOUT.file(segment, ".zst")]

    def put(self, number: int) -> Receipt:
        """As an upload does."""
        segment = Segment(1, number, SIZE)
        suffixes = self.listed.suffixes(segment, ask=True)
        packed = self.archive.pack(segment, plain_segment(segment, SYSTEM), ONE)
        return self.archive.put(packed, STORED if suffixes is None else suffixes)

    def asked(self, method: str) -> int:
        return [each for each, _ in self.store.calls].count(method)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr("walkeeper.archive.listed.since_boot", made.clock.monotonic)
    return made


@pytest.mark.parametrize("suffix", OTHERS)
def test_p3_a_name_that_is_listed_is_looked_at(world: World, suffix: str) -> None:
    world.plant(5, suffix)
    world.plant(6, suffix, fill=b"o")
    assert world.put(5).was_present
    with pytest.raises(Conflict):
        world.put(6)
    assert not world.put(7).was_present
    assert world.asked("list") == 1
    assert world.asked("get") == 2
    assert world.asked("create") == 1


def test_only_the_names_that_a_segment_may_have_are_kept(world: World) -> None:
    for suffix in STORED:
        world.plant(5, suffix)
    world.archive.archive_file(PartialFile(Segment(1, 6, SIZE)), b"the end of a timeline")
    world.store.objects[f"{LAYOUT.file(Segment(1, 7, SIZE), '')}.what.zst"] = b"", {}
    assert world.known(5, ask=True) == list(STORED)
    assert world.known(6) == world.known(7) == []


def test_p3_what_a_listing_does_not_cover_is_asked_for(world: World) -> None:
    assert world.known(5) is None
    assert world.known(5, ask=True) == world.known(15) == world.known(0) == []
    assert world.known(16) is None
    assert world.known(5, timeline=2) is None
    assert world.known(16, ask=True) == world.known(5) == []
    assert world.asked("list") == 2


def test_p3_a_listing_is_believed_for_ten_seconds(world: World) -> None:
    """What a second writer stores under another name meanwhile is not seen before the PUT, but by whoever looks later."""
    world.put(5)
    world.plant(6, ".zst.age", fill=b"o")
    world.plant(7, ".zst.age", fill=b"o")
    world.clock.now += 9.9
    world.put(6)
    with pytest.raises(Conflict):
        world.archive.find(Segment(1, 6, SIZE))
    world.clock.now += 0.1
    assert world.known(7) is None
    with pytest.raises(Conflict):
        world.put(7)


def test_p3_the_ten_seconds_begin_before_the_request(world: World) -> None:
    def takes(_: str, __: str) -> None:
        world.clock.now += HOLDS - 1

    world.store.after = takes
    assert world.known(5, ask=True) == []
    world.clock.now += 1
    assert world.known(5) is None


def test_p3_a_listing_from_before_the_machine_slept_is_not_believed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)  # it stands still meanwhile
    assert world.known(5, ask=True) == []
    world.plant(6, ".zst.age", fill=b"o")
    world.clock.now += 3600
    with pytest.raises(Conflict):
        world.put(6)


def test_one_lists_and_the_others_wait_for_that(world: World) -> None:
    found: list[list[str] | None] = []
    other = threading.Thread(target=lambda: found.append(world.known(6, ask=True)))

    def meanwhile(_: str, __: str) -> None:
        world.store.before = None
        other.start()
        other.join(0.2)  # it waits, however long that were
        assert found == []

    world.store.before = meanwhile
    assert world.known(5, ask=True) == []
    other.join(30)
    assert found == [[]]
    assert world.asked("list") == 1


@pytest.mark.parametrize("wrong", ["denied", "slow"])
def test_where_listing_fails_each_name_is_asked_for_and_a_listing_is_tried_seldom(world: World, wrong: str) -> None:
    def fails(method: str, _: str) -> None:
        if method == "list" and wrong == "denied":
            raise StoreDenied("no LIST")
        if method == "list":
            world.clock.now += HOLDS

    world.plant(6, ".zst.age", fill=b"o")
    world.store.before = fails
    assert not world.put(5).was_present
    with pytest.raises(Conflict):
        world.put(6)
    assert world.asked("list") == 1
    assert world.asked("get") == 6
    world.store.before = None
    world.clock.now += REST
    assert world.known(7, ask=True) == []


def test_p16_a_million_names_beside_a_segments_are_not_read(world: World) -> None:
    """Whoever may write there would have each listing take a thousand requests, for which all uploads wait."""
    planted = f"{LAYOUT.file(Segment(1, 5, SIZE), '')}.what"
    world.store.objects |= {f"{planted}{number:05}": (b"", {}) for number in range(5 * MOST)}
    world.plant(6, ".zst.age", fill=b"o")
    read: list[object] = []
    listing = world.store.list
    world.store.list = lambda prefix: (read.append(info) or info for info in listing(prefix))  # type: ignore[method-assign,func-returns-value]
    with pytest.raises(Conflict):
        world.put(6)
    assert len(read) == MOST + 1
    assert world.known(6, ask=True) is None
    assert world.asked("list") == 1
