"""Before a promotion, decision by decision: a scripted standby, a store and a DCS in memory, and time that passes when told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.core.test_floor import a_floor
from tests.core.values import history_text, message_record, wal_of
from tests.twins.hand_clock import HandClock
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.archive import tail
from walkeeper.archive.codec import Codec
from walkeeper.archive.expiry import write_floor
from walkeeper.archive.open import Archives
from walkeeper.config import load
from walkeeper.core.floor import Below
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap, Record, decode_record
from walkeeper.core.synchronous import LEASE, LEASE_OVER, standby_name
from walkeeper.core.tail import Piece
from walkeeper.dcs.base import Leader, Versioned
from walkeeper.errors import (
    BadRecord,
    CannotTell,
    CasConflict,
    ConfigError,
    DcsUnavailable,
    NotLeader,
    PostgresError,
    PromotionVetoed,
    StoreUnavailable,
    WalkeeperError,
    WrongCluster,
)
from walkeeper.postgres.server import ServerState
from walkeeper.promote import before, command
from walkeeper.promote.before import Before, Candidate
from walkeeper.promote.lose import Word
from walkeeper.promote.standby import Replay
from walkeeper.promote.stored import Stored
from walkeeper.promote.waited import ask

SYSTEM: Final = 7300000000000000001
SIZE: Final = SegmentSize(MIB)
ONE: Final = History(1)
FIRST: Final = 3
OWN: Final = "0123456789ab"
SESSION: Final = OWN + "f" * 20


class Time(HandClock):
    """When somebody has slept, what is due of ``then`` happens."""

    def __init__(self) -> None:
        super().__init__()
        self.then: list[tuple[float, Callable[[], None]]] = []

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        due, self.then = (
            [each for each in self.then if each[0] <= self.now],
            [each for each in self.then if each[0] > self.now],
        )
        for _, act in due:
            act()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.then.append((self.now + seconds, act))


@dataclass
class ScriptedStandby:
    """``replayed`` moves as ``comes`` says, at each look."""

    replayed: int
    timeline: int = 1
    in_recovery: bool = True
    paused: bool = False
    receiver: int | None = None
    system: int = SYSTEM
    histories: dict[int, History] = field(default_factory=dict)
    comes: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    problem: WalkeeperError | None = None
    waits_for: str = ""

    def state(self) -> ServerState:
        self._check()
        return ServerState(self.system, self.in_recovery, self.timeline, Lsn(self.replayed), SIZE, 15, "replica")

    def look(self) -> Replay:
        self._check()
        if self.comes:
            self.replayed = self.comes.pop(0)
        at = Lsn(self.replayed)
        return Replay(self.in_recovery, at, self.timeline, self.paused, self.receiver, self.waits_for)

    def history(self, timeline: int, stored: Callable[[int], History]) -> History:
        return self.histories.get(timeline) or stored(timeline)

    def stop_receiving(self, pid: int) -> None:
        self.ended.append(pid)

    def _check(self) -> None:
        if self.problem is not None:
            raise self.problem


@cache
def written(history: History) -> tuple[dict[Segment, bytes], list[tuple[Lsn, Lsn]]]:
    """A record each 5,000 bytes, for three segments; one is larger than a page."""
    lengths = [5000] * 300 + [20_000] + [5000] * 300
    return wal_of(history, SIZE, SYSTEM, FIRST, [message_record(each) for each in lengths])


class World:
    """Segments from FIRST on whose records are where ``ends`` says; the store has what a test puts there."""

    def __init__(self) -> None:
        self.time = Time()
        self.store = MemoryStore()
        self.dcs = MemoryDcs()
        self.dcs.set_leader("b")
        self.records = MemoryRecord(self.dcs)
        self.archives = Archives(self.store, "demo", None, Codec())
        self.archive = self.archives.archive(SYSTEM, SIZE)
        self.archive.state_start(Segment(1, FIRST, SIZE))
        self.wal(ONE)
        self.standby = ScriptedStandby(FIRST * MIB)

    def wal(self, history: History) -> None:
        segments, places = written(history)
        self.segments = dict(segments)
        self.history = history
        self.ends = [end for _, end in places]
        if history.timeline > 1:
            self.archive.archive_history(history.timeline, history_text(history))

    def segment(self, number: int) -> Segment:
        return self.history.segment(number, SIZE)

    def complete(self, *numbers: int) -> None:
        for number in numbers:
            self.archive.archive_segment(self.segment(number), self.segments[self.segment(number)], self.history)

    def pieces(self, number: int, *ends: int, owner: str = OWN + "0000", plain: bytes | None = None) -> None:
        """Of that segment, up to those offsets."""
        begin, whole = 0, plain or self.segments[self.segment(number)]
        for end in ends:
            tail.put(self.archive, self.segment(number), Piece(begin, end, owner), whole[begin:end])
            begin = end

    def record(self, lsn: int = FIRST * MIB, **changes: object) -> Record:
        record = Record(
            system_identifier=str(SYSTEM), segment_size=MIB, timeline=self.history.timeline, lsn=str(Lsn(lsn)),
            start=Segment(1, FIRST, SIZE).name, owner="a", session=SESSION, durability="store",
        )  # fmt: skip
        record = msgspec.structs.replace(record, **changes)
        self.dcs.put(record.encode())
        return record

    @property
    def now(self) -> Record:
        assert self.dcs.record is not None
        return decode_record(self.dcs.record.document)

    def run(self, me: str = "b", **changes: object) -> str:
        def opened(server: ServerState) -> Stored:
            return Stored(self.archives, server.system_identifier, server.segment_size)

        candidate = Candidate(me, self.records, self.standby, opened, self.time)  # type: ignore[arg-type]
        return Before(replace(candidate, **changes)).run()  # type: ignore[arg-type]

    def last(self, end: int) -> int:
        """Where the last record ends that ends there or before."""
        return max(each for each in self.ends if each <= end)


@pytest.fixture
def world() -> World:
    return World()


# ------------------------------------------------------------------------------------------------- whom it does not concern


def test_a_cluster_where_no_commit_waits_is_not_hindered(world: World) -> None:
    def asked() -> tuple[str, ...]:
        return ask({"main": world.records}, "local", world.time, lambda: False)

    assert asked() == ()
    world.record(durability="")
    assert asked() == ()
    world.dcs.down = True
    assert asked() == ()
    assert world.time.now == 1000


def test_what_the_record_says_comes_before_the_configuration(world: World) -> None:
    world.record()
    assert ask({"main": world.records}, "local", world.time, lambda: False) == ("main",)
    world.record(durability="")
    assert ask({"main": world.records}, "store", world.time, lambda: False) == ("main",)


def test_a_primary_is_let_alone(world: World) -> None:
    record = world.record()
    world.standby.in_recovery = False
    assert "primary already" in world.run()
    assert world.now == record


def test_the_document_says_how_long_it_takes() -> None:
    text = (Path(__file__).parents[2] / "docs" / "durability.md").read_text()
    for said in (f"waits {LEASE_OVER:g} seconds", f"for {LEASE:g} seconds", f"for {before.STALLED:g} seconds"):
        assert said in text


# ------------------------------------------------------------------------------------------------------------- the session


def test_the_owners_session_is_ended_and_everything_else_stays(world: World) -> None:
    record = world.record()
    world.run()
    assert world.now.closed_by == "b"
    assert world.now.session != SESSION
    assert world.now.session[:12] == OWN
    assert msgspec.structs.replace(world.now, session=SESSION, closed_by="") == record


def test_the_store_is_looked_at_when_the_lease_is_over_from_the_write_on(world: World) -> None:
    """What is stored and acknowledged within the lease counts."""
    world.record()
    assert LEASE_OVER > LEASE
    world.time.after(LEASE, lambda: world.pieces(FIRST, 9000))
    world.standby.comes = [FIRST * MIB, world.last(FIRST * MIB + 9000)]
    assert str(Lsn(world.last(FIRST * MIB + 9000))) in world.run()
    assert world.time.now >= 1000 + LEASE_OVER


def test_an_owner_that_moves_the_record_meanwhile_is_closed_all_the_same(world: World) -> None:
    world.record()
    moves = iter(range(3))
    read = world.records.read

    def moved() -> Versioned | None:
        found = read()
        for move in moves:
            world.record(FIRST * MIB, updated_at=str(move))
            break
        return found

    world.records.read = moved  # type: ignore[method-assign]
    world.run()
    assert world.now.closed_by == "b"


def test_a_record_that_is_written_without_end_is_a_veto(world: World) -> None:
    record = world.record()
    read = world.records.read

    def moved() -> Versioned | None:
        found = read()
        world.dcs.put(record.encode())
        return found

    world.records.read = moved  # type: ignore[method-assign]
    with pytest.raises(CasConflict):
        world.run()


@pytest.mark.parametrize("leader", ["c", None])
def test_without_the_leader_key_there_is_no_promotion(world: World, leader: str | None) -> None:
    record = world.record()
    world.dcs.set_leader(leader)
    with pytest.raises(NotLeader):
        world.run()
    assert world.now == record


def test_a_leadership_that_ends_between_the_look_and_the_write_closes_nothing(world: World) -> None:
    record = world.record()
    leader = world.records.leader

    def lost() -> Leader | None:
        found = leader()
        world.dcs.set_leader("c")
        return found

    world.records.leader = lost  # type: ignore[method-assign]
    with pytest.raises(NotLeader):
        world.run()
    assert world.now == record


def test_a_dcs_that_says_nothing_is_a_veto(world: World) -> None:
    world.record()
    world.dcs.down = True
    with pytest.raises(DcsUnavailable):
        world.run()


def test_a_write_whose_answer_was_lost_is_found(world: World) -> None:
    world.record()
    world.records.lose_answers = 1
    world.run()
    assert len(world.records.writes) == 1
    assert world.now.closed_by == "b"


def test_a_second_candidate_ends_the_session_again_and_knows_whose_pieces_count(world: World) -> None:
    world.record()
    plain = world.segments[world.segment(FIRST)]
    world.pieces(FIRST, 9000)
    world.pieces(FIRST, 8000, owner="f" * 16, plain=plain[:6000] + b"\1" * 2000)
    with pytest.raises(PromotionVetoed):
        world.run()
    session = world.now.session
    world.dcs.set_leader("c")
    world.standby.comes = [world.last(FIRST * MIB + 9000)]
    world.run("c")
    assert world.now.closed_by == "c"
    assert world.now.session != session


def test_whoever_closed_it_before_waits_for_the_lease_once_more(world: World) -> None:
    record = world.record(closed_by="b")
    world.run()
    assert world.time.now >= 1000 + LEASE_OVER
    assert world.now == record


def test_a_record_that_is_ours_is_left_and_the_lease_waited_for(world: World) -> None:
    record = world.record(owner="b")
    world.pieces(FIRST, 9000)
    world.standby.comes = [world.last(FIRST * MIB + 9000)]
    world.run()
    assert world.time.now >= 1000 + LEASE_OVER
    assert world.now == record


@pytest.mark.parametrize("owner", ["a", "b"])
def test_an_owner_that_ended_its_own_session_is_not_waited_for(world: World, owner: str) -> None:
    """It acknowledges nothing more; what it did is in the store. By compare-and-set, so that no newer record says otherwise."""
    record = world.record(owner=owner, closed_by=owner)
    world.pieces(FIRST, 9000)
    world.standby.comes = [world.last(FIRST * MIB + 9000)]
    world.run()
    assert world.time.now == 1000
    assert world.now.closed_by == "b"
    assert (world.now.session != record.session, world.now.session[:12]) == (True, OWN)


def test_an_owner_that_has_taken_over_again_meanwhile_is_waited_for(world: World) -> None:
    ended = world.record(closed_by="a")
    read = world.records.read

    def goes_on() -> Versioned | None:
        found = read()
        if world.now == ended:
            world.record(session="e" * 32)
        return found

    world.records.read = goes_on  # type: ignore[method-assign]
    world.run()
    assert world.time.now >= 1000 + LEASE_OVER
    assert world.now.session[:12] == "e" * 12


def test_another_clusters_record_is_a_veto(world: World) -> None:
    world.record(system_identifier="7")
    with pytest.raises(WrongCluster):
        world.run()


@pytest.mark.parametrize("document", [None, b"garbage"])
def test_without_a_record_the_store_tells_and_the_lease_is_waited_for(world: World, document: bytes | None) -> None:
    if document is not None:
        world.dcs.put(document)
    world.complete(FIRST, FIRST + 1)
    world.pieces(FIRST + 2, 9000)
    wanted = world.last((FIRST + 2) * MIB + 9000)
    with pytest.raises(PromotionVetoed, match=str(Lsn(wanted))):
        world.run()
    world.standby.comes = [wanted]
    begun = world.time.now
    world.run()
    assert world.time.now >= begun + LEASE_OVER


def test_a_record_that_only_a_newer_version_can_read_is_a_veto(world: World) -> None:
    """Its owner may go on to acknowledge."""
    world.record()
    found = world.dcs.record
    assert found is not None
    world.dcs.put(found.document.replace(b'"schema":1', b'"schema":2'))
    with pytest.raises(BadRecord, match="schema 2"):
        world.run()


@pytest.mark.parametrize("waits_for", ["", "*", standby_name(SYSTEM + 1)])
def test_without_a_record_and_an_archive_nothing_was_acknowledged(world: World, waits_for: str) -> None:
    world.standby.waits_for = waits_for
    world.store.objects.clear()
    assert "nothing was ever archived" in world.run()


@pytest.mark.parametrize("document", [None, b"garbage"])
def test_p8_an_empty_store_is_not_believed_without_a_record_where_commits_wait(
    world: World, document: bytes | None
) -> None:
    """It is the wrong one, or its disk is not mounted. That commits wait was set when the archive was there."""
    if document is not None:
        world.dcs.put(document)
    world.complete(FIRST)
    world.pieces(FIRST + 1, 9000)
    stored = dict(world.store.objects)
    world.store.objects.clear()
    world.standby.waits_for = f"FIRST 1 (c, {standby_name(SYSTEM)})"
    with pytest.raises(CannotTell, match="no archive is there, and by synchronous_standby_names commits wait"):
        world.run()
    world.time.after(LEASE_OVER + before.STALLED / 2, lambda: world.store.objects.update(stored))
    world.standby.comes = [FIRST * MIB] * 40 + [world.last((FIRST + 1) * MIB + 9000)]
    assert str(Lsn(world.last((FIRST + 1) * MIB + 9000))) in world.run()


# ------------------------------------------------------------------------------------------------------------- the store's end


def wanted(world: World) -> int:
    """What a standby that has nothing is held to."""
    world.standby.replayed = FIRST * MIB
    with pytest.raises(PromotionVetoed) as vetoed:
        world.run()
    return int(Lsn.parse(str(vetoed.value).partition("acknowledged up to ")[2].split()[0].rstrip(";,")))


def test_the_end_is_that_of_the_last_whole_record(world: World) -> None:
    world.record()
    world.complete(FIRST)
    world.pieces(FIRST + 1, 1000, 9001)
    assert wanted(world) == world.last((FIRST + 1) * MIB + 9001)


def test_where_no_record_ends_in_the_last_segment_it_is_one_of_the_segment_below(world: World) -> None:
    world.record()
    world.complete(FIRST)
    world.pieces(FIRST + 1, 100)
    found = wanted(world)
    assert found == world.last((FIRST + 1) * MIB + 100)
    assert found < (FIRST + 1) * MIB


def test_a_segment_that_only_its_pieces_complete_is_gone_over(world: World) -> None:
    world.record()
    world.pieces(FIRST, 500_000, MIB)
    world.pieces(FIRST + 1, 100)
    assert wanted(world) == world.last((FIRST + 1) * MIB + 100)


def test_behind_the_frontier_alone_is_looked_and_a_hole_ends_it(world: World) -> None:
    world.record((FIRST + 1) * MIB)
    world.complete(FIRST + 1)
    world.pieces(FIRST + 2, 20_000, owner="x" * 16)
    assert wanted(world) == world.last((FIRST + 2) * MIB + 20_000)
    for key in [key for key in world.store.objects if world.segment(FIRST + 1).name in key]:
        del world.store.objects[key]
    world.complete(FIRST)
    assert wanted(world) == world.last((FIRST + 1) * MIB)


def test_a_segment_that_is_completed_between_two_looks_is_no_hole(world: World) -> None:
    world.record()
    world.complete(FIRST)

    def completed(method: str, key: str) -> None:
        if method == "list" and f"tail/{world.segment(FIRST + 1).name}" in key:
            world.store.before = None
            world.complete(FIRST + 1)

    world.store.before = completed
    assert wanted(world) == world.last((FIRST + 2) * MIB)


def test_a_store_that_has_less_than_the_record_says_is_a_veto(world: World) -> None:
    world.record(FIRST * MIB + 9000)
    world.pieces(FIRST, 8000)
    world.standby.replayed = (FIRST + 2) * MIB
    with pytest.raises(CannotTell, match="the record says up to"):
        world.run()


@pytest.mark.parametrize("frontier", [FIRST, FIRST + 1])
def test_p8_an_empty_store_has_not_what_the_record_says_at_a_segments_start(world: World, frontier: int) -> None:
    """Another prefix, or a disk that is not mounted here. The owner had acknowledged what lies behind."""
    world.record(frontier * MIB)
    world.complete(*range(FIRST, frontier))
    world.pieces(frontier, 60_000)
    world.standby.replayed = frontier * MIB
    right, world.archives = world.archives, Archives(MemoryStore(), "demo", None, Codec())
    with pytest.raises(CannotTell, match="the record s") as caught:
        world.run()
    assert "right store" in caught.value.hint
    world.archives = right
    with pytest.raises(PromotionVetoed, match="replay stands"):
        world.run()
    world.standby.replayed = world.last(frontier * MIB + 60_000)
    world.run()


def test_a_record_whose_owner_could_not_begin_hinders_no_failover(world: World) -> None:
    """The store went away before the archive's start was stated. Nothing was acknowledged."""
    world.record(durability="")
    world.store.objects.clear()
    world.run()


