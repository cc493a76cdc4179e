"""What the configuration says of a store at Google's or in Azure, and what others must know of it. Loads no library."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Self

import msgspec

from walkeeper.errors import ConfigError, StoreUnfit, WrongSetting
from walkeeper.lib.section import Secret, SecretFile, Section
from walkeeper.lib.trust import UnusableSecret, Us, read_secret
from walkeeper.lib.units import Seconds
from walkeeper.store.address import in_clear, one_endpoint, one_prefix
from walkeeper.store.object_key import MAX_KEY

if TYPE_CHECKING:
    from walkeeper.store.base import Store

LIBRARY: Final = "obstore>=0.12,<0.13"
"""What the extra ``clouds`` installs."""

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER: Final = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}")
_SECRETS: Final = ("account_key", "sas_token", "connection_string")


class CloudSettings(Section, frozen=True, kw_only=True):
    """What both have."""

    prefix: str = ""
    """Put in front of every key, for a bucket that is shared."""
    endpoint: str | None = None
    """`https://host[:port]`, where it is not the cloud's own."""
    ca_file: Path | None = None
    """Certificates to trust besides the system's."""
    timeout: Seconds = Seconds(60)
    """What a whole call takes at most, besides the time that the object's bytes take at 64 KiB/s."""

    remote: ClassVar[bool] = True
    local_directory: ClassVar[Path | None] = None
    locked_seconds: ClassVar[float] = 0.0
    connect_timeout: ClassVar[float] = 5.0
    """Seconds."""
    library: ClassVar[str]
    """The name of obstore's class."""
    rights: ClassVar[str]
    """What is to be granted, as a hint."""
    tells_md5: ClassVar[bool]
    """Whether an object's ETag is the MD5 of its bytes."""

    @property
    def place(self) -> str:
        """For people, without the prefix."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """The server's, as a URL."""
        raise NotImplementedError

    def doubts(self) -> Iterator[WrongSetting]:
        yield from in_clear(self.endpoint)

    def with_timeout(self, seconds: float) -> Self:
        return msgspec.structs.replace(self, timeout=Seconds(min(self.timeout, seconds)))

    def clock_ahead(self) -> float | None:
        from walkeeper.store.clock import ahead  # noqa: PLC0415 - ssl and http are for the doctor only

        return ahead(self.address, self.ca_file, self.connect_timeout)

    @property
    def for_the_library(self) -> dict[str, str]:
        """Under obstore's names, where these go before what it finds by itself."""
        raise NotImplementedError

    def metadata_name(self, name: str) -> str:
        """What the store calls it; and of that, the same again is ours."""
        return name

    def with_secret_again(self) -> Self:
        """The same, with the secrets that their files hold now."""
        return self

    def checked(self) -> Self:
        return msgspec.structs.replace(self, prefix=one_prefix(self.prefix), endpoint=one_endpoint(self.endpoint))

    def open(self) -> Store:
        try:
            from walkeeper.store.clouds.driver import CloudStore  # noqa: PLC0415 - an extra, and only who opens it needs it
        except ModuleNotFoundError as missing:
            if missing.name != "obstore":
                raise
            raise ConfigError(
                f"{self.place}: the package obstore is not installed",
                hint=f"Install it, the extra `clouds`: {sys.executable} -m pip install '{LIBRARY}'",
            ) from None
        return CloudStore(self)


class GcsSettings(CloudSettings, frozen=True, kw_only=True):
    """Google Cloud Storage (the extra `clouds`). Without a file the credentials are found as Google's own tools find them:
    `GOOGLE_APPLICATION_CREDENTIALS`, `gcloud auth application-default login`, the machine's or the pod's service account.
    """

    bucket: str
    """The bucket. walkeeper does not create it."""
    service_account_file: SecretFile | None = None
    """A service account's key, as JSON."""

    library: ClassVar[str] = "GCSStore"
    rights: ClassVar[str] = (
        "The service account needs storage.objects.create, get and list on the bucket (examples/gcs). An agent notices without "
        "a restart."
    )
    tells_md5: ClassVar[bool] = True

    @property
    def place(self) -> str:
        return f"gs://{self.bucket}"

    @property
    def address(self) -> str:
        return self.endpoint or "https://storage.googleapis.com"

    def checked(self) -> Self:
        if not _BUCKET.fullmatch(self.bucket) or ".." in self.bucket:
            raise WrongSetting(
                "bucket", f"{self.bucket[:MAX_KEY]!r} is not the name of a bucket", hint=_write(self.bucket)
            )
        return super().checked()

    @property
    def for_the_library(self) -> dict[str, str]:
        return _given(bucket=self.bucket, service_account=self.service_account_file, base_url=self.endpoint)

    def kept_versions(self) -> str | None:
        raise _cannot_ask(["gcloud", "storage", "buckets", "describe", self.place])

    def listing_command(self) -> str:
        return f"gcloud storage ls {shlex.quote(f'{self.place}/{self.prefix}')}"


