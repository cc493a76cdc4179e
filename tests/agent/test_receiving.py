"""``receiver: builtin``: what streams in is kept in memory, a stream may end at any time, and nothing lies in a spool."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.core.values import plain_segment
from tests.fixtures.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from tests.parts.postgres import Postgres
from tests.twins.memory_record import MemoryDcs
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.archiver.from_pg_wal import WithoutSpool
from walkeeper.agent.archiver.received import Received
from walkeeper.agent.archiver.receiving import FAR, NEAR, Receiving
from walkeeper.agent.archiver.spool import Spool
from walkeeper.agent.observation import Observed
from walkeeper.agent.problems import Problems
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.config import PostgresqlSettings
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.errors import BadSegment, PostgresError
from walkeeper.lib.clock import SystemClock
from walkeeper.postgres import wal_stream
from walkeeper.postgres.wal_file import Memory
from walkeeper.postgres.wal_stream import WalStream

SIZE = SegmentSize(MIB)
SYSTEM = 7


# ------------------------------------------------------------------------------------------------------------- in memory


class Stream:
    """A walsender that is asked for 3/0: what ``parts`` has, then an error."""

    def __init__(self, *parts: tuple[int, bytes], timeline: int = 2, system: int = SYSTEM) -> None:
        self.identity = SimpleNamespace(system_identifier=system, timeline=timeline)
        self.parts = list(parts)
        self.server_lsn, self.heard, self.ended = Lsn(0), False, False
        self.begun: tuple[Lsn, int] | None = None

    def identify(self) -> Any:
        return self.identity

    def start(self, lsn: Lsn, timeline: int) -> None:
        self.begun = (lsn, timeline)

    def receive(self, _: float, take: Any) -> None:
        if not self.parts:
            raise PostgresError("gone")
        at, data = self.parts.pop(0)
        take(Lsn(at), memoryview(data))
        self.server_lsn, self.heard = Lsn(at + len(data)), True


def receiving(lsn: int = 3 * MIB + 100, stored: int = 3 * MIB) -> Receiving:
    """Of timeline 2, which begins in segment 2; the server is at ``lsn``."""
    history = History(2, (Switch(1, Lsn(2 * MIB + 50)),))
    clock = SystemClock()
    archive = SimpleNamespace(size=SIZE, layout=SimpleNamespace(system_identifier=SYSTEM))
    sources = cast("Any", SimpleNamespace(archive=archive, history=history, clock=clock))
    observed = Observed(True, Lsn(lsn))
    received = Received(history, keep=True, hand_out=False)
    return Receiving(
        sources, Frontier(history, Lsn(stored), SIZE), cast("Any", None), observed, Problems(clock), received
    )


def follow(receiving: Receiving, stream: Stream) -> str:
    """What ended it."""
    with pytest.raises(PostgresError) as problem:
        receiving._follow(cast("Any", stream), cast("Any", SimpleNamespace(is_set=lambda: False)))
    return str(problem.value)


def test_what_has_come_of_the_open_segment_can_be_read_and_an_earlier_one_is_gone() -> None:
    one, third, fourth = receiving(), Segment(2, 3, SIZE), Segment(2, 4, SIZE)
    assert one._received.written(third) is None
    content = bytes(range(256)) * (MIB // 256)
    parts = [(3 * MIB, content[:100]), (3 * MIB + 100, content[100:1000])]
    stream = Stream(*parts)
    assert follow(one, stream) == "gone"
    assert stream.begun == (3 * MIB, 2)
    written = one._received.written(third)
    assert written is not None
    assert written.offset == 1000
    assert one._received.read(third, written.run, 50, 1000) == content[50:1000]
    assert one._received.read(third, written.run, 50, 1001) is None
    assert one._received.read(third, written.run + 1, 50, 1000) is None
    assert one.flushed() == 3 * MIB + 1000
    one._end(broken=True)
    assert one._received.written(third) is None
    assert one.flushed() is None
    assert follow(one, Stream((3 * MIB, content + b"next"))) == "gone"
    assert one._received.written(third) is None
    again = one._received.written(fourth)
    assert again is not None
    assert (again.offset, again.run > written.run) == (4, True)
    assert one._received.read(fourth, again.run, 0, 4) == b"next"


@pytest.mark.parametrize("at", [3 * MIB - 8, 3 * MIB + 8, 4 * MIB])
def test_wal_out_of_order_is_no_wal(at: int) -> None:
    one = receiving()
    assert "out of order" in follow(one, Stream((at, b"x")))
    assert one._received.written(Segment(2, 3, SIZE)) is None


@pytest.mark.parametrize("other", [{"system": 8}, {"timeline": 3}])
def test_another_server_or_timeline_is_not_received(other: dict[str, int]) -> None:
    one, stream = receiving(), Stream((3 * MIB, b"x"), **other)
    assert "archived is 7 on timeline 2" in follow(one, stream)
    assert stream.begun is None
    assert one.flushed() is None


def test_it_streams_only_near_the_end_of_what_a_primary_writes() -> None:
    assert receiving()._within(NEAR)
    behind = receiving(lsn=(3 + NEAR) * MIB)
    assert not behind._within(NEAR)
    assert behind._within(FAR)
    assert not receiving(stored=2 * MIB - 1)._within(FAR)  # of the timeline before
    one = receiving()
    one._observed.in_recovery = True
    assert not one._within(NEAR)


def test_it_begins_where_the_server_is_and_never_before_what_is_wanted() -> None:
    for lsn, stored, begins in ((5 * MIB + 7, 3 * MIB, 5 * MIB), (2 * MIB + 100, 3 * MIB, 3 * MIB)):
        stream = Stream()
        follow(receiving(lsn, stored), stream)
        assert stream.begun == (begins, 2)


class Ends:
    """Says no so many times, and then that it is over."""

    def __init__(self, times: int) -> None:
        self.left = times

    def wait(self, _: float) -> bool:
        self.left -= 1
        return self.left < 0

    def is_set(self) -> bool:
        return self.left < 0


def run(receiving: Receiving, monkeypatch: pytest.MonkeyPatch, stream: Any, looks: int = 20) -> int:
    """So many looks. How often it connected."""
    connected = []

    @contextmanager
    def connect(_: object) -> Iterator[Any]:
        connected.append(True)
        yield stream() if callable(stream) else stream

    monkeypatch.setattr("walkeeper.agent.archiver.receiving.WalStream", connect)
    receiving.run(cast("Any", Ends(looks)))
    return len(connected)


def test_an_archive_that_is_far_behind_what_the_server_says_now_is_not_streamed_to_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last look at the server is older than what the stream said before it was ended for that."""
    one = receiving()

    def says_far() -> Stream:
        stream = Stream((3 * MIB, b"x"))

        def receive(_: float, __: Any) -> None:
            stream.server_lsn, stream.heard = Lsn((4 + FAR) * MIB), True

        monkeypatch.setattr(stream, "receive", receive)
        return stream

    assert run(one, monkeypatch, says_far) == 1
    assert one.flushed() == (4 + FAR) * MIB
    assert not one._problems.open()


