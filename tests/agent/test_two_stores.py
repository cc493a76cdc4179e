"""A real server whose agents archive into two stores: one is away, and comes back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agent.test_lost_wal import RECYCLES
from tests.fixtures.worlds import HOLD_SLOT, config_of, prepare, wait_for
from tests.parts.postgres import Postgres
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.agent import Agent
from walkeeper.agent.agents import Agents
from walkeeper.agent.archiver import holding, lost_wal, recorded_gaps
from walkeeper.agent.shared import Shared
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.config import Config
from walkeeper.config.model import NamedStore
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record, decode_record
from walkeeper.dcs.base import RECORD, Member
from walkeeper.lib.clock import SystemClock
from walkeeper.store.directory.keys import DirectorySettings

pytestmark = pytest.mark.postgres
SIZE = SegmentSize(MIB)


class Two:
    """One node, and the stores main and far."""

    def __init__(self, server: Postgres, directory: Path) -> None:
        prepare(server)
        self.server, self.directory = server, directory
        self.stores = {"main": MemoryStore(), "far": MemoryStore()}
        self.denied = ""
        """The store whose record may not be read."""
        self.dcs = MemoryDcs(slots=(HOLD_SLOT,))
        self.dcs.set_leader("a")
        self.dcs.set_members(Member("a", "primary", "running", "127.0.0.1", server.port, 1, None))

    @contextmanager
    def agents(self, durable_in: int) -> Iterator[Agents]:
        config = config_of(
            self.server, "a", self.directory, durable_in=durable_in, waited_for="main", receiver="builtin",  # no spool keeps it

            others=(NamedStore("far", DirectorySettings(self.directory / "far")),),
        )  # fmt: skip
        clock = SystemClock()
        shared = Shared(config, clock)
        agents = Agents(
            *(
                Agent(view, self.stores[name], self._records(view), clock, shared=shared)
                for name in config.stores
                for view in [config.of_store(name)]
            )
        )
        agents.start()
        try:
            yield agents
        finally:
            agents.stop()
            assert agents.lost is None

    def _records(self, view: Config) -> MemoryRecord:
        records = MemoryRecord(self.dcs, view.key(RECORD))
        records.denied = view.store_name == self.denied
        return records

    def record(self, store: str) -> Record | None:
        found = self.dcs.documents.get(RECORD if store == "main" else f"{RECORD}-{store}")
        return None if found is None else decode_record(found.document)

    def reaches(self, store: str, lsn: Lsn, seconds: float = 60) -> None:
        wait_for(lambda: (record := self.record(store)) is not None and record.position >= lsn, seconds)

    def lacks(self, store: str, end: Lsn) -> list[str]:
        """Of the whole segments that its record speaks of, up to ``end``."""
        record = self.record(store)
        assert record is not None
        archive = Archive(self.stores[store], Layout("demo", None, self.server.system_identifier), SIZE, Codec())
        numbers = range(Segment.parse(record.start, SIZE).number, end // SIZE)
        chain = (History(1).segment(number, SIZE) for number in numbers)
        return [segment.name for segment in chain if archive.find(segment) is None]

    @property
    def slot(self) -> Lsn:
        found = self.server.value(f"SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '{HOLD_SLOT}'")
        return Lsn.parse(str(found))

    def write(self, segments: int = 4) -> Lsn:
        """The end of the last that is complete."""
        return Segment.parse(self.server.complete_segments(segments)[-1], SIZE).end

    def begin(self) -> Lsn:
        """Both archives have begun, and have something."""
        for store in self.stores:
            self.reaches(store, Lsn(0))
        end = self.write(2)
        for store in self.stores:
            self.reaches(store, end)
        return end

    def let_go(self) -> None:
        """Checkpoints, so that what no slot keeps is removed."""
        for _ in range(2):
            self.server.complete_segments(1)
            self.server.checkpoint()


@pytest.fixture
def two(make_postgres: Callable[..., Postgres], short_path: Path) -> Two:
    return Two(make_postgres(settings=RECYCLES), short_path)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_wal, "LOOK_SECONDS", 0.5)


def test_p1_with_durable_in_2_pg_wal_keeps_what_one_of_them_lacks(two: Two) -> None:
    with two.agents(durable_in=2) as agents:
        end = two.begin()
        two.stores["far"].down = True
        first = two.slot
        further = two.write()
        two.reaches("main", further)
        assert [found.waits_for for name in two.stores if (found := two.record(name))] == ["", "main"]
        two.let_go()
        assert two.slot <= end, "it waits for the far one"
        assert first <= two.slot
        assert [problem.what for problem in agents.of_store("far").problems.open()], "P10"
        two.stores["far"].down = False
        two.reaches("far", further)
        wait_for(lambda: two.slot >= further - 2 * SIZE)
    assert two.lacks("main", further) == two.lacks("far", further) == []


@pytest.mark.parametrize("away", ["main", "far"])
def test_p4_with_durable_in_1_who_was_away_gets_the_rest_from_the_other_store(
    two: Two, away: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "walkeeper")
    other = "far" if away == "main" else "main"
    with two.agents(durable_in=1):
        end = two.begin()
        two.stores[away].down = True
        further = two.write(14)  # more than uploads hold in memory
        two.reaches(other, further)
        wait_for(lambda: two.slot >= further - 2 * SIZE)
        two.let_go()
        kept = {path.name for path in two.server.pg_wal.iterdir()}
        lost = [History(1).segment(number, SIZE).name for number in range(end // SIZE + 1, further // SIZE - 2)]
        assert not kept.intersection(lost), "this store alone had it"
        two.stores[away].down = False
        two.reaches(away, further)
    assert two.lacks(away, further) == []
    record = two.record(away)
    assert record is not None
    assert record.gaps_total == 0
    assert "fetched_from_store" in caplog.text
    assert "archiver_wal_missing" not in caplog.text, "it is on its way"


def test_p4_a_store_that_is_added_while_the_other_one_is_away_begins_where_that_ends(two: Two) -> None:
    """The slot follows the new one alone. What lies between was in neither, and nowhere else soon."""
    two.stores["far"].down = True
    with two.agents(durable_in=1):
        two.reaches("main", Lsn(0))
        two.reaches("main", two.write(2))
        two.stores["main"].down = True
        further = two.write(6)
        two.stores["far"].down = False
        two.reaches("far", further)
        wait_for(lambda: two.slot >= further - 2 * SIZE)
        two.let_go()
        two.stores["main"].down = False
        two.reaches("main", further)
    assert two.lacks("main", further) == two.lacks("far", further) == []
    assert [found.gaps_total for name in two.stores if (found := two.record(name))] == [0, 0]


def test_p9_a_store_that_burns_with_what_the_other_one_lacks_fills_no_disk(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was away itself; and if the burnt one comes back after all, the gap is closed."""
    monkeypatch.setattr(lost_wal, "GONE_SECONDS", 1.0)
    monkeypatch.setattr(recorded_gaps, "LOOK_SECONDS", 0.5)
    with two.agents(durable_in=1) as agents:
        two.begin()
        two.stores["main"].down = True
        further = two.write(14)
        two.reaches("far", further)
        wait_for(lambda: two.slot >= further - 2 * SIZE)
        two.let_go()
        two.stores["far"].down = True
        two.stores["main"].down = False
        problems = agents.first.problems
        wait_for(lambda: [each for each in problems.open() if "waiting for the store far" in each.text], 30)
        for module in (lost_wal, holding):
            monkeypatch.setattr(module, "short_of_disk", lambda *_: True)
        end = two.write(6)
        two.reaches("main", end)
        wait_for(lambda: two.slot >= end - 2 * SIZE)
        wait_for(lambda: [each for each in problems.open() if "only the store far has this WAL" in each.text])
        two.stores["far"].down = False
        wait_for(lambda: not two.lacks("main", end), 60)
        two.reaches("far", end)


