"""What the configuration says of a store in a bucket, and what others must know of it. Loads no SDK."""

from __future__ import annotations

import base64
import contextlib
import re
import shlex
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias

import msgspec
from msgspec import Meta

from walkeeper.errors import WrongSetting
from walkeeper.lib.clock import now_utc
from walkeeper.lib.section import Secret, SecretFile, Section
from walkeeper.lib.trust import UnusableSecret, Us, read_secret
from walkeeper.lib.units import Seconds
from walkeeper.store.address import in_clear, one_endpoint, one_prefix
from walkeeper.store.object_key import MAX_KEY, is_passing

if TYPE_CHECKING:
    from walkeeper.store.base import Store

OverwriteGuard: TypeAlias = Literal["conditional", "head"]
"""``conditional``: PUT with ``If-None-Match: *``. ``head``: look first, for stores that ignore the condition."""

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_/:.-]{1,2048}")
_CLASS: Final = re.compile(r"[A-Z][A-Z0-9_-]{0,63}")
_KEY_BYTES: Final = 32
_OF_BYTES: Final = frozenset({"PutObject", "GetObject", "HeadObject"})
_OF_OBJECTS: Final = _OF_BYTES | {"ListObjectsV2", "DeleteObject"}
_AWAY: Final = ("GLACIER", "DEEP_ARCHIVE")

_AMAZON: Final = re.compile(
    r"(?:(?P<bucket>.+?)\.)?s3(?:[.-](?:dualstack\.)?(?P<region>[a-z]{2}(?:-[a-z]+)+-\d))?\.amazonaws\.com(?:\.cn)?"
)


