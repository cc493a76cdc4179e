"""``durability: store`` in memory: what is received, stored in parts, counted in order, and cleared up."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.core.values import plain_segment
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.archiver import received as received_module
from walkeeper.agent.archiver.received import Received
from walkeeper.agent.archiver.synchronous import Synchronous
from walkeeper.agent.archiver.tail import Tail
from walkeeper.agent.problems import Problems
from walkeeper.archive import tail
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.tail_read import read_tail
from walkeeper.archive.write import Archive
from walkeeper.core.about import About
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt, TailReceipt
from walkeeper.core.synchronous import NOTHING, RELEASE
from walkeeper.core.tail import MERGED_AT_ONCE, Piece, longest_chain
from walkeeper.errors import PostgresError

SIZE = SegmentSize(MIB)
SYSTEM = 7
STEP = 512
SESSION = "0123456789abcdef"


class Node:
    """What a stream brings of timeline 1 (or of ``history``), from the start of segment 3 on."""

    def __init__(self, history: History = History(1), first: int = 3) -> None:  # noqa: B008 - it cannot change
        self.now = 0.0
        self.leased = True
        self.history = history
        self.store = MemoryStore()
        self.layout = Layout("demo", None, SYSTEM)
        archive = Archive(self.store, self.layout, SIZE, Codec())
        clock = cast("Any", SimpleNamespace(monotonic=lambda: self.now))
        nowhere = cast("Any", SimpleNamespace(name="nowhere"))
        sources = cast(
            "Any",
            SimpleNamespace(
                archive=archive, history=history, clock=clock, pg_wal=nowhere, spool=SimpleNamespace(wal=nowhere)
            ),
        )
        self.problems = Problems(clock)
        self.received = Received(history, keep=True, hand_out=True)
        self.tail = Tail(sources, self.received, SESSION, 1.0, self.problems, shipped=True)
        lease = cast("Any", SimpleNamespace(holds=lambda: self.leased))
        self.synchronous = Synchronous(self.received, self.tail, lease, "walkeeper_7", None, self.problems, clock)
        self.frontier = Frontier(history, Lsn(first * SIZE), SIZE)
        self.first = history.segment(first, SIZE)
        self.received.begin(self.first)
        self.synchronous.begin(self.first.start)
        self.synchronous.archived = self.first.start

    def plain(self, number: int) -> bytes:
        return plain_segment(self.history.segment(number, SIZE), SYSTEM)

    def comes(self, until: int) -> None:
        while (at := self.received.lsn) < until:
            number = at // SIZE
            end = min(until, (number + 1) * SIZE)
            self.received.add(at, memoryview(self.plain(number))[at % SIZE : end - number * SIZE])

    def ship(self) -> None:
        """Everything that is there, one part after the other."""
        while (part := self.received.take(0)) is not None:
            self.synchronous._store(part, threading.Event())

    def look(self) -> None:
        """The tail's thread once, then the archiver's."""
        self.tail._look(self.first)
        self.tail._clear_up()
        self.tail.advance(self.frontier)

    def readable(self, number: int = 3) -> int:
        found = read_tail(self.store, self.layout, Codec(), self.history.segment(number, SIZE).name).assembled
        return len(found.plain) if found else 0


def test_what_is_acknowledged_can_be_read_back_after_every_step() -> None:
    node = Node()
    for step in range(3 * MERGED_AT_ONCE + 5):
        node.comes(node.first.start + STEP * (step + 1))
        assert node.synchronous.give().lsn in (0, node.first.start + STEP * step)
        node.ship()
        assert node.synchronous.give().lsn == node.first.start + STEP * (step + 1)
        node.look()
        assert node.readable() == STEP * (step + 1)
    pieces = list(tail.stored_pieces(node.store, node.layout))
    assert len(pieces) < MERGED_AT_ONCE + 5
    assert node.frontier.lsn == node.received.lsn


def test_receipts_are_handed_on_while_nobody_else_can_count() -> None:
    """Two threads that count one after the other, and hand on the other way round, left a hole in what was merged."""
    node = Node()
    node.comes(node.first.start + STEP)
    held = []
    real = node.tail.shipped

    def shipped(run: int, receipts: list[TailReceipt]) -> None:
        held.append(node.synchronous._lock.locked())
        real(run, receipts)

    node.tail.shipped = shipped  # type: ignore[method-assign, assignment]
    node.ship()
    assert held == [True]


def test_a_piece_that_does_not_go_on_where_the_last_one_ended_is_merged_with_none_before_it() -> None:
    node = Node()
    stored = []
    for step in range(2 * MERGED_AT_ONCE):
        node.comes(node.first.start + STEP * (step + 1))
        part = node.received.take(0)
        assert part is not None
        stored.append(node.tail.ship(part))
    at = MERGED_AT_ONCE - 1
    stored[at], stored[at + 1] = stored[at + 1], stored[at]
    node.tail.shipped(node.received.run, stored)
    for _ in range(5):
        node.look()
    assert node.readable() == STEP * len(stored)


def test_the_pieces_of_a_segment_are_removed_once_it_is_stored_and_those_of_the_next_count_then() -> None:
    node = Node()
    node.comes(node.first.end + STEP)
    node.ship()
    assert node.synchronous.give().lsn == node.first.end + STEP
    node.look()
    assert node.frontier.lsn < node.first.end  # the whole object is not there
    assert (node.readable(3), node.readable(4)) == (SIZE, STEP)
    archive = Archive(node.store, node.layout, SIZE, Codec())
    whole = archive.archive_segment(node.first, node.plain(3), node.history)
    assert node.frontier.add(whole)
    node.tail.stored(whole)
    node.comes(node.first.end + 2 * STEP)
    node.ship()
    node.look()
    node.look()
    assert node.frontier.lsn == node.first.end + 2 * STEP  # what came before the whole one counts first
    assert {piece.segment for piece in tail.stored_pieces(node.store, node.layout)} == {Segment(1, 4, SIZE).name}


def test_p13_a_whole_object_that_others_stored_removes_none_of_our_pieces() -> None:
    node = Node()
    others = Receipt(node.first, "f" * 64, 10, was_present=True)
    node.tail._whole.put((others, False))
    node.comes(node.first.start + STEP)
    node.ship()
    for _ in range(3):
        node.look()
    assert node.readable() == STEP


def test_p9_what_there_is_no_room_for_is_skipped_once_nothing_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the server could not send all of its WAL, and would not shut down."""
    monkeypatch.setattr(received_module, "ROOM", 10 * STEP)
    node = Node()
    node.comes(node.first.start + 10 * STEP)
    node.synchronous.give()
    assert not node.received.has_room()
    node.now += RELEASE + 0.1
    assert node.synchronous.give() == NOTHING
    assert node.received.has_room()
    node.comes(node.first.end + STEP)
    assert node.received.take(0) is None
    assert node.synchronous.give() == NOTHING
    assert not node.synchronous.caught_up()
    node.synchronous.archived = node.first.end
    assert node.synchronous.caught_up()


