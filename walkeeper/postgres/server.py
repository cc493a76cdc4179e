"""The local PostgreSQL, and other members', over SQL: what state it is in, where its slot stands.

A role with LOGIN and REPLICATION is enough for everything here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from walkeeper import __version__
from walkeeper.config import PostgresqlSettings
from walkeeper.config.model import NOT_IN_CLEAR
from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.errors import PostgresError
from walkeeper.lib.clock import outside, wall_seconds
from walkeeper.lib.deadline import Deadline, DeadlineExceeded
from walkeeper.postgres.postmaster_pid import socket_directory

APPLICATION: Final = "walkeeper"
AGENT: Final = f"{APPLICATION} agent "
AGENT_APPLICATION: Final = f"{AGENT}{__version__}"
"""What an agent calls its sessions: any role sees in pg_stat_activity, from any node, that one runs and which. Behind it one of
them says how much room pg_wal has, which no role can ask a server for.
"""
CONNECT_TIMEOUT: Final = 5
"""Seconds; libpq takes whole ones."""
_NO_PHRASE: Final = "none is configured"
"""For a key without one it changes nothing; for one that has one it keeps OpenSSL from asking on the terminal."""
SPARE_SECONDS: Final = 60.0
"""After which a session in a walsender's place is given back, for a usual one if there is room by then."""
_NOT_THERE: Final = ("Connection refused", "No such file or directory")
NOT_THERE: Final = "Start the server; if it runs, say in walkeeper.postgresql.host and port where it listens."
"""Of the local server: another member's address is Patroni's."""
_NO_SLOT: Final = ("too many", "remaining connection slots")
_NOBODY_ELSES: Final = "-c search_path=pg_catalog"
"""What users of the database have made is not called, however well it fits, nor by a search path that they gave the database."""
_KNOWS_REQUIRE_AUTH: Final = 160000
"""The version of libpq that has it."""

_T = TypeVar("_T")

# On a promoted server the name of the current segment carries the timeline at once; pg_control only after the next
# checkpoint. In recovery a role without pg_read_all_stats sees only that of the last restartpoint: replay_timeline knows.
_STATE: Final = """
select s.system_identifier,
       pg_is_in_recovery(),
       case when pg_is_in_recovery()
            then greatest(r.min_recovery_end_timeline, c.timeline_id)
            else ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int end,
       case when pg_is_in_recovery()
            then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            else pg_current_wal_flush_lsn() end,
       (select setting::bigint * case unit when '8kB' then 8192 when 'MB' then 1048576 else 1 end
          from pg_settings where name = 'wal_segment_size'),
       current_setting('server_version_num')::int,
       current_setting('wal_level')
  from pg_control_system() s, pg_control_checkpoint() c, pg_control_recovery() r"""

_SLOT: Final = """
select slot_type, restart_lsn, active_pid, coalesce(wal_status, '') from pg_replication_slots where slot_name = %s"""


_ARCHIVER: Final = """
select current_setting('archive_mode'), archived_count, last_archived_wal, failed_count, last_failed_wal,
       coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)
  from pg_stat_archiver"""

# Another role's session shows what it waits for to members of pg_read_all_stats alone.
_COMMITS: Final = """
select case when pg_has_role('pg_read_all_stats', 'usage')
            then (select count(*) from pg_stat_activity where wait_event = 'SyncRep') end,
       current_setting('synchronous_standby_names'),
       (select count(*) from pg_stat_replication where application_name = %s)"""

# Anybody may call a session so; an agent's role may replicate.
_AGENTS: Final = """
select array(select application_name from pg_stat_activity a join pg_roles r on r.oid = a.usesysid
              where starts_with(application_name, %s) and (rolreplication or rolsuper))"""


def require_auth(settings: PostgresqlSettings) -> str:
    """What libpq 16 and newer call that; older ones refuse a connection string with it."""
    return settings.require_auth or NOT_IN_CLEAR


def conninfo(settings: PostgresqlSettings, **more: str | int) -> str:
    """A libpq connection string, without secrets and without what not every libpq takes.

    For ``replication`` its database is called so, as pg_receivewal does it: .pgpass is looked through for that name. With
    ``replication="database"`` it is the database itself, and the session one for SQL in a walsender's place. Raises
    PostgresError where the running server says where its socket is, and none runs: libpq's own directory may be another's.
    """
    host = settings.host
    if not host and settings.data_dir is not None:
        host = socket_directory(str(settings.data_dir))
        if not host:
            raise PostgresError(
                f"{settings.data_dir}: no server with a Unix socket runs there",
                hint="If one runs, say in walkeeper.postgresql.host where it listens: an address, or its socket's directory.",
            )
    parameters: dict[str, str | int | None] = {
        "host": host or None,
        "hostaddr": settings.hostaddr or "",  # which PGHOSTADDR would give else: another server
        "port": settings.port,
        "user": settings.user,
        "dbname": settings.dbname if more.get("replication", "database") == "database" else "replication",
        "connect_timeout": CONNECT_TIMEOUT,
        "tcp_user_timeout": 10000,
        "application_name": APPLICATION,
        "target_session_attrs": "any",  # whatever PGTARGETSESSIONATTRS says: a standby is asked, too
        **dict(settings.options),
        **more,
    }
    return make_conninfo("", **parameters)


