"""The agent's threads. One that dies with an exception ends the whole process: it is never half alive."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from walkeeper import events


class Crew:
    """Starts threads and notices their deaths. ``ended`` is set when the process shall end, for either reason."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.lost: str | None = None
        """The thread that died, if one did."""

    def start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Run ``work`` in a thread of its own. It ends by returning; an exception ends the process."""
        thread = threading.Thread(target=self._guard, args=(name, work), name=name, daemon=True)
        thread.start()
        return thread

    def report_death(self, name: str, problem: BaseException) -> None:
        """A thread died, one of ours or of a library's: the process shall end."""
        frame = traceback.extract_tb(problem.__traceback__)[-1]
        self.lost = name
        events.error(
            "thread_died",
            thread=name,
            error=f"{type(problem).__name__}: {problem}",
            at=f"{frame.filename.rpartition('/')[2]}:{frame.lineno}",
            hint="This is a bug in walkeeper. The agent ends and starts again; nothing is lost.",
        )
        self.ended.set()

    def _guard(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as problem:  # noqa: BLE001 - whatever it is, the process must not go on without this thread
            self.report_death(name, problem)
