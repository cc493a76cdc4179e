"""Calls that may never come back, each behind a time limit. Used for the DCS and for PostgreSQL sessions.

One daemon thread runs the calls of a Deadline one after the other, in the order in which they came: however long a library
hangs, at most one thread hangs with it, and the end of the process never waits for it. Deadlines has several.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing
from typing import Final, Generic, TypeVar, cast

T = TypeVar("T")

MOST_IDLE: Final = 64
"""Threads that a Deadlines keeps for those who called."""
LEFT_BEHIND: Final = 16
"""Calls of a Deadlines that may hang."""


class DeadlineExceeded(Exception):
    """The caller stopped waiting. ``started``: the call was begun and may still take effect; else it never will be."""

    def __init__(self, message: str, *, started: bool) -> None:
        super().__init__(message)
        self.started = started


class Deadline:
    """Runs calls with a time limit; ``name`` is what its errors and its thread are called. Safe for several threads.

    After a call overran, further ones fail at once while that call still hangs, and work again as soon as it returned.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._waiting: deque[_Ticket[object]] = deque()
        self._overdue = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], T], timeout: float) -> T:
        """``function()``, or DeadlineExceeded after ``timeout`` seconds, of which waiting for the turn is a part.

        What ``function`` raises is raised here, whatever it is: SystemExit too.
        """
        ticket = _Ticket(function)
        with self._changed:
            self._admit(cast("_Ticket[object]", ticket))
            try:
                self._changed.wait_for(lambda: ticket.finished or self._hopeless(ticket), timeout)
            finally:
                self._give_up(cast("_Ticket[object]", ticket))
            if not ticket.finished:
                raise self._exceeded(timeout, started=ticket.started)
        return ticket.outcome()

    @property
    def stuck(self) -> bool:
        """Whether a call that overran still hangs."""
        with self._changed:
            return self._overdue

    def close(self) -> None:
        """Take no further calls and let the thread end; it does so when the call that it is in returns. Does not wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _admit(self, ticket: _Ticket[object]) -> None:
        if self._hopeless(ticket):
            raise self._exceeded(0, started=False)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"deadline-{self._name}", daemon=True)
            self._thread.start()
        self._waiting.append(ticket)
        self._changed.notify_all()

    def _hopeless(self, ticket: _Ticket[T]) -> bool:
        return not ticket.started and (self._overdue or self._closed)

    def _give_up(self, ticket: _Ticket[object]) -> None:
        if ticket.finished:
            return
        if ticket.started:
            self._overdue = True
            self._changed.notify_all()
        else:
            self._waiting.remove(ticket)

    def _exceeded(self, timeout: float, *, started: bool) -> DeadlineExceeded:
        if self._closed:
            return DeadlineExceeded(f"{self._name}: closed", started=started)
        if self._overdue and not started:
            return DeadlineExceeded(f"{self._name}: an earlier call still hangs", started=False)
        return DeadlineExceeded(f"{self._name}: no answer within {timeout:g} s", started=started)

    def _run(self) -> None:
        while (ticket := self._next()) is not None:
            ticket.run()
            with self._changed:
                ticket.finished = True
                self._overdue = False
                self._changed.notify_all()
            del ticket  # or the result would live until the next call

    def _next(self) -> _Ticket[object] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            ticket = self._waiting.popleft()
            ticket.started = True
            return ticket


def within(name: str, function: Callable[[], T], timeout: float) -> T:
    """One call of a Deadline that is for nothing else."""
    with closing(Deadline(name)) as deadline:
        return deadline.call(function, timeout)


class Deadlines:
    """Calls side by side, each with a time limit. Safe for several threads.

    A thread that calls has one of ours beside it, which it finds again the next time. At most ``LEFT_BEHIND`` of them may
    hang: with so many, further calls fail at once until one of them has returned.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._idle: dict[int, Deadline] = {}
        """By the identity of the thread that called last."""
        self._hanging: list[Deadline] = []

    def call(self, function: Callable[[], T], timeout: float) -> T:
        """``function()``, or DeadlineExceeded after ``timeout`` seconds. What it raises is raised here."""
        deadline = self._take()
        try:
            return deadline.call(function, timeout)
        finally:
            self._give_back(deadline)

    def _take(self) -> Deadline:
        with self._lock:
            for each in self._hanging:
                if not each.stuck:
                    each.close()
            self._hanging = [each for each in self._hanging if each.stuck]
            if len(self._hanging) >= LEFT_BEHIND:
                raise DeadlineExceeded(f"{self._name}: {len(self._hanging)} earlier calls still hang", started=False)
            if own := self._idle.pop(threading.get_ident(), None):
                return own
            if len(self._idle) >= MOST_IDLE:  # of threads that are gone, most of them
                return self._idle.pop(next(iter(self._idle)))
            return Deadline(self._name)

    def _give_back(self, deadline: Deadline) -> None:
        with self._lock:
            if deadline.stuck:
                self._hanging.append(deadline)
            else:
                self._idle[threading.get_ident()] = deadline


class _Ticket(Generic[T]):
    """One call. ``started`` and ``finished`` are only read and written under the Deadline's lock."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._result: T | None = None
        self._problem: BaseException | None = None
        self.started = False
        self.finished = False

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as problem:  # noqa: BLE001 - carried over to the caller, SystemExit as well
            self._problem = problem

    def outcome(self) -> T:
        problem, self._problem = self._problem, None
        if problem is not None:
            try:
                raise problem
            finally:
                del problem  # its traceback holds this frame
        return cast("T", self._result)
