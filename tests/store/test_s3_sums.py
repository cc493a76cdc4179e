"""By which sum a store is asked to check what it stores: SHA-256 where the probe saw that it does, and else MD5."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.parts.scripted_s3 import (
    SHA256,
    Exchange,
    Fault,
    ScriptedS3,
    Stored,
    commit_then_answer,
    commit_then_reset,
    refuse,
    reset_at,
    say_yes,
)
from tests.parts.seaweedfs import SeaweedFS
from tests.store.calls import BODY, KEY
from tests.store.test_s3_access import from_file, make_certificate, write_credentials
from tests.twins.hand_clock import HandClock
from walkeeper.archive.stated import stated
from walkeeper.errors import ChangedOnTheWay, StoreDenied, StoreUnavailable
from walkeeper.store.base import AlreadyThere
from walkeeper.store.bucket import CREDENTIALS_AGE
from walkeeper.store.s3.driver import S3Store

METADATA = stated("0f" * 32, 16777216, BODY)
SUM = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
NO_MD5 = '"of-the-cipher-text"'


@pytest.fixture
def server() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        yield server


@pytest.fixture
def checking(server: ScriptedS3) -> S3Store:
    """A store that was seen to check SHA-256. What was asked for that is forgotten."""
    server.knows_sha256 = True
    store = S3Store(server.settings())
    store.probe()
    server.requests.clear()
    server.headers.clear()
    return store


def sums(server: ScriptedS3) -> list[tuple[bool, bool]]:
    """Of each PUT: whether it had an MD5, and whether it had a SHA-256."""
    return [
        ("content-md5" in headers, SHA256 in headers)
        for (operation, _), headers in zip(server.requests, server.headers, strict=True)
        if operation == "PUT"
    ]


ONLY_MD5 = (True, False)
ONLY_SHA256 = (False, True)


# ------------------------------------------------------------------------------------------------------ what a store shows


def test_a_store_that_was_not_probed_is_sent_an_md5(server: ScriptedS3) -> None:
    server.knows_sha256 = True
    S3Store(server.settings()).create(KEY, BODY, METADATA)
    assert sums(server) == [ONLY_MD5]


def test_a_store_that_checks_is_sent_the_sum_of_the_metadata_and_no_md5(server: ScriptedS3, checking: S3Store) -> None:
    checking.create(KEY, BODY, METADATA)
    assert server.requests == [("PUT", KEY)]
    assert sums(server) == [ONLY_SHA256]
    assert server.headers[0][SHA256] == SUM
    assert server.headers[0]["if-none-match"] == "*"
    assert server.objects == {KEY: Stored(BODY, METADATA)}


def test_where_the_metadata_state_no_sum_it_is_made(server: ScriptedS3, checking: S3Store) -> None:
    checking.create(KEY, BODY, {"format": "1"})
    assert server.headers[0][SHA256] == SUM


def test_an_encrypting_bucket_that_checks_is_not_asked_again(server: ScriptedS3, checking: S3Store) -> None:
    server.next("PUT", commit_then_answer(200, ETag=NO_MD5, **{SHA256: SUM}))
    checking.create(KEY, BODY, METADATA)
    assert server.requests == [("PUT", KEY)]


def test_two_stores_are_two_questions(server: ScriptedS3, checking: S3Store) -> None:
    with ScriptedS3() as other:
        beside = S3Store(other.settings())
        beside.probe()
        other.requests.clear()
        other.headers.clear()
        beside.create(KEY, BODY, METADATA)
        checking.create(KEY, BODY, METADATA)
        assert (sums(other), sums(server)) == ([ONLY_MD5], [ONLY_SHA256])


def repeats(exchange: Exchange) -> None:
    """State whatever was said, and check nothing."""
    exchange.commit()
    said = {SHA256: exchange.headers[SHA256]} if SHA256 in exchange.headers else {}
    exchange.answer(200, headers={"ETag": f'"{Stored(exchange.whole_body()).etag}"', **said})


def with_sha256(fault: Fault) -> Fault:
    """What a store does that knows no such header; the rest is in order."""
    return lambda exchange: fault(exchange) if SHA256 in exchange.headers else exchange.behave()


def refuses_all_sums(exchange: Exchange) -> None:
    exchange.refuse(400, "BadDigest")


def checks_in_silence(exchange: Exchange) -> None:
    """Refuse what is wrong, and state nothing."""
    if exchange.headers[SHA256] != base64.b64encode(hashlib.sha256(exchange.whole_body()).digest()).decode():
        return exchange.refuse(400, "BadDigest")
    return exchange.behave()


DOUBTFUL: dict[str, Fault] = {
    "ignores it": Exchange.behave,
    "checks it and does not state it": checks_in_silence,
    "repeats it": repeats,
    "does not support it": refuse(400, "InvalidArgument"),
    "has not implemented it": refuse(501, "NotImplemented"),
    "signs without it": refuse(403, "SignatureDoesNotMatch"),
    "denies it": refuse(403, "AccessDenied"),
    "fails over it": refuse(500, "InternalError"),
    "calls each sum wrong": refuses_all_sums,
    "cuts the connection": reset_at(0),
}


@pytest.mark.parametrize("fault", DOUBTFUL.values(), ids=DOUBTFUL.keys())
def test_a_store_that_does_not_check_passes_the_probe_and_is_sent_an_md5(server: ScriptedS3, fault: Fault) -> None:
    store = S3Store(server.settings())
    server.always("PUT", with_sha256(fault))
    store.probe()
    assert server.objects == {}
    server.requests.clear()
    server.headers.clear()
    store.create(KEY, BODY, METADATA)
    assert sums(server) == [ONLY_MD5]
    assert server.objects == {KEY: Stored(BODY, METADATA)}


# ------------------------------------------------------------------------------------------- what was seen holds no longer


def test_an_answer_without_the_sum_is_held_against_the_md5_and_later_ones_are_sent_it(
    server: ScriptedS3, checking: S3Store
) -> None:
    server.knows_sha256 = False
    checking.create(KEY, BODY, METADATA)
    checking.create("another", BODY, METADATA)
    assert server.requests == [("PUT", KEY), ("PUT", "another")]
    assert sums(server) == [ONLY_SHA256, ONLY_MD5]


@pytest.mark.parametrize("said", [{}, {SHA256: base64.b64encode(bytes(32)).decode()}])
def test_an_answer_that_neither_sum_confirms_is_looked_at(
    server: ScriptedS3, checking: S3Store, said: dict[str, str]
) -> None:
    server.next("PUT", commit_then_answer(200, ETag=NO_MD5, **said))
    checking.create(KEY, BODY, METADATA)
    checking.create("another", BODY, METADATA)
    assert server.requests == [("PUT", KEY), ("HEAD", KEY), ("PUT", "another")]
    assert sums(server) == [ONLY_SHA256, ONLY_MD5]


def test_a_yes_without_an_object_is_not_durable(server: ScriptedS3, checking: S3Store) -> None:
    server.next("PUT", say_yes)
    with pytest.raises(StoreUnavailable, match="not durable"):
        checking.create(KEY, BODY, METADATA)


@pytest.mark.parametrize(
    "refusal",
    [
        refuse(400, "InvalidArgument"),
        refuse(400, "InvalidRequest"),
        refuse(501, "NotImplemented"),
        refuse(403, "SignatureDoesNotMatch"),
    ],
)
def test_what_refuses_the_sum_since_then_is_sent_an_md5_at_once(
    server: ScriptedS3, checking: S3Store, refusal: Fault
) -> None:
    server.always("PUT", with_sha256(refusal))
    checking.create(KEY, BODY, METADATA)
    checking.create("another", BODY, METADATA)
    assert sums(server) == [ONLY_SHA256, ONLY_MD5, ONLY_MD5]
    assert server.objects.keys() == {KEY, "another"}


def test_what_denies_everything_says_nothing_of_the_sum(server: ScriptedS3, checking: S3Store) -> None:
    server.always("PUT", refuse(403, "AccessDenied"))
    with pytest.raises(StoreDenied):
        checking.create(KEY, BODY, METADATA)
    server.always("PUT", None)
    checking.create(KEY, BODY, METADATA)
    assert sums(server)[-1] == ONLY_SHA256


@pytest.mark.parametrize("header", [False, True], ids=["credentials", "header"])
def test_credentials_that_are_read_again_are_tried_with_the_sum_before_it_is_given_up(
    server: ScriptedS3, tmp_path: Path, *, header: bool
) -> None:
    server.knows_sha256 = True
    clock, path = HandClock(), tmp_path / "credentials"
    write_credentials(path, "first-key")
    store = S3Store(from_file(server, path), clock)
    store.probe()
    server.headers.clear()
    server.requests.clear()
    clock.now += CREDENTIALS_AGE
    if header:
        server.always("PUT", with_sha256(refuse(403, "SignatureDoesNotMatch")))
    else:
        write_credentials(path, "second-key")
        server.accepted_key = "second-key"
    store.create(KEY, BODY, METADATA)
    store.create("another", BODY, METADATA)
    assert sums(server) == [ONLY_SHA256, ONLY_SHA256, *([ONLY_MD5, ONLY_MD5] if header else [ONLY_SHA256])]


def test_a_put_from_before_the_probe_says_nothing_of_the_sum(server: ScriptedS3) -> None:
    server.knows_sha256 = True
    store = S3Store(server.settings())

    def probe_meanwhile(exchange: Exchange) -> None:
        store.probe()
        exchange.behave()

    server.next("PUT", probe_meanwhile)
    store.create("before", BODY, METADATA)
    store.create(KEY, BODY, METADATA)
    assert sums(server)[-1] == ONLY_SHA256


@pytest.mark.parametrize("outage", [refuse(503, "SlowDown"), reset_at(1000)], ids=["busy", "reset"])
def test_an_outage_says_nothing_of_the_sum(server: ScriptedS3, checking: S3Store, outage: Fault) -> None:
    server.next("PUT", outage)
    with pytest.raises(StoreUnavailable):
        checking.create(KEY, BODY, METADATA)
    checking.create(KEY, BODY, METADATA)
    assert sums(server) == [ONLY_SHA256, ONLY_SHA256]


def test_bytes_that_change_on_their_way_are_refused_and_not_sent_again_with_a_sum_of_their_own(
    server: ScriptedS3, checking: S3Store
) -> None:
    with pytest.raises(ChangedOnTheWay, match="BadDigest"):
        checking.create(KEY, b"x" + BODY[1:], METADATA)
    assert server.requests == [("PUT", KEY)]
    assert server.objects == {}


def test_an_object_whose_answer_was_lost_is_already_there(server: ScriptedS3, checking: S3Store) -> None:
    server.next("PUT", commit_then_reset)
    with pytest.raises(StoreUnavailable):
        checking.create(KEY, BODY, METADATA)
    with pytest.raises(AlreadyThere):
        checking.create(KEY, BODY, METADATA)


def test_what_was_stored_and_answered_with_a_refusal_is_already_there(server: ScriptedS3, checking: S3Store) -> None:
    server.next("PUT", commit_then_answer(403))
    with pytest.raises(AlreadyThere):
        checking.create(KEY, BODY, METADATA)
    assert server.objects == {KEY: Stored(BODY, METADATA)}


# ------------------------------------------------------------------------------------------------------------ around it


def test_with_the_head_guard_it_is_the_same_without_a_condition(server: ScriptedS3) -> None:
    server.knows_sha256, server.honours_condition = True, False
    store = S3Store(server.settings(overwrite_guard="head"))
    store.probe()
    store.create(KEY, BODY, METADATA)
    with pytest.raises(AlreadyThere):
        store.create(KEY, b"other", {})
    assert server.objects == {KEY: Stored(BODY, METADATA)}
    assert sums(server)[-1] == ONLY_SHA256
    assert not any("if-none-match" in headers for headers in server.headers)


def test_a_lock_goes_with_the_sum(server: ScriptedS3) -> None:
    """A bucket with object lock demands one of the two."""
    server.knows_sha256 = True
    store = S3Store(server.settings(object_lock_days=30))
    store.probe()
    store.create(KEY, BODY, METADATA)
    assert sums(server)[-1] == ONLY_SHA256
    assert "x-amz-object-lock-mode" in server.headers[-1]


def test_a_redirect_that_names_the_region_is_followed_with_the_sum(server: ScriptedS3, checking: S3Store) -> None:
    server.next("PUT", refuse(301, "PermanentRedirect", X_Amz_Bucket_Region="eu-central-1"))
    checking.create(KEY, BODY, METADATA)
    assert sums(server) == [ONLY_SHA256, ONLY_SHA256]
    assert "/eu-central-1/s3/" in server.headers[1]["authorization"]


@pytest.mark.parametrize("knows", [True, False])
def test_over_tls_no_second_sum_of_the_body_is_made_for_the_signature(tmp_path: Path, *, knows: bool) -> None:
    """In clear it is: nothing else keeps the bytes from being changed."""
    certificate = make_certificate(tmp_path, "IP:127.0.0.1")
    with ScriptedS3(certificate=certificate) as server, ScriptedS3() as clear:
        server.knows_sha256 = clear.knows_sha256 = knows
        for store in (S3Store(server.settings(ca_file=certificate[0])), S3Store(clear.settings())):
            store.probe()
            store.create(KEY, BODY, METADATA)
        assert sums(server)[-1] == sums(clear)[-1] == (ONLY_SHA256 if knows else ONLY_MD5)
        assert "x-amz-checksum-sha256" in server.headers[-1]["authorization"] or not knows
        signed = [each.headers[-1]["x-amz-content-sha256"] for each in (server, clear)]
        assert signed == ["UNSIGNED-PAYLOAD", hashlib.sha256(BODY).hexdigest()]


@pytest.mark.s3
def test_a_real_server_checks_what_the_metadata_state() -> None:
    with SeaweedFS(https=True) as server:
        tls = {"endpoint": f"https://127.0.0.1:{server.https_port}", "ca_file": server.certificate}
        for settings in (server.settings(prefix="clear"), replace(server.settings(prefix="tls"), **tls)):
            store = S3Store(settings)
            store.create(KEY, BODY[1:], METADATA)  # nobody looks
            store.delete(KEY)
            store.probe()
            with pytest.raises(ChangedOnTheWay):
                store.create(KEY, BODY[1:], METADATA)
            assert store.get(KEY) is None
            store.create(KEY, BODY, METADATA)
            found = store.get(KEY)
            assert (found, found and found.metadata) == (BODY, METADATA)
