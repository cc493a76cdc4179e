"""Before a promotion (design: "durability: store"): end the owner's session, wait for its lease, replay what the store has.

In this order. What the owner acknowledged until its lease was over was stored before, so that it is found; what it stores later
it no longer acknowledges. An owner whose server was shut down ends its session itself, and no lease is waited for.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.promotion import Standing, closed, ended, may_be_read, shared, standing
from walkeeper.core.record import Record
from walkeeper.core.synchronous import LEASE_OVER
from walkeeper.core.takeover import LocalServer, check_cluster
from walkeeper.dcs.base import Leader, RecordStore, Versioned
from walkeeper.dcs.claim import decoded
from walkeeper.errors import (
    CannotTell,
    CasConflict,
    DcsError,
    DcsUnavailable,
    NotLeader,
    PostgresError,
    PromotionVetoed,
    WalkeeperError,
)
from walkeeper.lib import events
from walkeeper.lib.clock import Clock
from walkeeper.postgres.server import ServerState
from walkeeper.promote.standby import Replay, Standby
from walkeeper.promote.stored import End, Stored
from walkeeper.promote.waited import ATTEMPTS

_T = TypeVar("_T")

STALLED: Final = 60.0
"""Seconds without any progress after which the promotion is vetoed."""
TOLD: Final = 5.0
"""Seconds between two lines about the progress."""
_TICK: Final = 0.5
"""Seconds between two looks: each takes a replication connection of its own."""
_AGAIN: Final = 1.0
"""Seconds before the DCS, the server or the store is asked again."""
_STUCK: Final = 3.0
"""Seconds without progress after which a walreceiver is ended."""
_RECEIVES_AGAIN: Final = 10.0
"""Seconds before the next one is: ``wal_retrieve_retry_interval`` lies between, which is 5 s unless it is set."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The member that is to be promoted, and one store. ``open_stored`` is the archive of the cluster that its server is of."""

    name: str
    records: RecordStore
    standby: Standby
    open_stored: Callable[[ServerState], Stored]
    clock: Clock
    stalled: float = STALLED
    """Seconds."""


