"""What every store promises (walkeeper/store/base.py), held against memory, a directory, a real S3 server, and servers that speak as clouds do."""

from __future__ import annotations

import base64
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import pytest
from msgspec.structs import replace

from tests.parts.azurite import HOW as NO_AZURITE
from tests.parts.azurite import Azurite, azurite_program
from tests.parts.fake_gcs import FakeGcs
from tests.parts.processes import wait_until
from tests.parts.scripted_clouds import ScriptedAzure
from tests.parts.seaweedfs import SeaweedFS
from tests.twins.memory_store import MemoryStore
from walkeeper.errors import BadName, ConfigError, Refused, StoreDenied, StoreUnavailable, StoreUnfit, TooLarge
from walkeeper.store.base import AlreadyThere, ObjectInfo, Store
from walkeeper.store.directory import DirectoryStore
from walkeeper.store.directory.keys import DirectorySettings
from walkeeper.store.limited import Limited
from walkeeper.store.s3.driver import S3Store
from walkeeper.store.s3.keys import S3Settings
from walkeeper.store.several import Several

MIB = 1024 * 1024
SEGMENT = "cluster/7000000000000000001/wal/0000000100000000/000000010000000000000001.zst"
METADATA = {"format": "1", "sha256": "0f" * 32, "size": "16777216"}

_prefixes = itertools.count()


@pytest.fixture(scope="module")
def seaweedfs() -> Iterator[SeaweedFS]:
    with SeaweedFS() as server:
        yield server


@pytest.fixture(scope="module")
def azure() -> Iterator[ScriptedAzure]:
    with ScriptedAzure() as server:
        yield server


@pytest.fixture(scope="module")
def fake_gcs() -> Iterator[FakeGcs]:
    with FakeGcs() as server:
        yield server


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    if azurite_program() is None:
        pytest.skip(NO_AZURITE)
    with Azurite() as server:
        yield server


