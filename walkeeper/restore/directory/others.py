"""The servers of this host besides the one that is restored: what they have is not written to, now or by the replay of WAL.

``CREATE TABLESPACE`` is in the WAL with an absolute path. A server that replays it works in that directory, whoever else does.
"""

from __future__ import annotations

from walkeeper.core.backup import Backup
from walkeeper.postgres.postmasters import postmasters


def newer_tablespace(backup: Backup, system_identifier: int) -> str:
    """One that a server of the cluster has on this host, and the backup has not; empty where there is none."""
    known = {space.oid for space in backup.tablespaces}
    for server in postmasters():
        newer = {oid: place for oid, place in server.tablespaces.items() if oid not in known}
        if newer and server.system_identifier == system_identifier:
            oid, place = min(newer.items())
            return f"tablespace {oid} in {place}, which the server in {server.shown} has"
    return ""
