"""What is stored already is looked at again: an object that was deleted, or that rotted, is told, and stored again if it can be."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.core.test_floor import a_floor
from tests.core.values import paged_segment
from tests.twins.hand_clock import HandClock
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.archiver.audit import AT_ONCE, Audit
from walkeeper.agent.archiver.receipts import Receipts
from walkeeper.agent.archiver.spool import Spool
from walkeeper.agent.archiver.whereabouts import Sources
from walkeeper.agent.problems import Problems
from walkeeper.archive.authentic import AuthenticStore, Trust
from walkeeper.archive.codec import Codec
from walkeeper.archive.expiry import write_floor
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import Reader
from walkeeper.archive.write import Archive
from walkeeper.core.floor import Below
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.wal_page import Plain
from walkeeper.errors import ArchiveMissing

SIZE = SegmentSize(MIB)
SYSTEM = 7300000000000000001
ONE = History(1)
FIRST, END = 5, 9


def segment(number: int) -> Segment:
    return Segment(1, number, SIZE)


def plain_of(number: int) -> bytes:
    return bytes(paged_segment(segment(number), SYSTEM, ONE))


class Bench:
    """An archive of segments 5 to 8, the last two of which the server still has."""

    def __init__(self, directory: Path, read_back: float | None, *keys: bytes) -> None:
        self.store = MemoryStore()
        self.believed = AuthenticStore(self.store, Trust(keys))
        self.archive = Archive(self.believed, Layout("demo", None, SYSTEM), SIZE, Codec())
        self.archive.state_start(segment(FIRST))
        self.pg_wal = directory / "pg_wal"
        self.pg_wal.mkdir()
        self.spool = Spool(directory / "spool", 1 << 30)
        self.spool.open()
        self.known = Receipts()
        for number in range(FIRST, END):
            self.known.add(self.archive.archive_segment(segment(number), plain_of(number), ONE), None)
        for number in (END - 2, END - 1):
            (self.pg_wal / segment(number).name).write_bytes(plain_of(number))
        self.clock = HandClock()
        self.problems = Problems(self.clock)
        self.first = FIRST
        sources = Sources(self.archive, ONE, self.pg_wal, self.spool, lambda _: (), None, self.clock, lambda: False)
        frontier = Frontier(ONE, Lsn(END * MIB), SIZE)
        self.audit = Audit(sources, frontier, lambda: self.first, self.known, read_back, self.problems)

    def key(self, number: int, suffix: str = ".zst") -> str:
        return self.archive.layout.file(segment(number), suffix)

    def look(self) -> set[str]:
        """The reasons of the problems that last."""
        self.clock.now += 60
        self.audit.look(threading.Event())
        return {problem.reason for problem in self.problems.open()}

    def restored(self, number: int) -> Plain | None:
        return Reader(self.believed, Codec()).deliver(self.archive.layout, segment(number).name)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, None)


@pytest.fixture
def reading(tmp_path: Path) -> Bench:
    return Bench(tmp_path, 60.0)


@pytest.fixture
def authenticated(tmp_path: Path) -> Bench:
    return Bench(tmp_path, 60.0, b"k" * 64)


def test_a_whole_archive_costs_one_listing_a_minute_and_nothing_is_said(bench: Bench) -> None:
    bench.store.calls.clear()
    assert bench.look() == set()
    assert [method for method, _ in bench.store.calls] == ["list"]


def test_an_object_that_somebody_deleted_is_stored_again_from_pg_wal(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.store.delete(bench.key(END - 1))
    assert bench.look() == set()
    assert bench.restored(END - 1) == plain_of(END - 1)
    assert "object_missing" in caplog.text
    assert "archived_again" in caplog.text
    assert bench.problems.counts() == {"object_missing": 1}


def test_it_is_stored_again_from_the_spool_too(bench: Bench) -> None:
    bench.store.delete(bench.key(FIRST))
    (bench.spool.wal / segment(FIRST).name).write_bytes(plain_of(FIRST))
    assert bench.look() == set()
    assert bench.restored(FIRST) == plain_of(FIRST)


def test_p10_what_nobody_here_has_any_longer_stays_a_problem_until_somebody_puts_it_back(bench: Bench) -> None:
    body = bench.store.objects[bench.key(FIRST)]
    bench.store.delete(bench.key(FIRST))
    bench.store.delete(bench.key(FIRST + 1))
    assert bench.look() == {"object_missing"}
    (problem,) = bench.problems.open()
    assert bench.key(FIRST) in problem.text
    assert "1 more" in problem.text
    bench.store.objects[bench.key(FIRST)] = body
    assert bench.look() == {"object_missing"}
    assert bench.key(FIRST + 1) in bench.problems.open()[0].text
    bench.archive.archive_segment(segment(FIRST + 1), plain_of(FIRST + 1), ONE)
    assert bench.look() == set()


def test_other_bytes_than_were_stored_do_not_take_its_place(bench: Bench) -> None:
    bench.store.delete(bench.key(END - 1))
    other = bytearray(plain_of(END - 1))
    other[-1] ^= 1
    (bench.pg_wal / segment(END - 1).name).write_bytes(other)
    assert bench.look() == {"object_missing"}
    (bench.pg_wal / segment(END - 1).name).write_bytes(plain_of(END - 2))  # PostgreSQL has used the file again
    assert bench.look() == {"object_missing"}
    assert bench.key(END - 1) not in bench.store.objects


@pytest.mark.parametrize("kind", ["reading", "authenticated"])
def test_a_damaged_object_is_read_told_and_stored_again_beside_it(
    kind: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    reading: Bench = request.getfixturevalue(kind)
    body, metadata = reading.store.objects[reading.key(END - 1)]
    reading.store.objects[reading.key(END - 1)] = (body[:-1] + bytes([body[-1] ^ 1]), metadata)
    for _ in range(200):
        assert reading.look() == set()
        if reading.key(END - 1, ".again.zst") in reading.store.objects:
            break
    assert reading.restored(END - 1) == plain_of(END - 1)
    assert "object_damaged" in caplog.text
    assert reading.look() == set()


def test_a_damaged_object_that_cannot_be_stored_again_is_read_again_first(reading: Bench) -> None:
    body, metadata = reading.store.objects[reading.key(FIRST)]
    reading.store.objects[reading.key(FIRST)] = (body[:-1] + bytes([body[-1] ^ 1]), metadata)
    while not reading.look():
        pass
    assert reading.look() == {"object_damaged"}
    reading.store.objects[reading.key(FIRST)] = (body, metadata)
    assert reading.look() == set()


def test_p16_a_forged_object_is_a_problem_that_lasts_until_the_true_one_is_back(authenticated: Bench) -> None:
    """With the bytes of another server, and sums of its own that agree with them."""
    true = authenticated.store.objects[authenticated.key(FIRST)]
    authenticated.store.delete(authenticated.key(FIRST))
    forger = Archive(authenticated.store, authenticated.archive.layout, SIZE, Codec())
    forger.archive_segment(segment(FIRST), plain_of(FIRST).replace(b"w", b"f"), ONE)
    while not authenticated.look():
        pass
    assert authenticated.look() == {"object_damaged"}
    assert "no authentication code" in authenticated.problems.open()[0].text
    authenticated.store.objects[authenticated.key(FIRST)] = true
    assert authenticated.look() == set()


def test_one_object_is_read_at_a_time(reading: Bench) -> None:
    reading.store.calls.clear()
    for _ in range(5):
        reading.look()
    assert [method for method, _ in reading.store.calls].count("get") == 5


def test_what_only_the_listing_lacks_is_no_problem(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = bench.store.list
    monkeypatch.setattr(bench.store, "list", lambda prefix: (i for i in kept(prefix) if i.key != bench.key(FIRST)))
    assert bench.look() == set()


def give_up(bench: Bench, why: str) -> None:
    """What was the first segment."""
    if why == "a recorded gap":
        bench.archive.record_gap(segment(FIRST), segment(FIRST).end)
    elif why == "a start that was moved up":
        bench.archive.state_start(segment(FIRST + 1))
    elif why == "a floor":
        below = (Below(1, str(segment(FIRST).end)),)
        floor = a_floor(system_identifier=str(SYSTEM), start=segment(FIRST + 1).name, below=below, kept=())
        assert write_floor(bench.believed, bench.archive.layout, floor)
    else:
        bench.first = FIRST + 1


REASONS = ["a recorded gap", "a start that was moved up", "a floor", "the record's start"]


@pytest.mark.parametrize("why", REASONS)
def test_what_is_not_there_for_a_reason_is_no_problem(bench: Bench, why: str) -> None:
    bench.store.delete(bench.key(FIRST))
    give_up(bench, why)
    assert bench.look() == set()


@pytest.mark.parametrize("why", REASONS)
def test_the_problem_ends_when_what_is_missing_is_given_up(bench: Bench, why: str) -> None:
    bench.store.delete(bench.key(FIRST))
    assert bench.look() == {"object_missing"}
    give_up(bench, why)
    assert bench.look() == set()


def test_p16_a_start_that_somebody_planted_hides_nothing_that_is_missing(bench: Bench) -> None:
    bench.archive.state_start(segment(END - 1))
    bench.store.delete(bench.key(FIRST + 1))
    assert bench.look() == {"object_missing"}


def test_nothing_is_read_below_the_start_that_expire_moves(reading: Bench) -> None:
    body, metadata = reading.store.objects[reading.key(FIRST)]
    reading.store.objects[reading.key(FIRST)] = (body[:-1] + bytes([body[-1] ^ 1]), metadata)
    while not reading.look():
        pass
    reading.first = END - 1
    reading.store.calls.clear()
    assert reading.look() == set()
    for _ in range(20):
        reading.look()
    assert {key for method, key in reading.store.calls if method == "get"} == {reading.key(END - 1)}


def test_in_a_store_without_the_archive_nothing_is_stored_again(bench: Bench) -> None:
    """A disk that was unmounted: its directory is empty."""
    bench.store.objects.clear()
    with pytest.raises(ArchiveMissing):
        bench.look()
    assert not bench.store.objects


def test_where_very_much_is_gone_a_look_is_bounded(bench: Bench) -> None:
    for number in range(100, 400):
        bench.store.objects[bench.key(number)] = bench.store.objects[bench.key(FIRST)]
    sources = bench.audit._sources
    audit = Audit(sources, Frontier(ONE, Lsn(400 * MIB), SIZE), lambda: FIRST, bench.known, None, bench.problems)
    bench.store.calls.clear()
    audit.look(threading.Event())
    assert len([method for method, _ in bench.store.calls if method == "head"]) <= 4 * AT_ONCE
    assert "15 more" in bench.problems.open()[0].text


def test_each_folder_has_its_turn(tmp_path: Path) -> None:
    bench = Bench(tmp_path, None)
    end = 3 * SIZE.per_log + 10
    audit = Audit(
        bench.audit._sources, Frontier(ONE, Lsn(end * MIB), SIZE), lambda: FIRST, bench.known, None, bench.problems
    )
    seen = {folder for _ in range(4) for folder in audit._folders(FIRST, end)}
    per_log = SIZE.per_log
    assert seen == {(FIRST, per_log), (per_log, 2 * per_log), (2 * per_log, 3 * per_log), (3 * per_log, end)}
