"""The agent's threads. One that dies with an exception ends the whole process: it is never half alive."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Sequence

from walkeeper.lib import events


class Supervisor:
    """Starts threads and notices when one dies. ``ended`` is set when the process must end, for either reason."""

    def __init__(self, ended: threading.Event, store: str) -> None:
        """``ended`` may be another's, too. ``store`` stands in all lines that its threads log, and before their names."""
        self.ended = ended
        self._store = store
        self.lost: str | None = None
        """The thread that died, if one did."""
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Run ``work`` in a thread of its own. It ends by returning; an exception ends the process."""
        named = f"{self._store}-{name}" if self._store else name
        thread = threading.Thread(target=self._guard, args=(named, work), name=named, daemon=True)
        thread.start()
        with self._lock:
            self._threads = [thread, *(other for other in self._threads if other.is_alive())]
        return thread

    @property
    def working(self) -> bool:
        """Whether any of them still runs."""
        with self._lock:
            return any(thread.is_alive() for thread in self._threads)

    def report_death(self, name: str, problem: BaseException) -> None:
        """A thread died, one of ours or of a library's: the process must end."""
        frames = traceback.extract_tb(problem.__traceback__)
        self.lost = name
        events.error(
            "thread_died",
            thread=name,
            error=f"{type(problem).__name__}: {problem}",
            at=f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else None,
            hint="This is a bug in walkeeper. The agent ends, to be started again; nothing is lost.",
        )
        self.ended.set()

    def report_stuck(self, threads: Sequence[threading.Thread] = ()) -> None:
        """Threads that were told to end did not, all of them or these: the process must end, so that they do."""
        with self._lock:
            stuck = [thread for thread in threads or self._threads if thread.is_alive()]
        self.lost = ", ".join(sorted(thread.name for thread in stuck))
        at = ", ".join(sorted(f"{thread.name}: {_where(thread)}" for thread in stuck))
        events.error(
            "threads_stuck", threads=self.lost, at=at, hint="The agent ends, to be started again; nothing is lost."
        )
        self.ended.set()

    def _guard(self, name: str, work: Callable[[], None]) -> None:
        if self._store:
            events.always_say(store=self._store)
        try:
            work()
        except BaseException as problem:  # noqa: BLE001 - whatever it is, the process must not go on without this thread
            self.report_death(name, problem)


def _where(thread: threading.Thread) -> str:
    """The last calls that it is in."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - documented, in spite of its name
    calls = traceback.extract_stack(frame)[-10:] if frame is not None else []
    return " < ".join(f"{call.filename.rpartition('/')[2]}:{call.lineno}" for call in reversed(calls))
