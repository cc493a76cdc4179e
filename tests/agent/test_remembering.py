"""What the cluster remembers beside the record: who writes it, when, and what an agent that starts takes from it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

import msgspec
import pytest

from tests.core.values import history_text
from tests.fixtures.worlds import NOWHERE, config_of
from tests.parts.postgres import Postgres
from tests.twins.hand_clock import HandClock
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.agent import Agent
from walkeeper.agent.archiver.holding import Holding
from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.agent.observer import Observer
from walkeeper.agent.problems import GRACE_SECONDS, Problems
from walkeeper.agent.remembering import AGAIN_SECONDS, WRITTEN_SECONDS, Remembering
from walkeeper.archive.open import open_archives
from walkeeper.core.about import About
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.members import Member
from walkeeper.core.record import Record
from walkeeper.core.remembered import Remembered, decode
from walkeeper.core.takeover import LocalServer
from walkeeper.dcs.base import REMEMBERED
from walkeeper.errors import DcsError, DcsUnavailable, StoreUnavailable
from walkeeper.lib.clock import SystemClock
from walkeeper.postgres.server import ServerState

SYSTEM = 7300000000000000001
SIZE = SegmentSize(MIB)
TWO = History(2, (Switch(1, Lsn(5 * MIB + 100)),))
THREE = History(3, (Switch(1, Lsn(5 * MIB + 100)), Switch(2, Lsn(8 * MIB))))
SIBLING = History(3, (Switch(1, Lsn(7 * MIB + 50)),))


class World:
    """One DCS, and what each member's agent has of it."""

    def __init__(self, directory: Path) -> None:
        self.dcs = MemoryDcs()
        self.clock = HandClock()
        self.problems = Problems(self.clock)
        server = cast(Postgres, type("Server", (), {"data": directory, "port": 1, "bin_dir": None}))
        self.config = config_of(server, "b", directory)
        self.records = {name: MemoryRecord(self.dcs, REMEMBERED) for name in "abc"}
        self.dcs.set_leader("b")

    def of(self, name: str = "b") -> Remembering:
        archives = open_archives(self.config, MemoryStore())
        return Remembering(name, self.records[name], archives, self.problems, self.clock)

    @property
    def document(self) -> Remembered:
        return decode(self.dcs.documents[REMEMBERED].document)

    @property
    def texts(self) -> dict[int, bytes]:
        return {text.timeline: text.text for text in self.document.texts}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def local(history: History, *more: History, system: int = SYSTEM) -> LocalWal:
    """A server on that timeline, with its history and others in pg_wal."""
    histories = {each.timeline: history_text(each) for each in (history, *more) if each.switches}
    return LocalWal(LocalServer(system, SIZE, history, Lsn(9 * MIB)), histories, NOWHERE)


def record(history: History, text: bytes | None = None, system: int = SYSTEM, session: str = "s") -> Record:
    return Record(
        system_identifier=str(system), segment_size=MIB, timeline=history.timeline, lsn="0/500000", session=session,
        start="000000010000000000000003", owner="b",
        history_sha256=hashlib.sha256(history_text(history) if text is None else text).hexdigest(),
    )  # fmt: skip


MEMBERS = {"a": Member("a", "10.0.0.1", 5432, 1000.0), "b": Member("b", "10.0.0.2", 5432, 1000.0)}

# --- histories --------------------------------------------------------------------------------------------------------


def test_p13_a_leaders_timeline_is_noted_before_the_store_is_asked_for_anything(tmp_path: Path) -> None:
    """A store that is away keeps the takeover waiting; the next promotion must not take the number again."""
    world = World(tmp_path)
    (tmp_path / "pg_wal").mkdir()
    (tmp_path / "pg_wal" / "00000002.history").write_bytes(history_text(TWO))
    store = MemoryStore()
    store.down = True
    agent = Agent(world.config, store, MemoryRecord(world.dcs), SystemClock(), {}, world.records["b"])
    with pytest.raises(StoreUnavailable):
        agent._take_over(ServerState(SYSTEM, False, 2, Lsn(9 * MIB), SIZE, 15, "replica"), frozenset())
    assert world.texts == {2: history_text(TWO)}
    assert world.dcs.record is None


def test_a_number_that_is_noted_stays_as_its_first_user_wrote_it_until_the_record_says_otherwise(world: World) -> None:
    world.of().before_takeover(local(SIBLING))
    other = world.of()
    other.before_takeover(local(THREE, TWO))
    assert world.texts == {3: history_text(SIBLING), 2: history_text(TWO)}
    other.tend(record(THREE), MEMBERS, MEMBERS)  # the store had nothing of the first one
    assert world.texts == {3: history_text(THREE), 2: history_text(TWO)}


def test_a_text_that_the_store_has_in_other_words_is_not_remembered(world: World) -> None:
    remembering = world.of()
    remembering.before_takeover(local(TWO))
    remembering.tend(record(TWO, history_text(TWO) + b"\n# another reason\n"), MEMBERS, MEMBERS)
    assert world.texts == {}


def test_only_ancestors_that_the_own_history_begins_with_are_taken_from_pg_wal(world: World) -> None:
    world.of().before_takeover(local(SIBLING, TWO))  # which another server was promoted to
    assert world.texts == {3: history_text(SIBLING)}


def test_only_the_leader_writes(world: World) -> None:
    world.dcs.set_leader("c")
    remembering = world.of()
    remembering.before_takeover(local(TWO))
    remembering.tend(record(TWO), MEMBERS, MEMBERS)
    assert REMEMBERED not in world.dcs.documents
    world.dcs.set_leader("b")
    world.clock.now += AGAIN_SECONDS
    remembering.tend(record(TWO), MEMBERS, MEMBERS)
    assert world.texts == {2: history_text(TWO)}


