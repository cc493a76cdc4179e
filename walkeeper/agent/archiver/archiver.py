"""The archiver: what runs while this node owns the record.

Four kinds of threads, and the data walks one way through them:

    source ─▶ [stream] ─ segments ─▶ [upload × n] ─ receipts ─▶ [stream: frontier] ─▶ [commit]
                  └─ what the server no longer has ─▶ [lost] ─ receipts, gaps ─┘

``stream`` tends the source (pg_receivewal and the spool, or pg_wal), hands complete segments out and puts the receipts in
order; ``uploads`` store them; ``commit`` does the rest in the order that is never bent: record, then hold slot, then the spool.
"""

from __future__ import annotations

import queue
import threading
from functools import partial
from pathlib import Path
from typing import Final

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
from walkeeper.agent.archiver.synchronous import AT_ONCE, Synchronous
from walkeeper.agent.archiver.tail import Tail
from walkeeper.agent.archiver.uploads import Uploads
from walkeeper.agent.archiver.whereabouts import Sources
from walkeeper.agent.observation import Observed
from walkeeper.agent.problems import Problems
from walkeeper.agent.threads import Supervisor
from walkeeper.config import Config
from walkeeper.core.about import About
from walkeeper.core.frontier import Frontier
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.synchronous import standby_name
from walkeeper.errors import ConfigError, PostgresError, SpoolError
from walkeeper.postgres.pg_receivewal import Receiver, find_program
from walkeeper.postgres.server import Server

TICK: Final = 0.1
"""Seconds between two looks into the spool."""
SPOOL_RETRY: Final = 0.5


def find_receiver(config: Config, major: int) -> Path | None:
    """pg_receivewal; where it does not stream it is only for WAL that was lost, and may be missing. Raises ConfigError."""
    try:
        return find_program(config.bin_dir, major)
    except ConfigError:
        if config.spools:
            raise
        return None


