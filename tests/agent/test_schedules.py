"""The takeover and the fencing in random schedules: the real takeover, ownership and frontier code, over a DCS and a store in
memory, with other nodes acting, and crashes, between any two of its calls.

After every step: everything below the record is stored along the record's timeline (P4), and ownership never goes to an
older timeline (P8). A failing schedule prints its seed; ``schedule(seed)`` plays it again.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass

import msgspec
import pytest

from tests.core.values import history_text
from tests.fixtures.worlds import NOWHERE
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.archiver import beliefs, comparing, ownership
from walkeeper.agent.archiver.life import Watcher
from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.agent.archiver.ownership import Ownership, take_over
from walkeeper.archive import contents
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.tail import parse_key
from walkeeper.archive.write import Archive
from walkeeper.core import takeover
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt, TailReceipt
from walkeeper.core.record import Record, decode_record
from walkeeper.core.tail import Piece, inner_fork
from walkeeper.core.takeover import LocalServer
from walkeeper.core.wal_page import Plain
from walkeeper.errors import WalkeeperError
from walkeeper.lib.clock import SystemClock
from walkeeper.store.base import AlreadyThere, ObjectInfo

SYSTEM = 7300000000000000001
SIZE = SegmentSize(MIB)
FIRST = History(1)
SCHEDULES = 1500
STEPS = 60


@pytest.fixture(autouse=True)
def _one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed decides everything, and no thread."""
    for module in (comparing, ownership, contents):
        monkeypatch.setattr(module, "in_parallel", lambda work, things, _: [work(thing) for thing in things])


class Crash(Exception):
    """A node dies in the middle of what it does."""


class QuickArchive(Archive):
    """Stores a mark instead of a megabyte."""

    def archive_segment(self, segment: Segment, plain: Plain, history: History | None) -> Receipt:
        try:
            self.store.create(self.layout.file(segment, ".zst"), bytes(plain), {"sha256": "0" * 64, "size": str(SIZE)})
        except AlreadyThere:
            return Receipt(segment, "0" * 64, 1, was_present=True)
        return Receipt(segment, "0" * 64, 1, was_present=False)


@dataclass
class Node:
    name: str
    records: MemoryRecord
    history: History = FIRST
    lsn: int = 3 * MIB
    primary: bool = False
    owner: Ownership | None = None
    frontier: Frontier | None = None


