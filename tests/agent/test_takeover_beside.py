"""A takeover that takes long goes on beside the looks: systemd's watchdog waits for each of them."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from tests.fixtures.worlds import RunningAgent, config_of, prepare, wait_for
from tests.parts.postgres import Postgres
from tests.parts.processes import wait_until
from tests.twins.hand_clock import HandClock
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent import agent as agents
from walkeeper.agent.agent import Agent
from walkeeper.agent.archiver.refusals import LEFT_SECONDS
from walkeeper.agent.http.report import report
from walkeeper.core.about import About
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.record import Record
from walkeeper.dcs.base import Versioned
from walkeeper.errors import (
    CasConflict,
    ConfigError,
    DcsError,
    DcsUnavailable,
    NothingToCompare,
    PostgresError,
    RecordDenied,
    SpoolError,
    StoreBehind,
    StoreUnavailable,
    Watching,
)
from walkeeper.postgres.server import ServerState
from walkeeper.store.directory import DirectoryStore

SERVER = ServerState(7, False, 1, Lsn(20 * MIB), SegmentSize(MIB), 17, "replica")


class Slow(Agent):
    """Its takeovers end when they are let, each in one way."""

    def __init__(self, directory: Path, clock: HandClock) -> None:
        server = SimpleNamespace(data=directory, port=1, bin_dir=None)
        super().__init__(
            config_of(cast(Postgres, server), "a", directory), MemoryStore(), MemoryRecord(MemoryDcs()), clock
        )
        self.begun = 0
        self.go_on = threading.Event()
        self.ends_with: Any = None
        self.accepted: frozenset[str] = frozenset()

    def _take_over(self, server: ServerState, accepted: frozenset[str], about: object = None) -> Any:
        self.begun += 1
        self.accepted = accepted
        self.go_on.wait(60)
        if isinstance(self.ends_with, Exception):
            raise self.ends_with
        return self.ends_with

    def look(self) -> set[str]:
        """The part of a look that takes over. What it complains of."""
        self._conclude_takeover()
        if self.archiver is None:
            self._try_takeover(SERVER, None)
        return {problem["what"] for problem in report(self)["troubles"]}

    def let_it_end(self) -> None:
        assert self._takeover is not None
        assert self._takeover.thread is not None
        self.go_on.set()
        self._takeover.thread.join(20)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def agent(tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> Slow:
    monkeypatch.setattr(agents, "TAKEOVER_SECONDS", 0.01)
    return Slow(tmp_path, clock)


def test_p9_looks_go_on_while_a_takeover_does_and_it_is_told(agent: Slow, clock: HandClock) -> None:
    assert agent.look() == set()
    clock.now += 60
    assert agent.look() == {"takeover_runs"}
    assert agent.begun == 1
    started: list[object] = []
    agent.ends_with = SimpleNamespace(start=lambda *_: started.append(1), living=[])
    agent.let_it_end()
    agent._conclude_takeover()
    assert agent.archiver is agent.ends_with
    assert started == [1]
    assert not agent.problems.open()


def test_one_that_failed_is_told_and_tried_again(agent: Slow, clock: HandClock) -> None:
    agent.look()
    agent.ends_with = StoreUnavailable("down")
    agent.let_it_end()
    assert agent.look() == {"takeover_failed"}
    assert agent.begun == 1
    clock.now += 60
    agent.ends_with = SimpleNamespace(start=lambda *_: None)
    agent._try_takeover(SERVER, None)
    assert agent.begun == 2

    def over() -> bool:
        agent._conclude_takeover()
        return agent.archiver is agent.ends_with

    wait_until(over, "its end")


@pytest.mark.parametrize(
    ("ends_with", "compared"),
    [
        (NothingToCompare("x"), True),
        (Watching("x"), True),
        (SimpleNamespace(start=lambda *_: None), True),
        (StoreUnavailable("x"), False),
        (PostgresError("x"), False),
        (DcsUnavailable("the other store's record is not known yet"), False),
        (RecordDenied("not allowed"), True),
        (DcsError("not allowed, or not known"), False),
        (CasConflict("x"), False),
        (ConfigError("x"), False),
        (SpoolError("x"), False),
    ],
)
def test_p13_archive_push_waits_for_a_takeover_that_has_compared_and_until_its_refusal_can_be_asked_for(
    agent: Slow, monkeypatch: pytest.MonkeyPatch, ends_with: object, *, compared: bool
) -> None:
    refused, waits = agent.refusals.refused, []

    def slowly(*given: Any) -> None:
        waits.append(agent.untried)
        refused(*given)

    monkeypatch.setattr(agent.refusals, "refused", slowly)
    agent.look()
    agent.ends_with = ends_with
    agent.let_it_end()
    agent._conclude_takeover()
    assert agent.untried is not compared
    assert all(waits)


def test_what_a_takeover_was_refused_for_is_over_when_a_later_one_has_compared(agent: Slow, clock: HandClock) -> None:
    """Also where the DCS then takes no record from it. It counts for the run that was compared last."""
    runs = []
    for ends_with in (
        StoreBehind("x"),
        RecordDenied("y"),
        StoreUnavailable("z"),
        SimpleNamespace(start=lambda *_: None),
    ):
        clock.now += 60
        agent.look()
        assert agent._takeover is not None
        runs.append(agent._takeover.run)
        agent.ends_with = ends_with
        agent.let_it_end()
        agent.go_on.clear()
        agent._conclude_takeover()
        refused = isinstance(ends_with, StoreBehind)
        compared = runs[1] if isinstance(ends_with, StoreUnavailable) else runs[-1]
        assert agent.compared == (compared, ends_with if refused else None)
        assert agent.refusals.problem == (ends_with if refused else None)


def test_what_a_person_accepted_is_passed_again_where_the_dcs_took_no_record(agent: Slow, clock: HandClock) -> None:
    agent.refusals.refused(NothingToCompare("x"), None, frozenset())
    agent.refusals.answer({"accept": True})
    for _ in range(2):
        clock.now += 60
        agent.look()
        agent.ends_with = RecordDenied("y")
        agent.let_it_end()
        agent.go_on.clear()
        agent._conclude_takeover()
        assert agent.accepted == frozenset({"nothing_to_compare"})


def test_what_a_person_accepts_while_a_takeover_runs_is_for_the_next(agent: Slow, clock: HandClock) -> None:
    refusal = NothingToCompare("x")
    agent.refusals.refused(refusal, None, frozenset())
    clock.now += 60  # it is tried again
    agent.look()
    assert agent.begun == 1
    agent.refusals.answer({"accept": True})
    agent.ends_with = refusal
    agent.let_it_end()
    agent.go_on.clear()
    agent.look()
    assert (agent.begun, agent.accepted) == (2, frozenset({"nothing_to_compare"}))
    agent.ends_with = StoreBehind("y")
    agent.let_it_end()
    agent._conclude_takeover()
    assert agent.refusals.accepted == frozenset()


def replaced_at_each_look(patch: pytest.MonkeyPatch, name: str, *values: object) -> None:
    """As if another thread did so, with that attribute of the agent."""
    looks = itertools.cycle(values)
    patch.setattr(Slow, name, property(lambda _: next(looks)), raising=False)


@pytest.mark.parametrize("gone_first", [False, True])
def test_a_report_is_made_while_the_archiver_ends(
    agent: Slow, monkeypatch: pytest.MonkeyPatch, gone_first: bool
) -> None:
    archiver = MagicMock(spec_set=["history", "stored_up_to", "uploads", "tail", "lost", "ownership"])
    archiver.lost.missing = None
    archiver.uploads.in_flight = set()
    monkeypatch.setattr(agent.backups, "summary", lambda _: None)
    replaced_at_each_look(monkeypatch, "archiver", *((None, archiver) if gone_first else (archiver, None)))
    assert report(agent)["suspected"] is None


def test_an_agent_stops_while_its_observer_ends_what_runs(agent: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    archiver, takeover = MagicMock(), MagicMock()
    replaced_at_each_look(monkeypatch, "archiver", None, archiver)
    replaced_at_each_look(monkeypatch, "_takeover", takeover, None)
    agent.stop()
    takeover.thread.join.assert_called_once()
    archiver.stop.assert_called_once()


def test_p10_two_agents_of_one_member_are_named_and_do_not_fence_each_other_all_the_time(
    agent: Slow, clock: HandClock
) -> None:
    def owned(session: str, owner: str = "a") -> Versioned:
        record = Record(
            system_identifier="7", segment_size=MIB, timeline=1, lsn="0/1400000", start="000000010000000000000001",
            owner=owner, session=session,
        )  # fmt: skip
        return Versioned(record.encode(), session)

    def fenced(found: Versioned) -> int:
        """How many takeovers follow at once, after this agent lost the record."""
        before = agent.begun
        agent._rival.lost("ours")
        agent._try_takeover(SERVER, found)
        return agent.begun - before

    def ends() -> None:
        agent.ends_with = StoreUnavailable("down")
        if agent._takeover is not None:
            agent.let_it_end()
            agent._conclude_takeover()
        clock.now += LEFT_SECONDS

    assert fenced(owned("theirs")) == 1  # a DCS that was put back to an older state, perhaps
    ends()
    assert fenced(owned("theirs")) == 0
    assert About.TWO_AGENTS in [problem.what for problem in agent.problems.open()]
    agent._try_takeover(SERVER, owned("theirs"))
    assert agent.begun == 1
    clock.now += LEFT_SECONDS
    agent._try_takeover(SERVER, owned("theirs"))
    assert agent.begun == 2
    ends()
    assert fenced(owned("theirs", "b")) == 1  # a failover


@pytest.mark.postgres
def test_p10_a_second_agent_of_a_real_member_is_named(postgres: Postgres, tmp_path: Path) -> None:
    prepare(postgres)
    dcs = MemoryDcs()
    dcs.set_leader("a")
    (tmp_path / "store").mkdir()
    both = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        config = config_of(postgres, "a", tmp_path / place)
        both.append(RunningAgent(config, DirectoryStore(tmp_path / "store"), dcs))
    one, two = both
    with one:
        wait_for(lambda: one.archiving)
        with two:
            wait_for(lambda: "two_agents" in one.problems() | two.problems())
            wait_for(lambda: one.archiving != two.archiving)
