"""WAL that the owner's server has recycled, on real servers: where it is looked for, and what is a gap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, Postgres, restore_server
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent import members_look
from walkeeper.agent.archiver import lost_wal, member_wal, recorded_gaps, whereabouts
from walkeeper.agent.http.report import report
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import fetch
from walkeeper.archive.write import Archive
from walkeeper.core import suspicion
from walkeeper.core.history import History
from walkeeper.core.hold_slot import slot_target
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap
from walkeeper.core.room import Disk
from walkeeper.core.suspicion import Forgotten
from walkeeper.dcs.base import Member
from walkeeper.errors import StoreUnavailable
from walkeeper.gap import forget
from walkeeper.postgres.server import Server

pytestmark = pytest.mark.postgres
SIZE = SegmentSize(MIB)
RECYCLES = {"min_wal_size": "2MB", "max_wal_size": "2MB", "wal_recycle": "off", "checkpoint_timeout": "1h"}


class Pair:
    """Primary a and its streaming standby b, which keeps WAL by its own hold slot only if told to."""

    def __init__(self, primary: Postgres, directory: Path) -> None:
        prepare(primary)
        self.primary = primary
        self.directory = directory
        self.standby: Postgres | None = None
        self.store = MemoryStore()
        self.dcs = MemoryDcs(slots=(HOLD_SLOT,))
        self.dcs.set_leader("a")
        self.dcs.set_members(Member("a", "primary", "running", "127.0.0.1", primary.port, 1, None))
        self.layout = Layout("demo", None, primary.system_identifier)
        self.archive = Archive(self.store, self.layout, SIZE, Codec())

    def add_standby(self, *, hold_slot: bool) -> Postgres:
        self.primary.physical_slot("b")
        backup = self.primary.base_backup(self.directory / "backup", wal="fetch")
        conninfo = f"host=127.0.0.1 port={self.primary.port} user={REPLICATOR} password={REPLICATOR_PASSWORD} application_name=b"
        standby = restore_server(
            backup,
            self.directory / "b",
            "false",
            bin_dir=self.primary.bin_dir,
            signal_file="standby.signal",
            settings={"primary_conninfo": conninfo, "primary_slot_name": "b", **RECYCLES},
        )
        (standby.data / "pg_hba.conf").write_text("local all all trust\nhost all,replication all 127.0.0.1/32 trust\n")
        standby.start()
        if hold_slot:
            standby.physical_slot(HOLD_SLOT)
        self.standby = standby
        self.dcs.set_members(
            Member("a", "primary", "running", "127.0.0.1", self.primary.port, 1, None),
            Member("b", "replica", "streaming", "127.0.0.1", standby.port, 1, None),
        )
        return standby

    def agent(self, name: str, **changes: object) -> RunningAgent:
        server = self.primary if name == "a" else self.standby
        assert server is not None
        return RunningAgent(config_of(server, name, self.directory, **changes), self.store, self.dcs)

    def chain(self, history: History, start: Lsn, end: Lsn) -> list[Segment]:
        return [history.segment(number, SIZE) for number in range(start // SIZE, end // SIZE)]

    def recycle(self, count: int = 4) -> Lsn:
        """Complete segments without a slot that keeps them, until the server has removed them."""
        self.primary.execute(f"SELECT pg_drop_replication_slot('{HOLD_SLOT}')")
        names = self.primary.complete_segments(count)
        self.caught_up()
        for _ in range(2):
            self.primary.complete_segments(1)
            self.primary.checkpoint()
        assert not (self.primary.pg_wal / names[0]).exists()
        return Segment.parse(self.primary.complete_segments(1)[0], SIZE).end

    def caught_up(self) -> None:
        if self.standby is not None:
            standby = self.standby
            end = Lsn.parse(self.primary.lsn())
            wait_for(lambda: Lsn.parse(standby.lsn()) >= end.floor(SIZE))


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look each half second, where an agent takes five, and a second until what all have said counts, where it takes ten."""
    monkeypatch.setattr(lost_wal, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(suspicion, "SETTLE_SECONDS", 1.0)


@pytest.fixture
def pair(make_postgres: Callable[..., Postgres], short_path: Path) -> Iterator[Pair]:
    pair = Pair(make_postgres(settings=RECYCLES), short_path)
    yield pair
    if pair.standby is not None:
        pair.standby.close()


def test_f4_wal_that_is_nowhere_is_recorded_as_a_gap_and_archiving_goes_on(pair: Pair) -> None:
    with pair.agent("a") as agent:
        agent.wait_frontier(Segment.parse(pair.primary.switch_wal(), SIZE).end)
        lost_from = agent.frontier
    end = pair.recycle()
    with pair.agent("a") as agent:
        agent.wait_frontier(end, 60)
        wait_for(lambda: agent.record.gaps_total == 1)
        gap = agent.record.gaps[0]
        assert Lsn.parse(gap.start) == lost_from
        assert pair.archive.contents.gaps() == [gap] == pair.archive.contents.open_gaps()
        missing = {segment.start for segment in pair.chain(History(1), lost_from, end)} - {
            segment.start for segment in pair.archive.contents.segments()
        }
        assert min(missing) == Lsn.parse(gap.start)
        assert max(missing) + SIZE == Lsn.parse(gap.end)
        wait_for(lambda: "not_gap_safe" in agent.problems())  # its slot was dropped


def test_a_gap_above_uploads_that_are_held_up_is_recorded_once_and_passed_last(pair: Pair) -> None:
    with pair.agent("a") as agent:
        wait_for(lambda: agent.archiving)
        pair.store.before = _hold_up_segments
        below = Segment.parse(pair.primary.complete_segments(2)[-1], SIZE)
        wait_for(lambda: below in agent.agent.spool.complete(SIZE))
    start = agent.frontier
    pair.recycle()
    pair.primary.physical_slot(HOLD_SLOT)
    with pair.agent("a") as agent:
        wait_for(lambda: len(pair.archive.contents.gaps()) == 1, 60)
        end = Segment.parse(pair.primary.switch_wal(), SIZE).end
        wait_for(lambda: agent.record.gaps_total == 1)
        assert agent.frontier == start
        pair.primary.execute(
            "select pg_terminate_backend(pid) from pg_stat_replication"
        )  # the receiver is seeded again
        wait_for(lambda: end - 1 < Lsn.parse(pair.primary.lsn()))
        pair.store.before = None
        agent.wait_frontier(end, 40)
        assert agent.record.gaps_total == 1
        assert {segment.number for segment in pair.archive.contents.segments()} >= {start // SIZE, below.number}


def _hold_up_segments(call: str, key: str) -> None:
    if call == "create" and "/wal/" in key:
        raise StoreUnavailable("a slow store")


def test_wal_that_another_member_has_is_fetched_from_it(pair: Pair) -> None:
    with pair.agent("a") as agent:
        wait_for(lambda: agent.archiving)
        pair.add_standby(hold_slot=True)
        agent.wait_frontier(Segment.parse(pair.primary.switch_wal(), SIZE).end)
    end = pair.recycle()
    with pair.agent("a") as agent:
        agent.wait_frontier(end, 30)
        assert agent.record.gaps_total == 0
    start = pair.archive.contents.start()
    assert start is not None
    stored = set(pair.archive.contents.segments())
    assert [segment for segment in pair.chain(History(1), start.start, end) if segment not in stored] == []


class Loss:
    """What b alone still has of the WAL that the primary has recycled: from the frontier on."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        with pair.agent("a") as agent:
            wait_for(lambda: agent.archiving)
            self.standby = pair.add_standby(hold_slot=True)
            agent.wait_frontier(Segment.parse(pair.primary.switch_wal(), SIZE).end)
            self.start = agent.frontier
        self.end = pair.recycle()
        pair.primary.physical_slot(HOLD_SLOT)
        self.slot = pair.primary.restart_lsn(HOLD_SLOT)

    def b_is_at(self, host: str) -> None:
        self.pair.dcs.set_members(
            Member("a", "primary", "running", "127.0.0.1", self.pair.primary.port, 1, None),
            Member("b", "replica", "streaming", host, self.standby.port, 1, None),
        )

    def stored_behind(self) -> bool:
        """Whether uploads go on behind it."""
        return any(segment.start >= self.end - SIZE for segment in self.pair.archive.contents.segments())

    def wait_suspected(self, agent: RunningAgent) -> None:
        wait_for(lambda: "archiver_wal_missing" in agent.problems())
        wait_for(lambda: agent.record.suspected)
        self.pair.primary.switch_wal()
        wait_for(self.stored_behind)


@pytest.fixture
def loss(pair: Pair) -> Loss:
    return Loss(pair)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was said when a member was asked, and not delivered."""
    said: list[str] = []
    real = member_wal.stream_segment

    def stream_segment(*arguments: Any) -> Any:
        plain, text = real(*arguments)
        said.append(text)
        return plain, text

    monkeypatch.setattr(member_wal, "stream_segment", stream_segment)
    return said


def test_p4_a_member_whose_name_does_not_resolve_for_a_while_loses_nothing(loss: Loss, asked: list[str]) -> None:
    loss.b_is_at("no-such-host.invalid")
    with loss.pair.agent("a") as agent:
        loss.wait_suspected(agent)
        wait_for(lambda: len(asked) > 2)
        missing = report(agent.agent)["suspected"]
        assert missing["waiting_for"] == ["b"]
        assert missing["ranges"][0]["start"] == str(loss.start)
        assert missing["bytes"] == sum(Lsn.parse(lost["end"]) - Lsn.parse(lost["start"]) for lost in missing["ranges"])
        wait_for(lambda: "waiting for b until 20" in agent.record.trouble)  # changes every few seconds at most
        assert agent.frontier == loss.start
        assert loss.pair.archive.contents.gaps() == []
        assert loss.pair.primary.restart_lsn(HOLD_SLOT) == loss.slot
        loss.b_is_at("127.0.0.1")
        agent.agent.observer._topology_at = 0.0
        agent.wait_frontier(loss.end, 60)
        wait_for(lambda: "archiver_wal_missing" not in agent.problems())
        wait_for(lambda: agent.record.suspected == ())
        assert agent.record.gaps_total == 0
    stored = set(loss.pair.archive.contents.segments())
    assert [one for one in loss.pair.chain(History(1), loss.start, loss.end) if one not in stored] == []


def test_p4_a_member_that_is_down_is_waited_for_and_delivers_when_it_is_back(loss: Loss, asked: list[str]) -> None:
    loss.standby.kill9()
    with loss.pair.agent("a") as agent:
        loss.wait_suspected(agent)
        wait_for(lambda: asked)
        loss.pair.dcs.set_members(Member("a", "primary", "running", "127.0.0.1", loss.pair.primary.port, 1, None))
        agent.agent.observer._topology_at = 0.0  # its key expires, and it is remembered
        seen = len(asked)
        wait_for(lambda: len(asked) > seen + 1)
        assert report(agent.agent)["suspected"]["waiting_for"] == ["b"]
        loss.standby.start()
        agent.wait_frontier(loss.end, 60)
        assert agent.record.gaps_total == 0


def test_p4_what_is_lost_is_handed_in_from_pg_wal_before_the_members_server_is_up(loss: Loss) -> None:
    loss.standby.kill9()
    with loss.pair.agent("a") as agent:
        loss.wait_suspected(agent)
        with loss.pair.agent("b"):
            agent.wait_frontier(loss.end, 60)
        assert agent.record.gaps_total == 0


def test_a_gap_is_recorded_after_a_silent_member_was_waited_for(loss: Loss, asked: list[str]) -> None:
    loss.standby.kill9()
    with loss.pair.agent("a") as agent:
        loss.wait_suspected(agent)
        wait_for(lambda: len(asked) > 1)
        assert agent.record.gaps_total == 0
        assert agent.agent.archiver is not None
        agent.agent.archiver.lost._patience = 0.0  # the time is over
        agent.wait_frontier(loss.end, 60)
        assert agent.record.gaps_total == 1
        assert agent.record.suspected == ()
        wait_for(lambda: "archiver_gap" in agent.problems())
        gap = agent.record.gaps[0]
        first = Segment.at(1, Lsn.parse(gap.start), SIZE)
        key = loss.pair.layout.gap(first, Lsn.parse(gap.end))
        assert b"not proved: gap.patience" in loss.pair.store.objects[key][0]


def test_a_recorded_gap_is_closed_by_the_pg_wal_of_a_member_that_comes_back(
    loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded_gaps, "LOOK_SECONDS", 1.0)
    loss.standby.kill9()
    with loss.pair.agent("a", gap_patience=1.0) as agent:
        agent.wait_frontier(loss.end, 60)
        wait_for(lambda: "archiver_gap" in agent.problems())
        assert loss.pair.archive.contents.open_gaps() != []
        loss.standby.start()
        wait_for(lambda: loss.pair.archive.contents.open_gaps() == [])
        wait_for(lambda: "archiver_gap" not in agent.problems())


def test_a_gap_that_a_person_accepts_is_recorded_at_once_and_is_not_a_problem(loss: Loss) -> None:
    loss.standby.kill9()
    with loss.pair.agent("a") as agent:
        loss.wait_suspected(agent)
        (suspected,) = agent.record.suspected
        first = Segment.at(1, Lsn.parse(suspected.start), SIZE)
        loss.pair.archive.accept_gap(first, Lsn.parse(suspected.end))
        agent.wait_frontier(loss.end, 60)
        wait_for(lambda: agent.record.gaps == (suspected,))
        wait_for(lambda: not agent.problems() & {"archiver_wal_missing", "archiver_gap"})


def test_a_member_that_is_gone_for_good_is_forgotten_as_the_hint_says(
    loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Archives:
        def archive(self, *_: object) -> Archive:
            return loss.pair.archive

    monkeypatch.setattr(forget, "connect", lambda *arguments: MemoryRecord(loss.pair.dcs, arguments[-1]))
    monkeypatch.setattr(forget, "open_archives", lambda _: Archives())
    a = Member("a", "primary", "running", "127.0.0.1", loss.pair.primary.port, 1, Lsn.parse(loss.pair.primary.lsn()))
    loss.standby.kill9()
    with loss.pair.agent("a") as agent:
        loss.wait_suspected(agent)
        assert "member forget" not in _told(agent), "it is there, as far as its key says"
        loss.pair.dcs.set_members(a, Member("c", "replica", "streaming", "no-such-host.invalid", 5432, 1, None))
        agent.agent.observer._topology_at = 0.0
        wait_for(lambda: "walkeeper member forget b" in _told(agent))
        assert forget.main(agent.agent.config, "b") == 0
        wait_for(lambda: "not for b, which a person has forgotten" in _told(agent))
        told = report(agent.agent)["suspected"]
        assert (told["waiting_for"], told["forgotten"]) == (["c"], ["b"])
        assert agent.record.gaps_total == 0
        loss.pair.dcs.set_members(a)
        agent.agent.observer._topology_at = 0.0
        wait_for(lambda: "walkeeper member forget c" in _told(agent))
        assert forget.main(agent.agent.config, "c") == 0
        agent.wait_frontier(loss.end, 60)
        wait_for(lambda: agent.record.gaps_total == 1)
        (gap,) = agent.record.gaps
        key = loss.pair.layout.gap(Segment.at(1, Lsn.parse(gap.start), SIZE), Lsn.parse(gap.end))
        assert b"forgotten by a person" in loss.pair.store.objects[key][0]


def _told(agent: RunningAgent) -> str:
    """The problem, and its hint."""
    problems = [each for each in report(agent.agent)["troubles"] if each["what"] == "archiver_wal_missing"]
    return " ".join(f"{each['text']} {each['hint']}" for each in problems)


def test_a_word_does_not_count_against_a_member_that_is_there(loss: Loss, asked: list[str]) -> None:
    loss.standby.kill9()
    loss.b_is_at("127.0.0.1")
    loss.pair.archive.forget_member(Forgotten("b", 1, Lsn(loss.end + 100 * MIB)))
    with loss.pair.agent("a") as agent:
        loss.wait_suspected(agent)
        wait_for(lambda: asked)
        loss.standby.start()
        agent.wait_frontier(loss.end, 60)
        assert agent.record.gaps_total == 0


def test_p9_when_the_disk_of_pg_wal_runs_short_nobody_is_waited_for(
    loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss.standby.kill9()
    with loss.pair.agent("a") as agent:
        loss.wait_suspected(agent)
        monkeypatch.setattr(whereabouts, "disk_of", lambda _: (5 * MIB, 1000 * MIB))
        agent.wait_frontier(loss.end, 60)
        assert agent.record.gaps_total == 1


def test_p9_a_short_disk_makes_no_gap_of_what_a_member_has_behind_all_that_it_lacks(
    loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, has = member_wal.stream_segment, loss.start + 3 * SIZE

    def stream_segment(*arguments: Any) -> Any:
        return (
            real(*arguments) if arguments[3].start >= has else (None, "ERROR:  requested WAL has already been removed")
        )

    monkeypatch.setattr(member_wal, "stream_segment", stream_segment)
    monkeypatch.setattr(lost_wal, "ASKED", 2)
    monkeypatch.setattr(whereabouts, "disk_of", lambda _: (5 * MIB, 1000 * MIB))
    with loss.pair.agent("a") as agent:
        agent.wait_frontier(loss.end, 60)
        gaps = loss.pair.archive.contents.gaps()
        assert sum(Lsn.parse(gap.end) - Lsn.parse(gap.start) for gap in gaps) == 3 * SIZE
        assert max(Lsn.parse(gap.end) for gap in gaps) == has


def test_p9_when_the_disk_of_another_members_pg_wal_runs_short_nobody_is_waited_for(
    loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hold slot keeps WAL on each member, and that of b stands as long as a's does."""
    members = loss.pair.dcs.members
    monkeypatch.setattr(members_look, "REFRESH_SECONDS", 0.5)
    said = ["walkeeper agent 0.2.0", f"walkeeper agent 0.2.0 {Disk(900 * MIB, 1000 * MIB).brief}"]
    monkeypatch.setattr(Server, "agents", lambda _: said)
    loss.standby.kill9()
    loss.pair.dcs.set_members(
        *members, Member("c", "replica", "streaming", "127.0.0.1", loss.pair.primary.port, 1, None)
    )
    with loss.pair.agent("a") as agent:
        loss.wait_suspected(agent)
        wait_for(lambda: len(agent.agent.observer.disks()) == 2)
        assert agent.frontier == loss.start
        said[1] = f"walkeeper agent 0.2.0 {Disk(5 * MIB, 1000 * MIB).brief}"
        agent.wait_frontier(loss.end, 60)
        assert agent.record.gaps_total == 1


def test_a_member_that_hangs_holds_up_neither_uploads_nor_the_end(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_wal, "STALLED_SECONDS", 600.0)  # only being told to end ends it
    loss.standby.process.pause()
    try:
        with loss.pair.agent("a") as agent:
            loss.wait_suspected(agent)
            archiver = agent.agent.archiver
            assert archiver is not None
            archiver.over.set()  # as if it were fenced
            wait_for(lambda: not archiver.living)
            assert loss.pair.archive.contents.gaps() == []
    finally:
        loss.standby.process.resume()


def test_a_member_that_hangs_costs_a_look_a_bounded_time(
    loss: Loss, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_wal, "STALLED_SECONDS", 1.0)
    loss.standby.process.pause()
    try:
        with loss.pair.agent("a") as agent:
            loss.wait_suspected(agent)
            wait_for(lambda: len(asked) > 1)
            assert report(agent.agent)["suspected"]["waiting_for"] == ["b"]
            loss.standby.process.resume()
            agent.wait_frontier(loss.end, 60)
            assert agent.record.gaps_total == 0
    finally:
        loss.standby.process.resume()


def test_wal_that_the_store_has_already_is_not_missed(pair: Pair) -> None:
    """A record older than the store: the server has recycled what was archived long ago."""
    with pair.agent("a") as agent:
        agent.wait_frontier(Segment.parse(pair.primary.switch_wal(), SIZE).end)
        old = pair.dcs.record
        end = Segment.parse(pair.primary.complete_segments(5)[-1], SIZE).end
        agent.wait_frontier(end)
        wait_for(lambda: Lsn.parse(pair.primary.restart_lsn(HOLD_SLOT) or "0/0") >= slot_target(end, SIZE))
    pair.primary.checkpoint()
    assert old is not None
    pair.dcs.put(old.document)
    with pair.agent("a") as agent:
        agent.wait_frontier(Segment.parse(pair.primary.switch_wal(), SIZE).end, 30)
        assert agent.record.gaps_total == 0


def test_p4_a_promoted_standby_archives_what_died_with_the_primarys_spool(pair: Pair) -> None:
    """The whole point: segments that only the dead host's spool had are archived by the new primary."""
    standby = pair.add_standby(hold_slot=True)
    with pair.agent("a") as first:
        first.wait_frontier(Segment.parse(pair.primary.switch_wal(), SIZE).end)
        start = first.frontier
        pair.store.before = _hold_up_segments
        pair.primary.complete_segments(5)
        wait_for(lambda: len(first.agent.spool.complete(SIZE)) >= 5)
        pair.caught_up()
        pair.primary.kill9()
    pair.store.before = None
    standby.promote()
    pair.dcs.set_leader("b")
    with pair.agent("b") as second:
        end = Segment.parse(standby.complete_segments(2)[-1], SIZE).end
        second.wait_frontier(end)
        assert second.record.gaps_total == 0
        assert second.record.owner == "b"
        history = second.agent.archiver.history if second.agent.archiver else History(1)
    stored = set(pair.archive.contents.segments())
    chain = pair.chain(history, start, end)
    assert len(chain) >= 7
    assert [segment for segment in chain if segment not in stored] == []


def test_a_returning_members_spool_closes_a_gap(pair: Pair) -> None:
    with pair.agent("a") as agent:
        agent.wait_frontier(Segment.parse(pair.primary.switch_wal(), SIZE).end)
        names = pair.primary.complete_segments(2)
        agent.wait_frontier(Segment.parse(names[-1], SIZE).end)
        plain = {name: fetch(pair.store, pair.layout, Codec(), name) for name in names}
    for name in names:  # as if they had never been stored, and everybody else had lost them
        del pair.store.objects[pair.layout.file(Segment.parse(name, SIZE), ".zst")]
    first, last = (Segment.parse(name, SIZE) for name in (names[0], names[-1]))
    pair.archive.record_gap(first, last.end)
    assert pair.archive.contents.open_gaps() == [Gap(1, str(first.start), str(last.end))]
    for name in names:
        (pair.directory / "spool-a" / "wal" / name).write_bytes(plain[name] or b"")
    pair.primary.kill9()
    pair.dcs.set_leader(None)
    with pair.agent("a"):
        wait_for(lambda: pair.archive.contents.open_gaps() == [])
        wait_for(lambda: not any((pair.directory / "spool-a" / "wal" / name).exists() for name in names))


def test_a_fenced_primary_stops_and_a_divergent_spool_is_put_aside(pair: Pair) -> None:
    standby = pair.add_standby(hold_slot=True)
    with pair.agent("a") as first:
        first.wait_frontier(Segment.parse(pair.primary.switch_wal(), SIZE).end)
        pair.caught_up()
        standby.promote()
        pair.dcs.set_leader("b")  # two primaries: nobody has told a
        with pair.agent("b") as second:
            wait_for(lambda: second.archiving)
            wait_for(lambda: not first.archiving)
            wait_for(lambda: "no_leadership" in first.problems())
            before = pair.dcs.record
            pair.primary.complete_segments(3)
            assert pair.dcs.record == before
            end = Segment.parse(standby.complete_segments(2)[-1], SIZE).end
            second.wait_frontier(end)
            assert second.record.owner == "b"


def test_f12_a_standby_leader_archives_what_it_receives(pair: Pair) -> None:
    """A standby cluster: its leader is in recovery, the same rules hold, and its timeline follows the upstream's."""
    standby = pair.add_standby(hold_slot=True)
    pair.dcs.standby_cluster = True
    pair.dcs.set_leader("b")
    with pair.agent("b") as agent:
        wait_for(lambda: agent.archiving)
        end = Segment.parse(pair.primary.complete_segments(3)[-1], SIZE).end
        pair.primary.switch_wal()
        agent.wait_frontier(end)
        assert agent.record.owner == "b"
        wait_for(lambda: Lsn.parse(standby.restart_lsn(HOLD_SLOT) or "0/0") >= slot_target(end, SIZE))
        assert standby.value("SELECT pg_is_in_recovery()")
