"""The tail on a real server, by each receiver: what is stored of the open segment, and what the record claims."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from tests.parts.binaries import all_postgres
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory
from tests.twins.memory_record import MemoryDcs
from tests.twins.memory_store import MemoryStore
from walkeeper.archive import tail
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.config import PostgresqlSettings
from walkeeper.config.model import ReceiverKind
from walkeeper.core.hold_slot import slot_target
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.tail import MERGED_AT_ONCE, longest_chain
from walkeeper.errors import StoreDenied, StoreUnavailable
from walkeeper.lib.clock import SystemClock
from walkeeper.postgres.pg_receivewal import Receiver

pytestmark = pytest.mark.postgres
SIZE = SegmentSize(MIB)
INTERVAL = 0.2


class Alone:
    """One server that leads, with a table, and its agent."""

    def __init__(self, server: Postgres, directory: Path, receiver: ReceiverKind = "pg_receivewal") -> None:
        prepare(server)
        server.execute("CREATE TABLE t (n int)")
        self.server = server
        self.directory = directory
        self.receiver = receiver
        self.store = MemoryStore()
        self.dcs = MemoryDcs(slots=(HOLD_SLOT,))
        self.dcs.set_leader("a")
        self.layout = Layout("demo", None, server.system_identifier)
        self.archive = Archive(self.store, self.layout, SIZE, Codec())

    def agent(self, interval: float | None = INTERVAL) -> RunningAgent:
        config = config_of(self.server, "a", self.directory, tail_interval=interval, receiver=self.receiver)
        return RunningAgent(config, self.store, self.dcs)

    def insert(self) -> Lsn:
        """One row. Where its commit ends."""
        self.server.execute("INSERT INTO t VALUES (0)")
        return self.flushed()

    def flushed(self) -> Lsn:
        return Lsn.parse(str(self.server.value("SELECT pg_current_wal_flush_lsn()")))

    def pieces(self) -> dict[str, bytes]:
        """Every stored piece, opened."""
        found = {}
        for stored in tail.stored_pieces(self.store, self.layout):
            if (body := self.store.get(stored.key)) is not None:  # else it was removed since
                found[stored.key] = Codec().decode(stored.suffix, body, SIZE)
        return found

    def slot(self) -> Lsn:
        return Lsn.parse(self.server.restart_lsn(HOLD_SLOT) or "0/0")


@pytest.fixture(params=["pg_receivewal", pytest.param("builtin", marks=pytest.mark.slow)])
def alone(request: pytest.FixtureRequest, postgres: Postgres, tmp_path: Path) -> Alone:
    return Alone(postgres, tmp_path, request.param)


def test_p4_the_frontier_follows_the_tail_to_the_byte_and_the_slot_stays_a_segment_below(alone: Alone) -> None:
    with alone.agent() as agent:
        for _ in range(5):
            end = alone.insert()
            agent.wait_frontier(end)
            assert agent.frontier <= alone.flushed()
            wait_for(lambda end=end: alone.slot() >= slot_target(end, SIZE))  # type: ignore[misc]
            assert alone.slot() <= agent.frontier
        open_segment = Segment.at(1, agent.frontier, SIZE)
        local = (alone.server.pg_wal / open_segment.name).read_bytes()
        for stored in tail.stored_pieces(alone.store, alone.layout, open_segment.name):
            assert alone.pieces()[stored.key] == local[stored.piece.begin : stored.piece.end]


def test_p1_the_tail_is_claimed_only_when_the_store_has_confirmed_it(alone: Alone) -> None:
    held = []

    def hold(call: str, key: str) -> None:
        if call == "create" and "/tail/" in key:
            held.append(key)
            raise StoreUnavailable("held up")

    with alone.agent() as agent:
        agent.wait_frontier(alone.insert())
        alone.store.before = hold
        before = agent.frontier
        end = alone.insert()
        wait_for(lambda: len(held) >= 2)
        assert agent.frontier == before
        assert not set(held) & alone.pieces().keys()
        alone.store.before, alone.store.after = None, hold  # it is stored, and the answer is lost
        wait_for(lambda: set(held) & alone.pieces().keys())
        assert agent.frontier == before
        alone.store.after = None
        agent.wait_frontier(end)


def test_nothing_is_sent_when_nothing_was_written_and_nothing_where_the_tail_is_off(alone: Alone) -> None:
    with alone.agent() as agent:
        agent.wait_frontier(alone.insert())
        looks = agent.agent.observer.observation.at
        alone.store.calls.clear()
        wait_for(lambda: agent.agent.observer.observation.at > looks + 3 * INTERVAL)
        assert [call for call, key in alone.store.calls if "/tail/" in key] == []
    with alone.agent(interval=None) as agent:
        wait_for(lambda: agent.archiving)
        alone.store.calls.clear()
        alone.insert()
        agent.wait_frontier(Segment.parse(alone.server.switch_wal(), SIZE).end)
        assert [key for call, key in alone.store.calls if call == "create" and "/tail/" in key] == []


def test_a_complete_segment_supersedes_its_pieces(alone: Alone) -> None:
    with alone.agent() as agent:
        agent.wait_frontier(alone.insert())
        assert alone.pieces()
        end = Segment.parse(alone.server.switch_wal(), SIZE).end
        agent.wait_frontier(end)
        wait_for(lambda: not alone.pieces())
        deletes = [(call, key) for call, key in alone.store.calls if call == "delete" and "probe/" not in key]
        assert deletes
        assert all("/tail/" in key for _, key in deletes)


def test_without_the_right_to_delete_it_goes_on_and_says_so_once(
    alone: Alone, caplog: pytest.LogCaptureFixture
) -> None:
    def deny(call: str, key: str) -> None:
        if call == "delete" and "/tail/" in key:
            raise StoreDenied("no")

    alone.store.before = deny
    caplog.set_level("INFO", "walkeeper")
    with alone.agent() as agent:
        for _ in range(3):
            agent.wait_frontier(alone.insert())
            agent.wait_frontier(Segment.parse(alone.server.switch_wal(), SIZE).end)
        agent.wait_frontier(alone.insert())
        wait_for(lambda: "tail_not_removed" in caplog.text)
        assert agent.problems() == set()
    assert caplog.text.count("tail_not_removed") == 1
    assert len(alone.pieces()) >= 4


def test_many_pieces_are_merged_into_one_and_only_then_removed(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walkeeper.core.tail.MERGED_AT_ONCE", 4)
    assert MERGED_AT_ONCE == 32
    reached = []

    def note(call: str, key: str) -> None:
        if call == "delete" and "/tail/" in key:
            reached.append(furthest(alone))

    alone.store.after = note
    with alone.agent(interval=0.01) as agent:
        for count in range(14):
            agent.wait_frontier(alone.insert())
            assert furthest(alone) >= agent.frontier, count
        wait_for(lambda: len(alone.pieces()) <= 2 * 4)
        assert reached
        assert min(reached) > 0


def furthest(alone: Alone) -> Lsn:
    """How far the pieces of any owner reach without a break, in the newest segment that has some."""
    ends = [Lsn(0)]
    stored = list(tail.stored_pieces(alone.store, alone.layout))
    for name in {one.segment for one in stored}:
        for owner in {one.piece.owner for one in stored}:
            mine = [one.piece for one in stored if (one.segment, one.piece.owner) == (name, owner)]
            chain = longest_chain(mine)
            if chain:
                ends.append(Lsn(Segment.parse(name, SIZE).start + chain[-1].end))
    return max(ends)


def test_p7_after_a_restart_the_chain_goes_on_where_it_was(alone: Alone) -> None:
    with alone.agent() as agent:
        agent.wait_frontier(alone.insert())
        agent.wait_frontier(alone.insert())
    before = alone.pieces()
    assert len(before) >= 2
    for _ in range(2):
        with alone.agent() as agent:
            agent.wait_frontier(alone.insert())
        assert before.items() <= alone.pieces().items()
        assert len({one.piece.owner for one in tail.stored_pieces(alone.store, alone.layout)}) == 1
    with alone.agent() as agent:
        agent.wait_frontier(Segment.parse(alone.server.switch_wal(), SIZE).end)
        wait_for(lambda: not alone.pieces())


def test_a_chain_with_other_bytes_is_not_continued_and_stays(alone: Alone) -> None:
    with alone.agent() as agent:
        agent.wait_frontier(alone.insert())
    (stored,) = tail.stored_pieces(alone.store, alone.layout)
    body, metadata = alone.store.objects[stored.key]
    other = stored.key.replace(
        stored.piece.owner, "another"
    )  # as long as the record says, beside the one that bears it out
    alone.store.objects[other] = (body, {**metadata, "sha256": "0" * 64})
    with alone.agent() as agent:
        end = alone.insert()
        agent.wait_frontier(end)
        assert furthest(alone) >= end
        anothers = [one.key for one in tail.stored_pieces(alone.store, alone.layout) if one.piece.owner == "another"]
        assert anothers == [other]
        agent.wait_frontier(Segment.parse(alone.server.switch_wal(), SIZE).end)
        wait_for(lambda: len(alone.pieces()) == 1)
    assert other in alone.store.objects


def test_p13_a_tail_with_other_bytes_that_the_record_rests_on_is_refused(alone: Alone) -> None:
    """The server wrote something else there since: its volume went back by a moment."""
    with alone.agent() as agent:
        agent.wait_frontier(alone.insert())
    for stored in tail.stored_pieces(alone.store, alone.layout):
        body, metadata = alone.store.objects[stored.key]
        alone.store.objects[stored.key] = (body, {**metadata, "sha256": "0" * 64})
    with alone.agent() as agent:
        wait_for(lambda: "takeover_failed" in agent.problems())
        assert not agent.archiving


def test_what_a_dead_owner_left_is_removed_when_it_is_covered(alone: Alone) -> None:
    """It was killed after the segment was stored, and before its pieces were removed."""
    with alone.agent() as agent:
        agent.wait_frontier(alone.insert())
        left = dict(alone.store.objects)
        agent.wait_frontier(Segment.parse(alone.server.switch_wal(), SIZE).end)
        wait_for(lambda: not alone.pieces())
    alone.store.objects |= {key: value for key, value in left.items() if "/tail/" in key}
    assert alone.pieces()
    with alone.agent() as agent:
        agent.wait_frontier(alone.insert())
        wait_for(lambda: len({one.segment for one in tail.stored_pieces(alone.store, alone.layout)}) == 1)


def test_full_load_ships_whole_segments_and_hardly_any_tail(alone: Alone) -> None:
    with alone.agent(interval=1.0) as agent:
        wait_for(lambda: agent.archiving)
        for _ in range(4):
            agent.wait_frontier(Segment.at(1, Lsn.parse(alone.server.write_wal(8)), SIZE).start)
        assert agent.agent.archiver is not None
        assert agent.agent.archiver.tail.uploaded_bytes < agent.agent.archiver.uploads.bytes / 4


def test_a_store_outage_ends_and_the_tail_goes_on(alone: Alone) -> None:
    with alone.agent() as agent:
        agent.wait_frontier(alone.insert())
        alone.store.down = True
        alone.insert()
        alone.server.complete_segments(3)
        end = alone.insert()
        wait_for(lambda: "archiver_store" in agent.problems())
        alone.store.down = False
        agent.wait_frontier(end, 40)
        wait_for(lambda: not agent.problems())


def test_p16_a_tail_that_cannot_be_stored_is_a_problem_until_it_is(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits lie on the nodes alone then, and no whole segment waits that would say so."""
    monkeypatch.setattr("walkeeper.agent.problems.GRACE_SECONDS", 1.5)  # some looks, and some pauses between attempts

    def deny(call: str, key: str) -> None:
        if call == "create" and key.startswith(alone.layout.tails):
            raise StoreDenied(f"{key}: not allowed", hint="Allow it.")

    with alone.agent(interval=1.0) as agent:
        agent.wait_frontier(alone.insert())
        alone.store.before = deny
        end = alone.insert()
        wait_for(lambda: "archiver_tail" in agent.problems())
        alone.store.before = None
        agent.wait_frontier(end)
        wait_for(lambda: not agent.problems())


