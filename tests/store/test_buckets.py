"""What a store in a bucket, of whatever kind, makes of a server that refuses, stalls, cuts, lies or forgets to answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.parts.processes import free_port
from tests.parts.scripted_clouds import CLOUDS
from tests.parts.scripted_s3 import (
    Exchange,
    ScriptedS3,
    Stored,
    commit_then_answer,
    commit_then_reset,
    cut_answer,
    drip,
    page,
    refuse,
    reset_at,
    say_yes,
    swallow,
)
from tests.store.calls import BODY, CALLS, EACH_CALL, KEY, METADATA, Call
from walkeeper.errors import StoreDenied, StoreError, StoreUnavailable, StoreUnfit, TooLarge
from walkeeper.lib.units import Seconds
from walkeeper.store.base import AlreadyThere, ObjectInfo, Store
from walkeeper.store.clouds.driver import CloudStore
from walkeeper.store.s3.driver import S3Store
from walkeeper.store.s3.keys import S3Settings

DATED = "Last-Modified: Sat, 28 Nov 2026 12:00:00 GMT\r\nETag: x\r\n"

Opener: TypeAlias = Callable[..., Store]
"""Opens a store on the scripted server, with these settings other than usual."""


@pytest.fixture(params=["s3", *CLOUDS])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: str) -> Iterator[ScriptedS3]:
    with CLOUDS.get(kind, ScriptedS3)() as server:
        yield server


@pytest.fixture
def opened(kind: str, server: Any, tmp_path: Path) -> Opener:
    if kind == "s3":
        return lambda **other: S3Store(server.settings(**other))
    return lambda **other: CloudStore(server.cloud(tmp_path / "account.json", **other))


@pytest.fixture
def store(opened: Opener) -> Store:
    return opened()


@pytest.fixture
def hurried(kind: str, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A fifth of a second for a call, and nothing for the bytes of an object; each part of an answer could take a minute."""
    monkeypatch.setattr(S3Settings, "longest_call", 0.2)
    for module in ("s3.connection", "clouds.driver"):
        monkeypatch.setattr(f"walkeeper.store.{module}.SLOWEST", 1024**3)
    return opened(**({"read_timeout": Seconds(60)} if kind == "s3" else {"timeout": Seconds(0.2)}))


def listed(store: Store) -> list[str]:
    return [info.key for info in store.list("")]


# ---------------------------------------------------------------------------------------------------- outages, refusals

OUTAGES = [
    (500, "InternalError"),
    (502, "BadGateway"),
    (503, "SlowDown"),
    (503, "ServiceUnavailable"),
    (503, "ServerBusy"),
    (504, "GatewayTimeout"),
    (429, "TooManyRequests"),
    (408, "RequestTimeout"),
    (400, "RequestTimeout"),
    (400, "BadDigest"),
    (400, "InvalidDigest"),
    (400, "Md5Mismatch"),
    (409, "ConditionalRequestConflict"),
    (409, "OperationAborted"),
    (409, "ContainerBeingDeleted"),
    (404, "NoSuchBucket"),
]


@EACH_CALL
def test_a_server_in_trouble_is_unavailable_after_one_try(
    server: ScriptedS3, store: Store, operation: Any, call: Call
) -> None:
    for status, code in OUTAGES:
        server.requests.clear()
        server.always(operation, refuse(status, code))
        server.always("GET", refuse(status, code))
        with pytest.raises(StoreUnavailable, match=str(status)) as caught:
            call(store)
        assert caught.value.hint
        assert [asked for asked, _ in server.requests].count(operation) == 1, code


@EACH_CALL
def test_a_page_that_is_not_the_stores_is_never_an_absence(
    server: ScriptedS3, store: Store, operation: Any, call: Call
) -> None:
    for status in (404, 400, 502):
        server.always(operation, page(status))
        server.always("GET", page(status))
        with pytest.raises(StoreUnavailable):
            call(store)


@EACH_CALL
def test_a_refused_connection_and_a_name_that_nobody_has_are_unavailable(
    opened: Opener, operation: Any, call: Call
) -> None:
    for endpoint in (f"http://127.0.0.1:{free_port()}", "http://no-such-host.invalid"):
        with pytest.raises(StoreUnavailable) as caught:
            call(opened(endpoint=endpoint))
        assert "endpoint" in caught.value.hint


