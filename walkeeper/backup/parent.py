"""What an incremental builds on: the newest complete backup, and a server that has what it needs for one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

from walkeeper.archive import restorable
from walkeeper.archive.backups import Backups
from walkeeper.archive.open import Archives
from walkeeper.config import Config
from walkeeper.core.backup import Backup, BackupId
from walkeeper.core.incremental import chain_of
from walkeeper.errors import CannotTell, PostgresError, WalkeeperError
from walkeeper.lib import events
from walkeeper.postgres import base_backup
from walkeeper.postgres.base_backup import BEFORE_IT_BEGINS, BackupStream, Request, Start
from walkeeper.postgres.server import Server, ServerState
from walkeeper.verify.evidence import ask_the_dcs, open_records

BEGINS: Final = 300.0
"""Seconds in which an incremental begins, or a full one does instead: the server may wait for summaries of WAL without an end.
A checkpoint that takes its time gets more."""
_CHECKPOINT: Final = 120.0
"""Seconds for one on the leader."""
_REPLAYED: Final = 30.0
"""Seconds until a standby has replayed it."""
_LOOK: Final = 0.2
"""Seconds between two looks at that."""


@dataclass(frozen=True, slots=True)
class Parent:
    """``manifest`` is PostgreSQL's own of the backup with that id, proved."""

    id: str
    manifest: bytes


def newest_chain(
    config: Config, archives: Archives, server: ServerState, before: BackupId
) -> tuple[tuple[Backup, ...], str]:
    """Of the newest complete backup on the cluster's branch whose id is before that one; empty where there is none. And of a
    newer one that is damaged, or that a trial found damaged: its id, and what is wrong with it.

    By the record, where there is one. Raises BadFloor, BadHistory, CannotTell or the store's errors.
    """
    system, record = server.system_identifier, ask_the_dcs(config).record
    if record is not None and record.system_identifier == str(system):
        found = restorable.claimed(archives, record).windows
    else:
        looked = restorable.look(archives, system, server.segment_size, None)
        found = restorable.with_trials(archives.store, archives.layout(system), looked).windows
    there = [each for window in found.chains[found.kept.timeline] for each in window.backups if each.id < str(before)]
    chain = chain_of(there[-1], {each.id: each for each in found.complete}) if there else ()
    newest = chain[-1].id if chain else ""
    damaged = [each for each in found.judged if each.verdict == "damaged" and newest < each.backup.id < str(before)]
    return chain, f"{damaged[-1].backup.id}: {damaged[-1].why}" if damaged else ""


def lacking(backups: Backups, chain: Sequence[Backup]) -> str:
    """What the store has not of one of them, by names and sizes, in words; empty where it has them."""
    return next((f"{each.id} is damaged: {why}" for each in chain if (why := backups.lacks(each))), "")


def begin_incremental(
    config: Config, walsender: BackupStream, request: Request, parent: Parent, server: ServerState
) -> Start:
    """Raises PostgresError: the server has not what it needs for one."""
    if server.in_recovery:
        _checkpoint_on_leader(config)
    walsender.upload(parent.manifest)
    seconds, asked = BEFORE_IT_BEGINS if request.spread else BEGINS, time.monotonic()
    try:
        return walsender.begin(replace(request, incremental=True), seconds)
    except PostgresError:
        if time.monotonic() - asked < seconds:
            raise
        raise PostgresError(f"the server did not begin within {seconds:.0f} s") from None


def _checkpoint_on_leader(config: Config) -> None:
    """A standby's backup begins with the leader's last checkpoint, which must be newer than the parent's end: in a quiet cluster
    there is none. Without the right to make one it is tried all the same.
    """
    try:
        with closing(open_records(config)) as records:
            topology = records.topology()
        leads = None if topology.leader is None else topology.leader.name
        found = next((each for each in topology.members if each.name == leads), None)
        if found is None or not found.host or not found.port:
            raise CannotTell("leader: the DCS does not say where it is")
        leaders = config.postgresql.of_member(found.host, found.port)
        with (
            closing(Server(config.postgresql, _REPLAYED, base_backup.APPLICATION)) as standby,
            closing(Server(leaders, _CHECKPOINT, base_backup.APPLICATION)) as leader,
        ):
            end, until = leader.checkpoint(), time.monotonic() + _REPLAYED
            while not standby.survey("select to_json(pg_last_wal_replay_lsn() >= %s::pg_lsn)", str(end)):
                if time.monotonic() > until:
                    raise CannotTell(f"leader: its checkpoint at {end} was not replayed within {_REPLAYED:.0f} s")
                time.sleep(_LOOK)
    except (WalkeeperError, ImportError) as problem:
        role = '"{}"'.format(config.postgresql.user.replace('"', '""'))
        hint = f"A quiet cluster's backups from a standby are full then. As a superuser: grant pg_checkpoint to {role};"
        if "pg_checkpoint" not in str(problem):
            hint = getattr(problem, "hint", "")
        events.warning("no_checkpoint_on_leader", error=problem, hint=hint)