class Archiver:
    """Archives along one timeline, from the takeover until ``stop``. ``over`` is set when it was fenced."""

    def __init__(
        self,
        config: Config,
        ownership: Ownership,
        sources: Sources,
        server: Server,
        slot: HoldSlot,
        observed: Observed,
        problems: Problems,
        run: OneRun,
    ) -> None:
        """``server`` is for its own use; ``run`` is the run of it that was compared."""
        clock, archive = sources.clock, sources.archive
        self.run = run
        self.ownership = ownership
        self.history = sources.history
        self.size = archive.size
        self.observed = observed
        self._problems = problems
        self._clock = clock
        self._frontier = Frontier(self.history, ownership.record.position, self.size)
        for first_listed, end in ownership.listed:
            self._frontier.add_listed(first_listed, end)
        shipped = _receives_here(config, sources, observed) and config.durability == "store"
        opened = _opened(config, sources, observed, shipped=shipped)
        self.tail = Tail(sources, opened, ownership.record.session, config.tail_interval, problems, shipped=shipped)
        lease = Lease() if shipped else None
        self.synchronous: Synchronous | None = None
        """Where commits wait for the store."""
        self._receiving: Receiving | None = None
        self._source: Source
        if isinstance(opened, Received):
            if lease is not None:
                name = standby_name(archive.layout.system_identifier)
                self.synchronous = Synchronous(opened, self.tail, lease, name, config.degrade_after, problems, clock)
            self._receiving = Receiving(
                sources, self._frontier, config.postgresql, observed, problems, opened, self.synchronous
            )
            self._source = WithoutSpool(sources, observed, self._receiving.flushed)
        elif opened is not None:
            try:
                observed.slot = server.slot(slot.name)
            except PostgresError as problem:
                observed.slot = problem  # the next look asks again
            ask_slot = partial(server.slot, slot.name)
            self._source = Streaming(sources, opened.receiver, config.spool_reserve, observed, problems, ask_slot)
        else:
            self._source = WithoutSpool(sources, observed)
        self._commit = Commit(ownership, self._frontier, self._source, server, slot, observed, problems, clock, lease)
        self.over = self._commit.over
        self.uploads = Uploads(archive, self._source, self._frontier, problems, clock)
        self.receipts = self.uploads.receipts
        self.lost = LostWal(sources, self._frontier, config.gap_patience, problems)
        self._life = Life(archive, ownership.record.life, ownership.record.owner, problems, clock)
        self._audit = Audit(sources, self._frontier, self._first, self.receipts, config.agent.read_back, problems)
        self._offered: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._look_now = threading.Event()
        self._threads: list[threading.Thread] = []

    def _first(self) -> int:
        """The number of the archive's first segment, which moves with the floor."""
        return Segment.parse(self.ownership.record.start, self.size).number

    @property
    def stored_up_to(self) -> Lsn:
        """The frontier as the store knows it; the record may be behind while the DCS does not answer."""
        return self._frontier.lsn

    def has_in_hand(self, segment: Segment) -> bool:
        """Whether it is being stored, or will be next, and has not failed. Safe from every thread."""
        return self.uploads.has_in_hand(segment) and not self._stopping.is_set()

    def offer(self, receipt: Receipt, mtime_ns: int | None) -> None:
        """Somebody else on this node stored it: the frontier may pass it. Safe from every thread."""
        self.uploads.stored(receipt.segment)
        self.receipts.add(receipt, mtime_ns)
        self._offered.put(receipt)

    def look(self) -> None:
        """Take up what is complete or stored now, not at the next tick. Safe from every thread."""
        self._look_now.set()

    def start(self, supervisor: Supervisor, workers: int, uploads: int) -> None:
        """Begin. Call it once. At most ``workers`` segments are packed at the same time, and ``uploads`` are on their way."""
        self.uploads.pack_at_once(workers)
        self._threads = [
            supervisor.start("stream", self._stream),
            supervisor.start("commit", lambda: self._commit.run(self._stopping)),
            supervisor.start("lost", lambda: self.lost.run(self._stopping)),
            supervisor.start("tail", lambda: self.tail.run(self._frontier, self._stopping)),
            supervisor.start("life", lambda: self._life.run(self._stopping, self.over)),
            supervisor.start("audit", lambda: self._audit.run(self._stopping)),
            *self._start_receiving(supervisor),
            *(
                supervisor.start(f"upload-{number}", lambda: self.uploads.run(self._stopping, self.look))
                for number in range(uploads)
            ),
        ]

    def _start_receiving(self, supervisor: Supervisor) -> list[threading.Thread]:
        receiving, synchronous, threads = self._receiving, self.synchronous, list[threading.Thread]()
        if receiving is not None:
            threads.append(supervisor.start("receive", lambda: receiving.run(self._stopping)))
        if synchronous is not None:
            threads += [
                supervisor.start(f"ship-{number}", lambda: synchronous.run(self._stopping)) for number in range(AT_ONCE)
            ]
        return threads

    def stop(self, timeout: float) -> None:
        """End: what receives is stopped, uploads finish or are left for the next start; at most ``timeout`` seconds.

        A thread that is still inside the store then ends automatically; ``living`` tells.
        """
        self._stopping.set()
        if self.synchronous is not None:
            self.synchronous.end()
        for waiting in (self._commit.changed, self._commit.settled, self._look_now, self.lost.wake):
            waiting.set()
        until = self._clock.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - self._clock.monotonic()))
        self._problems.forget_archivers()

    @property
    def living(self) -> list[threading.Thread]:
        """Its threads that have not ended: while there are any, another one may not use the spool."""
        return [thread for thread in self._threads if thread.is_alive()]

    def _stream(self) -> None:
        try:
            while not self._stopping.is_set():
                if self.run.over:  # the observer ends this archiver
                    self._source.stop()
                    self._stopping.wait(TICK)
                    continue
                self._put_in_order()
                try:
                    lost = self._hand_out()
                    if lost is not None:
                        self.lost.suspect(lost, self.observed.lsn)
                        self._commit.changed.set()
                    self._problems.clear(About.ARCHIVER_SPOOL)
                except (SpoolError, PostgresError) as problem:
                    self._problems.report(About.ARCHIVER_SPOOL, problem)
                    self._stopping.wait(SPOOL_RETRY)
                self._look_now.wait(TICK)
                self._look_now.clear()
        finally:
            self._source.stop()

    def _put_in_order(self) -> None:
        moved = False
        for receipt in self.uploads.collect():
            self._commit.remove_later(receipt)
            self.tail.stored(receipt)
            moved = self._frontier.add(receipt) or moved
        for others in (self._offered, self.lost.found):
            while not others.empty():
                moved = self._frontier.add(others.get()) or moved
        self.ownership.begins = self.lost.begins
        while not self.lost.gaps.empty():
            gap = self.lost.gaps.get()
            self._commit.state_gap(gap.as_gap())  # before the frontier passes it
            self._frontier.add_gap(gap.first, gap.end_lsn)
        if moved and self.uploads.idle:
            self._commit.settled.set()
        if self.tail.advance(self._frontier) or moved:
            self._commit.changed.set()
        if self.synchronous is not None:
            self.synchronous.archived = self._frontier.unbroken()

    def _hand_out(self) -> Segment | None:
        """Each complete segment once. Returns a segment that the local server no longer has, else None."""
        self.uploads.hand_out(self._source.complete(self._frontier))
        return self._source.tend(self._frontier, self.uploads.taken)


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
