"""What the directory store makes of disks that fill up, fail, go away or belong to somebody else."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from walkeeper.errors import ConfigError, Refused, StoreDenied, StoreUnavailable, StoreUnfit
from walkeeper.store.base import AlreadyThere, ObjectInfo, Store
from walkeeper.store.directory import DirectoryStore
from walkeeper.store.directory.driver import clock_ahead

KEY = "cluster/7/wal/0000000100000000/000000010000000000000001.zst"
BODY = os.urandom(100_000)
METADATA = {"sha256": "0f" * 32}

CALLS: dict[str, Callable[[Store], object]] = {
    "create": lambda store: store.create(KEY, BODY, METADATA),
    "head": lambda store: store.head(KEY),
    "get": lambda store: store.get(KEY),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete(KEY),
    "probe": lambda store: store.probe(),
}
EACH_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
NOT_AS_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "archive"
    directory.mkdir()
    return directory


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    return DirectoryStore(root)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def failing(code: int, *, after: int = 0, log: list[str] | None = None) -> Callable[..., Any]:
    """A system call that fails, after that many successes that do nothing."""
    left = [after]

    def call(*_: object, **__: object) -> None:
        if log is not None:
            log.append("called")
        if left[0] == 0:
            raise OSError(code, os.strerror(code))
        left[0] -= 1

    return call


# --------------------------------------------------------------------------------------------- the store itself is gone


@EACH_CALL
def test_a_missing_root_is_an_outage_and_is_never_made(tmp_path: Path, call: Callable[[Store], object]) -> None:
    store = DirectoryStore(tmp_path / "not" / "mounted")
    with pytest.raises(StoreUnavailable) as caught:
        call(store)
    assert "Mount" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@EACH_CALL
def test_a_file_in_place_of_the_root_is_an_outage(tmp_path: Path, call: Callable[[Store], object]) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable):
        call(DirectoryStore(tmp_path / "file"))


def test_a_relative_root_is_refused() -> None:
    with pytest.raises(ConfigError):
        DirectoryStore(Path("archive"))


@EACH_CALL
def test_a_root_that_goes_away_is_an_outage_until_it_is_back(
    root: Path, store: DirectoryStore, call: Callable[[Store], object]
) -> None:
    store.create(KEY, BODY, METADATA)
    root.rename(root.with_name("away"))
    with pytest.raises(StoreUnavailable):
        call(store)
    root.with_name("away").rename(root)
    assert store.get(KEY) == BODY


@pytest.mark.parametrize("name", ["create", "head", "get", "list"])
def test_an_empty_directory_in_the_root_s_place_is_an_unmounted_disk(
    root: Path, store: DirectoryStore, name: str
) -> None:
    store.create(KEY, BODY, METADATA)
    root.rename(root.with_name("away"))
    root.mkdir()
    with pytest.raises(StoreUnavailable) as caught:
        CALLS[name](store)
    assert "unmounted" in caught.value.hint
    assert list(root.iterdir()) == []
    root.rmdir()
    root.with_name("away").rename(root)
    assert store.get(KEY) == BODY


@pytest.mark.parametrize("met", ["create", "head", "get"])
@pytest.mark.parametrize("name", ["create", "head", "get", "list", "delete"])
def test_p13_another_archive_in_the_root_s_place_is_an_outage(
    root: Path, store: DirectoryStore, met: str, name: str
) -> None:
    """Another file system was mounted there: what is stored there would be missing where it belongs."""
    DirectoryStore(root).create("other/8/start/1.json", b"{}", {})
    other = root.rename(root.with_name("other"))
    root.mkdir()
    if met != "create":
        DirectoryStore(root).create("cluster/7/start/1.json", b"{}", {})
    if met == "create":
        store.create("cluster/7/start/1.json", b"{}", {})
    elif met == "head":
        store.head("cluster/7/start/1.json")
    else:
        store.get("cluster/7/start/1.json")
    root.rename(root.with_name("away"))
    other.rename(root)
    with pytest.raises(StoreUnavailable) as caught:
        CALLS[name](store)
    assert "another file system" in caught.value.hint
    assert files(root) == ["other/8/start/1.json"]
    root.rename(other)
    root.with_name("away").rename(root)
    store.create(KEY, BODY, METADATA)
    assert store.get(KEY) == BODY


def test_a_store_that_is_mounted_again_or_moved_to_another_disk_is_the_same(root: Path, store: DirectoryStore) -> None:
    store.create(KEY, BODY, METADATA)
    shutil.copytree(root, root.with_name("copy"))
    root.rename(root.with_name("away"))
    root.with_name("copy").rename(root)
    store.create("cluster/7/start/1.json", b"{}", {})
    assert store.get(KEY) == BODY


def test_p13_what_was_stored_while_the_root_was_exchanged_is_not_called_stored(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create(KEY, BODY, METADATA)
    prepare = store._prepare

    def exchange_and_prepare(directory: Path) -> None:
        root.rename(root.with_name("away"))
        root.mkdir()
        prepare(directory)

    monkeypatch.setattr(store, "_prepare", exchange_and_prepare)
    with pytest.raises(StoreUnavailable):
        store.create("cluster/7/start/1.json", b"{}", {})


def test_a_root_that_is_a_mount_point_is_warned_about(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda _: True)
    with caplog.at_level(logging.WARNING, "walkeeper"):
        store.probe()
    assert [record.getMessage().split()[0] for record in caplog.records] == ["store_is_a_mount_point"]


# -------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOSPC, "room"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.ENODEV, "device"),
        (errno.ESTALE, "NFS"),
        (errno.EIO, "kernel log"),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "link", "setxattr"])
def test_a_write_that_fails_publishes_nothing_and_leaves_nothing(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, call: str, code: int, hint: str
) -> None:
    store.create("cluster/other", b"", {})
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(code))
        with pytest.raises(StoreUnavailable) as caught:
            store.create(KEY, BODY, METADATA)
    assert hint in caught.value.hint
    assert str(root) in str(caught.value)
    assert files(root) == ["cluster/other"]
    store.create(KEY, BODY, METADATA)
    assert store.get(KEY) == BODY


def test_a_disk_that_is_full_in_the_middle_leaves_nothing(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.write, [0]

    def write(fd: int, data: memoryview) -> int:
        calls[0] += 1
        if calls[0] > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[:1000])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StoreUnavailable):
        store.create(KEY, BODY, METADATA)
    assert files(root) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_where_nothing_can_be_written_nothing_tells_the_time(
    root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """What makes room asks for it: expire."""
    assert clock_ahead(root) is not None
    monkeypatch.setattr(os, "fsync", failing(code))
    assert clock_ahead(root) is None
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(StoreUnavailable, match="does not tell the time"):
        clock_ahead(root)


def test_a_failed_fsync_is_never_tried_again(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create("cluster/7/wal/0000000100000000/other", b"", {})
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", failing(errno.EIO, log=synced))
    with pytest.raises(StoreUnavailable):
        store.create(KEY, BODY, METADATA)
    assert synced == ["called"]
    assert store.get(KEY) is None


def test_a_directory_that_cannot_be_synced_after_the_link_is_no_success(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("cluster/7/wal/0000000100000000/other", b"", {})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO, after=1))
        with pytest.raises(StoreUnavailable):
            store.create(KEY, BODY, METADATA)
    with pytest.raises(AlreadyThere):
        store.create(KEY, BODY, METADATA)


def test_short_writes_are_gone_on_with(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: 1 + len(data) // 3]))
    store.create(KEY, BODY, METADATA)
    assert store.get(KEY) == BODY


def test_a_write_of_nothing_is_an_error_and_not_an_endless_loop(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", lambda *_: 0)
    with pytest.raises(StoreUnavailable):
        store.create(KEY, BODY, METADATA)
    assert files(root) == []


# ---------------------------------------------------------------------------------------------------- order, durability


class Trace:
    """Notes the calls that matter for durability, with what they were about."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.steps: list[str] = []
        self._root = root
        fsync, link, write = os.fsync, os.link, os.write

        def traced_fsync(fd: int) -> None:
            fsync(fd)
            self.steps.append(f"fsync {self._name(Path(f'/proc/self/fd/{fd}').readlink())}")

        def traced_link(source: Path, target: Path) -> None:
            self.steps.append(f"link {self._name(target)}")
            link(source, target)

        def traced_write(fd: int, data: memoryview) -> int:
            self.steps.append("write")
            return write(fd, data)

        monkeypatch.setattr(os, "fsync", traced_fsync)
        monkeypatch.setattr(os, "link", traced_link)
        monkeypatch.setattr(os, "write", traced_write)

    def _name(self, path: Path) -> str:
        return "temporary" if ".tmp-" in path.name else str(path.relative_to(self._root))


