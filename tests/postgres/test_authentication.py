"""Who listens at an address that the DCS says, or at the port of a server that is down, gets no password."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest

from tests.parts.binaries import all_postgres, postgres_bin
from tests.parts.processes import wait_until
from walkeeper.config import PostgresqlSettings
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import PostgresError
from walkeeper.lib.clock import SystemClock
from walkeeper.postgres.pg_receivewal import Receiver
from walkeeper.postgres.server import Server

CLEARTEXT: Final = struct.pack("!cII", b"R", 8, 3)
MD5: Final = struct.pack("!cII4s", b"R", 12, 5, b"salt")
REFUSED: Final = struct.pack("!cI", b"E", 6) + b"\0\0"
SECRET: Final = "very secret"


class Impostor:
    """Listens as PostgreSQL does, asks for a password in its own way, and keeps what it gets."""

    def __init__(self, question: bytes) -> None:
        self._question = question
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.asked = 0
        self.answers: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        try:
            while True:
                (size, code) = struct.unpack("!II", connection.recv(8, socket.MSG_WAITALL))
                if code not in (80877103, 80877104):  # neither TLS nor GSS is had here
                    break
                connection.sendall(b"N")
            connection.recv(size - 8, socket.MSG_WAITALL)
            self.asked += 1
            connection.sendall(self._question)
            if answer := connection.recv(4096):
                self.answers.append(answer)
            connection.sendall(REFUSED)
        except (OSError, struct.error):
            return


@pytest.fixture(params=[CLEARTEXT, MD5], ids=["in clear", "md5"])
def impostor(request: pytest.FixtureRequest) -> Iterator[Impostor]:
    server = Impostor(request.param)
    yield server
    server.close()


def own(port: int, *options: tuple[str, str], require_auth: str | None = None) -> PostgresqlSettings:
    return PostgresqlSettings("127.0.0.1", port, "replicator", SECRET, "postgres", options, require_auth)


@pytest.mark.skipif(psycopg.pq.version() < 160000, reason="this libpq does not have require_auth")
def test_p16_a_member_that_asks_for_the_password_gets_nothing_of_it(impostor: Impostor) -> None:
    server = Server(own(1).of_member("127.0.0.1", impostor.port), 10)
    for ask in (server.state, server.replay_timeline):
        with pytest.raises(PostgresError) as problem:
            ask()
        assert "did not get it" in problem.value.hint
    server.close()
    assert (impostor.asked, impostor.answers) == (2, [])


@pytest.mark.skipif(psycopg.pq.version() < 160000, reason="this libpq does not have require_auth")
@pytest.mark.parametrize("impostor", [CLEARTEXT], indirect=True)
def test_p16_who_listens_at_the_port_of_a_server_that_is_down_does_not_get_the_password_in_clear(
    impostor: Impostor,
) -> None:
    server = Server(own(impostor.port), 10)
    with pytest.raises(PostgresError, match="authentication method"):
        server.state()
    server.close()
    assert (impostor.asked, impostor.answers) == (1, [])


@pytest.mark.postgres
def test_p16_pg_receivewal_gives_a_member_no_password_either(impostor: Impostor, tmp_path: Path) -> None:
    newest = max(all_postgres())
    if newest < 16:
        pytest.skip("no libpq here has require_auth")
    program = postgres_bin(newest) / "pg_receivewal"
    settings = own(1).of_member("127.0.0.1", impostor.port)
    receiver = Receiver(program, tmp_path, settings, tmp_path / "passfile", SystemClock())
    receiver.start(Segment(1, 5, SegmentSize(MIB)))
    try:
        said = receiver.wait(60, lambda: False)
    finally:
        receiver.stop()
    assert "authentication method requirement" in said
    wait_until(lambda: impostor.asked > 0, "a connection")
    assert impostor.answers == []


def test_what_the_configuration_allows_is_asked_of_every_server(impostor: Impostor) -> None:
    server = Server(own(1, require_auth="password,md5").of_member("127.0.0.1", impostor.port), 10)
    with pytest.raises(PostgresError):
        server.state()
    server.close()
    assert len(impostor.answers) == 1


@pytest.mark.parametrize(
    ("options", "binding"),
    [
        ({}, None),
        ({"sslmode": "prefer"}, None),
        ({"sslmode": "require"}, "require"),
        ({"sslmode": "verify-full", "channel_binding": "prefer"}, "prefer"),
        ({"sslmode": "verify-full", "sslcert": "/etc/cert.pem"}, None),
    ],
)
def test_where_tls_is_demanded_the_password_is_bound_to_the_connection(
    options: dict[str, str], binding: str | None
) -> None:
    settings = own(1, *options.items()).of_member("10.0.0.2", 5433)
    assert dict(settings.options).get("channel_binding") == binding
    assert (settings.host, settings.port, settings.password) == ("10.0.0.2", 5433, SECRET)
    assert dict(own(1, *options.items()).options) == options
