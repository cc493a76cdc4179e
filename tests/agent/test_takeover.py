"""The takeover over a DCS and a store in memory: who may own the record, and where archiving goes on."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from tests.core.values import history_text, plain_segment
from tests.fixtures.worlds import NOWHERE
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.archiver.life import Watcher
from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.agent.archiver.ownership import Ownership, take_over
from walkeeper.agent.archiver.refusals import Rival
from walkeeper.agent.problems import Problems
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout, parse_gap_name
from walkeeper.archive.write import Archive
from walkeeper.config.model import Durability
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.promotion import closed
from walkeeper.core.record import Gap, decode_record
from walkeeper.core.takeover import LocalServer
from walkeeper.errors import (
    BadName,
    BeyondServer,
    CasConflict,
    Conflict,
    DcsError,
    DcsUnavailable,
    Fenced,
    HeldBack,
    NotLeader,
    RecordDenied,
    StoreUnavailable,
    WrongCluster,
    WrongTimeline,
)
from walkeeper.lib.clock import SystemClock

SYSTEM = 7300000000000000001
SIZE = SegmentSize(MIB)
ONE = History(1)
TWO = History(2, (Switch(1, Lsn(5 * MIB + 100)),))
THREE = History(3, (Switch(1, Lsn(7 * MIB + 50)),))
"""A sibling of TWO."""


class World:
    """One DCS, one store, and nodes a, b, c."""

    def __init__(self) -> None:
        self.dcs = MemoryDcs()
        self.store = MemoryStore()
        self.archive = Archive(self.store, Layout("demo", None, SYSTEM), SIZE, Codec())
        self.records = {name: MemoryRecord(self.dcs) for name in "abc"}

    def take_over(
        self,
        name: str,
        history: History,
        lsn: int,
        *,
        leader: str | None = None,
        system: int = SYSTEM,
        accepted: Collection[str] = (),
        durability: Durability = "local",
    ) -> Ownership:
        self.dcs.set_leader(leader or name)
        histories = {history.timeline: history_text(history)} if history.switches else {}
        wal = LocalWal(LocalServer(system, SIZE, history, Lsn(lsn)), histories, NOWHERE)
        return take_over(name, self.records[name], self.archive, wal, Watcher(SystemClock()), accepted, durability)

    def put(self, history: History, *numbers: int) -> None:
        for number in numbers:
            segment = history.segment(number, SIZE)
            self.archive.archive_segment(segment, plain_segment(segment, SYSTEM), history)

    @property
    def frontier(self) -> tuple[int, int, str]:
        assert self.dcs.record is not None
        record = decode_record(self.dcs.record.document)
        return record.timeline, record.position // MIB, record.owner


@pytest.fixture
def world() -> World:
    return World()


def test_a_new_archive_begins_with_the_current_segment_and_says_so(world: World) -> None:
    world.take_over("a", ONE, 3 * MIB + 5)
    assert world.frontier == (1, 3, "a")
    assert world.archive.contents.start() == Segment(1, 3, SIZE)


def test_p4_a_promoted_node_goes_on_from_the_frontier(world: World) -> None:
    world.take_over("a", ONE, 3 * MIB).write(Lsn(4 * MIB))
    world.put(ONE, 3)
    world.take_over("b", TWO, 9 * MIB)
    assert world.frontier == (2, 4, "b")


def test_p4_a_frontier_beyond_the_fork_goes_back_to_it(world: World) -> None:
    owner = world.take_over("a", ONE, 3 * MIB)
    world.put(ONE, 3, 4, 5, 6)
    owner.write(Lsn(7 * MIB))
    world.take_over("b", TWO, 9 * MIB)
    assert world.frontier == (2, 5, "b")


def test_p4_a_sibling_that_does_not_know_the_other_branch_goes_back_to_their_fork(world: World) -> None:
    owner = world.take_over("a", TWO, 3 * MIB)
    world.put(TWO, *range(3, 9))
    owner.write(Lsn(9 * MIB))
    world.take_over("c", THREE, 12 * MIB)
    assert world.frontier == (3, 5, "c")


def test_what_the_store_has_beyond_the_record_is_skipped(world: World) -> None:
    """Uploads that were not recorded before the crash, or a DCS restored from an old backup."""
    world.take_over("a", ONE, 3 * MIB)
    world.put(ONE, 3, 4, 6)
    world.take_over("a", ONE, 9 * MIB)
    assert world.frontier == (1, 5, "a")


def test_p8_who_does_not_lead_does_not_take_over(world: World) -> None:
    with pytest.raises(NotLeader):
        world.take_over("a", ONE, 3 * MIB, leader="b")
    assert world.dcs.record is None


def test_p8_an_older_timeline_does_not_take_over(world: World) -> None:
    world.take_over("b", TWO, 6 * MIB)
    with pytest.raises(WrongTimeline):
        world.take_over("a", ONE, 9 * MIB)
    assert world.frontier[2] == "b"


def test_p5_another_cluster_does_not_take_over(world: World) -> None:
    world.take_over("a", ONE, 3 * MIB)
    with pytest.raises(WrongCluster) as caught:
        world.take_over("b", ONE, 3 * MIB, system=SYSTEM + 1)
    assert "takeover --accept" in caught.value.hint


def test_p8_the_old_owner_is_fenced_by_the_new_ones_takeover(world: World) -> None:
    old = world.take_over("a", ONE, 3 * MIB)
    world.take_over("b", TWO, 9 * MIB)
    before = world.dcs.record
    with pytest.raises(Fenced):
        old.write(Lsn(8 * MIB))
    assert world.dcs.record == before


def test_an_owner_whose_session_was_ended_is_fenced_and_its_next_takeover_says_what_commits_wait_for(
    world: World,
) -> None:
    owner = world.take_over("a", ONE, 3 * MIB, durability="store")
    assert (owner.record.durability, owner.record.closed_by) == ("store", "")
    ended = closed(owner.record, "b", "f" * 32)
    world.dcs.put(ended.encode())
    with pytest.raises(Fenced):
        owner.write(Lsn(4 * MIB))
    problems = Problems(SystemClock())
    rival = Rival("a", problems, SystemClock())
    for _ in range(3):
        rival.lost(owner.record.session)
        assert not rival.has(world.dcs.record)
    assert problems.open() == []  # it is not another agent of its own name that has ended it
    again = world.take_over("a", ONE, 3 * MIB)
    assert (again.record.durability, again.record.closed_by) == ("", "")


def test_p8_a_record_says_that_commits_wait_only_when_the_archives_start_is_stated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promotion holds it against that: the store may go away between the two, and nothing was acknowledged."""

    def away(_: Segment) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(world.archive, "state_start", away)
        with pytest.raises(StoreUnavailable):
            world.take_over("a", ONE, 3 * MIB, durability="store")
    assert world.dcs.record is not None
    assert decode_record(world.dcs.record.document).durability == ""
    owner = world.take_over("a", ONE, 3 * MIB, durability="store")
    assert owner.record.durability == "store"
    assert decode_record(world.dcs.record.document) == owner.record
    owner.confirm()
    writes = len(world.records["a"].writes)
    world.take_over("a", ONE, 3 * MIB, durability="store")
    assert len(world.records["a"].writes) == writes + 1


