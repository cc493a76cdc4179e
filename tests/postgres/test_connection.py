"""SQL, pg_receivewal and doctor get in by the same way: .pgpass, Unix sockets, keys with a pass phrase. Nobody is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, Postgres
from tests.parts.processes import wait_until
from walkeeper.config import PostgresqlSettings
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.errors import PostgresError
from walkeeper.lib.clock import SystemClock
from walkeeper.postgres.pg_receivewal import Receiver, why_refused
from walkeeper.postgres.server import Server

pytestmark = pytest.mark.postgres
SIZE = SegmentSize(MIB)
LOCALHOST = PostgresqlSettings("localhost", 0, REPLICATOR, None, "postgres", (), hostaddr="127.0.0.1")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that wants a password over TCP, and takes everybody over its socket; over TLS a certificate is enough."""
    directory = tmp_path_factory.mktemp("guarded")
    certificates(directory)
    tls = {
        "ssl": "on",
        "ssl_cert_file": str(directory / "ca.crt"),
        "ssl_key_file": str(directory / "ca.key"),
        "ssl_ca_file": str(directory / "ca.crt"),
    }
    with Postgres(directory, auth="scram-sha-256", settings=tls) as server:
        server.replication_role()
        hba = ["local all all trust", "local replication all trust"]
        hba += [f"hostssl {database} {REPLICATOR} 127.0.0.1/32 cert" for database in ("all", "replication")]
        hba += [f"hostnossl {database} all 127.0.0.1/32 scram-sha-256" for database in ("all", "replication")]
        (server.data / "pg_hba.conf").write_text("\n".join([*hba, ""]))
        server.execute("SELECT pg_reload_conf()")
        yield server


def certificates(directory: Path) -> None:
    """One that signs itself, for the server; and a client's, whose key has a pass phrase."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=directory, check=True, capture_output=True, timeout=60)

    run(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=localhost"
    )
    run(
        "req",
        "-newkey",
        "rsa:2048",
        "-passout",
        "pass:open sesame",
        "-keyout",
        "client.key",
        "-out",
        "client.csr",
        "-subj",
        f"/CN={REPLICATOR}",
    )
    run(
        "x509",
        "-req",
        "-in",
        "client.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-out",
        "client.crt",
    )
    for key in ("ca.key", "client.key"):
        (directory / key).chmod(0o600)


@contextmanager
def environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[None]:
    """Without what of libpq's the machine has set."""
    with monkeypatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PG")]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def said(settings: PostgresqlSettings, server: Postgres) -> Mapping[str, str]:
    """What SQL, doctor's replication connection and pg_receivewal say; "" for each that gets in."""
    answers = {}
    sql = Server(settings, 20)
    for name, ask in (("sql", sql.state), ("replication", sql.replay_timeline)):
        try:
            ask()
            answers[name] = ""
        except PostgresError as problem:
            answers[name] = str(problem)
    sql.close()
    return {**answers, "pg_receivewal": why_refused(server.bin_dir / "pg_receivewal", settings, SIZE, SystemClock())}


