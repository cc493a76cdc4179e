"""The cluster's own base backups while it is tortured: what became of each job, what was sent twice, how fast the primary was read.

What has to be true, at the end of each round, once every fault has ended and the cluster is whole (docs/backups.md):

- There is a job for the newest moment of the schedule, and it is done, with no more than one attempt after the one that it was
  at: that one was disturbed, or may have been; the next was not, and nothing that happened before may be in its way. One that
  was only made then is done by its first attempt.
- No job was given up: none failed, and none made room for the next before it was over.
- Each that is done is complete, by what ``walkeeper backups`` makes of the store. But for one whose WAL has a gap that nobody
  could fill, and one of a branch that the cluster has left before its stop: no attempt could change either.
- The server of whoever leads sends no more in a second than ``backup.max_rate``.

That each restores is for ``check``: every round restores from the newest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from walkeeper.core.backup_job import FIRST_PAUSE, LEADER_WAITS, SILENCE_SECONDS, Job
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, Lsn

RATE: Final = 2 * MIB
"""Bytes a second of a backup: slow enough that faults come meanwhile."""
STILL: Final = 40 * MIB
"""Bytes of a table that nobody changes: of it nothing is sent twice."""
KEEP: Final = "20min"
PATIENCE: Final = SILENCE_SECONDS + 3 * LEADER_WAITS + 240
"""Seconds for the job of the newest moment, beside its pauses: members are busy, and so are the cores."""
BURST: Final = 0.5
"""Seconds of the rate that may have been sent at once: PostgreSQL sleeps after each eighth of a second, and we look now and then."""

Pieces = Mapping[str, int]
"""Bytes as stored, by name."""


@dataclass(slots=True)
class Run:
    """One member's turn at a job. ``there``: the pieces that were stored when it began; None is not known. ``end`` is empty where
    it was never seen to end."""

    backup: str
    attempt: int
    node: str
    at: float
    there: Pieces | None
    until: float | None = None
    end: str = ""

    @property
    def done(self) -> bool:
        return self.end == "done"

    def __str__(self) -> str:
        return f"{self.backup}, attempt {self.attempt} on {self.node}: {self.end or 'runs'}"


@dataclass(slots=True)
class Reading:
    """What a walsender of the leader has sent of a backup: seconds of its clock, bytes; at the first look and at the last."""

    node: str
    first: tuple[float, int]
    last: tuple[float, int]

    @property
    def seconds(self) -> float:
        return self.last[0] - self.first[0]

    @property
    def bytes(self) -> int:
        return self.last[1] - self.first[1]

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.bytes / self.seconds if self.seconds else 0.0

    def too_fast(self, rate: int) -> bool:
        return self.bytes > rate * (self.seconds + BURST)


@dataclass(frozen=True, slots=True)
class Again:
    """A disturbed backup, at its end. ``kept``: bytes that were stored before its last turn, and are part of it; ``sent``: what that
    turn stored; ``useless``: stored at any time and no part of it, because what it was made from had changed."""

    same: bool
    """Whether the member was the one of the turn before."""
    kept: int
    sent: int
    useless: int


@dataclass(slots=True)
class Jobs:
    """All that was seen of the jobs. ``note`` and ``read`` by one thread."""

    every: float
    """Seconds between two moments of the schedule."""
    runs: list[Run] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    """The backup of each job."""
    given_up: list[str] = field(default_factory=list)
    """A sentence for each that failed."""
    done: set[str] = field(default_factory=set)
    complete: set[str] = field(default_factory=set)
    excused: set[str] = field(default_factory=set)
    """Done, and not complete for a reason that no attempt could change."""
    again: dict[str, Again] = field(default_factory=dict)
    readings: dict[tuple[str, int], Reading] = field(default_factory=dict)
    _last: Job | None = None

    def note(self, at: float, job: Job, pieces: Callable[[Job], Pieces | None]) -> Run | None:
        """The document as it is now; returns a run that has ended by it. ``pieces`` lists what is stored of a backup."""
        last, self._last = self._last, job
        if job.backup not in self.made:
            self.made.append(job.backup)
            if last is not None and not last.is_over:
                self.done.add(
                    last.backup
                )  # it ended between two looks, or made room: complete it has to be all the same
        if last is not None and _turn(last) == _turn(job):
            return None
        ended = self._end(at, job)
        if job.state == "running":
            self.runs.append(Run(job.backup, job.attempt, job.node, at, pieces(job)))
        elif job.state == "done":
            self.done.add(job.backup)
        elif job.state == "failed":
            self.given_up.append(f"backup {job.backup}: it failed after {job.attempt} attempts: {job.why}")
        return ended

    def _end(self, at: float, job: Job) -> Run | None:
        run = self.runs[-1] if self.runs else None
        if run is None or run.until is not None:
            return None
        same = (job.backup, job.node) == (run.backup, run.node)
        run.until = at
        if same and job.state == "done":
            run.end = "done"
        elif same and job.state == "wanted" and job.attempt < run.attempt:
            run.end = "given back"
        elif same and job.state in ("wanted", "failed"):
            run.end = f"failed: {job.why}"
        else:
            run.end = "begun anew there" if same else f"{job.node or 'nobody'} has it now"
        return run

    def read(self, node: str, pid: int, seconds: float, sent: int) -> None:
        """What the leader's walsender of a backup says of itself."""
        now = (seconds, sent)
        self.readings.setdefault((node, pid), Reading(node, now, now)).last = now

    @property
    def one_runs(self) -> bool:
        """At the last look."""
        return self._last is not None and self._last.state == "running"

    def knows(self, job: Job) -> bool:
        """Whether that document was seen, or a later one."""
        last = self._last
        return last is not None and (last.due, last.attempt, last.beat) >= (job.due, job.attempt, job.beat)

    def of(self, backup: str) -> list[Run]:
        return [run for run in self.runs if run.backup == backup]

    def count(self, backup: str, there: Pieces, named: Iterable[str]) -> None:
        """Of one that is complete: what is stored of it, and which pieces are part of it."""
        self.complete.add(backup)
        runs, wanted = self.of(backup), set(named)
        before = runs[-1].there if len(runs) > 1 else None
        if before is not None:
            self.again[backup] = Again(
                runs[-1].node == runs[-2].node,
                kept=sum(size for name, size in before.items() if name in wanted),
                sent=sum(size for name, size in there.items() if name not in before),
                useless=sum(size for name, size in there.items() if name not in wanted),
            )

    def too_fast(self, rate: int) -> list[Reading]:
        return [reading for reading in self.readings.values() if reading.too_fast(rate)]

    def facts(self, rate: int) -> list[tuple[str, object]]:
        """For the end's summary."""
        disturbed = {run.backup for run in self.runs if run.until is not None and not run.done}
        kept, sent, useless = (
            sum(getattr(each, word) for each in self.again.values()) for word in ("kept", "sent", "useless")
        )
        same = sum(each.same for each in self.again.values())
        fastest = max((reading.rate for reading in self.readings.values() if reading.seconds >= 1), default=0.0)
        return [
            ("backups due", f"{len(self.made)}, one each {self.every:g} s"),
            ("backups complete", f"{len(self.complete)}, and {len(self.excused)} that no attempt could make so"),
            ("attempts at them", f"{len(self.runs)}; {len(disturbed)} backups were disturbed"),
            (
                "last attempts of the disturbed",
                f"{same} by the same member, {len(self.again) - same} by another; {_mib(kept)} were there and not sent again",
            ),
            (
                "sent again by them",
                f"{_mib(useless)}, of what had changed; {_mib(sent)} in all",
            ),
            (
                "backups that read the leader",
                f"{len(self.readings)}, the fastest {_mib(fastest)} a second of {_mib(rate)}",
            ),
        ]


def _mib(count: float) -> str:
    return f"{count / MIB:.2f} MiB"


def _turn(job: Job) -> tuple[object, ...]:
    return job.backup, job.node, job.attempt, job.state


def allowed(before: Job | None, now: Job) -> int:
    """How many attempts the job may have had that is done, where ``before`` is as it was when all was well again."""
    return (before.attempt if before is not None and before.backup == now.backup else 0) + 1


def patience(before: Job | None) -> float:
    """Seconds for it, the pauses after its failures among them: the running attempt may still fail."""
    return PATIENCE + (FIRST_PAUSE * 2 ** (before.attempt - 1) if before is not None and before.attempt else 0.0)


def has_left(history: History, backup: Mapping[str, Any]) -> bool:
    """Whether the branch that this is the history of has left the backup's before its stop. ``backup``: as ``walkeeper backups`` has it."""
    ends = {switch.timeline: switch.lsn for switch in history.switches}
    timeline = int(backup["timeline"])
    if timeline == history.timeline:
        return False
    return timeline not in ends or Lsn.parse(backup["stop_lsn"]) > ends[timeline]
