"""Objects that are not what was stored: shorter, empty, rotted, another's. Fault J6, promises P2, P3, P6 and P13."""

from __future__ import annotations

import hashlib
import threading
import tracemalloc
from pathlib import Path

import pyrage
import pytest
from backports import zstd

from tests.core.values import plain_segment
from tests.parts.scripted_s3 import ScriptedS3
from tests.twins.memory_store import MemoryStore
from walkeeper.archive.codec import Codec
from walkeeper.archive.contents import Contents
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import Reader, fetch
from walkeeper.archive.write import Archive
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import BackupFile, HistoryFile, Segment, parse_wal_name
from walkeeper.errors import CannotTell, Conflict, Locked, NotAuthentic, StoreDenied, TooLarge, WalkeeperError
from walkeeper.store.base import Body
from walkeeper.store.s3.driver import S3Store

SYSTEM = 7300000000000000001
SIZE = SegmentSize(MIB)
LAYOUT = Layout("demo", None, SYSTEM)
ONE = History(1)
SEGMENT = Segment(1, 5, SIZE)
PLAIN = plain_segment(SEGMENT, SYSTEM)
OTHER = plain_segment(SEGMENT, SYSTEM, fill=b"o")
KEY = LAYOUT.file(SEGMENT, ".zst")
AGAIN = LAYOUT.file(SEGMENT, ".again.zst")
TEXT = b"1\t0/500100\tno recovery target specified\n"
HISTORY = LAYOUT.file(HistoryFile(2), "")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(params=[False, True], ids=["near", "far"])
def archive(store: MemoryStore, request: pytest.FixtureRequest) -> Archive:
    return Archive(store, LAYOUT, SIZE, Codec(), far=request.param)


@pytest.fixture
def encrypting(store: MemoryStore, tmp_path: Path) -> Archive:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "key").write_text(str(identity))
    return Archive(store, LAYOUT, SIZE, Codec(1, (str(identity.to_public()),), tmp_path / "key"))


def damage(store: MemoryStore, key: str, kind: str) -> None:
    body, metadata = store.objects[key]
    bodies = {"empty": b"", "shorter": body[:-100], "longer": body + b"x"}
    store.objects[key] = (bodies[kind], metadata)


@pytest.mark.parametrize("kind", ["empty", "shorter", "longer"])
def test_p13_an_object_that_is_not_as_long_as_it_was_stored_is_not_present(
    store: MemoryStore, archive: Archive, kind: str
) -> None:
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    damage(store, KEY, kind)
    assert archive.find(SEGMENT) is None
    assert not Contents(store, LAYOUT, SIZE).has(SEGMENT)


@pytest.mark.parametrize("kind", ["empty", "shorter", "longer"])
def test_p2_what_is_damaged_is_stored_again_beside_it_and_never_overwritten(
    store: MemoryStore, archive: Archive, kind: str
) -> None:
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    damage(store, KEY, kind)
    before = store.objects[KEY]
    for archiving in (archive.archive_segment, archive.confirm_segment):
        receipt = archiving(SEGMENT, PLAIN, ONE)
        assert receipt.sha256 == hashlib.sha256(PLAIN).hexdigest()
    assert store.objects[KEY] == before
    assert sorted(store.objects) == sorted([KEY, AGAIN])
    assert archive.find(SEGMENT) == receipt
    assert fetch(store, LAYOUT, Codec(), SEGMENT.name) == PLAIN
    (found,) = Contents(store, LAYOUT, SIZE).segments()
    assert found == SEGMENT


def test_p11_an_empty_object_ends_what_a_frontier_is_rebuilt_to(store: MemoryStore, archive: Archive) -> None:
    archive.state_start(SEGMENT)
    for number in (5, 6, 7):
        each = Segment(1, number, SIZE)
        archive.archive_segment(each, plain_segment(each, SYSTEM), ONE)
    assert archive.contents.frontier(ONE) == 8 * MIB
    damage(store, LAYOUT.file(Segment(1, 6, SIZE), ".zst"), "empty")
    assert archive.contents.frontier(ONE) == 6 * MIB
    assert [each.number for each in archive.contents.segments()] == [5, 7]
    again = Segment(1, 6, SIZE)
    archive.archive_segment(again, plain_segment(again, SYSTEM), ONE)
    assert archive.contents.frontier(ONE) == 8 * MIB


