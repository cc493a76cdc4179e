"""The order in which a directory is written: killed between any two steps it does not start, and the same command goes on."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final, cast

import msgspec
import pyrage
import pytest

from tests.backup.tars import Tree
from tests.fixtures.made_backup import BASE, CONTROL, LAYOUT, SPACE, as_restored, expected, made, plan
from tests.twins.memory_store import MemoryStore
from walkeeper.archive import proofs
from walkeeper.archive.authentic import AuthenticStore, Trust
from walkeeper.archive.codec import Codec
from walkeeper.archive.expiry import read_pins
from walkeeper.config.model import NamedStore
from walkeeper.core.backup import Backup, BackupId
from walkeeper.core.backup_index import Part
from walkeeper.core.lsn import MIB
from walkeeper.errors import CannotRestore, CannotTell, Damaged, Locked, StoreDenied, StoreUnavailable
from walkeeper.lib import durable, retry
from walkeeper.postgres.data_directory import clone_of
from walkeeper.restore import state
from walkeeper.restore.directory import carry_out as module
from walkeeper.restore.directory import command, fetch, here, settings, tree
from walkeeper.restore.directory.carry_out import Result, _mark_clone, carry_out
from walkeeper.restore.directory.model import Use
from walkeeper.store.directory.keys import DirectorySettings
from walkeeper.store.open import open_store
from walkeeper.store.several import Several

CHANGING = ("open", "mkdir", "unlink", "rmdir", "rename", "fchmod", "ftruncate", "pwrite", "write", "symlink", "fsync")


class Killed(BaseException):
    """The process is gone."""


class Kernel:
    """``os`` with a count of what changes something; before the ``at``-th such call the process is killed."""

    def __init__(self, at: int = -1) -> None:
        self.at = at
        self.calls: list[str] = []
        self._lock = threading.Lock()
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self.counted(name, real) if name in CHANGING else real

    def counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            with self._lock:
                if self.dead or len(self.calls) == self.at:
                    self.dead = True
                    raise Killed
                self.calls.append(f"{name} {arguments[0] if isinstance(arguments[0], str) else ''}".strip())
            return real(*arguments, **more)

        return call

    def into(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for each in (tree, fetch, durable):
            self._put(monkeypatch, each)
        monkeypatch.setattr(durable, "sync_file_system", self.counted("syncfs", lambda _: None))

    def _put(self, monkeypatch: pytest.MonkeyPatch, where: ModuleType) -> None:
        monkeypatch.setattr(where, "os", self)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def backup(store: MemoryStore) -> Backup:
    return made(store)


def restore(backup: Backup, store: MemoryStore, directory: Path, **request: Any) -> Result:
    return carry_out(plan(backup, store, directory, **request), "restore %f %p", lambda _: None)


def is_whole(directory: Path) -> bool:
    found = as_restored(directory)
    return found.items() >= expected().items() and (directory / "data" / "recovery.signal").exists()


def test_everything_comes_back_and_what_belongs_to_a_run_or_a_host_does_not(
    store: MemoryStore, backup: Backup, tmp_path: Path
) -> None:
    result = restore(backup, store, tmp_path)
    data = tmp_path / "data"
    found = as_restored(tmp_path)
    ours = {"recovery.signal": b"", "tablespace_map": f"{SPACE} {tmp_path}/space\n".encode()}
    auto_conf = found.pop("postgresql.auto.conf")
    assert found == expected() | ours
    assert auto_conf is not None
    assert b"# from alter system\n" in auto_conf
    assert b"restore_command = 'restore %f %p'\nrecovery_target_timeline = '3'\n" in auto_conf
    assert (data / "pg_tblspc" / str(SPACE)).readlink() == tmp_path / "space"
    assert data.stat().st_mode & 0o7777 == 0o700
    assert (data / "base/1/1234").stat().st_mode & 0o7777 == 0o600
    assert result.fetched == backup.packed_bytes
    (pin,) = read_pins(store, LAYOUT)
    left = state.read(data)
    assert left is not None
    assert (pin.backup, left.pin, left.phase) == (backup.id, pin.id, "placing")


def test_a_replica_is_a_standby_with_the_settings_that_its_leader_has(
    store: MemoryStore, backup: Backup, tmp_path: Path
) -> None:
    """Whoever starts it: without Patroni, too, it would not become a primary."""
    result = restore(backup, store, tmp_path, use="replica", delta=True)
    there = {path.name for path in (tmp_path / "data").iterdir()}
    assert "standby.signal" in there
    assert there.isdisjoint({"recovery.signal", "walkeeper.conf", "walkeeper_hba.conf", "walkeeper_clone_of"})
    auto_conf = (tmp_path / "data" / "postgresql.auto.conf").read_text()
    assert not result.aside
    assert "# set aside" not in auto_conf
    assert "restore_command = 'restore %f %p'\n" in auto_conf


def test_a_clone_says_whose_it_is(store: MemoryStore, backup: Backup, tmp_path: Path) -> None:
    made = replace(plan(backup, store, tmp_path, use="bootstrap"), clone_of="file:///a/store/demo/7/")
    carry_out(made, "restore %f %p", lambda _: None)
    assert clone_of(tmp_path / "data") == "file:///a/store/demo/7/"
    assert (tmp_path / "data" / "recovery.signal").exists()
    assert not (tmp_path / "data" / "walkeeper.conf").exists()


def test_a_clone_that_took_the_archive_over_is_restored_as_what_it_is(
    store: MemoryStore, backup: Backup, tmp_path: Path
) -> None:
    """Its base backups have the mark."""
    for mark, stays in ((f"{store.url}/{LAYOUT.root}", False), ("file:///another/demo/7/", True)):
        restore(backup, store, tmp_path)
        (tmp_path / "data" / "walkeeper_clone_of").write_text(mark)
        written = tree.Tree(tmp_path / "data", {})
        _mark_clone(plan(backup, store, tmp_path), written, 0o600)
        written.close()
        assert (tmp_path / "data" / "walkeeper_clone_of").exists() is stays
        shutil.rmtree(tmp_path / "data")


@pytest.mark.parametrize(
    ("sees_all", "use", "refused"),
    [(True, "server", False), (False, "server", True), (False, "replica", False), (False, "bootstrap", False)],
)
def test_a_postmaster_pid_of_nobody_is_believed_where_not_all_can_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sees_all: bool, use: Use, refused: bool
) -> None:
    monkeypatch.setattr(here, "sees_all", lambda: sees_all)
    assert here.before(tmp_path, use) is None
    (tmp_path / "postmaster.pid").write_text("4000000\n/data\n1764400000\n5432\n/tmp\n\n\nready\n")
    with pytest.raises(CannotRestore, match="has a postmaster") if refused else nullcontext():
        assert here.before(tmp_path, use) is None


def test_a_directory_that_this_user_may_not_see_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As postgres sees /root/x, up to Python 3.13, which has an error there and no False."""

    def denied(_: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "is_dir", denied)
    monkeypatch.setattr(Path, "exists", denied)
    place = tmp_path / "hidden" / "x"
    looks: tuple[Callable[[], object], ...] = (
        lambda: here.before(place),
        lambda: here.check_room({0: place}, {0: 1}, 0),
    )
    for look in looks:
        with pytest.raises(CannotRestore, match=f"{place}: Permission denied") as told:
            look()
        assert f"uid {os.geteuid()} may look into" in told.value.hint


