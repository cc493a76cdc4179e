"""What the page knows of the store: listed seldom, in nobody's way, and told by the frontier in between."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import msgspec
import pytest

from tests.fixtures.worlds import config_of, wait_for
from tests.twins.hand_clock import HandClock
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.agent import Agent
from walkeeper.agent.http import page_facts as module
from walkeeper.agent.http.page_facts import StoreListing, facts
from walkeeper.agent.members_look import MembersLook
from walkeeper.agent.observation import Observation
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.open import Archives
from walkeeper.archive.write import Archive
from walkeeper.core.coverage import Range
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap, Record
from walkeeper.dcs.base import Leader, Member, Topology
from walkeeper.errors import StoreUnavailable
from walkeeper.lib.clock import SystemClock
from walkeeper.page.document import render
from walkeeper.postgres.server import ServerState

SIZE: Final = SegmentSize(MIB)
LAYOUT: Final = Layout("demo", None, 7)
RECORD: Final = Record(
    system_identifier="7",
    segment_size=MIB,
    timeline=2,
    lsn="0/800000",
    start="000000010000000000000002",
    owner="a",
    session="s",
)


def store_with(*segments: Segment) -> MemoryStore:
    store = MemoryStore()
    for segment in segments:
        store.objects[LAYOUT.file(segment, ".zst")] = (b"x", {})
    store.objects[f"{LAYOUT.wal}{'0' * 16}/README"] = (b"somebody's own", {})
    archive = Archive(store, LAYOUT, SIZE, Codec())
    archive.archive_history(2, b"1\t0/500080\tno recovery target specified\n")
    archive.record_gap(Segment(1, 3, SIZE), Lsn(4 * MIB))
    archive.state_start(Segment(1, 2, SIZE))
    store.calls.clear()
    return store


def both() -> MemoryStore:
    return store_with(*(Segment(1, n, SIZE) for n in (2, 4, 5)), *(Segment(2, n, SIZE) for n in (5, 6, 7)))


def listed(store_listing: StoreListing, record: Record = RECORD) -> Any:
    wait_for(lambda: store_listing.look(record)[0] is not None)
    return store_listing.look(record)[0]


def lists(store: MemoryStore) -> int:
    return sum(call == ("list", LAYOUT.wal) for call in store.calls)


def test_it_finds_stretches_histories_and_gaps() -> None:
    found = listed(StoreListing(Archives(both(), "demo", None, Codec()), HandClock()))
    assert found.stored == {1: (Range(2, 3), Range(4, 6)), 2: (Range(5, 8),)}
    assert found.histories == {1: History(1), 2: History(2, (Switch(1, Lsn.parse("0/500080")),))}
    assert found.gaps == (Gap(1, "0/300000", "0/400000"),)
    assert (found.start, found.frontier, found.whole) == (Lsn(2 * MIB), Lsn(8 * MIB), True)


def test_p9_looking_at_the_page_costs_no_listing_each_time() -> None:
    store, clock = both(), HandClock()
    store_listing = StoreListing(Archives(store, "demo", None, Codec()), clock)
    listed(store_listing)
    calls = len(store.calls)
    for _ in range(100):
        store_listing.look(msgspec.structs.replace(RECORD, lsn="0/900000"))
    assert len(store.calls) == calls
    clock.now += module.REFRESH_SECONDS + 1
    store_listing.look(RECORD)
    wait_for(lambda: lists(store) == 2)


def test_a_timeline_that_is_new_is_looked_up_soon_and_not_at_once() -> None:
    store, clock = both(), HandClock()
    store_listing = StoreListing(Archives(store, "demo", None, Codec()), clock)
    listed(store_listing)
    promoted = msgspec.structs.replace(RECORD, timeline=3)
    store_listing.look(promoted)
    assert lists(store) == 1
    clock.now += module.SOON_SECONDS + 1
    Archive(store, LAYOUT, SIZE, Codec()).archive_history(3, b"1\t0/500080\tx\n2\t0/700000\tx\n")
    wait_for(lambda: 3 in listed(store_listing, promoted).histories)
    assert lists(store) == 2


def test_p9_a_store_that_hangs_holds_up_no_page() -> None:
    let_go = threading.Event()
    store = both()

    def hang(name: str, _: str) -> None:
        if name == "list":
            let_go.wait(60)

    store.before = hang
    store_listing = StoreListing(Archives(store, "demo", None, Codec()), HandClock())
    for _ in range(20):
        found, says = store_listing.look(RECORD)
        assert found is None
        assert "being listed" in says
    assert sum(thread.name == "store-listing" for thread in threading.enumerate()) == 1
    let_go.set()
    listed(store_listing)


def test_a_store_that_cannot_be_listed_is_said_and_what_was_known_stays() -> None:
    store, clock = both(), HandClock()
    store_listing = StoreListing(Archives(store, "demo", None, Codec()), clock)
    before = listed(store_listing)
    store.down = True
    clock.now += module.REFRESH_SECONDS + 1
    wait_for(lambda: "could not be listed" in store_listing.look(RECORD)[1])
    assert store_listing.look(RECORD)[0] == before
    store.down = False
    clock.now += module.REFRESH_SECONDS + 1
    wait_for(lambda: store_listing.look(RECORD)[1] == "")


def test_an_archive_without_end_is_listed_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OBJECTS", 3)
    store_listing = StoreListing(Archives(both(), "demo", None, Codec()), HandClock())
    found = listed(store_listing)
    assert found.whole is False
    assert "more than 3 segments" in store_listing.look(RECORD)[1]


def test_another_cluster_under_that_scope_is_listed_anew() -> None:
    store = both()
    store_listing = StoreListing(Archives(store, "demo", None, Codec()), HandClock())
    listed(store_listing)
    other = msgspec.structs.replace(RECORD, system_identifier="8", timeline=1)
    assert listed(store_listing, other).stored == {}


def agent_of(tmp_path: Path, store: MemoryStore) -> Agent:
    server: Any = SimpleNamespace(bin_dir=tmp_path, data=tmp_path / "data", port=1)
    return Agent(config_of(server, "a", tmp_path), store, MemoryRecord(MemoryDcs()), SystemClock())


def test_the_page_is_made_from_what_the_agent_saw_and_asks_nobody(tmp_path: Path) -> None:
    store = both()
    agent = agent_of(tmp_path, store)
    store_listing = StoreListing(Archives(store, "demo", None, Codec()), SystemClock())
    assert "not everything is known" in render(facts(agent, store_listing, MembersLook(agent.config, SystemClock())))
    state = ServerState(7, False, 2, Lsn(8 * MIB + 100), SIZE, 15, "replica")
    agent.observer.observation = Observation(
        time.monotonic(), state, record=RECORD, record_known=True, leader="a", leader_known=True, gap_unsafe=""
    )
    members = (
        Member("b", "replica", "streaming", "h", 1, 2, 8 * MIB),
        Member("a", "primary", "running", "h", 1, 2, 8 * MIB + 100),
    )
    agent.observer.topology = Topology(Leader("a"), members, standby_cluster=False, paused=True, slots=())
    listed(store_listing)
    agent.records = None  # type: ignore[assignment]  # whoever asks it now fails
    agent.observer._server = None  # type: ignore[assignment]
    store.down = True
    found = facts(agent, store_listing, MembersLook(agent.config, SystemClock()))
    assert [(row.name, row.behind, row.leads) for row in found.members or ()] == [("a", 0, True), ("b", 100, False)]
    assert found.paused
    text = render(found)
    assert "TL 2" in text
    assert "1 gap" in text
    agent.observer.observation = replace(agent.observer.observation, at=time.monotonic() - 60)
    assert "not everything is known" in render(facts(agent, store_listing, MembersLook(agent.config, SystemClock())))


def test_a_listing_that_is_interrupted_in_the_middle_is_no_listing() -> None:
    store = both()

    def cut(name: str, key: str) -> None:
        if name == "list" and key == LAYOUT.gaps:
            raise StoreUnavailable("cut")

    store.before = cut
    store_listing = StoreListing(Archives(store, "demo", None, Codec()), HandClock())
    wait_for(lambda: "could not be listed" in store_listing.look(RECORD)[1])
    assert store_listing.look(RECORD)[0] is None