def test_a_server_that_could_not_be_asked_once_ends_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    one = receiving()
    stream = Stream((3 * MIB, b"a"), (3 * MIB + 1, b"b"))
    real = stream.receive

    def receive(seconds: float, take: Any) -> None:
        one._observed.server_up = False
        real(seconds, take)

    monkeypatch.setattr(stream, "receive", receive)
    assert run(one, monkeypatch, stream) == 1  # not again while it cannot be asked
    assert stream.parts == []


def test_memory_that_is_short_is_a_problem_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    one = receiving()
    monkeypatch.setattr("walkeeper.agent.problems.GRACE_SECONDS", 0.0)

    def short() -> Stream:
        raise MemoryError

    assert run(one, monkeypatch, short) > 1
    (problem,) = one._problems.open()
    assert "memory" in problem.text
    one._observed.server_up = False
    assert run(one, monkeypatch, short) == 0
    assert not one._problems.open()  # nothing is tried


def test_where_nobody_wants_the_open_segment_only_the_position_is_kept() -> None:
    one = receiving()
    one._received._keep = False
    follow(one, Stream((3 * MIB, bytes(MIB)), (4 * MIB, b"x")))
    assert one._received.written(Segment(2, 4, SIZE)) is None
    assert one.flushed() == 4 * MIB + 1


