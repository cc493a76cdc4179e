"""A server of our own on a data directory that nobody else needs: reached through a socket only, reaching nobody, soon over."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT, SIGTERM
from typing import Any, Final, NamedTuple, Self

from walkeeper.config import PostgresqlSettings
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.errors import CannotTell, PostgresError
from walkeeper.lib.child import bound
from walkeeper.postgres import programs
from walkeeper.postgres.server import Server

_QUICKLY: Final = 10.0
"""Seconds for an immediate shutdown."""
_TAIL: Final = 65536
"""Bytes at the end of a log that are looked at."""
_CONNECT: Final = 60.0
"""Seconds for an answer: it may be replaying, on a slow disk."""
_DATABASES: Final = ("template1", "postgres")
"""Those that are there mostly, and may be closed."""
_NOT_YET: Final = re.compile(
    "the database system is "  # SQLSTATE 57P03; psycopg gives none for a connection that was refused
    "|Is the server running"  # libpq, without a socket
    "|timeout expired|no answer within|canceling statement due to "
)
_SETTINGS: Final = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "hot_standby": "off",
    "restart_after_crash": "off",
    "archive_mode": "off",
    "max_logical_replication_workers": "0",
    "shared_preload_libraries": "",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "128MB",
    "min_dynamic_shared_memory": "0",
    "huge_pages": "off",
    "wal_keep_size": "0",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_min_messages": "warning",
    "log_error_verbosity": "default",
    "lc_messages": "C",
}
"""No addresses, no archiving, no subscriptions, no libraries that act by themselves; small, and in no need to last.

As it lets nobody in while it recovers, it needs none of the settings that the WAL says were raised. After a crash it is over, and
not waited for.
"""
_REDO: Final = re.compile(r"redo in progress, elapsed time: .*, current LSN: ([0-9A-F/]+)")
_WHY: Final = re.compile("FATAL:|PANIC:|HINT:|terminated by signal|restore_failed|hole_in_archive")
_MAKES: Final = re.compile(r"CONTEXT:  WAL redo at \S+ for Tablespace/CREATE: ([0-9]+) \"(.*)\"")
"""The server's words of what it could not replay, where that made a tablespace."""
_EVENT_TRIGGERS_CAN_BE_OFF: Final = 17
_NOBODY_ELSES_AMCHECK: Final = """do $$ begin
  if exists (select from pg_extension where extname = 'amcheck' and extnamespace <> 'pg_catalog'::regnamespace) then
    alter extension amcheck set schema pg_catalog;
  end if;
end $$"""


class Run(NamedTuple):
    """How a program ended, as Popen has it, and the files with what it said."""

    code: int
    out: Path
    err: Path


