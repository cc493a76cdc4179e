"""One real PostgreSQL server, without Patroni: small, with fsync off, on 127.0.0.1 and a Unix socket."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Self

import psycopg

from tests.parts.binaries import major_of, postgres_bin
from tests.parts.processes import Host, Process, copy_tree, free_port, host, new_directory, wait_until
from walkeeper.core.wal_records import crc32c

SUPERUSER: Final = "postgres"
SUPERUSER_PASSWORD: Final = "postgres-secret"
REPLICATOR: Final = "replicator"
REPLICATOR_PASSWORD: Final = "replicator-secret"

SMALL: Final[Mapping[str, str]] = {
    "fsync": "off",
    "dynamic_shared_memory_type": "mmap",  # in the data directory, and gone with it: a server that was killed removes nothing
    "shared_buffers": "16MB",
    "max_connections": "30",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_worker_processes": "4",
    "max_parallel_workers": "0",
    "autovacuum": "off",
    "wal_keep_size": "0",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
}
"""Settings for a server that costs little and keeps no WAL that it need not keep."""

StopMode = Literal["smart", "fast", "immediate"]
_STOP_SIGNAL: Final[Mapping[StopMode, int]] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}


class Postgres:
    """A server in ``directory``. The context manager makes and starts it, and at the end kills it.

    ``auth`` is the method for every connection; with ``scram`` SUPERUSER_PASSWORD and REPLICATOR_PASSWORD are needed,
    which ``conninfo`` gives. ``settings`` go on top of SMALL.
    """

    def __init__(
        self,
        directory: Path,
        bin_dir: Path | None = None,
        *,
        segment_size_mb: int = 1,
        auth: Literal["trust", "scram-sha-256"] = "trust",
        settings: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory.resolve()
        self.bin_dir = bin_dir or postgres_bin()
        self.major = major_of(self.bin_dir)
        self.segment_size_mb = segment_size_mb
        self.auth = auth
        self.settings = dict(settings or {})
        self.env = dict(env or {})
        self.data = self.directory / "data"
        self.log = self.directory / "postgres.log"
        self.socket_dir = new_directory("s")
        self.port = free_port()
        self.host = Host("postgres", self.directory)
        self._postmaster: Process | None = None

    # -------------------------------------------------------------------------------------------------- life and death

    def init(self) -> None:
        """A cluster of its own, pg_hba.conf and the settings; the server is not started."""
        copy_tree(_new_cluster(self.bin_dir, self.segment_size_mb), self.data)
        _renew_identifier(self.data)
        lines = [f"{kind} all all {where} {self.auth}" for kind, where in (("local", ""), ("host", "127.0.0.1/32"))]
        lines += [
            f"{kind} replication all {where} {self.auth}" for kind, where in (("local", ""), ("host", "127.0.0.1/32"))
        ]
        (self.data / "pg_hba.conf").write_text("\n".join([*lines, ""]))
        self.configure({})

    def configure(self, settings: Mapping[str, str]) -> None:
        """Add settings; they count from the next start."""
        self.settings.update(settings)
        places = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_dir),
        }
        lines = [f"{name} = {quoted(value)}" for name, value in {**SMALL, **places, **self.settings}.items()]
        (self.data / "postgresql.conf").write_text("\n".join([*lines, ""]))

    def start(self, timeout: float = 60, *, wait: bool = True) -> None:
        """Start the postmaster as a child of this process and, unless told otherwise, wait until it answers."""
        self._postmaster = self.host.start(
            [self.bin_dir / "postgres", "-D", self.data], log=self.log, env=self.env, cwd=self.data
        )
        if wait:
            self.wait_ready(timeout)

    def wait_ready(self, timeout: float = 60) -> None:
        """Until it takes connections. Raises TimeoutError with the log's end, also when it went down instead."""
        wait_until(lambda: self._status() in {"ready", "down"}, f"PostgreSQL in {self.data}", timeout, logs=[self.log])
        if self._status() == "down":
            raise TimeoutError(
                f"PostgreSQL in {self.data}: it went down\n{self.log.read_text(errors='replace')[-4000:]}"
            )

    def _status(self) -> str:
        """The postmaster's own word: the eighth line of postmaster.pid (``src/include/utils/pidfile.h``)."""
        if not self.running:
            return "down"
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return "starting"
        ours = bool(lines) and lines[0] == str(self.pid)
        return lines[7].strip() if ours and len(lines) > 7 else "starting"

    @property
    def running(self) -> bool:
        return self._postmaster is not None and self._postmaster.alive

    @property
    def pid(self) -> int:
        if self._postmaster is None:
            raise RuntimeError("the server was not started")
        return self._postmaster.pid

    @property
    def process(self) -> Process:
        """The postmaster."""
        if self._postmaster is None:
            raise RuntimeError("the server was not started")
        return self._postmaster

    def stop(self, mode: StopMode = "fast", timeout: float = 60) -> None:
        self.process.stop(_STOP_SIGNAL[mode], timeout)

    def restart(self, mode: StopMode = "fast") -> None:
        self.stop(mode)
        self.start()

    def kill9(self) -> None:
        """SIGKILL to the postmaster and all its children."""
        self.host.kill9()

    def promote(self) -> None:
        """End recovery, and wait until it has ended."""
        self.execute("SELECT pg_promote(true, 30)")

    def close(self) -> None:
        """Kill it and remove its socket's directory; ``directory`` stays."""
        self.host.kill9()
        shutil.rmtree(self.socket_dir, ignore_errors=True)

    def __enter__(self) -> Self:
        if not self.data.exists():
            self.init()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------------------- SQL

    def conninfo(self, user: str = SUPERUSER, *, dbname: str = "postgres", socket: bool = False, **more: str) -> str:
        """A libpq connection string, with the password of the two roles that this module knows."""
        known = {SUPERUSER: SUPERUSER_PASSWORD, REPLICATOR: REPLICATOR_PASSWORD}.get(user, "")
        where = str(self.socket_dir) if socket else "127.0.0.1"
        facts: dict[str, str | int] = {
            "host": where,
            "port": self.port,
            "user": user,
            "password": known,
            "dbname": dbname,
            **more,
        }
        return psycopg.conninfo.make_conninfo("", **{"connect_timeout": 10, **facts})

    def connect(self, user: str = SUPERUSER, *, autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.conninfo(user), autocommit=autocommit)

    def execute(self, sql: str, parameters: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        """All rows of one statement; empty where it returns none."""
        with self.connect() as connection:
            cursor = connection.execute(sql.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def value(self, sql: str, parameters: Sequence[object] | None = None) -> Any:
        """The first column of the first row."""
        return self.execute(sql, parameters)[0][0]

    @property
    def system_identifier(self) -> int:
        return int(self.value("SELECT system_identifier FROM pg_control_system()"))

    # ------------------------------------------------------------------------------------------------------- WAL, slots

    @property
    def pg_wal(self) -> Path:
        return self.data / "pg_wal"

    def lsn(self) -> str:
        """Where its WAL ends: inserted on a primary, received or replayed on a standby."""
        return str(
            self.value(
                "SELECT CASE WHEN pg_is_in_recovery() "
                "THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_insert_lsn() END"
            )
        )

    def timeline(self) -> int:
        """A primary's current timeline."""
        return int(self.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")[:8], 16)

    def write_wal(self, mib: float) -> str:
        """That much incompressible WAL, without a table. Where it ends."""
        chunk = os.urandom(256 * 1024)
        with self.connect() as connection:
            for _ in range(max(1, round(mib * 4))):
                connection.execute("SELECT pg_logical_emit_message(false, 'ballast', %b::bytea)", [chunk])
        return self.lsn()

    def switch_wal(self) -> str:
        """End the current segment. The name of the segment that was ended."""
        with self.connect() as connection:
            connection.execute("SELECT pg_logical_emit_message(true, 'switch', 'x')")
            row = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
        assert row is not None
        return str(row[0])

    def complete_segments(self, count: int) -> list[str]:
        """End that many segments, nearly empty ones. Their names."""
        return [self.switch_wal() for _ in range(count)]

    def checkpoint(self) -> None:
        self.execute("CHECKPOINT")

    def segments(self) -> list[str]:
        """The segments in pg_wal, recycled ones for the future included, in order."""
        return sorted(path.name for path in self.pg_wal.iterdir() if len(path.name) == 24)

    def replication_role(self) -> None:
        """A role that may replicate and nothing else."""
        self.execute(f"CREATE ROLE {REPLICATOR} LOGIN REPLICATION PASSWORD '{REPLICATOR_PASSWORD}'")

    def physical_slot(self, name: str, *, reserve: bool = True) -> None:
        self.execute("SELECT pg_create_physical_replication_slot(%s, %s)", [name, reserve])

    def restart_lsn(self, slot: str) -> str | None:
        """Where the slot stands; None when it reserves nothing."""
        value = self.value("SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [slot])
        return None if value is None else str(value)

    # ------------------------------------------------------------------------------------------------ backup and restore

    def base_backup(self, target: Path, *, wal: Literal["none", "fetch", "stream"] = "none") -> Path:
        """A plain base backup. Without WAL, as for an archive, unless told otherwise."""
        self.host.run(
            [
                *(self.bin_dir / "pg_basebackup", "-d", self.conninfo(socket=True), "-D", target),
                *("-X", wal, "-c", "fast", "--no-sync", *(("--no-slot",) if wal == "stream" else ())),
            ]
        )
        return target


@cache
def _new_cluster(bin_dir: Path, segment_size_mb: int) -> Path:
    """What initdb makes, once for all of this run's servers: a copy costs a tenth of its time."""
    directory = new_directory("initdb", kept=True)
    password_file = directory / "password"
    password_file.write_text(SUPERUSER_PASSWORD)
    made = directory / "data"
    with host("initdb", directory) as machine:
        machine.run(
            [
                *(bin_dir / "initdb", "-D", made, "-U", SUPERUSER, "-A", "trust", "--pwfile", password_file),
                *("-E", "UTF8", "--locale=C", "--no-sync", f"--wal-segsize={segment_size_mb}"),
            ]
        )
    return made


def _renew_identifier(data: Path) -> None:
    """Another system identifier for a cluster that was never started; it is in its control file and at each segment's start."""
    identifier = struct.pack("=Q", secrets.randbits(62))
    control = data / "global" / "pg_control"
    content = control.read_bytes()
    sum_at = next(at for at in range(200, 1000, 4) if content[at : at + 4] == struct.pack("=I", crc32c(content[:at])))
    body = identifier + content[len(identifier) : sum_at]
    control.write_bytes(body + struct.pack("=I", crc32c(body)) + content[sum_at + 4 :])
    for segment in (path for path in (data / "pg_wal").iterdir() if len(path.name) == 24):
        with segment.open("r+b") as file:
            file.seek(24)  # XLogLongPageHeaderData's, after the header that every page has
            file.write(identifier)


def restore_server(
    backup: Path,
    directory: Path,
    restore_command: str,
    *,
    bin_dir: Path | None = None,
    signal_file: Literal["recovery.signal", "standby.signal"] = "recovery.signal",
    settings: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Postgres:
    """A server on a copy of a base backup that will recover with that command. It is not started yet."""
    server = Postgres(directory, bin_dir, settings=settings, env=env)
    copy_tree(backup, server.data)
    server.data.chmod(0o700)
    (server.data / "postgresql.auto.conf").write_text("")
    (server.data / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.1/32 trust\n")
    (server.data / signal_file).touch()
    server.configure(
        {
            "restore_command": restore_command,
            "recovery_target_timeline": "latest",
            "hot_standby": "on",
            **server.settings,
        }
    )
    return server


def quoted(value: str) -> str:
    """A value for postgresql.conf."""
    return "'" + value.replace("'", "''") + "'"
