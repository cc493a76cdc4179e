"""Signs of life over a store in memory: who gives them, who notices others', and who has to watch before a takeover."""

from __future__ import annotations

import errno
import threading
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from tests.core.values import plain_segment
from tests.fixtures.worlds import NOWHERE, RunningAgent, config_of, prepare, wait_for
from tests.parts.postgres import Postgres
from tests.twins.hand_clock import HandClock
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.agent import Agent
from walkeeper.agent.archiver.life import Life, Watcher
from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.agent.archiver.ownership import Ownership, take_over
from walkeeper.agent.http.report import report
from walkeeper.agent.problems import Problems
from walkeeper.archive.authentic import AuthenticStore, Trust
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.life import Sign, give, who
from walkeeper.archive.write import Archive
from walkeeper.core.about import About
from walkeeper.core.history import History
from walkeeper.core.life import RENEW_SECONDS, WATCH_SECONDS, LifeWatch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.record import decode_record
from walkeeper.core.takeover import LocalServer
from walkeeper.errors import AnotherCluster, BeyondServer, CannotTell, NotAuthentic, StoreDenied, Watching
from walkeeper.store.directory import DirectoryStore

SYSTEM = 7300000000000000001
SIZE = SegmentSize(MIB)
ONE = History(1)
OTHER = "0123456789abcdef"


class World:
    """One store, and a DCS for each of two clusters that take it for theirs."""

    def __init__(self) -> None:
        self.time = HandClock()
        self.store = MemoryStore()
        self.archive = Archive(self.store, Layout("demo", None, SYSTEM), SIZE, Codec())
        self.ours, self.theirs = MemoryDcs(), MemoryDcs()
        self.watcher = Watcher(self.time)
        self.problems = Problems(self.time)

    def take_over(self, dcs: MemoryDcs, watcher: Watcher, accepted: set[str] | None = None) -> Ownership:
        dcs.set_leader("a")
        wal = LocalWal(LocalServer(SYSTEM, SIZE, ONE, Lsn(9 * MIB)), {}, NOWHERE)
        return take_over("a", MemoryRecord(dcs), self.archive, wal, watcher, accepted or set())

    def begin(self) -> Life:
        """An archive with a living owner."""
        ownership = self.take_over(self.theirs, Watcher(self.time))
        for number in range(3, 9):
            segment = ONE.segment(number, SIZE)
            self.archive.archive_segment(segment, plain_segment(segment, SYSTEM), ONE)
        return self.life(ownership.record.life)

    def life(self, token: str) -> Life:
        return Life(self.archive, token, "a", self.problems, self.time)

    def numbers(self, token: str) -> list[int]:
        start = self.archive.layout.life(token, 0)[:-12]
        return [int(key.removeprefix(start)) for key in sorted(self.store.objects) if key.startswith(start)]


@pytest.fixture
def world() -> World:
    return World()


def renew(life: Life, world: World, times: int = 1) -> None:
    """One turn of its thread after the other."""
    for _ in range(times):
        world.time.now += RENEW_SECONDS
        over = _OneTurn()
        life.run(over, threading.Event())