@pytest.mark.parametrize("why", ["a gap in the record", "a gap in the store", "its pieces", "the floor"])
def test_what_the_record_says_may_be_lost_or_given_up_or_not_whole_yet(world: World, why: str) -> None:
    end = Lsn((FIRST + 1) * MIB)
    world.standby.replayed = end
    world.record(end)
    with pytest.raises(CannotTell, match=f"{world.segment(FIRST)}: not in the store"):
        world.run()
    if why == "a gap in the record":
        world.record(end, gaps=(Gap(1, str(Lsn(FIRST * MIB)), str(end)),))
    elif why == "a gap in the store":
        world.archive.record_gap(world.segment(FIRST), end)
    elif why == "its pieces":
        world.pieces(FIRST, 500_000, MIB)
    else:
        floor = a_floor(
            system_identifier=str(SYSTEM), start=world.segment(FIRST + 1).name, below=(Below(1, str(end)),), kept=()
        )
        write_floor(world.store, world.archive.layout, floor)
    world.run()


def test_a_damaged_piece_is_a_veto_unless_the_standby_has_that(world: World) -> None:
    world.record()
    world.pieces(FIRST, 9000, 20_000)
    key = next(key for key in world.store.objects if "00002328-00004E20" in key)
    world.store.objects[key] = (b"damaged", world.store.objects[key][1])
    world.standby.replayed = world.last(FIRST * MIB + 9000)
    with pytest.raises(CannotTell, match="00002328-00004E20"):
        world.run()
    world.standby.comes = [FIRST * MIB + 20_000]
    world.run()


