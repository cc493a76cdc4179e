"""A PostgreSQL that does not exist yet: real segments with the magic of an invented 20, its records as they are, or unreadable."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.core.values import control_file, history_text
from tests.fixtures.archives import ONE, Built, Verifier
from tests.parts.binaries import all_postgres
from tests.postgres.test_wal_of_servers import SIZE, wal
from tests.twins.memory_store import MemoryStore
from walkeeper.archive import newer, tail
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.open import Archives
from walkeeper.archive.read import fetch
from walkeeper.archive.tail_read import assemble
from walkeeper.archive.write import Archive
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.tail import Piece
from walkeeper.core.wal_page import HEADER_SIZE, PAGE_SIZE, SegmentHeader, without_zeros
from walkeeper.core.wal_records import ends_early, goes_beyond, goes_on, records
from walkeeper.errors import BadSegment
from walkeeper.postgres.data_directory import read_control_file
from walkeeper.push.place import Place
from walkeeper.push.storing import Pusher
from walkeeper.restore.branch import for_server

pytestmark = pytest.mark.postgres
NEWEST = max(all_postgres())
MAGIC = 0xD125
CONTROL_VERSION = 2004
_OTHERS = bytes([0, *range(255, 0, -1)])


def of_20(plain: bytes) -> bytes:
    """With another magic on each page that was written."""
    made = bytearray(plain)
    for page in range(0, len(made), PAGE_SIZE):
        if made[page : page + 2] != b"\0\0":
            made[page : page + 2] = MAGIC.to_bytes(2, "little")
    return bytes(made)


def of_20_with_other_records(plain: bytes) -> bytes:
    """Also with records that nobody here can read; zeros stay zeros."""
    made = bytearray(of_20(plain))
    for page in range(0, len(made), PAGE_SIZE):
        begin = page + (HEADER_SIZE if page == 0 else 24)
        made[begin : page + PAGE_SIZE] = made[begin : page + PAGE_SIZE].translate(_OTHERS)
    return bytes(made)


KINDS: dict[str, Callable[[bytes], bytes]] = {"same records": of_20, "other records": of_20_with_other_records}
kinds = pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)


def segments() -> dict[Segment, bytes]:
    return wal(NEWEST).segments


def system_identifier() -> int:
    return SegmentHeader.parse(next(iter(segments().values())), "x").system_identifier


@pytest.fixture
def archive() -> Archive:
    made = Archive(MemoryStore(), Layout("demo", None, system_identifier()), SIZE, Codec())
    made.state_start(next(iter(segments())))
    return made


@pytest.fixture(autouse=True)
def _told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newer, "_told", set())


@kinds
def test_its_segments_are_archived_and_fetched_byte_for_byte_with_one_warning(
    archive: Archive, made: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    for segment, plain in segments().items():
        archive.archive_segment(segment, made(plain), History(1))
        assert fetch(archive.store, archive.layout, archive.codec, segment.name) == made(plain)
    (said,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert said.startswith(f"postgresql_not_known magic={MAGIC:04X} known=")
    assert "Not vouched for" in said


def test_what_is_known_is_archived_without_a_word(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    for segment, plain in segments().items():
        archive.archive_segment(segment, plain, History(1))
    assert not caplog.records


def test_of_its_segments_each_page_is_looked_at_before_they_are_archived(archive: Archive) -> None:
    segment, plain = next(iter(segments().items()))
    with pytest.raises(BadSegment, match="have the magic of its first one"):
        archive.archive_segment(segment, MAGIC.to_bytes(2, "little") + plain[2:], History(1))


def test_an_archive_of_it_is_sound_also_inside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Built(tmp_path)
    built.put(ONE, 3, 4, magic=MAGIC)
    built.put(ONE, 5, written=3 * PAGE_SIZE + 700, magic=MAGIC)
    built.record(1, 6)
    said = Verifier(built, capsys, monkeypatch)(deep=True)
    assert (said.code, said.kinds, said.document["deep"]["segments"]) == (0, [], 3)


@kinds
def test_p9_none_of_its_complete_segments_is_taken_for_a_padded_one(made: Callable[[bytes], bytes]) -> None:
    assert any(without_zeros(plain) < SIZE / 2 for plain in segments().values()), "one was switched"
    for segment, plain in segments().items():
        assert ends_early(made(plain), segment) is None


@kinds
def test_archive_push_takes_its_segments_beside_a_control_file_that_nobody_here_can_read(
    tmp_path: Path, made: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "pg_wal").mkdir()
    (tmp_path / "global").mkdir()
    content = control_file(1, 1, system_identifier=system_identifier(), version=CONTROL_VERSION)
    (tmp_path / "global" / "pg_control").write_bytes(content)
    store = MemoryStore()
    for segment, plain in segments().items():
        (tmp_path / "pg_wal" / segment.name).write_bytes(made(plain))
        receipt = Pusher(Archives(store, "demo", None, Codec())).push(Place(tmp_path, segment.name)).receipt
        assert receipt is not None
        assert receipt.segment == segment


@kinds
def test_its_tail_is_shipped_and_served_where_there_is_no_copy(
    archive: Archive, tmp_path: Path, made: Callable[[bytes], bytes]
) -> None:
    segment, plain = next(iter(segments().items()))
    begin = 0
    for end in (5_000, 20_000, 20_480):
        tail.put(archive, segment, Piece(begin, end, "o1"), made(plain)[begin:end])
        begin = end
    assembled = assemble(archive.store, archive.layout, archive.codec, segment.name)
    assert assembled is not None
    assert assembled.beyond(tmp_path) == made(plain)[:20_480].ljust(SIZE, b"\0")


@kinds
def test_p6_its_tail_never_replaces_a_copy_that_has_as_much_or_cannot_be_read(made: Callable[[bytes], bytes]) -> None:
    pairs = 0
    for segment, plain in segments().items():
        ends = [record.end for record in records(plain, segment) if not record.is_switch][::-40]
        for ahead, behind in pairwise(ends):
            pairs += 1
            more, less = made(plain[:ahead]), made(plain[:behind])
            for rest in (b"", bytes(SIZE - behind)):
                assert goes_beyond(more, less + rest, segment) == (made is of_20)
                assert not goes_beyond(less, more + rest, segment)
                assert not goes_beyond(more, more + rest, segment)
        for end in ends:
            assert not goes_beyond(made(plain[:end]), made(plain), segment)
    assert pairs > 20


@kinds
def test_that_its_wal_goes_on_is_only_said_where_a_checksum_proves_it(made: Callable[[bytes], bytes]) -> None:
    segment, plain = next(iter(segments().items()))
    first = next(records(plain, segment))
    assert goes_on(made(plain), segment, Lsn(segment.start + first.end)) == (made is of_20)


def test_p6_a_server_whose_control_file_cannot_be_read_is_given_what_any_archive_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts as a standby after a crash, and nobody knows how far it had come: PostgreSQL decides."""
    (tmp_path / "pg_wal").mkdir()
    (tmp_path / "global").mkdir()
    (tmp_path / "standby.signal").touch()
    (tmp_path / "postmaster.pid").write_text(f"{os.getpid()}\n/data\n1\n5432\n/tmp\n*\n1 1\nstarting\n")
    monkeypatch.chdir(tmp_path)
    segment, plain = next(iter(segments().items()))
    beyond = segment.start + 100_000
    history = history_text(History(2, (Switch(1, Lsn(segment.start + 1000)),)))
    for version in (1905, CONTROL_VERSION, 2600):
        content = control_file(1, beyond, system_identifier=system_identifier(), version=version)
        if version == 1905:
            content = content[:128] + bytes(8) + content[128:]
        (tmp_path / "global" / "pg_control").write_bytes(content)
        found = read_control_file(tmp_path)
        assert found.system_identifier == system_identifier()
        assert bool(found.had) == (version == 1905)
        assert for_server("00000002.history", history, tmp_path) == (None if version == 1905 else history)
        assert for_server(segment.name, of_20(plain), tmp_path) == of_20(plain)