class _OneTurn(threading.Event):
    """Set after the first wait."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return True


def test_p2_old_signs_of_life_go_and_the_first_and_the_two_newest_stay(world: World) -> None:
    life = world.life(OTHER)
    renew(life, world, 5)
    assert world.numbers(OTHER) == [1, 4, 5]
    renew(world.life(OTHER), world)  # another owner of the same cluster goes on
    assert world.numbers(OTHER) == [1, 5, 6]
    deleted = [key for call, key in world.store.calls if call == "delete"]
    assert all(key.startswith(world.archive.layout.lives) for key in deleted)


def test_a_sign_costs_one_list_one_put_and_one_delete(world: World) -> None:
    life = world.life(OTHER)
    renew(life, world, 4)
    world.store.calls.clear()
    renew(life, world)
    assert [call for call, _ in world.store.calls] == ["list", "delete", "create"]


def test_p10_without_the_right_to_delete_signs_do_not_pile_up_and_it_is_a_problem(world: World) -> None:
    def deny(call: str, key: str) -> None:
        if call == "delete":
            raise StoreDenied(f"{key}: denied")

    world.store.before = deny
    life = world.life(OTHER)
    renew(life, world, 5)
    assert world.numbers(OTHER) == [1, 2, 3]
    (problem,) = world.problems.open()
    assert (problem.what, problem.reason) == (About.ARCHIVER_LIFE, "store_denied")
    assert "s3:DeleteObject" in problem.hint
    world.store.before = None
    renew(life, world)
    assert (world.numbers(OTHER), world.problems.open()) == ([1, 3, 4], [])


def test_a_store_that_is_away_is_said_and_signs_go_on_when_it_is_back(world: World) -> None:
    life = world.life(OTHER)
    world.store.down = True
    renew(life, world, 2)
    assert [problem.what for problem in world.problems.open()] == [About.ARCHIVER_LIFE]
    world.store.down = False
    renew(life, world)
    assert (world.numbers(OTHER), world.problems.open()) == ([1], [])


def test_a_staging_copy_is_refused_while_production_lives_and_until_a_person_says_so(world: World) -> None:
    """The copy has production's configuration and disk; only its DCS is another one, and empty."""
    production = world.begin()
    renew(production, world)
    with pytest.raises(Watching):
        world.take_over(world.ours, world.watcher)
    renew(production, world)
    with pytest.raises(Watching):
        world.take_over(world.ours, world.watcher)
    renew(production, world)
    for _ in range(3):
        with pytest.raises(AnotherCluster, match="a on host "):
            world.take_over(world.ours, world.watcher)
        world.time.now += WATCH_SECONDS  # production is down meanwhile: what is known stays known
    assert world.ours.record is None
    world.take_over(world.ours, world.watcher, {"another_cluster"})
    assert world.ours.record is not None
    assert decode_record(world.ours.record.document).life != decode_record(world.theirs.record.document).life


def test_a_clone_never_archives_where_it_came_from_though_nobody_lives_there(world: World, tmp_path: Path) -> None:
    (tmp_path / "pg_wal").mkdir()
    wal = LocalWal(LocalServer(SYSTEM, SIZE, ONE, Lsn(9 * MIB)), {}, tmp_path / "pg_wal")
    world.ours.set_leader("a")

    def take(accepted: set[str]) -> Ownership:
        return take_over("a", MemoryRecord(world.ours), world.archive, wal, world.watcher, accepted)

    mark, place = tmp_path / "walkeeper_clone_of", f"{world.store.url}/{world.archive.layout.root}"
    mark.write_text(place)
    with pytest.raises(AnotherCluster, match="never archives there"):
        take(set())
    assert not world.store.objects
    mark.write_text(f"{place}else/")
    take(set())
    assert mark.exists()
    world.ours = MemoryDcs()
    world.ours.set_leader("a")
    mark.write_text(place)
    take({AnotherCluster.reason})
    assert not mark.exists()
    take(set())
    mark.write_text(place)  # a replica that was made before
    take(set())
    assert not mark.exists()
    world.ours = MemoryDcs()
    world.ours.set_leader("a")
    take(set())


def test_a_mark_that_cannot_be_removed_stops_no_takeover(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "pg_wal").mkdir()
    (tmp_path / "walkeeper_clone_of").write_text(f"{world.store.url}/{world.archive.layout.root}")
    wal = LocalWal(LocalServer(SYSTEM, SIZE, ONE, Lsn(9 * MIB)), {}, tmp_path / "pg_wal")

    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    world.ours.set_leader("a")
    take_over("a", MemoryRecord(world.ours), world.archive, wal, world.watcher, {AnotherCluster.reason})
    assert "clone_mark_stays" in caplog.text


def test_an_owner_raises_an_alarm_for_a_foreign_sign_that_moves_and_not_for_one_that_stands(world: World) -> None:
    production, copy = world.begin(), world.life(OTHER)
    renew(copy, world)
    renew(production, world, 2)
    assert not world.problems.open()
    renew(copy, world)
    renew(production, world)
    assert [(problem.what, problem.reason) for problem in world.problems.open()] == [
        (About.ARCHIVER_ANOTHER_CLUSTER, "another_cluster")
    ]
    renew(production, world, 3)
    assert not world.problems.open()


def test_a_record_that_was_removed_and_a_rebuilt_dcs_go_on_after_the_watch(world: World) -> None:
    renew(world.begin(), world)
    with pytest.raises(Watching):
        world.take_over(world.ours, world.watcher)
    world.time.now += WATCH_SECONDS
    assert world.take_over(world.ours, world.watcher).record.position == 9 * MIB


def test_one_late_sign_of_an_owner_that_was_frozen_is_watched_and_not_refused(world: World) -> None:
    """The record is garbage, and who owns it was started again: it does not know that the token is this cluster's."""
    old = world.begin()
    renew(old, world)
    with pytest.raises(Watching):
        world.take_over(world.ours, world.watcher)
    renew(old, world)
    with pytest.raises(Watching):
        world.take_over(world.ours, world.watcher)
    world.time.now += WATCH_SECONDS
    assert world.take_over(world.ours, world.watcher).record.position == 9 * MIB


