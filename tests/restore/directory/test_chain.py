"""A chain of incrementals is restored in its place: killed, damaged, over another directory, it is what its newest backup says."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fixtures.made_backup import BLOCK_SIZE, LAYOUT, PIECE, as_restored, expected_of_chain, made_chain, plan
from tests.restore.directory.test_carry_out import Kernel, Killed
from tests.twins.memory_store import MemoryStore
from walkeeper.archive import proofs
from walkeeper.archive.backups import Backups
from walkeeper.archive.codec import Codec
from walkeeper.core import backup_index
from walkeeper.core.backup import Backup, BackupId
from walkeeper.core.incremental import Changes
from walkeeper.errors import BadBackup, CannotTell, Damaged
from walkeeper.restore.directory import fetch, here
from walkeeper.restore.directory.carry_out import Result, carry_out
from walkeeper.restore.directory.model import Plan


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def chain(store: MemoryStore) -> tuple[Backup, ...]:
    return made_chain(store)


def planned(chain: tuple[Backup, ...], store: MemoryStore, directory: Path, **request: Any) -> Plan:
    return plan(chain[-1], store, directory, chain=chain, **request)


def restore(chain: tuple[Backup, ...], store: MemoryStore, directory: Path, **request: Any) -> Result:
    return carry_out(planned(chain, store, directory, **request), "restore %f %p", lambda _: None)


def is_whole(directory: Path) -> bool:
    found = as_restored(directory)
    ours = {"postgresql.auto.conf", "tablespace_map", "recovery.signal"}
    return {path: content for path, content in found.items() if path not in ours} == expected_of_chain()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_p14_a_chain_becomes_what_its_newest_backup_was(
    chain: tuple[Backup, ...], store: MemoryStore, tmp_path: Path, workers: int
) -> None:
    what = planned(chain, store, tmp_path)
    here.check_place(what)
    what = replace(what, config=replace(what.config, restore_workers=workers))
    result = carry_out(what, "restore %f %p", lambda _: None)
    assert is_whole(tmp_path)
    assert (result.kept, 0 < result.fetched <= what.packed_bytes) == (0, True)


def test_the_room_is_that_of_the_files_at_their_largest_and_not_of_their_changes(
    chain: tuple[Backup, ...], store: MemoryStore, tmp_path: Path
) -> None:
    what = planned(chain, store, tmp_path)
    found = here.needed(what, {0: what.directory, **what.tablespaces}).sizes
    whole = {path: len(content or b"") for path, content in expected_of_chain().items()}
    space = next(iter(what.tablespaces))
    cut = BLOCK_SIZE  # of one file in each
    assert found[space] == cut + sum(size for path, size in whole.items() if path.startswith("pg_tblspc/"))
    assert 0 <= found[0] + found[space] - 2 * cut - sum(whole.values()) < 100  # the label's lines


@pytest.mark.parametrize("every", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_p14_killed_before_any_step_a_chain_does_not_start_and_the_same_command_goes_on(
    chain: tuple[Backup, ...], store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    whole = Kernel()
    with monkeypatch.context() as patched:
        whole.into(patched)
        restore(chain, store, _fresh(tmp_path, "whole"))
    count = len(whole.calls)
    for step in [*range(0, count - 12, every), *range(count - 12, count)]:
        directory = _fresh(tmp_path, str(step))
        with monkeypatch.context() as patched:
            Kernel(step).into(patched)
            with pytest.raises(Killed):
                restore(chain, store, directory)
        if (directory / "data/global/pg_control").exists():
            assert is_whole(directory), step
        restore(chain, store, directory)
        assert is_whole(directory), step


def _fresh(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_delta_makes_another_states_files_those_of_the_chain(
    chain: tuple[Backup, ...], store: MemoryStore, tmp_path: Path
) -> None:
    restore(chain[:1], store, tmp_path)
    restore(chain, store, tmp_path, delta=True)
    assert is_whole(tmp_path)
    file = tmp_path / "data/base/1/101"
    file.write_bytes(file.read_bytes() + b"longer")
    (tmp_path / "data/base/1/100").write_bytes(b"shorter")
    (tmp_path / "data/base/1/INCREMENTAL.100").write_bytes(b"left")
    assert restore(chain, store, tmp_path, delta=True).kept > 0
    assert is_whole(tmp_path)


def _pieces_with(backups: Backups, backup: Backup, path: str) -> list[str]:
    found = (piece for piece in backups.index(backup) if any(part.path == path for part in piece.parts))
    return [LAYOUT.backup_piece(BackupId.parse(backup.id), piece.sha256, ".zst") for piece in found]


@pytest.mark.parametrize("which", [0, 1])
def test_p14_changed_blocks_that_arrive_damaged_once_spoil_nothing(
    chain: tuple[Backup, ...], store: MemoryStore, tmp_path: Path, which: int
) -> None:
    """What was written of them before they were proved would stay in a file that is whole."""
    key = _pieces_with(Backups(store, LAYOUT, Codec()), chain[1], "base/1/INCREMENTAL.100")[which]
    good = store.objects[key]
    plain = bytearray(Codec().decode(".zst", good[0], 2 * PIECE))
    plain[-PIECE:] = b"\xff" * PIECE
    store.objects[key] = (Codec().encode(bytes(plain)), {})

    def heal(what: str, asked: str) -> None:
        if asked == key and sum(call == ("get", key) for call in store.calls) == 2:
            store.objects[key] = good

    store.before = heal
    restore(chain, store, tmp_path)
    assert is_whole(tmp_path)


@pytest.mark.parametrize("which", [0, 1])
def test_p14_a_piece_of_changed_blocks_that_is_missing_ends_all_and_nothing_starts(
    chain: tuple[Backup, ...], store: MemoryStore, tmp_path: Path, which: int
) -> None:
    """Those who wait for the first piece of a file, too."""
    del store.objects[_pieces_with(Backups(store, LAYOUT, Codec()), chain[2], "base/1/INCREMENTAL.100")[which]]
    what = planned(chain, store, tmp_path)
    with pytest.raises(CannotTell, match=r"it has base/1/INCREMENTAL\.100"):
        carry_out(replace(what, config=replace(what.config, restore_workers=3)), "restore %f %p", lambda _: None)
    assert not (tmp_path / "data/global/pg_control").exists()


def test_damage_is_told_and_noted_though_those_who_waited_for_another_piece_end_sooner(
    chain: tuple[Backup, ...], store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They only know that the restore has failed, which would be taken for the reason."""
    first, _, third = _pieces_with(Backups(store, LAYOUT, Codec()), chain[1], "base/1/INCREMENTAL.100")
    store.objects[third] = (Codec().encode(b"another cluster's"), {})
    failed, ended = threading.Event(), threading.Event()

    class Slow(fetch.Told):
        """Who met the damage comes last."""

        def fail(self, problem: BaseException) -> BaseException:
            told = super().fail(problem)
            if isinstance(problem, Damaged):
                failed.set()
                ended.wait()
            return told

    def hold(what: str, asked: str) -> None:
        if (what, asked) == ("get", first):
            failed.wait()

    monkeypatch.setattr(fetch, "Told", Slow)
    store.before = hold
    what = planned(chain, store, tmp_path)
    try:
        with pytest.raises(Damaged, match=f"{third}: its content is not what its name says") as told:
            carry_out(replace(what, config=replace(what.config, restore_workers=4)), "restore %f %p", lambda _: None)
    finally:
        ended.set()
    assert told.value.backup == chain[1].id
    assert [*proofs.damaged(store, LAYOUT)] == [chain[1].id]


