"""How the S3 store gets in, and what it finds out before it trusts a server: probe, credentials, TLS, settings."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.parts.scripted_s3 import Exchange, ScriptedS3, Stored, commit_then_answer, refuse
from tests.store.calls import BODY, KEY, METADATA
from tests.twins.hand_clock import HandClock
from walkeeper.archive.layout import Layout
from walkeeper.core.backup import BackupId
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import HistoryFile, Segment
from walkeeper.core.tail import Piece
from walkeeper.errors import ConfigError, StoreDenied, StoreError, StoreUnavailable, StoreUnfit, WrongSetting
from walkeeper.lib.clock import Clock, now_utc
from walkeeper.store.base import AlreadyThere
from walkeeper.store.bucket import CREDENTIALS_AGE
from walkeeper.store.s3.driver import S3Store
from walkeeper.store.s3.keys import S3Settings

CUSTOMER_KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def server() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        yield server


@pytest.fixture
def store(server: ScriptedS3) -> S3Store:
    return S3Store(server.settings())


# ------------------------------------------------------------------------------------------------------------ the probe


def test_the_probe_finds_a_store_that_overwrites(server: ScriptedS3, store: S3Store) -> None:
    server.honours_condition = False
    with pytest.raises(StoreUnfit, match="overwrites") as caught:
        store.probe()
    key, _, value = re.search(r"set (\w+: \w+)", caught.value.hint)[1].partition(": ")  # type: ignore[index]
    S3Store(server.settings(**{key: value})).probe()  # as it is printed
    assert server.objects == {}


def test_with_the_head_guard_a_store_that_overwrites_passes_and_is_sent_no_condition(server: ScriptedS3) -> None:
    server.honours_condition = False
    store = S3Store(server.settings(overwrite_guard="head"))
    store.probe()
    store.create(KEY, BODY, METADATA)
    with pytest.raises(AlreadyThere):
        store.create(KEY, b"other", METADATA)
    assert server.objects[KEY].body == BODY
    assert not any("if-none-match" in headers for headers in server.headers)


def test_with_the_head_guard_a_look_that_fails_writes_nothing(server: ScriptedS3) -> None:
    store = S3Store(server.settings(overwrite_guard="head"))
    server.next("HEAD", refuse(503, "SlowDown"))
    with pytest.raises(StoreUnavailable):
        store.create(KEY, BODY, METADATA)
    assert server.requests == [("HEAD", KEY)]


def test_the_probe_finds_a_store_that_changes_bytes(server: ScriptedS3, store: S3Store) -> None:
    server.next("GET", lambda exchange: exchange.describe(exchange.s3.objects[exchange.key], b"something else"))
    with pytest.raises(StoreUnfit, match="does not return"):
        store.probe()


def test_the_probe_finds_a_store_that_loses_metadata(server: ScriptedS3, store: S3Store) -> None:
    server.next("HEAD", lambda exchange: exchange.describe(Stored(exchange.s3.objects[exchange.key].body)))
    with pytest.raises(StoreUnfit, match="metadata"):
        store.probe()


def test_the_probe_does_not_hold_a_late_listing_against_a_store(server: ScriptedS3, store: S3Store) -> None:
    server.next("LIST", lambda exchange: exchange.listing([]))
    store.probe()


def test_the_probe_passes_where_a_proxy_sends_a_request_twice(server: ScriptedS3, store: S3Store) -> None:
    def twice(exchange: Exchange) -> None:
        exchange.commit()
        exchange.behave()

    server.next("PUT", twice)
    store.probe()


@pytest.mark.parametrize("name", ["PUT", "GET", "LIST", "HEAD"])
def test_the_probe_says_what_is_denied(server: ScriptedS3, store: S3Store, name: Any) -> None:
    server.always(name, refuse(403, "AccessDenied"))
    with pytest.raises(StoreDenied):
        store.probe()


# ---------------------------------------------------------------------------------------- encryption, and storage classes


def demands_encryption(exchange: Exchange) -> None:
    """A bucket whose policy denies a PUT without the header for its key."""
    if exchange.headers.get("x-amz-server-side-encryption-aws-kms-key-id") != "alias/wal":
        return exchange.refuse(403, "AccessDenied")
    return exchange.behave()


def test_a_bucket_that_demands_a_key_is_denied_with_a_hint_and_used_with_the_key(server: ScriptedS3) -> None:
    server.always("PUT", demands_encryption)
    with pytest.raises(StoreDenied) as caught:
        S3Store(server.settings()).probe()
    assert "kms_key_id" in caught.value.hint
    S3Store(server.settings(kms_key_id="alias/wal")).probe()
    sent = [headers for headers in server.headers if "x-amz-server-side-encryption-aws-kms-key-id" in headers]
    assert {headers["x-amz-server-side-encryption"] for headers in sent} == {"aws:kms"}


@pytest.mark.parametrize("guard", ["conditional", "head"])
def test_encryption_and_storage_class_go_with_each_put(server: ScriptedS3, guard: str) -> None:
    store = S3Store(server.settings(sse="AES256", storage_class="STANDARD_IA", overwrite_guard=guard))
    store.create(KEY, BODY, METADATA)
    assert server.objects[KEY].body == BODY
    sent = server.headers[-1]
    assert (sent["x-amz-server-side-encryption"], sent["x-amz-storage-class"]) == ("AES256", "STANDARD_IA")


def test_a_key_of_ones_own_goes_with_all_that_writes_or_reads_an_object_and_with_nothing_else(
    server: ScriptedS3,
) -> None:
    store = S3Store(server.settings(sse_customer_key=CUSTOMER_KEY))
    store.create(KEY, BODY, METADATA)
    store.head(KEY)
    assert store.get(KEY) is not None
    list(store.list("a/"))
    store.delete(KEY)
    header = "x-amz-server-side-encryption-customer-key"
    sent = {
        (operation, headers.get(header))
        for (operation, _), headers in zip(server.requests, server.headers, strict=True)
    }
    assert sent == {
        ("PUT", CUSTOMER_KEY), ("HEAD", CUSTOMER_KEY), ("GET", CUSTOMER_KEY), ("LIST", None), ("DELETE", None),
    }  # fmt: skip


def test_an_object_that_another_key_opens_is_denied_with_a_hint(server: ScriptedS3) -> None:
    store = S3Store(server.settings(sse_customer_key=CUSTOMER_KEY))
    for answer in (refuse(400, "InvalidRequest"), refuse(403, "AccessDenied")):
        server.always("GET", answer)
        with pytest.raises(StoreDenied) as caught:
            store.get(KEY)
        assert "sse" in caught.value.hint


def test_who_asks_pays_for_each_request_where_that_is_configured(server: ScriptedS3, store: S3Store) -> None:
    for paying in (S3Store(server.settings(request_payer=True)), store):
        server.headers.clear()
        paying.create(KEY, BODY, METADATA)
        paying.head(KEY)
        paying.get(KEY)
        list(paying.list("a/"))
        paying.delete(KEY)
        assert {headers.get("x-amz-request-payer") for headers in server.headers} == {
            None if paying is store else "requester"
        }


def test_a_lock_goes_with_what_stays_and_with_nothing_that_walkeeper_deletes_in_its_daily_work(
    server: ScriptedS3,
) -> None:
    store = S3Store(server.settings(prefix="ours", object_lock_days=30, object_lock_mode="COMPLIANCE"))
    layout = Layout("demo", 3, 7300000000000000001)
    size = SegmentSize(1 << 20)
    id_ = BackupId("20261129T020000Z", 1, "00000001")
    stay = [
        layout.file(Segment(1, 3, size), ".zst"), layout.file(HistoryFile(2), ""), layout.start(Segment(1, 3, size)),
        layout.gap(Segment(1, 3, size), Lsn(4 << 20)), layout.backup_json(id_), layout.backup_piece(id_, "0f" * 32, ".zst"),
        layout.backup_document(id_, "index", "0f" * 32, ".zst"), layout.floor(1), layout.retained(id_, 1),
        layout.proof("2026-11-29T02:00:00Z", id_),
    ]  # fmt: skip
    go = [
        layout.piece(Segment(1, 3, size).name, Piece(0, 256, "0f" * 32), ".zst"), layout.life("0f" * 8, 1), layout.pin("x"),
        "probe/0f",
    ]  # fmt: skip
    for key in (*stay, *go):
        store.create(key, b"x", {})
    locked = {
        name.removeprefix("ours/"): headers
        for (_, name), headers in zip(server.requests, server.headers, strict=True)
        if "x-amz-object-lock-mode" in headers
    }
    assert set(locked) == set(stay)
    assert {headers["x-amz-object-lock-mode"] for headers in locked.values()} == {"COMPLIANCE"}
    until = datetime.fromisoformat(locked[stay[0]]["x-amz-object-lock-retain-until-date"])
    assert timedelta(days=29, hours=23) < until - now_utc() <= timedelta(days=30)


def test_a_lock_that_the_bucket_does_not_have_is_refused_with_a_hint(server: ScriptedS3) -> None:
    store = S3Store(server.settings(object_lock_days=30))
    server.always("PUT", refuse(400, "InvalidRequest"))
    with pytest.raises(StoreDenied) as caught:
        store.create(KEY, BODY, METADATA)
    assert "object_lock_days" in caught.value.hint


def test_nothing_of_that_is_sent_where_nothing_is_configured(server: ScriptedS3, store: S3Store) -> None:
    store.create(KEY, BODY, METADATA)
    odd = ("encryption", "storage-class", "object-lock")
    assert not [name for name in server.headers[0] if any(word in name for word in odd)]


def test_an_object_whose_etag_is_not_its_md5_because_it_is_encrypted_is_looked_at(server: ScriptedS3) -> None:
    server.next("PUT", commit_then_answer(200, ETag='"of-the-cipher-text"'))
    S3Store(server.settings(sse="aws:kms")).create(KEY, BODY, METADATA)
    assert server.requests == [("PUT", KEY), ("HEAD", KEY)]


# ------------------------------------------------------------------------------------------------------------- the way there


def test_a_proxy_of_the_environment_is_used_but_for_what_is_named(
    server: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server stands for the proxy: nothing else knows that name."""
    monkeypatch.setenv("http_proxy", server.endpoint)
    monkeypatch.setenv("no_proxy", "other.invalid")
    settings = server.settings(endpoint="http://store.invalid", path_style=True)
    S3Store(settings).create(KEY, BODY, METADATA)
    assert server.objects[KEY].body == BODY
    monkeypatch.setenv("no_proxy", "store.invalid")
    with pytest.raises(StoreUnavailable, match=r"store\.invalid"):
        S3Store(settings).get(KEY)