def test_p13_what_a_leader_is_refused_for_is_told_before_the_watch_is_over(world: World) -> None:
    """Its volume went back, and its record was lost: who is promoted before that is over may have come from it."""
    renew(world.begin(), world)
    for number in (9, 10):
        segment = ONE.segment(number, SIZE)
        world.archive.archive_segment(segment, plain_segment(segment, SYSTEM), ONE)
    for _ in range(2):
        with pytest.raises(BeyondServer):
            world.take_over(world.ours, world.watcher)
    world.store.calls.clear()
    for number in (9, 10):
        world.store.delete(world.archive.layout.file(ONE.segment(number, SIZE), ".zst"))
    for _ in range(3):  # and it is looked once
        with pytest.raises(Watching):
            world.take_over(world.ours, world.watcher)
    assert world.store.calls.count(("list", world.archive.layout.wal)) == 1


def test_an_agent_that_knows_its_record_from_before_does_not_watch(world: World) -> None:
    life = world.begin()
    renew(life, world)
    assert world.theirs.record is not None
    token = decode_record(world.theirs.record.document).life
    world.watcher.remember(token)
    renew(life, world)
    world.theirs.wipe()
    assert world.take_over(world.theirs, world.watcher).record.life == token


@pytest.mark.parametrize("life", ["an older version's", "none: the archive is new", "none: another scope"])
def test_where_nobody_ever_gave_a_sign_nothing_is_waited_for(world: World, life: str) -> None:
    if life == "an older version's":
        world.begin()
    assert world.take_over(world.ours, world.watcher).record.life


def test_who_has_a_record_does_not_watch_and_keeps_its_token(world: World) -> None:
    renew(world.begin(), world)
    renew(world.life(OTHER), world)
    assert world.theirs.record is not None
    before = decode_record(world.theirs.record.document).life
    assert world.take_over(world.theirs, world.watcher).record.life == before


def test_a_watch_that_was_broken_off_begins_again(world: World) -> None:
    renew(world.begin(), world)
    with pytest.raises(Watching):
        world.take_over(world.ours, world.watcher)
    world.watcher.forget()
    world.time.now += WATCH_SECONDS
    with pytest.raises(Watching):
        world.take_over(world.ours, world.watcher)


