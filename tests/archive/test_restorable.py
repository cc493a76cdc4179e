"""What can be restored, read from a store in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.test_floor import a_floor
from tests.core.values import a_backup, history_text
from tests.fixtures.made_backup import config as made_config
from tests.twins.memory_store import MemoryStore
from walkeeper.archive.codec import Codec
from walkeeper.archive.expiry import write_floor
from walkeeper.archive.open import Archives
from walkeeper.archive.proofs import write_proof
from walkeeper.archive.restorable import claimed, look, read_documents, summary
from walkeeper.core.backup import BackupId, Place, Tombstone, WalRange
from walkeeper.core.floor import Below
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.proof import Proof
from walkeeper.core.record import Record

SIZE = SegmentSize(MIB)
THREE = History(3, (Switch(1, Lsn(0x180000)),))


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.create("demo/7/history/00000003.history", history_text(THREE), {})
    store.create("demo/7/start/000000010000000000000001.json", b"{}", {})
    for number in (1, 2, 3):
        store.create(f"demo/7/wal/0000000300000000/{Segment(3, number, SIZE)}.zst", b"x", {})
    return store


@pytest.fixture
def archives(store: MemoryStore) -> Archives:
    return Archives(store, "demo", None, Codec())


def a_record(lsn: str) -> Record:
    return Record(
        system_identifier="7", segment_size=MIB, timeline=3, lsn=lsn, start="000000010000000000000001", owner="node1",
        session="x",
    )  # fmt: skip


def test_p14_documents_wal_tails_and_floors_are_read_together(store: MemoryStore, archives: Archives) -> None:
    backups = archives.backups(7)
    ids = [BackupId(f"202611{day:02}T020000Z", 3, "1a2b3c4d") for day in (1, 2, 3, 4, 5)]
    for id_, start, stop in zip(ids, (0x200028, 0x300028, 0x400028), (0x200100, 0x400000, 0x400100), strict=False):
        place, end = str(Lsn(start)), str(Lsn(stop))
        backups.commit(a_backup(id_, start=Place(3, place, ""), stop=Place(3, end, ""), wal=(WalRange(3, place, end),)))
    backups.commit(Tombstone(id=str(ids[3]), at="2026-11-04T02:00:00Z", why="never finished"))
    store.create(f"demo/7/backup/{ids[4]}/data/{'0' * 64}.zst", b"x", {})
    store.create("demo/7/backup/20261106T020000Z-00000003-1a2b3c4d/backup.json", b"{}", {})

    found = look(archives, 7, SIZE, a_record("0/400000"))
    assert [each.verdict for each in found.windows.judged] == ["complete", "complete", "incomplete"]
    assert [(str(each.start), str(each.end)) for each in found.windows.shown] == [("0/200100", "0/400000")]
    assert found.documents.attempts == (ids[4],)
    assert [each.id for each in found.documents.tombstones] == [str(ids[3])]
    assert list(found.documents.unreadable) == ["20261106T020000Z-00000003-1a2b3c4d"]

    store.create("demo/7/tail/000000030000000000000004/00000000-00000100-a.zst", b"x", {})
    tail = look(archives, 7, SIZE, None)
    assert [each.counts for each in tail.windows.judged] == [True, True, True]
    record = look(archives, 7, SIZE, a_record("0/400180"))
    assert str(record.windows.shown[0].end) == "0/400180"

    write_floor(store, archives.layout(7), a_floor(below=(Below(3, "0/300000"),), kept=()))
    below = look(archives, 7, SIZE, None)
    assert [each.why for each in below.windows.judged] == [
        "its WAL was given up: 000000030000000000000002 is below the floor",
        "",
        "",
    ]


def test_p15_who_tells_of_backups_counts_those_that_expire_counts(
    store: MemoryStore, archives: Archives, tmp_path: Path
) -> None:
    backups, record = archives.backups(7), a_record("0/400180")
    ids = [BackupId(f"202611{day:02}T020000Z", 3, "1a2b3c4d") for day in (1, 2)]
    for id_, end in zip(ids, ("0/200100", "0/300100"), strict=True):
        at = Place(3, end, "2026-11-02T02:00:00+00:00")
        backups.commit(a_backup(id_, start=at, stop=at, wal=(WalRange(3, "0/200028", end),)))
    note = Proof(backup=str(ids[1]), at="2026-11-03T00:00:00Z", timeline=3, lsn="0/0", damage="pg_checksums: block 7")
    write_proof(store, archives.layout(7), note)
    found = claimed(archives, record)
    assert [each.verdict for each in found.windows.judged] == ["complete", "damaged"]
    assert dict(found.prove) == {str(ids[1]): "walkeeper verify --restore --to 0/300100"}
    told = summary(found, 0.0, made_config(tmp_path))
    assert told is not None
    assert (told["complete"], told["damaged"], told["newest"]["id"]) == (1, 1, str(ids[0]))
    cleared = Proof(backup=str(ids[1]), at="2026-11-04T00:00:00Z", timeline=3, lsn="0/400100")
    write_proof(store, archives.layout(7), cleared)
    assert claimed(archives, record, found).windows.judged[1].counts


def test_a_damaged_history_hides_its_timeline_and_nothing_else(store: MemoryStore, archives: Archives) -> None:
    store.create("demo/7/history/00000004.history", b"garbage", {})
    assert sorted(look(archives, 7, SIZE, None).holdings.histories) == [1, 3]


def test_what_a_restore_and_expire_look_at_has_no_part_in_proofs(store: MemoryStore, archives: Archives) -> None:
    look(archives, 7, SIZE, None)
    assert not [key for _, key in store.calls if key.startswith(archives.layout(7).proofs)]


def test_an_archive_without_backups_has_none(archives: Archives) -> None:
    found = read_documents(archives.backups(7))
    assert (found.backups, found.attempts, found.tombstones, found.unreadable) == ((), (), (), {})
    assert look(archives, 7, SIZE, None).windows.shown == ()


def test_the_records_word_tells_the_same_without_listing_the_wal(
    store: MemoryStore, archives: Archives, tmp_path: Path
) -> None:
    id_ = BackupId("20261101T020000Z", 3, "1a2b3c4d")
    archives.backups(7).commit(
        a_backup(
            id_,
            start=Place(3, "0/200028", ""),
            stop=Place(3, "0/200100", ""),
            wal=(WalRange(3, "0/200028", "0/200100"),),
        )
    )
    store.calls.clear()
    found = claimed(archives, a_record("0/400180"))
    assert [(str(each.start), str(each.end)) for each in found.windows.shown] == [("0/200100", "0/400180")]
    assert not [key for method, key in store.calls if method == "list" and "/wal" in key]
    assert look(archives, 7, SIZE, a_record("0/400180")).windows.shown == found.windows.shown
    del store.objects[f"demo/7/wal/0000000300000000/{Segment(3, 3, SIZE)}.zst"]
    archives.archive(7, SIZE).record_gap(Segment(3, 3, SIZE), Lsn(0x400000))
    store.calls.clear()
    again = claimed(archives, a_record("0/400180"), found)
    assert not [key for method, key in store.calls if method == "get" and "/backup/" in key]
    assert [str(each.end) for each in again.windows.shown] == ["0/300000"]
    told = [summary(each, 0.0, made_config(tmp_path)) for each in (found, again)]
    assert [each is not None and each["window"]["to_frontier"] for each in told] == [True, False]
    gone = claimed(archives, a_record("0/200080"))
    assert [each.waits for each in gone.windows.judged] == [True]


def test_known_documents_are_not_read_again_and_an_attempt_is(store: MemoryStore, archives: Archives) -> None:
    backups, id_ = archives.backups(7), BackupId("20261101T020000Z", 3, "1a2b3c4d")
    store.create(f"demo/7/backup/{id_}/data/{'0' * 64}.zst", b"x", {})
    attempt = read_documents(backups)
    assert attempt.attempts == (id_,)
    backups.commit(a_backup(id_))
    found = read_documents(backups, attempt)
    assert [each.id for each in found.backups] == [str(id_)]
    store.calls.clear()
    assert read_documents(backups, found) == found
    assert [method for method, _ in store.calls] == ["folders"]


def test_a_backup_that_expired_since_the_last_look_is_one_no_longer(store: MemoryStore, archives: Archives) -> None:
    id_, layout = BackupId("20261101T020000Z", 3, "1a2b3c4d"), archives.layout(7)
    place, end = "0/200028", "0/200100"
    archives.backups(7).commit(
        a_backup(id_, start=Place(3, place, ""), stop=Place(3, end, ""), wal=(WalRange(3, place, end),))
    )
    first = claimed(archives, a_record("0/400180"))
    assert [each.counts for each in first.windows.judged] == [True]
    write_floor(store, layout, a_floor(below=(Below(3, "0/300000"),), kept=(), backups=(str(id_),)))
    second = claimed(archives, a_record("0/400180"), first)
    store.delete(layout.backup_json(id_))
    archives.backups(7).commit(Tombstone(id=str(id_), at="2026-11-28T04:00:00Z", why="below the floor"))
    third = claimed(archives, a_record("0/400180"), second)
    assert (third.windows.judged, [each.id for each in third.documents.tombstones]) == ((), [str(id_)])