def test_p14_changes_of_what_no_parent_has_are_refused_before_the_first_write(
    chain: tuple[Backup, ...], store: MemoryStore, tmp_path: Path
) -> None:
    with pytest.raises(BadBackup, match="1 of its files of changed blocks change what its parents do not have"):
        here.check_place(planned((chain[0], chain[2]), store, tmp_path))
    assert not (tmp_path / "data").exists()


def _parts_of_100(backups: Backups, backup: Backup) -> list[backup_index.Part]:
    found = [part for piece in backups.index(backup) for part in piece.parts if part.path == "base/1/INCREMENTAL.100"]
    assert len(found) == 4
    return found


@pytest.mark.parametrize(
    "wanted", [[0, 2, 1, 3], [1, 0, 2, 3], [1, 2, 3], [0, 1, 2], [0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 1, 2, 3]]
)
def test_p16_changed_blocks_whose_parts_do_not_follow_each_other_are_refused_before_the_first_write(
    chain: tuple[Backup, ...], store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: list[int]
) -> None:
    """A restore would wait without an end for the first one."""
    index, changed = Backups.index, chain[-1]
    found = _parts_of_100(Backups(store, LAYOUT, Codec()), changed)

    def otherwise(backups: Backups, backup: Backup) -> Any:
        for piece in index(backups, backup):
            parts = tuple(part for part in piece.parts if part not in found)
            yield msgspec.structs.replace(piece, parts=parts)
            if backup is changed and found[0] in piece.parts:
                for each in wanted:
                    yield msgspec.structs.replace(piece, size=2 * PIECE, parts=(found[each],))

    monkeypatch.setattr(Backups, "index", otherwise)
    with pytest.raises(BadBackup, match=r"the parts of 'base/1/INCREMENTAL\.100' do not follow each other"):
        here.check_place(planned(chain, store, tmp_path))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("workers", [1, 3])
def test_what_a_file_of_changed_blocks_says_is_kept_no_longer_than_it_is_written(
    chain: tuple[Backup, ...], store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    made: list[fetch.Told] = []
    told: list[str] = []

    class Watched(fetch.Told):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def tell(self, part: backup_index.Part, changes: Changes) -> None:
            super().tell(part, changes)
            told.append(part.path)

    monkeypatch.setattr(fetch, "Told", Watched)
    what = planned(chain, store, tmp_path)
    carry_out(replace(what, config=replace(what.config, restore_workers=workers)), "restore %f %p", lambda _: None)
    assert ("base/1/INCREMENTAL.100" in told, [len(each) for each in made]) == (True, [0])
    assert is_whole(tmp_path)


def test_p16_an_index_that_says_another_size_than_the_blocks_is_refused(
    chain: tuple[Backup, ...], store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def larger(backups: Backups, backup: Backup) -> Any:
        pieces = index(backups, backup)
        for piece in pieces:
            parts = tuple(
                msgspec.structs.replace(part, restored=part.restored + 8192) if part.restored else part
                for part in piece.parts
            )
            yield msgspec.structs.replace(piece, parts=parts)

    index = Backups.index
    monkeypatch.setattr(Backups, "index", larger)
    with pytest.raises(BadBackup, match="not those of its index"):
        restore(chain, store, tmp_path)
    assert not (tmp_path / "data/global/pg_control").exists()