def test_a_fork_far_inside_a_segment_leaves_room_for_what_comes_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received_module, "ROOM", 10 * STEP)
    fork = Lsn(3 * SIZE + 100 * STEP)
    node = Node(History(2, (Switch(1, fork),)))
    node.comes(fork)
    assert node.received.has_room()
    assert node.received.take(0) is None
    node.comes(fork + STEP)
    node.ship()
    assert node.synchronous.give().lsn == fork + STEP


def test_memory_that_is_short_ends_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walkeeper.agent.problems.GRACE_SECONDS", 0.0)
    node = Node()
    node.comes(node.first.start + STEP)
    part = node.received.take(0)
    assert part is not None
    real, ended = node.tail.ship, threading.Event()

    def short(_: object) -> TailReceipt:
        node.tail.ship = real  # type: ignore[method-assign]
        raise MemoryError

    node.tail.ship = short  # type: ignore[method-assign, assignment]
    monkeypatch.setattr(ended, "wait", lambda _: node.problems.open() and False)
    node.synchronous._store(part, ended)
    assert node.synchronous.give().lsn == node.first.start + STEP
    assert About.ARCHIVER_TAIL not in {problem.what for problem in node.problems.open()}


def test_p16_what_cannot_be_shipped_is_a_problem_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tail's own thread looks meanwhile, and has nothing to complain of."""
    node = Node()
    node.comes(node.first.start + STEP)
    part = node.received.take(0)
    assert part is not None
    looks, told, ended, stopping = threading.Semaphore(0), list[bool](), threading.Event(), threading.Event()
    monkeypatch.setattr(node.tail, "_clear_up", looks.release)
    look = threading.Thread(target=node.tail.run, args=(node.frontier, stopping))
    look.start()
    looks.acquire()
    node.store.down = True

    def wait(seconds: float) -> bool:
        for _ in range(2):  # the second has begun since
            looks.acquire()
        node.now += seconds
        told.append(About.ARCHIVER_TAIL in {problem.what for problem in node.problems.open()})
        node.store.down = len(told) < 10
        return False

    monkeypatch.setattr(ended, "wait", wait)
    node.synchronous._store(part, ended)
    stopping.set()
    look.join()
    assert told[-1]
    assert not node.problems.open()


def test_bytes_that_are_no_wal_end_the_stream() -> None:
    node = Node()
    node.received.add(node.received.lsn, memoryview(bytes(STEP)))
    node.ship()
    with pytest.raises(PostgresError, match="stream: "):
        node.synchronous.give()
    node.received.begin(node.first)
    node.synchronous.begin(node.first.start)
    assert node.synchronous.give().lsn == node.first.start


def test_names_of_pieces_say_whose_they_are() -> None:
    node = Node()
    node.comes(node.first.start + STEP)
    node.ship()
    (piece,) = tail.stored_pieces(node.store, node.layout)
    assert piece.piece == Piece(0, STEP, f"{SESSION[:12]}0001")
    assert longest_chain([piece.piece]) == [piece.piece]
