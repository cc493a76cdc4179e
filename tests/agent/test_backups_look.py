"""When the agent looks at base backups, what it finds, and how often it asks the store."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.agent.test_observer import observer_of
from tests.fixtures.backed_up import put_backup
from tests.fixtures.made_backup import config as made_config
from tests.twins.hand_clock import HandClock
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.agent import Agent
from walkeeper.agent.backups import GLANCE_SECONDS, PIECES_SECONDS, REFRESH_SECONDS, SOON_SECONDS, BackupsLook
from walkeeper.archive.codec import Codec
from walkeeper.archive.open import Archives
from walkeeper.core.backup import BackupId, Tombstone
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.dcs.base import BACKUP_JOB

FIRST = BackupId("20261128T020000Z", 1, "1a2b3c4d")
SECOND = BackupId("20261128T030000Z", 1, "1a2b3c4d")


def a_record(lsn: int) -> Record:
    return Record(
        system_identifier="7", segment_size=MIB, timeline=1, lsn=str(Lsn(lsn)), owner="a", session="s",
        start=Segment(1, 5, SegmentSize(MIB)).name,
    )  # fmt: skip


class Look:
    def __init__(self, directory: Path) -> None:
        self.store, self.clock = MemoryStore(), HandClock()
        self.archives = Archives(self.store, "demo", None, Codec())
        self.look = BackupsLook(self.archives, made_config(directory), self.clock)

    def put(self, id_: BackupId, stop: int = 6 * MIB + 256) -> None:
        put_backup(self.archives.backups(7), id_, Lsn(6 * MIB + 40), Lsn(stop))

    def after(self, seconds: float, lsn: int = 9 * MIB) -> dict[str, Any] | None:
        """What is told once the look that is due then is over."""
        self.clock.now += seconds
        self.look.summary(a_record(lsn))
        looking = self.look._looking
        assert looking is not None
        looking.join()
        return self.look.summary(a_record(lsn))

    def complete(self, seconds: float, lsn: int = 9 * MIB) -> int:
        found = self.after(seconds, lsn)
        return 0 if found is None else int(found["complete"])


@pytest.fixture
def look(tmp_path: Path) -> Look:
    return Look(tmp_path)


def test_a_backup_that_somebody_took_by_hand_is_known_within_a_minute(look: Look) -> None:
    assert look.complete(0) == 0
    look.put(FIRST)
    assert look.complete(GLANCE_SECONDS - 1) == 0
    assert look.complete(1) == 1


def test_an_attempt_that_becomes_a_backup_is_one_within_a_minute_and_one_that_expired_is_none(look: Look) -> None:
    folder = look.archives.layout(7).backup(SECOND)
    look.put(FIRST)
    look.store.create(f"{folder}data/{'0' * 64}.zst", b"x", {})
    found = look.after(0)
    assert found is not None
    assert (found["complete"], found["attempts"]) == (1, 1)
    look.put(SECOND)
    assert look.complete(GLANCE_SECONDS) == 2
    for key in [key for key in look.store.objects if key.startswith(folder)]:
        look.store.delete(key)
    assert look.complete(GLANCE_SECONDS) == 1
    look.store.create(f"{folder}backup.json", b"{", {})
    found = look.after(GLANCE_SECONDS)
    assert found is not None
    assert (found["complete"], found["damaged"]) == (1, 1)


def test_an_attempt_whose_end_cannot_be_relied_on_is_looked_at(look: Look) -> None:
    look.store.create(f"{look.archives.layout(7).backup(SECOND)}data/{'0' * 64}.zst", b"x", {})
    look.after(0)
    look.store.create(look.archives.layout(7).backup_json(SECOND), b"{", {})
    found = look.after(GLANCE_SECONDS)
    assert found is not None
    assert (found["attempts"], found["damaged"]) == (0, 1)


def test_one_that_waits_for_its_wal_counts_within_a_minute_of_it(look: Look) -> None:
    look.put(FIRST, stop=9 * MIB + 256)
    assert look.complete(0, 9 * MIB) == 0
    look.store.calls.clear()
    assert look.complete(GLANCE_SECONDS, 9 * MIB) == 0
    assert [method for method, _ in look.store.calls] == ["folders"]
    assert look.complete(GLANCE_SECONDS, 9 * MIB + 512) == 1


def test_an_hour_costs_a_listing_a_minute_and_three_more_each_five(look: Look) -> None:
    look.put(FIRST)
    look.after(0)
    look.store.calls.clear()
    for _ in range(3600 // 10):
        look.after(10)
    pieces = 1
    assert Counter(method for method, _ in look.store.calls) == {"folders": 60, "list": 3 * 12 + pieces}


def gone(look: Look, id_: BackupId, kind: str = "data/") -> str:
    folder = look.archives.layout(7).backup(id_)
    key = next(key for key in look.store.objects if key.startswith(f"{folder}{kind}"))
    look.store.delete(key)
    return key


@pytest.mark.parametrize("kind", ["data/", "index-", "order-", "manifest-"])
def test_p14_an_object_of_the_newest_backup_that_is_gone_is_told_within_the_hour(look: Look, kind: str) -> None:
    look.put(FIRST)
    look.put(SECOND, stop=7 * MIB)
    assert look.complete(REFRESH_SECONDS) == 2
    assert look.look.tend(a_record(9 * MIB)) is None
    key = gone(look, SECOND, kind)
    assert look.complete(PIECES_SECONDS - 1) == 2
    found = look.after(REFRESH_SECONDS)
    assert found is not None
    assert (found["complete"], found["damaged"], found["newest"]["id"]) == (1, 1, str(FIRST))
    problem = look.look.tend(a_record(9 * MIB))
    assert problem is not None
    assert key in str(problem)
    third = BackupId("20261128T040000Z", 1, "1a2b3c4d")
    look.put(third, stop=8 * MIB)
    assert look.complete(GLANCE_SECONDS) == 2
    assert look.look.tend(a_record(9 * MIB)) is None, "a newer one is whole: only the number of damaged ones stays"


def test_an_object_that_is_put_back_makes_the_backup_count_again(look: Look) -> None:
    look.put(FIRST)
    before = dict(look.store.objects)
    gone(look, FIRST)
    assert look.complete(REFRESH_SECONDS) == 0
    assert look.look.tend(a_record(9 * MIB)) is not None
    look.store.objects.update(before)
    assert look.complete(PIECES_SECONDS) == 1
    assert look.look.tend(a_record(9 * MIB)) is None


def test_of_older_backups_each_is_looked_at_in_turn(look: Look) -> None:
    many = [BackupId(f"20261128T{hour:02}0000Z", 1, "1a2b3c4d") for hour in range(4)]
    for id_ in many:
        look.put(id_, stop=7 * MIB + int(id_.at[9:11]))
    assert look.complete(REFRESH_SECONDS) == 4
    gone(look, many[1])
    assert look.complete(PIECES_SECONDS) + look.complete(PIECES_SECONDS) + look.complete(PIECES_SECONDS) < 12
    assert look.complete(0) == 3
    assert look.look.tend(a_record(9 * MIB)) is None, "newer ones are whole"


def test_pieces_that_an_earlier_attempt_has_left_hide_nothing(look: Look) -> None:
    folder = look.archives.layout(7).backup(FIRST)
    for number in range(3):
        look.store.create(f"{folder}data/{number:064x}.zst", b"x" * 99, {})
    look.put(FIRST)
    assert look.complete(REFRESH_SECONDS) == 1
    body = look.archives.backups(7)
    (backup,) = look.look._found.documents.backups if look.look._found else ()
    assert body.shows(backup) == "more"
    name = body.read_document(backup, "order", backup.order).decode().split()[0]
    look.store.delete(f"{folder}data/{name}")
    assert look.complete(PIECES_SECONDS) == 0


def test_nobody_who_scrapes_is_needed_for_it(look: Look) -> None:
    look.put(FIRST)
    gone(look, FIRST)
    assert look.look.tend(a_record(9 * MIB)) is None
    assert look.look._looking is None
    look.clock.now += REFRESH_SECONDS
    look.look.tend(a_record(9 * MIB))
    assert look.look._looking is not None
    look.look._looking.join()
    assert look.look.tend(a_record(9 * MIB)) is not None


def test_after_a_look_that_failed_everything_is_looked_at_soon(look: Look) -> None:
    look.put(FIRST)
    assert look.complete(0) == 1
    look.store.down = True
    assert look.complete(REFRESH_SECONDS) == 1
    look.store.down = False
    look.store.calls.clear()
    assert look.complete(SOON_SECONDS) == 1
    assert "list" in {method for method, _ in look.store.calls}


def test_the_end_of_a_job_is_looked_at_at_once(look: Look, short_path: Path) -> None:
    dcs = MemoryDcs()
    agent = Agent(
        observer_of(short_path)._config, look.store, MemoryRecord(dcs), look.clock, {BACKUP_JOB: MemoryRecord(dcs)}
    )
    agent.archives, agent.backups = look.archives, look.look
    agent._look_at_backups()
    assert look.look._looking is None  # somebody else owns the record
    assert look.complete(0) == 0
    look.put(FIRST)
    look.archives.backups(7).commit(Tombstone(id=str(SECOND), at="2026-11-28T04:00:00Z", why="never finished"))
    ownership = SimpleNamespace(record=a_record(9 * MIB))
    agent.archiver = cast(Any, SimpleNamespace(over=SimpleNamespace(is_set=lambda: False), ownership=ownership))
    agent.jobs[BACKUP_JOB]._over()
    assert look.complete(0) == 1
