"""The cluster's jobs, each one document in the DCS: by it the members agree on who takes the next base backup, or proves by a
restore that backups restore. No I/O.

The record's owner makes one for each moment of the schedule. Members bid for it by compare-and-set, and who has it beats. That
two of them run after all, because one was taken for dead, is harmless: pieces are named by their content, and one document
makes a backup.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from walkeeper.core import amounts
from walkeeper.core.backup import BackupId
from walkeeper.core.floor import Moment, moment
from walkeeper.core.lsn import SegmentSize
from walkeeper.core.room import LEAST, Disk
from walkeeper.errors import BadFloor, BadJob, WalkeeperError

SCHEMA: Final = 1
LIMIT: Final = 16 * 1024
"""Bytes of the largest document."""
BEAT_SECONDS: Final = 10.0
"""Seconds between two beats."""
SILENCE_SECONDS: Final = 30.0
"""Seconds without a beat, of the clock of who watches, after which another member goes on with it."""
LEADER_WAITS: Final = 60.0
"""Seconds for which the leader leaves it to replicas, and who failed with it to others."""
FIRST_PAUSE: Final = 60.0
"""Seconds after a failure, and twice as many after each further one: what was the matter may pass."""
MAX_ATTEMPTS: Final = 8
"""In some two hours."""
WAITS_SECONDS: Final = 3600.0
"""Seconds that one waits for a member before that is a problem."""
_LEADERS_TURN: Final = 2
"""Failures after which the leader goes first: they may be of a kind that only replicas have."""
MOST_BEHIND: Final = 64 * 1024 * 1024
"""Bytes that a replica may be behind and still bid."""
_AHEAD: Final = timedelta(hours=1)
"""A job that is due later than that was made by a clock that was wrong."""

DAMAGED: Final = 3
"""Exit of a job's command: the backup is of no use, which no attempt changes. By hand that is 1, with which Python ends, too."""
LATER: Final = 4
"""Exit of a proof: nothing is wrong, and with this backup it cannot be made, on whichever member."""
TOO_FAR_BEHIND: Final = 1024 * 1024 * 1024
"""Bytes that a replica may fall behind before what it runs for the cluster is ended there."""
DISK_SECONDS: Final = 1800.0
"""Seconds until the disk of pg_wal is full, if it goes on like that, with which nothing is run there."""

From: TypeAlias = Literal["replica", "leader", "spare"]
"""Who is to take it. ``spare``: a replica, or the leader where there is no other member."""

Done: TypeAlias = tuple[str, str]
"""A backup's id, and when it or its proof was finished."""

_Line = Annotated[str, Meta(max_length=1000)]
_Count = Annotated[int, Meta(ge=0, le=2**62)]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """``due``: the moment of the schedule that it is for. ``node`` runs it, or ran it last. ``at`` is by the writer's clock.

    ``backup``: the one that is taken, or for a proof the newest that was complete.
    ``bytes`` of some ``of`` have come, plain. ``expired``: ``walkeeper expire`` ran after it. ``later``: a proof that waits for a
    newer backup than ``backup``.
    """

    schema: int = SCHEMA
    system_identifier: Annotated[str, Meta(pattern=r"^[0-9]{1,20}\Z")]
    due: Moment
    backup: Annotated[str, Meta(max_length=64)]
    state: Literal["wanted", "running", "done", "failed"] = "wanted"
    node: Annotated[str, Meta(max_length=256)] = ""
    attempt: Annotated[int, Meta(ge=0, le=99)] = 0
    beat: _Count = 0
    bytes: _Count = 0
    of: _Count = 0
    at: Moment
    why: _Line = ""
    expired: bool = False
    later: bool = False

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bidder:
    """A member, as it sees itself. ``replica``: it streams, and is not far behind. ``alone``: there is no other member."""

    name: str
    leads: bool
    replica: bool
    alone: bool = False


_DECODER: Final = msgspec.json.Decoder(Job)


def encode(job: Job) -> bytes:
    return msgspec.json.encode(job)


def decode(document: bytes) -> Job:
    """Raises BadJob for everything that this version cannot rely on."""
    try:
        if len(document) > LIMIT:
            raise BadJob(f"{len(document)} bytes, limit {LIMIT}")
        job = _DECODER.decode(document)
        if job.schema != SCHEMA:
            raise BadJob(f"schema {job.schema}, this version knows {SCHEMA}")
        BackupId.parse(job.backup)
        moment(job.due), moment(job.at)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, WalkeeperError) as problem:
        raise BadJob(
            f"backup job in the DCS: {problem}",
            hint="The agent that archives writes a new one when the schedule says so. Is another version of walkeeper running?",
        ) from None
    return job


def is_due(job: Job | None, system_identifier: int, due: datetime, now: datetime) -> bool:
    """Whether the owner makes one for ``due``, the schedule's newest moment. One that runs is not overtaken."""
    if job is None or int(job.system_identifier) != system_identifier:
        return True
    if not job.is_over and moment(job.due) <= now + _AHEAD:
        return False
    return moment(job.due) < due or moment(job.due) > now + _AHEAD


