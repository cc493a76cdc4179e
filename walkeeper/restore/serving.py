"""The ``restore`` requests on the control socket, of the agent or of a bare host's own process.

Both have the store open and warm. What is asked for is laid beside where it is wanted; the client renames it, so that
nothing appears under PostgreSQL's name when PostgreSQL no longer waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from walkeeper.archive.layout import Layout
from walkeeper.archive.open import open_archives
from walkeeper.archive.read import wal_file
from walkeeper.archive.tail_read import AssembledTail
from walkeeper.config import Config
from walkeeper.core.history import parse_history
from walkeeper.core.names import HistoryFile, Segment
from walkeeper.core.wal_page import SegmentHeader
from walkeeper.dcs.base import RECORD, RecordStore
from walkeeper.errors import CannotTell, DcsError, HoleInArchive, StoreError, WalkeeperError
from walkeeper.lib import durable, events
from walkeeper.lib.clock import Clock
from walkeeper.postgres.data_directory import RunningServer, is_starting, read_control_file, running_server
from walkeeper.restore import exits
from walkeeper.restore.abandoned import PATIENCE, Abandoned
from walkeeper.restore.branch import for_server
from walkeeper.restore.cache import READY, sweep_links
from walkeeper.restore.ends import Ends, has_itself
from walkeeper.restore.numbers import Numbers
from walkeeper.restore.pins import Pins
from walkeeper.restore.prefetch import Prefetcher
from walkeeper.restore.recovery import Recovery
from walkeeper.store.base import Store

SILENCE: Final = 1.0
"""Seconds after which who asked is told that there is no answer yet: a promotion waits for each."""
PAUSE: Final = 0.5
"""Seconds before a recovery is told to ask again for what is missing; with SILENCE less than the client waits."""
RETRY_SECONDS: Final = 5.0
"""Seconds for which a store that failed or said nothing is not asked again by a standby: a promotion makes several calls."""
AT_ONCE: Final = 4
"""Requests that are worked on together: each may hold a whole segment in memory, packed and plain."""


class Restoring:
    """Answers requests, and has what will be asked next fetched ahead. Safe for several threads."""

    def __init__(
        self, config: Config, store: Store, run_directory: Path, clock: Clock, connect: Callable[[str], RecordStore]
    ) -> None:
        """``connect`` gives the way to one of the cluster's keys, or raises ConfigError: it is called when it is needed."""
        self._config = config
        self._abandoned = Abandoned(config, store, lambda: connect(RECORD))
        self._run_directory = run_directory
        self._clock = clock
        self._archives = open_archives(config, store, to_read=True)
        self._source = self._archives.reader()
        self.prefetcher = Prefetcher(
            self._source, config.restore_directory, config.restore_ahead, config.restore_workers, clock
        )
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._fetches: dict[tuple[str, str, bool], _Fetch] = {}
        self._ends = Ends(self._source, lambda: connect(RECORD), clock, config.restore_deadline)
        self._numbers = Numbers(config.node.name, self._archives, connect, clock=clock)
        self._notes: dict[tuple[str, str], HoleInArchive] = {}
        self._pins = Pins(self._archives.store, clock, config.store.clock_ahead)
        self._retry_at = 0.0
        sweep_links(run_directory)

    @property
    def store_url(self) -> str:
        return self._source.store.url

    def start(self, begin: Callable[[str, Callable[[], None]], object]) -> None:
        """Start its threads: ``begin`` runs what it is given in one of that name."""
        begin("restore-tend", self.prefetcher.tend)
        for number in range(self._config.restore_workers):
            begin(f"restore-{number}", self.prefetcher.work)

    def stop(self) -> None:
        self.prefetcher.close()

    def answer(self, request: dict[str, Any]) -> Mapping[str, Any]:
        """``file``, ``destination`` (absolute), the client's ``pid``, for how many seconds it has ``waited``, and perhaps
        ``ready``, the link that the shell looks for, and the ``scope`` that its environment says.

        The reply has ``delivered`` and, if so, ``path``; or ``wait``, when it is to ask again at once; or ``elsewhere``, where
        another cluster's archive is meant, which ``walkeeper restore --from`` leads to. Raises CannotTell,
        BadName or the store's errors, which become the reply; ``final`` if asking again is of no use.
        """
        name, destination, pid = request.get("file"), request.get("destination"), request.get("pid")
        if not isinstance(name, str) or not isinstance(destination, str) or not isinstance(pid, int):
            raise CannotTell("restore: the request is not understood")
        if request.get("scope") not in (None, "", self._config.scope):
            return {"elsewhere": True}
        place = Path(destination)
        data_directory = place.parent.parent
        control = read_control_file(data_directory)
        layout = self._archives.layout(control.system_identifier)
        server = running_server(data_directory)
        recovers = exits.in_archive_recovery(str(data_directory))
        self._pins.look(layout, data_directory, recovers=recovers)
        asks_once = not exits.will_ask_again(str(data_directory))
        link = self._link(request.get("ready"))
        recovery = None if server is None else self.prefetcher.recovery(server, layout, link)
        try:
            if recovery is not None and (path := self.prefetcher.take(recovery, name, place, pid, SILENCE)):
                return {"delivered": True, "path": str(path)}
            follower = not recovers and exits.is_standby(str(data_directory))
            try:
                asked = _Fetch(recovers=recovers, follower=follower, size=control.segment_size)
                fetch = self._fetch(layout, name, recovery, asked, asks_once=asks_once)
            except (TimeoutError, WalkeeperError):
                if (used := self._numbers.text(name, data_directory)) is None:
                    raise
                return {"delivered": True, "path": str(durable.lay_ready(place, used, pid))}
            if fetch.hole is not None and not has_itself(data_directory, name, layout.system_identifier):
                return self._hole(fetch.hole, name, request.get("waited"))
            # Compared with the local copy only now: while the fetch went on, that may have been written further.
            plain = _for(server, name, fetch, data_directory)
            try:
                if plain is not None and self._is_abandoned(server, name, plain, data_directory):
                    plain = None
            except DcsError:
                if self._may_wait(data_directory, request.get("waited")):
                    return {"delivered": False, "wait": True}
            if fetch.absent:
                plain = self._numbers.text(name, data_directory)
            if plain is None:
                return self._absent(layout, name) if follower else {"delivered": False}
            path = durable.lay_ready(place, plain, pid)
        except TimeoutError:
            return self._no_answer_yet(name, request.get("waited"), asks_once=asks_once)
        except OSError as error:
            raise CannotTell(f"{place}: {error.strerror}", hint="The data directory must be writable.") from None
        if plain is fetch.plain:
            self._delivered(recovery, name, plain)
        return {"delivered": True, "path": str(path)}

    def _fetch(self, layout: Layout, name: str, recovery: Recovery | None, asked: _Fetch, *, asks_once: bool) -> _Fetch:
        """From the store, in a thread that goes on when nobody waits. Raises TimeoutError, then."""
        if not asks_once and self._clock.monotonic() < self._retry_at:
            hint = f"The store is asked again {RETRY_SECONDS:g} s after it failed. Look at the store and the way to it."
            raise CannotTell(f"{self.store_url}: it does not answer at the moment", hint=hint)
        key = layout.root, name, asked.recovers
        with self._lock:
            fetch = self._fetches.get(key)
            if fetch is None:
                fetch = self._fetches[key] = asked
                work = threading.Thread(
                    target=self._run, args=(fetch, key, layout, recovery), name="restore-request", daemon=True
                )
                work.start()
            fetch.waiting += 1
        fetch.done.wait(SILENCE)
        with self._lock:
            fetch.waiting -= 1
            if not fetch.done.is_set():
                raise TimeoutError(name)
        if fetch.problem is not None:
            raise fetch.problem
        return fetch

    def _run(self, fetch: _Fetch, key: tuple[str, str, bool], layout: Layout, recovery: Recovery | None) -> None:
        _, name, _ = key
        try:
            with self._places:
                fetch.plain = self._source.deliver(layout, name, fetch.size)
                if fetch.plain is None and fetch.recovers:
                    fetch.tail, fetch.hole = self._ends.look(layout, name)
                elif fetch.plain is None:
                    fetch.tail = self._source.tail(layout, name).assembled
        except StoreError as problem:
            fetch.problem = problem
            self._retry_at = self._clock.monotonic() + RETRY_SECONDS
        except WalkeeperError as problem:
            fetch.problem = problem
        except MemoryError:
            fetch.problem = CannotTell(
                f"{name}: out of memory", hint="Lower restore.workers, or give walkeeper more memory."
            )
        except BaseException:
            fetch.problem = CannotTell(f"{name}: a bug in walkeeper", hint="walkeeper's log says more.")
            raise
        finally:
            with self._lock:
                del self._fetches[key]
                fetch.done.set()
                unwanted = fetch.waiting == 0
        if unwanted and fetch.plain is not None and recovery is not None:
            file = _named(name, fetch.plain)
            if isinstance(file, Segment):
                self.prefetcher.keep(recovery, file, fetch.plain)
        if fetch.follower and fetch.absent and (note := self._ends.note(layout, name)) is not None:
            with self._lock:  # who asked has its answer, and is told when it asks again
                self._notes[layout.root, name] = note

    def _absent(self, layout: Layout, name: str) -> Mapping[str, Any]:
        with self._lock:
            note = self._notes.pop((layout.root, name), None)
        if note is None:
            return {"delivered": False}
        events.failure("hole_in_archive", note, file=name)
        return {
            "delivered": False,
            "note": f'hole_in_archive file={name} exit={exits.ABSENT} error="{note}" HINT: {note.hint}',
        }

    def _hole(self, hole: HoleInArchive, name: str, waited: object) -> Mapping[str, Any]:
        """At the live end of an archive what is missing may be on its way: several segments are uploaded at once."""
        if hole.waiting_helps and isinstance(waited, float) and waited < self._config.restore_deadline:
            if waited == 0:
                events.failure("restore_waits", hole, file=name)
            self._clock.sleep(PAUSE)
            return {"delivered": False, "wait": True}
        events.failure("hole_in_archive", hole, file=name)
        return {"ok": False, "final": True, "error": str(hole), "hint": hole.hint}

    def _is_abandoned(self, server: RunningServer | None, name: str, plain: bytes, data_directory: Path) -> bool:
        file = wal_file(name)
        if server is None or not isinstance(file, HistoryFile):
            return False
        return self._abandoned.hides(parse_history(file.timeline, plain), data_directory)

    def _may_wait(self, data_directory: Path, waited: object) -> bool:
        """For a DCS that says nothing: told of a timeline that the cluster left, a server that starts does not come back."""
        if not is_starting(data_directory) or not isinstance(waited, float) or waited >= PATIENCE:
            return False
        self._clock.sleep(PAUSE)
        return True

    def _no_answer_yet(self, name: str, waited: object, *, asks_once: bool) -> Mapping[str, Any]:
        if not asks_once:
            self._retry_at = self._clock.monotonic() + RETRY_SECONDS
            error, hint = (
                f"{name}: {self.store_url} has not answered within {SILENCE:g} s",
                "The fetch goes on: PostgreSQL gets the file when it asks again.",
            )
            raise CannotTell(error, hint=hint)
        deadline = self._config.restore_deadline
        if isinstance(waited, float) and waited < deadline:
            return {"delivered": False, "wait": True}
        return {
            "ok": False,
            "final": True,
            "error": f"{name}: {self.store_url} did not deliver it within {deadline:g} s",
            "hint": "Look at the store and the way to it; restore.deadline says how long it may take.",
        }

    def _delivered(self, recovery: Recovery | None, name: str, plain: bytes) -> None:
        if recovery is None:
            return
        file = _named(name, plain)
        if isinstance(file, Segment):
            self.prefetcher.moved(recovery, file)
        elif isinstance(file, HistoryFile):
            self.prefetcher.read(recovery, parse_history(file.timeline, plain))

    def _link(self, asked: object) -> Path | None:
        """Only a name in our own directory, and one of those that are ours to replace."""
        if not isinstance(asked, str) or not asked:
            return None
        link = Path(asked)
        return link if link.parent == self._run_directory / READY and link.name not in ("", "..") else None


