"""The servers of this host besides the one that is restored: what they have is not written to, now or by the replay of WAL.

``CREATE TABLESPACE`` is in the WAL with an absolute path. A server that replays it works in that directory, whoever else does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from walkeeper.core.backup import Backup
from walkeeper.errors import CannotRestore
from walkeeper.postgres.postmasters import Postmaster, is_same, postmasters
from walkeeper.restore.directory.model import Plan


def check(plan: Plan) -> None:
    """That no directory that is written to is another server's. Raises CannotRestore."""
    wal = plan.directory / "pg_wal"
    ours = dict.fromkeys(plan.tablespaces.values(), "Choose another place with --tablespace OLD=NEW.")
    ours[plan.directory] = "Choose another one with --data-dir."
    if wal.is_symlink():
        ours[wal] = f"Is {plan.directory} a copy? The link goes with: rm {wal}"
    for server in (*postmasters(), *_configured(plan)):
        if not is_same(server.directory, plan.directory):
            for place, hint in ours.items():
                if what := server.owns(place, plan.backup.major):
                    raise CannotRestore(f"{place}: it is {what} of the server in {server.shown}", hint=hint)


def newer_tablespace(backup: Backup, system_identifier: int) -> str:
    """One that a server of the cluster has on this host, and the backup has not; empty where there is none."""
    known = {space.oid for space in backup.tablespaces}
    for server in postmasters():
        newer = {oid: place for oid, place in server.tablespaces.items() if oid not in known}
        if newer and server.system_identifier == system_identifier:
            oid, place = min(newer.items())
            return f"tablespace {oid} in {place}, which the server in {server.shown} has"
    return ""


def _configured(plan: Plan) -> Iterator[Postmaster]:
    """The member's own server, which may run where /proc does not show it."""
    directory = plan.config.node.data_dir
    if directory is not None and (directory / "postmaster.pid").exists():
        yield Postmaster(0, directory, Path("/"), str(directory))