def test_what_is_replayed_needs_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL keeps what it has replayed until a restartpoint."""
    disk = SimpleNamespace(f_bavail=1000, f_frsize=MIB)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    here.check_room({0: tmp_path}, {0: 500 * MIB}, 200 * MIB)
    with pytest.raises(CannotRestore, match=r"the backup and its WAL need 1\.03 GiB there, and 1000 MiB are free"):
        here.check_room({0: tmp_path}, {0: 500 * MIB}, 300 * MIB)
    (tmp_path / "pg_wal").symlink_to(tmp_path)
    here.check_room({0: tmp_path}, {0: 500 * MIB}, 300 * MIB)
    (tmp_path / "pg_wal").unlink()


GIB: Final = 1024 * MIB


@pytest.mark.parametrize(
    ("base", "main", "auto", "segments", "most"),
    [
        (None, b"max_wal_size = 4GB\n", b"", 65, 65 * 16 * MIB),
        (None, b"max_wal_size = 4GB\n", b"", 1000, 4 * GIB),
        (None, b"max_wal_size = 4GB\n", b"MAX_WAL_SIZE '8192'  # MiB\n", 1000, 8 * GIB),
        (b"max_wal_size = 1GB\n", b"include 'postgresql.base.conf'\nmax_wal_size = '2GB'", b"#max_wal_size = 1TB\n", 1000, 2 * GIB),
        (None, b"max_wal_size = 4GB\n", b"", 10, 160 * MIB),
        (None, b"max_wal_size = 64MB\n", b"", 1000, GIB),
        (None, b"max_wal_size = much\n", b"", 1000, GIB),
        (None, b"max_wal_size = %sTB\n" % (b"9" * 400), b"", 1000, 1000 * 16 * MIB),
        (None, None, b"", 1000, GIB),
    ],
    ids=str,
)  # fmt: skip
def test_the_wal_that_lies_there_is_counted_by_the_backups_own_settings(
    store: MemoryStore, tmp_path: Path, base: bytes | None, main: bytes | None, auto: bytes, segments: int, most: int
) -> None:
    files: Tree = {path: content for path, content in BASE.items() if path != "postgresql.conf"}
    files |= {name: text for name, text in (("postgresql.base.conf", base), ("postgresql.conf", main)) if text}
    files["postgresql.auto.conf"] = auto
    other = BackupId("20261128T030000Z", 3, "1a2b3c4d")
    what = replace(
        plan(made(store, base=files, id_=other, segment_size=16 * MIB), store, tmp_path), wal_segments=segments
    )
    found = here.needed(what, {0: what.directory, **what.tablespaces})
    assert here.wal_at_a_time(what, found) == most


def test_a_configuration_that_cannot_be_read_is_left_to_the_restore(
    store: MemoryStore, backup: Backup, tmp_path: Path
) -> None:
    what = replace(plan(backup, store, tmp_path), wal_segments=2000)
    found = here.needed(what, {0: what.directory, **what.tablespaces})
    for key in [key for key in store.objects if "/data/" in key]:
        del store.objects[key]
    assert here.wal_at_a_time(what, found) == GIB


def test_what_lies_at_the_root_of_a_file_system_stays(store: MemoryStore, backup: Backup, tmp_path: Path) -> None:
    (tmp_path / "wal" / "lost+found").mkdir(parents=True)
    (tmp_path / "data" / "lost+found").mkdir(parents=True)
    (tmp_path / "data" / "pg_wal").symlink_to(tmp_path / "wal")
    (tmp_path / "data" / "base" / "lost+found").mkdir(parents=True)
    restore(backup, store, tmp_path, delta=True)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("lost+found")}
    assert found == {"data/lost+found", "wal/lost+found"}


def test_another_clusters_directory_is_not_written_over(store: MemoryStore, backup: Backup, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "global").mkdir(parents=True)
    (data / "PG_VERSION").touch()
    for system_identifier, use in ((8, "server"), (8, "replica"), (7, "server")):
        (data / "global" / "pg_control").write_bytes(struct.pack("=QI", system_identifier, 1300) + bytes(8000))
        with pytest.raises(CannotRestore) if system_identifier == 8 else nullcontext() as told:
            here.check_place(plan(backup, store, tmp_path, delta=True, use=use))
        if told is not None:
            assert "it is of another cluster, with system identifier 8, and not 7" in str(told.value)
            hint = told.value.hint
    subprocess.run(["sh", "-c", hint.rpartition(" empty it first: ")[2]], check=True, timeout=60)
    assert not list(data.iterdir())


@pytest.mark.parametrize("use", ["server", "replica"])
def test_no_tablespace_of_somebody_else_is_written_over(
    store: MemoryStore, backup: Backup, tmp_path: Path, use: Use
) -> None:
    (tmp_path / "space" / "PG_15_202209061").mkdir(parents=True)
    with pytest.raises(CannotRestore, match="not the tablespace of what lies in"):
        here.check_place(plan(backup, store, tmp_path, use=use, delta=True))
    (tmp_path / "data" / "pg_tblspc").mkdir(parents=True)
    (tmp_path / "data" / "PG_VERSION").touch()
    (tmp_path / "data" / "pg_tblspc" / str(SPACE)).symlink_to(tmp_path / "space")
    here.check_place(plan(backup, store, tmp_path, use=use, delta=True))


def test_what_a_restore_that_failed_has_left_in_a_tablespace_is_known_as_its_own(
    store: MemoryStore, backup: Backup, tmp_path: Path
) -> None:
    lost = _pieces(store)[0]
    del store.objects[lost]
    with pytest.raises(CannotTell):
        restore(backup, store, tmp_path)
    assert any((tmp_path / "space").iterdir())
    here.check_place(replace(plan(backup, store, tmp_path, delta=True), resumed=None))
    (tmp_path / "data" / "pg_tblspc" / str(SPACE)).unlink()
    with pytest.raises(CannotRestore, match="not the tablespace of what lies in"):
        here.check_place(replace(plan(backup, store, tmp_path, delta=True), resumed=None))


@pytest.mark.parametrize("delta", [False, True], ids=["into nothing", "over another"])
@pytest.mark.parametrize("every", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_p14_killed_before_any_step_it_does_not_start_and_the_same_command_goes_on(
    store: MemoryStore, backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delta: bool, every: int
) -> None:
    whole = Kernel()
    with monkeypatch.context() as patched:
        whole.into(patched)
        restore(backup, store, _fresh(tmp_path, "whole", delta), delta=delta)
    count = len(whole.calls)
    for step in [*range(0, count - 12, every), *range(count - 12, count)]:
        directory = _fresh(tmp_path, str(step), delta)
        before = _read(directory)
        with monkeypatch.context() as patched:
            Kernel(step).into(patched)
            with pytest.raises(Killed):
                restore(backup, store, directory, delta=delta)
        left = _read(directory)
        if "global/pg_control" in left:
            assert left == before or is_whole(directory), step
        here.check_place(plan(backup, store, directory, delta=delta))
        restore(backup, store, directory, delta=delta)
        assert is_whole(directory), step


def test_p14_pg_control_comes_after_everything_else_is_durable(
    store: MemoryStore, backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel()
    kernel.into(monkeypatch)
    restore(backup, store, _fresh(tmp_path, "d", over=True), delta=True)
    calls = kernel.calls
    away, synced = calls.index("unlink pg_control"), len(calls) - 1 - calls[::-1].index("syncfs")
    assert calls[away + 1] == "fsync"
    assert not any(call.startswith(("pwrite", "mkdir", "unlink")) for call in calls[:away] if "json" not in call)
    assert [call for call in calls[synced:] if not call.startswith(("open", "fchmod", "unlink", "mkdir"))] == [
        "syncfs", "write", "fsync", "rename pg_control.walkeeper", "fsync",
    ]  # fmt: skip
    assert any(call.startswith("rename recovery.signal") for call in calls[:synced])


def _fresh(tmp_path: Path, name: str, over: bool) -> Path:
    """``over``: with another server's directory in it."""
    directory = tmp_path / name
    directory.mkdir()
    if over:
        for path, content in {
            "PG_VERSION": b"15\n", "global/pg_control": b"another's", "base/1/1234": b"x" * 30_000, "base/2/7": b"7",
            "pg_wal/000000030000000000000002": b"wal", "standby.signal": b"", "backup_label.old": b"",
        }.items():  # fmt: skip
            file = directory / "data" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return directory


