"""A small S3 server that does what a test tells it to: refuse, stall, cut, lie, or take an object and not say so.

Unscripted it behaves: one bucket, conditional PUT, Content-MD5, ranges, paginated listings. It checks which access key signed
a request, and not the signature. A SHA-256 it checks, and states, only with ``knows_sha256``, as stores do since 2022.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import ssl
import struct
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from msgspec.structs import replace

from walkeeper.lib.units import Seconds
from walkeeper.store.s3.keys import S3Settings

SHA256 = "x-amz-checksum-sha256"
Operation = Literal["PUT", "GET", "HEAD", "DELETE", "LIST"]


@dataclass
class Stored:
    body: bytes
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def etag(self) -> str:
        return hashlib.md5(self.body, usedforsecurity=False).hexdigest()


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer. A fault gets it and does with it what it likes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    s3: ScriptedS3
    operation: Operation
    bucket: str
    key: str
    query: dict[str, str]
    _body: bytes | None
    metadata_header = "x-amz-meta-"

    def behave(self) -> None:
        """Do what a good server does."""
        body = self.whole_body()
        if self.query.keys() & self.s3.bucket_settings.keys():
            return self.answer(200, self.s3.bucket_settings[next(iter(self.query))].encode())
        if not self.is_let_in():
            return self.refuse(403, "InvalidAccessKeyId")
        if self.bucket != self.s3.bucket:
            return self.refuse(404, "NoSuchBucket")
        if self.operation == "PUT":
            return self._put(body)
        if self.operation == "LIST":
            return self._list()
        if self.operation == "DELETE":
            with self.s3.lock:
                self.s3.objects.pop(self.key, None)
            return self.answer(204)
        stored = self.s3.objects.get(self.key)
        if stored is None:
            return self.refuse(404, "NoSuchKey")
        return self.describe(stored)

    def is_let_in(self) -> bool:
        return self.s3.accepted_key in self.headers.get("Authorization", "")

    def whole_body(self) -> bytes:
        """The request's body, read to its end once."""
        if self._body is None:
            self._body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        return self._body

    def commit(self) -> Stored:
        """Store the object, whatever is there."""
        names = [name for name in self.headers if name.lower().startswith(self.metadata_header)]
        metadata = {name.lower().removeprefix(self.metadata_header): self.headers[name] for name in names}
        stored = Stored(self.whole_body(), metadata)
        with self.s3.lock:
            self.s3.objects[self.key] = stored
        return stored

    def describe(self, stored: Stored, body: bytes | None = None) -> None:
        """Answer a HEAD or GET with an object, or with another body in its place."""
        content = stored.body if body is None else body
        headers = {
            "ETag": f'"{stored.etag}"',
            **{f"{self.metadata_header}{name}": value for name, value in stored.metadata.items()},
        }
        if self.headers.get("Range") == "bytes=0-0" and content:
            return self.answer(206, content[:1], {**headers, "Content-Range": f"bytes 0-0/{len(content)}"})
        return self.answer(200, content, headers)

    def refuse(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        """S3's error: a status, and an XML body unless it answers a HEAD."""
        self.whole_body()
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>scripted</Message></Error>"
        self.answer(status, text.encode(), {"Content-Type": "application/xml", **(headers or {})})

    def answer(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, *, length: int | None = None
    ) -> None:
        """``length`` is what Content-Length claims, if it lies; the connection is then closed after the body."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.operation != "HEAD":
            self.wfile.write(body)
        self.close_connection = self.close_connection or length is not None

    def reset(self) -> None:
        """Tear the connection down with a TCP reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        self.close_connection = True

    def _put(self, body: bytes) -> None:
        md5 = self.headers.get("Content-MD5")
        if md5 is not None and base64.b64decode(md5) != hashlib.md5(body, usedforsecurity=False).digest():
            return self.refuse(400, "BadDigest")
        stated = self.headers.get(SHA256) if self.s3.knows_sha256 else None
        if stated is not None and base64.b64decode(stated) != hashlib.sha256(body).digest():
            return self.refuse(400, "BadDigest")
        with self.s3.conditional:
            if self.headers.get("If-None-Match") == "*" and self.s3.honours_condition and self.key in self.s3.objects:
                return self.refuse(412, "PreconditionFailed")
            stored = self.commit()
        return self.answer(200, headers={"ETag": f'"{stored.etag}"', **({SHA256: stated} if stated else {})})

    def _list(self) -> None:
        prefix, after = self.query.get("prefix", ""), self.query.get("continuation-token", "")
        with self.s3.lock:
            keys = sorted(key for key in self.s3.objects if key.startswith(prefix) and key > after)
        page = keys[: self.s3.page_size]
        self.listing(page, token=page[-1] if len(keys) > len(page) else "")

    def listing(self, keys: list[str], *, token: str = "") -> None:
        """Answer a LIST with these keys, and a token if there is to be more."""
        sizes = {key: len(stored.body) for key, stored in self.s3.objects.items()}
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{sizes.get(key, 0)}</Size></Contents>" for key in keys
        )
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{escape(token)}</NextContinuationToken>"
        text = f"<ListBucketResult>{more if token else '<IsTruncated>false</IsTruncated>'}{contents}</ListBucketResult>"
        self.answer(200, text.encode(), {"Content-Type": "application/xml"})

    def _serve(self) -> None:
        self.s3 = self.server.s3
        self._body = None
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        self.understand(unquote(url.path).lstrip("/"))
        fault = self.s3.note(self)
        if fault is None:
            self.behave()
        else:
            fault(self)

    def understand(self, path: str) -> None:
        """What is asked for: bucket, key, operation."""
        self.bucket, _, self.key = path.partition("/")
        self.operation = "LIST" if "list-type" in self.query else self.command  # type: ignore[assignment]

    do_GET = do_HEAD = do_PUT = do_DELETE = _serve  # noqa: N815 - the names http.server looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Not to standard error."""


