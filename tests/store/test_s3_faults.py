"""What the S3 store makes of a server that refuses, stalls, cuts or lies, besides what test_buckets has of every kind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.parts.scripted_s3 import (
    Exchange,
    Fault,
    ScriptedS3,
    Stored,
    commit_then_answer,
    deaf,
    drip,
    page,
    refuse,
)
from tests.store.calls import BODY, CALLS, EACH_CALL, KEY, METADATA, Call
from walkeeper.errors import StoreDenied, StoreUnavailable, StoreUnfit
from walkeeper.lib.units import Seconds
from walkeeper.store.base import Store
from walkeeper.store.s3.driver import S3Store
from walkeeper.store.s3.keys import S3Settings


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


# ---------------------------------------------------------------------------------------------------- outages, refusals

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


# ----------------------------------------------------------------------------------------------------------------- lies


def test_no_etag_at_all_is_fine_if_the_object_is_there(server: ScriptedS3, store: S3Store) -> None:
    server.next("PUT", commit_then_answer(200))
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


# ----------------------------------------------------------------------------------------------------------------- LIST


def listed(store: Store) -> list[str]:
    return [info.key for info in store.list("")]


def pages(*answers: tuple[list[str], str]) -> list[Fault]:
    return [lambda exchange, keys=keys, token=token: exchange.listing(keys, token=token) for keys, token in answers]  # type: ignore[misc]


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


def test_a_page_that_is_larger_than_any_is_not_read_to_its_end(server: ScriptedS3, store: S3Store) -> None:
    server.next("LIST", pages(([f"{number:07d}" for number in range(100_000)], ""))[0])
    with pytest.raises(StoreUnavailable, match="an answer of more than"):
        listed(store)


def test_folder_markers_of_other_tools_are_no_objects(server: ScriptedS3, store: S3Store) -> None:
    server.next("LIST", *pages((["a/", "a/b"], "")))
    assert listed(store) == ["a/b"]