@EACH_CALL
def test_an_answer_that_drips_ends_with_the_total_time(
    server: ScriptedS3, hurried: Store, operation: Any, call: Call
) -> None:
    """Each byte comes well within the time for one."""
    server.next(operation, drip(b"HTTP/1.1 200 OK\r\nX-Slow: "))
    with pytest.raises(StoreUnavailable, match="no whole answer within"):
        call(hurried)


@pytest.mark.parametrize("operation", ["GET", "LIST"])
def test_a_body_that_drips_ends_with_the_total_time(server: ScriptedS3, hurried: Store, operation: Any) -> None:
    server.next(operation, drip(f"HTTP/1.1 200 OK\r\n{DATED}Content-Length: 1000000000\r\n\r\n".encode()))
    with pytest.raises(StoreUnavailable, match="no whole answer within"):
        CALLS[operation.lower()][1](hurried)


def test_a_server_that_takes_an_object_too_slowly_ends_with_the_total_time(server: ScriptedS3, hurried: Store) -> None:
    server.next("PUT", swallow)
    with pytest.raises(StoreUnavailable, match="no whole answer within"):
        hurried.create(KEY, BODY * 32, METADATA)


@pytest.mark.parametrize("count", [0, 1, len(BODY) // 2, len(BODY) - 1, len(BODY)])
def test_a_reset_while_sending_leaves_no_object_and_the_next_try_stores_it(
    server: ScriptedS3, store: Store, count: int
) -> None:
    server.next("PUT", reset_at(count))
    with pytest.raises(StoreUnavailable):
        store.create(KEY, BODY, METADATA)
    assert KEY not in server.objects
    store.create(KEY, BODY, METADATA)
    assert server.objects[KEY].body == BODY


# ----------------------------------------------------------------------------------------------- there, or cannot tell


def test_a_present_object_is_one_request_and_an_absent_one_is_asked_for_twice(server: ScriptedS3, store: Store) -> None:
    store.create(KEY, BODY, METADATA)
    server.requests.clear()
    assert store.head(KEY) == ObjectInfo(KEY, len(BODY), METADATA)
    assert store.head("not/there") is None
    assert store.get("not/there") is None
    assert server.requests == [("HEAD", KEY), ("HEAD", "not/there"), ("GET", "not/there"), ("GET", "not/there")]


def test_an_object_whose_answer_was_lost_is_already_there_at_the_next_try(server: ScriptedS3, store: Store) -> None:
    server.next("PUT", commit_then_reset)
    with pytest.raises(StoreUnavailable):
        store.create(KEY, BODY, METADATA)
    with pytest.raises(AlreadyThere):
        store.create(KEY, BODY, METADATA)
    assert store.head(KEY) == ObjectInfo(KEY, len(BODY), METADATA)


def test_only_a_create_can_be_told_that_the_object_is_there(server: ScriptedS3, store: Store) -> None:
    for name, (operation, call) in CALLS.items():
        server.always(operation, refuse(412, "PreconditionFailed"))
        with pytest.raises(AlreadyThere if name == "create" else StoreUnavailable):
            call(store)


def test_a_missing_bucket_is_not_an_absent_object(server: ScriptedS3, opened: Opener) -> None:
    server.bucket = "another"
    store = opened()
    for _, call in CALLS.values():
        with pytest.raises(StoreUnavailable) as caught:
            call(store)
    assert "Create the bucket" in caught.value.hint


def test_an_object_that_comes_between_two_looks_is_not_absent(server: ScriptedS3, store: Store) -> None:
    server.objects[KEY] = Stored(BODY)
    server.next("HEAD", refuse(404, "NoSuchKey"))
    with pytest.raises(StoreUnavailable, match="not there for HEAD"):
        store.head(KEY)
    assert store.head(KEY) is not None


def test_an_absence_that_cannot_be_confirmed_is_unavailable(server: ScriptedS3, store: Store) -> None:
    server.next("GET", refuse(503, "SlowDown"), refuse(403, "AccessDenied"))
    with pytest.raises(StoreUnavailable):
        store.head(KEY)
    with pytest.raises(StoreDenied):
        store.head(KEY)


# ----------------------------------------------------------------------------------------------------------------- lies


def test_a_refused_head_is_said_with_the_reason_that_get_gives(server: ScriptedS3, store: Store) -> None:
    for operation in ("HEAD", "GET"):
        server.always(operation, refuse(403, "ForThatReason"))
    with pytest.raises(StoreDenied, match="ForThatReason"):
        store.head(KEY)
    assert [operation for operation, _ in server.requests] == ["HEAD", "GET"]


def test_another_etag_is_fine_if_the_object_is_there(server: ScriptedS3, store: Store) -> None:
    server.next("PUT", commit_then_answer(200, ETag='"0123456789abcdef0123456789abcdef"'))
    store.create(KEY, BODY, METADATA)
    assert server.requests == [("PUT", KEY), ("HEAD", KEY)]


def test_a_yes_without_an_object_is_not_durable(server: ScriptedS3, store: Store) -> None:
    server.next("PUT", say_yes)
    with pytest.raises(StoreUnavailable, match="not durable"):
        store.create(KEY, BODY, METADATA)


@pytest.mark.parametrize(
    "kept", [Stored(BODY[:-1], METADATA), Stored(b"", METADATA), Stored(BODY, {"sha256": "other"})]
)
def test_a_yes_with_something_else_stored_is_not_durable(server: ScriptedS3, store: Store, kept: Stored) -> None:
    def keep_something_else(exchange: Exchange) -> None:
        exchange.s3.objects[exchange.key] = kept
        say_yes(exchange)

    server.next("PUT", keep_something_else)
    with pytest.raises(StoreUnavailable, match="not durable"):
        store.create(KEY, BODY, METADATA)


@pytest.mark.parametrize("count", [0, 1, len(BODY) // 2, len(BODY) - 1])
def test_a_body_that_is_cut_short_is_never_delivered(server: ScriptedS3, store: Store, count: int) -> None:
    server.objects[KEY] = Stored(BODY)

    def cut(exchange: Exchange) -> None:
        exchange.wfile.write(f"HTTP/1.1 200 OK\r\n{DATED}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY[:count])
        exchange.close_connection = True

    server.next("GET", cut, cut_answer(count))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.get(KEY)
    assert store.get(KEY) == BODY


@pytest.mark.parametrize(
    "length", ["Content-Length: 1073741825", "Transfer-Encoding: chunked\r\nContent-Length: 9", ""]
)
def test_a_body_is_not_read_beyond_the_limit_or_what_it_stated(server: ScriptedS3, store: Store, length: str) -> None:
    sent = [0]

    def endless(exchange: Exchange) -> None:
        exchange.close_connection = True
        exchange.wfile.write(f"HTTP/1.1 200 OK\r\n{DATED}{length}\r\n\r\n".replace("\r\n\r\n\r\n", "\r\n\r\n").encode())
        with contextlib.suppress(OSError):
            while not exchange.s3.closing.is_set():
                exchange.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")
                sent[0] += 65536

    server.next("GET", endless)
    with pytest.raises(TooLarge if length.endswith("825") else StoreError):
        store.get(KEY, 1024**3)
    assert sent[0] < 100 * 1024**2


# ----------------------------------------------------------------------------------------------------- LIST, the probe


def test_many_pages_are_one_listing(server: ScriptedS3, store: Store) -> None:
    server.page_size = 7
    expected = [f"k/{number:04d}" for number in range(100)]
    server.objects.update((key, Stored(b"x")) for key in expected)
    assert listed(store) == expected
    assert len(server.requests) == 15


def test_a_listing_that_fails_half_way_is_an_error_and_not_an_end(
    server: ScriptedS3, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("walkeeper.store.clouds.driver.PAGE", 1)
    server.next("LIST", lambda exchange: exchange.listing(["a"], token="1"), refuse(503, "SlowDown"))
    listing = store.list("")
    assert next(listing).key == "a"
    with pytest.raises(StoreUnavailable):
        next(listing)


def test_the_probe_passes_on_a_good_server_and_leaves_nothing(server: ScriptedS3, store: Store) -> None:
    store.probe()
    assert server.objects == {}


def test_the_probe_finds_a_store_that_overwrites(server: ScriptedS3, store: Store) -> None:
    server.honours_condition = False
    with pytest.raises(StoreUnfit, match="overwrites"):
        store.probe()
    assert server.objects == {}


def test_the_probe_is_content_with_credentials_that_may_not_delete(server: ScriptedS3, store: Store) -> None:
    server.always("DELETE", refuse(403, "AccessDenied"))
    store.probe()
    assert [key.partition("/")[0] for key in server.objects] == ["probe"]