def test_what_was_left_in_the_spool_is_stored_too_and_then_removed(tmp_path: Path) -> None:
    """pg_wal no longer has it, as the hold slot was lost before the configuration was changed."""
    spool, pg_wal = Spool(tmp_path / "spool", 8 * MIB), tmp_path / "pg_wal"
    spool.open()
    pg_wal.mkdir()
    history, observed = History(1), Observed(True, Lsn(6 * MIB))
    third, fourth, other, strange = (Segment(1, 3, SIZE), Segment(1, 4, SIZE), Segment(2, 3, SIZE), Segment(1, 2, SIZE))
    for place, segment in ((spool.wal, third), (spool.wal, other), (pg_wal, fourth)):
        (place / segment.name).write_bytes(plain_segment(segment, SYSTEM))
    (spool.wal / strange.name).write_bytes(plain_segment(strange, SYSTEM + 1))
    (spool.wal / f"{Segment(1, 5, SIZE)}.partial").touch()
    archive = SimpleNamespace(layout=SimpleNamespace(system_identifier=SYSTEM))
    sources = cast("Any", SimpleNamespace(archive=archive, history=history, pg_wal=pg_wal, spool=spool))
    source, frontier = WithoutSpool(sources, observed), Frontier(history, Lsn(3 * MIB), SIZE)
    assert source.complete(frontier) == [third, fourth]
    assert source.read(third, Memory()) == plain_segment(third, SYSTEM)
    assert source.tend(frontier, set(source.complete(frontier))) == Segment(1, 5, SIZE)
    assert not source.put_aside(fourth, BadSegment("pg_wal is PostgreSQL's"))
    source.remove(Receipt(third, "0" * 64, 1, was_present=False))
    assert source.complete(frontier) == [fourth]
    assert [path.name for path in spool.wal.iterdir()] == [other.name]
    (spool.wal / third.name).write_bytes(b"damaged")
    assert source.put_aside(third, BadSegment("damaged"))
    assert not source.put_aside(third, BadSegment("damaged"))


# ------------------------------------------------------------------------------------------------------ with a real server


class Alone:
    """A server that leads, with an agent that streams by itself."""

    def __init__(self, server: Postgres, directory: Path) -> None:
        prepare(server)
        server.execute("CREATE TABLE t (n int, b text)")
        self.server, self.store, self.dcs = server, MemoryStore(), MemoryDcs(slots=(HOLD_SLOT,))
        self.dcs.set_leader("a")
        self.config = config_of(server, "a", directory, tail_interval=0.2, receiver="builtin")
        self.archive = Archive(self.store, Layout("demo", None, server.system_identifier), SIZE, Codec())

    def agent(self) -> RunningAgent:
        return RunningAgent(self.config, self.store, self.dcs)

    def write(self, rows: int = 1) -> Lsn:
        """Where their commit ends."""
        self.server.execute("INSERT INTO t SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, %s) g", [rows])
        return Lsn.parse(str(self.server.value("SELECT pg_current_wal_flush_lsn()")))

    def senders(self) -> list[int]:
        found = self.server.execute("SELECT pid FROM pg_stat_replication WHERE application_name = 'walkeeper'")
        return [pid for (pid,) in found]


@pytest.fixture
def alone(postgres: Postgres, tmp_path: Path) -> Alone:
    return Alone(postgres, tmp_path)


