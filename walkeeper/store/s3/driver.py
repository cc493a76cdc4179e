"""A store in an S3 bucket, of AWS or compatible, spoken to with boto3."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import botocore.exceptions as aws
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from walkeeper.errors import (
    ChangedOnTheWay,
    ConfigError,
    NotFound,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    StoreUnfit,
)
from walkeeper.store.base import PACKED_SHA256, AlreadyThere, Body, ObjectInfo, too_large
from walkeeper.store.bucket import WAY, Bucket
from walkeeper.store.object_key import check_folder, check_key, check_list_prefix, check_metadata
from walkeeper.store.probe import prove
from walkeeper.store.s3.answers import Refusal, line, store_error
from walkeeper.store.s3.client import build
from walkeeper.store.s3.connection import moved, total_time

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

    from walkeeper.store.s3.keys import S3Settings  # noqa: F401 - named as text, in the base of a class

PIECE: Final = 256 * 1024
"""Bytes that are read at a time: what comes in the end is counted by them."""
BARREN_PAGES: Final = 100
"""Pages without anything new in a row; deleted versions can fill some."""

_NO_CREDENTIALS: Final = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.TokenRetrievalError,
    aws.ProfileNotFound,
    aws.ConfigParseError,
    aws.UnauthorizedSSOTokenError,
    aws.SSOTokenLoadError,
)


_T = TypeVar("_T")


class S3Store(Bucket["S3Settings", "S3Client"]):
    """``settings`` leaves what is None to the AWS environment: its variables, its files, the machine's or the pod's role."""

    _checks_sha256 = False
    """Whether ``probe`` saw that the store refuses a wrong SHA-256, and each answer since then stated the right one."""

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        """With ``overwrite_guard: head`` two writers at the same moment may both succeed, the later one staying."""
        check_key(key)
        check_metadata(metadata)
        if self._settings.overwrite_guard == "head" and self.head(key) is not None:
            raise AlreadyThere(key)
        answer: Mapping[str, Any] | None = None
        refused_by: S3Client | None = None
        if self._checks_sha256:
            sha256 = _sha256(body, metadata)
            answer, refused_by = self._put_with_sha256(key, body, metadata, sha256)
            if answer is not None and answer.get("ChecksumSHA256") == sha256:
                return
            if answer is not None:
                self._checks_sha256 = False
        md5 = hashlib.md5(body, usedforsecurity=False)
        if answer is None:
            answer = self._put(key, body, metadata, ContentMD5=base64.b64encode(md5.digest()).decode("ascii"))
            if self._client is refused_by:  # with the same credentials: it was the header
                self._checks_sha256 = False
        # An encrypting bucket's ETag is not the MD5; then, as with a store that lies, only a look can tell.
        if answer.get("ETag", "").strip('"') != md5.hexdigest():
            self._confirm(key, len(body), metadata)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_list_prefix(prefix)
        last = ""
        for page in self._pages(prefix):
            for info in page:
                if info.key < last:
                    raise StoreUnavailable(f"{self.url}: its listing is out of order", hint="The store is not S3-like.")
                if info.key != last and not info.key.endswith("/"):
                    yield info
                last = info.key

    def folders(self, prefix: str) -> Iterator[str]:
        check_folder(prefix)
        for page in self._pages(prefix, Delimiter="/"):
            yield from (info.key[len(prefix) : -1] for info in page if info.key.endswith("/") and info.key != prefix)

    def probe(self) -> None:
        prove(
            self,
            overwrites_hint="The store does not honour If-None-Match. Update it, or set overwrite_guard: head, which looks "
            "before it writes and is weaker: two writers at the same moment can overwrite each other.",
            needs_metadata=True,
            create=self._create_to_learn,
        )

    def kept_versions(self) -> str:
        """As in StoreSettings: by the bucket's versioning and object lock. No archive needs the two rights for that."""
        bucket, url = self._settings.bucket, self.url
        versioning = self._call(url, lambda client: client.get_bucket_versioning(Bucket=bucket))
        if versioning.get("Status") != "Enabled":
            return ""
        try:
            found: Any = self._call(url, lambda client: client.get_object_lock_configuration(Bucket=bucket))
        except (NotFound, StoreUnfit):  # what a bucket without one, and a server without any, answer
            return "versions are kept"
        kept = found.get("ObjectLockConfiguration", {}).get("Rule", {}).get("DefaultRetention", {})
        if kept.get("Days") or kept.get("Years"):
            time = f"{kept['Days']} days" if kept.get("Days") else f"{kept['Years']} years"
            return f"versions are kept, and nobody deletes one for {time} ({kept.get('Mode')})"
        return "versions are kept"

    def _head(self, key: str) -> ObjectInfo:
        answer = self._call(
            self._name(key), lambda client: client.head_object(Bucket=self._settings.bucket, Key=self._base + key)
        )
        return ObjectInfo(key, self._size(key, answer), dict(answer.get("Metadata", {})))

    def _first_byte(self, key: str) -> None:
        self._call(
            self._name(key),
            lambda client: client.get_object(Bucket=self._settings.bucket, Key=self._base + key, Range="bytes=0-0")[
                "Body"
            ].close(),
        )

    def _get(self, key: str, limit: int) -> Body:
        return self._call(self._name(key), lambda client: self._read(client, key, limit))

    def _delete(self, key: str) -> None:
        self._call(
            self._name(key), lambda client: client.delete_object(Bucket=self._settings.bucket, Key=self._base + key)
        )

    def _build(self) -> S3Client:
        return build(self._settings)

    def _size(self, key: str, answer: Mapping[str, Any]) -> int:
        size = answer.get("ContentLength")
        if not isinstance(size, int) or size < 0:
            raise StoreUnavailable(f"{self._name(key)}: its length is not stated", hint=WAY)
        return size

    def _put(self, key: str, body: bytes, metadata: Mapping[str, str], **sums: Any) -> Mapping[str, Any]:
        """``sums``: what the store holds against the bytes that come, under boto3's name."""
        guard: dict[str, Any] = {"IfNoneMatch": "*"} if self._settings.overwrite_guard == "conditional" else {}
        return self._call(
            self._name(key),
            lambda client: client.put_object(
                Bucket=self._settings.bucket, Key=self._base + key, Body=body, Metadata=metadata, **sums, **guard
            ),
        )

    def _put_with_sha256(
        self, key: str, body: bytes, metadata: Mapping[str, str], sha256: str
    ) -> tuple[Mapping[str, Any] | None, S3Client | None]:
        """The answer; or None, and the client that was refused, once more where the credentials were read again since.

        What refuses that header alone came between, or in its place, since the probe: then the MD5 tells.
        """
        for _ in range(2):
            client = self._client
            with contextlib.suppress(StoreDenied, StoreUnfit):
                return self._put(key, body, metadata, ChecksumSHA256=sha256), client
            if self._translated(self._name(key), self._connected) is client:
                break
        return None, client

    def _create_to_learn(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        """As ``create``. Does the store refuse a wrong SHA-256? It may know none, refuse them all, or repeat what it is told."""
        right, wrong = _sha256(body, {}), _sha256(body[1:], {})
        self._checks_sha256 = False
        with contextlib.suppress(StoreError):
            try:
                self._put(key, body, metadata, ChecksumSHA256=wrong)
            except ChangedOnTheWay:
                answer = self._put(key, body, metadata, ChecksumSHA256=right)
                self._checks_sha256 = answer.get("ChecksumSHA256") == right
            return
        self.create(key, body, metadata)

    def _read(self, client: S3Client, key: str, limit: int) -> Body:
        answer = client.get_object(Bucket=self._settings.bucket, Key=self._base + key)
        # Closed without being read to its end, the connection goes with it.
        with contextlib.closing(answer["Body"]) as stream:
            size = self._size(key, answer)
            if size > limit:
                raise too_large(self._name(key), size, limit)
            body = b"".join(_pieces(stream, size))
        if len(body) != size:
            raise StoreUnavailable(f"{self._name(key)}: {len(body)} bytes came of {size}", hint=WAY)
        return Body.of(body, dict(answer.get("Metadata", {})))

    def _pages(self, prefix: str, **asked: Any) -> Iterator[Sequence[ObjectInfo]]:
        """The listing's pages, each in order, without what the page before had too."""
        tokens: set[str] = set()
        before: set[str] = set()
        more = asked
        barren = 0
        while True:
            page, token = self._page(prefix, more)
            new = sorted((info for info in page if info.key not in before), key=lambda info: info.key)
            yield new
            barren = 0 if new else barren + 1
            if not token:
                return
            if token in tokens or barren > BARREN_PAGES:
                raise StoreUnavailable(f"{self.url}: its listing repeats itself without an end", hint=WAY)
            tokens.add(token)
            before = {info.key for info in page} or before
            more = asked | {"ContinuationToken": token}

    def _page(self, prefix: str, more: dict[str, Any]) -> tuple[Sequence[ObjectInfo], str]:
        """One page, and the token of the next, empty at the end."""
        answer = self._call(
            self._name(prefix),
            lambda client: client.list_objects_v2(Bucket=self._settings.bucket, Prefix=self._base + prefix, **more),
        )
        token = answer.get("NextContinuationToken", "")
        if answer.get("IsTruncated") and not token:
            raise StoreUnavailable(f"{self.url}: a listing was cut short", hint=WAY)
        found = [(entry["Key"], entry["Size"], entry.get("LastModified")) for entry in answer.get("Contents", [])]
        found += [(entry["Prefix"], 0, None) for entry in answer.get("CommonPrefixes", [])]
        if not all(key.startswith(self._base + prefix) for key, _, _ in found):
            raise StoreUnavailable(f"{self.url}: it lists what was not asked for", hint="The store is not S3-like.")
        page = [ObjectInfo(key.removeprefix(self._base), size, {}, modified) for key, size, modified in found]
        return page, token if answer.get("IsTruncated") else ""

    def _call(self, what: str, request: Callable[[S3Client], _T]) -> _T:
        """Run one request; all that can go wrong becomes one of walkeeper's errors, or AlreadyThere."""
        client = self._translated(what, self._connected)  # making it takes CPU time, and asks nobody
        began = time.monotonic()
        with total_time(self._settings.longest_call) as limit:
            try:
                answer = self._translated(what, lambda: request(client))
            except (StoreError, AlreadyThere):
                if not limit.over:
                    raise
        # Where the connection was shut down under it, what looks like an answer, or like a refusal, is the half of one.
        if limit.over:
            raise StoreUnavailable(
                f"{what}: no whole answer within {time.monotonic() - began:.0f} s",
                hint="The store, or what lies between, sends too slowly: look at the network, or raise read_timeout.",
            )
        return answer

    def _translated(self, what: str, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except aws.ClientError as error:
            raise self._refused(what, error) from error
        except _NO_CREDENTIALS as error:
            self._denied = True
            raise StoreDenied(
                f"{self.url}: {line(error)}",
                hint="Give this user credentials for S3: store.s3.access_key_id, a profile, or the instance's role.",
            ) from error
        except aws.ParamValidationError as error:
            raise ConfigError(f"{self.url}: {line(error)}", hint="Look at the bucket's name.") from error
        except aws.SSLError as error:
            raise self._tls_problem(error) from error
        except (aws.BotoCoreError, ResponseParserError, HTTPError, OSError) as error:
            raise StoreUnavailable(
                f"{what}: {line(error)}",
                hint="Is the store up, and endpoint its address? Look at the way to it: name service, firewall, proxy.",
            ) from error

    def _refused(self, what: str, error: aws.ClientError) -> StoreError | AlreadyThere:
        answer: Mapping[str, Any] = error.response
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        refusal = Refusal(
            answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0),
            str(answer.get("Error", {}).get("Code", "")),
            str(answer.get("Error", {}).get("Message", "")),
            headers.get("retry-after", ""),
        )
        if refusal.status == 412 and error.operation_name == "PutObject":
            return AlreadyThere(what)
        problem = store_error(what, refusal)
        self._denied = self._denied or isinstance(problem, StoreDenied)
        return problem

    def _tls_problem(self, error: aws.SSLError) -> StoreError:
        if not any(words in str(error) for words in ("CERTIFICATE_VERIFY_FAILED", "doesn't match")):
            return StoreUnavailable(f"{self.url}: {line(error)}", hint=WAY)
        return StoreDenied(
            f"{self.url}: {line(error)}",
            hint="The server's certificate is not trusted: renew it, or name its authority in ca_file. It is never ignored.",
        )


def _pieces(stream: StreamingBody, size: int) -> Iterator[bytes]:
    """An answer in chunks may go on beyond the length that it states: one byte more is enough to know."""
    left = size + 1
    while left and (piece := stream.read(min(left, PIECE))):
        moved(len(piece))
        left -= len(piece)
        yield piece


def _sha256(body: bytes, metadata: Mapping[str, str]) -> str:
    """The body's, as S3 wants it: in base64."""
    stated = metadata.get(PACKED_SHA256)
    digest = bytes.fromhex(stated) if stated else hashlib.sha256(body).digest()
    return base64.b64encode(digest).decode("ascii")