@pytest.fixture(
    params=[
        "memory",
        "directory",
        "directory within limits",
        "several",
        pytest.param("s3", marks=pytest.mark.s3),
        pytest.param("s3 by its SHA-256", marks=pytest.mark.s3),
        pytest.param("s3 with a key of ours", marks=[pytest.mark.s3, pytest.mark.slow]),
        "azure",
        "fake-gcs",
        pytest.param("azurite", marks=pytest.mark.slow),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "directory":
        return DirectoryStore(tmp_path)
    if request.param == "directory within limits":
        return DirectorySettings(tmp_path).open()
    if request.param == "several":
        return Several([MemoryStore(), DirectoryStore(tmp_path)])
    prefix = f"test/{next(_prefixes)}-{secrets.token_hex(4)}"
    if request.param == "azure":
        scripted: ScriptedAzure = request.getfixturevalue("azure")
        return scripted.cloud(tmp_path, prefix=prefix).open()
    if request.param in ("fake-gcs", "azurite"):
        emulator: FakeGcs | Azurite = request.getfixturevalue(request.param.replace("-", "_"))
        return emulator.settings(prefix).open()
    server: SeaweedFS = request.getfixturevalue("seaweedfs")
    key = base64.b64encode(secrets.token_bytes(32)).decode() if "key" in request.param else None
    opened = S3Store(replace(server.settings(prefix=prefix), sse_customer_key=key))
    opened._checks_sha256 = "SHA-256" in request.param  # as after a probe, which leaves an empty folder
    return opened


def keys(store: Store, prefix: str) -> list[str]:
    return [info.key for info in store.list(prefix)]


@pytest.mark.parametrize("size", [0, 1, 4095, 65536, 5 * MIB + 1, 16 * MIB])
def test_what_was_stored_comes_back_byte_for_byte(store: Store, size: int) -> None:
    body = (b"\0\r\n\xff" + secrets.token_bytes(1021)) * (size // 1025 + 1)
    body = body[:size]
    store.create(SEGMENT, body, METADATA)
    assert store.get(SEGMENT) == body
    assert store.head(SEGMENT) == ObjectInfo(SEGMENT, size, METADATA)


def test_an_object_above_the_limit_is_refused_by_its_size_and_one_at_the_limit_is_not(store: Store) -> None:
    store.create("a/b", b"x" * 1000, METADATA)
    assert store.get("a/b", 1000) == b"x" * 1000
    with pytest.raises(TooLarge, match=r"a/b: 1000 bytes, where 999 ") as caught:
        store.get("a/b", 999)
    assert caught.value.hint
    assert store.get("a/b") == b"x" * 1000


def test_an_object_without_metadata_has_none(store: Store) -> None:
    store.create("a/b", b"body", {})
    assert store.head("a/b") == ObjectInfo("a/b", 4, {})


def test_metadata_come_back_as_they_were(store: Store) -> None:
    metadata = {"words": 'one two, "three" = 4', "a-b-c": "x" * 500}
    store.create("a/b", b"body", metadata)
    info = store.head("a/b")
    assert info is not None
    assert dict(info.metadata) == metadata
    body = store.get("a/b")
    assert body is not None
    assert dict(body.metadata) == metadata


@pytest.mark.parametrize(
    "metadata",
    [
        {"Upper": "x"},
        {"under_score": "x"},
        {"a": " x"},
        {"a": "x\n"},
        {"a": "ä"},
        {"": "x"},
        {"a": ""},
        {"a": "x" * 2001},
    ],
)
def test_metadata_that_some_store_would_change_are_refused(store: Store, metadata: dict[str, str]) -> None:
    with pytest.raises(Refused):
        store.create("a/b", b"body", metadata)
    assert store.get("a/b") is None


def test_a_second_create_finds_the_first_object_and_leaves_it(store: Store) -> None:
    store.create(SEGMENT, b"the first", {"n": "1"})
    with pytest.raises(AlreadyThere):
        store.create(SEGMENT, b"the second", {"n": "2"})
    assert store.get(SEGMENT) == b"the first"
    assert store.head(SEGMENT) == ObjectInfo(SEGMENT, 9, {"n": "1"})


def test_a_second_create_with_the_same_bytes_is_already_there_too(store: Store) -> None:
    store.create(SEGMENT, b"same", METADATA)
    with pytest.raises(AlreadyThere):
        store.create(SEGMENT, b"same", METADATA)


@pytest.mark.parametrize("attempt", range(2))
def test_of_eight_threads_that_create_one_key_exactly_one_wins(store: Store, attempt: int) -> None:
    gate = threading.Barrier(8)
    key = f"race/{attempt}"

    def create(number: int) -> int | None:
        gate.wait(30)
        try:
            store.create(key, bytes([number]) * 100_000, {"winner": str(number)})
        except AlreadyThere:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(create, range(8)) if number is not None]
    assert len(winners) == 1
    assert store.get(key) == bytes(winners) * 100_000
    assert store.head(key) == ObjectInfo(key, 100_000, {"winner": str(winners[0])})


def test_many_threads_share_one_store(store: Store) -> None:
    def work(number: int) -> bytes | None:
        store.create(f"many/{number:04d}", str(number).encode(), METADATA)
        return store.get(f"many/{number:04d}")

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(100))) == [str(number).encode() for number in range(100)]
    assert keys(store, "many/") == [f"many/{number:04d}" for number in range(100)]


def test_what_is_not_there_is_none_and_not_an_error(store: Store) -> None:
    assert store.head(SEGMENT) is None
    assert store.get(SEGMENT) is None
    assert keys(store, "") == []
    assert keys(store, "no/such/folder/") == []


def test_a_folder_is_no_object_and_an_object_no_folder(store: Store) -> None:
    store.create("a/b/c", b"body", {})
    assert store.head("a/b") is None
    assert store.get("a/b") is None
    assert store.get("a/b/c/d") is None
    assert store.head("a/b/c/d") is None


def test_list_is_in_key_order_and_takes_any_start_of_a_key(store: Store) -> None:
    stored = ["a-b", "a.b", "a/1", "a/10", "a/2/x", "a/2/y", "a/2z", "a0", "ab/c", "b"]
    for key in reversed(stored):
        store.create(key, key.encode(), METADATA)
    assert keys(store, "") == stored == sorted(stored)
    assert keys(store, "a/") == ["a/1", "a/10", "a/2/x", "a/2/y", "a/2z"]
    assert keys(store, "a/2") == ["a/2/x", "a/2/y", "a/2z"]
    assert keys(store, "a/2/x") == ["a/2/x"]
    assert keys(store, "a") == stored[:-1]
    assert keys(store, "a/2/x/") == []
    assert keys(store, "c") == []
    assert list(store.list("a/2/")) == [ObjectInfo("a/2/x", 5, {}), ObjectInfo("a/2/y", 5, {})]


