"""What the S3 store makes of a server that refuses, stalls, cuts, lies or forgets to answer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.parts.processes import free_port
from tests.parts.scripted_s3 import (
    Exchange,
    Fault,
    ScriptedS3,
    Stored,
    commit_then_answer,
    commit_then_reset,
    cut_answer,
    deaf,
    drip,
    page,
    refuse,
    reset_at,
    say_yes,
    swallow,
)
from walkeeper.errors import StoreDenied, StoreError, StoreUnavailable, StoreUnfit
from walkeeper.lib.units import Seconds
from walkeeper.store.base import AlreadyThere, ObjectInfo, Store
from walkeeper.store.s3.driver import S3Store
from walkeeper.store.s3.keys import S3Settings

KEY = "cluster/wal/000000010000000000000001.zst"
BODY = bytes(range(256)) * 4096
METADATA = {"sha256": "0f" * 32, "size": "16777216"}

Call = Callable[[Store], object]

CALLS: dict[str, tuple[Any, Call]] = {
    "create": ("PUT", lambda store: store.create(KEY, BODY, METADATA)),
    "head": ("HEAD", lambda store: store.head(KEY)),
    "get": ("GET", lambda store: store.get(KEY)),
    "list": ("LIST", lambda store: list(store.list(""))),
    "delete": ("DELETE", lambda store: store.delete(KEY)),
}
EACH_CALL = pytest.mark.parametrize(("operation", "call"), CALLS.values(), ids=CALLS.keys())


@pytest.fixture(autouse=True)
def no_aws_of_the_developer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither variables nor files of whoever runs the tests, and no question to a cloud's metadata service."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def server() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        yield server


@pytest.fixture
def store(server: ScriptedS3) -> S3Store:
    return S3Store(server.settings())


@pytest.fixture
def impatient(server: ScriptedS3) -> S3Store:
    return S3Store(server.settings(read_timeout=Seconds(0.5)))


# ---------------------------------------------------------------------------------------------------------- the request


def test_a_segment_is_one_conditional_put_with_its_checksum(server: ScriptedS3, store: S3Store) -> None:
    store.create(KEY, BODY, METADATA)
    assert server.requests == [("PUT", KEY)]
    assert server.headers[0]["if-none-match"] == "*"
    assert server.headers[0]["content-md5"]
    assert server.headers[0]["x-amz-meta-sha256"] == METADATA["sha256"]
    assert server.objects[KEY] == Stored(BODY, METADATA)


def test_a_present_object_is_one_request_and_an_absent_one_is_asked_for_twice(
    server: ScriptedS3, store: S3Store
) -> None:
    server.objects[KEY] = Stored(BODY, METADATA)
    assert store.head(KEY) == ObjectInfo(KEY, len(BODY), METADATA)
    assert store.head("not/there") is None
    assert store.get("not/there") is None
    assert server.requests == [("HEAD", KEY), ("HEAD", "not/there"), ("GET", "not/there"), ("GET", "not/there")]


# ---------------------------------------------------------------------------------------------------- outages, refusals

OUTAGES = [
    (500, "InternalError"),
    (502, "BadGateway"),
    (503, "SlowDown"),
    (503, "ServiceUnavailable"),
    (504, "GatewayTimeout"),
    (429, "TooManyRequests"),
    (400, "RequestTimeout"),
    (400, "BadDigest"),
    (400, "InvalidDigest"),
    (409, "ConditionalRequestConflict"),
    (409, "OperationAborted"),
    (404, "NoSuchBucket"),
]
TO_BE_FIXED = [
    (403, "AccessDenied", "s3:PutObject"),
    (403, "SignatureDoesNotMatch", "secret"),
    (403, "InvalidAccessKeyId", "no such access key"),
    (403, "RequestTimeTooSkewed", "clock"),
    (403, "SomethingNew", "s3:PutObject"),
    (401, "Unauthorized", "s3:PutObject"),
    (301, "PermanentRedirect", "region"),
    (307, "TemporaryRedirect", "region"),
    (400, "ExpiredToken", "renew"),
    (400, "InvalidToken", "renew"),
    (400, "AuthorizationHeaderMalformed", "region"),
]


@EACH_CALL
def test_a_server_in_trouble_is_unavailable_after_one_try(
    server: ScriptedS3, store: S3Store, operation: Any, call: Call
) -> None:
    for status, code in OUTAGES:
        server.requests.clear()
        server.always(operation, refuse(status, code))
        server.always("GET", refuse(status, code))
        with pytest.raises(StoreUnavailable, match=str(status)) as caught:
            call(store)
        assert caught.value.hint
        assert [asked for asked, _ in server.requests].count(operation) == 1, code


def test_what_the_server_says_about_waiting_is_told(server: ScriptedS3, store: S3Store) -> None:
    server.next("PUT", refuse(503, "SlowDown", Retry_After="17"))
    with pytest.raises(StoreUnavailable, match=r"503 SlowDown: scripted \(Retry-After: 17\)"):
        store.create(KEY, BODY, METADATA)


@EACH_CALL
def test_what_somebody_must_mend_is_denied_with_a_hint(
    server: ScriptedS3, store: S3Store, operation: Any, call: Call
) -> None:
    for status, code, hint in TO_BE_FIXED:
        if operation == "HEAD" and status == 400:
            continue  # it has no body that would say why
        server.always(operation, refuse(status, code))
        with pytest.raises(StoreDenied) as caught:
            call(store)
        assert operation == "HEAD" or hint in caught.value.hint, code
        assert "a-secret" not in str(caught.value)


def test_a_redirect_that_names_the_region_is_followed(server: ScriptedS3, store: S3Store) -> None:
    server.next("PUT", refuse(301, "PermanentRedirect", X_Amz_Bucket_Region="eu-central-1"))
    store.create(KEY, BODY, METADATA)
    assert server.requests == [("PUT", KEY)] * 2
    assert "/eu-central-1/s3/" in server.headers[1]["authorization"]


@EACH_CALL
def test_a_redirect_that_names_none_is_not_followed_for_ever(
    server: ScriptedS3, store: S3Store, operation: Any, call: Call
) -> None:
    for each in ("PUT", "GET", "HEAD", "LIST", "DELETE"):
        server.always(each, refuse(307, "TemporaryRedirect"))
    with pytest.raises(StoreDenied):
        call(store)
    assert [each for each, _ in server.requests] == (["HEAD", "GET"] if operation == "HEAD" else [operation])


def test_a_store_that_does_not_know_conditional_put_is_unfit(server: ScriptedS3, store: S3Store) -> None:
    server.next("PUT", refuse(501, "NotImplemented"))
    with pytest.raises(StoreUnfit) as caught:
        store.create(KEY, BODY, METADATA)
    assert "overwrite_guard: head" in caught.value.hint


@EACH_CALL
def test_a_deaf_server_is_unavailable_within_the_read_timeout(
    server: ScriptedS3, impatient: S3Store, operation: Any, call: Call
) -> None:
    server.always(operation, deaf)
    start = time.monotonic()
    with pytest.raises(StoreUnavailable):
        call(impatient)
    assert time.monotonic() - start < 25


@pytest.mark.parametrize("count", [0, 1, len(BODY) // 2, len(BODY) - 1, len(BODY)])
def test_a_reset_while_sending_leaves_no_object_and_the_next_try_stores_it(
    server: ScriptedS3, store: S3Store, count: int
) -> None:
    server.next("PUT", reset_at(count))
    with pytest.raises(StoreUnavailable):
        store.create(KEY, BODY, METADATA)
    assert KEY not in server.objects
    store.create(KEY, BODY, METADATA)
    assert server.objects[KEY].body == BODY


@EACH_CALL
def test_a_page_that_is_not_s3s_is_never_an_absence(
    server: ScriptedS3, store: S3Store, operation: Any, call: Call
) -> None:
    for status in (404, 400, 502):
        server.always(operation, page(status))
        server.always("GET", page(status))
        with pytest.raises(StoreUnavailable):
            call(store)


@pytest.mark.parametrize("name", ["list", "get"])
def test_a_friendly_page_in_place_of_an_answer_is_unavailable_or_just_bytes(
    server: ScriptedS3, store: S3Store, name: str
) -> None:
    operation, call = CALLS[name]
    server.always(operation, page(200, "<html>log in to the wireless network"))
    if name == "get":
        assert call(store) == b"<html>log in to the wireless network"
        return
    with pytest.raises(StoreUnavailable):
        call(store)


@EACH_CALL
def test_a_refused_connection_is_unavailable(operation: Any, call: Call) -> None:
    store = S3Store(replace(ScriptedS3.settings_of(free_port()), connect_timeout=Seconds(1)))
    with pytest.raises(StoreUnavailable):
        call(store)


@EACH_CALL
def test_a_name_that_does_not_resolve_is_unavailable(operation: Any, call: Call) -> None:
    store = S3Store(replace(ScriptedS3.settings_of(1), endpoint="http://no-such-host.invalid:9000"))
    with pytest.raises(StoreUnavailable, match="no-such-host"):
        call(store)


# ---------------------------------------------------------------------------------------------- an answer that got lost


def test_an_object_whose_answer_was_lost_is_already_there_at_the_next_try(server: ScriptedS3, store: S3Store) -> None:
    server.next("PUT", commit_then_reset)
    with pytest.raises(StoreUnavailable):
        store.create(KEY, BODY, METADATA)
    with pytest.raises(AlreadyThere):
        store.create(KEY, BODY, METADATA)
    assert store.head(KEY) == ObjectInfo(KEY, len(BODY), METADATA)


# ----------------------------------------------------------------------------------------------------------------- lies


def test_another_etag_is_fine_if_the_object_is_there(server: ScriptedS3, store: S3Store) -> None:
    server.next("PUT", commit_then_answer(200, ETag='"0123456789abcdef0123456789abcdef"'))
    store.create(KEY, BODY, METADATA)
    assert server.requests == [("PUT", KEY), ("HEAD", KEY)]


def test_no_etag_at_all_is_fine_if_the_object_is_there(server: ScriptedS3, store: S3Store) -> None:
    server.next("PUT", commit_then_answer(200))
    store.create(KEY, BODY, METADATA)


def test_a_yes_without_an_object_is_not_durable(server: ScriptedS3, store: S3Store) -> None:
    server.next("PUT", say_yes)
    with pytest.raises(StoreUnavailable, match="not durable"):
        store.create(KEY, BODY, METADATA)


@pytest.mark.parametrize(
    "kept", [Stored(BODY[:-1], METADATA), Stored(b"", METADATA), Stored(BODY, {"sha256": "other"})]
)
def test_a_yes_with_something_else_stored_is_not_durable(server: ScriptedS3, store: S3Store, kept: Stored) -> None:
    def keep_something_else(exchange: Exchange) -> None:
        exchange.s3.objects[exchange.key] = kept
        say_yes(exchange)

    server.next("PUT", keep_something_else)
    with pytest.raises(StoreUnavailable, match="not durable"):
        store.create(KEY, BODY, METADATA)


def test_an_unconfirmed_object_that_cannot_be_looked_at_is_unavailable(server: ScriptedS3, store: S3Store) -> None:
    server.next("PUT", commit_then_answer(200))
    server.next("HEAD", refuse(503, "SlowDown"))
    with pytest.raises(StoreUnavailable):
        store.create(KEY, BODY, METADATA)


def test_bytes_that_change_on_their_way_are_refused_by_the_server(server: ScriptedS3, store: S3Store) -> None:
    def flip(exchange: Exchange) -> None:
        exchange._body = b"x" + exchange.whole_body()[1:]
        exchange.behave()

    server.next("PUT", flip)
    with pytest.raises(StoreUnavailable, match="BadDigest") as caught:
        store.create(KEY, BODY, METADATA)
    assert "memory" in caught.value.hint
    assert KEY not in server.objects


# ------------------------------------------------------------------------------------------------------------------ GET


@pytest.mark.parametrize("count", [0, 1, len(BODY) // 2, len(BODY) - 1])
def test_a_body_that_is_cut_short_is_never_delivered(server: ScriptedS3, store: S3Store, count: int) -> None:
    server.objects[KEY] = Stored(BODY)
    server.next("GET", cut_answer(count))
    with pytest.raises(StoreUnavailable):
        store.get(KEY)
    assert store.get(KEY) == BODY


def test_a_body_without_a_stated_length_is_never_delivered(server: ScriptedS3, store: S3Store) -> None:
    def no_length(exchange: Exchange) -> None:
        exchange.send_response(200)
        exchange.send_header("Connection", "close")
        exchange.end_headers()
        exchange.wfile.write(BODY[:1000])
        exchange.close_connection = True

    server.next("GET", no_length)
    with pytest.raises(StoreUnavailable):
        store.get(KEY)


def test_a_server_that_stops_in_the_middle_of_a_body_is_unavailable(server: ScriptedS3, impatient: S3Store) -> None:
    def stall(exchange: Exchange) -> None:
        exchange.send_response(200)
        exchange.send_header("Content-Length", str(len(BODY)))
        exchange.end_headers()
        exchange.wfile.write(BODY[:1000])
        deaf(exchange)

    server.next("GET", stall)
    start = time.monotonic()
    with pytest.raises(StoreUnavailable):
        impatient.get(KEY)
    assert time.monotonic() - start < 25


@pytest.mark.parametrize("length", ["Content-Length: 1073741825", "Transfer-Encoding: chunked\r\nContent-Length: 9"])
def test_a_body_is_not_read_beyond_the_limit_or_what_it_stated(server: ScriptedS3, store: S3Store, length: str) -> None:
    def endless(exchange: Exchange) -> None:
        exchange.close_connection = True
        exchange.wfile.write(f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode())
        with contextlib.suppress(OSError):
            while not exchange.s3.closing.is_set():
                exchange.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")

    server.next("GET", endless)
    with pytest.raises(StoreError):
        store.get(KEY, 1024**3)


def test_an_answer_whose_length_is_not_stated_is_unavailable(server: ScriptedS3, store: S3Store) -> None:
    def cut_in_the_headers(exchange: Exchange) -> None:
        exchange.wfile.write(b"HTTP/1.1 200 OK\r\nX-Amz")
        exchange.close_connection = True

    server.next("HEAD", cut_in_the_headers)
    with pytest.raises(StoreUnavailable, match="length"):
        store.head(KEY)


# ------------------------------------------------------------------------------------------------- the total time of a call


@pytest.fixture
def hurried(server: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """Half a second for a call, and nothing for the bytes of an object; each part of an answer could take a minute."""
    monkeypatch.setattr(S3Settings, "longest_call", 0.5)
    monkeypatch.setattr("walkeeper.store.s3.connection.SLOWEST", 1024**3)
    return S3Store(server.settings(read_timeout=Seconds(60)))


@EACH_CALL
def test_an_answer_that_drips_ends_with_the_total_time(
    server: ScriptedS3, hurried: S3Store, operation: Any, call: Call
) -> None:
    """Each byte comes well within the read time-out."""
    server.next(operation, drip(b"HTTP/1.1 200 OK\r\nX-Slow: "))
    with pytest.raises(StoreUnavailable, match="no whole answer within"):
        call(hurried)


@pytest.mark.parametrize("operation", ["GET", "LIST"])
def test_a_body_that_drips_ends_with_the_total_time(server: ScriptedS3, hurried: S3Store, operation: Any) -> None:
    server.next(operation, drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"))
    with pytest.raises(StoreUnavailable, match="no whole answer within"):
        CALLS[operation.lower()][1](hurried)


def test_a_refusal_that_drips_ends_with_the_total_time(server: ScriptedS3, hurried: S3Store) -> None:
    server.next("GET", drip(b"HTTP/1.1 404 Not Found\r\nContent-Length: 60000\r\n\r\n"))
    with pytest.raises(StoreUnavailable, match="no whole answer within"):
        hurried.get(KEY)


def test_a_connection_that_was_kept_is_held_to_the_total_time_too(
    server: ScriptedS3, hurried: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patient:
        patient.setattr(S3Settings, "longest_call", 60.0)
        assert hurried.get(KEY) is None
    server.next("GET", drip(b"HTTP/1.1 200 OK\r\nX-Slow: "))
    with pytest.raises(StoreUnavailable, match="no whole answer within"):
        hurried.get(KEY)


def test_a_server_that_takes_an_object_too_slowly_ends_with_the_total_time(
    server: ScriptedS3, hurried: S3Store
) -> None:
    server.next("PUT", swallow)
    with pytest.raises(StoreUnavailable, match="no whole answer within"):
        hurried.create(KEY, BODY * 32, METADATA)


def test_the_bytes_of_an_object_have_time_of_their_own(
    server: ScriptedS3, hurried: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than a call without an object may."""
    monkeypatch.setattr(S3Settings, "longest_call", 2.0)
    monkeypatch.setattr("walkeeper.store.s3.connection.SLOWEST", 256)
    monkeypatch.setattr("walkeeper.store.s3.driver.PIECE", 1024)

    def slowly(exchange: Exchange) -> None:
        exchange.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 25600\r\n\r\n")
        for _ in range(25):
            time.sleep(0.1)
            exchange.wfile.write(bytes(1024))

    server.next("GET", slowly)
    assert hurried.get(KEY) == bytes(25600)


