"""Base backups' ids, backup.json and the index: what they say, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from tests.core.values import a_backup
from walkeeper.core import backup_index
from walkeeper.core.backup import MAX_BACKUP_BYTES, BackupId, Place, Tombstone, WalRange, decode, encode
from walkeeper.core.backup_index import Part, Piece, is_inside
from walkeeper.errors import BadBackup

ID = BackupId("20261128T020000Z", 3, "1a2b3c4d")
PIECE = Piece(
    "0" * 64, 4096, 100, "a" * 32, 0, (Part("base/5/1259", "f", 0o600, 2048, 0, 512, 2048), Part("base", "d", 0o700))
)


def test_an_id_is_text_that_sorts_by_its_beginning() -> None:
    assert str(ID) == "20261128T020000Z-00000003-1a2b3c4d"
    assert BackupId.parse(str(ID)) == ID
    assert ID.begun == datetime(2026, 11, 28, 2, tzinfo=UTC)
    assert BackupId.parse("20261399T020000Z-00000003-1a2b3c4d").begun is None
    later = BackupId("20261129T020000Z", 2, "00000000")
    assert sorted([later, ID]) == [ID, later]
    assert str(ID) < str(later)
    for wrong in ("", "x", str(ID) + "\n", str(ID).upper(), "20261128T020000Z-00000000-1a2b3c4d", "../" + str(ID)):
        with pytest.raises(BadBackup):
            BackupId.parse(wrong)


def test_backup_json_comes_back_as_it_was_and_is_the_same_bytes_each_time() -> None:
    backup = a_backup(ID)
    assert decode(encode(backup), ID) == backup
    assert encode(backup) == encode(decode(encode(backup), ID))
    tombstone = Tombstone(id=str(ID), at="2026-11-29T02:00:00+00:00", why="never finished")
    assert decode(encode(tombstone), ID) == tombstone


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"is":"backup"}',
        b'{"is":"something","id":"x"}',
        b" " * (MAX_BACKUP_BYTES + 1),
        encode(a_backup(ID)).replace(b'"full"', b'"other"'),
        encode(a_backup(ID)).replace(b'"id": "2026', b'"id": "2025'),
        encode(a_backup(ID)).replace(b'"schema": 2', b'"schema": 1'),
        encode(a_backup(ID)).replace(b'"segment_size": ', b'"segment_size": 1'),
        encode(a_backup(ID, stop=Place(3, "0/1000028", ""))),
        encode(a_backup(ID, wal=(WalRange(3, "0/2000028", "0/2000030"),))),
        encode(a_backup(ID, wal=(WalRange(2, "0/2000028", "0/2000030"), WalRange(3, "0/2000040", "0/2000100")))),
        encode(a_backup(ID, wal=(WalRange(3, "0/2000028", "0/2000030"), WalRange(2, "0/2000030", "0/2000100")))),
        encode(a_backup(ID, index="../../etc/passwd")),
    ],
)
def test_a_backup_json_that_cannot_be_relied_on_is_refused_by_its_name(document: bytes) -> None:
    with pytest.raises(BadBackup, match=f"backup {ID}: "):
        decode(document, ID)


def test_an_index_comes_back_line_by_line() -> None:
    other = Piece("1" * 64, 512, 90, "b" * 32, 16384, (Part("pg_tblspc/16384/PG_15/5/1", "f", 0o600),))
    lines = [backup_index.encode(PIECE), backup_index.encode(other)]
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    assert list(backup_index.decode(lines)) == [PIECE, other]


@pytest.mark.parametrize(
    "part",
    [
        Part("../x", "f", 0o600),
        Part("/etc/passwd", "f", 0o600),
        Part("base/../../x", "f", 0o600),
        Part("base//x", "f", 0o600),
        Part("base/\0", "f", 0o600),
        Part("base/1", "f", 0o600, 2048, 0, 3000, 2048),
        Part("base/1", "f", 0o600, 100, 1, 0, 100),
        Part("base", "d", 0o700, 1, 0, 0, 1),
        Part("base/1", "f", 0o17777),
        Part("base/1", "f", 0o600, -1),
    ],
)
def test_a_part_that_leads_elsewhere_or_is_not_there_is_refused_with_its_line(part: Part) -> None:
    line = backup_index.encode(msgspec.structs.replace(PIECE, parts=(part,)))
    with pytest.raises(BadBackup, match="index line 2: "):
        list(backup_index.decode([backup_index.encode(PIECE), line]))


def test_a_path_below_the_data_directory_has_one_form() -> None:
    assert is_inside("base/5/1259.1")
    assert is_inside("pg_tblspc/1/odd name …")
    assert not any(map(is_inside, ("", "/", ".", "a/", "a/./b", "..", "a/..")))