def test_pieces_that_differ_are_a_veto_that_names_both_unless_one_is_the_owners(world: World) -> None:
    world.record()
    plain = world.segments[world.segment(FIRST)]
    world.pieces(FIRST, 9000, owner="e" * 16)
    world.pieces(FIRST, 8000, owner="f" * 16, plain=plain[:6000] + b"\1" * 2000)
    world.standby.replayed = (FIRST + 2) * MIB
    with pytest.raises(CannotTell, match="e" * 16) as vetoed:
        world.run()
    assert "f" * 16 in str(vetoed.value)
    world.pieces(FIRST, 6500)
    assert wanted(world) == world.last(FIRST * MIB + 9000)  # an earlier run of the same server's got further


def test_records_of_an_unknown_form_are_a_veto_unless_the_standby_has_all_bytes(world: World) -> None:
    world.record()
    segment = world.segment(FIRST)
    world.segments[segment] = b"\x77\xd1" + world.segments[segment][2:]
    world.pieces(FIRST, 8000)
    with pytest.raises(CannotTell, match="a form that this version does not know"):
        world.run()
    world.standby.comes = [FIRST * MIB + 8000]
    world.run()


def test_a_store_that_is_away_is_asked_again_and_then_a_veto(world: World) -> None:
    world.record()
    world.pieces(FIRST, 9000)
    world.store.down = True
    with pytest.raises(StoreUnavailable):
        world.run()
    assert world.time.now >= 1000 + LEASE_OVER + before.STALLED
    world.time.after(LEASE_OVER + 20, lambda: setattr(world.store, "down", False))
    world.standby.replayed = world.last(FIRST * MIB + 9000)
    world.run()