def connect(settings: PostgresqlSettings, **more: str) -> psycopg.Connection[tuple[object, ...]]:
    """A session, or with ``replication="true"`` a walsender. Raises psycopg.Error, or PostgresError as ``conninfo``."""
    if psycopg.pq.version() >= _KNOWS_REQUIRE_AUTH:
        more["require_auth"] = require_auth(settings)
    return psycopg.connect(
        conninfo(settings, **more),
        password=settings.password,
        sslpassword=settings.sslpassword or _NO_PHRASE,
        autocommit=True,
        prepare_threshold=None,
        cursor_factory=psycopg.ClientCursor
        if "replication" in more
        else psycopg.Cursor,  # a walsender knows no parameters
    )


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server at one moment. ``lsn`` is how far its WAL is flushed (in recovery: received or replayed).

    ``timeline`` is exact on a primary; in recovery it may be an older one until the next restartpoint.
    """

    system_identifier: int
    in_recovery: bool
    timeline: int
    lsn: Lsn
    segment_size: SegmentSize
    major: int
    wal_level: str


@dataclass(frozen=True, slots=True)
class CommandState:
    """How PostgreSQL's own archiver fares. ``fails``: its last call of archive_command failed."""

    mode: str
    archived_count: int
    last_archived: str | None
    failed_count: int
    last_failed: str | None
    fails: bool


@dataclass(frozen=True, slots=True)
class CommitsState:
    """``waiting``: how many sessions wait for a synchronous standby; None where this role cannot see it of all. ``connected``:
    how many replicate under the name of the standby that was asked for.
    """

    waiting: int | None
    standby_names: str
    connected: int