def test_an_endpoint_may_have_an_address_of_ipv6() -> None:
    settings = replace(ScriptedS3.settings_of(1), endpoint="http://[::1]:9000").checked()
    assert settings.endpoint == "http://[::1]:9000"
    with pytest.raises(StoreUnavailable, match=r"::1"):
        S3Store(replace(settings, endpoint="http://[::1]:9")).get(KEY)


# ---------------------------------------------------------------------------------------------------------- credentials


def write_credentials(path: Path, key: str, profile: str = "default") -> None:
    path.write_text(f"[{profile}]\naws_access_key_id = {key}\naws_secret_access_key = a-secret-of-the-tests\n")


def from_file(server: ScriptedS3, path: Path, **other: Any) -> S3Settings:
    return server.settings(access_key_id=None, secret_access_key=None, credentials_file=path, **other)


def test_credentials_that_were_rotated_are_picked_up_without_a_restart(server: ScriptedS3, tmp_path: Path) -> None:
    clock, path = HandClock(), tmp_path / "credentials"
    write_credentials(path, "first-key")
    store = S3Store(from_file(server, path), clock)
    store.create("before", b"", {})
    server.accepted_key = "second-key"
    clock.now += CREDENTIALS_AGE
    with pytest.raises(StoreDenied):
        store.create("during", b"", {})
    write_credentials(path, "second-key")
    store.create("after", b"", {})
    assert set(server.objects) == {"before", "after"}