def test_p7_one_that_was_emptied_stops_alone_and_says_so(two: Two) -> None:
    with two.agents(durable_in=1):
        two.begin()
        two.stores["far"].objects.clear()
    with two.agents(durable_in=1) as agents:
        far = agents.of_store("far")
        wait_for(lambda: "archive_missing" in {problem.reason for problem in far.problems.open()})
        two.reaches("main", two.write())
        assert far.archiver is None
        assert not [key for key in two.stores["far"].objects if not key.startswith("probe/")]
        far.refusals.answer({"accept": True})
        two.reaches("far", two.write())


def test_p11_a_record_that_cannot_be_read_stops_the_archive_of_no_other_store(two: Two) -> None:
    """And that other store is away, so that nobody writes a new one."""
    with two.agents(durable_in=1):
        two.begin()
    two.dcs.put(b"garbage", f"{RECORD}-far")
    two.stores["far"].down = True
    with two.agents(durable_in=1):
        end = two.write(6)
        two.reaches("main", end)
        wait_for(lambda: two.slot >= end - 2 * SIZE)


def test_p11_a_record_that_may_not_be_read_stops_the_archive_of_no_other_store(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the second store was added, and not the rights on its key."""
    with two.agents(durable_in=1):
        two.begin()
    monkeypatch.setattr(holding, "REFUSED_SECONDS", 1.0)
    two.denied = "far"
    with two.agents(durable_in=1) as agents:
        end = two.write(6)
        two.reaches("main", end)
        wait_for(lambda: two.slot >= end - 2 * SIZE)
        wait_for(lambda: "dcs" in {problem.reason for problem in agents.of_store("far").problems.open()})