def test_the_file_is_synced_before_it_has_its_name_and_the_name_after(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Trace(monkeypatch, root)
    store.create("a/b/c", BODY, METADATA)
    assert trace.steps == ["fsync .", "fsync a", "write", "fsync temporary", "link a/b/c", "fsync a/b"]


def test_a_name_that_was_there_is_synced_before_it_is_reported(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a/b/c", BODY, METADATA)
    trace = Trace(monkeypatch, root)
    with pytest.raises(AlreadyThere):
        DirectoryStore(root).create("a/b/c", BODY, METADATA)
    assert trace.steps == ["fsync .", "fsync a", "write", "fsync temporary", "link a/b/c", "fsync a/b"]


def test_an_object_that_is_described_is_durable(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a/b/c", BODY, METADATA)
    trace = Trace(monkeypatch, root)
    assert DirectoryStore(root).head("a/b/c") is not None
    assert trace.steps == ["fsync .", "fsync a", "fsync a/b"]


KILLED = """
import os, signal, sys
from pathlib import Path
from walkeeper.store.directory import DirectoryStore
left = [int(sys.argv[2])]
def counted(real):
    def call(*args, **options):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return real(*args, **options)
    return call
for name in ("open", "write", "fsync", "link", "unlink", "close"):
    setattr(os, name, counted(getattr(os, name)))
os.setxattr = counted(os.setxattr)
DirectoryStore(Path(sys.argv[1])).create(sys.argv[3], b"x" * 100000, {"sha256": "00"})
"""


def test_a_writer_killed_at_any_step_leaves_a_whole_object_or_none_and_the_next_one_stores_it(tmp_path: Path) -> None:
    steps = 0
    while True:
        root = tmp_path / str(steps)
        root.mkdir()
        command = [sys.executable, "-c", KILLED, str(root), str(steps), "a/b"]
        code = subprocess.run(command, check=False, cwd=Path(__file__).parents[2]).returncode
        found = DirectoryStore(root).get("a/b")
        assert found in (None, b"x" * 100_000)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        try:
            DirectoryStore(root).create("a/b", b"x" * 100_000, {"sha256": "00"})
        except AlreadyThere:
            assert found is not None
        assert DirectoryStore(root).get("a/b") == b"x" * 100_000
        assert files(root) == ["a/b"]
        steps += 1
    assert steps > 8


# ------------------------------------------------------------------------------------------------------ temporary files


def test_temporary_files_of_the_dead_are_swept_and_those_of_the_living_are_not(root: Path) -> None:
    folder = root / "a"
    folder.mkdir()
    dead, living, other = folder / ".tmp-x-1", folder / ".tmp-x-2", folder / ".nfs0001"
    for path in (dead, living, other):
        path.write_bytes(b"half")
    with living.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        DirectoryStore(root).create("a/b", BODY, {})
        assert files(root) == ["a/.nfs0001", "a/.tmp-x-2", "a/b"]
    DirectoryStore(root).create("a/c", BODY, {})
    assert files(root) == ["a/.nfs0001", "a/b", "a/c"]


def test_a_half_written_object_is_not_listed(root: Path, store: DirectoryStore) -> None:
    store.create("a/b", BODY, {})
    (root / "a" / ".tmp-c-1").write_bytes(b"half")
    (root / ".tmp-d-1").write_bytes(b"half")
    assert list(store.list("")) == [ObjectInfo("a/b", len(BODY), {})]


def test_a_writer_whose_temporary_file_is_caught_by_a_sweep_takes_another(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = fcntl.flock, [0]

    def flock(fd: int, operation: int) -> None:
        calls[0] += 1
        if calls[0] == 1:
            Path(f"/proc/self/fd/{fd}").readlink().unlink()
            raise BlockingIOError
        if calls[0] == 2:
            Path(f"/proc/self/fd/{fd}").readlink().unlink()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    store.create("a/b", BODY, {})
    assert calls == [3]
    assert store.get("a/b") == BODY
    assert files(root) == ["a/b"]


def test_without_locks_objects_are_stored_and_nothing_is_swept(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a").mkdir()
    (root / "a" / ".tmp-x-1").write_bytes(b"somebody's")
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    store.create("a/b", BODY, {})
    assert files(root) == ["a/.tmp-x-1", "a/b"]


# ------------------------------------------------------------------------------------------ what file systems cannot do


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV])
def test_a_file_system_without_hard_links_is_unfit(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "link", failing(code))
    with pytest.raises(StoreUnfit) as caught:
        store.probe()
    assert "hard links" in caught.value.hint
    assert files(root) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_fsync_is_unfit(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "fsync", failing(code))
    with pytest.raises(StoreUnfit) as caught:
        store.probe()
    assert "sync" in caught.value.hint
    assert files(root) == []


def test_a_file_system_whose_links_replace_is_unfit(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda source, target: Path(source).replace(target))
    with pytest.raises(StoreUnfit, match="overwrites"):
        store.probe()


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.EPERM, errno.ENOSYS])
def test_without_extended_attributes_an_object_has_no_metadata(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    for name in ("setxattr", "getxattr", "listxattr"):
        monkeypatch.setattr(os, name, failing(code))
    store.probe()
    store.create(KEY, BODY, METADATA)
    assert store.head(KEY) == ObjectInfo(KEY, len(BODY), {})
    assert store.get(KEY) == BODY


@NOT_AS_ROOT
@pytest.mark.parametrize("name", ["create", "head", "get", "list", "probe"])
def test_lost_rights_are_denied_with_path_uid_and_mode_until_they_are_back(
    root: Path, store: DirectoryStore, name: str
) -> None:
    store.create(KEY, BODY, METADATA)
    root.chmod(0)
    try:
        with pytest.raises(StoreDenied) as caught:
            CALLS[name](DirectoryStore(root))
    finally:
        root.chmod(0o750)
    assert str(root) in str(caught.value)
    assert f"uid {os.geteuid()}" in str(caught.value)
    assert "mode 0000" in str(caught.value)
    assert store.get(KEY) == BODY


@NOT_AS_ROOT
def test_rights_lost_below_the_root_are_no_absence(root: Path, store: DirectoryStore) -> None:
    store.create(KEY, BODY, METADATA)
    folder = (root / KEY).parent
    folder.chmod(0)
    try:
        for name in ("create", "head", "get", "list", "delete"):
            with pytest.raises(StoreDenied):
                CALLS[name](store)
    finally:
        folder.chmod(0o750)


@pytest.mark.parametrize("whose", ["the directory", "what lies in it"])
def test_root_reads_another_user_s_store_and_writes_nothing_into_it(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    store.create(KEY, BODY, METADATA)
    before = files(root)
    if os.geteuid() == 0:
        os.chown(root if whose == "the directory" else root / "cluster", 4711, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("create", "probe"):
        with pytest.raises(Refused, match="this is root") as caught:
            CALLS[name](DirectoryStore(root))
        assert "sudo -u postgres" in caught.value.hint
    with pytest.raises(Refused):  # of which this process has prepared the folder
        store.create(f"{KEY}2", BODY, METADATA)
    assert files(root) == before
    assert store.head(KEY) is not None
    assert store.get(KEY) == BODY
    assert [info.key for info in store.list("")] == [KEY]


def test_root_writes_into_its_own_store(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(DirectoryStore, "_owners", lambda _: (0, 0))
    store.probe()
    store.create(KEY, BODY, METADATA)
    assert store.get(KEY) == BODY


@pytest.mark.parametrize(
    ("of_the_store", "directory", "file"), [(0o755, 0o750, 0o640), (0o750, 0o750, 0o640), (0o700, 0o700, 0o600)]
)
def test_files_and_directories_are_for_others_no_more_than_the_store_is_and_never_for_everybody(
    root: Path, store: DirectoryStore, of_the_store: int, directory: int, file: int
) -> None:
    root.chmod(of_the_store)
    before = os.umask(0)
    try:
        store.create("a/b", BODY, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "a").stat().st_mode) == directory
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == file


# --------------------------------------------------------------------------------------------- what is not a file


def test_a_fifo_under_a_key_is_an_error_and_holds_nobody(root: Path, store: DirectoryStore) -> None:
    os.mkfifo(root / "a")
    for call in (store.head, store.get):
        with pytest.raises(StoreUnavailable, match="neither"):
            call("a")
    assert list(store.list("")) == []


def test_a_directory_in_the_way_of_an_object_is_unfit(root: Path, store: DirectoryStore) -> None:
    (root / "a").mkdir()
    with pytest.raises(StoreUnfit):
        store.create("a", BODY, {})
    assert files(root) == []


def test_a_dangling_link_under_a_key_is_not_written_through(root: Path, store: DirectoryStore) -> None:
    (root / "a").symlink_to(root / "elsewhere")
    with pytest.raises(StoreUnavailable):
        store.create("a", BODY, {})
    assert files(root) == []


def test_a_circle_of_links_is_an_error_and_not_an_endless_listing(root: Path, store: DirectoryStore) -> None:
    (root / "a").mkdir()
    (root / "a" / "b").symlink_to(root / "a")
    (root / "a" / "c").symlink_to(root / "a" / "c")
    with pytest.raises(StoreUnavailable):
        list(store.list(""))


def test_a_file_that_is_cut_while_it_is_read_is_never_delivered(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create(KEY, BODY, {})
    real, calls = os.read, [0]

    def read(fd: int, size: int) -> bytes:
        calls[0] += 1
        return real(fd, 1000) if calls[0] == 1 else b""

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(StoreUnavailable, match="cut short"):
        store.get(KEY)


def test_a_disk_that_fails_while_reading_is_an_outage(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create(KEY, BODY, {})
    monkeypatch.setattr(os, "read", failing(errno.EIO))
    with pytest.raises(StoreUnavailable):
        store.get(KEY)


def test_an_object_deleted_while_it_is_listed_is_left_out(root: Path, store: DirectoryStore) -> None:
    for name in ("a", "b", "c"):
        store.create(f"x/{name}", b"", {})
        store.create(f"{name}/x", b"", {})
    listing = store.list("x/")
    assert next(listing).key == "x/a"
    (root / "x" / "b").unlink()
    assert [info.key for info in listing] == ["x/c"]


def test_a_store_that_is_empty_is_the_same_one_for_two_that_look_first_at_the_same_time(tmp_path: Path) -> None:
    class Crowded(DirectoryStore):
        others = 1

        def _is_known(self, before: tuple[int, int] | None) -> bool:
            if self.others:
                self.others -= 1
                assert self.get("other") is None  # as another thread does, right here
            return super()._is_known(before)

    assert Crowded(tmp_path).get("one") is None