@pytest.fixture(params=sorted(all_postgres()))
def streaming(request: pytest.FixtureRequest) -> Iterator[tuple[Postgres, Receiver, Path]]:
    """A server of each version, and a pg_receivewal that streams from it."""
    directory = new_directory("w")
    with Postgres(directory / "pg", all_postgres()[request.param]) as server:
        wal = directory / "wal"
        wal.mkdir()
        settings = PostgresqlSettings("127.0.0.1", server.port, "postgres", None, "postgres", ())
        receiver = Receiver(server.bin_dir / "pg_receivewal", wal, settings, directory / "pass", SystemClock())
        now = Segment.at(1, Lsn.parse(server.lsn()), SIZE)
        (wal / f"{now.name}.partial").touch()
        receiver.start(last=Segment(1, now.number + 1000, SIZE))
        yield server, receiver, wal
        receiver.stop()


def test_what_pg_receivewal_has_written_is_known_to_the_byte(streaming: tuple[Postgres, Receiver, Path]) -> None:
    """Against the server's own flush position, and, while it writes, against what the segments are in the end."""
    server, receiver, wal = streaming
    seen: list[tuple[Segment, bytes]] = []

    def written() -> Lsn:
        """One look, which is kept."""
        for partial in wal.glob("*.partial"):
            segment = Segment.parse(partial.stem, SIZE)
            found = receiver.written(partial, SIZE)
            if found is not None:
                try:
                    seen.append((segment, partial.read_bytes()[: found.offset]))
                except FileNotFoundError:
                    continue
                return Lsn(segment.start + found.offset)
        return Lsn(0)

    with server.connect() as connection:
        connection.execute("CREATE TABLE t (n int, b bytea)")
        for size in (0, 1, 30, 500, 8000, 20000):
            connection.execute("INSERT INTO t VALUES (0, %b)", [bytes(size)])
            row = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
            assert row is not None
            wait_for(lambda row=row: written() == Lsn.parse(row[0]))  # type: ignore[misc]
    sql = "INSERT INTO t SELECT g, convert_to(repeat(md5(g::text), g % 99), 'utf8') FROM generate_series(1, 20000) g"
    for _ in range(20):  # on a busy machine few looks come between
        load = threading.Thread(target=server.execute, args=(sql,))
        load.start()
        while load.is_alive():
            written()
        if len({segment for segment, _ in seen}) > 2:
            break
    end = Lsn.parse(str(server.value("SELECT pg_current_wal_flush_lsn()")))
    wait_for(lambda: written() == end)
    assert len({segment for segment, _ in seen}) > 2
    for segment, part in seen:
        assert (server.pg_wal / segment.name).read_bytes()[: len(part)] == part
