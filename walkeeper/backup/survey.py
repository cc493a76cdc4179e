"""The server that a base backup is taken of: what is asked of it before and after."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from walkeeper.config import PostgresqlSettings
from walkeeper.errors import PostgresError, WrongCluster
from walkeeper.lib import events
from walkeeper.postgres import base_backup
from walkeeper.postgres.base_backup import BackupStream
from walkeeper.postgres.server import Server, ServerState

_ANSWER: Final = 10.0
"""Seconds for an answer over SQL."""
_OLDEST: Final = base_backup.OLDEST // 10000

_FACTS: Final = """
select json_build_object('now', clock_timestamp(), 'version', current_setting('server_version'),
  'version_num', current_setting('server_version_num')::int, 'checksums', current_setting('data_checksums') = 'on',
  'blocks', current_setting('block_size')::int, 'files', pg_size_bytes(current_setting('segment_size')),
  'summarizes', coalesce(current_setting('summarize_wal', true) = 'on', false),
  'tablespaces', (select coalesce(json_agg(oid::bigint), '[]') from pg_tablespace
                  where spcname not in ('pg_default', 'pg_global')),
  'replicates', (select rolreplication or rolsuper from pg_roles where rolname = current_user))"""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """The server that is backed up. ``seen`` is its clock's, at ``monotonic`` of ours."""

    state: ServerState
    seen: datetime
    monotonic: float
    version_num: int
    checksums: bool
    blocks: int
    """Bytes of one."""
    files: int
    """Bytes of the largest of a relation."""
    tablespaces: tuple[int, ...]
    summarizes: bool
    """WAL, for incrementals."""

    def now(self) -> str:
        """By the server's clock, to the microsecond: a stop that is stated too early is chosen for a time before it."""
        return (self.seen + timedelta(seconds=time.monotonic() - self.monotonic)).isoformat(timespec="microseconds")


def connected(settings: PostgresqlSettings, source: Surveyed, opened: ExitStack) -> tuple[BackupStream, int]:
    """To the server that was looked at, and the timeline that it is on. Raises PostgresError or WrongCluster."""
    walsender = opened.enter_context(BackupStream(settings))
    found = walsender.identify()
    if found.system_identifier != source.state.system_identifier:
        raise WrongCluster(
            f"postgresql at {settings.host}:{settings.port}: it answers as system {source.state.system_identifier} "
            f"to SQL and as {found.system_identifier} to replication",
            hint="Name the server itself, not a proxy in front of several.",
        )
    return walsender, found.timeline


def survey(settings: PostgresqlSettings) -> Surveyed:
    """Everything that can be refused before the server has made a checkpoint for it. Raises PostgresError."""
    where = f"postgresql at {settings.host}:{settings.port}"
    with closing(Server(settings, _ANSWER, application=base_backup.APPLICATION)) as server:
        state, facts, now = server.state(), server.survey(_FACTS), time.monotonic()
    if state.major < _OLDEST:
        raise PostgresError(
            f"{where}: base backups need PostgreSQL {_OLDEST}, and this is {facts['version']}",
            hint="Go on taking them with pg_basebackup; the archive's WAL goes with any base backup.",
        )
    if not facts["replicates"]:
        quoted = '"{}"'.format(settings.user.replace('"', '""'))
        raise PostgresError(
            f"{where}: role {settings.user!r} may not replicate",
            hint=f"As a superuser: ALTER ROLE {quoted} REPLICATION; or set walkeeper.postgresql.user to one that may.",
        )
    return Surveyed(
        state, datetime.fromisoformat(facts["now"]), now, facts["version_num"], facts["checksums"],
        facts["blocks"], facts["files"], tuple(facts["tablespaces"]), facts["summarizes"],
    )  # fmt: skip


def stopped_at(settings: PostgresqlSettings, source: Surveyed) -> str:
    """When the backup stopped, by the server's clock; of a standby not before the last transaction that it has replayed,
    which has the time of the server that wrote it. A restore to a time goes by those.
    """
    at = source.now()
    if not source.state.in_recovery:
        return at
    try:
        with closing(Server(settings, _ANSWER, application=base_backup.APPLICATION)) as server:
            replayed = server.survey("select json_build_object('at', pg_last_xact_replay_timestamp())")["at"]
    except PostgresError as problem:
        events.failure("replayed_time_unknown", problem)
        return at
    return at if replayed is None else max(at, replayed, key=datetime.fromisoformat)
