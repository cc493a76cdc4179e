"""From tars to a store in memory: everything once, proved by a listing; a store that is away; an attempt that is begun again."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pyrage
import pytest

from tests.backup.tars import Tree, tar_of
from tests.parts.processes import wait_until
from tests.twins.memory_store import MemoryStore
from walkeeper.archive import backups
from walkeeper.archive.backups import Backups
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.backup.pipeline import MANIFEST_END, Contents, Pipeline
from walkeeper.core import backup_index
from walkeeper.core.backup import BackupId
from walkeeper.errors import BadBackup, CannotTell, StoreDenied, StoreUnavailable, StoreUnfit
from walkeeper.store.base import ObjectInfo

ID: Final = BackupId("20261128T020000Z", 3, "1a2b3c4d")
LAYOUT: Final = Layout("demo", None, 7)
FOLDER: Final = f"demo/7/backup/{ID}/"
PIECE: Final = 8192
TREE: Final[Tree] = {
    "base": None,
    **{f"base/{number}": random.Random(number).randbytes(number * 300) for number in range(40)},
    "base/zeros": bytes(5 * PIECE),
    "empty": b"",
}
SPACE: Final[Tree] = {"PG_15_1": None, "PG_15_1/1": b"in a tablespace"}
MANIFEST: Final = b'{"Files": []}' * 1000


@contextmanager
def pipeline(store: MemoryStore, **options: Any) -> Iterator[Pipeline]:
    codec = options.pop("codec", Codec())
    made = Pipeline(Backups(store, LAYOUT, codec), ID, **{"workers": 3, "piece": PIECE, **options})
    try:
        yield made
    finally:
        made.close()


def send(to: Pipeline, tree: Tree = TREE) -> None:
    for tablespace, tar in ((16384, tar_of(SPACE)), (0, tar_of(tree))):
        to.begin(tablespace)
        for at in range(0, len(tar), 1000):
            to.feed(memoryview(tar)[at : at + 1000])
    to.manifest(memoryview(MANIFEST))


def run(store: MemoryStore, **options: Any) -> Contents:
    with pipeline(store, **options) as made:
        send(made)
        return made.finish()


def read_back(store: MemoryStore, contents: Contents) -> Tree:
    """By the index, as a restore reads it."""
    backups = Backups(store, LAYOUT, Codec())
    document = store.objects[f"{FOLDER}index-{contents.index}.zst"][0]
    lines = Codec().decode(".zst", document, MANIFEST_END).splitlines(keepends=True)
    tree: Tree = {}
    for piece in backup_index.decode(lines):
        key = f"{FOLDER}data/{piece.sha256}.zst"
        assert len(store.objects[key][0]) == piece.packed_size
        plain = backups.codec.decode(".zst", store.objects[key][0], piece.size)
        for part in piece.parts:
            before = tree.get(part.path) or b""
            tree[part.path] = None if part.kind == "d" else before + plain[part.at : part.at + part.length]
    return tree


def test_everything_is_stored_once_and_what_describes_it_names_it() -> None:
    store = MemoryStore()
    contents = run(store)
    assert read_back(store, contents) == TREE | {f"pg_tblspc/16384/{path}": data for path, data in SPACE.items()}
    pieces = {key for key in store.objects if "/data/" in key}
    assert contents.pieces == len(pieces)
    assert contents.packed_bytes == contents.sent_bytes == sum(len(store.objects[key][0]) for key in pieces)
    assert contents.files == sum(data is not None for data in [*TREE.values(), *SPACE.values()])
    assert contents.file_bytes == sum(len(data or b"") for data in [*TREE.values(), *SPACE.values()])
    orders = {space: store.objects[f"{FOLDER}order-{name}"][0] for space, name in contents.orders.items()}
    assert set(orders) == {0, 16384}
    for space, whole in ((0, TREE), (16384, SPACE)):
        bodies = [store.objects[f"{FOLDER}data/{line}"][0] for line in orders[space].decode().splitlines()]
        joined = b"".join(Codec().decode(".zst", body, 2 * PIECE) for body in bodies)
        assert len(joined) == len(tar_of(whole))
    assert (
        Codec().decode(".zst", store.objects[f"{FOLDER}manifest-{contents.manifest}.zst"][0], MANIFEST_END) == MANIFEST
    )
    assert contents.manifest_end == MANIFEST
    assert f"{FOLDER}backup.json" not in store.objects
    created = [key for what, key in store.calls if what == "create"]
    assert all("/data/" in key for key in created[: len(pieces)])
    assert store.calls[-1][0] == "list"


@pytest.mark.parametrize("codec", [Codec(), Codec(recipients=(str(pyrage.x25519.Identity.generate().to_public()),))])
def test_a_second_attempt_does_not_send_what_is_stored(codec: Codec) -> None:
    store = MemoryStore()
    first = run(store, codec=codec)
    store.calls.clear()
    known = frozenset(Backups(store, LAYOUT, codec).pieces(ID))
    again = run(store, known=known, codec=codec)
    assert again.index == first.index
    assert again.sent_bytes == 0
    assert not any(what == "create" and "/data/" in key for what, key in store.calls)
    body, metadata = store.objects[key := next(key for key in store.objects if "/data/" in key)]
    for shorter, stated in ((body[:-1], metadata), (body[:10], {})):
        store.objects[key] = (shorter, stated)
        for attempted in (known, frozenset[str]()):
            with pytest.raises(CannotTell, match=key):
                run(store, known=attempted, codec=codec)


def test_an_encrypted_piece_has_the_name_of_its_frame() -> None:
    identity = pyrage.x25519.Identity.generate()
    store = MemoryStore()
    run(store, codec=Codec(recipients=(str(identity.to_public()),)))
    pieces = {key: body for key, (body, _) in store.objects.items() if "/data/" in key}
    assert pieces
    for key, body in pieces.items():
        assert hashlib.sha256(pyrage.decrypt(body, [identity])).hexdigest() in key


def test_a_store_that_is_away_is_waited_for_and_a_lost_answer_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is waited for is said once in a while, and not by each thread at each attempt."""
    monkeypatch.setattr("walkeeper.lib.retry._FIRST_WAIT", 0.001)
    monkeypatch.setattr("walkeeper.backup.pipeline._SAID", 1e6)
    fails = {"create": 20, "list": 2}
    lost = {"create": 10}

    def before(what: str, key: str) -> None:
        if fails.get(what, 0):
            fails[what] -= 1
            raise StoreDenied(key) if fails[what] % 2 else StoreUnavailable(key)

    def after(what: str, key: str) -> None:
        if lost.get(what, 0):
            lost[what] -= 1
            raise StoreUnavailable(key)

    store = MemoryStore(before=before, after=after)
    contents = run(store)
    assert read_back(store, contents).keys() >= TREE.keys()
    assert fails == {"create": 0, "list": 0}
    assert sum("backup_waits" in each.message for each in caplog.records) == 1