def test_a_secret_that_was_changed_in_its_file_is_picked_up_without_a_restart(
    server: ScriptedS3, tmp_path: Path
) -> None:
    clock, path = HandClock(), tmp_path / "secret"
    path.write_text("the old one\n")
    settings = replace(
        from_file(server, path), credentials_file=None, access_key_id="key", secret_access_key_file=path,
        secret_access_key="the old one",
    )  # fmt: skip
    store = S3Store(settings, clock)
    server.accepted_key = "another"
    with pytest.raises(StoreDenied):
        store.create("before", b"", {})
    for unusable in (lambda: path.write_text("two\nlines\n"), path.unlink):
        unusable()
        assert settings.with_secret_again() == settings
    path.write_text("the new one\n")
    server.accepted_key = "key"
    clock.now += CREDENTIALS_AGE
    store.create("after", b"", {})
    assert store._settings.secret_access_key == "the new one"


def test_while_it_is_denied_credentials_are_not_read_at_every_call(server: ScriptedS3, tmp_path: Path) -> None:
    clock, path = HandClock(), tmp_path / "credentials"
    write_credentials(path, "first-key")
    server.accepted_key = "second-key"
    store = S3Store(from_file(server, path), clock)
    with pytest.raises(StoreDenied):
        store.head(KEY)
    write_credentials(path, "second-key")
    with pytest.raises(StoreDenied):
        store.head(KEY)
    clock.now += CREDENTIALS_AGE
    assert store.head(KEY) is None


