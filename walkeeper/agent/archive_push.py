"""The agent's side of archive-push: it answers the calls, and looks ahead at what PostgreSQL will hand over next.

A call is answered with a receipt in hand and the bytes compared, or with an error, or with "still being stored": then the
client asks again, and joins the work that is under way.
"""

from __future__ import annotations

import heapq
import os
import queue
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from walkeeper.agent.agent import Agent
from walkeeper.agent.archiver.archiver import Archiver
from walkeeper.agent.markers import Markers
from walkeeper.core.about import About
from walkeeper.core.branches import is_for_the_archive
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.dcs.claim import Known, read_claim
from walkeeper.errors import (
    AtIt,
    BadName,
    CannotTell,
    Conflict,
    DcsError,
    DcsUnavailable,
    NoLeadership,
    PostgresError,
    Refused,
    StoreUnavailable,
    WalkeeperError,
)
from walkeeper.lib import events
from walkeeper.lib.clock import Clock
from walkeeper.postgres.data_directory import is_out_of_recovery, is_stopping, read_control_file, run_of
from walkeeper.push.command import Checked, check_archive
from walkeeper.push.place import Place, parse_path
from walkeeper.push.storing import Pusher

ANSWER: Final = 1.5
"""Seconds until the client is told that the work goes on."""
COMING: Final = 1.0
"""Seconds in which pg_receivewal delivers what PostgreSQL has just completed."""
TAKEN_UP: Final = 0.25
"""Seconds in which the archiver, which was told to look, finds that in pg_wal."""
TOGETHER: Final = 32
"""The most files that follow, already being stored, for which one answer waits."""
FOLLOWING: Final = 0.5
"""The most seconds that an answer waits for each of them."""
STOPPING_SECONDS: Final = 3.0
"""Seconds that the work may take while the server stops: no shutdown waits for the store."""
TAKEOVER_SECONDS: Final = 60.0
"""Seconds for which a file waits for the first takeover."""
AT_ONCE: Final = 4
"""Files that are worked on together: each is held in memory, packed and plain."""
LOOK: Final = 0.2
BUSY_LOOK: Final = 0.05
"""Seconds between two looks, without and with something that PostgreSQL will hand over."""
LATER: Final = 0.5
"""Seconds until one that could not be marked is looked at again."""
AHEAD: Final = 256
"""Segments that are looked at together; fewer than the markers that are kept."""


class _Job:
    """One file that is being stored, in a thread of its own."""

    def __init__(self, place: Place) -> None:
        self.ended = threading.Event()
        self.problem: WalkeeperError | None = StoreUnavailable(f"{place.name}: the work on it broke off")
        """None only when it is stored."""


