"""What lies on this host besides the backup: it is not written to, and the replay of WAL does not lead there.

``CREATE TABLESPACE`` is in the WAL with an absolute path. A server that replays it works in that directory, whoever else does,
and opens what lies there as its own.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from walkeeper.core.backup import Backup
from walkeeper.errors import CannotRestore
from walkeeper.postgres.postmasters import Postmaster, is_same, links, postmasters
from walkeeper.restore.directory.model import Plan


def check(plan: Plan) -> None:
    """That no directory that is written to is another server's, nor one that the WAL may lead to, and that those are empty.

    Raises CannotRestore. Writes nothing.
    """
    wal = plan.directory / "pg_wal"
    ours = {
        place: f"Choose another place with --tablespace {oid}=DIRECTORY." for oid, place in plan.tablespaces.items()
    }
    ours[plan.directory] = "Choose another one with --data-dir."
    if wal.is_symlink():
        ours[wal] = f"Is {plan.directory} a copy? The link goes with: {shlex.join(['rm', str(wal)])}"
    for server in (*postmasters(), *_configured(plan)):
        if not is_same(server.directory, plan.directory):
            for place, hint in ours.items():
                if what := server.owns(place, plan.backup.major):
                    raise CannotRestore(f"{place}: it is {what} of the server in {server.shown}", hint=hint)
    if which := newer_tablespace(plan.backup, plan.evidence.layout.system_identifier):
        raise CannotRestore(
            f"backup {plan.backup.id} lacks {which}: what is restored would work there, too, when its WAL makes it",
            hint="Restore on another host, or from a newer backup: walkeeper backup takes one.",
        )
    _check_left(plan)


def _check_left(plan: Plan) -> None:
    """In tablespaces that were made here after the backup: PostgreSQL makes the link again, and takes the directory as it is."""
    known = {space.oid for space in plan.backup.tablespaces}
    for oid, place in links(plan.directory).items():
        for left in (plan.directory / "pg_tblspc" / place).glob(f"PG_{plan.backup.major}_*"):
            if oid not in known and not _is_empty(left):
                away = shlex.join(["mv", str(left), str(left.with_name(f"old_{left.name}"))])
                raise CannotRestore(
                    f"{left}: it is of tablespace {oid}, which backup {plan.backup.id} lacks, and its WAL may make over that",
                    hint=f"Move it away, and remove it when all is well: {away}",
                )


def _is_empty(place: Path) -> bool:
    try:
        return not any(place.iterdir())
    except OSError:
        return False


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