class ScratchServer:
    """Ends with this context, however that is left, and with this process. ``home`` is a directory that is ours alone, for what
    it needs besides its data directory. ``meanwhile`` is called again and again while a program or the shutdown is waited for;
    what it raises ends that. Not for a data directory that is going to be used.
    """

    def __init__(
        self, folder: Path, major: int, data: Path, config_file: Path, sockets: Path, home: Path, size: SegmentSize,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.sockets = sockets
        self._major = major
        self._data = data
        self._home = home
        self._log = home / "server.log"
        self._hba = home / "hba.conf"
        self._config_file = config_file
        self._segment = size // MIB
        self._meanwhile = meanwhile
        self._child: subprocess.Popen[bytes] | None = None
        self._server: Server | None = None

    def __enter__(self) -> Self:
        """Start it. Raises CannotTell."""
        self._hba.write_text("local all all trust\n")  # only we get to the socket
        settings = {
            **_SETTINGS,
            "config_file": str(self._config_file),
            "hba_file": str(self._hba),
            "min_wal_size": f"{2 * self._segment}MB",
            "max_wal_size": f"{max(1024, 4 * self._segment)}MB",
            "unix_socket_directories": str(self.sockets),
            **({"event_triggers": "off"} if self._major >= _EVENT_TRIGGERS_CAN_BE_OFF else {}),
        }
        command: list[str | Path] = [self.folder / "postgres", "-D", self._data]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("wb") as log:
            try:
                self._child = subprocess.Popen(
                    bound(command, SIGQUIT), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            except OSError as error:
                raise CannotTell(f"{command[0]}: cannot be started ({error.strerror})") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        if self._child is None:
            return
        for signal in (SIGQUIT, SIGKILL):
            if self._child.poll() is None:
                self._child.send_signal(signal)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._child.wait(_QUICKLY)

    def shut_down(self) -> None:
        """As a database that is whole, however long its last checkpoint takes. Raises CannotTell."""
        assert self._child is not None  # noqa: S101 - it was started
        if self._server is not None:
            self._server.close()
            self._server = None
        self._child.send_signal(SIGINT)
        if self._waited(self._child) != 0:
            raise self._ended()

    def ask(self, query: str, users: Iterable[str]) -> Any | None:
        """The one value of a query, as the first of those roles, in the first database, that it lets in; None where it does not
        answer yet.

        Raises CannotTell where it has ended, or refuses them all.
        """
        assert self._child is not None  # noqa: S101 - it was started
        if self._child.poll() is not None:
            raise self._ended()
        if self._server is not None:
            try:
                return self._server.survey(query)
            except PostgresError:  # replay may end a session
                self._server.close()
                self._server = None
                return None
        refusals = []
        for user, database in itertools.product(dict.fromkeys(users), _DATABASES):
            server = self._as(user, database)
            try:
                found = server.survey(query)
            except PostgresError as problem:
                server.close()
                if _NOT_YET.search(str(problem)):
                    return None
                refusals.append(str(problem).rpartition("FATAL: ")[2])
            else:
                self._server = server
                return found
        raise CannotTell(
            f"the restored server: it lets nobody in: {' / '.join(dict.fromkeys(refusals))}",
            hint="Set walkeeper.postgresql.user to a role that may connect to the database template1 or postgres.",
        )

    def move_amcheck(self, superuser: str, databases: Iterable[str]) -> str:
        """To where pg_amcheck would install it. In a schema in which users may create, it calls theirs, which fit better, as that
        superuser: so they would run programs on this host. Why it cannot be done; empty if it was.
        """
        for database in databases:
            server = self._as(superuser, database)
            try:
                server.do(_NOBODY_ELSES_AMCHECK)
            except PostgresError as problem:
                return f"database {database}: {problem}"
            finally:
                server.close()
        return ""

    @property
    def replayed(self) -> str:
        """Up to which position, by what its log says now and then; empty where it says nothing of it."""
        said = _REDO.findall(_end_of(self._log))
        return str(Lsn.parse(said[-1])) if said else ""

    def run(self, name: str, arguments: Iterable[str | Path]) -> Run:
        """One of PostgreSQL's programs to its end."""
        out, err = self._home / f"{name}.out", self._home / f"{name}.err"
        ours = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        with out.open("wb") as stdout, err.open("wb") as stderr:
            child = subprocess.Popen(
                bound([self.folder / name, *arguments], SIGTERM), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                env={**ours, "LC_ALL": "C", "PGOPTIONS": "-c statement_timeout=0 -c lock_timeout=0 -c lc_messages=C"},
            )  # fmt: skip
            try:
                code = self._waited(child)
            finally:
                child.kill()
                child.wait()
        return Run(code, out, err)

    def has(self, name: str) -> bool:
        """Whether that program is here, of the server's version, and runs."""
        path = self.folder / name
        return os.access(path, os.X_OK) and programs.major_of(path)[0] == self._major

    def _as(self, user: str, database: str) -> Server:
        settings = PostgresqlSettings(
            host=str(self.sockets), port=5432, user=user, password="", dbname=database, options=()
        )
        return Server(settings, _CONNECT)

    def _waited(self, child: subprocess.Popen[bytes]) -> int:
        """For its exit code; in short waits, so that a signal of ours is noticed whenever it comes."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(0.5)
            self._meanwhile()

    def _ended(self) -> CannotTell:
        """What its log says last of why."""
        if made := _MAKES.search(_end_of(self._log)):
            return newer_tablespace(f"tablespace {made[1]} in {made[2]}, which its WAL makes")
        lines = _end_of(self._log).splitlines()
        said = [line for line in lines if _WHY.search(line)]
        return CannotTell(
            f"the restored server ended: {' / '.join(said[-3:] or lines[-2:] or ['it said nothing'])}",
            hint="walkeeper verify --deep looks at every object that it reads. Where this host lacks something: another host.",
        )


def newer_tablespace(which: str) -> CannotTell:
    """The WAL behind the backup leads, or may lead, out of the server's directory. ``which``: the tablespace, and who has it."""
    problem = CannotTell(
        f"the backup lacks {which}: a restored server would work there, beside whoever does",
        hint="Take a base backup first: walkeeper backup. Then again.",
    )
    problem.of_this_backup = True
    return problem


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return file.read().decode("utf-8", "replace")