class S3Settings(Section, frozen=True):
    """S3, or a store that speaks its protocol. What is left out is boto3's to find: environment, profile, instance role."""

    remote: ClassVar[bool] = True
    local_directory: ClassVar[Path | None] = None

    bucket: str
    """The bucket. walkeeper does not create it."""
    prefix: str = ""
    """Put in front of every key, for a bucket that is shared."""
    endpoint: str | None = None
    """`https://host[:port]` of a store that is not Amazon's."""
    region: str | None = None
    """The bucket's region."""
    path_style: bool = False
    """Address the bucket by path, not by host name; many S3-compatibles need it."""
    access_key_id: str | None = None
    """Goes with a secret."""
    secret_access_key_file: Path | None = None
    """A file that holds the secret access key and nothing else."""
    secret_access_key: Secret | None = None
    """The secret itself: only in a file that no other user may read."""
    session_token: Secret | None = None
    """Goes with temporary credentials; the same rule as for the secret."""
    profile: str | None = None
    """A profile of the credentials file."""
    credentials_file: SecretFile | None = None
    """An AWS credentials file, where it is not `~/.aws/credentials`."""
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    connect_timeout: Seconds = Seconds(5)
    """To wait for a connection."""
    read_timeout: Seconds = Seconds(30)
    """To wait for each part of an answer. A whole call takes at most twice this, and the time that the object's bytes take at
    64 KiB/s."""
    overwrite_guard: OverwriteGuard = "conditional"
    """How an object is kept from being replaced. `conditional`: the store refuses (`If-None-Match`), which is checked at
    start. `head`: walkeeper looks first, for stores that cannot; two writers at the same moment are then not told apart."""

    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    """Server-side encryption to ask for with each PUT, where the bucket's policy demands the header. Without it the bucket's
    own default applies."""
    kms_key_id: str | None = None
    """The KMS key, as an ARN, an id or `alias/NAME`; without `sse` it means `aws:kms`. The credentials need
    kms:GenerateDataKey and kms:Decrypt for it."""
    storage_class: str | None = None
    """For each object, such as `STANDARD_IA`; the bucket's default without it. Where a class charges for a least size or age,
    the small and short-lived pieces of the tail are dear: set `tail.interval` to `off`."""

    object_lock_days: Annotated[int, Meta(ge=1, le=36500)] | None = None
    """Object lock: for so many days nobody deletes what is stored, but the pieces of tails, signs of life, pins and probes
    that walkeeper deletes itself. For a bucket that was made with object lock; the credentials need s3:PutObjectRetention.
    `walkeeper expire` gives up nothing earlier, whatever `backup.keep` says."""
    object_lock_mode: Literal["COMPLIANCE", "GOVERNANCE"] = "GOVERNANCE"
    """`GOVERNANCE`: who has s3:BypassGovernanceRetention may delete it nevertheless. `COMPLIANCE`: nobody, not even the
    account's owner."""

    def options(self, operation: str, key: str) -> dict[str, Any]:
        """What goes with a request of boto3's ``operation`` on that key beside what it is about, under boto3's names."""
        options: dict[str, Any] = {}
        if operation in _OF_OBJECTS:
            options["RequestPayer"] = "requester" if self.request_payer else None
        if operation == "PutObject":
            options["ServerSideEncryption"] = self.sse or (self.kms_key_id and "aws:kms")
            options["SSEKMSKeyId"] = self.kms_key_id
            options["StorageClass"] = self.storage_class
        if operation == "PutObject" and self.object_lock_days is not None and not is_passing(key):
            options["ObjectLockMode"] = self.object_lock_mode
            options["ObjectLockRetainUntilDate"] = now_utc() + timedelta(days=self.object_lock_days)
        if operation in _OF_BYTES and self.sse_customer_key is not None:
            options["SSECustomerAlgorithm"] = "AES256"
            options["SSECustomerKey"] = _customer_key(self.sse_customer_key)
        return {name: value for name, value in options.items() if value}

    sse_customer_key_file: Path | None = None
    """A file with a key of your own, 32 bytes as base64 (`openssl rand -base64 32`), which goes with each request that writes
    or reads an object (SSE-C). For an archive that begins with it: an object cannot be read with another key, or none.
    Whoever loses it loses the archive."""
    sse_customer_key: Secret | None = None
    """The key itself; the same rule as for the secret."""
    request_payer: bool = False
    """Whether these credentials' account pays for requests to a bucket of somebody else's."""

    @property
    def place(self) -> str:
        """For people, without the prefix."""
        return f"s3://{self.bucket}"

    @property
    def longest_call(self) -> float:
        """Seconds that a call may take in all, without those for the bytes of an object."""
        return self.connect_timeout + 2 * self.read_timeout

    @property
    def locked_seconds(self) -> float:
        return (self.object_lock_days or 0) * 86400.0

    def checked(self) -> Self:
        if not _BUCKET.fullmatch(self.bucket) or ".." in self.bucket:
            raise WrongSetting(
                "bucket", f"{self.bucket[:MAX_KEY]!r} is not the name of a bucket", hint=what_to_write(self.bucket)
            )
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise WrongSetting(
                "",
                "access_key_id and secret_access_key go together, and one is missing",
                hint="Give both, or none: then boto3 looks where it does: environment, profile, role.",
            )
        if self.access_key_id is None and self.session_token is not None:
            raise WrongSetting(
                "", "session_token without access_key_id", hint="It belongs to a key of its own: give all three."
            )
        if self.access_key_id is not None and self.profile is not None:
            raise WrongSetting("profile", "access_key_id is there too", hint="Keep one of the two.")
        if self.kms_key_id is not None and self.sse == "AES256":
            raise WrongSetting(
                "kms_key_id", "sse is AES256, which takes no key", hint="Set sse: aws:kms, or leave it out."
            )
        if self.kms_key_id is not None and not _PLAIN.fullmatch(self.kms_key_id):
            raise WrongSetting(
                "kms_key_id",
                f"{self.kms_key_id[:MAX_KEY]!r} is not a key",
                hint="A key is an ARN, an id or alias/NAME.",
            )
        if self.sse_customer_key is not None and (self.sse or self.kms_key_id):
            raise WrongSetting("sse_customer_key", "sse or kms_key_id is there too", hint="Keep one of the two.")
        if self.sse_customer_key is not None and len(_customer_key(self.sse_customer_key)) != _KEY_BYTES:
            raise WrongSetting(
                "sse_customer_key", "it is not 32 bytes as base64", hint="Make one: openssl rand -base64 32."
            )
        if self.storage_class is not None and not _CLASS.fullmatch(self.storage_class):
            raise WrongSetting(
                "storage_class",
                f"{self.storage_class[:MAX_KEY]!r} is none",
                hint="A storage class looks like STANDARD_IA.",
            )
        if self.storage_class in _AWAY:
            raise WrongSetting(
                "storage_class",
                f"from {self.storage_class} nothing can be read without hours of waiting",
                hint="Use STANDARD_IA or GLACIER_IR; a lifecycle rule of the bucket must not move objects there either.",
            )
        return msgspec.structs.replace(self, prefix=one_prefix(self.prefix), endpoint=one_endpoint(self.endpoint))

    def doubts(self) -> Iterator[WrongSetting]:
        yield from in_clear(self.endpoint)

    def with_timeout(self, seconds: float) -> Self:
        return msgspec.structs.replace(
            self,
            connect_timeout=Seconds(min(self.connect_timeout, seconds)),
            read_timeout=Seconds(min(self.read_timeout, seconds)),
        )

    def with_secret_again(self) -> Self:
        """The same, with the secret that its file holds now; where that cannot be used, the one that it held."""
        if self.secret_access_key_file is not None:
            with contextlib.suppress(UnusableSecret):
                secret, _ = read_secret(self.secret_access_key_file, Us.here())
                return msgspec.structs.replace(self, secret_access_key=secret)
        return self

    def clock_ahead(self) -> float | None:
        from walkeeper.store.clock import ahead  # noqa: PLC0415 - ssl and http are for the doctor only

        endpoint = self.endpoint or f"https://s3.{self.region or 'us-east-1'}.amazonaws.com"
        return ahead(endpoint, self.ca_file, self.connect_timeout)

    def kept_versions(self) -> str | None:
        from walkeeper.store.s3.driver import S3Store  # noqa: PLC0415 - the SDK takes a quarter of a second of CPU

        return S3Store(self).kept_versions()

    def listing_command(self) -> str:
        endpoint = f" --endpoint-url {shlex.quote(self.endpoint)}" if self.endpoint else ""
        return f"aws s3 ls{endpoint} {shlex.quote(f'{self.place}/{self.prefix}')}"

    def open(self) -> Store:
        from walkeeper.store.s3.driver import S3Store  # noqa: PLC0415 - the SDK takes a quarter of a second of CPU

        return S3Store(self)


