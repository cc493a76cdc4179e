"""WAL that the server has recycled, and that the store has in pieces: what restores can read is not lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyrage
import pytest

from tests.core.values import plain_segment
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.archiver import lost_wal
from walkeeper.agent.archiver.elsewhere import OtherStore
from walkeeper.agent.archiver.lost_wal import LostWal
from walkeeper.agent.archiver.whereabouts import Sources
from walkeeper.agent.problems import Problems
from walkeeper.archive import tail
from walkeeper.archive.authentic import AuthenticStore, Trust
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.suspicion import SETTLE_SECONDS, Lost
from walkeeper.core.tail import Piece
from walkeeper.errors import StoreUnavailable

SIZE = SegmentSize(MIB)
SYSTEM = 7
ONE = History(1)
LOST = ONE.segment(3, SIZE)
PATIENCE = 3600.0


class Node:
    """A server that has segment 3 no longer, alone, and writes segment 5."""

    def __init__(self, directory: Path, codec: Codec, *stores: OtherStore) -> None:
        self.now = 0.0
        self.store = MemoryStore()
        self.layout = Layout("demo", None, SYSTEM)
        self.archive = Archive(self.store, self.layout, SIZE, codec)
        clock = cast("Any", SimpleNamespace(monotonic=lambda: self.now))
        nobody = cast("Any", SimpleNamespace())
        sources = Sources(self.archive, ONE, directory, nobody, lambda _: (), None, clock, lambda: False, stores)
        self.problems = Problems(clock)
        self.lost = LostWal(sources, Frontier(ONE, LOST.start, SIZE), PATIENCE, self.problems)
        self.lost.suspect(LOST, Lsn(LOST.end + 1))

    def pieces(self, *ends: int) -> None:
        plain, begin = plain_segment(LOST, SYSTEM), 0
        for end in ends:
            tail.put(self.archive, LOST, Piece(begin, end, "0123456789ab0001"), plain[begin:end])
            begin = end

    def store_as_planted(self, number: int) -> None:
        """Plain, where all is to be encrypted from now on."""
        segment = ONE.segment(number, SIZE)
        self.archive.store = self.store
        self.archive.archive_segment(segment, plain_segment(segment, SYSTEM), ONE)
        self.archive.store = AuthenticStore(self.store, Trust(encrypted=True))

    def looks(self, seconds: float = 0.0, *, stopped: Callable[[], bool] = lambda: False) -> None:
        self.now += seconds
        self.lost._take_in()
        self.lost._look(stopped)

    @property
    def found(self) -> Segment | None:
        return None if self.lost.found.empty() else self.lost.found.get().segment

    @property
    def gaps(self) -> int:
        return self.lost.gaps.qsize()


def test_p7_a_segment_that_is_whole_in_pieces_is_stored_as_a_whole_and_is_no_gap(tmp_path: Path) -> None:
    node = Node(tmp_path, Codec())
    node.pieces(8192, 300_000, SIZE)
    node.looks()
    node.looks(SETTLE_SECONDS + 1)
    assert (node.found, node.gaps) == (LOST, 0)
    assert node.archive.find(LOST) is not None


@pytest.mark.parametrize("ends", [(8192, SIZE - 8192), ()])
def test_pieces_that_are_not_all_of_it_do_not_stand_for_it(tmp_path: Path, ends: tuple[int, ...]) -> None:
    node = Node(tmp_path, Codec())
    node.pieces(*ends)
    node.looks()
    node.looks(SETTLE_SECONDS + 1)
    assert (node.found, node.gaps) == (None, 1)


def test_where_nobody_is_waited_for_nobody_is_said_to_be_started(tmp_path: Path) -> None:
    node = Node(tmp_path, Codec())
    node.looks()
    (problem,) = node.problems.open()
    assert problem.text.endswith("; nobody is left to ask")
    assert problem.hint.startswith("No member has it: it becomes a gap automatically")
    assert problem.hint.endswith(f"walkeeper gap accept {LOST.start}")


def test_p9_pieces_that_this_node_cannot_open_are_waited_for_and_no_longer_than_that(tmp_path: Path) -> None:
    """Restores may have the key."""
    key = str(pyrage.x25519.Identity.generate().to_public())
    node = Node(tmp_path, Codec(recipients=(key,)))
    node.pieces(8192, SIZE)
    node.looks()
    node.looks(PATIENCE - 1)
    assert (node.found, node.gaps) == (None, 0)
    node.looks(2)
    assert (node.found, node.gaps) == (None, 1)


def test_p4_what_is_stored_and_not_believed_is_waited_for_and_no_longer_than_that(tmp_path: Path) -> None:
    """An archive that was plain before it was encrypted, where nobody has said so."""
    node = Node(tmp_path, Codec())
    node.store_as_planted(LOST.number)
    node.looks()
    node.looks(PATIENCE - 1)
    assert (node.found, node.gaps) == (None, 0)
    node.looks(2)
    assert (node.found, node.gaps) == (None, 1)


def test_p4_what_is_not_believed_fills_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = False
    monkeypatch.setattr(lost_wal, "short_of_disk", lambda *_: short)
    node = Node(tmp_path, Codec())
    node.store_as_planted(LOST.number)
    node.looks()
    node.looks(SETTLE_SECONDS + 1)
    assert node.gaps == 0
    short = True
    node.looks()
    assert node.gaps == 1


class Promised:
    """What another store has of segment 3, by its record, and does not give; anything else it lacks."""

    def deliver(self, _layout: Layout, name: str, _size: int) -> None:
        if name == LOST.name:
            raise StoreUnavailable(f"{name}: no answer")


@pytest.mark.parametrize("pieces", [False, True])
def test_p4_what_the_store_may_have_is_waited_for_however_long_something_else_has_been_suspected(
    tmp_path: Path, *, pieces: bool
) -> None:
    store = OtherStore("b", cast("Any", Promised()), lambda wanted, _: wanted == LOST)
    key = str(pyrage.x25519.Identity.generate().to_public())
    node = Node(tmp_path, Codec(recipients=(key,) if pieces else ()), store)
    node.looks()
    node.looks(PATIENCE + 1)
    assert node.gaps == 0
    later = ONE.segment(5, SIZE)
    if pieces:
        tail.put(node.archive, later, Piece(0, SIZE, "0123456789ab0001"), plain_segment(later, SYSTEM))
    else:
        node.store_as_planted(later.number)
    node.lost.suspect(later, Lsn(later.end + 1))
    node.looks()
    node.looks(PATIENCE - 1)
    assert node.gaps == 0
    node.looks(2)
    assert (node.gaps, node.lost.gaps.get().first) == (1, later)


def test_p4_a_run_is_waited_for_from_when_the_last_of_it_was_suspected(tmp_path: Path) -> None:
    node = Node(tmp_path, Codec())
    node.store_as_planted(3)
    node.store_as_planted(4)
    node.looks()
    node.now = PATIENCE - 60
    node.lost.suspect(ONE.segment(4, SIZE), Lsn(5 * MIB + 1))
    node.looks()
    node.looks(PATIENCE - 1)
    assert node.gaps == 0
    node.looks(2)
    assert (node.gaps, node.lost.gaps.get()) == (1, Lost(LOST, 5))


class Asked(list[int]):
    """Of which segments a node has asked whether they are not believed."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        really = node.archive.is_disbelieved

        def is_disbelieved(segment: Segment) -> bool:
            self.append(segment.number)
            return really(segment)

        monkeypatch.setattr(node.archive, "is_disbelieved", is_disbelieved)