def test_g3_a_denied_write_comes_after_everything_was_compared_and_a_denied_read_does_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = world.records["a"]
    records.denied = True
    with pytest.raises(DcsError) as caught:
        world.take_over("a", ONE, 3 * MIB)
    assert not isinstance(caught.value, RecordDenied)
    records.denied, records.read_only = False, True
    with pytest.raises(RecordDenied, match="writes are refused"):
        world.take_over("a", ONE, 3 * MIB)
    records.read_only = False

    def begins(_: Segment) -> None:
        records.read_only = True

    monkeypatch.setattr(world.archive, "state_start", begins)
    with pytest.raises(RecordDenied):  # its second write
        world.take_over("a", ONE, 3 * MIB, durability="store")
    monkeypatch.undo()
    records.read_only, records.lose_answers = False, 1
    with pytest.raises(DcsUnavailable):
        world.take_over("a", ONE, 3 * MIB)


@pytest.mark.parametrize("reads_lag", [False, True])
def test_p8_an_owner_confirms_its_record_by_what_cannot_be_old(world: World, reads_lag: bool) -> None:
    """What Patroni remembers of Kubernetes may be: there it is written again."""
    owner, records = world.take_over("a", ONE, 3 * MIB, durability="store"), world.records["a"]
    records.reads_lag = reads_lag
    before = len(records.writes)
    owner.confirm()
    assert len(records.writes) - before == reads_lag
    owner.other_leader = "b"
    with pytest.raises(HeldBack):
        owner.confirm()
    owner.other_leader = None
    world.dcs.put(closed(owner.record, "b", "f" * 32).encode())
    with pytest.raises(Fenced):
        owner.confirm()