def test_another_clusters_document_is_replaced_by_an_owner_alone(world: World) -> None:
    old = world.of()
    old.before_takeover(local(THREE, system=1))
    old.tend(record(THREE, system=1), MEMBERS, MEMBERS)
    new = world.of()
    new.before_takeover(local(TWO))
    assert (world.document.system_identifier, list(world.texts)) == ("1", [3])
    new.tend(record(TWO), MEMBERS, MEMBERS)
    assert (world.document.system_identifier, list(world.texts)) == (str(SYSTEM), [2])


def test_what_cannot_be_read_is_written_anew(world: World) -> None:
    world.dcs.put(b"garbage", REMEMBERED)
    world.of().before_takeover(local(TWO))
    assert world.texts == {2: history_text(TWO)}


def test_histories_that_only_the_dcs_knows_are_handed_to_the_takeover_which_stores_them(world: World) -> None:
    """PostgreSQL stops at the first number without a history: that of a server which died before it had stored its own."""
    world.of("b").before_takeover(local(TWO))
    world.dcs.set_leader("c")
    assert world.of("c").before_takeover(local(SIBLING)) == {2: history_text(TWO)}
    assert world.of("c").before_takeover(local(SIBLING, TWO)) == {}
    found = world.document
    planted = msgspec.structs.replace(
        found, texts=tuple(msgspec.structs.replace(each, text=b"x") for each in found.texts)
    )
    world.dcs.put(msgspec.json.encode(planted), REMEMBERED)
    assert world.of("c").before_takeover(local(SIBLING)) == {}


def test_a_dcs_that_is_silent_or_refuses_holds_up_no_takeover_and_is_told(world: World) -> None:
    remembering = world.of()
    world.records["b"].cut_off = True
    for _ in range(2):
        assert remembering.before_takeover(local(TWO)) == {}
        remembering.tend(record(TWO), MEMBERS, MEMBERS)
        world.clock.now += GRACE_SECONDS + AGAIN_SECONDS
    assert [problem.what for problem in world.problems.open()] == [About.REMEMBERED]
    world.records["b"].cut_off = False
    remembering.tend(record(TWO), MEMBERS, MEMBERS)
    assert world.problems.open() == []
    assert world.texts == {2: history_text(TWO)}


# --- members ----------------------------------------------------------------------------------------------------------


def test_it_is_written_when_members_come_or_go_and_not_at_each_look(world: World) -> None:
    remembering, records = world.of(), world.records["b"]

    def looks(members: dict[str, Member], there: str, times: int = 3) -> int:
        before = len(records.writes)
        for _ in range(times):
            remembering.tend(record(TWO), members, there)
        return len(records.writes) - before

    assert looks(MEMBERS, "ab") == 1
    assert looks(MEMBERS, "b") == 0  # not yet: it may come and go each second
    world.clock.now += WRITTEN_SECONDS
    assert looks(MEMBERS, "b") == 1
    world.clock.now += 10 * WRITTEN_SECONDS
    assert looks(MEMBERS, "b") == 0


def test_p4_a_member_that_died_before_an_agent_began_is_known_to_it(world: World) -> None:
    world.of().tend(record(TWO), MEMBERS, "b")
    world.clock.now += 20
    recalled = world.of("c").members()
    assert recalled["a"].host == "10.0.0.1"
    assert recalled.keys() == {"a", "b"}
    observer = Observer(
        world.config,
        MemoryRecord(world.dcs),
        world.problems,
        world.clock,
        Holding(["main"], 1, world.clock),
        world.of("c").members,
    )
    world.dcs.set_members("c")
    observer.look()
    assert observer.recalled
    assert observer.members.keys() == {"a", "b", "c"}


def test_p4_who_may_have_wal_is_not_known_before_the_dcs_has_told_who_was_seen(world: World) -> None:
    agent = Agent(world.config, MemoryStore(), MemoryRecord(world.dcs), SystemClock(), {}, world.records["b"])
    world.of().tend(record(TWO), MEMBERS, "b")
    world.records["b"].cut_off = True
    world.dcs.set_members("b", "c")
    agent.observer.look()
    with pytest.raises(DcsUnavailable):
        agent.observer.other_members(Lsn(0))
    world.records["b"].cut_off = False
    agent.observer._topology_at = 0.0
    agent.observer.look()
    assert sorted(candidate.name for candidate in agent.observer.other_members(Lsn(0))) == ["a", "c"]


def test_who_may_not_read_it_knows_of_nobody_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied() -> None:
        raise DcsError("etcd3: not allowed", hint="Look at its rights.")

    monkeypatch.setattr(world.records["b"], "read", denied)
    assert world.of().members() == {}
    assert [problem.what for problem in world.problems.open()] == [About.REMEMBERED]


# --- that there was an owner ------------------------------------------------------------------------------------------


def test_p13_that_an_archive_had_an_owner_is_known_by_the_members_that_it_saw(world: World) -> None:
    """Not by histories, which are noted before the store has answered; nor by what another cluster left under this scope."""
    archive = open_archives(world.config, MemoryStore()).archive(SYSTEM, SIZE)

    def known(remembering: Remembering, system: int = SYSTEM) -> bool:
        with remembering.second_lives(archive, local(TWO, system=system)):
            return remembering.owned_before

    owner = world.of()
    assert not known(owner)
    owner.before_takeover(local(TWO))
    assert world.texts
    assert not known(owner)
    owner.tend(record(TWO), MEMBERS, MEMBERS)
    assert known(world.of("a"))
    assert not known(world.of("a"), SYSTEM + 1)
