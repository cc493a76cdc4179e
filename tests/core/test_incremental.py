"""Incremental backups: what a file of changed blocks says, which backups make a chain, and what of them is restored."""

from __future__ import annotations

import hashlib
import struct
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.values import a_backup
from walkeeper.core.backup import Backup, BackupId, Tablespace
from walkeeper.core.backup_index import Part
from walkeeper.core.incremental import (
    BLOCK,
    MOST,
    Changes,
    Layers,
    chain_of,
    changed_path,
    is_full_due,
    is_map,
    layers_of,
    manifest_of_whole,
    read_changes,
    unfit,
    without_increment,
)
from walkeeper.errors import BadBackup


def content(kept: int, *blocks: int, magic: int = 0xD3AE1F0D) -> bytes:
    head = struct.pack(f"=III{len(blocks)}I", magic, len(blocks), kept, *blocks)
    return head + (bytes(-len(head) % BLOCK + len(blocks) * BLOCK) if blocks else b"")


def changes(plain: bytes, size: int | None = None) -> Changes | None:
    return read_changes(memoryview(plain), len(plain) if size is None else size)


@pytest.mark.parametrize(
    ("plain", "kept", "size", "blocks", "begin"),
    [
        (content(3), 3, 3, [], 12),
        (content(0), 0, 0, [], 12),
        (content(3, 0, 2), 3, 3, [0, 2], BLOCK),
        (content(3, 1, 6), 3, 7, [1, 6], BLOCK),
        (content(131_073), 131_072, 131_072, [], 12),
        (content(200_000, 131_071), 131_072, 131_072, [131_071], BLOCK),
        (content(0, *range(2046)), 0, 2046, [*range(2046)], 2 * BLOCK),
        (content(0, *range(2045)), 0, 2045, [*range(2045)], BLOCK),
    ],
    ids=[
        "nothing changed",
        "emptied",
        "changed",
        "grown beyond what was kept",
        "cut beyond the file",
        "cut beyond the file and changed",
        "a header of two blocks",
        "of one",
    ],
)
def test_a_file_of_changed_blocks_says_its_length_and_where_they_belong(
    plain: bytes, kept: int, size: int, blocks: list[int], begin: int
) -> None:
    found = changes(plain)
    assert found is not None
    assert (found.kept, found.size, list(found.blocks), found.begin) == (kept * BLOCK, size * BLOCK, blocks, begin)


@pytest.mark.parametrize(
    "found",
    [
        changes(b""), changes(content(1)[:11]), changes(content(1, magic=1)), changes(content(1, 0) + b"x"),
        changes(content(1, 131_072)), changes(content(1, 0xFFFFFFFF)), changes(content(1, 0)[:-1]), changes(content(0, 1, 2)[:16], 3 * BLOCK),
    ],
)  # fmt: skip
def test_what_is_not_one_is_none(found: Changes | None) -> None:
    assert found is None


@given(st.binary(max_size=64), st.integers(0, 1 << 40))
def test_p16_whatever_lies_there_is_told_within_its_own_size(plain: bytes, size: int) -> None:
    found = changes(plain, size)
    assert found is None or found.begin + len(found.blocks) * BLOCK == size


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("base/5/INCREMENTAL.16384", "base/5/16384"),
        ("base/5/INCREMENTAL.16384_vm.1", "base/5/16384_vm.1"),
        ("global/INCREMENTAL.1262", "global/1262"),
        ("pg_tblspc/16385/PG_18_202506291/5/INCREMENTAL.9", "pg_tblspc/16385/PG_18_202506291/5/9"),
        ("INCREMENTAL.1", None),
        ("base/5/16384", None),
        ("pg_xact/INCREMENTAL.0000", None),
        ("base/5/INCREMENTAL.", None),
    ],
)
def test_files_of_changed_blocks_are_known_by_where_they_lie(path: str, changed: str | None) -> None:
    assert changed_path(path) == changed


