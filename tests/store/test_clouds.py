"""What only the stores of Google and Azure make of their servers, besides what test_buckets has of every kind; how they get in."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from msgspec.structs import replace

from tests.parts.processes import CHECKOUT
from tests.parts.scripted_clouds import CLOUDS, ScriptedAzure, ScriptedCloud, ScriptedGcs
from tests.parts.scripted_s3 import (
    Exchange,
    Stored,
    deaf,
    page,
    refuse,
)
from tests.store.calls import BODY, EACH_CALL, KEY, METADATA, Call
from tests.twins.hand_clock import HandClock
from walkeeper.errors import ConfigError, StoreDenied, StoreUnavailable, StoreUnfit, WrongSetting
from walkeeper.lib.units import Seconds
from walkeeper.store.base import SLOWEST, AlreadyThere, Body
from walkeeper.store.bucket import CREDENTIALS_AGE
from walkeeper.store.clouds.answers import read, store_error
from walkeeper.store.clouds.driver import CloudStore
from walkeeper.store.clouds.keys import LIBRARY, AzureSettings, GcsSettings

DATED = "Last-Modified: Sat, 28 Nov 2026 12:00:00 GMT\r\nETag: x\r\n"

TOKEN = "Generic GCS error: Error performing token request: Error performing GET http://metadata/token"


@pytest.fixture(params=CLOUDS)
def server(request: pytest.FixtureRequest) -> Iterator[ScriptedCloud]:
    with CLOUDS[request.param]() as server:
        yield server


@pytest.fixture
def azure() -> Iterator[ScriptedAzure]:
    with ScriptedAzure() as server:
        yield server


@pytest.fixture
def gcs() -> Iterator[ScriptedGcs]:
    with ScriptedGcs() as server:
        yield server


@pytest.fixture
def account(tmp_path: Path) -> Path:
    return tmp_path / "account.json"


@pytest.fixture
def store(server: ScriptedCloud, account: Path) -> CloudStore:
    return CloudStore(server.cloud(account))


@pytest.fixture
def hurried(gcs: ScriptedGcs, account: Path, monkeypatch: pytest.MonkeyPatch) -> CloudStore:
    """A fifth of a second for a call, and nothing for the bytes of an object."""
    monkeypatch.setattr("walkeeper.store.clouds.driver.SLOWEST", 1024**3)
    return CloudStore(gcs.cloud(account, timeout=Seconds(0.2)))


# ---------------------------------------------------------------------------------------------------------- the request


def test_a_segment_is_one_conditional_put_whose_bytes_google_confirms(gcs: ScriptedGcs, account: Path) -> None:
    CloudStore(gcs.cloud(account)).create(KEY, BODY, METADATA)
    assert gcs.requests == [("PUT", KEY)]
    assert gcs.headers[0]["x-goog-if-generation-match"] == "0"
    assert gcs.objects[KEY] == Stored(BODY, METADATA)


def test_azure_confirms_size_and_metadata_under_names_that_it_can_have(azure: ScriptedAzure, account: Path) -> None:
    CloudStore(azure.cloud(account)).create(KEY, BODY, METADATA)
    assert azure.requests == [("PUT", KEY), ("HEAD", KEY)]
    assert azure.headers[0]["if-none-match"] == "*"
    assert azure.objects[KEY].metadata == {"sha256": "0f" * 32, "packed_size": "16777216"}


# ---------------------------------------------------------------------------------------------------- outages, refusals


@EACH_CALL
def test_what_somebody_must_fix_is_denied_with_a_hint(
    server: ScriptedCloud, store: CloudStore, operation: Any, call: Call
) -> None:
    for status, code in [(403, "AccessDenied"), (401, "AuthenticationRequired"), (403, "AuthenticationFailed")]:
        server.always(operation, refuse(status, code))
        with pytest.raises(StoreDenied) as caught:
            call(store)
        assert "restart" in caught.value.hint


@EACH_CALL
def test_a_deaf_server_is_unavailable_when_the_time_is_over(
    gcs: ScriptedGcs, hurried: CloudStore, operation: Any, call: Call
) -> None:
    gcs.always(operation, deaf)
    with pytest.raises(StoreUnavailable, match="no whole answer within"):
        call(hurried)


def test_a_body_that_stalls_does_not_have_the_time_that_its_first_bytes_earned(
    gcs: ScriptedGcs, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("walkeeper.store.clouds.driver.SLOWEST", 1024)

    def stall(exchange: Exchange) -> None:
        exchange.wfile.write(f"HTTP/1.1 200 OK\r\n{DATED}Content-Length: 9999999\r\n\r\n".encode() + BODY * 3)
        deaf(exchange)

    gcs.next("GET", stall)
    with pytest.raises(StoreUnavailable, match="no whole answer within"):
        CloudStore(gcs.cloud(account, timeout=Seconds(0.5))).get(KEY)


def test_the_bytes_of_an_object_have_time_of_their_own(
    gcs: ScriptedGcs, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earned: list[float] = []

    class Noted:
        def extend(self, seconds: float) -> None:
            earned.append(seconds)

    def call(request: Callable[[Noted], Any], seconds: float) -> Any:
        async def within() -> Any:
            return await request(Noted())

        earned.append(seconds)
        return asyncio.run(within())

    store = CloudStore(gcs.cloud(account))
    monkeypatch.setattr("walkeeper.store.clouds.driver._calls", SimpleNamespace(call=call))
    store.create(KEY, BODY, METADATA)
    assert store.get(KEY) == BODY
    assert sum(earned) == 2 * (60 + len(BODY) / SLOWEST)


@pytest.mark.parametrize(("status", "code"), [(400, "AccountRequiresHttps"), (409, "BlobArchived")])
def test_what_a_person_can_change_is_not_said_to_pass(
    server: ScriptedCloud, store: CloudStore, status: int, code: str
) -> None:
    server.next("GET", refuse(status, code), refuse(503, "ServerBusy"))
    for hint in ("settings", "Nothing has to be changed"):
        with pytest.raises(StoreUnavailable) as caught:
            store.get(KEY)
        assert hint in caught.value.hint


def test_what_a_policy_keeps_is_denied(azure: ScriptedAzure, account: Path) -> None:
    """As for ``expire``, which leaves it."""
    reason = "This operation is not permitted as the blob is immutable due to a policy."

    def retain(exchange: Exchange) -> None:
        said = (
            f"--b\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\nHTTP/1.1 409 {reason}\r\n\r\n\r\n--b--\r\n"
        )
        exchange.answer(202, said.encode(), {"Content-Type": "multipart/mixed; boundary=b"})

    store = CloudStore(azure.cloud(account))
    azure.next("DELETE", retain)
    with pytest.raises(StoreDenied, match="immutable"):
        store.delete(KEY)
    azure.always("PUT", refuse(409, "BlobImmutableDueToPolicy"))
    with pytest.raises(StoreDenied):
        store.create(KEY, BODY, METADATA)
    azure.objects[KEY] = Stored(b"the first", {})
    with pytest.raises(AlreadyThere):
        store.create(KEY, BODY, METADATA)


# ----------------------------------------------------------------------------------------------- there, or cannot tell


def test_a_refusal_to_overwrite_is_already_there_only_if_the_object_is(
    server: ScriptedCloud, store: CloudStore
) -> None:
    """As of a token that may create and not write: the right is looked at before the condition."""
    server.always("PUT", refuse(403, "UnauthorizedBlobOverwrite"))
    with pytest.raises(StoreDenied):
        store.create(KEY, BODY, METADATA)
    server.objects[KEY] = Stored(b"the first", {})
    with pytest.raises(AlreadyThere):
        store.create(KEY, BODY, METADATA)
    server.always("HEAD", refuse(503, "ServerBusy"))
    with pytest.raises(StoreDenied):
        store.create(KEY, BODY, METADATA)


@pytest.mark.parametrize(("status", "code"), [(409, "SnapshotsPresent"), (412, "LeaseIdMissing"), (412, "")])
def test_a_conflict_of_another_kind_does_not_say_that_the_object_is_there(
    server: ScriptedCloud, store: CloudStore, status: int, code: str
) -> None:
    server.next("PUT", refuse(status, code))
    with pytest.raises(StoreUnavailable, match=f"{status} {code}"):
        store.create(KEY, BODY, METADATA)


def test_a_condition_that_was_not_met_says_that_the_object_is_there(server: ScriptedCloud, store: CloudStore) -> None:
    for status, code in [(409, "BlobAlreadyExists"), (412, "ConditionNotMet"), (412, "PreconditionFailed")]:
        server.next("PUT", refuse(status, code))
        with pytest.raises(AlreadyThere):
            store.create(KEY, BODY, METADATA)


# ----------------------------------------------------------------------------------------------------------------- lies


def test_an_object_is_never_held_more_than_twice(store: CloudStore, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [0]

    class Piece(bytes):
        def __del__(self) -> None:
            kept[0] -= 1

    async def stream(**_: object) -> AsyncIterator[bytes]:
        for _number in range(8):
            kept[0] += 1
            yield Piece(b"piece")

    async def get(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(meta={"size": 40}, attributes={}, stream=stream)

    class Copied(Body):
        @classmethod
        def of(cls, data: bytes, metadata: Mapping[str, str]) -> Self:
            assert kept[0] <= 1
            return super().of(data, metadata)

    monkeypatch.setattr("obstore.get_async", get)
    monkeypatch.setattr("walkeeper.store.clouds.driver.Body", Copied)
    assert store.get(KEY) == b"piece" * 8


# ----------------------------------------------------------------------------------------------------------------- LIST


def test_names_that_only_begin_alike_are_left_out(server: ScriptedCloud, store: CloudStore) -> None:
    server.objects.update(
        (key, Stored(b"x")) for key in ("tail/00000001A", "tail/00000001B/x", "tail/00000002", "tails")
    )
    assert [info.key for info in store.list("tail/00000001")] == ["tail/00000001A", "tail/00000001B/x"]


def test_what_comes_after_a_prefix_is_not_listed(server: ScriptedCloud, store: CloudStore) -> None:
    server.objects.update((f"tail/{number:08}", Stored(b"x")) for number in range(5000))
    assert [info.key for info in store.list("tail/0000001")] == [f"tail/{number:08}" for number in range(10, 20)]
    assert len(server.requests) < 5


@pytest.mark.parametrize("prefix", ["", "cluster"])
def test_what_marks_an_empty_folder_is_left_out_where_it_shows(
    server: ScriptedCloud, account: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setattr("walkeeper.store.clouds.driver.PAGE", 1)
    before = f"{prefix}/" if prefix else ""
    names = ["", "a-x", "a/", "a/b", "life/", "life/1"]
    server.objects.update(
        (before + name, Stored(b"" if name.endswith("/") else b"x")) for name in names if before + name
    )
    store = CloudStore(server.cloud(account, prefix=prefix))
    assert [info.key for info in store.list("")] == ["a-x", "a/b", "life", "life/1"]
    assert [info.key for info in store.list("a/")] == ["a/b"]
    assert [info.key for info in store.list("life/")] == ["life/1"]
    assert list(store.folders("")) == ["a", "life"]


def test_a_listing_out_of_order_is_an_error_and_not_a_hole(server: ScriptedCloud, store: CloudStore) -> None:
    server.objects["a"] = Stored(b"x")
    server.next("LIST", lambda exchange: exchange.listing(["a/1", "a-b"]))
    server.next("LIST", lambda exchange: exchange.listing(["a-b", "a"]))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="out of order") as caught:
            list(store.list(""))
        assert "hierarchical" in caught.value.hint


@pytest.mark.parametrize("odd", ["a//b", "a/../b"])
def test_a_name_that_the_library_cannot_read_is_an_error_that_names_it(
    server: ScriptedCloud, store: CloudStore, odd: str
) -> None:
    server.objects = {odd: Stored(b""), "b": Stored(b"")}
    with pytest.raises(StoreUnavailable, match=odd) as caught:
        list(store.list(""))
    assert "move it away" in caught.value.hint


def test_an_answer_that_is_no_listing_is_unavailable(server: ScriptedCloud, store: CloudStore) -> None:
    server.always("LIST", page(200, "<html>log in to the wireless network"))
    for call in (store.list, store.folders):
        with pytest.raises(StoreUnavailable):
            list(call(""))


def test_an_answer_at_which_the_library_panics_is_unavailable(azure: ScriptedAzure, account: Path) -> None:
    """One request was in the batch, and the answer is to the sixth."""
    said = "--b\r\nContent-Type: application/http\r\nContent-ID: 5\r\n\r\nHTTP/1.1 404 Gone\r\n\r\n\r\n--b--\r\n"

    def answer(exchange: Exchange) -> None:
        exchange.answer(202, said.encode(), {"Content-Type": "multipart/mixed; boundary=b"})

    store = CloudStore(azure.cloud(account))
    azure.next("DELETE", answer)
    with pytest.raises(StoreUnavailable, match="panicked"):
        store.delete(KEY)
    store.delete(KEY)


# ---------------------------------------------------------------------------------------------------------- credentials


@pytest.fixture(scope="module")
def private_key(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl program here to make a key with")
    path = tmp_path_factory.mktemp("key") / "key.pem"
    command = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path.read_text()


def write_account(path: Path, email: str, private_key: str) -> None:
    path.write_text(
        json.dumps(
            {"type": "service_account", "client_email": email, "private_key": private_key, "private_key_id": "1"}
        )
    )
    path.chmod(0o600)


def test_a_service_account_that_was_changed_in_its_file_is_picked_up_without_a_restart(
    gcs: ScriptedGcs, account: Path, private_key: str
) -> None:
    clock = HandClock()
    write_account(account, "first-key", private_key)
    store = CloudStore(gcs.cloud(account), clock)
    store.create("before", b"", {})
    gcs.accepted_key = "second-key"
    clock.now += CREDENTIALS_AGE
    with pytest.raises(StoreDenied):
        store.create("during", b"", {})
    write_account(account, "second-key", private_key)
    clock.now += CREDENTIALS_AGE
    store.create("after", b"", {})
    assert set(gcs.objects) == {"before", "after"}


def test_googles_own_variable_names_the_account_too(
    gcs: ScriptedGcs, account: Path, private_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_account(account, "first-key", private_key)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
    store = CloudStore(gcs.cloud(account, service_account_file=None))
    assert store.head(KEY) is None
    assert gcs.headers[0]["authorization"].startswith("Bearer ey")


@pytest.mark.parametrize("content", [None, "", "no JSON", '{"type": "external_account"}'])
def test_an_account_that_cannot_be_used_is_denied_until_it_can(
    gcs: ScriptedGcs, tmp_path: Path, private_key: str, content: str | None
) -> None:
    clock, path = HandClock(), tmp_path / "account.json"
    if content is not None:
        path.write_text(content)
    store = CloudStore(replace(gcs.cloud(tmp_path / "other"), service_account_file=path), clock)
    with pytest.raises(StoreDenied) as caught:
        store.head(KEY)
    assert "credentials" in caught.value.hint
    assert "\n" not in str(caught.value)
    assert "Generic" not in str(caught.value)
    write_account(path, "first-key", private_key)
    clock.now += CREDENTIALS_AGE
    assert store.head(KEY) is None


def test_a_token_that_was_changed_in_its_file_is_picked_up_and_goes_before_the_environment(
    azure: ScriptedAzure, account: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    clock, path = HandClock(), tmp_path / "token"
    path.write_text("?sv=2021-08-06&sig=second-key\n")
    path.chmod(0o600)
    settings = azure.cloud(account, account_key=None, sas_token_file=path, sas_token="?sv=2021-08-06&sig=old-key")
    store = CloudStore(settings, clock)
    with pytest.raises(StoreDenied) as caught:
        store.get(KEY)
    assert "old-key" not in str(caught.value) + caught.value.hint + repr(store._settings)
    azure.accepted_key = "second-key"
    clock.now += CREDENTIALS_AGE
    assert store.head(KEY) is None
    assert store.head(KEY) is None
    assert all("authorization" not in headers for headers in azure.headers)


def test_a_key_that_cannot_be_used_is_denied_until_its_file_holds_another(
    azure: ScriptedAzure, account: Path, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    path.write_text("no base64")
    path.chmod(0o600)
    settings = azure.cloud(account, account_key_file=path, account_key="no base64")
    store = CloudStore(settings)
    for _ in range(2):
        with pytest.raises(StoreDenied) as caught:
            store.head(KEY)
    assert "credentials" in caught.value.hint
    path.write_text("c2VjcmV0")
    assert store.head(KEY) is None


def test_a_connection_string_says_account_key_and_address(azure: ScriptedAzure) -> None:
    written = f"DefaultEndpointsProtocol=https;AccountName=walaccount;AccountKey=c2VjcmV0==;BlobEndpoint={azure.endpoint}/walaccount"
    settings = AzureSettings(container="wal", connection_string=written).checked()
    assert settings.checked() == settings
    assert (settings.account, settings.key, settings.address) == (
        "walaccount",
        "c2VjcmV0==",
        f"{azure.endpoint}/walaccount",
    )
    CloudStore(replace(settings, connection_string=written.replace("=c2VjcmV0==", "=c2VjcmV0"))).create(
        KEY, BODY, METADATA
    )
    assert azure.headers[0]["authorization"].startswith("SharedKey walaccount:")
    assert "c2Vj" not in repr(settings)


@pytest.mark.parametrize(
    "said",
    [
        f"{TOKEN} in 1ms - Server returned non-2xx status code: 404 Not Found: no service account",
        "Generic MicrosoftAzure error: Error reading federated token file\n\nDebug source:\nx",
    ],
)
def test_credentials_that_cannot_be_had_are_denied_and_never_an_absence(said: str) -> None:
    problem = store_error("gs://wal/a", read(said), rights="")
    assert isinstance(problem, StoreDenied)
    assert "No credentials" in problem.hint


@pytest.mark.parametrize(
    "said",
    [
        f'{TOKEN} in 2s - HTTP error: error sending request\n\nDebug source:\n message: "No route to host"',
        f"{TOKEN} in 1ms - Server returned non-2xx status code: 429 Too Many Requests: wait",
        f"{TOKEN} in 1ms - Server returned non-2xx status code: 503 Service Unavailable: wait",
    ],
)
def test_a_server_of_credentials_that_could_not_be_asked_has_denied_nothing(said: str) -> None:
    problem = store_error("gs://wal/a", read(said), rights="")
    assert isinstance(problem, StoreUnavailable)
    assert "No credentials" in problem.hint


def test_a_signature_in_a_url_is_not_told() -> None:
    said = (
        "Generic error: Error performing GET https://a/b?sv=1&sig=SECRET in 1s - HTTP error: https://a/b?sig=SECRET\n"
    )
    assert "SECRET" not in str(read(said))


# ------------------------------------------------------------------------------------------------------------------ TLS


def test_a_certificate_is_trusted_only_when_it_is_of_a_known_authority(
    tmp_path: Path, private_key: str, account: Path
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    key.write_text(private_key)
    command = ["openssl", "req", "-x509", "-key", str(key), "-subj", "/CN=walkeeper test", "-days", "2"]
    extensions = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*command, *extensions, "-out", str(certificate)], check=True, capture_output=True)
    for kind in CLOUDS.values():
        with kind(certificate=(certificate, key)) as server:
            with pytest.raises(StoreDenied) as caught:
                CloudStore(server.cloud(account)).head(KEY)
            assert "ca_file" in caught.value.hint
            assert server.requests == []
            assert CloudStore(server.cloud(account, ca_file=certificate)).head(KEY) is None


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_cannot_be_used_is_denied(
    server: ScriptedCloud, account: Path, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StoreDenied) as caught:
        CloudStore(server.cloud(account, ca_file=path)).head(KEY)
    assert "ca_file" in caught.value.hint


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "key", "write"),
    [
        (GcsSettings(bucket="gs://our-wal/a"), "bucket", "Write bucket: our-wal, prefix: a."),
        (GcsSettings(bucket="Our Wal"), "bucket", "It is the name"),
        (GcsSettings(bucket="our-wal", prefix="a/../b"), "prefix", "Use letters"),
        (GcsSettings(bucket="our-wal", endpoint="storage"), "endpoint", ""),
        (
            AzureSettings(container="https://ours.blob.core.windows.net/wal/a"),
            "container",
            "Write account: ours, container: wal, prefix: a.",
        ),
        (AzureSettings(container="az://wal/a", account="ours"), "container", "Write container: wal, prefix: a."),
        (AzureSettings(container="wal"), "account", "An account has"),
        (AzureSettings(container="wal", account="Ours"), "account", "An account has"),
        (AzureSettings(container="wal", account="ours", account_key="a", sas_token="b"), "account_key", "Keep one"),
        (AzureSettings(container="wal", connection_string="AccountName=ours"), "connection_string", ""),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_write(
    settings: GcsSettings | AzureSettings, key: str, write: str
) -> None:
    with pytest.raises(WrongSetting) as caught:
        settings.checked()
    assert caught.value.key == key
    assert caught.value.hint.startswith(write)


def test_urls_and_commands_are_those_of_the_clouds_own_tools() -> None:
    gcs = GcsSettings(bucket="our-wal", prefix="/a//b/").checked()
    azure = AzureSettings(container="wal", account="ours", prefix="a").checked()
    assert (CloudStore(gcs).url, CloudStore(azure).url) == ("gs://our-wal/a/b", "azure://ours/wal/a")
    assert gcs.listing_command() == "gcloud storage ls gs://our-wal/a/b"
    assert azure.listing_command().startswith(
        "az storage blob list --account-name ours --container-name wal --prefix a "
    )
    for settings, says in (
        (gcs, "gcloud storage buckets describe"),
        (azure, "az storage account blob-service-properties"),
    ):
        with pytest.raises(StoreUnfit, match=says):
            settings.kept_versions()
    assert (gcs.address, azure.address) == ("https://storage.googleapis.com", "https://ours.blob.core.windows.net")


@pytest.mark.real_clock
def test_the_clock_of_the_server_is_told(server: ScriptedCloud, account: Path) -> None:
    ahead = server.cloud(account).clock_ahead()
    assert ahead is not None
    assert abs(ahead) < 60


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "walkeeper.store.clouds.driver")
    with pytest.raises(ConfigError, match="obstore is not installed") as caught:
        GcsSettings(bucket="our-wal").open()
    assert f"{sys.executable} -m pip install '{LIBRARY}'" in caught.value.hint
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["clouds"] == [LIBRARY]


def test_only_who_opens_such_a_store_loads_the_library() -> None:
    looks = "import sys, walkeeper.config.load, walkeeper.store.open; print('obstore' in sys.modules, 'asyncio' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", looks], check=True, capture_output=True, text=True).stdout
    assert said.split() == ["False", "False"]
