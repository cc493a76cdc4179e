"""What the agent serves over HTTP, and what it does about clients that behave badly."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from typing import NoReturn

import pytest

from tests.agent.test_metrics import KNOWN, NOTHING_KNOWN, PROBLEM, Served
from tests.parts.processes import free_port, wait_until
from walkeeper.agent.http import server as web
from walkeeper.errors import AgentError
from walkeeper.lib import events


@pytest.fixture(scope="module")
def serving() -> Iterator[Served]:
    serving = Served()
    yield serving
    serving.end()


@pytest.fixture
def served(serving: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    monkeypatch.setattr(web, "PAGE_SECONDS", -1.0)
    serving.report, serving.page = deepcopy(KNOWN), "<!doctype html>"
    return serving


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    for kind in ("warning", "error"):
        monkeypatch.setattr(events, kind, lambda word, **facts: lines.append(events.line(word, facts)))
    return lines


def ask(served: Served, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


def test_health_is_bad_while_there_is_a_problem(served: Served) -> None:
    assert served.get("/health") == (200, '{"troubles": []}\n')
    served.report["troubles"] = [PROBLEM]
    status, text = served.get("/health")
    assert status == 503
    assert json.loads(text)["troubles"] == [PROBLEM]


def test_ready_is_who_sees_the_server_and_the_dcs(served: Served) -> None:
    served.report["troubles"] = [PROBLEM]
    assert served.get("/ready") == (200, '{"not_ready": []}\n')
    served.report = {**deepcopy(KNOWN), "server": None, "record_known": False}
    status, text = served.get("/ready")
    assert status == 503
    assert json.loads(text)["not_ready"] == ["PostgreSQL does not answer", "the DCS does not answer"]
    served.report = deepcopy(NOTHING_KNOWN)
    assert json.loads(served.get("/ready")[1])["not_ready"] == ["the agent has not looked at everything yet"]
    served.report["agent"]["looked_seconds_ago"] = 31.0
    assert json.loads(served.get("/ready")[1])["not_ready"] == ["its last look is 31 s old"]


def test_the_page_comes_with_a_policy_that_lets_nothing_else_run(served: Served) -> None:
    status, headers, body = ask(served, "GET", "/")
    assert (status, body) == (200, b"<!doctype html>")
    assert headers["content-type"] == "text/html; charset=utf-8"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_many_who_look_at_once_are_shown_the_same_page(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def page() -> str:
        made.append("")
        return f"page {len(made)}"

    pages = web.Pages(dict, page)
    monkeypatch.setattr(web, "PAGE_SECONDS", 3600.0)
    assert {pages.answer("/", "")[2] for _ in range(50)} == {b"page 1"}
    monkeypatch.setattr(web, "PAGE_SECONDS", -1.0)
    assert pages.answer("/", "")[2] == b"page 2"


@pytest.mark.parametrize("path", ["/", "/metrics", "/health", "/ready", "/elsewhere"])
def test_head_is_get_without_the_body(served: Served, path: str) -> None:
    status, headers, body = ask(served, "GET", path)
    told, head, nothing = ask(served, "HEAD", path)
    assert (told, nothing) == (status, b"")
    assert head["content-length"] == str(len(body))
    assert head["content-type"] == headers["content-type"]


@pytest.mark.parametrize("path", ["/elsewhere", "/metrics/", "/../etc/passwd", "/%2e%2e/", "/index.html"])
def test_another_path_is_not_found(served: Served, path: str) -> None:
    status, _, body = ask(served, "GET", path)
    assert (status, body) == (404, b"There are /, /metrics, /health, /ready.\n")


def test_a_query_changes_nothing(served: Served) -> None:
    assert ask(served, "GET", "/health?x=<script>")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_it_can_only_be_read(served: Served, method: str) -> None:
    status, headers, _ = ask(served, method, "/")
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_a_strange_name_is_refused_where_it_listens_for_this_machine(served: Served) -> None:
    for host in ("localhost:8018", "127.0.0.1", "[::1]:8018", "node.localhost"):
        assert ask(served, "GET", "/", Host=host)[0] == 200
    for host in ("evil.example", "evil.example:8018", "localhost.evil.example", "[", "a@b"):
        assert ask(served, "GET", "/", Host=host)[0] == 403


def test_a_request_that_is_none_is_answered_and_not_believed(served: Served) -> None:
    for text in (
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.0\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"\x16\x03\x01\x02\x00\r\n",
    ):
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as client:
            client.sendall(text)
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(100)
            assert answer == b"" or b" 200 " not in answer.splitlines()[0]
    assert served.get("/health")[0] == 200


def test_a_client_that_says_nothing_holds_up_nobody_and_is_cut_off(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web._Request, "timeout", 1.0)
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        assert served.get()[0] == 200
        client.settimeout(30)
        assert client.recv(1) == b""


def test_a_byte_now_and_then_does_not_keep_a_connection(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "CONNECTION_SECONDS", 0.5)

    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(b"GET / HTTP/1.0\r\n")

        def ended() -> bool:
            try:
                client.sendall(b"a: b\r\n")
            except OSError:
                return True
            return False

        wait_until(ended, "the end of the connection")


def test_a_client_that_does_not_read_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "CONNECTION_SECONDS", 2.0)
    served.page = "x" * (32 << 20)  # more than any socket's buffers
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        server = web_server_of(served)
        wait_until(lambda: server._open, "the connection")
        wait_until(lambda: not server._open, "the end of the connection")


def test_clients_that_say_nothing_or_half_a_request_keep_nobody_from_an_answer(served: Served) -> None:
    with ExitStack() as stack:
        for number in range(2 * web.MAX_CONNECTIONS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            client.sendall(b"GET /health HTTP/1.0\r\n" if number % 2 else b"")
        assert served.get("/health")[0] == 200
        assert len(web_server_of(served)._open) <= web.MAX_CONNECTIONS


def test_connections_are_few_and_who_comes_after_is_told(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 2)
    served.page = "x" * (32 << 20)  # more than any socket's buffers
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", served.port))) for _ in range(2)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        wait_until(lambda: len(web_server_of(served)._asked) == 2, "both requests")
        wait_until(lambda: len(web_server_of(served)._open) == 2, "both connections")
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as third:
            assert third.recv(100).startswith(b"HTTP/1.0 503 ")
        for client in clients:
            client.close()
        wait_until(lambda: served.get("/ready")[0] == 200, "an answer again")


def web_server_of(served: Served) -> web._Server:
    (found,) = {
        cell.cell_contents for cell in served.end.__closure__ or () if isinstance(cell.cell_contents, web._Server)
    }
    assert isinstance(found, web._Server)
    return found


def test_a_page_that_cannot_be_made_is_said_once_and_ends_nothing(
    served: Served, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> NoReturn:
        raise ZeroDivisionError("x")

    monkeypatch.setattr(web, "why_not_ready", broken)
    assert served.get("/ready")[0] == 500
    assert served.get("/ready")[0] == 500
    assert [line.partition(" path")[0] for line in said] == ["page_failed"]
    assert served.get("/health")[0] == 200


def test_a_port_that_is_taken_is_an_error_that_names_it(served: Served) -> None:
    pages = web.Pages(dict, str)
    for host in ("127.0.0.1", "256.0.0.1"):
        with pytest.raises(AgentError, match=f"agent.listen {host}:{served.port}: .*nor metrics are served") as told:
            web.serve(host, served.port, pages)
        assert "free port" in told.value.hint


def test_ipv6_is_served_too() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 on this machine")
    port = free_port()
    end = web.serve("::1", port, web.Pages(lambda: deepcopy(KNOWN), str))
    with urllib.request.urlopen(f"http://[::1]:{port}/health", timeout=30) as answer:
        assert answer.status == 200
    end()