@pytest.mark.parametrize("how", ["~/.pgpass", "PGPASSFILE", "PGPASSWORD"])
def test_a_password_that_libpq_finds_is_enough_for_pg_receivewal_too(
    guarded: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    passfile = tmp_path / ".pgpass"
    passfile.touch(0o600)
    passfile.write_text(f"localhost:{guarded.port}:*:{REPLICATOR}:{REPLICATOR_PASSWORD}\n")
    found = {
        "~/.pgpass": {"HOME": str(tmp_path)},
        "PGPASSFILE": {"PGPASSFILE": str(passfile)},
        "PGPASSWORD": {"PGPASSWORD": REPLICATOR_PASSWORD},
    }
    settings = replace(LOCALHOST, port=guarded.port, options=(("sslmode", "disable"),))
    with environment(monkeypatch, **found[how]):
        assert set(said(settings, guarded).values()) == {""}


def test_a_line_for_the_database_alone_lets_sql_in_and_doctor_sees_that_it_is_not_enough(
    guarded: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passfile = tmp_path / "pgpass"
    passfile.touch(0o600)
    passfile.write_text(f"localhost:{guarded.port}:postgres:{REPLICATOR}:{REPLICATOR_PASSWORD}\n")
    settings = replace(LOCALHOST, port=guarded.port, options=(("sslmode", "disable"),))
    with environment(monkeypatch, PGPASSFILE=str(passfile)):
        answers = said(settings, guarded)
    assert answers["sql"] == ""
    assert "no password supplied" in answers["replication"]
    assert "no password supplied" in answers["pg_receivewal"]


def test_a_password_of_the_configuration_goes_before_what_the_environment_says(
    guarded: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (("sslmode", "disable"),)
    settings = replace(LOCALHOST, port=guarded.port, password=REPLICATOR_PASSWORD, options=options)
    with environment(monkeypatch, PGPASSWORD="another", PGPASSFILE="/nowhere"):
        assert set(said(settings, guarded).values()) == {""}


def test_where_nothing_says_in_which_directory_the_socket_is_the_running_server_says_it(
    guarded: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(LOCALHOST, host="", hostaddr=None, port=guarded.port, data_dir=guarded.data)
    with environment(monkeypatch):
        assert set(said(settings, guarded).values()) == {""}


@pytest.mark.parametrize("where", ["socket", "address"])
def test_no_variable_sends_it_to_another_server(
    guarded: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    service = tmp_path / "services"
    service.write_text("[another]\nhostaddr=127.0.0.9\n")
    settings = replace(LOCALHOST, host="127.0.0.1", hostaddr=None, port=guarded.port, password=REPLICATOR_PASSWORD)
    if where == "socket":
        settings = replace(settings, host="", data_dir=guarded.data)
    variables = {
        "PGHOST": "127.0.0.9",
        "PGPORT": "1",
        "PGDATABASE": "nowhere",
        "PGUSER": "nobody",
        "PGSSLMODE": "disable",
    }
    for more in (
        {"PGHOSTADDR": "127.0.0.9", "PGTARGETSESSIONATTRS": "standby"},
        {"PGSERVICE": "another", "PGSERVICEFILE": str(service)},
    ):
        with environment(monkeypatch, **variables, **more):
            assert set(said(settings, guarded).values()) == {""}


def keyed(server: Postgres, phrase: str | None) -> PostgresqlSettings:
    directory = server.directory
    options = {"sslmode": "require", "sslcert": str(directory / "client.crt"), "sslkey": str(directory / "client.key")}
    return replace(LOCALHOST, port=server.port, options=tuple(options.items()), sslpassword=phrase)


def test_a_key_with_a_pass_phrase_opens_and_the_phrase_shows_nowhere(
    guarded: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = keyed(guarded, "open sesame")
    with environment(monkeypatch):
        assert set(said(settings, guarded).values()) == {""}
    receiver = Receiver(tmp_path, tmp_path, settings, tmp_path / "pgpass", SystemClock())
    secrets = receiver._secrets()
    try:
        shown = [receiver._conninfo(secrets), *receiver._environment(secrets).values()]
    finally:
        for descriptor in secrets.values():
            os.close(descriptor)
    assert list(secrets) == ["PGSERVICEFILE"]
    assert not [text for text in shown if "sesame" in text]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("phrase", [None, "wrong"])
def test_a_pass_phrase_that_is_not_known_is_asked_of_nobody(
    guarded: Postgres, monkeypatch: pytest.MonkeyPatch, phrase: str | None
) -> None:
    """In a process of its own that has a terminal: OpenSSL asks there, and not on standard input."""
    settings = keyed(guarded, phrase)
    with environment(monkeypatch):
        refused = said(settings, guarded)
        code = f"""
import pty, os, sys
pid, terminal = pty.fork()
if pid == 0:
    from walkeeper.config import PostgresqlSettings
    from walkeeper.postgres.server import Server
    try:
        Server({_source(settings)}, 20).state()
    except Exception as problem:
        print(problem, "HINT:", problem.hint, flush=True)
    os._exit(0)
said = b""
while True:
    try:
        part = os.read(terminal, 1024)
    except OSError:
        break
    if not part:
        break
    said += part
os.waitpid(pid, 0)
sys.stdout.buffer.write(said)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert all("private key file" in text for text in refused.values())
    assert "Enter PEM" not in done.stdout
    assert "authentication.replication.sslpassword" in done.stdout


def _source(settings: PostgresqlSettings) -> str:
    return (
        f"PostgresqlSettings('localhost', {settings.port}, {settings.user!r}, None, 'postgres', {settings.options!r}, "
        f"hostaddr='127.0.0.1', sslpassword={settings.sslpassword!r})"
    )


def test_where_clients_hold_all_connections_a_walsenders_place_is_taken_and_given_back(
    make_postgres: Callable[..., Postgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``durability: store`` they hold them until the agent, which has to connect, acknowledges."""
    few = {"max_connections": "8", "superuser_reserved_connections": "3", "max_wal_senders": "3"}
    postgres = make_postgres(settings=few)
    postgres.replication_role()
    postgres.physical_slot("hold")
    postgres.execute("CREATE ROLE app LOGIN")
    settings = PostgresqlSettings("127.0.0.1", postgres.port, REPLICATOR, REPLICATOR_PASSWORD, "postgres", ())
    server = Server(settings, 10.0)
    kind = "select to_json(backend_type) from pg_stat_activity where pid = pg_backend_pid()"
    try:
        with ExitStack() as clients:
            with suppress(psycopg.OperationalError):
                while True:
                    clients.enter_context(psycopg.connect(postgres.conninfo(user="app")))
            assert server.survey(kind) == "walsender"
            assert server.state().system_identifier == postgres.system_identifier
            slot = server.slot("hold")
            assert slot is not None
            server.advance_slot("hold", server.state().lsn)
            assert server.slot("hold") != slot
            assert not server.commits("nobody").connected
            server.close()
            monkeypatch.setattr("walkeeper.postgres.server.SPARE_SECONDS", 0.0)
            server = Server(settings, 10.0)
            assert server.survey(kind) == "walsender"
            assert server.survey(kind) == "walsender"
        wait_until(lambda: server.survey(kind) == "client backend", "the clients' end")
        assert server.survey(kind) == "client backend"
    finally:
        server.close()