def test_folders_are_told_without_what_is_in_them(store: Store) -> None:
    for key in ("a-b", "a/1", "a/2/x", "a/2/y/z", "a/2-/x", "a/10/x", "ab/c", "b"):
        store.create(key, b"body", {})
    assert list(store.folders("")) == ["a", "ab"]
    assert list(store.folders("a/")) == ["10", "2-", "2"]  # as their keys are sorted
    assert list(store.folders("a/2/")) == ["y"]
    assert list(store.folders("a/1/")) == list(store.folders("c/")) == []
    for wrong in ("a", "/", "../", "a//"):
        with pytest.raises(BadName):
            list(store.folders(wrong))


def test_a_deleted_object_is_gone_and_its_name_free(store: Store) -> None:
    store.create("a/b", b"old", METADATA)
    store.delete("a/b")
    assert store.head("a/b") is None
    assert store.get("a/b") is None
    assert keys(store, "") == []
    store.create("a/b", b"new", {})
    assert store.get("a/b") == b"new"


def test_deleting_what_is_not_there_succeeds(store: Store) -> None:
    store.delete("a/b")
    store.create("a/c", b"body", {})
    store.delete("a/c")
    store.delete("a/c")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        "./a",
        "a/.",
        ".tmp-x",
        "a/.hidden",
        "a b",
        "ä",
        "a\n",
        "a\0b",
        "a\x1b",
        "x" * 201,
    ],
)
def test_a_key_that_could_mean_something_else_is_refused_before_anything_is_opened(store: Store, key: str) -> None:
    for call in (store.head, store.get, store.delete, lambda key: store.create(key, b"", {})):
        with pytest.raises(BadName):
            call(key)


@pytest.mark.parametrize("prefix", ["/", "..", "../x", "a/../", "a//", ".tmp", "a b"])
def test_a_list_of_a_start_that_no_key_has_is_refused(store: Store, prefix: str) -> None:
    with pytest.raises(BadName):
        list(store.list(prefix))


def test_odd_but_visible_characters_are_kept(store: Store) -> None:
    stored = sorted(["a%41b", "a+b", "a=b", "a'b", "a*b", 'a"b', "a?b", "a#b", "a&b", "a<b", "a~b", "a:b", "%2e%2e"])
    for key in stored:
        store.create(key, key.encode(), {})
    assert keys(store, "") == stored
    assert [store.get(key) for key in stored] == [key.encode() for key in stored]


def test_the_probe_passes_and_leaves_nothing(store: Store) -> None:
    store.probe()
    store.probe()
    assert keys(store, "") == []


def test_the_url_is_for_people_and_holds_no_secret(store: Store) -> None:
    assert "://" in unquote(store.url)
    assert "secret" not in store.url


@pytest.mark.parametrize(
    ("given", "normal"), [("", ""), ("/", ""), ("a", "a"), ("/a/", "a"), ("a//b/", "a/b"), ("///a///b///", "a/b")]
)
def test_a_prefix_is_brought_into_one_form(given: str, normal: str) -> None:
    assert S3Settings(bucket="wal", prefix=given).checked().prefix == normal


@pytest.mark.parametrize("prefix", ["..", "a/../b", "./a", "a b", "ä", "a/.b", "x" * 300])
def test_a_prefix_that_leads_elsewhere_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError):
        S3Settings(bucket="wal", prefix=prefix).checked()


class Overwriting(MemoryStore):
    """A store that says yes to everything."""

    def create(self, key: str, body: bytes, metadata: object) -> None:
        self.objects[key] = (body, {})


def test_the_probe_refuses_a_store_that_overwrites() -> None:
    with pytest.raises(StoreUnfit, match="overwrites"):
        Overwriting().probe()