def _read(directory: Path) -> Tree:
    return as_restored(directory) if (directory / "data").exists() else {}


def test_delta_fetches_only_what_differs(store: MemoryStore, backup: Backup, tmp_path: Path) -> None:
    restore(backup, store, tmp_path)
    data = tmp_path / "data"
    (data / state.NAME).unlink()
    large = data / "base/1/1234"
    content = bytearray(large.read_bytes())
    content[20_000] ^= 1
    large.write_bytes(content)
    store.calls.clear()
    result = restore(backup, store, tmp_path, delta=True)
    assert is_whole(tmp_path)
    fetched = [key for what, key in store.calls if what == "get" and "/data/" in key]
    assert len(fetched) == 3, (
        fetched
    )  # one of its four, and those that have pg_control and what was changed here on purpose
    assert result.kept > backup.bytes / 2


def test_p16_nothing_that_is_restored_runs_as_its_owner(tmp_path: Path) -> None:
    made_tree = tree.Tree(tmp_path, {})
    made_tree.make(Part("f", "f", 0o6755, size=1))
    made_tree.make(Part("d", "d", 0o3775))
    made_tree.close()
    assert [(tmp_path / name).stat().st_mode & 0o7777 for name in "fd"] == [0o755, 0o775]


def test_p16_no_path_leads_through_a_link_and_a_file_with_other_names_is_left_to_them(
    store: MemoryStore, backup: Backup, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (outside / "1").mkdir(parents=True)
    for name in ("1234", "linked", "conf"):
        (outside / "1" / name).write_bytes(b"precious")
    data = tmp_path / "data"
    (data / "global").mkdir(parents=True)
    (data / "base").symlink_to(outside)
    (data / "postgresql.conf").symlink_to(outside / "1" / "conf")
    (data / "backup_label").hardlink_to(outside / "1" / "linked")
    restore(backup, store, tmp_path, delta=True)
    assert is_whole(tmp_path)
    assert {path.name: path.read_bytes() for path in (outside / "1").iterdir()} == dict.fromkeys(
        ("1234", "linked", "conf"), b"precious"
    )


def test_a_pg_wal_on_another_disk_stays_there_and_is_emptied(
    store: MemoryStore, backup: Backup, tmp_path: Path
) -> None:
    wal = tmp_path / "wal"
    (wal / "archive_status").mkdir(parents=True)
    (wal / "000000030000000000000009").write_bytes(b"beyond the target")
    (wal / "archive_status" / "x.ready").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pg_wal").symlink_to(wal)
    restore(backup, store, tmp_path, delta=True)
    assert (tmp_path / "data" / "pg_wal").readlink() == wal
    assert [path.name for path in wal.rglob("*")] == ["archive_status"]


def test_a_pg_wal_on_another_disk_is_made_before_a_restore_into_nothing(
    store: MemoryStore, backup: Backup, tmp_path: Path
) -> None:
    (tmp_path / "wal" / "lost+found").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (link := tmp_path / "data" / "pg_wal").symlink_to(tmp_path / "wal")
    here.check_place(plan(backup, store, tmp_path))
    restore(backup, store, tmp_path)
    assert link.readlink() == tmp_path / "wal"
    assert {path.name for path in link.iterdir()} == {"archive_status", "lost+found"}
    for path in (tmp_path / "data", tmp_path / "space"):
        shutil.rmtree(path)
    (tmp_path / "data").mkdir()
    link.symlink_to(tmp_path / "wal")
    here.check_place(plan(backup, store, tmp_path))
    (tmp_path / "wal" / "000000010000000000000001").touch()
    with pytest.raises(CannotRestore, match="data: it is not empty"):
        here.check_place(plan(backup, store, tmp_path))


def test_a_directory_that_is_a_link_to_nothing_is_refused_before_a_byte_is_written(
    store: MemoryStore, backup: Backup, tmp_path: Path
) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    with pytest.raises(CannotRestore, match=r"it is a link to .*/disk, which is not there"):
        here.check_place(plan(backup, store, tmp_path))
    (tmp_path / "disk").mkdir()
    here.check_place(plan(backup, store, tmp_path))


def test_what_other_versions_have_in_a_tablespace_stays(store: MemoryStore, backup: Backup, tmp_path: Path) -> None:
    for name in ("PG_14_1/5/6", "PG_15_1/1/old"):
        (tmp_path / "space" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / name).touch()
    restore(backup, store, tmp_path, delta=True)
    assert is_whole(tmp_path)
    assert (tmp_path / "space/PG_14_1/5/6").exists()
    assert not (tmp_path / "space/PG_15_1/1/old").exists()


def _pieces(store: MemoryStore) -> list[str]:
    return sorted(key for key in store.objects if "/data/" in key)


@pytest.mark.parametrize("damage", ["missing", "cut short", "another's", "swapped"])
def test_p14_a_piece_that_is_not_the_backups_is_named_with_its_files_and_nothing_starts(
    store: MemoryStore, backup: Backup, tmp_path: Path, damage: str
) -> None:
    first, second = _pieces(store)[:2]
    if damage == "missing":
        del store.objects[first]
    elif damage == "cut short":
        store.objects[first] = (store.objects[first][0][:-1], {})
    elif damage == "another's":
        store.objects[first] = (Codec().encode(b"another cluster's"), {})
    else:
        store.objects[first], store.objects[second] = store.objects[second], store.objects[first]
    with pytest.raises(CannotTell, match="; it has ") as told:
        restore(backup, store, tmp_path)
    assert "--backup" in told.value.hint
    assert not (tmp_path / "data" / "global" / "pg_control").exists()


@pytest.mark.parametrize("denied", [None, "list", "create"])
def test_damage_that_a_restore_meets_is_noted_for_the_next(
    store: MemoryStore, backup: Backup, tmp_path: Path, denied: str | None
) -> None:
    """As verify --deep notes it, and once. Without the right to, nothing is said of it."""
    key = _pieces(store)[0]
    store.objects[key] = (Codec().encode(b"another cluster's"), {})

    def deny(what: str, asked: str) -> None:
        if what == denied and "/proof/" in asked:
            raise StoreDenied("proof/: access denied")

    store.before = deny
    for number in range(2):
        with pytest.raises(Damaged, match=f"{key}: its content is not what its name says; it has ") as told:
            restore(backup, store, tmp_path)
        assert told.value.backup == backup.id
        notes = [each for each in store.objects if "/proof/" in each]
        assert len(notes) == (0 if denied else 1), number
    store.before = None
    found = proofs.against(store, LAYOUT)
    assert denied or f"restore: {key}: its content" in found[backup.id].damage
    assert denied or found[backup.id].found_by == (), "whatever restores it whole clears it"


@pytest.mark.parametrize("what", ["a bit", "its length", "no code"])
def test_damage_that_an_authentication_code_shows_is_noted_and_what_was_planted_is_not(
    store: MemoryStore, tmp_path: Path, what: str
) -> None:
    keyed = AuthenticStore(store, Trust((b"k" * 64,)))
    backup = made(cast(MemoryStore, keyed))
    key = _pieces(store)[0]
    body, metadata = store.objects[key]
    bodies = {"a bit": bytes([body[0] ^ 1]) + body[1:], "its length": body[:-1], "no code": body}
    store.objects[key] = (bodies[what], {} if what == "no code" else metadata)
    with pytest.raises(CannotTell, match=f"{key}: .* authentication code") as told:
        restore(backup, cast(MemoryStore, keyed), tmp_path)
    assert isinstance(told.value, Damaged) == (what != "no code")
    assert [*proofs.damaged(keyed, LAYOUT)] == ([] if what == "no code" else [backup.id])


@pytest.mark.parametrize("what", ["a piece that is not there", "a trial"])
def test_what_no_byte_proves_is_not_noted_and_a_trial_has_its_own_note(
    store: MemoryStore, backup: Backup, tmp_path: Path, what: str
) -> None:
    key = _pieces(store)[0]
    if what == "a trial":
        store.objects[key] = (b"x", {})
    else:
        del store.objects[key]
    with pytest.raises(CannotTell):
        restore(backup, store, tmp_path, is_trial=what == "a trial")
    assert [each for each in store.objects if "/proof/" in each] == []


def test_a_piece_that_arrives_damaged_once_is_asked_for_again(
    store: MemoryStore, backup: Backup, tmp_path: Path
) -> None:
    (*_, key) = _pieces(store)
    good = store.objects[key]
    store.objects[key] = (good[0][:-1], {})

    def heal(what: str, asked: str) -> None:
        if asked == key and sum(call == ("get", key) for call in store.calls) == 2:
            store.objects[key] = good

    store.before = heal
    restore(backup, store, tmp_path)
    assert is_whole(tmp_path)


def test_each_time_that_an_index_is_read_a_store_that_is_away_is_waited_for(
    store: MemoryStore, backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once more often than ``with_retries`` would."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    restore(backup, store, tmp_path)
    reads = sum(what == "get" and "/index-" in key for what, key in store.calls)
    assert reads > 1
    for fails in range(reads):
        seen = 0

        def away(what: str, key: str, fails: int = fails) -> None:
            nonlocal seen
            if what == "get" and "/index-" in key:
                seen += 1
                if fails < seen <= fails + retry.ATTEMPTS:
                    raise StoreUnavailable("503")

        into = tmp_path / str(fails)
        into.mkdir()
        store.before = away
        restore(backup, store, into)
        assert is_whole(into)
        assert seen > fails + retry.ATTEMPTS


def test_a_full_disk_says_so_and_the_same_command_goes_on(
    store: MemoryStore, backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is a stand-in: the third write fails as on a full one."""
    writes = 0

    def full(fd: int, data: memoryview, offset: int) -> int:
        nonlocal writes
        writes += 1
        if writes == 3:
            raise OSError(28, "No space left on device")
        return os.pwrite(fd, data, offset)

    kernel = Kernel()
    monkeypatch.setattr(kernel, "pwrite", full, raising=False)
    monkeypatch.setattr(fetch, "os", kernel)
    with pytest.raises(CannotRestore, match="/data: PG_VERSION: No space left on device") as told:
        restore(backup, store, tmp_path)
    assert "the same command goes on" in told.value.hint
    assert not (tmp_path / "data" / "global" / "pg_control").exists()
    restore(backup, store, tmp_path)
    assert is_whole(tmp_path)


@pytest.mark.parametrize("delta", [False, True])
def test_a_disk_that_was_full_from_the_first_byte_on_is_gone_on_with(
    store: MemoryStore, backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, delta: bool
) -> None:
    """What the restore says of itself was not whole, and the directory, with half of that in it, was not empty."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "write_all", full)
        with pytest.raises(CannotRestore, match="/data: No space left on device"):
            restore(backup, store, tmp_path)
    assert [each.name for each in (tmp_path / "data").iterdir()] == ["walkeeper_restore.json.walkeeper"]
    here.check_place(plan(backup, store, tmp_path, delta=delta))
    restore(backup, store, tmp_path, delta=delta)
    assert is_whole(tmp_path)
    assert not list((tmp_path / "data").rglob("*.walkeeper"))


def test_a_tmp_that_cannot_be_written_stops_no_restore_at_its_end(
    store: MemoryStore, backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that is too long for a socket needs it, and says so before the first piece."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    restore(backup, store, tmp_path)
    assert is_whole(tmp_path)
    before = len(store.calls)
    monkeypatch.setattr(settings, "sockets", lambda _: tmp_path / "nowhere" / "sockets")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(CannotRestore, match="nowhere/sockets: No such file"):
        restore(backup, store, other)
    assert len(store.calls) == before


def test_whoever_interrupts_it_is_told_that_it_goes_on(
    store: MemoryStore,
    backup: Backup,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun = plan(backup, store, tmp_path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid or 1)
    monkeypatch.setattr("walkeeper.restore.directory.any_store.make_of_any", lambda *_: begun)
    monkeypatch.setattr(here, "check_place", lambda *_: None)
    monkeypatch.setattr(command, "restore_script", lambda: "walkeeper-restore-wal")
    monkeypatch.setattr(command, "carry_out", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.main(begun.config, begun.request, dry_run=False, json=True)
    assert capsys.readouterr().err == (
        f"walkeeper: {begun.directory}: interrupted\n"
        "HINT: The same command goes on. Until that has ended, nothing there starts as a database.\n"
    )


def test_two_at_once_into_one_directory_are_one_too_many(store: MemoryStore, backup: Backup, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with module._only_one(tmp_path / "data"), pytest.raises(CannotRestore, match="another restore"):
        restore(backup, store, tmp_path)


def test_without_the_right_to_pin_it_is_said_and_the_restore_goes_on(
    store: MemoryStore, backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("walkeeper.lib.retry.ATTEMPTS", 1)

    def deny(what: str, key: str) -> None:
        if what == "create":
            raise StoreDenied("pin/: access denied")

    store.before = deny
    assert "access denied" in restore(backup, store, tmp_path).pin_problem
    assert is_whole(tmp_path)


def test_each_store_whose_wal_is_read_is_pinned_and_one_that_takes_no_pin_is_named(
    store: MemoryStore, backup: Backup, tmp_path: Path
) -> None:
    """Its expire may delete what the restore reads. Once that was said only where no store took it."""

    def deny(what: str, _: str) -> None:
        if what == "create":
            raise StoreDenied("far/pin: access denied")

    far = MemoryStore()
    far.before = deny
    both = replace(plan(backup, store, tmp_path), wal_store=Several([store, far]))
    assert carry_out(both, "restore %f %p", lambda _: None).pin_problem == "far/pin: access denied"
    assert read_pins(store, LAYOUT)


@pytest.mark.parametrize("before", ["there", "over and gone", "never written"])
def test_p15_whoever_goes_on_pins_it_anew(
    store: MemoryStore, backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    monkeypatch.setattr("walkeeper.lib.retry.ATTEMPTS", 1)

    def deny(what: str, _: str) -> None:
        if what == "create":
            raise StoreDenied("pin/: access denied")

    store.before = deny if before == "never written" else None
    with monkeypatch.context() as patched:
        Kernel(40).into(patched)
        with pytest.raises(Killed):
            restore(backup, store, tmp_path)
    store.before = None
    earlier = read_pins(store, LAYOUT)
    if before == "over and gone":
        store.delete(LAYOUT.pin(earlier[0].id))
    restore(backup, store, tmp_path)
    (pin,) = read_pins(store, LAYOUT)
    left = state.read(tmp_path / "data")
    assert left is not None
    assert left.pin == pin.id
    assert pin not in earlier


def test_p15_another_restore_into_a_directory_ends_the_pin_of_the_one_before(
    store: MemoryStore, backup: Backup, tmp_path: Path
) -> None:
    restore(backup, store, tmp_path)
    (first,) = read_pins(store, LAYOUT)
    anew = replace(plan(backup, store, tmp_path, delta=True), resumed=None)
    carry_out(anew, "restore %f %p", lambda _: None)
    (second,) = read_pins(store, LAYOUT)
    assert second.id != first.id
    before = state.read(tmp_path / "data")
    assert before is not None
    of_another = msgspec.structs.replace(before, asked=msgspec.structs.replace(before.asked, scope="another"))
    carry_out(replace(anew, before=of_another), "restore %f %p", lambda _: None)
    assert second in read_pins(store, LAYOUT), "it is of another archive, whoever wrote that name there"


def test_p15_the_pin_of_the_one_before_ends_in_each_store_also_where_this_one_reads_one_alone(
    store: MemoryStore, backup: Backup, tmp_path: Path
) -> None:
    (tmp_path / "far").mkdir()
    settings = DirectorySettings(path=tmp_path / "far")
    far, gone = open_store(settings), DirectorySettings(path=tmp_path / "not-mounted")
    both = replace(plan(backup, store, tmp_path), wal_store=Several([store, far]))
    carry_out(both, "restore %f %p", lambda _: None)
    assert read_pins(far, LAYOUT)
    anew = plan(backup, store, tmp_path, delta=True)
    config = replace(anew.config, others=(NamedStore("gone", gone), NamedStore("far", settings)))
    carry_out(replace(anew, resumed=None, config=config), "restore %f %p", lambda _: None)
    assert read_pins(far, LAYOUT) == []
    assert len(read_pins(store, LAYOUT)) == 1


def test_an_encrypted_backup_needs_its_key(store: MemoryStore, tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "key").write_text(str(identity))
    sealed = Codec(recipients=(str(identity.to_public()),))
    backup = made(store, sealed, suffix=".zst.age")
    with pytest.raises(Locked):
        carry_out(plan(backup, store, tmp_path, Codec()), "", lambda _: None)
    carry_out(plan(backup, store, tmp_path, Codec(identity_file=tmp_path / "key")), "", lambda _: None)
    assert is_whole(tmp_path)
    assert (tmp_path / "data/global/pg_control").read_bytes() == CONTROL


def test_p15_a_restore_that_writes_for_weeks_renews_its_pin_each_day_and_notes_it(
    tmp_path: Path, store: MemoryStore, backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = iter(range(0, 10**9, 86400))
    monkeypatch.setattr("walkeeper.archive.expiry.since_boot", lambda: float(next(boot)))
    carry_out(plan(backup, store, tmp_path), "restore %f %p", lambda _: None)
    (pin,) = read_pins(store, LAYOUT)
    found = state.read(tmp_path / "data")
    assert found is not None
    assert found.pin == pin.id
    assert not pin.id.endswith("-0001")