def _customer_key(text: str) -> bytes:
    """Empty where it is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def what_to_write(bucket: str) -> str:
    """For a bucket in a form that other tools take: ``s3://bucket/prefix``, an ARN, a URL, a bucket with a slash."""
    if ":accesspoint" in bucket:
        return "Write the alias of the access point, which AWS shows beside its ARN and which ends in -s3alias."
    if bucket.startswith("arn:"):
        return _say(*bucket.rpartition(":::")[2].partition("/")[::2])
    scheme, _, rest = bucket.partition("://")
    if not rest:
        return _say(*bucket.partition("/")[::2]) if "/" in bucket else "It is the bucket's name and nothing else."
    host, _, path = rest.partition("/")
    if scheme not in ("http", "https"):
        return _say(host, path)
    if amazon := _AMAZON.fullmatch(host):
        name, region = amazon["bucket"], amazon["region"]
        return _say(name, path, region=region) if name else _say(*path.partition("/")[::2], region=region)
    return _say(*path.partition("/")[::2], endpoint=f"{scheme}://{host}", path_style="true")


def _say(bucket: str, prefix: str, **others: str | None) -> str:
    settings = {"bucket": bucket, "prefix": prefix.strip("/"), **others}
    written = ", ".join(f"{key}: {value}" for key, value in settings.items() if value)
    return f"Write {written}." if bucket else "Name the bucket: the name and nothing else."