class World:
    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.dcs = MemoryDcs()
        self.store = MemoryStore(before=lambda *_: self.meanwhile(), after=lambda *_: self.meanwhile())
        self.archive = QuickArchive(self.store, Layout("demo", None, SYSTEM), SIZE, Codec())
        self.nodes = [Node(name, self.records()) for name in "abc"]
        self.histories = {1: History(1)}
        self.nodes[0].primary = True
        self.dcs.set_leader("a")
        self.depth = 0
        self.highest = 0

    def records(self) -> MemoryRecord:
        world = self

        class Interrupted(MemoryRecord):
            def _check(self) -> None:
                world.meanwhile()
                super()._check()

        return Interrupted(self.dcs)

    def meanwhile(self) -> None:
        """Between any two calls, somebody else may act, or this node may die."""
        if self.depth >= 3 or self.dice.random() > 0.08:
            return
        if self.dice.random() < 0.15:
            raise Crash
        self.step()

    def step(self) -> None:
        self.depth += 1
        try:
            action = self.dice.choice(
                [
                    self.write,
                    self.replicate,
                    self.promote,
                    self.take,
                    self.ship,
                    self.ship,
                    self.ship_tail,
                    self.commit,
                    self.lose_answer,
                ]
            )
            node = self.dice.choice(self.nodes)
            try:
                action(node)
            except Crash:
                node.owner = node.frontier = None
            except WalkeeperError:
                pass
        finally:
            self.depth -= 1

    def write(self, node: Node) -> None:
        if node.primary:
            node.lsn += self.dice.randrange(3 * MIB)

    def replicate(self, node: Node) -> None:
        source = self.dice.choice(self.nodes)
        if source.primary and source is not node and source.history.timeline >= node.history.timeline:
            node.primary = False  # rewound, if it was one
            node.history, node.lsn = source.history, source.lsn - self.dice.randrange(2) * self.dice.randrange(MIB)

    def promote(self, node: Node) -> None:
        if node.primary or self.dice.random() > 0.3:
            return
        number = max(self.histories) + self.dice.choice([1, 1, 1, 2])
        begun = node.history.switches[-1].lsn if node.history.switches else 0
        node.history = History(
            number, (*node.history.switches, Switch(node.history.timeline, Lsn(max(begun, node.lsn))))
        )
        node.lsn = max(begun, node.lsn) + 100
        node.primary = True  # the old one may go on: it does not know
        self.histories[number] = node.history
        self.dcs.set_leader(node.name)

    def take(self, node: Node) -> None:
        if not node.primary:
            return
        histories = {node.history.timeline: history_text(node.history)} if node.history.switches else {}
        wal = LocalWal(LocalServer(SYSTEM, SIZE, node.history, Lsn(node.lsn)), histories, NOWHERE)
        node.owner = take_over(node.name, node.records, self.archive, wal, Watcher(SystemClock()))
        node.frontier = Frontier(node.history, node.owner.record.position, SIZE)

    def ship(self, node: Node) -> None:
        if node.frontier is None:
            return
        segment = node.history.segment(node.frontier.lsn // SIZE + self.dice.randrange(2), SIZE)
        if segment.end <= node.lsn and node.history == node.frontier.history:
            node.frontier.add(self.archive.archive_segment(segment, b"x", node.history))

    def ship_tail(self, node: Node) -> None:
        """As much of the open segment as there is, from its start on."""
        frontier, owner = node.frontier, node.owner
        if frontier is None or owner is None or node.history != frontier.history:
            return
        segment = frontier.next_segment
        end = min(node.lsn, segment.end - 8) // 8 * 8
        if end <= inner_fork(node.history, segment):
            return
        piece = Piece(0, end - segment.start, owner.record.session[:12])
        key = self.archive.layout.piece(segment.name, piece, ".zst")
        with contextlib.suppress(AlreadyThere):
            self.store.create(key, b"x", {})
        frontier.add_tail(TailReceipt(segment, piece, 1, key))

    def commit(self, node: Node) -> None:
        if node.owner is not None and node.frontier is not None:
            node.owner.write(node.frontier.lsn)

    def lose_answer(self, node: Node) -> None:
        node.records.lose_answers = 1

    def check(self) -> None:
        if self.dcs.record is None:
            return
        record = decode_record(self.dcs.record.document)
        assert record.timeline >= self.highest, "ownership went back to an older timeline"
        self.highest = record.timeline
        history = self.histories[record.timeline]
        first = Segment.parse(record.start, SIZE).number
        for number in range(first, record.position // SIZE):
            key = self.archive.layout.file(history.segment(number, SIZE), ".zst")
            assert key in self.store.objects, f"{key} is below the record {record.lsn} and not stored"
        open_segment = history.segment_at(record.position, SIZE)
        found = [parse_key(ObjectInfo(key, 1, {})) for key in self.store.objects]  # past its hooks
        ends = [stored.piece.end for stored in found if stored is not None and stored.segment == open_segment.name]
        assert open_segment.start + max(ends, default=0) >= record.position, f"no tail reaches the record {record.lsn}"


def schedule(seed: int) -> World:
    world = World(seed)
    for _ in range(STEPS):
        world.step()
        world.check()
    return world


def test_below_the_record_everything_is_stored_in_every_schedule() -> None:
    moved = 0
    for seed in range(SCHEDULES):
        try:
            world = schedule(seed)
        except AssertionError as problem:
            problem.add_note(f"seed {seed}")
            raise
        moved += world.dcs.record is not None and world.highest > 1
    assert moved > SCHEDULES / 10  # the schedules do reach takeovers on later timelines


def first_broken_seed() -> int | None:
    for seed in range(SCHEDULES * 2):
        try:
            schedule(seed)
        except AssertionError:
            return seed
    return None


def test_the_schedules_notice_an_archiver_that_ignores_the_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def resume_blindly(record: Record, _: History, local: LocalServer) -> Lsn:
        return takeover.resume_at(record, local.history, local)

    monkeypatch.setattr(beliefs, "resume_at", resume_blindly)
    monkeypatch.setattr(beliefs, "_go_back", lambda *_: None)
    assert first_broken_seed() is not None


def test_the_schedules_notice_a_missing_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_anyway(self: Ownership, lsn: Lsn, *_: object, **__: object) -> None:
        self._versioned = self._records.write(Record.encode(_moved(self.record, lsn)), self._records.read())

    monkeypatch.setattr(Ownership, "write", write_anyway)
    assert first_broken_seed() is not None


def test_the_schedules_notice_a_tail_that_is_believed_across_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def resume_to_the_byte(record: Record, history: History, local: LocalServer) -> Lsn:
        forks = local.history.parts_from(history)
        return record.position if forks is None else Lsn(min(record.position, forks) // 8 * 8)

    monkeypatch.setattr(beliefs, "resume_at", resume_to_the_byte)
    monkeypatch.setattr(beliefs, "_go_over_stored", lambda *_: None)
    monkeypatch.setattr(beliefs, "_go_back", lambda *_: None)
    assert first_broken_seed() is not None


def test_the_schedules_notice_a_frontier_that_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_early(self: Frontier, receipt: Receipt) -> bool:
        self._next = receipt.segment.number + 1
        return True

    monkeypatch.setattr(Frontier, "add", add_early)
    assert first_broken_seed() is not None


def _moved(record: Record, lsn: Lsn) -> Record:
    return msgspec.structs.replace(record, lsn=str(lsn))