# ----------------------------------------------------------------------------------------------- absent, or cannot tell


@EACH_CALL
def test_only_a_create_can_be_told_that_the_object_is_there(
    server: ScriptedS3, store: S3Store, operation: Any, call: Call
) -> None:
    server.always(operation, refuse(412, "PreconditionFailed"))
    with pytest.raises(AlreadyThere if operation == "PUT" else StoreUnavailable):
        call(store)


def test_a_missing_bucket_is_not_an_absent_object(server: ScriptedS3) -> None:
    store = S3Store(server.settings(bucket="another"))
    for call in (store.head, store.get):
        with pytest.raises(StoreUnavailable, match="NoSuchBucket"):
            call(KEY)


def test_an_object_that_comes_between_two_looks_is_not_absent(server: ScriptedS3, store: S3Store) -> None:
    server.objects[KEY] = Stored(BODY)
    server.next("HEAD", refuse(404, "NoSuchKey"))
    with pytest.raises(StoreUnavailable, match="not there for HEAD"):
        store.head(KEY)
    assert store.head(KEY) is not None


def test_an_absence_that_cannot_be_confirmed_is_unavailable(server: ScriptedS3, store: S3Store) -> None:
    server.next("GET", refuse(503, "SlowDown"), refuse(403, "AccessDenied"))
    with pytest.raises(StoreUnavailable):
        store.head(KEY)
    with pytest.raises(StoreDenied):
        store.head(KEY)