def test_the_label_of_a_restored_chain_is_that_of_a_full_backup() -> None:
    label = b"START WAL LOCATION: 0/1\nINCREMENTAL FROM LSN: 0/2\nINCREMENTAL FROM TLI: 1\nLABEL: INCREMENTAL FROM x\n"
    assert without_increment(label) == b"START WAL LOCATION: 0/1\nLABEL: INCREMENTAL FROM x\n"


def test_the_manifest_of_a_restored_chain_has_whole_files_with_their_sizes_and_a_sum_of_its_own() -> None:
    more = '"Last-Modified": "2026-11-28 02:00:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "01234567" }'
    manifest = (
        '{ "PostgreSQL-Backup-Manifest-Version": 2,\n"Files": [\n'
        f'{{ "Path": "PG_VERSION", "Size": 3, {more},\n'
        f'{{ "Path": "base/1/INCREMENTAL.7", "Size": 12, {more},\n'
        f'{{ "Path": "base/1/INCREMENTAL.7_vm", "Size": 12, {more}\n'
        '],\n"Manifest-Checksum": "00"}\n'
    )
    whole = (
        '{ "PostgreSQL-Backup-Manifest-Version": 2,\n"Files": [\n'
        f'{{ "Path": "PG_VERSION", "Size": 3, {more},\n'
        '{ "Path": "base/1/7", "Size": 81920, "Last-Modified": "2026-11-28 02:00:00 GMT" },\n'
        '{ "Path": "base/1/7_vm", "Size": 0, "Last-Modified": "2026-11-28 02:00:00 GMT" }\n],\n'
    ).encode()
    found = manifest_of_whole(manifest.encode(), {"base/1/INCREMENTAL.7": 81920, "base/1/INCREMENTAL.7_vm": 8192})
    assert found == whole + b'"Manifest-Checksum": "%b"}\n' % hashlib.sha256(whole).hexdigest().encode()


def a_chain(length: int, **changed: Any) -> tuple[Backup, ...]:
    found: list[Backup] = []
    for number in range(length):
        parent = {"kind": "incremental", "parent": found[-1].id} if found else {}
        id_ = BackupId(f"20261128T0{number}0000Z", 3, "1a2b3c4d")
        found.append(a_backup(id_, **{"version": 180004, "checksums": True, **parent, **changed}))
    return tuple(found)


def test_what_an_incremental_can_build_on_and_why_not() -> None:
    chain = a_chain(2)
    space = Tablespace(16385, "/space", "0" * 64)
    for why, found, version, more in (
        ("", chain, 180000, {}),
        ("PostgreSQL 16 has no incremental backups, 17 has", chain, 160004, {}),
        ("the cluster's branch has no complete backup", (), 180004, {}),
        ("summarize_wal is off", (), 180004, {"summarizes": False}),
        (f"{chain[-1].id} is of PostgreSQL 18", chain, 190000, {}),
        (f"data checksums were turned off since {chain[-1].id}", chain, 180004, {"checksums": False}),
        (f"there are other tablespaces than in {chain[-1].id}", chain, 180004, {"tablespaces": [16385]}),
        ("", a_chain(2, tablespaces=(space,)), 180004, {"tablespaces": [16385]}),
        ("", a_chain(MOST - 1), 180004, {}),
        (f"the chain of {a_chain(MOST)[-1].id} has {MOST} backups", a_chain(MOST), 180004, {}),
    ):
        told: dict[str, Any] = {"checksums": True, "tablespaces": (), "summarizes": True, **more}
        assert unfit(found, version, **told) == why


def test_a_full_one_is_due_when_it_is_as_old_as_that_or_nearly() -> None:
    full = a_chain(1)[0]
    begun = BackupId.parse(full.id).begun
    assert begun is not None
    day = 86400.0
    assert not is_full_due(full, day, begun + timedelta(hours=22))
    assert is_full_due(full, day, begun + timedelta(hours=23, minutes=1))


