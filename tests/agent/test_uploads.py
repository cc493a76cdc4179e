"""Uploads: what is refused holds no thread, is tried again in its time, and is put aside where it is of no use."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import pairwise

import pytest

from tests.core.values import plain_segment
from tests.twins.hand_clock import HandClock
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.archiver.uploads import LONGEST_WAIT, LOOK_SECONDS, REST, SLOW_RETRY, SOON, Uploads
from walkeeper.agent.problems import Problems
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.wal_page import Plain
from walkeeper.errors import StoreDenied, StoreUnavailable, WalkeeperError
from walkeeper.postgres.wal_file import Memory

SIZE = SegmentSize(MIB)
SYSTEM, FOREIGN = 7, 8


class Files:
    """A Source over segments in memory: by number, whose they are."""

    def __init__(self, lying: dict[int, int]) -> None:
        self.lying = lying
        self.elsewhere: dict[int, int] = {}
        """What is taken instead of what was put aside."""
        self.late: set[int] = set()
        """What is gone when it is read for the first time, and back right after."""
        self.aside: list[int] = []
        self.reads: list[int] = []

    def complete(self, frontier: Frontier) -> list[Segment]:
        return [frontier.history.segment(number, SIZE) for number in sorted(self.lying)]

    def tend(self, frontier: Frontier, taken: set[Segment]) -> None: ...

    def failed(self, problem: WalkeeperError) -> None: ...

    def read(self, segment: Segment, memory: Memory) -> Plain:
        self.reads.append(segment.number)
        if segment.number not in self.lying or segment.number in self.late:
            self.late.discard(segment.number)
            raise FileNotFoundError
        return plain_segment(segment, self.lying[segment.number])

    def read_at(self, segment: Segment) -> None: ...

    def put_aside(self, segment: Segment, problem: WalkeeperError) -> bool:
        self.aside.append(segment.number)
        del self.lying[segment.number]
        self.lying.update({segment.number: self.elsewhere[segment.number]} if segment.number in self.elsewhere else {})
        return True

    def remove(self, receipt: Receipt) -> None: ...

    def stop(self) -> None: ...

    def crowded(self) -> bool:
        return False


class World:
    """One upload thread over a memory store; the frontier is at segment 5."""

    def __init__(self, lying: dict[int, int]) -> None:
        self.clock = HandClock()
        self.files = Files(lying)
        self.frontier = Frontier(History(1), Lsn(5 * MIB), SIZE)
        self.problems = Problems(self.clock)
        self.store = MemoryStore(before=self._deny)
        self.denied: set[int] = set()
        """Segments that the store does not take."""
        self.denials: list[int] = []
        self.archive = Archive(self.store, Layout("demo", None, SYSTEM), SIZE, Codec())
        self.uploads = Uploads(self.archive, self.files, self.frontier, self.problems, self.clock)
        self.stored: list[int] = []

    def asked(self, method: str) -> int:
        return [each for each, _ in self.store.calls].count(method)

    def _deny(self, call: str, key: str) -> None:
        for number in self.denied:
            if call == "create" and Segment(1, number, SIZE).name in key:
                self.denials.append(number)
                raise StoreDenied(f"{key}: denied")

    def look(self) -> None:
        self.uploads.hand_out(self.files.complete(self.frontier))
        self.stored += [receipt.segment.number for receipt in self.uploads.collect()]

    def until(self, what: Callable[[], bool]) -> None:
        """Look until it is so, with one thread that uploads."""
        stopping = threading.Event()
        thread = threading.Thread(target=self.uploads.run, args=(stopping,))
        thread.start()
        try:
            for _ in range(3000):
                self.look()
                if what():
                    return
                stopping.wait(0.01)
            raise AssertionError(f"stored {self.stored}, aside {self.files.aside}, read {self.files.reads}")
        finally:
            stopping.set()
            thread.join()

    @property
    def open(self) -> list[str]:
        return [problem.what for problem in self.problems.open()]


def test_who_waits_is_told_when_all_that_was_handed_out_is_stored_and_of_nothing_else() -> None:
    """Whoever looks at once at a file that is there and cannot be read would do so without an end."""
    world = World(dict.fromkeys(range(5, 10), SYSTEM))
    stored: list[int] = []
    told, stopping = threading.Semaphore(0), threading.Event()

    def finished() -> None:
        stored.append(len(world.store.objects))
        told.release()

    def hand_out(*numbers: int) -> None:
        world.uploads.hand_out([Segment(1, number, SIZE) for number in numbers])

    assert world.uploads.idle
    hand_out(5, 6, 7)
    assert not world.uploads.idle
    thread = threading.Thread(target=world.uploads.run, args=(stopping, finished))
    thread.start()
    try:
        assert told.acquire(timeout=30)
        assert world.uploads.idle
        world.uploads.collect()
        world.files.late = {8}
        hand_out(8)
        hand_out(9)
        assert told.acquire(timeout=30)
    finally:
        stopping.set()
        thread.join()
    assert stored == [3, 4]
    assert world.files.reads == [5, 6, 7, 8, 9]


def test_j14_refused_segments_hold_up_no_others() -> None:
    world = World(dict.fromkeys(range(6, 12), FOREIGN) | {5: SYSTEM, 12: SYSTEM})
    world.until(lambda: world.stored == [5, 12])
    assert world.open == ["archiver_refused"]
    assert world.files.aside == []


def test_j14_what_is_refused_below_the_frontier_is_put_aside() -> None:
    """As after a cluster was initialised again under the same scope, or pg_upgrade."""
    world = World({1: FOREIGN, 2: FOREIGN, 5: SYSTEM})
    world.until(lambda: world.stored == [5])
    assert world.files.aside == [1, 2]
    assert world.open == []


@pytest.mark.parametrize("number", [2, 7])
def test_p13_that_the_store_has_other_bytes_beyond_the_frontier_is_kept_in_mind(number: int) -> None:
    """Below, that is what somebody left."""
    world = World({number: SYSTEM, 5: SYSTEM})
    segment = Segment(1, number, SIZE)
    other = bytearray(plain_segment(segment, SYSTEM))
    other[-1] ^= 1
    world.archive.archive_segment(segment, bytes(other), History(1))
    world.until(lambda: world.stored == [5] and (world.open != [] or world.files.aside != []))
    assert world.uploads.conflict == (segment if number == 7 else None)


def test_a_conflict_is_over_when_the_segment_is_stored_after_all() -> None:
    world = World({7: SYSTEM, 5: SYSTEM})
    segment = Segment(1, 7, SIZE)
    other = bytearray(plain_segment(segment, SYSTEM))
    other[-1] ^= 1
    world.archive.archive_segment(segment, bytes(other), History(1))
    world.until(lambda: world.stored == [5] and world.open != [])
    assert world.uploads.conflict == segment
    for key in [key for key in world.store.objects if segment.name in key]:
        del world.store.objects[key]
    world.clock.now += SLOW_RETRY + 1
    world.until(lambda: 7 in world.stored)
    assert world.uploads.conflict is None


def test_what_was_refused_is_tried_again_in_its_time_and_its_problem_ends() -> None:
    world = World({5: FOREIGN, 6: SYSTEM})
    world.until(lambda: world.stored == [6])
    world.files.lying[5] = SYSTEM
    assert world.files.reads.count(5) == 1
    world.clock.now += SLOW_RETRY
    world.until(lambda: world.stored == [6, 5])
    assert world.open == []


def test_what_a_store_denied_for_a_moment_goes_when_it_takes_another() -> None:
    world = World({5: SYSTEM})
    begun = world.clock.now
    world.denied = {5}
    world.until(lambda: world.open == ["archiver_store"])
    world.denied = set()
    world.files.lying[6] = SYSTEM
    world.until(lambda: world.stored == [6, 5])
    assert world.clock.now == begun
    assert world.open == []


def test_what_a_store_goes_on_denying_is_tried_before_its_minute_once() -> None:
    world = World({5: SYSTEM, 6: SYSTEM})
    world.denied = {5}
    world.until(lambda: world.stored == [6] and world.denials == [5, 5])
    world.files.lying |= {7: SYSTEM, 8: SYSTEM}
    world.until(lambda: world.stored == [6, 7, 8])
    world.until(lambda: not world.uploads.in_flight)
    assert world.denials == [5, 5]
    world.clock.now += SLOW_RETRY
    world.until(lambda: world.denials == [5, 5, 5])


def test_a_refused_segment_that_goes_away_takes_its_problem_with_it() -> None:
    world = World({5: FOREIGN, 6: SYSTEM})
    world.until(lambda: world.stored == [6])
    assert world.open == ["archiver_refused"]
    del world.files.lying[5]
    world.clock.now += SLOW_RETRY
    world.until(lambda: world.open == [])


def test_what_was_put_aside_and_lies_elsewhere_as_well_is_taken_from_there() -> None:
    """In the spool it was damaged, and pg_wal has it: the source names it all the while."""
    world = World({1: FOREIGN, 5: SYSTEM})
    world.files.elsewhere[1] = SYSTEM
    world.until(lambda: sorted(world.stored) == [1, 5])
    assert world.files.aside == [1]


def test_what_was_gone_for_a_moment_is_uploaded_when_it_is_there_again() -> None:
    world = World({5: SYSTEM, 6: SYSTEM})
    world.files.late.add(5)
    world.until(lambda: sorted(world.stored) == [5, 6])


class Away(threading.Event):
    """Of an archiver whose store is away until ``back``, in seconds that go by as it is waited for. It is never set."""

    def __init__(
        self, world: World, back: float, through: Callable[[float], int] = lambda _: 0, takes: float = 0.0
    ) -> None:
        """``through``: how many others are stored by then. ``takes``: seconds of each try."""
        super().__init__()
        self._world, self._back, self._through, self._takes = world, back, through, takes
        self.now = 0.0
        self.tries: list[float] = []
        world.store.before = self._try

    def _try(self, _call: str, _key: str) -> None:
        if self.now not in self.tries:
            self.tries.append(self.now)
        if self.now < self._back:
            self._world.clock.now += self._takes
            raise StoreUnavailable("away")

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now += timeout
        self._world.uploads.count = self._through(self.now)
        return False

    def ship(self, number: int, in_flight: Collection[int]) -> list[float]:
        """Until it is stored; the seconds between its tries."""
        self._world.uploads.in_flight = {Segment(1, each, SIZE) for each in in_flight}
        self._world.uploads._ship(Segment(1, number, SIZE), self)
        return [later - earlier for earlier, later in pairwise(self.tries)]


@pytest.mark.parametrize("in_flight", [{5, 6}, set()], ids=["with others", "come again"])
def test_after_a_long_outage_the_lowest_on_its_way_is_tried_within_seconds(in_flight: set[int]) -> None:
    """Also one that came again while it was on its way, of which the first upload has ended."""
    waits = Away(World({5: SYSTEM}), 120).ship(5, in_flight)
    assert max(waits) == pytest.approx(SOON)
    assert len(waits) >= 120 / SOON


def test_a_try_that_takes_long_is_not_made_so_often() -> None:
    waits = Away(World({5: SYSTEM}), 240, takes=1.0).ship(5, {5, 6})
    assert SOON < max(waits) <= LONGEST_WAIT * 1.25
    assert len(waits) < 240 / REST + 8


def test_the_others_ask_a_store_that_is_away_seldom_and_follow_whoever_gets_through() -> None:
    away = Away(World({6: SYSTEM}), 120, lambda now: int(now >= 123))
    waits = away.ship(6, {5, 6})
    assert len(waits) < 120 / SOON / 2
    assert away.now <= 123 + 2 * LOOK_SECONDS


def test_what_fails_while_others_are_stored_all_the_time_hurries_once() -> None:
    waits = Away(World({6: SYSTEM}), 120, int).ship(6, {5, 6})
    assert len(waits) < 120 / SOON / 2


def test_a_thread_ends_though_another_one_took_what_woke_it() -> None:
    """On a busy machine it wakes after its time is over, and finds nothing."""
    uploads, stopping = World({}).uploads, threading.Event()
    thread = threading.Thread(target=uploads.run, args=(stopping,), daemon=True)
    thread.start()
    time.sleep(0.1)
    before = sys.getswitchinterval()
    sys.setswitchinterval(10)
    try:
        uploads._todo.put(Segment(1, 5, SIZE))
        with suppress(queue.Empty):
            uploads._todo.get_nowait()
        until = time.monotonic() + 0.7
        while time.monotonic() < until:
            """Nobody else runs."""
    finally:
        sys.setswitchinterval(before)
    stopping.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_backlog_is_listed_sixteen_segments_at_a_time_and_asks_for_no_name() -> None:
    world = World(dict.fromkeys(range(5, 205), SYSTEM))
    world.uploads.pack_at_once(4)
    world.look()
    stopping = threading.Event()
    threads = [threading.Thread(target=world.uploads.run, args=(stopping,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        until = time.monotonic() + 60
        while len(world.stored) < 200 and time.monotonic() < until:
            world.look()
            time.sleep(0.01)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert sorted(world.stored) == list(range(5, 205))
    assert world.asked("list") == 13
    assert world.asked("get") == 0


def test_what_comes_one_by_one_is_not_listed() -> None:
    """A LIST has the price of the questions for four segments."""
    world = World({})
    for number in range(5, 10):
        world.files.lying[number] = SYSTEM
        world.until(lambda: len(world.stored) == len(world.files.lying))
    assert world.asked("list") == 0
    assert world.asked("get") == 15


def test_a_backlog_to_a_store_that_is_not_far_is_not_listed() -> None:
    world = World(dict.fromkeys(range(5, 15), SYSTEM))
    world.archive.far = False
    world.until(lambda: len(world.stored) == 10)
    assert world.asked("list") == 0
    assert world.asked("get") == 30