# ----------------------------------------------------------------------------------------------------------------- LIST


def listed(store: Store) -> list[str]:
    return [info.key for info in store.list("")]


def pages(*answers: tuple[list[str], str]) -> list[Fault]:
    return [lambda exchange, keys=keys, token=token: exchange.listing(keys, token=token) for keys, token in answers]  # type: ignore[misc]


def test_many_pages_are_one_listing(server: ScriptedS3, store: S3Store) -> None:
    server.page_size = 7
    expected = [f"k/{number:04d}" for number in range(100)]
    server.objects.update((key, Stored(b"x")) for key in expected)
    assert listed(store) == expected
    assert len(server.requests) == 15


def test_a_scrambled_page_is_put_in_order(server: ScriptedS3, store: S3Store) -> None:
    server.next("LIST", *pages((["c", "a", "b"], "1"), (["e", "d"], "")))
    assert listed(store) == ["a", "b", "c", "d", "e"]


def test_a_page_that_comes_twice_counts_once(server: ScriptedS3, store: S3Store) -> None:
    server.next("LIST", *pages((["a", "b"], "1"), (["a", "b"], "2"), (["b", "c"], "")))
    assert listed(store) == ["a", "b", "c"]


def test_an_empty_page_in_between_is_no_end(server: ScriptedS3, store: S3Store) -> None:
    server.next("LIST", *pages(([], "1"), (["a"], "2"), ([], "3"), (["b"], "")))
    assert listed(store) == ["a", "b"]