class Before:
    """One run of it, at each store that commits wait for. ``run`` returns why the promotion may go on, or raises what vetoes it.

    ``lose``: a person accepts loss, so that what is a veto at one store keeps nothing else from being tried: it is raised at the
    end.
    """

    def __init__(self, *stores: Candidate, lose: bool = False) -> None:
        self._stores = stores
        self._me = stores[0]
        self._clock = self._me.clock
        self._lose = lose

    def run(self) -> str:
        server = self._server()
        if not server.in_recovery:
            return "this server is a primary already"
        while True:
            vetoes: list[WalkeeperError] = []
            closings = [self._tried(partial(self._close, each.records, server), vetoes) for each in self._stores]
            self._wait(max(LEASE_OVER if closing is None else closing[1] for closing in closings))
            reasons, ended = [], True
            for each, closing in zip(self._stores, closings, strict=True):
                record = None if closing is None else closing[0]
                reasons.append(self._tried(partial(self._replay, each, server, record), vetoes))
            for each, closing in zip(self._stores, closings, strict=True):
                if closing is not None:
                    still = self._tried(partial(self._still_ended, each.records, closing[0]), vetoes)
                    ended = ended and still is not False
            if ended and vetoes:
                raise vetoes[0]
            if ended:
                return "; ".join(why for why in reasons if why is not None)
            events.warning(
                "pre_promote_again", why="the archive had another owner meanwhile, who may have acknowledged more"
            )

    def _tried(self, attempt: Callable[[], _T], vetoes: list[WalkeeperError]) -> _T | None:
        """None where it failed, and loss is accepted."""
        try:
            return attempt()
        except NotLeader:
            raise
        except WalkeeperError as problem:
            if not self._lose:
                raise
            events.failure("pre_promote_goes_on", problem)
            vetoes.append(problem)
            return None

    def _wait(self, seconds: float) -> None:
        goes_on = "so long its owner may go on to acknowledge commits"
        said = "its owner's server was shut down, and it acknowledges nothing more"
        events.info("pre_promote_lease", seconds=seconds, why=goes_on if seconds else said)
        self._clock.sleep(seconds)

    def _replay(self, store: Candidate, server: ServerState, record: Record | None) -> str:
        return Replaying(store, store.open_stored(server), record).run()

    def _still_ended(self, records: RecordStore, record: Record | None) -> bool:
        """Whether nobody has owned the record since: the replay may have taken minutes. Raises as ``_close``."""
        found, _, _ = self._asking(partial(self._read, records))
        return (found and found.session) == (record and record.session)

    def _server(self) -> ServerState:
        until = self._clock.monotonic() + self._me.stalled
        while True:
            try:
                return self._me.standby.state()
            except PostgresError:
                if self._clock.monotonic() > until:
                    raise
                self._clock.sleep(_AGAIN)

    def _close(self, records: RecordStore, server: ServerState) -> tuple[Record | None, float]:
        """The record with its owner's session ended; as it is where it is this member's; None where there is none. And how many
        seconds its owner may go on to acknowledge.

        Raises NotLeader, WrongCluster, BadRecord, or an outage's error.
        """
        return self._asking(partial(self._try_to_close, records, server))

    def _asking(self, ask: Callable[[], _T]) -> _T:
        problem: DcsError = CasConflict("record in the DCS: somebody else wrote it each time")
        for _ in range(ATTEMPTS):
            try:
                return ask()
            except NotLeader:
                raise
            except CasConflict as conflict:
                problem = conflict
            except DcsUnavailable as silence:  # a write may have got through: then the next look finds it
                problem = silence
                self._clock.sleep(_AGAIN)
        raise problem

    def _read(self, records: RecordStore) -> tuple[Record | None, Versioned | None, Leader]:
        me = self._me.name
        versioned = records.read()
        leader = records.leader()  # after the record, as at a takeover
        if leader is None or leader.name != me:
            raise NotLeader(
                f"leader key: held by {leader.name if leader else 'nobody'}, not by {me}",
                hint="Patroni runs pre_promote while this member has it.",
            )
        claim = decoded(versioned)
        if versioned is not None and claim.problem is not None and may_be_read(versioned.document):
            raise claim.problem
        return claim.record, versioned, leader

    def _try_to_close(self, records: RecordStore, server: ServerState) -> tuple[Record | None, float]:
        me = self._me.name
        record, versioned, leader = self._read(records)
        if record is None:
            events.warning("pre_promote_without_record", why=decoded(versioned).why)
            return None, LEASE_OVER
        check_cluster(record, LocalServer(server.system_identifier, server.segment_size, History(1), server.lsn))
        if me in (record.owner, record.closed_by) and not ended(record):
            return record, LEASE_OVER
        ours = closed(record, me, uuid.uuid4().hex)
        records.write(ours.encode(), versioned, guard=leader)
        events.info("record_closed", owner=record.owner, frontier=record.lsn, timeline=record.timeline)
        return ours, 0.0 if ended(record) else LEASE_OVER  # it was just written over: no newer one says otherwise