CALLS: dict[str, Callable[[Store], object]] = {
    "create": lambda store: store.create("a", b"body", {}),
    "head": lambda store: store.head("a"),
    "get": lambda store: store.get("a", 10),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete("a"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_hangs_is_an_outage_beside_which_others_go_on_and_which_ends(name: str) -> None:
    hangs, over = threading.Event(), threading.Event()

    def hang(method: str, key: str) -> None:
        if not hangs.is_set():
            hangs.set()
            over.wait(60)

    inner = MemoryStore(before=hang)
    store = Limited(inner, seconds=2)
    with pytest.raises(StoreUnavailable, match="no answer within 2") as caught:
        CALLS[name](store)
    assert "mount" in caught.value.hint
    store.create("b", b"beside", {})
    assert store.get("b") == b"beside"
    over.set()


def test_calls_that_hang_are_left_behind_in_no_more_than_a_few_threads() -> None:
    over, hung = threading.Event(), list[str]()

    def hang(method: str, key: str) -> None:
        hung.append(key)
        over.wait(60)

    store = Limited(MemoryStore(before=hang), seconds=0.05)
    before = threading.active_count()

    def refused() -> str:
        with pytest.raises(StoreUnavailable) as caught:
            store.head("a")
        return str(caught.value)

    # On a busy machine a call may be over before it has begun, and hangs nowhere.
    wait_until(lambda: "16 earlier calls still hang" in refused(), "no more calls")
    assert len(hung) == 16
    assert threading.active_count() <= before + 16
    over.set()
    wait_until(lambda: _answers(store), "the store that hung")


def _answers(store: Store) -> bool:
    try:
        return store.head("a") is None
    except StoreUnavailable:
        return False


def test_an_answer_lost_in_memory_is_already_there_at_the_next_try() -> None:
    lost = [StoreUnavailable("lost")]

    def lose(method: str, key: str) -> None:
        if lost:
            raise lost.pop()

    store = MemoryStore(after=lose)
    with pytest.raises(StoreUnavailable):
        store.create("a", b"body", {})
    with pytest.raises(AlreadyThere):
        store.create("a", b"body", {})


# ------------------------------------------------------------------------------------------------ only with a real server


@pytest.fixture
def s3(seaweedfs: SeaweedFS) -> S3Store:
    return S3Store(
        seaweedfs.settings(prefix=f"only/{next(_prefixes)}-{secrets.token_hex(4)}", connect_timeout=2, read_timeout=3)
    )


@pytest.mark.s3
@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.create("a", b"", {}),
        lambda store: store.head("a"),
        lambda store: store.get("a"),
        lambda store: list(store.list("")),
        lambda store: store.delete("a"),
    ],
    ids=["create", "head", "get", "list", "delete"],
)
def test_a_missing_bucket_is_an_outage_and_never_an_absent_object(
    seaweedfs: SeaweedFS, call: Callable[[Store], object]
) -> None:
    store = S3Store(replace(seaweedfs.settings(), bucket="no-such-bucket"))
    with pytest.raises(StoreUnavailable, match="NoSuchBucket") as caught:
        call(store)
    assert "bucket" in caught.value.hint


@pytest.mark.s3
def test_a_wrong_secret_is_denied_and_not_told(seaweedfs: SeaweedFS) -> None:
    store = S3Store(replace(seaweedfs.settings(), secret_access_key="a-wrong-secret"))
    with pytest.raises(StoreDenied) as caught:
        store.get("a")
    assert "a-wrong-secret" not in str(caught.value) + caught.value.hint + repr(store) + repr(store._settings)


@pytest.mark.s3
def test_two_prefixes_of_one_bucket_do_not_see_each_other(seaweedfs: SeaweedFS) -> None:
    ours, longer = (S3Store(seaweedfs.settings(prefix=prefix)) for prefix in ("two/a", "two/ab"))
    ours.create("x", b"ours", {})
    longer.create("x", b"longer", {})
    assert [ours.get("x"), longer.get("x")] == [b"ours", b"longer"]
    assert [keys(ours, ""), keys(longer, "")] == [["x"], ["x"]]


@pytest.mark.s3
def test_a_listing_of_several_pages_is_whole_and_in_order(s3: S3Store) -> None:
    expected = [f"tail/{number:06d}" for number in range(2100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: s3.create(key, b"", {}), expected))
    assert keys(s3, "tail/") == expected


@pytest.mark.s3
def test_a_refused_connection_is_an_outage_that_ends_without_a_new_store(seaweedfs: SeaweedFS, s3: S3Store) -> None:
    s3.create("before", b"before", METADATA)
    seaweedfs.stop()
    try:
        for call in (s3.head, s3.get, s3.delete, lambda key: list(s3.list(key)), lambda key: s3.create(key, b"", {})):
            with pytest.raises(StoreUnavailable):
                call("before")
    finally:
        seaweedfs.start()
    assert s3.get("before") == b"before"
    s3.create("after", b"after", METADATA)
    assert keys(s3, "") == ["after", "before"]


@pytest.mark.s3
def test_a_server_that_hangs_is_an_outage_within_the_read_timeout(seaweedfs: SeaweedFS) -> None:
    store = S3Store(seaweedfs.settings(prefix="hangs", connect_timeout=1, read_timeout=1))
    store.create("before", b"before", {})
    seaweedfs.freeze()
    try:
        start = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.get("before")
        assert time.monotonic() - start < 20
    finally:
        seaweedfs.thaw()
    assert store.get("before") == b"before"