Fault = Callable[[Exchange], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    s3: ScriptedS3

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        # A client that gave up, or a handshake that it broke off, is what the tests are about.
        if not isinstance(error, OSError | ValueError):
            self.s3.failures.append(repr(error))


class ScriptedS3:
    """As a context manager it listens on 127.0.0.1 until the end. ``requests`` lists operation and key of all it got."""

    exchange: ClassVar[type[Exchange]] = Exchange

    def __init__(self, *, certificate: tuple[Path, Path] | None = None) -> None:
        self.bucket = "wal"
        self.accepted_key = "first-key"
        self.honours_condition = True
        self.knows_sha256 = False
        self.bucket_settings: dict[str, str] = {}
        """What it answers for ``?versioning`` and the like, as XML."""
        self.page_size = 1000
        self.objects: dict[str, Stored] = {}
        self.requests: list[tuple[Operation, str]] = []
        self.headers: list[Mapping[str, str]] = []
        self.failures: list[str] = []
        self.lock = threading.Lock()
        self.conditional = threading.Lock()
        self.closing = threading.Event()
        self._next: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}
        self._server = _Server(("127.0.0.1", 0), self.exchange)
        self._server.s3 = self
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def settings(self, **other: Any) -> S3Settings:
        """How to reach it, with time-outs that a busy machine does not reach."""
        return replace(self.settings_of(self.port), **{"endpoint": self.endpoint, **other})

    @staticmethod
    def settings_of(port: int) -> S3Settings:
        """As if such a server were, or had been, at that port."""
        return S3Settings(
            bucket="wal",
            endpoint=f"http://127.0.0.1:{port}",
            region="us-east-1",
            path_style=True,
            access_key_id="first-key",
            secret_access_key="a-secret-of-the-tests",
            connect_timeout=Seconds(10),
            read_timeout=Seconds(30),
        )

    def next(self, operation: Operation, *faults: Fault) -> None:
        """The next such requests meet these, one each."""
        self._next[operation].extend(faults)

    def always(self, operation: Operation, fault: Fault | None) -> None:
        """Every such request meets this, from now on; None: no longer."""
        if fault is None:
            self._always.pop(operation, None)
        else:
            self._always[operation] = fault

    def note(self, exchange: Exchange) -> Fault | None:
        with self.lock:
            self.requests.append((exchange.operation, exchange.key))
            self.headers.append({name.lower(): value for name, value in exchange.headers.items()})
            queue = self._next[exchange.operation]
            return queue.popleft() if queue else self._always.get(exchange.operation)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if error is None and self.failures:
            raise AssertionError(f"the scripted server itself failed: {self.failures}")


def refuse(status: int, code: str, **headers: str) -> Fault:
    """An S3 error. Headers' names are written with underscores."""
    return lambda exchange: exchange.refuse(
        status, code, {name.replace("_", "-"): value for name, value in headers.items()}
    )


def page(status: int, text: str = "<html><body>nothing here</body></html>") -> Fault:
    """What a proxy says, or a server that is not S3."""

    def fault(exchange: Exchange) -> None:
        exchange.whole_body()
        exchange.answer(status, text.encode(), {"Content-Type": "text/html"})

    return fault


def deaf(exchange: Exchange) -> None:
    """Take the request and never answer."""
    exchange.s3.closing.wait(30)
    exchange.close_connection = True


def drip(head: bytes) -> Fault:
    """Send ``head``, then one byte after the other until the client has had enough or the test ends."""

    def fault(exchange: Exchange) -> None:
        exchange.whole_body()
        exchange.wfile.write(head)
        exchange.close_connection = True
        with contextlib.suppress(OSError):
            while not exchange.s3.closing.wait(0.1):
                exchange.wfile.write(b"x")

    return fault


def swallow(exchange: Exchange) -> None:
    """Take the request's body slowly, though never so slowly that a single send times out, until the client has had enough or the test ends."""
    exchange.close_connection = True
    with contextlib.suppress(OSError):
        while not exchange.s3.closing.wait(0.1) and exchange.connection.recv(65536):
            pass


def reset_at(count: int) -> Fault:
    """Reset the connection after ``count`` bytes of the request's body; nothing is stored."""

    def fault(exchange: Exchange) -> None:
        exchange.rfile.read(count)
        exchange.reset()

    return fault


def commit_then_reset(exchange: Exchange) -> None:
    exchange.commit()
    exchange.reset()


def commit_then_answer(status: int, **headers: str) -> Fault:
    """Store the object, and answer with this status, without S3's ETag or with a wrong one."""

    def fault(exchange: Exchange) -> None:
        exchange.commit()
        exchange.answer(status, headers=headers)

    return fault


def say_yes(exchange: Exchange) -> None:
    """Answer a PUT with success and store nothing."""
    exchange.whole_body()
    exchange.answer(200, headers={"ETag": f'"{"0" * 32}"'})


def cut_answer(count: int) -> Fault:
    """Send the first ``count`` bytes of the object, and close in good order."""

    def fault(exchange: Exchange) -> None:
        body = exchange.s3.objects[exchange.key].body
        exchange.answer(200, body[:count], length=len(body))

    return fault