def test_p3_what_was_stored_again_counts_when_encryption_begins(
    store: MemoryStore, archive: Archive, encrypting: Archive
) -> None:
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    damage(store, KEY, "empty")
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    with pytest.raises(Conflict):
        encrypting.archive_segment(SEGMENT, OTHER, ONE)
    assert encrypting.archive_segment(SEGMENT, PLAIN, ONE).was_present
    assert sorted(store.objects) == sorted([KEY, AGAIN])


def test_p6_what_was_stored_again_is_found_after_the_damaged_one_was_moved_away(
    store: MemoryStore, archive: Archive
) -> None:
    archive.state_start(SEGMENT)
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    damage(store, KEY, "empty")
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    store.delete(KEY)
    for far in (False, True):
        assert Reader(store, Codec(), far=far).deliver(LAYOUT, SEGMENT.name) == PLAIN
    assert archive.find(SEGMENT) is not None
    assert archive.contents.has(SEGMENT)


def test_p3_other_bytes_do_not_take_the_name_of_a_damaged_one_that_was_moved_away(
    store: MemoryStore, archive: Archive
) -> None:
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    damage(store, KEY, "empty")
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    store.delete(KEY)
    for archiving in (archive.archive_segment, archive.confirm_segment):
        with pytest.raises(Conflict, match=r"again\.zst is in the store"):
            archiving(SEGMENT, OTHER, ONE)
        assert archiving(SEGMENT, PLAIN, ONE).was_present
    assert list(store.objects) == [AGAIN]


def test_a_segment_costs_a_put_and_a_get_of_each_other_name_that_it_may_have() -> None:
    """Nothing else is asked; a HEAD that finds nothing would be two requests."""
    with ScriptedS3() as server:
        archive = Archive(S3Store(server.settings()), LAYOUT, SIZE, Codec())
        assert not archive.archive_segment(SEGMENT, PLAIN, ONE).was_present
        others = [LAYOUT.file(SEGMENT, suffix) for suffix in (".again.zst", ".again.zst.age", ".zst.age")]
        assert sorted(server.requests) == sorted([("PUT", KEY), *(("GET", key) for key in others)])
        server.objects[others[0]] = server.objects.pop(KEY)
        server.requests.clear()
        assert archive.archive_segment(SEGMENT, PLAIN, ONE).was_present
        assert sorted(server.requests) == sorted([("HEAD", others[0]), *(("GET", key) for key in others)])


@pytest.mark.parametrize("far", [False, True])
def test_the_other_names_are_asked_for_at_the_same_time_where_the_store_is_far(store: MemoryStore, far: bool) -> None:
    together = threading.Barrier(3)
    here = threading.get_ident()
    others: set[int] = set()

    def meet(call: str, key: str) -> None:
        if call == "get":
            others.add(threading.get_ident())
            if far:
                together.wait(60)  # all three of them, or nobody goes on

    store.before = meet
    Archive(store, LAYOUT, SIZE, Codec(), far=far).archive_segment(SEGMENT, PLAIN, ONE)
    assert (here in others) == (not far)
    assert len(others) == (3 if far else 1)