class Replaying:
    """What the store has, and how the local server gets there."""

    def __init__(self, candidate: Candidate, stored: Stored, record: Record | None) -> None:
        self._standby = candidate.standby
        self._clock = candidate.clock
        self._stalled = candidate.stalled
        self._stored = stored
        self._record = record
        self._session = record.session if record is not None else ""
        self._found: tuple[History, End] | None = None
        self._wanted: Lsn | None = None
        self._history: History | None = None

    def run(self) -> str:
        """Why the promotion may go on. Raises PromotionVetoed, or what kept it from being known for too long."""
        last: object = None
        moved_at = well_at = told_at = self._clock.monotonic()
        received_at = moved_at - _RECEIVES_AGAIN
        while True:
            replay: Replay | None = None
            problem: WalkeeperError | None = None
            try:
                replay = self._standby.look()
                if not replay.in_recovery:
                    return "this server is a primary already"
                if (passes := self._judged(replay)) is not None:
                    return passes
            except WalkeeperError as found:
                if not found.waiting_helps:
                    raise
                problem = found
            now = self._clock.monotonic()
            if replay is not None and (replay.timeline, replay.replayed) != last:
                last, moved_at = (replay.timeline, replay.replayed), now
            well_at = now if problem is None else well_at
            if now - min(moved_at, well_at) > self._stalled:
                raise problem or self._stands(replay)
            if now - told_at >= TOLD:
                told_at = now
                self._tell(replay, problem)
            receiver = None if replay is None else replay.receiver
            if receiver is not None and now - moved_at > _STUCK and now - received_at > _RECEIVES_AGAIN:
                received_at = now
                self._standby.stop_receiving(receiver)
            self._clock.sleep(_TICK if problem is None else _AGAIN)

    def _judged(self, replay: Replay) -> str | None:
        """Why it may be promoted now; None: not yet. Raises PromotionVetoed, or what cannot be told yet."""
        found = self._end()
        if found is None:
            self._stored.check_none_waits(replay.waits_for)
            return "nothing was ever archived"
        its, end = found
        mine = self._own_history(replay.timeline)
        fork = _fork(its)  # what was acknowledged on the timelines before it lies below
        if standing(mine, replay.replayed, its, max(end.lsn, fork)) is Standing.THERE:
            return self._passes(replay, max(end.lsn, fork))
        if end.doubt is not None:
            raise end.doubt
        if self._wanted is None:
            floor = max(fork, shared(mine, replay.replayed, its))
            self._wanted = self._stored.last_record(end, its, self._session, floor)
        at = standing(mine, replay.replayed, its, self._wanted)
        if at is Standing.THERE:
            return self._passes(replay, self._wanted)
        if at is Standing.PARTED:
            raise PromotionVetoed(
                f"this standby is on timeline {mine.timeline}, which left timeline {its.timeline} at "
                f"{mine.parts_from(its)}, and commits were acknowledged up to {self._wanted}",
                hint=f"patronictl failover to a member on timeline {its.timeline}: while this one has more WAL, Patroni takes no "
                "other by itself. It is rewound or rebuilt once that one leads.",
            )
        if replay.paused:
            raise PromotionVetoed(
                f"replay is paused at {replay.replayed}, and commits were acknowledged up to {self._wanted}",
                hint="SELECT pg_wal_replay_resume() on this member.",
            )
        return None

    def _end(self) -> tuple[History, End] | None:
        """Read once it can be: what is stored after the lease was acknowledged by nobody. None where nothing was archived."""
        if self._found is not None:
            return self._found
        if self._record is not None:
            its, frontier = self._stored.history(self._record.timeline), self._record.position
        elif (newest := self._stored.newest()) is not None:
            its, frontier = newest
        else:
            return None
        begin = max(frontier, _fork(its))
        end = self._stored.end(its, begin, self._session)
        if end.lsn < frontier:
            raise CannotTell(
                f"the store has timeline {its.timeline} up to {end.lsn}, and the record says up to {frontier}",
                hint="Is it the right store? Put back what is missing: walkeeper verify lists it.",
            )
        if self._record is not None and end.lsn <= begin:  # an empty store, too, has everything up to a segment's start
            self._stored.check_has(self._record, its, self._session)
        events.info("pre_promote_end", timeline=its.timeline, end=end.lsn)
        self._found = its, end
        return self._found

    def _own_history(self, timeline: int) -> History:
        if self._history is None or self._history.timeline != timeline:
            self._history = self._standby.history(timeline, self._stored.history)
        return self._history

    def _passes(self, replay: Replay, wanted: Lsn) -> str:
        return f"replayed up to {replay.replayed} on timeline {replay.timeline}, and {wanted} is wanted"

    def _tell(self, replay: Replay | None, problem: WalkeeperError | None) -> None:
        if problem is not None:
            events.failure("pre_promote_waits", problem)
        elif replay is not None:
            events.info("pre_promote_waits", replayed=replay.replayed, timeline=replay.timeline, until=self._wanted)

    def _stands(self, replay: Replay | None) -> PromotionVetoed:
        if replay is None or self._found is None:
            raise AssertionError("it stands, and nothing is known of it")
        its, _ = self._found
        text = (
            f"replay stands at {replay.replayed} on timeline {replay.timeline}, and commits were acknowledged up to "
            f"{self._wanted} on timeline {its.timeline}"
        )
        segment = its.segment_at(replay.replayed, self._stored.size)
        try:
            lacks = not self._stored.has(segment, self._session)
        except WalkeeperError:
            lacks = False
        if lacks:
            return PromotionVetoed(
                f"{text}; the next segment, {segment}, is not in the store",
                hint="walkeeper verify lists what is missing.",
            )
        return PromotionVetoed(
            text,
            hint="The store has more: PostgreSQL's log says why it does not come. restore_command must be walkeeper's. "
            "A recovery_min_apply_delay holds replay up, too.",
        )


def _fork(history: History) -> Lsn:
    """Where its timeline begins."""
    return history.switches[-1].lsn if history.switches else Lsn(0)