@pytest.mark.postgres
def test_p7_a_stream_that_ends_whenever_it_does_costs_nothing(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its walsender ended, stopped, and killed with the whole server, all under load; no file is ever in the spool."""
    monkeypatch.setattr("walkeeper.agent.archiver.receiving.WalStream", partial(WalStream, silence=3.0))
    with alone.agent() as agent:
        agent.wait_frontier(alone.write())
        for harm in ("terminate", "stop", "crash"):
            (sender,) = wait_for(alone.senders)
            alone.write(3000)
            if harm == "terminate":
                alone.server.execute("SELECT pg_terminate_backend(%s)", [sender])
            elif harm == "stop":
                os.kill(sender, signal.SIGSTOP)
                wait_for(lambda sender=sender: set(alone.senders()) - {sender})  # type: ignore[misc]
                os.kill(sender, signal.SIGCONT)
            else:
                alone.server.kill9()
                alone.server.start()
            agent.wait_frontier(alone.write(3000))
            wait_for(lambda: not agent.problems())
        assert agent.record.gaps == ()
        assert list((alone.config.spool_directory / "wal").iterdir()) == []
        for segment in (Segment.parse(name, SIZE) for name in alone.server.segments()):
            if agent.record.position >= segment.end > Segment.parse(agent.record.start, SIZE).start:
                assert alone.archive.find(segment) is not None


@pytest.mark.postgres
def test_p9_a_shutdown_waits_for_no_store(alone: Alone) -> None:
    with alone.agent() as agent:
        agent.wait_frontier(alone.write())
        wait_for(alone.senders)
        alone.store.down = True
        alone.write(3000)
        alone.server.stop("fast")  # within a minute, or it raises
        alone.server.start()
        alone.store.down = False
        agent.wait_frontier(alone.write())


@pytest.mark.postgres
def test_a_backlog_comes_from_pg_wal_and_the_stream_begins_at_its_end(alone: Alone) -> None:
    with alone.agent() as agent:
        agent.wait_frontier(alone.write())
        wait_for(alone.senders)
        alone.store.down = True
        alone.server.complete_segments(FAR + 2)
        wait_for(lambda: not alone.senders())
        alone.store.down = False
        agent.wait_frontier(alone.write())
        wait_for(alone.senders)
        end = alone.write()
        agent.wait_frontier(end)
        archiver = agent.agent.archiver
        assert archiver is not None
        assert archiver.tail.uploaded > 0


@pytest.mark.postgres
def test_what_is_received_is_what_the_files_have_to_the_byte(alone: Alone) -> None:
    """Records of many sizes, across segments, with a look after each."""
    server, got = alone.server, bytearray()
    begin = Lsn.parse(server.lsn()).floor(SIZE)
    settings: PostgresqlSettings = alone.config.postgresql

    def take(lsn: Lsn, data: memoryview) -> None:
        assert lsn == begin + len(got)
        got.extend(data)

    with WalStream(settings) as stream:
        assert stream.identify().system_identifier == server.system_identifier
        stream.start(begin, 1)
        for rows in (1, 0, 10, 1000, 3, 5000):
            end = alone.write(rows)
            while stream.received < end:
                stream.receive(1, take)
            assert stream.server_lsn >= end
    assert len(got) > 2 * SIZE
    for offset in range(0, len(got), SIZE):
        name = Segment.at(1, Lsn(begin + offset), SIZE).name
        part = got[offset : offset + SIZE]
        assert (server.pg_wal / name).read_bytes()[: len(part)] == part


@pytest.mark.postgres
def test_a_server_that_says_nothing_any_more_is_noticed(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_stream, "STATUS_SECONDS", 0.05)
    with WalStream(alone.config.postgresql, silence=1.0) as stream:
        stream.start(Lsn.parse(alone.server.lsn()).floor(SIZE), 1)
        begun = time.monotonic()
        while time.monotonic() - begun < 3:  # an idle server answers what each report asks for
            stream.receive(0.1, lambda *_: None)
        (sender,) = alone.senders()
        os.kill(sender, signal.SIGSTOP)
        try:
            with pytest.raises(PostgresError, match="says nothing any more"):
                receive_for_ever(stream)
        finally:
            os.kill(sender, signal.SIGCONT)


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("lsn", "timeline", "said"), [("0/100000", 1, "already been removed"), ("0/0", 7, "timeline"), ("FF/0", 1, "ahead")]
)
def test_what_a_server_does_not_have_is_an_error_in_its_words(alone: Alone, lsn: str, timeline: int, said: str) -> None:
    def stream_it() -> None:
        with WalStream(alone.config.postgresql) as stream:
            stream.start(Lsn.parse(lsn), timeline)
            receive_for_ever(stream)

    with pytest.raises(PostgresError, match=said):
        stream_it()


def receive_for_ever(stream: WalStream) -> None:
    while True:
        stream.receive(0.1, lambda *_: None)