def test_of_a_long_run_what_was_not_believed_is_asked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path, Codec())
    asked = Asked(node, monkeypatch)
    node.store_as_planted(40)
    node.lost.suspect(LOST, Lsn(41 * MIB + 1))
    node.looks()
    node.looks(SETTLE_SECONDS + 1)
    assert sorted(asked) == [*range(3, 41)]
    asked.clear()
    node.looks()
    assert 40 in asked
    assert len(asked) <= lost_wal.AT_ONCE
    asked.clear()
    node.looks(PATIENCE)
    assert (asked, node.gaps) == ([], 1)  # it does not matter any more


def test_who_asks_for_a_long_run_hears_that_it_is_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path, Codec())
    asked = Asked(node, monkeypatch)
    node.lost.suspect(LOST, Lsn(41 * MIB + 1))
    node.looks()
    node.looks(SETTLE_SECONDS + 1, stopped=lambda: bool(asked))
    assert (len(asked), node.gaps) == (lost_wal.AT_ONCE, 0)
    node.looks()
    assert node.gaps == 1


def test_one_look_asks_the_store_for_so_many_and_the_next_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_wal, "LOOKS", 20)
    node = Node(tmp_path, Codec())
    for number in range(3, 33):
        segment = ONE.segment(number, SIZE)
        node.archive.archive_segment(segment, plain_segment(segment, SYSTEM), ONE)
    node.lost.suspect(LOST, Lsn(33 * MIB + 1))
    node.lost.wake.clear()
    node.looks()
    assert (node.lost.found.qsize(), node.lost.wake.is_set()) == (20, True)
    node.lost.wake.clear()
    node.looks()
    assert (node.lost.found.qsize(), node.lost.wake.is_set(), node.gaps) == (30, False, 0)
