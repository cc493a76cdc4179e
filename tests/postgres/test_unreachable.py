"""A server that is down, and a pg_receivewal that cannot be tried: nobody else is asked, and neither is a refusal."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from walkeeper.config import Config, PostgresqlSettings
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.doctor import servers
from walkeeper.doctor.facts import ServerFacts, Unknown
from walkeeper.errors import PostgresError
from walkeeper.lib.clock import SystemClock
from walkeeper.postgres.pg_receivewal import Receiver, why_refused
from walkeeper.postgres.server import Server, conninfo

SIZE = SegmentSize(MIB)
LOCALHOST = PostgresqlSettings("localhost", 5432, "replicator", "secret", "postgres", ())


def test_p16_while_the_server_is_down_no_other_servers_socket_is_asked(tmp_path: Path) -> None:
    """Without a directory libpq takes its own, such as /tmp."""
    settings = PostgresqlSettings("", 5432, "replicator", "secret", "postgres", (), data_dir=tmp_path)
    receiver = Receiver(Path("/bin/true"), tmp_path, settings, tmp_path / "pgpass", SystemClock())
    server = Server(settings, 20)
    for ask in (lambda: conninfo(settings), server.state, lambda: receiver.start(Segment(1, 0, SIZE))):
        with pytest.raises(PostgresError, match="no server with a Unix socket runs there") as told:
            ask()
        assert "walkeeper.postgresql.host" in told.value.hint
    server.close()
    assert "host=" not in conninfo(PostgresqlSettings("", 5432, "replicator", None, "postgres", ()))


def test_a_server_that_is_down_is_to_be_started_or_its_address_named() -> None:
    with socket.socket() as bound:  # and nobody listens
        bound.bind(("127.0.0.1", 0))
        down = Server(replace(LOCALHOST, host="127.0.0.1", port=bound.getsockname()[1]), 20)
        with pytest.raises(PostgresError, match="Connection refused") as told:
            down.state()
    assert told.value.hint.startswith("Start the server; if it runs, say in walkeeper.postgresql.host and port")
    down.close()


def test_a_full_disk_keeps_doctor_from_trying_and_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(PostgresError, match="No space left on device"):
        why_refused(Path("/bin/true"), LOCALHOST, SIZE, SystemClock())
    monkeypatch.setattr(servers, "find_program", lambda *_: Path("/bin/true"))
    config: Any = SimpleNamespace(bin_dir=None, receiver="pg_receivewal", postgresql=LOCALHOST)
    found: Any = SimpleNamespace(state=SimpleNamespace(major=17, segment_size=SIZE))
    said = servers._trial(cast(Config, config), cast(ServerFacts, found))
    assert isinstance(said, Unknown)
    assert "No space left on device" in said.because
