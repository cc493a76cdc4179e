"""The part of Consul's key-value API that Patroni's client needs for a record. It proves the plumbing, not the server."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlparse


class FakeConsul:
    """Keys with a ModifyIndex, and ``?cas=``: 0 creates only, another number replaces that very index."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[bytes, int]] = {}
        self.index = 1
        self.lock = threading.Lock()
        self.stale_reads = 0
        """GETs that did not ask for a consistent answer."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"consul": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def put(self, key: str, value: bytes | None, cas: int | None = None) -> bool:
        with self.lock:
            if cas is not None and cas != self.keys.get(key, (b"", 0))[1]:
                return False
            self.index += 1
            self.keys.pop(key, None)
            if value is not None:
                self.keys[key] = (value, self.index)
            return True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    consul: FakeConsul

    def do_GET(self) -> None:
        url = urlparse(self.path)
        options = parse_qs(url.query, keep_blank_values=True)
        self.consul.stale_reads += "consistent" not in options
        wanted = url.path.removeprefix("/v1/kv/")
        with self.consul.lock:
            found = [
                {"Key": key, "Value": base64.b64encode(value).decode() or None, "ModifyIndex": index, "Flags": 0}
                for key, (value, index) in self.consul.keys.items()
                if key == wanted or ("recurse" in options and key.startswith(wanted))
            ]
        self._answer(200 if found else 404, found)

    def do_PUT(self) -> None:
        url = urlparse(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        cas = parse_qs(url.query).get("cas")
        done = self.consul.put(url.path.removeprefix("/v1/kv/"), body, int(cas[0]) if cas else None)
        self._answer(200, done)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Quiet."""

    def _answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Consul-Index", str(self.consul.index))
        self.end_headers()
        self.wfile.write(body)