def alarm(disk: Disk | None, size: SegmentSize, behind: int | None) -> str:
    """Why a member should have nothing to do but replicate, for people; empty where nothing says so. ``disk``: of its pg_wal.

    A disk that is nearly full, and stays so, is no alarm: a backup writes nothing to it.
    """
    if disk is not None and disk.free < LEAST * size:
        return f"the disk of pg_wal has {amounts.size(disk.free)} free"
    if disk is not None and disk.seconds_left is not None and disk.seconds_left < DISK_SECONDS:
        return f"the disk of pg_wal fills, and would be full in {amounts.duration(disk.seconds_left)}"
    if behind is not None and behind > TOO_FAR_BEHIND:
        return f"it is {amounts.size(behind)} behind the leader"
    return ""


def newest(summary: Mapping[str, Any] | None, word: str) -> Done | None:
    """Of what ``restorable.summary`` says: the newest complete backup, or where ``word`` is "proof" the last of those."""
    found = (summary or {}).get("proved" if word == "proof" else "newest")
    if found is None:
        return None
    return (found["backup"], found["at"]) if word == "proof" else (found["id"], found["stop_at"])


def made_good(backup: str, at: str, done: Done | None) -> bool:
    """Whether after a failure at that moment the same was done by hand, with that backup or a newer one.

    Clocks of two hosts say so, for people; an older backup never does.
    """
    try:
        return done is not None and done[0] >= backup and moment(done[1]) > moment(at)
    except BadFloor:
        return False


def may_claim(job: Job, me: Bidder, stood: float, prefer: From) -> bool:
    """Whether that member bids for it. ``stood``: seconds for which it saw the document unchanged, by its own clock."""
    if job.is_over or job.later or not (me.leads or me.replica):
        return False
    if prefer == "spare" and me.leads and not me.alone:
        return False
    if job.state == "running":
        stood -= 0.0 if job.node == me.name else SILENCE_SECONDS  # it is nobody's here: this agent was started anew
    else:
        stood -= _pause(job)
    if prefer == "leader":
        return me.leads and stood >= 0
    second = me.leads != (job.state == "wanted" and job.attempt >= _LEADERS_TURN)
    failed = job.state == "wanted" and job.attempt > 0 and job.node == me.name
    return stood >= LEADER_WAITS * (second + failed)


def nobody_bids(job: Job, stood: float) -> bool:
    """Whether it waits for longer than that can be chance, to begin or to go on elsewhere; ``stood`` as above."""
    pause = _pause(job) if job.state == "wanted" else 0.0
    return not job.is_over and not job.later and stood - pause > WAITS_SECONDS


def _pause(job: Job) -> float:
    return FIRST_PAUSE * 2 ** (job.attempt - 1) if job.attempt else 0.0


def claimed(job: Job, name: str, at: str) -> Job:
    """By a member that bids. One that was begun too often is not begun again."""
    if job.attempt >= MAX_ATTEMPTS:
        why = job.why or f"{job.node} no longer says anything of it"
        return replace(job, state="failed", at=at, beat=job.beat + 1, why=why)
    return replace(job, state="running", node=name, attempt=job.attempt + 1, beat=job.beat + 1, at=at)


def beaten(job: Job, come: int, of: int) -> Job:
    return replace(job, beat=job.beat + 1, bytes=come, of=of)


def ended(job: Job, at: str, why: str, *, for_good: bool = False) -> Job:
    """By who had it; ``why`` is empty where the backup is stored. Else another attempt is wanted, but not after ``for_good``."""
    if not why:
        return replace(job, state="done", at=at, beat=job.beat + 1, why="")
    state: Literal["failed", "wanted"] = "failed" if for_good or job.attempt >= MAX_ATTEMPTS else "wanted"
    return replace(job, state=state, at=at, beat=job.beat + 1, why=why[:1000])


def postponed(job: Job, at: str, why: str) -> Job:
    """Until there is a newer backup: that is no attempt."""
    return replace(given_back(job, at), later=True, why=why[:1000])


def given_back(job: Job, at: str) -> Job:
    """By an agent that is stopped: that is no attempt."""
    return replace(job, state="wanted", attempt=job.attempt - 1, at=at, beat=job.beat + 1)


class Stands:
    """For how long a document has not changed, as one member saw it. ``version`` is the DCS's."""

    def __init__(self) -> None:
        self._version: str | None = None
        self._since = 0.0

    def note(self, version: str, now: float) -> float:
        """Seconds, by a monotonic clock."""
        if version != self._version:
            self._version, self._since = version, now
        return now - self._since

    def forget(self) -> None:
        """It could not be asked for: it may have changed meanwhile, and changed back it never does."""
        self._version = None
