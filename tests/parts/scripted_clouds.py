"""The scripted server in two other tongues: Google's XML and Azure's blobs, as obstore speaks them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias
from xml.sax.saxutils import escape

from msgspec.structs import replace

from tests.parts.scripted_s3 import Exchange, ScriptedS3, Stored
from walkeeper.lib.units import Seconds
from walkeeper.store.clouds.keys import AzureSettings, GcsSettings

WHEN = "Sat, 28 Nov 2026 12:00:00 GMT"
LISTED = "2026-11-28T12:00:00Z"
OPEN = {"type": "service_account", "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
"""A service account that signs nothing."""


class CloudExchange(Exchange):
    """What both have: each answer that describes an object has a date, and folders are told."""

    def describe(self, stored: Stored, body: bytes | None = None) -> None:
        content = stored.body if body is None else body
        headers = {"ETag": f'"{stored.etag}"', "Last-Modified": WHEN}
        headers |= {f"{self.metadata_header}{name}": value for name, value in stored.metadata.items()}
        if self.headers.get("Range") == "bytes=0-0":
            if not content:
                return self.refuse(416, "InvalidRange")
            return self.answer(206, content[:1], {**headers, "Content-Range": f"bytes 0-0/{len(content)}"})
        return self.answer(200, content, headers)

    def entries(self, keys: list[str]) -> tuple[list[tuple[str, int]], list[str]]:
        """Of these keys: objects with their sizes, and folders."""
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        objects, folders = [], []
        for key in keys:
            inner, slash, _ = key.removeprefix(prefix).partition("/")
            if delimiter and slash:
                folders.append(f"{prefix}{inner}/")
            else:
                stored = self.s3.objects.get(key)
                objects.append((key, len(stored.body) if stored else 0))
        return objects, sorted(set(folders))


class GcsExchange(CloudExchange):
    metadata_header = "x-goog-meta-"

    def is_let_in(self) -> bool:
        """A service account's token is signed by itself; what it says can be read. Without one, nobody is asked."""
        claims = self.headers.get("Authorization", "").removeprefix("Bearer ").split(".")
        if len(claims) < 2:
            return True
        who: str = json.loads(base64.urlsafe_b64decode(claims[1] + "=="))["iss"]
        return self.s3.accepted_key == who

    def _put(self, body: bytes) -> None:
        with self.s3.conditional:
            guarded = self.headers.get("x-goog-if-generation-match") == "0" and self.s3.honours_condition
            if guarded and self.key in self.s3.objects:
                return self.refuse(412, "PreconditionFailed")
            stored = self.commit()
        return self.answer(200, headers={"ETag": f'"{stored.etag}"', "x-goog-generation": "1"})

    def listing(self, keys: list[str], *, token: str = "") -> None:
        objects, folders = self.entries(keys)
        text = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><LastModified>{LISTED}</LastModified></Contents>"
            for key, size in objects
        ) + "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{escape(token)}</NextContinuationToken>"
        more = more if token else "<IsTruncated>false</IsTruncated>"
        self.answer(200, f"<ListBucketResult>{more}{text}</ListBucketResult>".encode())


class AzureExchange(CloudExchange):
    """An object is deleted by a batch with one request in it."""

    metadata_header = "x-ms-meta-"

    def understand(self, path: str) -> None:
        _, self.bucket, self.key = (*path.split("/", 2), "", "")[:3]
        self.operation = "LIST" if self.query.get("comp") == "list" else self.command  # type: ignore[assignment]
        if self.query.get("comp") == "batch":
            self.operation = "DELETE"
            inner = re.search(rb"^DELETE /[^/]+/[^/]+/(\S+) HTTP", self.whole_body(), re.MULTILINE)
            self.key = inner[1].decode() if inner else ""

    do_POST = Exchange._serve  # noqa: N815 - a name that http.server looks for

    def is_let_in(self) -> bool:
        return self.query.get("sig", self.s3.accepted_key) == self.s3.accepted_key

    def refuse(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        names = {
            "NoSuchKey": "BlobNotFound",
            "NoSuchBucket": "ContainerNotFound",
            "InvalidAccessKeyId": "AuthenticationFailed",
        }
        super().refuse(status, names.get(code, code), headers)

    def behave(self) -> None:
        if self.operation == "DELETE" and self.is_let_in() and self.bucket == self.s3.bucket:
            with self.s3.lock:
                gone = self.s3.objects.pop(self.key, None) is not None
            return self._batch(202 if gone else 404)
        return super().behave()

    def _batch(self, status: int) -> None:
        error = "" if status == 202 else "x-ms-error-code: BlobNotFound\r\n"
        reason = "Accepted" if status == 202 else "The specified blob does not exist."
        text = (
            "--b\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\n"
            f"HTTP/1.1 {status} {reason}\r\n{error}\r\n\r\n--b--\r\n"
        )
        self.answer(202, text.encode(), {"Content-Type": "multipart/mixed; boundary=b"})

    def _put(self, body: bytes) -> None:
        with self.s3.conditional:
            if self.headers.get("If-None-Match") == "*" and self.s3.honours_condition and self.key in self.s3.objects:
                return self.refuse(409, "BlobAlreadyExists")
            stored = self.commit()
        return self.answer(201, headers={"ETag": f'"{stored.etag}"', "Last-Modified": WHEN})

    def _list(self) -> None:
        self.query["continuation-token"] = self.query.get("marker", "")
        super()._list()

    def listing(self, keys: list[str], *, token: str = "") -> None:
        objects, folders = self.entries(keys)
        text = "".join(
            f"<Blob><Name>{escape(key)}</Name><Properties><Last-Modified>{WHEN}</Last-Modified><Etag>x</Etag>"
            f"<Content-Length>{size}</Content-Length><Content-Type>x</Content-Type></Properties></Blob>"
            for key, size in objects
        ) + "".join(f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>" for name in folders)
        more = f"<NextMarker>{escape(token)}</NextMarker>" if token else "<NextMarker />"
        self.answer(200, f"<EnumerationResults><Blobs>{text}</Blobs>{more}</EnumerationResults>".encode())


class ScriptedGcs(ScriptedS3):
    exchange = GcsExchange

    def cloud(self, account: Path, **other: Any) -> GcsSettings:
        """How to reach it. ``account`` is the key file; one that signs nothing is written where there is none."""
        if not account.exists():
            account.write_text(json.dumps(OPEN))
            account.chmod(0o600)
        settings = GcsSettings(bucket="wal", endpoint=self.endpoint, service_account_file=account)
        return replace(settings, **{"timeout": Seconds(60), **other})


class ScriptedAzure(ScriptedS3):
    exchange = AzureExchange

    def cloud(self, account: Path, **other: Any) -> AzureSettings:
        settings = AzureSettings(
            account="walaccount", container="wal", endpoint=f"{self.endpoint}/walaccount", account_key="c2VjcmV0"
        )
        return replace(settings, **{"timeout": Seconds(60), **other})


ScriptedCloud: TypeAlias = ScriptedGcs | ScriptedAzure
CLOUDS: Mapping[str, type[ScriptedCloud]] = {"gcs": ScriptedGcs, "azure": ScriptedAzure}