class Pushing:
    """Answers ``push`` requests on the control socket; ``run`` is the look ahead, for a thread of the supervisor."""

    def __init__(self, agent: Agent, run_directory: Path, clock: Clock) -> None:
        config = agent.config
        self._agent = agent
        self._clock = clock
        self._spools = config.spools
        self._pusher = Pusher(agent.archives)
        self._place = Place(config.data_dir, "")
        self._markers = Markers(run_directory, config.source)
        self._lock = threading.Lock()
        self._jobs: dict[Place, _Job] = {}
        self._pushed: queue.SimpleQueue[tuple[Receipt, int]] = queue.SimpleQueue()
        self._later: dict[str, float] = {}
        self._reported: dict[About, str] = {}
        self._stopping = threading.Event()
        self._checked: Checked | None = None

    # --- calls ----------------------------------------------------------------------------------------------------

    def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """``path`` (PostgreSQL's ``%p``) and ``cwd`` to nothing more than that it is stored.

        Raises AtIt, Refused or the store's errors, which become the reply.
        """
        path, cwd = request.get("path"), request.get("cwd")
        if not isinstance(path, str) or not isinstance(cwd, str):
            raise BadName("push: the request is not understood")
        place = parse_path(path, cwd)
        begun = self._clock.monotonic()
        job = self._job(place)
        job.ended.wait(ANSWER)
        if not job.ended.is_set():
            raise self._at_it(place)
        with self._lock:
            if self._jobs.get(place) is job:
                del self._jobs[place]
        self._tell(place, job.problem, begun)
        if job.problem is not None:
            raise job.problem
        if archiver := self._agent.archiver:
            self._mark_following(archiver, place, begun + ANSWER)
        return {}

    def _job(self, place: Place) -> _Job:
        with self._lock:
            job = self._jobs.get(place)
            if job is not None:
                return job
            for other in [other for other, job in self._jobs.items() if job.ended.is_set()]:
                del self._jobs[other]  # who asked for it did not come back
            if len(self._jobs) >= AT_ONCE:
                raise AtIt(f"{place.name}: {AT_ONCE} others are being stored", hint="PostgreSQL asks again.")
            job = self._jobs[place] = _Job(place)
        threading.Thread(target=self._work, args=(place, job), name="push", daemon=True).start()
        return job

    def _at_it(self, place: Place) -> WalkeeperError:
        hint = "PostgreSQL keeps the file and asks again. The agent's log says what the store does."
        if is_stopping(place.data_directory):
            return StoreUnavailable(f"{place.name}: not stored yet, and the server is stopping", hint=hint)
        return AtIt(f"{place.name}: still being stored", hint=hint)

    def _work(self, place: Place, job: _Job) -> None:
        try:
            self._push(place)
            job.problem = None
        except WalkeeperError as problem:
            job.problem = problem
        except MemoryError:
            job.problem = StoreUnavailable(
                f"{place.name}: not enough memory",
                hint="Give the agent more memory: a segment is held up to three times while it is packed.",
            )
        finally:
            job.ended.set()

    def _push(self, place: Place) -> None:
        if self._agent.archiver is None and self._check_leadership(place):
            self._await_takeover(place)
        archiver = self._agent.archiver
        if archiver is None:
            self._check_takeover(place)
            spool = self._agent.config.spool_directory
            self._checked = check_archive(self._agent.archives, spool, place, self._checked)
        else:
            archiver.run.check()
        asked_for = archiver if place.is_ready else None
        if asked_for is not None and self._was_compared(place, asked_for):
            return
        # PostgreSQL asks for what is .ready: a receipt will do. For a person, who asks for anything else, the store is looked at.
        try:
            pushed = self._pusher.push(place, asked_for.receipts.get if asked_for is not None else lambda _: None)
        except Conflict:
            if archiver is not None and isinstance(place.file, Segment) and self._is_own(place):
                archiver.uploads.met(Segment.parse(place.name, archiver.size))
            raise
        if pushed.receipt is not None and archiver is not None and pushed.receipt.segment.size == archiver.size:
            archiver.offer(pushed.receipt, pushed.mtime_ns)
            if pushed.mtime_ns is not None:
                self._pushed.put((pushed.receipt, pushed.mtime_ns))

    def _check_leadership(self, place: Place) -> bool:
        """Whether this member leads, as a primary. Raises NoLeadership for what a primary wrote that does not lead."""
        running = is_out_of_recovery(place.data_directory)
        if not running and not _was_primary(place.data_directory):
            return False
        member = self._agent.config.name
        try:
            leader = self._agent.records.leader()
        except DcsError:
            return False
        if leader is None:
            return False
        claim = read_claim(self._agent.records)
        if leader.name == member:  # where the record may not be read, a takeover gets no further either
            return running and (claim.known is not Known.UNKNOWN or isinstance(claim.problem, DcsUnavailable))
        if claim.known is Known.UNKNOWN:
            return False
        if not is_for_the_archive(place.file, claim.record, member, leader.name, running=running):
            does = "PostgreSQL accepts writes here" if running else "it was written here"
            raise NoLeadership(
                f"{place.name}: {does}, and Patroni's leader is {leader.name}: it is not archived",
                hint="Two primaries, or a promotion by hand. Ask patronictl list. PostgreSQL keeps the file.",
            )
        return False

    def _await_takeover(self, place: Place) -> None:
        """The first since this member leads, or its agent runs: it holds record, store and server against each other. Before that
        nobody knows whether the store is the archive's. An agent that cannot get into PostgreSQL tries none, and is not waited
        for. Raises PostgresError.
        """
        begun = self._clock.monotonic()
        self._agent.poke()
        while self._agent.untried and self._agent.archiver is None:
            runs = is_out_of_recovery(place.data_directory) and not self._stopping.is_set()
            if not runs or self._clock.monotonic() > begun + TAKEOVER_SECONDS:
                failed = next(
                    (each for each in self._agent.problems.open() if each.what is About.TAKEOVER_FAILED), None
                )
                why, hint = (
                    ("", "The agent's log says how far it is.") if failed is None else (f": {failed.text}", failed.hint)
                )
                raise PostgresError(
                    f"{place.name}: the archive is not taken over yet, and nothing was compared{why}",
                    hint=f"{hint} PostgreSQL keeps the file and asks again.".lstrip(),
                )
            if self._is_shut_out(begun):
                return
            self._stopping.wait(LOOK)

    def _is_shut_out(self, since: float) -> bool:
        """Whether the agent has not got into PostgreSQL for a while, and not by a look that began after ``since`` either."""
        shut_out = self._agent.shut_out_at > since  # first: a look that gets in ends the problem before it takes over
        return shut_out and any(problem.what is About.POSTGRESQL for problem in self._agent.problems.open())

    def _check_takeover(self, place: Place) -> None:
        """For a primary: raises what its run was refused for, also while it stops and when it has, or PostgresError where another
        run was compared last.
        """
        compared, running = self._agent.compared, is_out_of_recovery(place.data_directory)
        if compared is None or not (running or _was_primary(place.data_directory)):
            return
        run, problem = compared
        if problem is not None and not run.over:
            raise problem
        if running:
            run.check()

    def _was_compared(self, place: Place, archiver: Archiver) -> bool:
        """Whether it is the very file whose bytes the receipt is for, as its modification time proves."""
        if not isinstance(place.file, Segment):
            return False
        segment = Segment.parse(place.name, archiver.size)
        if self._expected(archiver, segment) is None:
            return False
        mtime_ns = archiver.receipts.mtime_of(segment)
        try:
            found = place.path.lstat()
        except OSError:
            return False
        return self._is_own(place) and stat.S_ISREG(found.st_mode) and found.st_mtime_ns == mtime_ns

    def _is_own(self, place: Place) -> bool:
        """Whether it lies in this server's own pg_wal."""
        try:
            return place.pg_wal.samefile(self._place.pg_wal)
        except OSError:
            return False

    def _expected(self, archiver: Archiver, segment: Segment) -> Receipt | None:
        """A receipt, also one that is about to come: what the archiver has in hand is not stored a second time."""
        if not archiver.history.contains(segment):
            return None
        receipt = archiver.receipts.get(segment)
        if receipt is None and segment.end > archiver.stored_up_to:
            archiver.look()
            receipt = archiver.receipts.get(segment, COMING if self._spools else TAKEN_UP)
        while receipt is None and archiver.has_in_hand(segment):
            receipt = archiver.receipts.get(segment, COMING)
        return receipt

    def _tell(self, place: Place, problem: WalkeeperError | None, begun: float) -> None:
        if problem is None:
            events.info("pushed", file=place.name, seconds=self._clock.monotonic() - begun)
            self._over(place.name)
        elif isinstance(problem, BadName):
            events.failure("push_failed", problem, file=place.name)
        else:
            what = About.PUSH_REFUSED if isinstance(problem, Refused) else About.PUSH_STORE
            self._reported[what] = place.name
            self._agent.problems.report(what, problem)

    def _over(self, name: str) -> None:
        for what in [what for what, file in self._reported.copy().items() if file == name]:
            self._reported.pop(what, None)
            self._agent.problems.clear(what)

    # --- ahead ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Lay markers for what PostgreSQL will hand over next and the archive has already, until ``stop``."""
        wait = LOOK
        while not self._stopping.wait(wait):
            begun = self._clock.monotonic()
            try:
                look = BUSY_LOOK if self._look() else LOOK
            except OSError as error:
                events.warning(
                    "push_markers",
                    error=f"{error.filename}: {error.strerror}",
                    hint="archive-push takes longer: look at the run directory.",
                )
                wait = 60.0
                continue
            wait = max(look, 10 * (self._clock.monotonic() - begun))
        self._markers.follow(None)

    def stop(self) -> None:
        self._stopping.set()

    def _mark_following(self, archiver: Archiver, place: Place, until: float) -> None:
        """While a backlog is worked off: wait a moment for what comes next, so that the script finds markers for that.

        A call that asks costs several times what one costs that finds a marker, and no call holds the uploads up.
        """
        if self._spools or not isinstance(place.file, Segment):
            return
        first = Segment.parse(place.name, archiver.size).number + 1
        for number in range(first, first + TOGETHER):
            if is_stopping(place.data_directory):
                return
            segment = archiver.history.segment(number, archiver.size)
            wait = min(FOLLOWING, until - self._clock.monotonic()) if archiver.has_in_hand(segment) else 0.0
            receipt = archiver.receipts.get(segment, max(0.0, wait))
            mtime_ns = archiver.receipts.mtime_of(segment)
            if receipt is None or mtime_ns is None:
                return
            if segment.name not in self._markers:
                self._markers.lay(receipt, mtime_ns)

    def _look(self) -> bool:
        """Whether there was anything to look at."""
        self._markers.follow(run_of(self._place.data_directory))
        status = self._place.pg_wal / "archive_status"
        ready = _ready(status)
        self._mark_pushed()
        for name in set(self._reported.copy().values()):
            if name in self._markers or not (status / f"{name}.ready").exists():
                self._over(name)
        archiver = self._agent.archiver
        if archiver is None or not ready:
            return False
        now = self._clock.monotonic()
        self._later = {name: at for name, at in self._later.items() if at > now}
        for name in ready:
            if name in self._markers or name in self._later:
                continue
            if not self._mark(archiver, name):
                self._later[name] = now + LATER
            if self._stopping.is_set():
                break
        return True

    def _mark_pushed(self) -> None:
        """What was handed over may be asked for again: after a crash of the server, or by Patroni."""
        while not self._pushed.empty():
            self._markers.lay(*self._pushed.get())
        self._markers.forget_old()

    def _mark(self, archiver: Archiver, name: str) -> bool:
        """False where it could not be done: the call will find out why, and tell PostgreSQL."""
        try:
            segment = Segment.parse(name, archiver.size)
            receipt, mtime_ns = archiver.receipts.get(segment), archiver.receipts.mtime_of(segment)
            if receipt is None and (segment.end > archiver.stored_up_to or not archiver.history.contains(segment)):
                return True  # not its turn yet
            if receipt is None or mtime_ns is None:
                pushed = self._pusher.push(Place(self._place.data_directory, name), lambda _: receipt)
                if pushed.receipt is None:
                    return False
                receipt, mtime_ns = pushed.receipt, pushed.mtime_ns
                archiver.receipts.add(receipt, mtime_ns)
            return mtime_ns is not None and self._markers.lay(receipt, mtime_ns)
        except WalkeeperError:
            return False


def _was_primary(data_directory: Path) -> bool:
    try:
        return read_control_file(data_directory).primary
    except CannotTell:
        return False


def _ready(status: Path) -> list[str]:
    """The segments that PostgreSQL will hand over, the first of them, in its order."""
    try:
        with os.scandir(status) as entries:
            waiting = (e.name[:24] for e in entries if len(e.name) == 30 and e.name.endswith(".ready"))
            return heapq.nsmallest(AHEAD, waiting)
    except FileNotFoundError:
        return []