class AzureSettings(CloudSettings, frozen=True, kw_only=True):
    """Azure Blob Storage (the extra `clouds`). Without a key, a token or a connection string it is a service principal or a
    workload identity of the environment (`AZURE_TENANT_ID`, `AZURE_CLIENT_ID`, `AZURE_CLIENT_SECRET` or
    `AZURE_FEDERATED_TOKEN_FILE`), else the machine's managed identity.
    """

    container: str
    """The container. walkeeper does not create it."""
    account: str = ""
    """The storage account, if no connection string names it."""
    account_key_file: Path | None = None
    """A file that holds the account's key."""
    account_key: Secret | None = None
    """The key itself: only in a file that no other user may read."""
    sas_token_file: Path | None = None
    """A file that holds a shared access signature."""
    sas_token: Secret | None = None
    """The signature itself; the same rule."""
    connection_string_file: Path | None = None
    """A file that holds a connection string."""
    connection_string: Secret | None = None
    """The connection string itself; the same rule."""

    library: ClassVar[str] = "AzureStore"
    rights: ClassVar[str] = (
        "The identity needs the role of examples/azure on the container, or the token the permissions rcl. An agent notices "
        "without a restart."
    )
    tells_md5: ClassVar[bool] = False

    @property
    def place(self) -> str:
        return f"azure://{self.account}/{self.container}"

    @property
    def address(self) -> str:
        return self.endpoint or f"https://{self.account}.blob.core.windows.net"

    def checked(self) -> Self:
        if not _CONTAINER.fullmatch(self.container):
            text = f"{self.container[:MAX_KEY]!r} is not the name of a container"
            raise WrongSetting("container", text, hint=_write(self.container))
        given = [name for name in _SECRETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise WrongSetting(given[0], f"{given[1]} is there too", hint="Keep one of the two.")
        told = self._told
        if self.connection_string is not None and not (self.key or self.token):
            raise WrongSetting("connection_string", "neither AccountKey nor SharedAccessSignature is in it")
        account = self.account or told.get("AccountName", "")
        suffix = told.get("EndpointSuffix", "")
        endpoint = told.get("BlobEndpoint") or (f"https://{account}.blob.{suffix}" if suffix else None)
        if not _ACCOUNT.fullmatch(account):
            text = f"{account[:MAX_KEY]!r} is not the name of a storage account" if account else "missing"
            raise WrongSetting("account", text, hint="An account has 3 to 24 small letters and digits.")
        return super(
            AzureSettings, msgspec.structs.replace(self, account=account, endpoint=self.endpoint or endpoint)
        ).checked()

    @property
    def key(self) -> str | None:
        """The account's, as written or out of the connection string."""
        return self.account_key or self._told.get("AccountKey")

    @property
    def token(self) -> str | None:
        """The shared access signature, in the same way, without the question mark that some tools show before it."""
        token = self.sas_token or self._told.get("SharedAccessSignature")
        return token and token.removeprefix("?")

    @property
    def _told(self) -> dict[str, str]:
        """What the connection string says."""
        parts = (part.partition("=") for part in (self.connection_string or "").split(";"))
        return {name.strip(): value.strip() for name, _, value in parts if value}

    @property
    def for_the_library(self) -> dict[str, str]:
        return _given(
            account_name=self.account,
            container_name=self.container,
            endpoint=self.endpoint,
            account_key=self.key,
            sas_key=self.token,
            # Else what the environment has besides might go first.
            credential_type="access_key" if self.key else "sas_token" if self.token else None,
        )

    def metadata_name(self, name: str) -> str:
        """Azure takes what could be a name in C#."""
        return name.translate(str.maketrans("-_", "_-"))

    def with_secret_again(self) -> Self:
        changes = {}
        for name in _SECRETS:
            file = getattr(self, f"{name}_file")
            if file is not None:
                with contextlib.suppress(UnusableSecret):
                    changes[name], _ = read_secret(file, Us.here())
        return msgspec.structs.replace(self, **changes)

    def kept_versions(self) -> str | None:
        words = ["az", "storage", "account", "blob-service-properties", "show", "--account-name", self.account]
        raise _cannot_ask(words)

    def listing_command(self) -> str:
        words = ["az", "storage", "blob", "list", "--account-name", self.account, "--container-name", self.container]
        return shlex.join([*words, "--prefix", self.prefix, "--num-results", "20", "--output", "table"])


def _cannot_ask(command: list[str]) -> StoreUnfit:
    """No right of ours, and no call of the library, is for that."""
    return StoreUnfit(f"walkeeper cannot ask this store for it: {shlex.join(command)}")


def _given(**config: object) -> dict[str, str]:
    return {name: str(value) for name, value in config.items() if value is not None}


def _write(copied: str) -> str:
    """For a name in a form that other tools take: ``gs://bucket/prefix``, a URL."""
    scheme, _, rest = copied.partition("://")
    host, _, path = (rest or copied).partition("/")
    if scheme == "https":
        account = host.removesuffix(".blob.core.windows.net")
        if account == host:
            host, _, path = path.partition("/")
        else:
            container, _, path = path.partition("/")
            return f"Write account: {account}, container: {container}{f', prefix: {path}' if path else ''}."
    if scheme in ("az", "azure", "abfs", "abfss"):
        return f"Write container: {host}{f', prefix: {path}' if path else ''}."
    if path or scheme == "gs":
        return f"Write bucket: {host}{f', prefix: {path}' if path else ''}."
    return "It is the name and nothing else, in small letters."