def test_a_watch_that_is_broken_off_in_between_is_not_one_that_saw_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Takeovers run beside the looks, which forget the watch where another member leads."""
    real = LifeWatch.note

    def note(self: LifeWatch, now: float, newest: Mapping[str, int]) -> None:
        real(self, now, newest)
        world.watcher.forget()

    renew(world.begin(), world)
    monkeypatch.setattr(LifeWatch, "note", note)
    with pytest.raises(Watching):
        world.take_over(world.ours, world.watcher)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"owner": "a\\nb", "host": 7, "at": "' + b"x" * 200 + b'"}'])
def test_p16_what_a_sign_says_is_for_people_and_bounded(world: World, body: bytes) -> None:
    sign = Sign(OTHER, 1)
    world.store.objects[world.archive.layout.life(OTHER, 1)] = (body, {})
    assert who(world.store, world.archive.layout, sign) == "? on host ?, at ?"


def test_a_store_that_does_not_say_who_it_was_does_not_keep_a_refusal_from_being_one(world: World) -> None:
    def no_answer(call: str, key: str) -> None:
        if call == "get":
            raise StoreDenied(f"{key}: denied")

    world.store.before = no_answer
    assert who(world.store, world.archive.layout, Sign(OTHER, 1)) == "? on host ?, at ?"


def test_p16_a_flood_below_life_hides_nobody_and_ends(world: World) -> None:
    for number in range(3000):
        world.store.objects[f"{world.archive.layout.lives}{number:08}"] = (b"", {})
    life, copy = world.life(OTHER), world.life("f" * 16)
    for each in (life, copy, life, copy, life):
        renew(each, world)
    assert [problem.what for problem in world.problems.open()] == [About.ARCHIVER_ANOTHER_CLUSTER]
    for number in range(3000, 10_001):
        world.store.objects[f"{world.archive.layout.lives}{number:08}"] = (b"", {})
    renew(life, world, 2)
    assert About.ARCHIVER_LIFE in [problem.what for problem in world.problems.open()]
    with pytest.raises(CannotTell, match="more than 10000 objects"):
        world.take_over(world.ours, world.watcher)


def test_p16_a_planted_high_number_is_passed_and_goes(world: World) -> None:
    life = world.life(OTHER)
    for planted in (10**12 - 1, 10**13):
        world.store.objects[world.archive.layout.life(OTHER, planted)] = (b"", {})
        renew(life, world)
        assert sorted(world.numbers(OTHER))[-2:] == [planted, planted + 1]
        renew(life, world, 2)
        assert sorted(world.numbers(OTHER)) == [planted + 2, planted + 3]


class Keyed(World):
    """Hosts have a key; ``plants`` is somebody who has none and may create objects."""

    def __init__(self) -> None:
        super().__init__()
        self.archive = Archive(
            AuthenticStore(self.store, Trust((b"k" * 64,))), self.archive.layout, SIZE, self.archive.codec
        )

    def plants(self, token: str, number: int) -> None:
        self.store.objects[self.archive.layout.life(token, number)] = (b"{}", {})


def test_p16_planted_signs_move_nobody_and_true_ones_do() -> None:
    world = Keyed()
    production = world.begin()
    renew(production, world)
    with pytest.raises(Watching):
        world.take_over(world.ours, world.watcher)
    for number in range(1, 4):
        world.plants(OTHER, number)
        world.time.now += WATCH_SECONDS / 3
        if number < 3:
            with pytest.raises(Watching):
                world.take_over(world.ours, world.watcher)
    assert world.take_over(world.ours, world.watcher).record.life
    renew(production, world)
    world.plants(OTHER, 4)
    renew(production, world)
    assert not world.problems.open()
    renew(world.life(OTHER), world)
    renew(production, world)
    assert [problem.what for problem in world.problems.open()] == [About.ARCHIVER_ANOTHER_CLUSTER]


def test_p16_many_planted_signs_do_not_make_the_owners_late_and_are_asked_for_once() -> None:
    """Each costs a request, and those of one look together more than a watcher waits for."""
    world, given, asked = Keyed(), list[float](), list[str]()
    tokens = [f"{number:016x}" for number in range(1, 301)]
    production = world.begin()
    renew(production, world)

    def slow(call: str, key: str) -> None:
        if call == "head":
            asked.append(key)
            world.time.now += 1.0
        elif call == "create":
            given.append(world.time.now)

    world.store.before = slow
    for token in tokens:
        world.plants(token, 1)
    renew(production, world, 12)
    assert max(late - early for early, late in pairwise(given)) < WATCH_SECONDS
    assert sorted(asked) == [world.archive.layout.life(token, 1) for token in tokens]
    world.store.before = None
    renew(world.life(OTHER), world)
    renew(production, world)
    assert [problem.what for problem in world.problems.open()] == [About.ARCHIVER_ANOTHER_CLUSTER]


def test_p16_a_planted_name_is_no_sign_that_was_given() -> None:
    world = Keyed()
    world.plants(OTHER, 1)
    with pytest.raises(NotAuthentic):
        give(world.archive.store, world.archive.layout, Sign(OTHER, 1), "a")
    for _ in range(2):  # again: an answer that was lost
        give(world.archive.store, world.archive.layout, Sign(OTHER, 2), "a")


def reason(agent: Agent) -> str:
    return next((each["reason"] for each in report(agent)["troubles"] if each["what"] == "takeover_failed"), "")


@pytest.mark.postgres
def test_two_agents_in_one_directory_and_a_person_who_says_so(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server, two DCS, which is what production and its copy look like to each other; signs come ten times a second."""
    monkeypatch.setattr("walkeeper.agent.archiver.life.RENEW_SECONDS", 0.1)
    prepare(postgres)
    (tmp_path / "store").mkdir()
    clusters = []
    for name in ("production", "staging"):
        dcs = MemoryDcs()
        dcs.set_leader("a")
        (tmp_path / name).mkdir()
        config = config_of(postgres, "a", tmp_path / name)
        clusters.append(RunningAgent(config, DirectoryStore(tmp_path / "store"), dcs))
    production, staging = clusters
    with production:
        wait_for(lambda: production.archiving)
        wait_for(lambda: list(tmp_path.glob("store/demo/*/life/*/*")))
        with staging:
            wait_for(lambda: reason(staging.agent) == "another_cluster")
            assert staging.dcs.record is None
            assert not production.problems()
            staging.agent.refusals.answer({"accept": True})
            wait_for(lambda: staging.archiving)
            wait_for(lambda: "archiver_another_cluster" in production.problems())