def test_a_chain_ends_with_a_full_backup_that_is_there_and_older() -> None:
    chain = a_chain(3)
    by_id = {each.id: each for each in chain}
    assert chain_of(chain[2], by_id) == chain
    assert chain_of(chain[0], {}) == chain[:1]
    with pytest.raises(BadBackup, match=f"its parent {chain[0].id} is not there"):
        chain_of(chain[2], {chain[1].id: chain[1]})
    round_ = a_backup(BackupId.parse(chain[0].id), kind="incremental", parent=chain[2].id, version=180004)
    with pytest.raises(BadBackup, match="is not older"):
        chain_of(chain[2], by_id | {chain[0].id: round_})


def parts(*paths: str) -> list[Part]:
    return [Part(path, "f", 0o600, 1, 0, 0, 1) for path in paths]


def layers(*trees: list[Part]) -> Layers:
    chain = a_chain(len(trees))
    return layers_of(chain, lambda backup: trees[chain.index(backup)])


def test_of_each_file_the_newest_whole_copy_is_taken_and_the_changes_behind_it() -> None:
    full, first = parts("base/1/1", "base/1/2", "base/1/3"), parts("base/1/INCREMENTAL.1", "base/1/2", "base/1/4")
    second = parts("base/1/INCREMENTAL.1", "base/1/INCREMENTAL.2", "base/1/4", "PG_VERSION")
    found = layers(full, first, second)
    taken = [[found.takes(number, part) for part in tree] for number, tree in enumerate((full, first, second))]
    assert taken == [[True, False, False], [True, True, False], [True, True, True, True]]
    assert [found.names(path) for path in ("base/1/1", "base/1/3", "base/1/INCREMENTAL.1")] == [True, False, False]


def test_p14_a_visibility_map_is_taken_only_from_a_newest_backup_that_has_it_whole() -> None:
    """PostgreSQL's changed blocks of one lack some: rows that are gone would be seen."""
    trees = [
        parts("base/1/1_vm", "base/1/2_vm", "base/1/3", "base/1/4_vm"),
        parts("base/1/2_vm", "base/1/INCREMENTAL.1_vm", "base/1/INCREMENTAL.3", "base/1/INCREMENTAL.4_vm"),
        parts("base/1/INCREMENTAL.1_vm", "base/1/INCREMENTAL.2_vm", "base/1/INCREMENTAL.3", "base/1/4_vm"),
    ]
    found = layers(*trees)
    taken = [part.path for number, tree in enumerate(trees) for part in tree if found.takes(number, part)]
    assert taken == ["base/1/3", "base/1/INCREMENTAL.3", "base/1/INCREMENTAL.3", "base/1/4_vm"]
    made = [found.made(number, part) for number, tree in enumerate(trees) for part in tree]
    assert [(part.path, part.size) for part in made if part is not None] == [
        ("base/1/3", 1), ("base/1/1_vm", 0), ("base/1/2_vm", 0), ("base/1/4_vm", 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "map_"),
    [
        ("base/5/16384_vm", True),
        ("base/5/16384_vm.1", True),
        ("global/1262_vm", True),
        ("pg_tblspc/16385/PG_18_202506291/5/9_vm", True),
        ("base/5/16384", False),
        ("base/5/16384_fsm", False),
        ("base/5/16384_vmx", False),
        ("16384_vm", False),
    ],
)
def test_visibility_maps_are_known_by_their_names(path: str, map_: bool) -> None:
    assert is_map(path) == map_


@pytest.mark.parametrize(
    "trees",
    [
        [[], ["base/1/INCREMENTAL.1"]],
        [["base/1/1"], [], ["base/1/INCREMENTAL.1"]],
        [["base/1/2"], ["base/1/INCREMENTAL.1"], ["base/1/INCREMENTAL.1"]],
    ],
    ids=["nowhere", "not in between", "only changes"],
)
def test_p14_changes_of_nothing_are_damage(trees: list[list[str]]) -> None:
    with pytest.raises(BadBackup, match="1 of its files of changed blocks"):
        layers(*(parts(*tree) for tree in trees))
