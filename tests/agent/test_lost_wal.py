"""WAL that the owner's server has recycled, on real servers: where it is looked for, and what is a gap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fixtures.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, Postgres, restore_server
from tests.twins.memory_record import MemoryDcs
from tests.twins.memory_store import MemoryStore
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive, fetch
from walkeeper.core.history import History
from walkeeper.core.hold_slot import slot_target
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap
from walkeeper.dcs.base import Member
from walkeeper.errors import StoreUnavailable

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
        agent.wait_frontier(end, 30)
        wait_for(lambda: agent.record.gaps_total == 1)
        gap = agent.record.gaps[0]
        assert Lsn.parse(gap.start) == lost_from
        assert pair.archive.gaps() == [gap] == pair.archive.open_gaps()
        missing = {segment.start for segment in pair.chain(History(1), lost_from, end)} - {
            segment.start for segment in pair.archive.segments()
        }
        assert min(missing) == Lsn.parse(gap.start)
        assert max(missing) + SIZE == Lsn.parse(gap.end)
        wait_for(lambda: "not_gap_safe" in agent.troubles())  # its slot was dropped


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
        wait_for(lambda: len(pair.archive.gaps()) == 1, 30)
        end = Segment.parse(pair.primary.switch_wal(), SIZE).end
        wait_for(lambda: agent.record.gaps_total == 1)
        assert agent.frontier == start
        pair.primary.execute("select pg_terminate_backend(pid) from pg_stat_replication")  # the receiver is seeded anew
        wait_for(lambda: end - 1 < Lsn.parse(pair.primary.lsn()))
        pair.store.before = None
        agent.wait_frontier(end, 40)
        assert agent.record.gaps_total == 1
        assert {segment.number for segment in pair.archive.segments()} >= {start // SIZE, below.number}


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
    start = pair.archive.start()
    assert start is not None
    stored = set(pair.archive.segments())
    assert [segment for segment in pair.chain(History(1), start.start, end) if segment not in stored] == []


def test_a_gap_is_recorded_only_after_a_silent_member_was_waited_for(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("walkeeper.agent.archiver.archiver.MEMBER_PATIENCE", 3.0)
    with pair.agent("a") as agent:
        wait_for(lambda: agent.archiving)
        standby = pair.add_standby(hold_slot=True)
        agent.wait_frontier(Segment.parse(pair.primary.switch_wal(), SIZE).end)
    end = pair.recycle()
    standby.kill9()
    with pair.agent("a") as agent:
        wait_for(lambda: "archiver_wal_missing" in agent.troubles())
        assert agent.record.gaps_total == 0
        agent.wait_frontier(end, 30)
        assert agent.record.gaps_total == 1


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
    stored = set(pair.archive.segments())
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
    assert pair.archive.open_gaps() == [Gap(1, str(first.start), str(last.end))]
    for name in names:
        (pair.directory / "spool-a" / "wal" / name).write_bytes(plain[name] or b"")
    pair.primary.kill9()
    pair.dcs.set_leader(None)
    with pair.agent("a"):
        wait_for(lambda: pair.archive.open_gaps() == [])
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
            wait_for(lambda: "no_leadership" in first.troubles())
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