class Server:
    """One server. Every call returns or raises PostgresError within ``timeout`` seconds, also when the server hangs.

    The connection is kept from call to call and made again after a failure. Safe for several threads, whose calls take turns.
    """

    def __init__(self, settings: PostgresqlSettings, timeout: float, application: str = APPLICATION) -> None:
        self.settings = settings
        self._application = application
        self._timeout = timeout
        self._deadline = Deadline(f"postgresql-{settings.port}")
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        self._again_at = math.inf
        """Until then a walsender's place is used."""

    def state(self) -> ServerState:
        row = self._one(_STATE, ())
        return ServerState(
            int(str(row[0])), bool(row[1]), int(str(row[2])), Lsn.parse(str(row[3])),
            SegmentSize(int(str(row[4]))), int(str(row[5])) // 10000, str(row[6]),
        )  # fmt: skip

    def clock_ahead(self) -> float:
        """Seconds by which its clock is ahead of ours."""
        before = wall_seconds()
        (now,) = self._one("select extract(epoch from clock_timestamp())::float8", ())
        return outside(float(str(now)), before, wall_seconds())

    def replay_timeline(self) -> int:
        """The timeline that a server in recovery replays, by the replication protocol, on a connection of its own."""

        def identify(_: psycopg.Connection[tuple[object, ...]]) -> int:
            link = connect(self.settings, replication="true")
            with link:
                answer = link.pgconn.exec_(b"IDENTIFY_SYSTEM")
                return int(answer.get_value(0, 1) or 0)

        return self._run(identify)

    def slot(self, name: str) -> SlotState | None:
        """The slot's state; None where there is none of that name."""
        row = self._maybe_one(_SLOT, (name,))
        if row is None:
            return None
        restart = None if row[1] is None else Lsn.parse(str(row[1]))
        return SlotState(
            row[0] == "physical", restart, None if row[2] is None else int(str(row[2])), row[3] == "lost", row[3] == "unreserved"
        )  # fmt: skip

    def receives(self) -> bool:
        """Whether a standby streams from another server now. Any role may see that, and no more of it."""
        return bool(self._one("select exists (select from pg_stat_wal_receiver)", ())[0])

    def archive_command(self) -> CommandState:
        """``archive_mode`` and pg_stat_archiver."""
        row = self._one(_ARCHIVER, ())
        return CommandState(
            str(row[0]), int(str(row[1])), None if row[2] is None else str(row[2]),
            int(str(row[3])), None if row[4] is None else str(row[4]), bool(row[5]),
        )  # fmt: skip

    def commits(self, standby: str) -> CommitsState:
        """``standby``: who acknowledges."""
        waiting, names, there = self._one(_COMMITS, (standby,))
        return CommitsState(None if waiting is None else int(str(waiting)), str(names), int(str(there)))

    def advance_slot(self, name: str, lsn: Lsn) -> None:
        """Move a physical slot forward to ``lsn``."""
        self._one("select pg_replication_slot_advance(%s, %s::pg_lsn)", (name, str(lsn)))

    def checkpoint(self) -> Lsn:
        """Make one, which superusers and members of pg_checkpoint may (PostgreSQL 15), and say where WAL ends after it."""
        self.do("checkpoint")
        return self.state().lsn

    def do(self, statement: str) -> None:
        """One that returns nothing."""
        self._run(lambda connection: connection.execute(statement.encode()))

    def survey(self, query: str, *parameters: object) -> Any:
        """The one value of a query that returns one row: a JSON document, decoded."""
        return self._one(query, parameters)[0]

    def call_itself(self, name: str) -> None:
        """From now on this session's name, which any role sees in pg_stat_activity; 63 characters of it."""
        self._application = name
        self._one("select set_config('application_name', %s, false)", (name,))

    def agents(self) -> list[str]:
        """What the agents call themselves that have sessions there: the server's own one has two."""
        rows = self._one(_AGENTS, (AGENT,))
        return list(rows[0]) if isinstance(rows[0], list) else []

    def begin_anew(self) -> None:
        """Let the next call make a session: one that died while nobody used it would say so there."""
        self._drop()

    def close(self) -> None:
        """Drop the connection. The server is not asked."""
        self._deadline.close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _one(self, query: str, parameters: tuple[object, ...]) -> tuple[object, ...]:
        row = self._maybe_one(query, parameters)
        if row is None:
            raise PostgresError(f"{self._name}: no row where there is always one")
        return row

    def _maybe_one(self, query: str, parameters: tuple[object, ...]) -> tuple[object, ...] | None:
        return self._run(lambda connection: connection.execute(query.encode(), parameters).fetchone())

    def _run(self, work: Callable[[psycopg.Connection[tuple[object, ...]]], _T]) -> _T:
        def on_its_connection() -> _T:
            try:
                return work(self._connected())
            except psycopg.Error:
                self._drop()
                raise

        try:
            return self._deadline.call(on_its_connection, self._timeout)
        except DeadlineExceeded:
            raise PostgresError(f"{self._name}: no answer within {self._timeout:g} s") from None
        except psycopg.Error as error:
            raise PostgresError(f"{self._name}: {_one_line(error)}", hint=hint_for(str(error))) from None

    def _connected(self) -> psycopg.Connection[tuple[object, ...]]:
        if self._connection is not None and time.monotonic() >= self._again_at:
            self._drop()
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """Where clients hold all connections, in a walsender's place: with ``durability: store`` they may wait for us."""
        more = {
            "options": f"-c statement_timeout={int(self._timeout * 1000)} -c timezone=UTC {_NOBODY_ELSES}",
            "application_name": self._application,
        }
        self._again_at = math.inf
        try:
            return connect(self.settings, **more)
        except psycopg.OperationalError as refused:
            if not any(words in str(refused) for words in _NO_SLOT):
                raise
            with suppress(psycopg.Error):
                found = connect(self.settings, replication="database", **more)
                self._again_at = time.monotonic() + SPARE_SECONDS
                return found
            raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @property
    def _name(self) -> str:
        return f"postgresql at {self.settings.host or 'its Unix socket'}:{self.settings.port}"


def _one_line(error: psycopg.Error) -> str:
    return " ".join(str(error).split())


def hint_for(text: str) -> str:
    """What to do about a refusal, from the server's or libpq's own words; "" where they say it themselves."""
    if "pg_hba.conf" in text:
        return "Allow this role in pg_hba.conf, for its database and for replication; or set walkeeper.postgresql.user."
    if "authentication method requirement" in text or "channel binding required" in text:
        return (
            "This server asks for the password in a weaker way than SCRAM, or is not who it should be: it did not get it. Set "
            "the role's password again where password_encryption is scram-sha-256; or say in walkeeper.postgresql.require_auth "
            "(or channel_binding) what is allowed."
        )
    if "private key file" in text and any(word in text for word in ("decrypt", "password", "cancelled")):
        return "The pass phrase of a client's key comes from patroni.yml: authentication.replication.sslpassword."
    if "password authentication" in text or "no password supplied" in text:
        return (
            "The password comes from patroni.yml (authentication.replication), walkeeper.postgresql.password_file, or "
            "the ~/.pgpass of the agent's user, where pg_receivewal needs a line for the database replication (or *)."
        )
    if "REPLICATION" in text or "replication role" in text:
        return "The role needs the attribute REPLICATION: alter role … replication; or set walkeeper.postgresql.user."
    if "max_wal_senders" in text:
        return "Raise max_wal_senders: the archiver needs one, and so do each replica and each base backup."
    if any(words in text for words in _NO_SLOT):
        return "Raise max_connections, or end what holds them."
    if any(words in text for words in _NOT_THERE):
        return NOT_THERE
    return ""
