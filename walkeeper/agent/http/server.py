"""What the agent serves over HTTP: the status page, its numbers, and two answers for probes. Only to be read.

It may never be in the way: connections are few and short, whatever their clients do, and nothing here waits for
PostgreSQL, the DCS or the store.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import threading
import time
import traceback
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from urllib.parse import urlsplit

from walkeeper.agent.http.metrics import Report, exposition
from walkeeper.errors import AgentError
from walkeeper.lib import events
from walkeeper.page.style import POLICY

CLIENT_SECONDS: Final = 10.0
"""Seconds for which a client may be silent."""
CONNECTION_SECONDS: Final = 20.0
"""Seconds that a connection may take altogether: a byte now and then does not keep it."""
MAX_CONNECTIONS: Final = 16
PAGE_SECONDS: Final = 1.0
"""Seconds for which a page is handed out again: making one takes some 20 ms of CPU, and many may look."""
READY_SECONDS: Final = 30.0
"""Seconds after which an observation no longer says how things are."""

_METHODS: Final = ("GET", "HEAD")
_PATHS: Final = ("/", "/metrics", "/health", "/ready")
_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"


class Pages:
    """Path to answer."""

    def __init__(self, report: Report, page: Callable[[], str]) -> None:
        self._report = report
        self._page = page
        self._made = threading.Lock()
        self._last: tuple[float, bytes] | None = None

    def answer(self, path: str, accept: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type, body."""
        if path == "/":
            return HTTPStatus.OK, "text/html; charset=utf-8", self._present_page()
        if path == "/metrics":
            return HTTPStatus.OK, *exposition(self._report, accept)
        if path == "/health":
            return _verdict({"troubles": _all_problems(self._report())})
        if path == "/ready":
            return _verdict({"not_ready": why_not_ready(self._report())})
        return HTTPStatus.NOT_FOUND, _TEXT, f"There are {', '.join(_PATHS)}.\n".encode()

    def _present_page(self) -> bytes:
        with self._made:
            if self._last is None or time.monotonic() - self._last[0] > PAGE_SECONDS:
                self._last = time.monotonic(), self._page().encode()
            return self._last[1]


def _verdict(document: dict[str, list[Any]]) -> tuple[HTTPStatus, str, bytes]:
    bad = any(document.values())
    return HTTPStatus.SERVICE_UNAVAILABLE if bad else HTTPStatus.OK, _JSON, json.dumps(document).encode() + b"\n"


def _all_problems(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Those with one of the other stores name it."""
    beside = [{"store": store["name"], **problem} for store in report["stores"] for problem in store["troubles"]]
    return [*report["troubles"], *beside]


def why_not_ready(report: dict[str, Any]) -> list[str]:
    """Why this agent could not take over, or go on, now. The store is not asked: PostgreSQL does not wait for it."""
    age = report["agent"]["looked_seconds_ago"]
    if age is None or age > READY_SECONDS:
        return ["the agent has not looked at everything yet" if age is None else f"its last look is {age:.0f} s old"]
    reasons = []
    if report["server"] is None:
        reasons.append("PostgreSQL does not answer")
    if not report["record_known"]:
        reasons.append("the DCS does not answer")
    return reasons


class _Request(BaseHTTPRequestHandler):
    server: _Server
    timeout = CLIENT_SECONDS
    server_version = "walkeeper"
    sys_version = ""

    def do_GET(self) -> None:
        self.server.has_asked(self.connection)
        if self.server.local and not _is_local_name(self.headers.get("Host", "")):
            # A page of somebody else's, whose name was pointed at this address, must not read ours.
            self._send(
                HTTPStatus.FORBIDDEN, _TEXT, b"It listens on this machine alone: ask for localhost, or for 127.0.0.1.\n"
            )
            return
        path = self.path.partition("?")[0]
        try:
            answer = self.server.pages.answer(path, self.headers.get("Accept", ""))
        except Exception as problem:  # noqa: BLE001 - a page that cannot be made is not a reason to stop archiving
            self.server.complain(path, problem)
            answer = HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"This page cannot be made. The agent's log says why.\n"
        self._send(*answer)

    do_HEAD = do_GET  # noqa: N815 - the base class calls it so

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """As the base class, for a request that is none; other methods are refused as HTTP says."""
        status = HTTPStatus(code)
        if status is HTTPStatus.NOT_IMPLEMENTED:
            status = HTTPStatus.METHOD_NOT_ALLOWED
        self.close_connection = True
        self._send(status, _TEXT, f"{status.phrase}. It can only be read: {', '.join(_METHODS)}.\n".encode())

    def _send(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", ", ".join(_METHODS))
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Nothing: it would be a line every few seconds."""


def _is_local_name(host: str) -> bool:
    """Whether a Host header names this machine by address or as localhost; one that is not sent is not a browser's."""
    try:
        name = urlsplit(f"//{host}").hostname if host else "localhost"
    except ValueError:
        return False
    if name is None or "@" in host:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Server(ThreadingMixIn, TCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, address: tuple[str, int], pages: Pages) -> None:
        self.pages = pages
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._open: dict[socket.socket, float] = {}
        """When each connection came, the oldest first."""
        self._asked: set[socket.socket] = set()
        """Those whose request is complete."""
        self._complained: set[str] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Request)
        self.local = ipaddress.ip_address(str(self.server_address[0])).is_loopback

    def process_request(self, request: Any, client_address: Any) -> None:
        """One thread each, up to the limit. At the limit the oldest that has not finished its request gives way: clients that
        say nothing keep nobody from an answer. Where all have asked, who comes after is told at once, without a thread.
        """
        with self._lock:
            idle = next((one for one in self._open if one not in self._asked), None)
            full = len(self._open) >= MAX_CONNECTIONS
            if full and idle is not None:
                del self._open[idle]
                with contextlib.suppress(OSError):
                    idle.shutdown(socket.SHUT_RDWR)  # its thread ends by that
                full = False
            if not full:
                self._open[request] = time.monotonic()
        if not full:
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.send(b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n")
        self.shutdown_request(request)

    def has_asked(self, request: socket.socket) -> None:
        with self._lock:
            self._asked.add(request)

    def service_actions(self) -> None:
        """Twice a second: end connections that have had their time."""
        now = time.monotonic()
        with self._lock:
            for request, since in self._open.items():
                if now - since > CONNECTION_SECONDS:
                    with contextlib.suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
            self._asked.discard(request)
        super().shutdown_request(request)

    def complain(self, path: str, problem: Exception) -> None:
        """About a bug of ours, once for each place."""
        frames = traceback.extract_tb(problem.__traceback__)
        at = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}"
        with self._lock:
            if at in self._complained:
                return
            self._complained.add(at)
        events.error(
            "page_failed",
            path=path,
            error=f"{type(problem).__name__}: {problem}",
            at=at,
            hint="This is a bug in walkeeper. It does not affect archiving.",
        )

    def handle_error(self, *_: object) -> None:
        """A client that went away."""


def serve(host: str, port: int, pages: Pages) -> Callable[[], None]:
    """Begin to serve; returns what ends it. Raises AgentError, as for a port that is taken: archiving goes on without."""
    try:
        server = _Server((host, port), pages)
    except OSError as error:
        raise AgentError(
            f"agent.listen {host}:{port}: {error.strerror}: neither the page nor metrics are served",
            hint="Set walkeeper.agent.listen to a free port, or to off, and reload the agent. Each on a host needs its own.",
        ) from None
    thread = threading.Thread(target=server.serve_forever, name="web", daemon=True)
    thread.start()

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end
