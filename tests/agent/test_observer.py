"""Who may have WAL, as the first look knows it: that one may take over at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Final, Literal, cast

import pytest
import yaml

from tests.twins.hand_clock import HandClock
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.agent import Agent
from walkeeper.agent.archiver.holding import Holding
from walkeeper.agent.members_look import Seen
from walkeeper.agent.observer import SAMPLES, Observer
from walkeeper.agent.problems import Problems
from walkeeper.config import load
from walkeeper.core.about import About
from walkeeper.core.backup_job import alarm
from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.record import Record
from walkeeper.core.room import Disk
from walkeeper.dcs.base import PROOF_JOB, Member, Topology
from walkeeper.errors import PostgresError
from walkeeper.lib.clock import Clock, SystemClock
from walkeeper.page.document import SAMPLE_SECONDS
from walkeeper.postgres.server import CommitsState, ServerState

RECORD: Final = Record(
    system_identifier="7300000000000000001", segment_size=MIB, timeline=1, lsn="0/500000", start="000000010000000000000003", owner="a",
    session="s",
)  # fmt: skip


def observer_of(short_path: Path) -> Observer:
    file = short_path / "patroni.yml"
    file.touch(mode=0o600)
    server = {
        "listen": "127.0.0.1:1",
        "data_dir": str(short_path / "data"),
        "authentication": {"replication": {"username": "r"}},
    }
    file.write_text(
        yaml.safe_dump(
            {
                "scope": "demo", "name": "b", "etcd3": {"host": "127.0.0.1:1"}, "postgresql": server,
                "walkeeper": {"store": {"directory": str(short_path / "store")}, "spool": {"directory": str(short_path / "spool")}},
            }
        )
    )  # fmt: skip
    dcs, clock = MemoryDcs(), SystemClock()
    dcs.put(RECORD.encode())
    config = load(file, {})
    return Observer(config, MemoryRecord(dcs), Problems(clock), clock, Holding(config.stores, config.durable_in, clock))


def test_p4_the_owner_of_the_record_is_known_by_the_first_look_though_its_key_has_expired(short_path: Path) -> None:
    """Its disk may have what nobody else has: when that look has taken over, the record no longer names it."""
    observer = observer_of(short_path)
    assert observer.look().record == RECORD
    assert "a" in observer.members


def test_p9_a_proof_on_the_disk_of_pg_wal_does_not_end_itself_by_what_it_writes(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How fast PostgreSQL's WAL fills that disk is not known then; that it is nearly full still is."""
    config, dcs, now, free = observer_of(short_path)._config, MemoryDcs(), 0.0, 100 << 30
    clock = cast(Clock, SimpleNamespace(monotonic=lambda: now))
    agent = Agent(config, MemoryStore(), MemoryRecord(dcs), clock, {PROOF_JOB: MemoryRecord(dcs)})
    observer, job = agent.observer, agent.jobs[PROOF_JOB]
    job.fills_pg_wal_disk = True
    monkeypatch.setattr("walkeeper.agent.observer.disk_of", lambda _: (free, 200 << 30))

    def why(seconds: int) -> str:
        nonlocal now, free
        for _ in range(seconds // 2):
            now += 2
            free -= 100 * MIB
            observer._look_at_disk(None)
        return alarm(observer.disk, SegmentSize(MIB), 0)

    assert why(900) == ""
    assert observer.disk is not None
    assert observer.disk.seconds_left is None
    free = MIB
    assert "the disk of pg_wal has" in why(2)
    free, job.fills_pg_wal_disk = 100 << 30, False
    assert why(290) == "", "what it wrote and removed is no trend either"
    assert "the disk of pg_wal fills" in why(60)


def test_p9_members_disks_are_looked_at_and_only_wal_counts_for_how_fast_they_fill(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of members that have the hold slot: it keeps WAL there as it does here. Something else may fill a disk for a while."""
    observer, now, asked = observer_of(short_path), 0.0, list[str]()
    other = Disk(50 << 30, 200 << 30, 20.0 * MIB)

    def look(members: tuple[Member, ...], record: Record | None, held: Lsn | None) -> dict[str, Seen]:
        asked.extend(each.name for each in members)
        return {"a": Seen(None, other), "c": Seen(None, None)}

    monkeypatch.setattr(observer._members_look, "look", look)
    observer._clock = cast(Clock, SimpleNamespace(monotonic=lambda: now))
    members = [Member(name, "replica", "streaming", "h", 1, 1, None) for name in "abc"]
    members.append(Member("d", "replica", "streaming", "h", 1, 1, None, {"nofailover": True}))
    observer.topology = Topology(None, tuple(members), standby_cluster=False, paused=False, slots=())
    free, lsn = 100 << 30, 0
    monkeypatch.setattr("walkeeper.agent.observer.disk_of", lambda _: (free, 200 << 30))
    state = ServerState(1, False, 1, Lsn(0), SegmentSize(MIB), 15, "replica")
    monkeypatch.setattr(observer._server, "state", lambda: replace(state, lsn=Lsn(lsn)))
    for _ in range(200):
        now += 2
        free -= 10 * MIB
        lsn += 6 * MIB
        observer._look_at_server()
        observer._look_at_disk(None)
    assert observer.disks() == [Disk(free, 200 << 30, 3.0 * MIB), replace(other, growth=3.0 * MIB)]
    assert asked == ["a", "c"]


@pytest.mark.parametrize(
    ("durability", "in_recovery", "asked"), [("store", False, True), ("store", True, False), ("local", False, False)]
)
def test_a_primary_is_asked_how_many_commits_wait_where_they_wait_for_the_store(
    short_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    durability: Literal["local", "store"],
    in_recovery: bool,
    asked: bool,
) -> None:
    observer = observer_of(short_path)
    observer._config = replace(observer._config, durability=durability)
    server = ServerState(1, in_recovery, 1, Lsn(9 * MIB), SegmentSize(MIB), 15, "replica")
    state = CommitsState(3, "walkeeper_00000001", connected=1)
    monkeypatch.setattr(observer._server, "commits", {"walkeeper_00000001": state}.__getitem__)
    assert observer._look_at_commits(server) == (state if asked else None)
    assert observer._look_at_commits(None) is None

    def fails(_: str) -> CommitsState:
        raise PostgresError("no answer")

    monkeypatch.setattr(observer._server, "commits", fails)
    assert observer._look_at_commits(server) is None


def test_p10_a_second_walsender_that_commits_believe_is_told_of(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may replicate can take that name, and acknowledge what is stored nowhere."""
    observer, now, state = observer_of(short_path), 0.0, CommitsState(None, "", connected=2)
    observer._config = replace(observer._config, durability="store")
    observer._problems._clock = cast(Clock, SimpleNamespace(monotonic=lambda: now))
    server = ServerState(1, False, 1, Lsn(9 * MIB), SegmentSize(MIB), 15, "replica")
    monkeypatch.setattr(observer._server, "commits", lambda _: state)

    def told() -> list[str]:
        observer._look_at_commits(server)
        return [each.what for each in observer._problems.open()]

    assert told() == [], "a stream that has just been begun again"
    now = 6.0
    assert told() == [About.TWO_ACKNOWLEDGE]
    assert "walkeeper_00000001" in observer._problems.open()[0].text
    state = replace(state, connected=1)
    told()
    now = 60.0
    assert told() == []
    state = replace(state, connected=2)
    told()
    now = 70.0
    assert told() == [About.TWO_ACKNOWLEDGE]
    server = replace(server, in_recovery=True)
    assert told() == []


@pytest.mark.parametrize(("identifier", "safe"), [(7300000000000000001, False), (7300000000000000002, None)])
def test_a_slot_is_not_held_against_the_record_of_another_cluster(
    short_path: Path, identifier: int, safe: bool | None
) -> None:
    """After pg_upgrade the record is still the old cluster's: that it begins after that frontier says nothing."""
    observer = observer_of(short_path)
    server = ServerState(identifier, False, 1, Lsn(9 * MIB), SegmentSize(MIB), 15, "replica")
    slot = SlotState(physical=True, restart_lsn=Lsn(8 * MIB), active_pid=None, lost=False)
    why = observer._judge_slot(replace(observer.look(), server=server, slot=slot))
    assert (None if why is None else why == "") is safe


def test_the_last_hours_are_bounded(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observer, clock = observer_of(short_path), HandClock()
    monkeypatch.setattr(observer, "_clock", clock)
    for _ in range(2 * SAMPLES + 1):
        observer._take_sample()
        clock.now += SAMPLE_SECONDS / 2
    taken = [sample.at for sample in observer.samples]
    assert taken == [1000.0 + number * SAMPLE_SECONDS for number in range(1, SAMPLES + 1)]
