"""The agent on a real PostgreSQL with a real pg_receivewal; store and DCS in memory, so that they can fail on command."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.agents import command_line
from tests.fixtures.worlds import HOLD_SLOT, RunningAgent, config_of, prepare, wait_for
from tests.parts.postgres import Postgres, StopMode
from tests.parts.processes import children
from tests.twins.memory_record import MemoryDcs
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.archiver.commit import EARLY_INTERVAL, RECORD_INTERVAL
from walkeeper.agent.archiver.ownership import Ownership
from walkeeper.agent.http.metrics import Collector
from walkeeper.agent.http.report import report
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import fetch
from walkeeper.archive.write import Archive
from walkeeper.core.about import About
from walkeeper.core.hold_slot import slot_target
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.wal_page import Plain
from walkeeper.errors import AgentError, StoreUnavailable
from walkeeper.lib.clock import timestamp
from walkeeper.store.base import Store

pytestmark = pytest.mark.postgres
SIZE = SegmentSize(MIB)


class Alone:
    """One server that leads, and its agent."""

    def __init__(self, server: Postgres, directory: Path) -> None:
        prepare(server)
        self.server = server
        self.directory = directory
        self.store = MemoryStore()
        self.dcs = MemoryDcs(slots=(HOLD_SLOT,))
        self.dcs.set_leader("a")
        self.layout = Layout("demo", None, server.system_identifier)
        self.archive = Archive(self.store, self.layout, SIZE, Codec())

    def agent(self, store: Store | None = None, **changes: object) -> RunningAgent:
        return RunningAgent(config_of(self.server, "a", self.directory, **changes), store or self.store, self.dcs)

    def stored(self) -> list[str]:
        return sorted(segment.name for segment in self.archive.contents.segments())

    def wait_stored(self, count: int) -> None:
        wait_for(lambda: len(self.stored()) >= count)

    def slot(self) -> Lsn:
        return Lsn.parse(self.server.restart_lsn(HOLD_SLOT) or "0/0")

    @property
    def spool(self) -> Path:
        return self.directory / "spool-a"


@pytest.fixture
def alone(postgres: Postgres, tmp_path: Path) -> Alone:
    return Alone(postgres, tmp_path)


def complete(server: Postgres, count: int) -> Lsn:
    """Complete some segments; where the last one ends."""
    names = server.complete_segments(count)
    return Segment.parse(names[-1], SIZE).end


def test_segments_reach_the_store_then_the_record_then_the_slot_and_leave_the_spool(alone: Alone) -> None:
    with alone.agent() as agent:
        wait_for(lambda: agent.archiving)
        end = complete(alone.server, 4)
        agent.wait_frontier(end)
        wait_for(lambda: alone.slot() >= slot_target(end, SIZE))
        wait_for(lambda: not agent.agent.spool.complete(SIZE))
    for name in alone.stored():
        assert fetch(alone.store, alone.layout, Codec(), name) == (alone.server.pg_wal / name).read_bytes()


def test_p1_the_order_put_record_slot_spool_is_never_bent(alone: Alone) -> None:
    """Whatever is held up, nothing behind it happens."""
    held = True

    def hold_puts(call: str, key: str) -> None:
        if call == "create" and "/wal/" in key and held:
            raise StoreUnavailable("held up")

    alone.store.before = hold_puts
    with alone.agent() as agent:
        wait_for(lambda: agent.archiving)
        start = agent.frontier
        slot = alone.slot()
        end = complete(alone.server, 3)
        wait_for(lambda: len(agent.agent.spool.complete(SIZE)) >= 3)
        wait_for(lambda: "archiver_store" in agent.problems())
        assert agent.frontier == start  # no PUT: no record
        agent.records.read_only = True
        held = False
        wait_for(lambda: len(alone.stored()) >= 3)
        wait_for(lambda: "archiver_record" in agent.problems())
        assert agent.frontier == start
        assert alone.slot() == slot  # no record: no slot
        assert len(agent.agent.spool.complete(SIZE)) >= 3  # and no removal
        agent.records.read_only = False
        agent.wait_frontier(end)
        wait_for(lambda: alone.slot() >= slot_target(end, SIZE) and not agent.agent.spool.complete(SIZE))


@pytest.mark.parametrize("where", ["packed", "put"])
def test_an_upload_that_lacks_memory_is_tried_again(alone: Alone, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, lacks = Codec.encode, True

    def encode_if_there_is_memory(codec: Codec, plain: Plain) -> bytes:
        if lacks and where == "packed":
            raise MemoryError
        return encode(codec, plain)

    def create_if_there_is_memory(call: str, key: str) -> None:
        if lacks and where == "put" and call == "create" and "/wal/" in key:
            raise MemoryError

    monkeypatch.setattr(Codec, "encode", encode_if_there_is_memory)
    alone.store.before = create_if_there_is_memory
    with alone.agent() as agent:
        wait_for(lambda: agent.archiving)
        end = complete(alone.server, 2)
        wait_for(lambda: "not enough memory to store it" in agent.record.trouble)
        assert alone.stored() == []
        lacks = False
        agent.wait_frontier(end)


def test_what_waits_for_the_store_does_not_keep_others_from_being_packed(alone: Alone) -> None:
    """One segment is packed at a time here, and two are on their way."""
    put: list[str] = []
    held = threading.Event()

    def hold_puts(call: str, key: str) -> None:
        if call == "create" and "/wal/" in key:
            put.append(key)
            held.wait(60)

    alone.store.before = hold_puts
    with alone.agent(upload_workers=1) as agent:
        wait_for(lambda: agent.archiving)
        end = complete(alone.server, 4)
        wait_for(lambda: len(put) == 2)
        wait_for(lambda: len(agent.agent.spool.complete(SIZE)) >= 4)
        assert len(put) == 2  # and no more than that
        held.set()
        agent.wait_frontier(end)


def test_a_backlog_does_not_write_the_record_for_each_segment(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[float] = []
    write = Ownership.write

    def note(ownership: Ownership, *what: Any, **more: Any) -> None:
        written.append(time.monotonic())
        write(ownership, *what, **more)

    monkeypatch.setattr(Ownership, "write", note)
    with alone.agent() as agent:
        wait_for(lambda: agent.archiving)
        agent.wait_frontier(complete(alone.server, 30))
    assert len(written) > 1
    early = [later for earlier, later in pairwise(written) if later - earlier < RECORD_INTERVAL]
    assert len(early) <= 1 + (written[-1] - written[0]) / EARLY_INTERVAL


def test_a_frontier_waits_for_the_slowest_upload(alone: Alone) -> None:
    stuck: list[str] = []

    def hold_the_first(call: str, key: str) -> None:
        if call == "create" and "/wal/" in key and (not stuck or stuck[0] == key):
            stuck[:] = [key]
            raise StoreUnavailable("held up")

    alone.store.before = hold_the_first
    with alone.agent() as agent:
        wait_for(lambda: agent.archiving)
        start = agent.frontier
        end = complete(alone.server, 5)
        wait_for(lambda: len(alone.stored()) >= 4)
        held = Segment.parse(Path(stuck[0]).stem, SIZE)  # two upload at once: it may be the second
        assert (
            start // SIZE <= agent.frontier // SIZE <= held.number
        )  # the tail of the open segment may have moved it inside that
        alone.store.before = None
        agent.wait_frontier(end)


def test_p7_an_agent_that_was_killed_at_any_point_goes_on_without_help(alone: Alone) -> None:
    """Stopped after the upload and before the record; with the spool, and with the spool lost."""
    for lose_spool in (False, True):
        with alone.agent() as agent:
            wait_for(lambda: agent.archiving)
            agent.records.read_only = True
            enough = len(alone.stored()) + 3
            end = complete(alone.server, 3)
            alone.wait_stored(enough)
        if lose_spool:
            shutil.rmtree(alone.spool)
        with alone.agent() as agent:
            agent.wait_frontier(end)
            wait_for(lambda: not agent.agent.spool.complete(SIZE))


def test_p9_a_store_that_is_down_holds_up_nothing_but_the_archive(alone: Alone) -> None:
    with alone.agent(spool_limit=8 * MIB) as agent:
        wait_for(lambda: agent.archiving)
        alone.store.down = True
        end = complete(alone.server, 20)
        wait_for(lambda: "archiver_store" in agent.problems())
        assert agent.agent.spool.used() <= 8 * MIB
        end = complete(alone.server, 5)
        alone.server.checkpoint()
        alone.store.down = False
        agent.wait_frontier(end, 60)
        wait_for(lambda: not agent.problems())


def test_the_record_says_when_the_frontier_moved_and_not_when_a_problem_was_written_into_it(alone: Alone) -> None:
    with alone.agent() as agent:
        wait_for(lambda: agent.archiving)
        agent.wait_frontier(complete(alone.server, 2))
        wait_for(lambda: agent.record.wal_at)
        moved = agent.record.moved_at
        assert moved
        alone.store.down = True
        time.sleep(1.1)  # so that the stamps, which are of whole seconds, differ
        before = timestamp()
        complete(alone.server, 2)
        record = wait_for(lambda: agent.record if agent.record.trouble else None)
        assert record.updated_at > moved
        assert record.moved_at == moved
        assert record.wal_at <= before  # whatever waits was written after that: nobody is told less than it has waited
        alone.store.down = False


def test_a_page_that_is_not_served_is_not_written_into_the_record_and_hides_no_other_problem(alone: Alone) -> None:
    with alone.agent() as agent:
        agent.agent.problems.report(About.METRICS_NOT_SERVED, AgentError("agent.listen 127.0.0.1:1: in use"))
        wait_for(lambda: agent.archiving)
        alone.store.down = True
        complete(alone.server, 2)
        assert "agent.listen" not in wait_for(lambda: agent.record.trouble)
        alone.store.down = False


def test_a_dcs_that_is_down_does_not_stop_the_uploads(alone: Alone) -> None:
    with alone.agent() as agent:
        wait_for(lambda: agent.archiving)
        start = agent.frontier
        alone.dcs.down = True
        end = complete(alone.server, 4)
        wait_for(lambda: len(alone.stored()) >= 4)
        wait_for(lambda: "archiver_record" in agent.problems())
        assert agent.frontier == start
        alone.dcs.down = False
        agent.wait_frontier(end)


def test_the_server_may_restart_crash_and_come_back(alone: Alone) -> None:
    with alone.agent() as agent:
        wait_for(lambda: agent.archiving)
        modes: tuple[StopMode, ...] = ("fast", "immediate")
        for mode in modes:
            complete(alone.server, 1)
            alone.server.restart(mode)
            agent.wait_frontier(complete(alone.server, 2), 30)
        alone.server.kill9()
        alone.server.start()
        agent.wait_frontier(complete(alone.server, 2), 30)


def test_a9_a_killed_pg_receivewal_is_started_again(alone: Alone) -> None:
    with alone.agent() as agent:
        wait_for(lambda: agent.archiving)
        agent.wait_frontier(complete(alone.server, 1))
        pids = alone.server.execute("select active_pid from pg_replication_slots where active_pid is not null")
        assert pids == []  # it streams without a slot
        alone.server.execute("select pg_terminate_backend(pid) from pg_stat_replication")
        agent.wait_frontier(complete(alone.server, 2))


def test_a_receiver_that_streams_again_is_no_problem_though_no_segment_completes(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a quiet server the next one may take hours: doctor and /health were red for as long."""
    monkeypatch.setattr("walkeeper.agent.problems.GRACE_SECONDS", 1.0)
    monkeypatch.setattr("walkeeper.agent.archiver.streaming.STEADY_SECONDS", 3.0)
    hba = alone.server.data / "pg_hba.conf"
    rules = hba.read_text()
    with alone.agent() as agent:
        wait_for(lambda: alone.server.value("SELECT count(*) FROM pg_stat_replication") == 1)
        hba.write_text(f"host replication all all reject\nlocal replication all reject\n{rules}")
        alone.server.value("SELECT pg_reload_conf()")
        alone.server.value("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
        wait_for(lambda: "archiver_receiver" in agent.problems())
        stored = alone.stored()
        hba.write_text(rules)
        alone.server.value("SELECT pg_reload_conf()")
        wait_for(lambda: "archiver_receiver" not in agent.problems())
        assert alone.stored() == stored
        assert alone.server.value("SELECT count(*) FROM pg_stat_replication") == 1


def test_f8_an_idle_server_raises_no_alarm(
    alone: Alone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("walkeeper.agent.archiver.streaming.SILENCE_LIMIT", 1.0)
    caplog.set_level(logging.INFO, "walkeeper")
    with alone.agent() as agent:
        agent.wait_frontier(complete(alone.server, 1))
        looked = agent.agent.observer.observation.at
        wait_for(lambda: agent.agent.observer.observation.at > looked + 4)
        assert agent.problems() == set()
    assert sum("receiver_started" in record.getMessage() for record in caplog.records) == 1


def test_f7_a_pg_receivewal_that_hangs_is_started_again(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walkeeper.agent.archiver.streaming.SILENCE_LIMIT", 1.0)
    with alone.agent() as agent:
        agent.wait_frontier(complete(alone.server, 1))
        receiver = wait_for(_receivers)[0]  # one look: it has no command line while it becomes pg_receivewal
        os.kill(receiver, signal.SIGSTOP)
        agent.wait_frontier(complete(alone.server, 3), 60)
        wait_for(lambda: not Path(f"/proc/{receiver}").exists())


def _receivers() -> list[int]:
    """The pg_receivewal processes of this process."""
    return [pid for pid in children(os.getpid()) if "--no-loop" in command_line(pid)]


def test_b1_an_odd_partial_and_stale_files_in_the_spool_do_no_harm(alone: Alone) -> None:
    with alone.agent() as agent:
        agent.wait_frontier(complete(alone.server, 1))
    (alone.spool / "wal" / "0000000100000000000000F0").write_bytes(b"x" * MIB)
    open_segment = Segment.at(1, agent.frontier, SIZE)
    (alone.spool / "wal" / f"{open_segment.name}.partial").write_bytes(b"x" * 1000)
    with alone.agent() as agent:
        agent.wait_frontier(complete(alone.server, 2))
    assert len(list((alone.spool / "quarantine").iterdir())) == 2


def test_b10_a_spool_that_cannot_be_used_for_a_while_is_waited_for(alone: Alone) -> None:
    with alone.agent() as agent:
        agent.wait_frontier(complete(alone.server, 1))
        (alone.spool / "wal").chmod(0)
        end = complete(alone.server, 3)
        wait_for(lambda: "archiver_spool" in agent.problems())
        (alone.spool / "wal").chmod(0o700)
        agent.wait_frontier(end, 30)
        wait_for(lambda: _removed(alone.spool))
        agent.wait_frontier(complete(alone.server, 3), 30)
        wait_for(lambda: not agent.problems())


def _removed(directory: Path) -> bool:
    """False where somebody wrote into it meanwhile, which leaves it."""
    with contextlib.suppress(OSError):
        shutil.rmtree(directory)
        return True
    return False


def test_c1_a_damaged_spool_file_is_put_aside_and_streamed_again(alone: Alone) -> None:
    alone.store.down = True
    with alone.agent() as agent:
        assert not agent.archiving
        alone.store.down = False
        wait_for(lambda: agent.archiving)
        alone.store.down = True
        end = complete(alone.server, 6)
        wait_for(lambda: len(agent.agent.spool.complete(SIZE)) >= 6)
        victim = agent.agent.spool.complete(SIZE)[5]  # two workers have read four at most
        (alone.spool / "wal" / victim.name).write_bytes(b"\0" * MIB)
        alone.store.down = False
        agent.wait_frontier(end)
    assert (alone.spool / "quarantine" / victim.name).exists()
    assert fetch(alone.store, alone.layout, Codec(), victim.name) == (alone.server.pg_wal / victim.name).read_bytes()


def test_p3_a_conflict_stops_the_frontier_and_shouts(alone: Alone) -> None:
    with alone.agent() as agent:
        wait_for(lambda: agent.archiving)
        taken = Segment.at(1, agent.frontier, SIZE)
        other = Codec().encode(b"other" * 200)
        alone.store.create(alone.layout.file(taken, ".zst"), other, {})
        complete(alone.server, 3)
        wait_for(lambda: "archiver_refused" in agent.problems())
        wait_for(lambda: len(alone.stored()) >= 3)
        wait_for(lambda: "in the store with other bytes" in agent.record.trouble)
        assert agent.frontier == taken.start
        assert (alone.spool / "wal" / taken.name).exists()
    assert alone.store.get(alone.layout.file(taken, ".zst")) == other


@pytest.mark.parametrize("part", ["store", "dcs", "postgresql"])
def test_p10_an_inability_shows_in_the_log_the_metrics_and_the_report(
    alone: Alone, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    with alone.agent() as agent:
        wait_for(lambda: agent.archiving)
        if part == "store":
            alone.store.down = True
            complete(alone.server, 1)
        elif part == "dcs":
            alone.dcs.down = True
        else:
            alone.server.stop()
        what = {"store": "archiver_store"}.get(part, part)
        wait_for(lambda: what in agent.problems(), 30)
        wait_for(
            lambda: any(
                record.levelno == logging.ERROR and record.getMessage().startswith(f"{what} ")
                for record in tuple(caplog.records)
            )
        )
        families = {
            sample.name: sample
            for metric in Collector(lambda: report(agent.agent)).collect()
            for sample in metric.samples
        }
        assert families["walkeeper_trouble"].labels["what"] == what
        assert families["walkeeper_troubles"].value >= 1
