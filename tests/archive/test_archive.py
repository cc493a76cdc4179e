"""The promise function, over a store in memory: P1, P2, P3, P5, P12."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest

from tests.core.values import paged_segment, plain_segment
from tests.twins.memory_store import MemoryStore
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import fetch
from walkeeper.archive.write import Archive
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import BadHistory, BadSegment, CannotTell, Conflict, StoreUnavailable, WrongCluster

SYSTEM = 7300000000000000001
SIZE = SegmentSize(MIB)
LAYOUT = Layout("demo", None, SYSTEM)
ONE = History(1)
SEGMENT = Segment(1, 5, SIZE)
PLAIN = plain_segment(SEGMENT, SYSTEM)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def archive_over(store: MemoryStore, codec: Codec | None = None) -> Archive:
    return Archive(store, LAYOUT, SIZE, codec or Codec())


@pytest.fixture
def archive(store: MemoryStore) -> Archive:
    return archive_over(store)


def keys(store: MemoryStore) -> list[str]:
    return [info.key for info in store.list("")]


def test_p1_a_receipt_means_that_the_store_has_the_segment(store: MemoryStore, archive: Archive) -> None:
    receipt = archive.archive_segment(SEGMENT, PLAIN, ONE)
    info = store.head(f"demo/{SYSTEM}/wal/0000000100000000/000000010000000000000005.zst")
    assert info is not None
    assert info.metadata["sha256"] == receipt.sha256 == hashlib.sha256(PLAIN).hexdigest()
    assert info.metadata["size"] == str(MIB)
    assert receipt.stored_bytes == info.size
    assert not receipt.was_present


@pytest.mark.parametrize("moment", ["before", "after"])
def test_p1_a_lost_answer_is_no_receipt_and_the_next_try_gives_one(
    store: MemoryStore, archive: Archive, moment: str
) -> None:
    def lose(call: str, _: str) -> None:
        store.before = store.after = None
        if call == "create":
            raise StoreUnavailable("no answer")

    setattr(store, moment, lose)
    with pytest.raises(StoreUnavailable):
        archive.archive_segment(SEGMENT, PLAIN, ONE)
    receipt = archive.archive_segment(SEGMENT, PLAIN, ONE)
    assert receipt.was_present == (moment == "after")
    assert len(keys(store)) == 1


def test_p3_the_same_bytes_again_are_a_success(archive: Archive) -> None:
    first = archive.archive_segment(SEGMENT, PLAIN, ONE)
    again = archive.archive_segment(SEGMENT, PLAIN, ONE)
    assert again.sha256 == first.sha256
    assert again.was_present


def test_p2_p3_other_bytes_under_the_same_name_are_refused_and_both_sides_stay(
    store: MemoryStore, archive: Archive
) -> None:
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    with pytest.raises(Conflict) as caught:
        archive.archive_segment(SEGMENT, plain_segment(SEGMENT, SYSTEM, fill=b"o"), ONE)
    assert "split brain" in caught.value.hint
    assert fetch(store, LAYOUT, Codec(), SEGMENT.name) == PLAIN


def test_p3_metadata_that_were_lost_or_garbled_are_made_up_for_by_reading(store: MemoryStore, archive: Archive) -> None:
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    for metadata in ({}, {"sha256": "x", "size": str(MIB)}, {"sha256": "0" * 64}, {"sha256": "Ä" * 64, "size": "5"}):
        store.objects[keys(store)[0]] = (store.objects[keys(store)[0]][0], metadata)
        assert archive.archive_segment(SEGMENT, PLAIN, ONE).was_present
        with pytest.raises(Conflict):
            archive.archive_segment(SEGMENT, plain_segment(SEGMENT, SYSTEM, fill=b"o"), ONE)


def test_p3_a_segment_stored_with_another_suffix_is_found(store: MemoryStore, archive: Archive, tmp_path: Path) -> None:
    archive_over(store, make_keys(tmp_path)[0]).archive_segment(SEGMENT, PLAIN, ONE)
    found = archive.find(SEGMENT)
    assert found is not None
    assert found.sha256 == hashlib.sha256(PLAIN).hexdigest()
    assert archive.find(Segment(1, 6, SIZE)) is None


@pytest.mark.parametrize(
    ("plain", "problem"),
    [
        (b"", BadSegment),
        (PLAIN[:-1], BadSegment),
        (PLAIN + b"x", BadSegment),
        (b"\0" * MIB, BadSegment),
        (plain_segment(Segment(1, 6, SIZE), SYSTEM), BadSegment),
        (plain_segment(SEGMENT, SYSTEM, timeline=2), BadSegment),
        (plain_segment(Segment(1, 5 * 16, SIZE), SYSTEM)[:MIB], BadSegment),
        (plain_segment(SEGMENT, SYSTEM + 1), WrongCluster),
    ],
)
def test_p5_what_does_not_agree_with_its_name_and_cluster_is_not_stored(
    store: MemoryStore, archive: Archive, plain: bytes, problem: type[Exception]
) -> None:
    with pytest.raises(problem):
        archive.archive_segment(SEGMENT, plain, ONE)
    assert keys(store) == []


@pytest.mark.parametrize("what", ["a page is zero", "a page is an old one's", "it ends in the middle"])
def test_p13_a_segment_that_is_not_complete_by_its_pages_gets_no_receipt(
    store: MemoryStore, archive: Archive, what: str
) -> None:
    old = plain_segment(Segment(1, 2, SIZE), SYSTEM)
    middle = 64 * 8192
    page = {"a page is zero": bytes(8192), "a page is an old one's": old[middle : middle + 8192]}
    broken = PLAIN[:middle] + page.get(what, bytes(SIZE)) + PLAIN[middle + 8192 :]
    for archiving in (archive.archive_segment, archive.confirm_segment):
        with pytest.raises(BadSegment) as refused:
            archiving(SEGMENT, broken[:SIZE], ONE)
        assert refused.value.hint
    assert keys(store) == []


def test_a_segment_that_was_switched_early_is_complete(store: MemoryStore, archive: Archive) -> None:
    archive.archive_segment(SEGMENT, paged_segment(SEGMENT, SYSTEM, written=20_000), ONE)
    assert len(keys(store)) == 1


def test_p12_an_archived_segment_opens_with_the_zstd_command(
    store: MemoryStore, archive: Archive, tmp_path: Path
) -> None:
    program = shutil.which("zstd")
    if program is None:
        pytest.skip("no zstd command on this machine: apt install zstd")
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    body = store.get(keys(store)[0])
    assert body is not None
    (tmp_path / "x.zst").write_bytes(body)
    subprocess.run([program, "-dq", tmp_path / "x.zst"], check=True)
    assert (tmp_path / "x").read_bytes() == PLAIN


def make_keys(tmp_path: Path) -> tuple[Codec, Codec]:
    """A codec that only encrypts, as on a database host, and one that can read back."""
    identity = pyrage.x25519.Identity.generate()
    file = tmp_path / "identity"
    file.write_text(f"# created: today\n{identity}\n")
    recipient = str(identity.to_public())
    return Codec(recipients=(recipient,)), Codec(recipients=(recipient,), identity_file=file)


def test_an_encrypted_segment_is_readable_with_its_identity_only(store: MemoryStore, tmp_path: Path) -> None:
    writing, reading = make_keys(tmp_path)
    archive_over(store, writing).archive_segment(SEGMENT, PLAIN, ONE)
    assert keys(store)[0].endswith(".zst.age")
    archive_over(store).state_start(SEGMENT)
    assert fetch(store, LAYOUT, reading, SEGMENT.name) == PLAIN
    with pytest.raises(CannotTell, match="no identity"):
        fetch(store, LAYOUT, writing, SEGMENT.name)
    (tmp_path / "other").mkdir()
    with pytest.raises(CannotTell, match="does not open it"):
        fetch(store, LAYOUT, make_keys(tmp_path / "other")[1], SEGMENT.name)


def test_p6_absent_is_proved_only_where_an_archive_states_its_start(store: MemoryStore, archive: Archive) -> None:
    with pytest.raises(CannotTell, match="no archive under"):
        fetch(store, LAYOUT, Codec(), SEGMENT.name)
    archive.state_start(SEGMENT)
    assert fetch(store, LAYOUT, Codec(), SEGMENT.name) is None
    assert fetch(store, LAYOUT, Codec(), "00000002.history") is None


def test_p6_the_first_timeline_has_no_history_and_that_needs_no_store(store: MemoryStore) -> None:
    assert fetch(store, LAYOUT, Codec(), "00000001.history") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body[:-1],
        lambda body: b"",
        lambda body: body[:40] + bytes([body[40] ^ 1]) + body[41:],
        lambda body: body + b"x",
    ],
)
def test_p6_a_damaged_object_is_never_delivered(
    store: MemoryStore, archive: Archive, damage: Callable[[bytes], bytes]
) -> None:
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    body, metadata = store.objects[keys(store)[0]]
    store.objects[keys(store)[0]] = (damage(body), metadata)
    with pytest.raises(CannotTell):
        fetch(store, LAYOUT, Codec(), SEGMENT.name)


def test_p6_another_segments_object_is_never_delivered(store: MemoryStore, archive: Archive) -> None:
    archive.archive_segment(SEGMENT, PLAIN, ONE)
    body = store.get(keys(store)[0])
    assert body is not None
    store.create(LAYOUT.file(Segment(1, 6, SIZE), ".zst"), body, {})
    with pytest.raises(BadSegment):
        fetch(store, LAYOUT, Codec(), Segment(1, 6, SIZE).name)


HISTORY_2 = b"1\t0/500100\tno recovery target specified\n"


def test_a_history_is_stored_once_and_a_second_use_of_its_number_is_refused(
    store: MemoryStore, archive: Archive
) -> None:
    archive.archive_history(2, HISTORY_2)
    archive.archive_history(2, HISTORY_2)
    with pytest.raises(Conflict, match="other content"):
        archive.archive_history(2, b"1\t0/600100\tno recovery target specified\n")
    assert archive.contents.history(2) == History(2, (Switch(1, Lsn(0x500100)),))
    assert archive.contents.history(3) is None
    assert archive.contents.history(1) == History(1)
    assert fetch(store, LAYOUT, Codec(), "00000002.history") == HISTORY_2


def test_a_history_that_postgresql_did_not_write_is_not_stored(store: MemoryStore, archive: Archive) -> None:
    for timeline, content in ((2, b""), (2, b"x\n"), (1, HISTORY_2)):
        with pytest.raises(BadHistory):
            archive.archive_history(timeline, content)
    assert keys(store) == []


TWO = History(2, (Switch(1, Lsn(5 * MIB + 100)),))


def store_chain(archive: Archive, history: History, numbers: range) -> None:
    for number in numbers:
        segment = history.segment(number, SIZE)
        archive.archive_segment(segment, plain_segment(segment, SYSTEM), history)


def test_p11_the_frontier_is_rebuilt_from_the_store_along_the_chain(archive: Archive) -> None:
    assert archive.contents.frontier(TWO) is None
    archive.state_start(Segment(1, 3, SIZE))
    assert archive.contents.frontier(TWO) == 3 * MIB
    store_chain(archive, ONE, range(3, 8))  # the dead primary archived beyond the fork
    assert archive.contents.frontier(TWO) == 5 * MIB
    store_chain(archive, TWO, range(5, 7))
    store_chain(archive, TWO, range(8, 9))  # 7 is missing: what lies beyond a hole does not count
    assert archive.contents.frontier(TWO) == 7 * MIB
    assert archive.contents.frontier(ONE) == 8 * MIB


def test_p11_a_recorded_gap_is_stepped_over_and_reported(archive: Archive) -> None:
    archive.state_start(Segment(1, 3, SIZE))
    store_chain(archive, ONE, range(3, 4))
    store_chain(archive, ONE, range(6, 7))
    archive.record_gap(Segment(1, 4, SIZE), Lsn(6 * MIB))
    assert archive.contents.frontier(ONE) == 7 * MIB
    assert [(gap.timeline, gap.start, gap.end) for gap in archive.contents.gaps()] == [(1, "0/400000", "0/600000")]


def test_p4_a_gap_that_another_timeline_has_is_not_stepped_over(archive: Archive) -> None:
    """Timeline 1 lost 4 to 7; 5 to 7 are timeline 2's own now, and may still be on their way."""
    archive.state_start(Segment(1, 3, SIZE))
    store_chain(archive, ONE, range(3, 4))
    archive.record_gap(Segment(1, 4, SIZE), Lsn(8 * MIB))
    assert archive.contents.frontier(ONE) == 8 * MIB
    assert archive.contents.frontier(TWO) == 5 * MIB


def test_p11_a_gap_that_is_half_closed_does_not_stop_the_frontier(archive: Archive) -> None:
    archive.state_start(Segment(1, 3, SIZE))
    store_chain(archive, ONE, range(3, 5))
    store_chain(archive, ONE, range(6, 7))
    archive.record_gap(Segment(1, 4, SIZE), Lsn(6 * MIB))
    assert archive.contents.frontier(ONE) == 7 * MIB


def test_other_peoples_files_below_wal_do_no_harm(store: MemoryStore, archive: Archive) -> None:
    archive.state_start(Segment(1, 3, SIZE))
    store_chain(archive, ONE, range(3, 4))
    for name in ("README", "000000010000000000000004.partial.zst", "000000010000000000000004.tmp"):
        store.create(f"{LAYOUT.wal}0000000100000000/{name}", b"x", {})
    assert archive.contents.frontier(ONE) == 4 * MIB