def test_a_standby_that_moves_does_not_make_a_silent_store_be_waited_for_without_end(world: World) -> None:
    world.record()
    world.store.down = True
    world.standby.comes = list(range(FIRST * MIB, FIRST * MIB + 10_000))
    with pytest.raises(StoreUnavailable):
        world.run()


# ------------------------------------------------------------------------------------------------------------- the standby


def test_as_long_as_replay_moves_it_is_waited_for(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.record()
    world.pieces(FIRST, 500_000)
    end = world.last(FIRST * MIB + 500_000)
    for minute, position in enumerate([*range(FIRST * MIB, end, 100_000), end]):
        world.time.after(LEASE_OVER + 55 * minute, lambda to=position: setattr(world.standby, "replayed", to))  # type: ignore[misc]
    with caplog.at_level(logging.INFO, "walkeeper"):
        world.run()
    assert world.time.now > 1000 + 4 * before.STALLED
    assert "pre_promote_waits" in caplog.text


def test_a_pause_is_said(world: World) -> None:
    world.record()
    world.pieces(FIRST, 9000)
    world.standby.paused = True
    with pytest.raises(PromotionVetoed, match="paused") as vetoed:
        world.run()
    assert "pg_wal_replay_resume" in vetoed.value.hint
    world.standby.replayed = world.last(FIRST * MIB + 9000)  # paused, and there
    world.run()


def test_what_holds_replay_up_is_named(world: World) -> None:
    world.record((FIRST + 1) * MIB)
    world.pieces(FIRST + 1, 9000)
    with pytest.raises(PromotionVetoed, match=f"{world.segment(FIRST)}, is not in the store"):
        world.run()
    world.standby.replayed = (FIRST + 1) * MIB
    with pytest.raises(PromotionVetoed, match="replay stands at") as vetoed:
        world.run()
    assert "restore_command" in vetoed.value.hint


def test_a_walreceiver_that_brings_nothing_is_ended(world: World) -> None:
    world.record()
    world.pieces(FIRST, 9000)
    world.standby.receiver = 4711
    with pytest.raises(PromotionVetoed):
        world.run()
    assert 2 <= len(world.standby.ended) <= 6
    world.standby.ended.clear()
    world.standby.replayed = world.last(FIRST * MIB + 9000)
    world.run()
    assert world.standby.ended == []


def test_a_server_that_does_not_answer_is_a_veto_and_one_that_comes_back_is_not(world: World) -> None:
    world.record()
    world.standby.problem = PostgresError("postgresql: no answer")
    with pytest.raises(PostgresError):
        world.run()
    world.time.after(20, lambda: setattr(world.standby, "problem", None))
    world.run()


def test_a_standby_on_an_older_timeline_follows_first(world: World) -> None:
    two = History(2, (Switch(1, Lsn(world.ends[3])),))
    world.wal(two)
    world.record()
    world.pieces(FIRST, 60_000)
    end = world.last(FIRST * MIB + 60_000)
    world.standby.replayed = world.ends[3]

    def follows() -> None:
        world.standby.timeline, world.standby.replayed = 2, end

    world.time.after(30, follows)
    assert "timeline 2" in world.run()


def test_what_was_written_before_the_fork_is_wanted_though_nothing_is_stored_behind_it(world: World) -> None:
    two = History(2, (Switch(1, Lsn(world.ends[3])),))
    world.wal(two)
    world.record()
    world.standby.replayed = world.ends[2]
    with pytest.raises(PromotionVetoed, match=str(Lsn(world.ends[3]))):
        world.run()
    world.standby.replayed = world.ends[3]
    world.run()


def test_p8_a_branch_that_left_before_what_was_acknowledged_is_not_promoted(world: World) -> None:
    world.record()
    world.pieces(FIRST, 60_000)
    end = world.last(FIRST * MIB + 60_000)
    for fork, passes in ((world.ends[3], False), (Lsn(end), True)):
        three = History(3, (Switch(1, Lsn(fork)),))
        world.standby.histories = {3: three}
        world.standby.timeline, world.standby.replayed = 3, end + 5000
        if passes:
            world.run()
        else:
            with pytest.raises(PromotionVetoed, match="left timeline 1"):
                world.run()


# ----------------------------------------------------------------------------------------------------------------- its word


def test_a_persons_word_lets_one_promotion_pass(
    tmp_path: Path,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = tmp_path / "patroni.yml"
    file.touch(mode=0o600)
    file.write_text(
        f"scope: demo\nname: b\npostgresql: {{data_dir: {tmp_path}/data, authentication: {{replication: {{username: r}}}}}}\n"
        f"walkeeper: {{store: {{directory: {tmp_path}}}, durability: store}}\n"
    )
    config = load(file, {})
    monkeypatch.setattr(command, "_before", lambda *_, **__: world.run())
    world.record()
    world.pieces(FIRST, 9000)

    def run() -> int:
        return command.run(config, Word(config.spool_directory), 60)

    assert run() == command.VETOED
    monkeypatch.setattr(command, "_is_primary", lambda _: False)
    assert command.main(config, lose=True, stalled=60) == 0
    assert "failover demo --candidate b" in capsys.readouterr().out
    word = Word(config.spool_directory)
    assert word.path.stat().st_mode & 0o777 == 0o600
    assert run() == command.GOES_ON
    assert "pre_promote_with_loss" in caplog.text
    assert world.now.closed_by == "b"
    assert run() == command.VETOED  # for one promotion

    word.give()
    monkeypatch.setattr("walkeeper.promote.lose.wall_seconds", lambda: 10.0**10)
    assert run() == command.VETOED  # and not for long
    monkeypatch.undo()
    monkeypatch.setattr(command, "_before", lambda *_, **__: world.run())

    word.give()
    world.dcs.set_leader("c")
    assert run() == command.VETOED  # never without the leader key, which does not use it up
    world.dcs.set_leader("b")
    world.standby.replayed = world.last(FIRST * MIB + 9000)
    assert run() == command.GOES_ON
    assert not word.path.exists()  # what needs no loss uses it up, too


def test_p16_a_word_that_others_could_have_written_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = Word(tmp_path / "spool")
    assert not word.take()
    word.give()
    word.path.chmod(0o666)
    assert not word.take()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("1\n")
    word.path.symlink_to(elsewhere)
    assert not word.take()
    assert elsewhere.exists()
    with monkeypatch.context() as patch:
        patch.setattr("walkeeper.promote.lose.os.geteuid", lambda: 4711)
        with pytest.raises(ConfigError, match="another user"):
            word.give()