@pytest.mark.parametrize(("problem", "patience"), [(StoreUnavailable, 0.05), (StoreUnfit, 1000.0)])
def test_p14_a_store_that_stays_away_ends_it_and_nothing_is_committed(
    monkeypatch: pytest.MonkeyPatch, problem: type[StoreUnavailable], patience: float
) -> None:
    monkeypatch.setattr("walkeeper.lib.retry._FIRST_WAIT", 0.001)
    left = threading.Semaphore(3)

    def before(what: str, key: str) -> None:
        if what == "create" and not left.acquire(blocking=False):
            raise problem(key)

    store = MemoryStore(before=before)
    with pytest.raises(problem):
        run(store, patience=patience)
    assert not any(key.endswith(".json") or "index" in key for key in store.objects)


def test_p14_a_piece_that_the_store_does_not_list_is_missed() -> None:
    def before(what: str, _: str) -> None:
        if what == "list":
            store.objects.pop(next(key for key in store.objects if "/data/" in key), None)

    store = MemoryStore(before=before)
    with pytest.raises(BadBackup, match="does not list piece") as told:
        run(store)
    assert told.value.hint.endswith(f"walkeeper backup --resume {ID}")


def test_a_piece_that_only_the_listing_lacks_is_asked_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing may be late; of another size is as bad as gone."""
    monkeypatch.setattr("walkeeper.lib.retry._FIRST_WAIT", 0.001)
    away = [2]

    class Late(MemoryStore):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            self.late = [*super().list(prefix)]
            return iter(self.late[3:])

    def before(what: str, key: str) -> None:
        if what == "head" and away[0]:
            away[0] -= 1
            raise StoreUnavailable(key)

    store = Late(before=before)
    contents = run(store)
    assert away == [0]
    assert {key for what, key in store.calls if what == "head"} >= {info.key for info in store.late[:3]}
    assert contents.pieces == len(store.late)
    key, (body, metadata) = next(each for each in store.objects.items() if "/data/" in each[0])

    def shorter(what: str, _: str) -> None:
        if what == "list":
            store.objects[key] = (body[:-1], metadata)

    store.before = shorter
    del store.objects[key]
    with pytest.raises(BadBackup, match="does not list piece"):
        run(store)


@pytest.mark.parametrize(("limit", "what"), [(len(MANIFEST) - 1, "manifest"), (200, "index")])
def test_p14_what_no_restore_could_read_is_not_made_a_backup(
    monkeypatch: pytest.MonkeyPatch, limit: int, what: str
) -> None:
    monkeypatch.setattr(backups, "MAX_DOCUMENT", limit)
    with pytest.raises(BadBackup, match=f"backup {ID}: its {what} has "):
        run(MemoryStore())


def test_p9_no_more_is_in_memory_than_there_are_buffers() -> None:
    holds, letting = threading.Event(), threading.Event()

    def before(what: str, _: str) -> None:
        if what == "create":
            holds.set()
            letting.wait(60)

    store = MemoryStore(before=before)
    ended: list[object] = []
    with pipeline(store, workers=2) as made:

        def reads() -> None:
            send(made)
            ended.append(made.finish())

        reader = threading.Thread(target=reads, daemon=True)
        reader.start()
        assert holds.wait(60)
        full = 3 + 3, 0, 3  # pieces cut, buffers free, pieces that no thread has taken yet
        wait_until(lambda: (made._number, len(made._free), len(made._cuts)) == full, "all buffers in use", 60)
        assert ended == []
        letting.set()
        reader.join(60)
    assert len(ended) == 1


def test_whoever_stops_waiting_leaves_no_thread_that_tries_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walkeeper.lib.retry._FIRST_WAIT", 30.0)
    tried = threading.Event()

    def before(what: str, key: str) -> None:
        if what == "create":
            tried.set()
            raise StoreUnavailable(key)

    with pipeline(MemoryStore(before=before), workers=1) as made:
        made.begin(0)
        made.feed(memoryview(tar_of({"a": b"x" * PIECE})))
        assert tried.wait(60)
    for thread in made._threads:
        thread.join(60)
        assert not thread.is_alive()


def test_what_a_worker_meets_comes_out_where_the_reader_waits() -> None:
    def broken(_: str, __: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(MemoryStore(before=broken))


def test_so_does_what_a_worker_meets_once_a_piece_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(backup_index, "encode", no_memory)
    with pytest.raises(MemoryError):
        run(MemoryStore())


def test_an_index_of_many_files_stays_small_and_the_end_of_a_manifest_too() -> None:
    store = MemoryStore()
    with pipeline(store) as made:
        made.begin(0)
        made.feed(memoryview(tar_of({f"base/5/{number}": b"" for number in range(3000)})))
        for _ in range(3):
            made.manifest(memoryview(bytes(MANIFEST_END - 1)))
            assert len(made._manifest_end) <= MANIFEST_END
        contents = made.finish()
    assert contents.manifest_end == bytes(MANIFEST_END)
    assert len(store.objects[f"{FOLDER}index-{contents.index}.zst"][0]) < 60_000


def test_how_far_it_is_is_told_in_the_readers_thread() -> None:
    told: list[tuple[int, int]] = []
    store = MemoryStore()
    with pipeline(store, moved=lambda came: told.append((came, threading.get_ident()))) as made:
        send(made)
        made.finish()
    assert [came for came, _ in told] == sorted(came for came, _ in told)
    assert told[-1][0] == len(tar_of(TREE)) + len(tar_of(SPACE))
    assert {thread for _, thread in told} == {threading.get_ident()}