class _Fetch:
    """One file on its way from the store. ``waiting``: for how many, under the lock of who made it.

    ``recovers``: for a server in archive recovery, which is told an end only where there is one. ``follower``: for a standby.
    ``size``: bytes of that server's segments, if they are known.
    """

    def __init__(self, *, recovers: bool, follower: bool, size: int | None) -> None:
        self.recovers = recovers
        self.follower = follower
        self.size = size
        self.done = threading.Event()
        self.waiting = 0
        self.plain: bytes | None = None
        self.tail: AssembledTail | None = None
        self.hole: HoleInArchive | None = None
        self.problem: Exception | None = None

    @property
    def absent(self) -> bool:
        return self.plain is None and self.tail is None and self.problem is None


def _for(server: RunningServer | None, name: str, fetch: _Fetch, data_directory: Path) -> bytes | None:
    """What that server is to have of it. pg_rewind, whose server is down, looks for what the other branch has, too."""
    if fetch.tail is not None:
        return fetch.tail.beyond(data_directory / "pg_wal")
    if fetch.plain is None or server is None:
        return fetch.plain
    return for_server(name, fetch.plain, data_directory)


def _named(name: str, plain: bytes) -> object:
    """The file of that name; a segment with its true size."""
    file = wal_file(name)
    return Segment.parse(name, SegmentHeader.parse(plain, name).segment_size) if isinstance(file, Segment) else file