@pytest.mark.parametrize("refusal", [StoreDenied("it is in the deep archive"), NotAuthentic("somebody planted it")])
def test_p3_a_name_that_can_only_be_looked_at_is_looked_at(
    store: MemoryStore, archive: Archive, refusal: WalkeeperError, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.archive_segment(SEGMENT, OTHER, ONE)
    store.objects[AGAIN] = store.objects.pop(KEY)
    get = store.get

    def refuse(key: str, limit: int) -> Body | None:
        if key == AGAIN:
            raise refusal
        return get(key, limit)

    monkeypatch.setattr(store, "get", refuse)
    with pytest.raises(Conflict):
        archive.archive_segment(SEGMENT, PLAIN, ONE)


def test_p2_when_both_are_damaged_nothing_is_called_stored(store: MemoryStore, archive: Archive) -> None:
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    damage(store, KEY, "empty")
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    damage(store, AGAIN, "shorter")
    with pytest.raises(CannotTell, match="so is what was stored again") as refused:
        archive.archive_segment(SEGMENT, PLAIN, ONE)
    assert "Move both away" in refused.value.hint


def test_p3_other_bytes_that_were_stored_again_are_a_conflict(store: MemoryStore, archive: Archive) -> None:
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    damage(store, KEY, "empty")
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    for archiving in (archive.archive_segment, archive.confirm_segment):
        with pytest.raises(Conflict, match=r"again\.zst is in the store"):
            archiving(SEGMENT, OTHER, ONE)


def test_objects_of_0_1_0_state_nothing_of_what_was_packed_and_are_present(
    store: MemoryStore, archive: Archive
) -> None:
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    body, metadata = store.objects[KEY]
    old = {name: value for name, value in metadata.items() if not name.startswith("packed")}
    assert set(metadata) - set(old) == {"packed-size", "packed-sha256"}
    store.objects[KEY] = (body, old)
    assert archive.find(SEGMENT) is not None
    assert archive.archive_segment(SEGMENT, PLAIN, ONE).was_present
    assert fetch(store, LAYOUT, Codec(), SEGMENT.name) == PLAIN


def test_the_packed_size_and_sum_are_those_of_the_object(store: MemoryStore, archive: Archive) -> None:
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    label = parse_wal_name(f"{SEGMENT.name}.00000028.backup", SIZE)
    assert isinstance(label, BackupFile)
    archive.archive_file(label, b"label")
    for body, metadata in store.objects.values():
        assert metadata["packed-size"] == str(len(body))
        assert metadata["packed-sha256"] == hashlib.sha256(body).hexdigest()


def test_p3_a_label_whose_object_is_empty_is_stored_again(store: MemoryStore, archive: Archive) -> None:
    label = parse_wal_name(f"{SEGMENT.name}.00000028.backup", SIZE)
    assert isinstance(label, BackupFile)
    for _ in range(2):
        archive.archive_file(label, b"label")
        damage(store, LAYOUT.file(label, ".zst"), "empty")
    archive.archive_file(label, b"label")
    assert fetch(store, LAYOUT, Codec(), label.name) == b"label"
    with pytest.raises(Conflict):
        archive.archive_file(label, b"other")


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("content", [b"la", b"label, and more"])
def test_p3_a_label_of_another_length_is_another_one_and_not_a_damaged_one(
    store: MemoryStore, archive: Archive, content: bytes, stated: bool
) -> None:
    label = parse_wal_name(f"{SEGMENT.name}.00000028.backup", SIZE)
    assert isinstance(label, BackupFile)
    archive.archive_file(label, content)
    if not stated:
        store.objects = {key: (body, {}) for key, (body, _) in store.objects.items()}
    with pytest.raises(Conflict):
        archive.archive_file(label, b"label")
    assert len(store.objects) == 1


# ------------------------------------------------------------------------------------------------- the other suffix


def test_p3_other_bytes_under_the_other_suffix_get_no_receipt(
    store: MemoryStore, archive: Archive, encrypting: Archive
) -> None:
    encrypting.archive_segment(SEGMENT, OTHER, ONE)
    for archiving in (archive.archive_segment, archive.confirm_segment):
        with pytest.raises(Conflict, match=r"\.zst\.age is in the store with other bytes than \S+\.zst$"):
            archiving(SEGMENT, PLAIN, ONE)
    assert len(store.objects) == 1


def test_p3_two_suffixes_with_different_bytes_are_no_receipt_for_either(
    store: MemoryStore, archive: Archive, encrypting: Archive
) -> None:
    encrypting.archive_segment(SEGMENT, OTHER, ONE)
    theirs = dict(store.objects)
    store.objects.clear()
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    store.objects.update(theirs)
    for look in (archive.find, encrypting.find):
        with pytest.raises(Conflict, match=r"\.zst is in the store with other bytes than \S+\.zst\.age"):
            look(SEGMENT)
    for plain in (PLAIN, OTHER):
        for archiving in (archive.confirm_segment, encrypting.confirm_segment):
            with pytest.raises(Conflict):
                archiving(SEGMENT, plain, ONE)


def test_the_same_bytes_under_the_other_suffix_are_enough(
    store: MemoryStore, archive: Archive, encrypting: Archive
) -> None:
    encrypting.archive_segment(SEGMENT, PLAIN, ONE)
    assert archive.archive_segment(SEGMENT, PLAIN, ONE).was_present
    assert len(store.objects) == 1


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("damaged", [".zst", ".zst.age"])
def test_p6_a_damaged_object_does_not_stop_a_restore_where_the_other_suffix_has_a_whole_one(
    store: MemoryStore, archive: Archive, encrypting: Archive, damaged: str, far: bool, caplog: pytest.LogCaptureFixture
) -> None:
    encrypting.archive_segment(SEGMENT, PLAIN, ONE)
    both = dict(store.objects)
    store.objects.clear()
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    store.objects.update(both)
    key = LAYOUT.file(SEGMENT, damaged)
    body, metadata = store.objects[key]
    store.objects[key] = (body[:200] + bytes([body[200] ^ 1]) + body[201:], metadata)
    assert Reader(store, encrypting.codec, far=far).deliver(LAYOUT, SEGMENT.name) == PLAIN
    if damaged == ".zst" or far:
        said = [record for record in caplog.records if "stored_object_damaged" in record.getMessage()]
        assert bool(said) == (damaged == ".zst")


def test_p6_where_none_is_whole_the_first_problem_is_told(
    store: MemoryStore, archive: Archive, encrypting: Archive
) -> None:
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    encrypting.store.create(LAYOUT.file(SEGMENT, ".zst.age"), b"x" * 300, {})
    damage(store, KEY, "shorter")
    with pytest.raises(CannotTell, match="cut short"):
        fetch(store, LAYOUT, encrypting.codec, SEGMENT.name)


def test_p6_a_closed_object_is_not_a_damaged_one(store: MemoryStore, archive: Archive, encrypting: Archive) -> None:
    """Without its metadata it says nothing of its bytes to who has no key: nothing is stored beside it."""
    encrypting.archive_segment(SEGMENT, PLAIN, ONE)
    key = LAYOUT.file(SEGMENT, ".zst.age")
    store.objects[key] = (store.objects[key][0], {})
    with pytest.raises(Locked):
        archive.archive_segment(SEGMENT, PLAIN, ONE)
    assert len(store.objects) == 1


# --------------------------------------------------------------------------------------------------------- histories


def rot(store: MemoryStore) -> None:
    body, metadata = store.objects[HISTORY]
    store.objects[HISTORY] = (body.replace(b"0/500100", b"0/500900"), metadata)


def test_p6_a_history_with_a_rotted_digit_is_not_delivered(store: MemoryStore, archive: Archive) -> None:
    archive.archive_history(2, TEXT)
    rot(store)
    with pytest.raises(CannotTell, match="not what its checksum says"):
        fetch(store, LAYOUT, Codec(), HistoryFile(2).name)
    with pytest.raises(CannotTell, match="not what its checksum says"):
        archive.contents.history(2)


def test_p2_a_rotted_history_is_stored_again_beside_it(store: MemoryStore, archive: Archive) -> None:
    archive.archive_history(2, TEXT)
    rot(store)
    for _ in range(2):
        archive.archive_history(2, TEXT)
    assert fetch(store, LAYOUT, Codec(), HistoryFile(2).name) == TEXT
    history = archive.contents.history(2)
    assert history is not None
    assert history.switches[0].lsn == 0x500100
    assert Contents(store, LAYOUT, SIZE).listed(LAYOUT.histories).archived(SIZE).histories == {2}
    with pytest.raises(Conflict):
        archive.archive_history(2, TEXT.replace(b"100", b"200"))


# ------------------------------------------------------------------------------------------------------------ limits


def bomb(first: bytes, size: int) -> bytes:
    packed = zstd.compress(first + bytes(size))
    assert len(packed) < 200_000
    return packed


@pytest.mark.parametrize(
    ("name", "first"),
    [
        (SEGMENT.name, PLAIN[:8192]),
        (f"{SEGMENT.name}.partial", PLAIN[:8192]),
        (f"{SEGMENT.name}.00000028.backup", b"START WAL LOCATION"),
    ],
)
def test_p16_what_unpacks_to_more_than_its_kind_can_be_takes_no_memory(
    store: MemoryStore, archive: Archive, name: str, first: bytes
) -> None:
    archive.state_start(SEGMENT)
    store.create(LAYOUT.file(parse_wal_name(name, SIZE), ".zst"), bomb(first, 256 * MIB), {})
    packed = bomb(b"", 64 * MIB)
    tracemalloc.start()
    try:
        with pytest.raises(CannotTell):
            fetch(store, LAYOUT, Codec(), name)
        with pytest.raises(CannotTell):
            Codec().decode(".zst", packed, MIB)
        assert tracemalloc.get_traced_memory()[1] < 6 * MIB
    finally:
        tracemalloc.stop()


def test_p16_a_history_that_is_too_long_is_not_delivered(store: MemoryStore, archive: Archive) -> None:
    archive.state_start(SEGMENT)
    store.create(HISTORY, b"# comment\n" * 10_000 + TEXT, {})
    with pytest.raises(TooLarge):
        fetch(store, LAYOUT, Codec(), HistoryFile(2).name)
