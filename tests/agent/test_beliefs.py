"""What a takeover believes (promise P13): bytes, not names. Over a store and a DCS in memory, with files of WAL to compare.

First what is refused, each with a name; then what looks like it, is legitimate, and goes on without a person.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pyrage
import pytest

from tests.core.test_floor import a_floor
from tests.core.values import history_text, paged_segment
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.archiver import beliefs, local_wal
from walkeeper.agent.archiver.life import Watcher
from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.agent.archiver.ownership import Ownership, take_over
from walkeeper.agent.archiver.refusals import Refusals, situation
from walkeeper.archive import tail
from walkeeper.archive.authentic import AuthenticStore, Trust
from walkeeper.archive.codec import AGAIN, Codec
from walkeeper.archive.expiry import write_floor
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.beliefs import NO_ARCHIVE
from walkeeper.core.floor import Below
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap, Record, decode_record
from walkeeper.core.second_life import SecondLife
from walkeeper.core.suspicion import covers
from walkeeper.core.tail import Piece
from walkeeper.core.takeover import LocalServer
from walkeeper.errors import (
    AgentError,
    ArchiveMissing,
    BeyondServer,
    CasConflict,
    DcsUnavailable,
    HeldBack,
    NothingToCompare,
    NumberUsedTwice,
    OtherBytes,
    PostgresError,
    Refused,
    StandbyLags,
    StoreBehind,
    WalkeeperError,
    WrongCluster,
    WrongSegmentSize,
)
from walkeeper.lib.clock import SystemClock
from walkeeper.postgres.server import ServerState
from walkeeper.postgres.wal_file import Sums, sums_of
from walkeeper.store.base import Store

SYSTEM = 7300000000000000001
SIZE = SegmentSize(MIB)
ONE = History(1)
FORK = 5 * MIB + 8192
TWO = History(2, (Switch(1, Lsn(FORK)),))
ALL = range(3, 20)


class Life:
    """What one server wrote: the same as any other up to ``until``, then bytes that nobody else has. Its files, if it has any."""

    def __init__(self, history: History = ONE, letter: bytes = b"w", until: int = 0) -> None:
        self.history, self.letter, self.until = history, letter, until

    def plain(self, segment: Segment) -> bytes:
        whole = paged_segment(segment, SYSTEM, self.history)
        if self.letter == b"w" or segment.end <= self.until:
            return whole
        begin = max(0, self.until - segment.start)
        return whole[:begin] + whole[begin:].replace(b"w" * 100, self.letter * 100)

    def segment(self, number: int) -> Segment:
        return self.history.segment(number, SIZE)


class World:
    """One DCS, one store, and the pg_wal of each member."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.dcs = MemoryDcs()
        self.store = MemoryStore()
        self.archive = self.archive_in(self.store)

    def archive_in(self, store: Store, codec: Codec | None = None) -> Archive:
        return Archive(store, Layout("demo", None, SYSTEM), SIZE, codec or Codec())

    def files(self, name: str, life: Life, numbers: Collection[int], *, written: int | None = None) -> None:
        """That member's pg_wal: these segments, the last of them up to ``written``."""
        pg_wal = self.directory / name
        pg_wal.mkdir(exist_ok=True)
        for number in numbers:
            plain = life.plain(life.segment(number))
            (pg_wal / life.segment(number).name).write_bytes(plain)
        if written is not None:
            segment = life.segment(written // SIZE)
            plain = life.plain(segment)[: written % SIZE].ljust(SIZE, b"\0")
            (pg_wal / segment.name).write_bytes(plain)

    def stores(self, life: Life, *numbers: int) -> None:
        for number in numbers:
            self.archive.archive_segment(life.segment(number), life.plain(life.segment(number)), life.history)

    def ships(self, life: Life, owner: str, number: int, *ends: int) -> None:
        begin, segment = 0, life.segment(number)
        for end in ends:
            tail.put(self.archive, segment, Piece(begin, end, owner), life.plain(segment)[begin:end])
            begin = end

    def take_over(
        self,
        name: str,
        history: History,
        lsn: int,
        *,
        accepted: Collection[str] = (),
        in_recovery: bool = False,
        histories: dict[int, bytes] | None = None,
        archive: Archive | None = None,
        system: int = SYSTEM,
        second_lives: Collection[SecondLife] = (),
        there_was_one: bool = False,
    ) -> Ownership:
        self.dcs.set_leader(name)
        pg_wal = self.directory / name
        pg_wal.mkdir(exist_ok=True)
        server = LocalServer(system, SIZE, history, Lsn(lsn), in_recovery)
        known = {history.timeline: history_text(history)} if history.switches else {}
        wal = LocalWal(server, known if histories is None else histories, pg_wal)
        return take_over(
            name, MemoryRecord(self.dcs), archive or self.archive, wal, Watcher(SystemClock()), accepted,
            second_lives=second_lives, there_was_one=there_was_one,
        )  # fmt: skip

    def owned(self, life: Life, *, number: int = 9, inside: int = 0, name: str = "a") -> Record:
        """An archive from 3 on, with everything below segment ``number`` and ``inside`` bytes of it, owned by ``name``."""
        owner = self.take_over(name, life.history, 3 * MIB)
        self.stores(life, *range(3, number))
        if inside:
            self.ships(life, owner.record.session[:12], number, 8192, inside)
        below = life.segment(number - 1)
        stored = self.archive.find(below)
        owner.below = (below.number, stored.sha256) if stored is not None else None
        owner.write(Lsn(number * MIB + inside))
        return owner.record

    def put_record(self, **changes: object) -> None:
        self.dcs.put(msgspec.structs.replace(self.record, **changes).encode())

    @property
    def record(self) -> Record:
        assert self.dcs.record is not None
        return decode_record(self.dcs.record.document)

    @property
    def frontier(self) -> tuple[int, int, str]:
        return self.record.timeline, self.record.position // MIB, self.record.owner

    def refused(self, kind: type[WalkeeperError], *arguments: object, **more: object) -> WalkeeperError:
        """The takeover is refused with that class, and changed nothing in store and record."""
        objects, record = set(self.store.objects), self.dcs.record
        with pytest.raises(kind) as caught:
            self.take_over(*arguments, **more)  # type: ignore[arg-type]
        assert type(caught.value) is kind
        assert caught.value.hint
        assert set(self.store.objects) == objects
        assert self.dcs.record == record
        return caught.value


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_p13_a_volume_that_went_back_below_the_record_is_refused(world: World) -> None:
    life = Life()
    world.owned(life, number=9)
    world.files("a", life, range(3, 7))
    world.refused(BeyondServer, "a", ONE, 7 * MIB + 100)


def test_p13_a_volume_that_went_back_and_wrote_on_past_the_record_is_refused(world: World) -> None:
    world.owned(Life(), number=9)
    world.files("a", Life(letter=b"n", until=7 * MIB), range(3, 12))
    world.refused(OtherBytes, "a", ONE, 12 * MIB)


def test_p13_a_volume_that_went_back_within_the_open_segment_is_refused(world: World) -> None:
    world.owned(Life(), number=9, inside=40_960)
    world.files("a", Life(letter=b"n", until=9 * MIB + 8192), range(3, 9), written=9 * MIB + 81_920)
    world.refused(OtherBytes, "a", ONE, 9 * MIB + 81_920)


@pytest.mark.parametrize("where", ["inside", "behind", "nothing is here from below"])
def test_p13_a_promotion_inside_the_segment_in_which_the_volume_went_back_is_refused(world: World, where: str) -> None:
    """A base backup of the first life may end there: by the segment's new name, its WAL would be that of the second (P14)."""
    world.owned(Life(), number=9, inside=40_960)
    fork = 10 * MIB + 8192 if where == "behind" else 9 * MIB + 81_920
    history = History(2, (Switch(1, Lsn(fork)),))
    second = Life(history, letter=b"n", until=9 * MIB + 8192)
    here = range(9 if where == "nothing is here from below" else 8, fork // MIB)
    world.files("b", second, here, written=fork + 8192)
    world.refused(OtherBytes, "b", history, fork + 8192)


def test_p13_a_promotion_inside_the_segment_in_which_the_archive_began_and_the_volume_went_back_is_refused(
    world: World,
) -> None:
    world.owned(Life(), number=3, inside=40_960)
    history = History(2, (Switch(1, Lsn(3 * MIB + 81_920)),))
    world.files("b", Life(history, letter=b"n", until=3 * MIB + 8192), [], written=3 * MIB + 90_000)
    world.refused(OtherBytes, "b", history, 3 * MIB + 90_000)


@pytest.mark.parametrize("ends", [(8192, 40_960), (40_960,)])
def test_p13_a_promotion_between_where_two_lives_part_and_the_end_of_a_piece_is_refused(
    world: World, ends: tuple[int, ...]
) -> None:
    """No piece lies wholly below the promotion that has what the two differ in."""
    owner = world.take_over("a", ONE, 3 * MIB)
    world.stores(Life(), *range(3, 9))
    world.ships(Life(), owner.record.session[:12], 9, *ends)
    owner.write(Lsn(9 * MIB + 40_960))
    history = History(2, (Switch(1, Lsn(9 * MIB + 24_576)),))
    world.files("b", Life(history, b"n", 9 * MIB + 16_384), range(8, 9), written=9 * MIB + 90_000)
    world.refused(OtherBytes, "b", history, 9 * MIB + 90_000)


def test_p13_a_volume_that_went_back_above_the_record_is_refused_where_more_of_it_is_stored(world: World) -> None:
    """The owner is started again. 9 was on its way, and not yet stored, as 10 was: what is written now would meet it later."""
    world.owned(Life(), number=9)
    world.stores(Life(), 10)
    second = Life(letter=b"n", until=9 * MIB + 8192)
    world.files("a", second, range(3, 9), written=9 * MIB + 81_920)
    world.refused(BeyondServer, "a", ONE, 9 * MIB + 81_920)
    world.files("a", second, range(3, 12))
    world.refused(OtherBytes, "a", ONE, 12 * MIB)


def test_p13_a_server_that_went_back_since_it_was_looked_at_is_another_one(tmp_path: Path) -> None:
    """The run that the takeover is bound to began just after: with less WAL, but compared by what the one before had."""

    def now(known: int, lsn: int, *, in_recovery: bool = False) -> Lsn:
        server = LocalServer(SYSTEM, SIZE, ONE, Lsn(known), in_recovery)
        state = ServerState(SYSTEM, in_recovery, 1, Lsn(lsn), SIZE, 15, "replica")
        return LocalWal(server, {}, tmp_path, lambda: state).now().lsn

    assert now(9 * MIB, 9 * MIB + 8) == 9 * MIB + 8
    with pytest.raises(PostgresError, match="another one answers"):
        now(9 * MIB, 8 * MIB)
    assert now(9 * MIB, 8 * MIB, in_recovery=True) == 9 * MIB  # a standby leader, whose receiver has just begun again


def test_p13_what_was_stored_and_not_recorded_is_compared_before_it_is_gone_over(world: World) -> None:
    old = Life()
    world.owned(old, number=9)
    world.stores(old, 9, 10)
    world.files("a", Life(letter=b"n", until=9 * MIB), range(3, 12))
    world.refused(OtherBytes, "a", ONE, 12 * MIB)


@pytest.mark.parametrize("record", ["", "lost", "edited"])
def test_p13_what_a_first_life_stored_between_two_segments_of_a_second_is_not_gone_over(
    world: World, record: str
) -> None:
    """Uploads go side by side: the first had stored 10, but neither 9 nor 11."""
    second = Life(letter=b"n", until=9 * MIB + 8192)
    world.owned(Life(), number=9)
    world.stores(Life(), 10)
    world.stores(second, 9, 11)
    world.files("a", second, range(3, 12))
    if record == "lost":
        world.dcs.wipe()
    elif record == "edited":
        world.put_record(lsn=str(Lsn(12 * MIB)), below_sha256="")
    world.refused(OtherBytes, "a", ONE, 12 * MIB)


def test_p13_a_rebuilt_frontier_beyond_the_server_is_refused(world: World) -> None:
    """The record is lost as well: the store alone says that the volume went back."""
    life = Life()
    world.owned(life, number=9)
    world.dcs.wipe()
    world.files("a", life, range(3, 7))
    world.refused(BeyondServer, "a", ONE, 7 * MIB + 100)


def test_p13_a_lost_record_is_not_rebuilt_over_another_servers_segments(world: World) -> None:
    world.owned(Life(), number=9)
    world.dcs.wipe()
    world.files("a", Life(letter=b"n", until=7 * MIB), range(3, 12))
    world.refused(OtherBytes, "a", ONE, 12 * MIB)


@pytest.mark.parametrize("lost", [False, True])
def test_p13_two_promotions_at_one_position_with_one_number_are_told_apart_by_bytes(world: World, lost: bool) -> None:
    """The second could not ask the archive; the two histories are the same, word for word."""
    first, second = Life(TWO), Life(TWO, letter=b"n", until=FORK)
    world.owned(first, number=9)
    if lost:
        world.dcs.wipe()
    world.files("b", second, range(3, 12))
    world.refused(OtherBytes, "b", TWO, 12 * MIB)


def test_p13_a_promotion_under_a_number_of_which_only_a_tail_is_stored_is_refused(world: World) -> None:
    """The first server died before it had a whole segment, and before it owned the record."""
    world.owned(Life(), number=5, inside=4096 * 2)
    world.ships(Life(TWO), "first", 5, 16_384, 65_536)
    world.files("b", Life(TWO, letter=b"n", until=FORK), [3, 4], written=5 * MIB + 131_072)
    world.refused(OtherBytes, "b", TWO, 5 * MIB + 131_072)


def test_p13_a_promotion_under_a_number_that_went_further_elsewhere_is_refused(world: World) -> None:
    world.owned(Life(), number=5)
    world.stores(Life(TWO), 5, 6)
    world.files("b", Life(TWO, letter=b"n", until=FORK), [3, 4], written=5 * MIB + 16_384)
    world.refused(BeyondServer, "b", TWO, 5 * MIB + 16_384)


def test_p13_what_is_stored_of_ones_own_new_timeline_must_be_compared_with_something(world: World) -> None:
    world.owned(Life(), number=5)
    world.stores(Life(TWO), 5, 6)
    world.files("b", Life(TWO), [10, 11])
    world.refused(NothingToCompare, "b", TWO, 12 * MIB)
    world.take_over("b", TWO, 12 * MIB, accepted={"nothing_to_compare"})
    assert world.frontier == (2, 7, "b")


def test_p13_an_ancestors_number_that_was_used_twice_is_refused(world: World) -> None:
    """Its record is lost: rebuilding would go over the other server's segments."""
    other = History(2, (Switch(1, Lsn(7 * MIB)),))
    three = History(3, (*TWO.switches, Switch(2, Lsn(8 * MIB + 100))))
    world.owned(Life(other), number=9)
    world.dcs.wipe()
    world.files("c", Life(three), range(3, 12))
    problem = world.refused(NumberUsedTwice, "c", three, 12 * MIB)
    assert "00000002.history" in str(problem)


def test_p13_another_owner_on_the_same_timeline_is_refused_where_nothing_can_be_compared(world: World) -> None:
    world.owned(Life(), number=9)
    world.files("b", Life(), [10, 11])
    world.refused(NothingToCompare, "b", ONE, 12 * MIB)
    world.take_over("b", ONE, 12 * MIB, accepted={"nothing_to_compare"})
    assert world.frontier == (1, 9, "b")


def test_p13_a_record_is_refused_in_an_empty_store_and_nothing_is_created_there(world: World) -> None:
    """A typo in the prefix, a bucket that was not copied, a directory that is not mounted."""
    world.owned(Life(), number=9)
    world.files("a", Life(), range(7, 12))
    empty = MemoryStore()
    world.refused(ArchiveMissing, "a", ONE, 12 * MIB, archive=world.archive_in(empty))
    assert empty.objects == {}
    world.take_over("a", ONE, 12 * MIB, archive=world.archive_in(empty), accepted={"archive_missing"})
    assert world.frontier == (1, 12, "a")
    assert world.archive_in(empty).contents.start() == Segment(1, 12, SIZE)


@pytest.mark.parametrize("document", [None, b"garbage"])
def test_p13_no_archive_begins_in_an_empty_store_where_the_record_of_one_was_lost(
    world: World, document: bytes | None
) -> None:
    world.owned(Life(), number=9)
    world.files("a", Life(), range(7, 12))
    world.dcs.wipe()
    if document is not None:
        world.dcs.put(document)
    empty = world.archive_in(MemoryStore())
    refusal = world.refused(ArchiveMissing, "a", ONE, 12 * MIB, archive=empty, there_was_one=True)
    assert refusal.hint == NO_ARCHIVE
    world.take_over("a", ONE, 12 * MIB, there_was_one=True)
    assert world.frontier == (1, 9, "a")
    world.dcs.wipe()
    world.take_over("a", ONE, 12 * MIB, archive=empty, there_was_one=True, accepted={"archive_missing"})
    assert empty.contents.start() == Segment(1, 12, SIZE)


def test_an_archive_whose_start_could_not_be_stated_is_not_missing(world: World) -> None:
    """The store answered no longer when it had just begun, and archive_command had handed segments over."""
    world.owned(Life(), number=9)
    world.files("a", Life(), range(7, 12))
    for key in [info.key for info in world.store.list(world.archive.layout.starts)]:
        world.store.delete(key)
    world.take_over("a", ONE, 12 * MIB)
    assert world.archive.contents.start() == Segment.parse(world.record.start, SIZE)


def test_p13_a_record_ahead_of_the_store_goes_back_to_it_while_the_server_has_the_wal(world: World) -> None:
    """Edited to where the server is, or the store lost its newest objects."""
    life = Life()
    world.owned(life, number=9)
    world.put_record(lsn=str(Lsn(12 * MIB)), below_sha256="")
    world.files("a", life, range(8, 13))
    world.take_over("a", ONE, 13 * MIB)
    assert world.frontier == (1, 9, "a")


def test_p13_a_record_above_uploads_that_went_side_by_side_goes_back_below_what_is_lacking(world: World) -> None:
    """Edited to the end of a segment that is stored, where one before it was still on its way."""
    life = Life()
    world.owned(life, number=9)
    world.stores(life, 11)
    world.put_record(lsn=str(Lsn(12 * MIB)), below_sha256="")
    world.files("a", life, range(8, 13))
    world.take_over("a", ONE, 13 * MIB)
    assert world.frontier == (1, 9, "a")


@pytest.mark.parametrize("timeline", [1, 2])
def test_p13_a_record_above_a_hole_whose_wal_the_server_no_longer_has_goes_back_to_it(
    world: World, timeline: int
) -> None:
    """Edited while WAL was suspected lost, behind which uploads go on."""
    world.owned(Life(), number=9)
    world.stores(Life(), 10, 11)
    world.put_record(lsn=str(Lsn(12 * MIB)), below_sha256="")
    history = ONE if timeline == 1 else History(2, (Switch(1, Lsn(12 * MIB + 8192)),))
    world.files("a", Life(history), [10, 11, 12])
    world.take_over("a", history, 13 * MIB)
    assert world.frontier == (timeline, 9, "a")


@pytest.mark.parametrize("here", [range(28, 33), range(33, 34), range(9, 33)])
def test_p13_what_is_listed_above_a_hole_is_not_suspected_lost(world: World, here: range) -> None:
    """An edited record, and two holes. From where the server still has its WAL on, that is stored again, and so compared."""
    world.owned(Life(), number=33)
    for number in (5, 20, 21):
        world.store.delete(world.archive.layout.file(Life().segment(number), ".zst"))
    world.put_record(below_sha256="")
    world.files("a", Life(), here, written=33 * MIB + 8192)
    owner = world.take_over("a", ONE, 33 * MIB + 8192)
    frontier = Frontier(ONE, owner.record.position, SIZE)
    for first, end in owner.listed:
        frontier.add_listed(first, end)
    frontier.suspect(5, here[0])
    assert (frontier.lsn, frontier.suspected) == (
        5 * MIB,
        {28: ((5, 6), (20, 22)), 33: ((5, 6), (20, 22), (32, 33)), 9: ((5, 6),)}[here[0]],
    )
    assert frontier.first_missing(()).number == here[0]


@pytest.mark.parametrize("why", ["a gap", "a floor", "a start"])
def test_a_record_without_a_sum_stands_where_what_is_lacking_is_given_up(world: World, why: str) -> None:
    life = Life()
    world.owned(life, number=9)
    for number in (3, 4):
        world.store.delete(world.archive.layout.file(life.segment(number), ".zst"))
    if why == "a gap":
        world.archive.record_gap(life.segment(3), Lsn(5 * MIB))
    elif why == "a floor":
        below = (Below(1, str(Lsn(5 * MIB))),)
        floor = a_floor(system_identifier=str(SYSTEM), start=life.segment(5).name, below=below, kept=())
        assert write_floor(world.store, world.archive.layout, floor)
    else:
        world.archive.state_start(life.segment(5))
    world.put_record(below_sha256="")
    world.files("a", life, [8, 9])
    world.take_over("a", ONE, 10 * MIB)
    assert world.frontier == (1, 9, "a")


def test_p13_a_record_ahead_of_the_store_is_refused_where_the_server_no_longer_has_the_wal(world: World) -> None:
    life = Life()
    world.owned(life, number=9)
    world.put_record(lsn=str(Lsn(12 * MIB)), below_sha256="")
    world.files("a", life, [8, 11, 12])
    world.refused(StoreBehind, "a", ONE, 13 * MIB)
    world.take_over("a", ONE, 13 * MIB, accepted={"store_behind"})
    assert world.frontier == (1, 9, "a")


def test_p13_a_stored_segment_that_is_not_what_the_owner_stored_is_refused(world: World) -> None:
    world.owned(Life(), number=9)
    world.put_record(below_sha256="0" * 64)
    world.files("b", Life(TWO), range(3, 12))
    world.refused(OtherBytes, "a", ONE, 12 * MIB)


@pytest.mark.parametrize("timeline", [1, 2, 7])
def test_p13_a_record_of_another_cluster_is_refused_on_every_timeline(world: World, timeline: int) -> None:
    world.owned(Life(), number=9)
    world.put_record(timeline=timeline, system_identifier="7000000000000000001")
    world.refused(WrongCluster, "a", ONE, 12 * MIB)


def test_an_upgraded_cluster_goes_on_beside_the_old_archive_and_back_when_a_person_says_so(world: World) -> None:
    before = world.owned(Life(), number=9)
    stored = dict(world.store.objects)
    upgraded = Archive(world.store, Layout("demo", None, SYSTEM + 1), SIZE, Codec())
    new = world.take_over("a", ONE, 20 * MIB + 5, archive=upgraded, system=SYSTEM + 1, accepted={"wrong_cluster"})
    assert (new.record.system_identifier, new.record.position) == (str(SYSTEM + 1), 20 * MIB)
    world.files("a", Life(), range(3, 12))
    world.refused(WrongCluster, "a", ONE, 12 * MIB)
    back = world.take_over("a", ONE, 12 * MIB, accepted={"wrong_cluster"})
    assert (back.record.position, back.record.start) == (before.position, before.start)
    assert {key: world.store.objects[key] for key in stored} == stored


def test_p13_that_bytes_differ_cannot_be_accepted(world: World) -> None:
    world.owned(Life(), number=9)
    world.files("a", Life(letter=b"n", until=7 * MIB), range(3, 12))
    reasons = {"other_bytes", "nothing_to_compare", "archive_missing", "store_behind", "beyond_server"}
    world.refused(OtherBytes, "a", ONE, 12 * MIB, accepted=reasons)


# --- what goes on without a person ------------------------------------------------------------------------------------


def test_a_restart_compares_the_last_segment_and_the_tail_and_goes_on(world: World) -> None:
    record = world.owned(Life(), number=9, inside=40_960)
    assert record.below_sha256
    world.files("a", Life(), range(3, 9), written=9 * MIB + 50_000)
    owner = world.take_over("a", ONE, 9 * MIB + 50_000)
    assert world.frontier == (1, 9, "a")
    assert owner.record.below_sha256 == record.below_sha256


def test_a_renamed_member_goes_on_when_its_bytes_agree(world: World) -> None:
    """Or one with another's volume, or under a new host's name: the same timeline, another owner."""
    world.owned(Life(), number=9)
    world.files("new-name", Life(), range(8, 12))
    world.take_over("new-name", ONE, 12 * MIB)
    assert world.frontier == (1, 9, "new-name")


def test_a_renamed_member_goes_on_by_its_tail_where_the_segment_was_recycled(world: World) -> None:
    world.owned(Life(), number=9, inside=40_960)
    world.files("new-name", Life(), [], written=9 * MIB + 50_000)
    world.take_over("new-name", ONE, 9 * MIB + 50_000)
    assert world.frontier == (1, 9, "new-name")


def test_a_new_owner_of_an_archive_with_nothing_in_it_goes_on(world: World) -> None:
    world.take_over("a", ONE, 3 * MIB)
    world.take_over("b", ONE, 3 * MIB + 100)
    assert world.frontier == (1, 3, "b")


def test_a_standby_leader_takes_over_from_another_and_waits_where_it_lags(world: World) -> None:
    world.owned(Life(), number=9)
    world.files("b", Life(), range(3, 8))
    with pytest.raises(StandbyLags):
        world.take_over("b", ONE, 8 * MIB + 5, in_recovery=True)
    world.files("b", Life(), [8])
    world.take_over("b", ONE, 9 * MIB + 5, in_recovery=True)
    assert world.frontier == (1, 9, "b")


def test_a_standby_leader_waits_for_what_another_has_stored_and_not_recorded(world: World) -> None:
    world.owned(Life(), number=9)
    world.stores(Life(), 9)
    world.files("b", Life(), range(3, 9))
    with pytest.raises(StandbyLags):
        world.take_over("b", ONE, 9 * MIB + 5, in_recovery=True)


@pytest.mark.parametrize("owner", ["a", "b"])
def test_a_recycled_segment_is_shown_and_accepted_after_a_promotion_and_for_ones_own_record(
    world: World, owner: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.owned(Life(), number=5)
    history = ONE if owner == "a" else TWO
    world.files(owner, Life(history), [7, 8])
    world.take_over(owner, history, 9 * MIB)
    assert world.frontier == (history.timeline, 5, owner)
    assert "takeover_not_compared" in caplog.text


def test_the_boundary_segment_that_archive_mode_off_leaves_is_not_compared(world: World) -> None:
    """It keeps the ancestor's final name, with other bytes after the fork."""
    world.owned(Life(), number=9)
    world.files("b", Life(TWO), range(3, 7))
    name = Segment(1, 5, SIZE).name
    (world.directory / "b" / name).write_bytes(Life(letter=b"x", until=FORK).plain(Segment(1, 5, SIZE)))
    world.take_over("b", TWO, 7 * MIB)
    assert world.frontier == (2, 5, "b")


def test_a_tail_beyond_the_fork_is_not_compared(world: World) -> None:
    world.owned(Life(), number=5, inside=81_920)
    world.files("b", Life(TWO, letter=b"n", until=FORK), [3, 4], written=5 * MIB + 300_000)
    world.take_over("b", TWO, 5 * MIB + 300_000)
    assert world.frontier == (2, 5, "b")


@pytest.mark.parametrize("piece", ["whole", "damaged", "locked"])
def test_a_piece_in_which_the_server_was_promoted_is_compared_up_to_there(
    world: World, piece: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The old primary wrote on for a moment. What cannot be read says nothing; that agents have no key is as it should be."""
    owner = world.take_over("a", ONE, 3 * MIB)
    world.stores(Life(), 3, 4)
    segment, shipped = Life().segment(5), Piece(0, 81_920, owner.record.session[:12])
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    archive = world.archive_in(world.store, Codec(recipients=(recipient,) if piece == "locked" else ()))
    receipt = tail.put(archive, segment, shipped, Life().plain(segment)[: shipped.end])
    if piece == "damaged":
        world.store.objects[receipt.key] = (b"xx", world.store.objects[receipt.key][1])
    owner.write(Lsn(5 * MIB + shipped.end))
    world.files("b", Life(TWO, letter=b"n", until=FORK), [3, 4], written=5 * MIB + 300_000)
    world.take_over("b", TWO, 5 * MIB + 300_000)
    assert world.frontier == (2, 5, "b")
    assert ("tail_piece_ignored" in caplog.text) == (piece == "damaged")


def test_a_segment_below_the_frontier_may_be_lacking_where_a_gap_ends_there(world: World) -> None:
    world.take_over("a", ONE, 3 * MIB)
    world.stores(Life(), 3, 4)
    world.archive.record_gap(Segment(1, 5, SIZE), Lsn(9 * MIB))
    world.put_record(lsn=str(Lsn(9 * MIB)))
    world.take_over("a", ONE, 12 * MIB)
    assert world.frontier == (1, 9, "a")


@pytest.mark.parametrize("here", [True, False])
def test_p16_a_gap_that_somebody_recorded_is_not_gone_over_where_the_server_has_its_wal(
    world: World, here: bool
) -> None:
    life = Life()
    world.owned(life, number=7)
    world.archive.record_gap(Segment(1, 7, SIZE), Lsn(9 * MIB))
    world.stores(life, 7)
    world.dcs.wipe()
    world.files("a", life, range(5, 12) if here else [5, 6, 9, 10])
    world.take_over("a", ONE, 12 * MIB)
    assert world.frontier == (1, 8 if here else 9, "a")


def test_p16_a_gap_that_somebody_recorded_without_an_end_is_refused_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    life, asked = Life(), list[Gap]()

    def counted(gaps: Iterable[Gap], gap: Gap) -> bool:
        asked.append(gap)
        assert len(asked) < 100
        return covers(gaps, gap)

    monkeypatch.setattr(beliefs, "covers", counted)
    world.owned(life, number=9)
    world.store.create(f"{world.archive.layout.gaps}{life.segment(9)}-FFFFFFFFFFFFFFFF.json", b"{}", {})
    world.dcs.wipe()
    world.files("a", life, range(5, 12))
    world.refused(BeyondServer, "a", ONE, 12 * MIB)


class Keyed(World):
    """Hosts have a key; ``plants`` is somebody who has none and may create objects."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.in_the_open = self.archive
        self.archive = self.archive_in(AuthenticStore(self.store, Trust((b"k" * 64,))))

    def plants(self, life: Life, *numbers: int) -> None:
        for number in numbers:
            segment, codec = life.segment(number), self.in_the_open.codec
            for suffix in (codec.suffix, AGAIN + codec.suffix):
                self.store.create(self.archive.layout.file(segment, suffix), b"planted", {})


@pytest.fixture
def keyed(tmp_path: Path) -> Keyed:
    return Keyed(tmp_path)


@pytest.mark.parametrize("lost", [False, True])
def test_p16_no_takeover_passes_a_segment_of_which_somebody_planted_the_name(keyed: Keyed, lost: bool) -> None:
    life = Life()
    keyed.owned(life, number=9)
    keyed.stores(life, 9, 11, 12)
    keyed.plants(life, 10)
    if lost:
        keyed.dcs.wipe()
    keyed.files("a", life, range(5, 14))
    keyed.take_over("a", ONE, 14 * MIB)
    assert keyed.frontier == (1, 10, "a")


def test_a_damaged_object_is_not_gone_over_where_there_is_no_key(world: World) -> None:
    life = Life()
    world.owned(life, number=9)
    world.stores(life, 9, 10, 11)
    key = world.archive.layout.file(life.segment(10), ".zst")
    body, metadata = world.store.objects[key]
    world.store.objects[key] = (body[:-1], metadata)
    world.files("a", life, range(5, 13))
    world.take_over("a", ONE, 13 * MIB)
    assert world.frontier == (1, 10, "a")


def test_p16_a_record_that_somebody_edited_goes_back_below_what_is_planted(keyed: Keyed) -> None:
    keyed.owned(Life(), number=9)
    keyed.stores(Life(), 9, 11)
    keyed.plants(Life(), 10)
    keyed.put_record(lsn=str(Lsn(12 * MIB)), below_sha256="")
    keyed.files("a", Life(), range(8, 14))
    keyed.take_over("a", ONE, 14 * MIB)
    assert keyed.frontier == (1, 10, "a")


@pytest.mark.parametrize("lost", [False, True])
def test_p16_planted_names_beyond_the_servers_wal_stop_no_takeover(keyed: Keyed, lost: bool) -> None:
    keyed.owned(Life(), number=5)
    keyed.stores(Life(TWO), 5, 6)
    keyed.plants(Life(TWO), *range(7, 40))
    forged = Life(TWO).segment(41)
    for number in range(70):
        piece = Piece(number * 8192, (number + 1) * 8192, "forged")
        keyed.store.create(keyed.archive.layout.piece(forged.name, piece, ".zst"), b"planted", {})
        keyed.store.create(keyed.archive.layout.piece("00000002x", piece, ".zst"), b"planted", {})
    if lost:
        keyed.dcs.wipe()
    keyed.files("b", Life(TWO), range(3, 9))
    keyed.take_over("b", TWO, 9 * MIB)
    assert keyed.frontier == (2, 7, "b")
    true = History(3, (*TWO.switches, Switch(2, Lsn(8 * MIB))))
    keyed.plants(Life(true), 8, 200)
    keyed.files("c", Life(TWO), [6, 7])
    keyed.take_over("c", true, 8 * MIB + 8192)
    assert keyed.frontier == (3, 7, "c")


@pytest.mark.parametrize("recycled", [False, True])
def test_a_rebuilt_dcs_goes_on(world: World, recycled: bool) -> None:
    """patronictl remove looks the same."""
    world.owned(Life(TWO), number=9)
    world.dcs.wipe()
    world.files("b", Life(TWO), [10, 11] if recycled else range(8, 12))
    world.take_over("b", TWO, 12 * MIB)
    assert world.frontier == (2, 9, "b")


def test_a_restore_in_place_goes_on(world: World) -> None:
    """From the archive to a point before the frontier: its server has nothing but what it wrote since."""
    world.owned(Life(), number=9)
    world.files("a", Life(TWO), [5])
    world.take_over("a", TWO, 6 * MIB + 100)
    assert world.frontier == (2, 5, "a")


def test_a_dcs_that_was_put_back_to_an_older_state_goes_on_where_the_store_is(world: World) -> None:
    world.owned(Life(), number=5)
    before = world.dcs.record
    assert before is not None
    world.take_over("b", TWO, 5 * MIB + 100_000)
    world.stores(Life(TWO), *range(5, 10))
    world.dcs.put(before.document)
    world.files("b", Life(TWO), range(9, 12))
    world.take_over("b", TWO, 12 * MIB)
    assert world.frontier == (2, 10, "b")


def test_a_record_of_an_older_walkeeper_is_not_wrong_because_it_states_no_sums(world: World) -> None:
    world.owned(Life(TWO), number=9)
    world.put_record(below_sha256="", history_sha256="")
    world.files("b", Life(TWO), range(8, 12))
    world.take_over("b", TWO, 12 * MIB)
    assert world.frontier == (2, 9, "b")
    assert world.record.below_sha256
    assert world.record.history_sha256


def test_recovery_along_a_dead_branch_goes_on_from_where_the_branches_part(world: World) -> None:
    dead = History(2, (Switch(1, Lsn(4 * MIB + 8192)),))
    four = History(4, (*dead.switches, Switch(2, Lsn(6 * MIB + 8192))))
    world.take_over("x", dead, 3 * MIB)
    world.stores(Life(dead), *range(3, 7))
    world.dcs.wipe()
    three = History(3, (Switch(1, Lsn(FORK)),))
    world.archive.archive_history(3, history_text(three))
    world.files("c", Life(three), range(3, 9))
    world.take_over("c", three, 9 * MIB)
    world.files("d", Life(four), range(4, 9))
    world.take_over("d", four, 9 * MIB)
    assert world.frontier == (4, 6, "d")


def test_a_history_that_promoted_for_another_reason_is_the_same_history(world: World) -> None:
    """Compared by timeline and position: the reason is free text."""
    world.archive.archive_history(2, b"1\t0/502000\tbefore 2026-11-28 04:00:00\n")
    world.owned(Life(), number=5)
    world.files("b", Life(TWO), range(3, 8))
    world.take_over("b", TWO, 8 * MIB)
    assert world.frontier == (2, 5, "b")


def test_a_damaged_history_of_another_branch_in_pg_wal_stops_nobody(world: World) -> None:
    world.owned(Life(), number=5)
    three = History(3, TWO.switches)
    world.files("b", Life(three), range(3, 8))
    world.take_over("b", three, 8 * MIB, histories={2: b"", 3: history_text(three)})
    assert world.frontier == (3, 5, "b")
    assert world.archive.contents.history(2) is None


def test_a_stored_history_of_an_ancestor_that_rotted_stops_nobody(world: World) -> None:
    three = History(3, (*TWO.switches, Switch(2, Lsn(8 * MIB + 8192))))
    world.owned(Life(TWO), number=7)
    key = world.archive.layout.histories + "00000002.history"
    body, metadata = world.store.objects[key]
    world.store.objects[key] = (body.replace(b"5", b"4"), metadata)
    world.put_record(history_sha256="")
    world.files("b", Life(three), range(3, 10))
    world.take_over("b", three, 10 * MIB)
    assert world.frontier == (3, 7, "b")


# --- time, and who writes ---------------------------------------------------------------------------------------------


def test_a_takeover_asks_as_often_on_timeline_200_as_on_timeline_2(world: World) -> None:
    """What it stores on the way is the one new history."""

    def chain(timeline: int) -> History:
        return History(timeline, tuple(Switch(n, Lsn(3 * MIB + 4096 * n)) for n in range(1, timeline)))

    def texts(timeline: int) -> dict[int, bytes]:
        return {n: history_text(chain(n)) for n in range(2, timeline + 1)}

    asked = []
    for timeline in (2, 200):
        world.files("b", Life(chain(timeline)), range(3, 8))
        world.take_over("b", chain(timeline), 8 * MIB, histories=texts(timeline))
        world.store.calls.clear()
        world.files("c", Life(chain(timeline + 1)), range(3, 8))
        world.take_over("c", chain(timeline + 1), 8 * MIB, histories=texts(timeline + 1))
        asked.append(sorted(method for method, _ in world.store.calls))
    assert asked[0] == asked[1]


def test_a_takeover_without_a_record_reads_a_segment_once_while_it_is_tried(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again where its file has changed meanwhile: a volume may go back under a running agent."""
    world.owned(Life(), number=30)
    world.dcs.wipe()
    world.dcs.set_leader("a")
    world.files("a", Life(), range(3, 30), written=30 * MIB + 8192)
    read = list[Segment]()

    def reads(path: Path, segment: Segment) -> Sums:
        read.append(segment)
        return sums_of(path, segment)

    monkeypatch.setattr(local_wal, "sums_of", reads)
    failing, write = [True] * 2, MemoryRecord.write

    def fails(self: MemoryRecord, *arguments: Any, **more: Any) -> Any:
        if failing:
            failing.pop()
            raise DcsUnavailable("etcd: no answer")
        return write(self, *arguments, **more)

    monkeypatch.setattr(MemoryRecord, "write", fails)
    wal = LocalWal(LocalServer(SYSTEM, SIZE, ONE, Lsn(30 * MIB + 8192)), {}, world.directory / "a")
    watcher = Watcher(SystemClock())

    def take() -> None:
        take_over("a", MemoryRecord(world.dcs), world.archive, wal, watcher)

    for _ in range(2):
        with pytest.raises(DcsUnavailable):
            take()
    assert sorted(read) == [Life().segment(number) for number in range(3, 30)]
    changed = world.directory / "a" / Life().segment(20).name
    before = changed.stat().st_mtime_ns
    world.files("a", Life(letter=b"n", until=20 * MIB), [20])
    os.utime(changed, ns=(before + 1, before + 1))
    with pytest.raises(OtherBytes):
        take()
    world.files("a", Life(), [20])
    os.utime(changed, ns=(before + 2, before + 2))
    take()
    assert len(read) == 27 + 2
    assert watcher.sums == {}


@pytest.mark.parametrize("inside", [0, 40_960])
def test_a_takeover_asks_for_no_pieces_of_segments_below_the_frontier(world: World, inside: int) -> None:
    """Where nobody may delete, there are a day's: 86,400 of them."""
    life = Life()
    world.owned(life, number=9, inside=inside)
    for number in range(3, 9):
        world.ships(life, "0123456789ab0001", number, *range(8192, 8192 * 20, 8192))
    world.ships(life, "0123456789ab0001", 10, *range(8192, 8192 * 11, 8192))
    world.files("a", life, range(3, 10), written=10 * MIB + 81_920)
    world.store.calls.clear()
    world.take_over("a", ONE, 10 * MIB + 81_920)
    tails = world.archive.layout.tails
    assert sorted(key for method, key in world.store.calls if method == "list" and key.startswith(tails)) == [
        world.archive.layout.tail(life.segment(number).name) for number in (9, 10, 11)
    ]
    heads = [
        key for method, key in world.store.calls if method == "head" and "/0000000100000000" in key and tails in key
    ]
    assert len([key for key in heads if life.segment(10).name in key]) == 10
    assert {key.split("/")[-2] for key in heads} == {
        life.segment(number).name for number in ((9, 10) if inside else (10,))
    }


@pytest.mark.parametrize("inside", [0, 8192])
def test_p13_pieces_of_another_life_above_the_frontier_are_compared(world: World, inside: int) -> None:
    life = Life()
    world.owned(life, number=9, inside=inside)
    world.ships(life, "0123456789ab0001", 10, 8192, 16_384)
    second = Life(letter=b"n", until=10 * MIB)
    world.files("a", second, range(3, 9), written=9 * MIB + 16_384)
    world.refused(BeyondServer, "a", ONE, 9 * MIB + 16_384)
    world.files("a", second, range(9, 12))
    world.refused(OtherBytes, "a", ONE, 12 * MIB)


def test_a_stale_owner_that_moves_the_record_does_not_keep_it_from_the_new_leader(world: World) -> None:
    """Its Patroni was killed, PostgreSQL and agent live on: the record moves with each question that the taker asks the store."""
    stale = world.take_over("a", ONE, 3 * MIB)
    world.stores(Life(), 3, 4)
    stale.write(Lsn(5 * MIB))
    at = [5 * MIB]

    def move(_: str, __: str) -> None:
        at[0] += 8192
        stale.write(Lsn(at[0]))

    world.files("b", Life(TWO), range(3, 8))
    world.store.before = move
    world.take_over("b", TWO, 8 * MIB)
    assert at[0] > 5 * MIB
    assert world.frontier == (2, 5, "b")


def test_an_owner_holds_its_writes_back_while_another_member_leads_and_not_in_a_pause(world: World) -> None:
    owner = world.take_over("a", ONE, 3 * MIB)
    owner.other_leader = "b"
    with pytest.raises(HeldBack):
        owner.write(Lsn(4 * MIB))
    owner.other_leader = None
    owner.write(Lsn(4 * MIB))
    assert world.frontier == (1, 4, "a")


def test_a_record_that_changed_owner_meanwhile_is_looked_at_again(world: World) -> None:
    world.owned(Life(), number=5)
    world.files("b", Life(TWO), range(3, 8))
    documents = iter([msgspec.structs.replace(world.record, owner="c", session="other").encode()])

    def other_owner(_: str, __: str) -> None:
        for document in documents:
            world.dcs.put(document)

    world.store.before = other_owner
    with pytest.raises(CasConflict):
        world.take_over("b", TWO, 8 * MIB)


# --- a refusal stands, and may be accepted ----------------------------------------------------------------------------


def refusals(poke: Callable[[], None] = lambda: None) -> Refusals:
    return Refusals(SystemClock(), poke)


def test_a_refusal_stands_until_record_or_server_change(world: World) -> None:
    world.owned(Life(), number=9)
    kept = refusals()
    now = situation(world.dcs.record, SYSTEM, 1, 17)
    assert not kept.stands(now)
    kept.refused(NothingToCompare("x"), now, kept.accepted)
    assert kept.stands(now)
    world.put_record(lsn=str(Lsn(10 * MIB)))
    assert kept.stands(situation(world.dcs.record, SYSTEM, 1, 17))  # a stale owner writes on
    assert not kept.stands(situation(world.dcs.record, SYSTEM, 2, 17))
    assert not kept.stands(situation(world.dcs.record, SYSTEM, 1, 18))
    world.put_record(owner="b")
    assert not kept.stands(situation(world.dcs.record, SYSTEM, 1, 17))
    assert not kept.stands(situation(None, SYSTEM, 1, 17))


def test_a_person_lets_the_next_takeover_pass_one_refusal_only() -> None:
    poked = []
    kept = refusals(lambda: poked.append(1))
    with pytest.raises(AgentError, match="none was refused"):
        kept.answer({"accept": True})
    assert kept.answer({}) == {}
    kept.refused(NothingToCompare("x", hint="y"), "now", kept.accepted)
    assert kept.answer({}) == {"reason": "nothing_to_compare", "text": "x", "hint": "y"}
    assert kept.accepted == set()
    kept.answer({"accept": True})
    assert (set(kept.accepted), kept.stands("now"), poked) == ({"nothing_to_compare"}, False, [1])
    kept.refused(StoreBehind("z"), "now", kept.accepted)
    assert kept.accepted == set()


@pytest.mark.parametrize("problem", [OtherBytes("x"), NumberUsedTwice("x"), WrongSegmentSize("x"), Refused("x")])
def test_a_person_cannot_let_pass_that_bytes_differ(problem: Refused) -> None:
    kept = refusals()
    kept.refused(problem, "now", kept.accepted)
    with pytest.raises(AgentError, match="cannot be accepted"):
        kept.answer({"accept": True})
    assert kept.accepted == set()
