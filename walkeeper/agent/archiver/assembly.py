"""Puts the archiver of one ownership together: what it takes segments from, and what ships the tail."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from walkeeper.agent.archiver.archiver import Archiver
from walkeeper.agent.archiver.audit import Audit
from walkeeper.agent.archiver.commit import Commit
from walkeeper.agent.archiver.from_pg_wal import WithoutSpool
from walkeeper.agent.archiver.holding import HoldSlot
from walkeeper.agent.archiver.lease import Lease
from walkeeper.agent.archiver.life import Life
from walkeeper.agent.archiver.lost_wal import LostWal
from walkeeper.agent.archiver.one_run import OneRun
from walkeeper.agent.archiver.open_segment import PartialFile
from walkeeper.agent.archiver.ownership import Ownership
from walkeeper.agent.archiver.received import Received
from walkeeper.agent.archiver.receiving import Receiving
from walkeeper.agent.archiver.source import Source
from walkeeper.agent.archiver.streaming import Streaming
from walkeeper.agent.archiver.synchronous import Synchronous
from walkeeper.agent.archiver.tail import Tail
from walkeeper.agent.archiver.uploads import Uploads
from walkeeper.agent.archiver.whereabouts import Sources
from walkeeper.agent.observation import Observed
from walkeeper.agent.problems import Problems
from walkeeper.config import Config
from walkeeper.core.frontier import Frontier
from walkeeper.core.names import Segment
from walkeeper.core.synchronous import standby_name
from walkeeper.errors import ConfigError, PostgresError
from walkeeper.postgres.pg_receivewal import Receiver, find_program
from walkeeper.postgres.server import Server


def find_receiver(config: Config, major: int) -> Path | None:
    """pg_receivewal; where it does not stream it is only for WAL that was lost, and may be missing. Raises ConfigError."""
    try:
        return find_program(config.bin_dir, major)
    except ConfigError:
        if config.spools:
            raise
        return None


def assemble(
    config: Config,
    ownership: Ownership,
    sources: Sources,
    server: Server,
    slot: HoldSlot,
    observed: Observed,
    problems: Problems,
    run: OneRun,
) -> Archiver:
    """An archiver that is not started. ``server`` is for its own use; ``run`` is the run of it that was compared."""
    clock, archive = sources.clock, sources.archive
    frontier = Frontier(sources.history, ownership.record.position, archive.size)
    for first_listed, end in ownership.listed:
        frontier.add_listed(first_listed, end)
    shipped = _receives_here(config, sources, observed) and config.durability == "store"
    opened = _opened(config, sources, observed, shipped=shipped)
    tail = Tail(sources, opened, ownership.record.session, config.tail_interval, problems, shipped=shipped)
    lease = Lease() if shipped else None
    receiving: Receiving | None = None
    source: Source
    if isinstance(opened, Received):
        synchronous: Synchronous | None = None
        if lease is not None:
            name = standby_name(archive.layout.system_identifier)
            synchronous = Synchronous(opened, tail, lease, name, config.degrade_after, problems, clock)
        receiving = Receiving(sources, frontier, config.postgresql, observed, problems, opened, synchronous)
        source = WithoutSpool(sources, observed, receiving.flushed)
    elif opened is not None:
        try:
            observed.slot = server.slot(slot.name)
        except PostgresError as problem:
            observed.slot = problem  # the next look asks again
        ask_slot = partial(server.slot, slot.name)
        source = Streaming(sources, opened.receiver, config.spool_reserve, observed, problems, ask_slot)
    else:
        source = WithoutSpool(sources, observed)
    commit = Commit(ownership, frontier, source, server, slot, observed, problems, clock, lease)
    uploads = Uploads(archive, source, frontier, problems, clock)

    def first() -> int:
        return Segment.parse(ownership.record.start, archive.size).number

    return Archiver(
        frontier=frontier,
        source=source,
        uploads=uploads,
        commit=commit,
        lost=LostWal(sources, frontier, config.gap_patience, problems),
        life=Life(archive, ownership.record.life, ownership.record.owner, problems, clock),
        receiving=receiving,
        tail=tail,
        audit=Audit(sources, frontier, first, uploads.receipts, config.agent.read_back, problems),
        observed=observed,
        problems=problems,
        clock=clock,
        run=run,
    )


def _receives_here(config: Config, sources: Sources, observed: Observed) -> bool:
    """Without pg_receivewal; of a standby cluster's leader only where there is none."""
    return config.receiver == "builtin" and not (observed.in_recovery and sources.program)


def _opened(config: Config, sources: Sources, observed: Observed, *, shipped: bool) -> Received | PartialFile | None:
    """Where the open segment comes; None where nothing streams."""
    if _receives_here(config, sources, observed):
        return Received(sources.history, keep=config.tail_interval is not None, hand_out=shipped)
    if config.archiver == "command" or sources.program is None:
        return None
    spool, passwords = sources.spool.wal, config.spool_directory / "pgpass"
    return PartialFile(Receiver(sources.program, spool, config.postgresql, passwords, sources.clock), spool)