def test_a_write_whose_answer_was_lost_is_recognised_as_our_own(world: World) -> None:
    owner = world.take_over("a", ONE, 3 * MIB)
    world.records["a"].lose_answers = 1
    with pytest.raises(DcsUnavailable):
        owner.write(Lsn(4 * MIB))
    owner.write(Lsn(5 * MIB))
    assert world.frontier == (1, 5, "a")


def test_the_frontier_never_moves_back_within_one_ownership(world: World) -> None:
    owner = world.take_over("a", ONE, 5 * MIB)
    owner.write(Lsn(4 * MIB))
    assert world.frontier == (1, 5, "a")


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{}", b"not json", b"[1]", b'{"schema": 99}', b'"' + b"x" * 100_000 + b'"', b'{"lsn": "FFFFFFFF/0"}'],
)
def test_p11_a_record_that_cannot_be_read_is_rebuilt_from_the_store(world: World, garbage: bytes) -> None:
    world.take_over("a", ONE, 3 * MIB)
    world.put(ONE, 3, 4)
    world.dcs.put(garbage)
    world.take_over("b", TWO, 9 * MIB)
    assert world.frontier == (2, 5, "b")


def test_p11_a_wiped_record_is_rebuilt_from_the_store(world: World) -> None:
    world.take_over("a", ONE, 3 * MIB)
    world.put(ONE, 3, 4, 6)
    world.archive.record_gap(Segment(1, 5, SIZE), Lsn(6 * MIB))
    world.dcs.wipe()
    owner = world.take_over("a", ONE, 9 * MIB)
    assert world.frontier == (1, 7, "a")
    assert owner.record.gaps == (Gap(1, "0/500000", "0/600000"),)


def test_p13_a_frontier_ahead_of_the_server_is_refused_until_a_person_lets_it_pass(world: World) -> None:
    owner = world.take_over("a", ONE, 3 * MIB)
    world.put(ONE, 3)
    owner.write(Lsn(500 * MIB))
    with pytest.raises(BeyondServer):
        world.take_over("a", ONE, 9 * MIB)
    world.take_over("a", ONE, 9 * MIB, accepted={"beyond_server"})
    assert world.frontier == (1, 4, "a")


def test_the_history_is_stored_before_the_record_says_the_timeline(world: World) -> None:
    def fail_for_history(call: str, key: str) -> None:
        if call == "create" and "/history/" in key:
            raise StoreUnavailable("no answer")

    world.store.before = fail_for_history
    with pytest.raises(StoreUnavailable):
        world.take_over("b", TWO, 9 * MIB)
    assert world.dcs.record is None


def test_a_timeline_number_used_twice_is_refused(world: World) -> None:
    world.take_over("a", TWO, 9 * MIB)
    with pytest.raises(Conflict, match=r"00000002\.history"):
        world.take_over("b", History(2, (Switch(1, Lsn(6 * MIB)),)), 9 * MIB)
    assert world.frontier[2] == "a"


def test_a_leadership_that_ended_in_between_is_noticed_by_the_dcs(world: World) -> None:
    """The second lock: the leader key is checked in the same transaction, where the DCS can."""

    def depose(call: str, _: str) -> None:
        world.store.before = None
        world.dcs.set_leader("b")

    world.store.before = depose
    with pytest.raises(CasConflict):
        world.take_over("a", ONE, 3 * MIB)
    assert world.dcs.record is None


def test_the_start_is_stated_again_if_its_first_statement_was_lost(world: World) -> None:
    def fail_for_start(call: str, key: str) -> None:
        if call == "create" and "/start/" in key:
            raise StoreUnavailable("no answer")

    world.store.before = fail_for_start
    with pytest.raises(StoreUnavailable):
        world.take_over("a", ONE, 3 * MIB)
    world.store.before = None
    world.take_over("a", ONE, 8 * MIB)
    assert world.archive.contents.start() == Segment(1, 3, SIZE)
    assert world.frontier == (1, 3, "a")