def test_pages_out_of_order_are_an_error_and_not_a_hole(server: ScriptedS3, store: S3Store) -> None:
    server.next("LIST", *pages((["c", "d"], "1"), (["a", "b"], "")))
    with pytest.raises(StoreUnavailable, match="out of order"):
        listed(store)


def test_a_listing_that_goes_round_in_circles_ends(server: ScriptedS3, store: S3Store) -> None:
    server.always("LIST", pages((["a", "b"], "same"))[0])
    with pytest.raises(StoreUnavailable, match="repeats itself"):
        listed(store)


def test_a_listing_that_brings_nothing_new_ends_even_with_new_tokens(server: ScriptedS3, store: S3Store) -> None:
    def never_ending(exchange: Exchange) -> None:
        exchange.listing(["a"], token=str(len(exchange.s3.requests)))

    server.always("LIST", never_ending)
    with pytest.raises(StoreUnavailable, match="repeats itself"):
        listed(store)
    assert len(server.requests) < 200


def test_a_listing_of_something_else_is_an_error(server: ScriptedS3) -> None:
    store = S3Store(server.settings(prefix="ours"))
    server.next("LIST", *pages((["ours/a", "theirs/b"], "")))
    with pytest.raises(StoreUnavailable, match="not asked for"):
        listed(store)


def test_a_listing_that_fails_half_way_is_an_error_and_not_an_end(server: ScriptedS3, store: S3Store) -> None:
    server.next("LIST", *pages((["a"], "1")), refuse(503, "SlowDown"))
    listing = store.list("")
    assert next(listing).key == "a"
    with pytest.raises(StoreUnavailable):
        next(listing)


def test_a_page_that_is_larger_than_any_is_not_read_to_its_end(server: ScriptedS3, store: S3Store) -> None:
    server.next("LIST", pages(([f"{number:07d}" for number in range(100_000)], ""))[0])
    with pytest.raises(StoreUnavailable, match="an answer of more than"):
        listed(store)


def test_folder_markers_of_other_tools_are_no_objects(server: ScriptedS3, store: S3Store) -> None:
    server.next("LIST", *pages((["a/", "a/b"], "")))
    assert listed(store) == ["a/b"]