def test_a_credentials_file_goes_before_the_environment(
    server: ScriptedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "whatever")
    path = tmp_path / "credentials"
    write_credentials(path, "first-key")
    assert S3Store(from_file(server, path)).head(KEY) is None


def test_a_profile_of_a_credentials_file_is_used(server: ScriptedS3, tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    write_credentials(path, "first-key", profile="backup")
    assert S3Store(from_file(server, path, profile="backup")).head(KEY) is None
    with pytest.raises(StoreDenied):
        S3Store(from_file(server, path, profile="another")).head(KEY)


@pytest.mark.parametrize(
    "content", [None, "", "[default]\n", "not an ini file", "[default]\naws_access_key_id = half\n"]
)
def test_a_credentials_file_without_credentials_is_denied_until_it_has_some(
    server: ScriptedS3, tmp_path: Path, content: str | None
) -> None:
    clock: Clock = HandClock()
    path = tmp_path / "credentials"
    if content is not None:
        path.write_text(content)
    store = S3Store(from_file(server, path), clock)
    with pytest.raises(StoreDenied) as caught:
        store.head(KEY)
    assert caught.value.hint
    clock.sleep(CREDENTIALS_AGE)
    write_credentials(path, "first-key")
    assert store.head(KEY) is None


def test_no_credentials_anywhere_is_denied(server: ScriptedS3) -> None:
    store = S3Store(server.settings(access_key_id=None, secret_access_key=None))
    with pytest.raises(StoreDenied, match="credentials"):
        store.create(KEY, BODY, METADATA)


# ------------------------------------------------------------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1")


def make_certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl program here to make a certificate with")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=walkeeper test"]
    subprocess.run(
        [*command, "-days", "2", "-addext", f"subjectAltName={name}", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_a_certificate_of_a_named_authority_is_trusted(certificate: tuple[Path, Path]) -> None:
    with ScriptedS3(certificate=certificate) as server:
        store = S3Store(server.settings(ca_file=certificate[0]))
        store.create(KEY, BODY, METADATA)
        assert store.get(KEY) == BODY


def test_a_certificate_of_nobody_we_know_is_refused_with_a_hint(certificate: tuple[Path, Path]) -> None:
    with ScriptedS3(certificate=certificate) as server:
        store = S3Store(server.settings())
        for call in (store.head, store.get, store.delete, lambda key: store.create(key, BODY, METADATA)):
            with pytest.raises(StoreDenied) as caught:
                call(KEY)
            assert "ca_file" in caught.value.hint
        assert server.requests == []


def test_a_certificate_of_another_host_is_refused(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "DNS:elsewhere.example")
    with ScriptedS3(certificate=certificate) as server:
        with pytest.raises(StoreDenied):
            S3Store(server.settings(ca_file=certificate[0])).head(KEY)
        assert server.requests == []


def test_a_server_without_tls_where_tls_is_expected_is_no_reason_to_go_without(server: ScriptedS3) -> None:
    endpoint = server.endpoint.replace("http://", "https://")
    with pytest.raises(StoreError):
        S3Store(server.settings(endpoint=endpoint)).head(KEY)
    assert server.requests == []


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_cannot_be_used_is_denied(server: ScriptedS3, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StoreDenied, match=r"ca\.pem"):
        S3Store(server.settings(ca_file=path)).head(KEY)


# ------------------------------------------------------------------------------------------------------------- settings


def test_settings_never_show_a_secret() -> None:
    settings = S3Settings(
        bucket="wal", access_key_id="id", secret_access_key="very secret", session_token="very secret too"
    )
    assert "very secret" not in repr(settings)
    assert "very secret" not in repr(S3Store(settings))


@pytest.mark.parametrize(
    "wrong",
    [
        {"bucket": ""},
        {"bucket": "a/b"},
        {"prefix": "a/../b"},
        {"endpoint": "s3.example.com"},
        {"access_key_id": None},
        {"secret_access_key": None},
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        S3Store(replace(ScriptedS3.settings_of(1), **wrong))


def test_a_bucket_name_that_s3_cannot_have_is_a_configuration_error(server: ScriptedS3) -> None:
    with pytest.raises(ConfigError, match="bucket"):
        S3Store(server.settings(bucket="no spaces please")).head(KEY)


@pytest.mark.parametrize(
    ("copied", "write"),
    [
        ("s3://our-wal", "Write bucket: our-wal."),
        ("s3://our-wal/a/b/", "Write bucket: our-wal, prefix: a/b."),
        ("our-wal/a", "Write bucket: our-wal, prefix: a."),
        ("arn:aws:s3:::our-wal", "Write bucket: our-wal."),
        ("arn:aws:s3:::our-wal/a/b", "Write bucket: our-wal, prefix: a/b."),
        ("arn:aws:s3:eu-west-1:123456789012:accesspoint/wal", "Write the alias of the access point"),
        ("https://our-wal.s3.eu-west-1.amazonaws.com/a", "Write bucket: our-wal, prefix: a, region: eu-west-1."),
        ("https://our.wal.s3.amazonaws.com", "Write bucket: our.wal."),
        ("https://s3.eu-west-1.amazonaws.com/our-wal/a", "Write bucket: our-wal, prefix: a, region: eu-west-1."),
        (
            "http://minio:9000/our-wal/a",
            "Write bucket: our-wal, prefix: a, endpoint: http://minio:9000, path_style: true.",
        ),
        ("https://minio", "Name the bucket"),
        ("a bucket", "It is the bucket's name"),
    ],
)
def test_a_bucket_copied_from_another_tool_is_told_what_to_write(copied: str, write: str) -> None:
    with pytest.raises(WrongSetting) as caught:
        S3Settings(bucket=copied).checked()
    assert caught.value.key == "bucket"
    assert caught.value.hint.startswith(write)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"sse": "AES256", "kms_key_id": "alias/wal"}, "kms_key_id"),
        ({"kms_key_id": "a key"}, "kms_key_id"),
        ({"storage_class": "cold"}, "storage_class"),
        ({"sse_customer_key": "c2hvcnQ="}, "sse_customer_key"),
        ({"sse_customer_key": "no base64"}, "sse_customer_key"),
        ({"sse_customer_key": CUSTOMER_KEY, "sse": "AES256"}, "sse_customer_key"),
        ({"storage_class": "DEEP_ARCHIVE"}, "storage_class"),
    ],
)
def test_what_goes_with_a_put_and_cannot_work_is_refused(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(WrongSetting) as caught:
        replace(ScriptedS3.settings_of(1), **wrong).checked()
    assert (caught.value.key, bool(caught.value.hint)) == (key, True)


def test_the_url_shows_bucket_and_prefix() -> None:
    settings = ScriptedS3.settings_of(1)
    assert S3Store(settings).url == "s3://wal"
    assert S3Store(replace(settings, prefix="/a//b/")).url == "s3://wal/a/b"