@pytest.mark.parametrize("history", [ONE, TWO, THREE])
def test_a_frontier_inside_a_segment_is_taken_up_at_the_segments_start(world: World, history: History) -> None:
    """The tail that it rests on lies under the old timeline's name, or is streamed again: the claim goes back a little."""
    owner = world.take_over("a", ONE, 4 * MIB)
    world.put(ONE, 4, 5, 6)
    owner.write(Lsn(7 * MIB + 40))
    assert owner.record.position == 7 * MIB + 40
    taken = world.take_over("a" if history is ONE else "b", history, 8 * MIB)
    assert taken.record.position == (5 * MIB if history is TWO else 7 * MIB)


STRAY = (
    "start/readme.txt",
    "start/00000001000000000000000z.json",
    "gap/readme.txt",
    "history/readme.txt",
    "history/x.history",
)


def test_p16_stray_objects_keep_nobody_from_a_takeover_without_a_record(world: World) -> None:
    for name in STRAY:
        world.store.create(f"demo/{SYSTEM}/{name}", b"hello", {})
    world.take_over("a", ONE, 3 * MIB)
    world.put(ONE, 3, 4)
    world.dcs.wipe()
    world.take_over("a", ONE, 9 * MIB)
    assert world.frontier == (1, 5, "a")


def test_p16_a_planted_start_beyond_a_hole_moves_no_rebuilt_frontier_over_it(world: World) -> None:
    world.take_over("a", ONE, 3 * MIB)
    world.put(ONE, 3, 4)
    world.archive.state_start(Segment(1, 8, SIZE))
    world.dcs.wipe()
    owner = world.take_over("a", ONE, 9 * MIB)
    assert world.frontier == (1, 5, "a")
    assert owner.record.start == Segment(1, 3, SIZE).name


def test_p16_a_planted_start_beyond_the_servers_own_wal_is_refused(world: World) -> None:
    world.take_over("a", ONE, 3 * MIB)
    world.archive.state_start(Segment(1, 80, SIZE))
    world.dcs.wipe()
    with pytest.raises(BeyondServer):
        world.take_over("a", ONE, 9 * MIB)


def test_an_archive_that_was_shortened_begins_with_its_new_start(world: World) -> None:
    world.take_over("a", ONE, 3 * MIB)
    world.put(ONE, *range(3, 9))
    world.archive.state_start(Segment(1, 6, SIZE))
    for deleted in ((), (3, 4), (3, 4, 5)):
        for number in deleted:
            world.store.delete(world.archive.layout.file(Segment(1, number, SIZE), ".zst"))
        world.dcs.wipe()
        owner = world.take_over("a", ONE, 10 * MIB)
        assert (world.frontier, owner.record.start) == ((1, 9, "a"), Segment(1, 6, SIZE).name)


@pytest.mark.parametrize(
    "name",
    [
        "000000010000000000000005--5",
        "000000010000000000000005-0000000000500000",
        "000000010000000000000005- 000000000060000",
        "000000010000000000000005-" + "F" * 200,
    ],
)
def test_p16_a_gap_whose_name_makes_no_sense_is_no_gap(world: World, name: str) -> None:
    with pytest.raises(BadName):
        parse_gap_name(name, SIZE)
    world.take_over("a", ONE, 3 * MIB)
    world.put(ONE, 3, 4, 6)
    world.store.objects[f"demo/{SYSTEM}/gap/{name}.json"] = (b"{}", {})
    world.dcs.wipe()
    world.take_over("a", ONE, 9 * MIB)
    assert world.frontier == (1, 5, "a")


def test_the_records_start_moves_with_the_floor_and_never_back_or_beyond_the_frontier(world: World) -> None:
    owner = world.take_over("a", ONE, 3 * MIB)
    for begins, expected in ((None, 3), (5, 5), (4, 5), (9, 5)):
        owner.begins = None if begins is None else Segment(1, begins, SIZE)
        owner.write(Lsn(9 * MIB + 40))
        assert owner.record.start == Segment(1, expected, SIZE).name
