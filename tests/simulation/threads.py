"""Simulated time, processes and threads. One real thread runs everything, so that a seed decides the whole run.

A thread of the simulation is a greenlet. It runs until it waits; the next one is whoever's time comes first. A process
can be killed or frozen wherever one of its threads waits, and every call through a seam may wait before and after.
"""

from __future__ import annotations

import heapq
import queue
import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

from greenlet import GreenletExit, getcurrent, greenlet

T = TypeVar("T")

MAX_STEPS: Final = 400_000
"""A run with more is an endless loop."""


class Killed(GreenletExit):
    """The process of this thread is gone."""


class Task(greenlet):
    """One thread. ``ticket`` makes a wake-up that came too late a no-op."""

    def __init__(self, process: Process, work: Callable[[], object]) -> None:
        super().__init__(work)
        self.process = process
        self.ticket = 0


class Process:
    """Threads that live and die together. ``children`` die with it, as by a parent-death signal."""

    def __init__(self, loop: Loop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.dead = False
        self.frozen_until = 0.0
        self.die_in: int | None = None
        """Steps until it is killed; the last of them is not made."""
        self.freeze_in: tuple[int, float] | None = None
        self.children: list[Process] = []
        self.tasks: list[Task] = []
        loop.processes.append(self)

    def run(self, work: Callable[[], object]) -> Task:
        """A new thread of this process, which begins now."""
        task = Task(self, work)
        task.parent = self.loop.hub
        self.tasks.append(task)
        self.loop.wake(task)
        return task

    def kill(self) -> None:
        """At once, wherever its threads are. A thread that kills its own process ends here."""
        if not self.dead:
            self.dead = True
            self.loop.doomed.append(self)
            for child in self.children:
                child.kill()
        if current() is self:
            raise Killed

    def freeze(self, seconds: float) -> None:
        """SIGSTOP for that long."""
        self.frozen_until = max(self.frozen_until, self.loop.now + seconds)

    @property
    def frozen(self) -> bool:
        return self.frozen_until > self.loop.now

    def step(self, what: str, about: object = "") -> None:
        """Between any two steps a process may be killed, be frozen, or lose time to others."""
        loop = self.loop
        if self.dead:
            raise Killed
        if loop.trace is not None:
            loop.note(self.name, what, about)
        if self.die_in is not None:
            self.die_in -= 1
            if self.die_in < 0:
                loop.note(self.name, "KILLED before", what)
                self.kill()
        if self.freeze_in is not None:
            steps, seconds = self.freeze_in
            self.freeze_in = (steps - 1, seconds) if steps else None
            if not steps:
                loop.note(self.name, f"FROZEN for {seconds:.1f} s before", what)
                self.freeze(seconds)
                loop.wait(0)
        if loop.dice.random() < 0.5:
            loop.wait(loop.some_time())


class Loop:
    """Time, and whose turn it is."""

    def __init__(self, dice: random.Random, *, trace: bool = False) -> None:
        self.hub = getcurrent()
        self.dice = dice
        self.now = 0.0
        self.processes: list[Process] = []
        self.doomed: list[Process] = []
        self.trace: list[str] | None = [] if trace else None
        self.problem: AssertionError | None = None
        """The first violation; it ends the run."""
        self._due: list[tuple[float, int, Task, int]] = []
        self._serial = 0
        self._steps = 0

    def note(self, who: str, what: str, about: object = "") -> None:
        """A line of the replay."""
        if self.trace is not None:
            self.trace.append(f"{self.now:8.3f}  {who:<12} {what} {about}")

    def some_time(self) -> float:
        """Mostly next to nothing, now and then seconds."""
        return float(2.0 * self.dice.random() ** 12)

    def wait(self, seconds: float) -> None:
        """Let others run for that long, or until somebody wakes this thread."""
        task = cast("Task", getcurrent())
        if task.process.dead:
            raise Killed
        self._push(self.now + seconds, task)
        self.hub.switch()

    def wake(self, task: Task) -> None:
        self._push(self.now, task)

    def _push(self, at: float, task: Task) -> None:
        self._serial += 1
        heapq.heappush(self._due, (at, self._serial, task, task.ticket))

    def run_until(self, end: float) -> None:
        """Raises the first violation, as an AssertionError."""
        while self._due and self._due[0][0] <= end:
            at, _, task, ticket = heapq.heappop(self._due)
            if ticket != task.ticket or task.process.dead:
                continue
            if task.process.frozen_until > at:
                self._push(task.process.frozen_until, task)
                continue
            self.now = at
            task.ticket += 1
            task.switch()
            self._bury()
            if self.problem is not None:
                raise self.problem
            self._steps += 1
            assert self._steps < MAX_STEPS, "the run does not come to an end"
        self.now = end

    def finish(self) -> None:
        """Kill everything that is left, so that no greenlet outlives the run, and let go of the world: dead ones do, some of them."""
        for process in self.processes:
            process.kill()
        self._bury()
        for process in self.processes:
            for task in process.tasks:
                del task.process
        self._due.clear()

    def _bury(self) -> None:
        while self.doomed:
            for task in self.doomed.pop().tasks:
                if not task.dead:
                    task.throw(Killed)


def current() -> Process | None:
    """The process of the thread that runs; None outside the simulation."""
    task = getcurrent()
    return task.process if isinstance(task, Task) else None


def here() -> Process:
    process = current()
    assert process is not None, "outside the simulation"
    return process


class Clock:
    """walkeeper.lib.clock.Clock."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.now

    def sleep(self, seconds: float) -> None:
        self._loop.wait(seconds)


class _Waiters:
    """Threads that wait for one thing."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []

    def wait(self, until: Callable[[], object], timeout: float | None) -> bool:
        loop = here().loop
        task = cast("Task", getcurrent())
        end = loop.now + (1e9 if timeout is None else timeout)
        while not until():
            if loop.now >= end:
                return False
            self._tasks.append(task)
            loop.wait(end - loop.now)
        return True

    def wake(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            if not task.process.dead:
                task.process.loop.wake(task)


class Event:
    """threading.Event."""

    def __init__(self) -> None:
        self._set = False
        self._waiters = _Waiters()

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        self._waiters.wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        return self._waiters.wait(self.is_set, timeout)


class Lock:
    """threading.Lock and RLock, as a context manager."""

    def __init__(self) -> None:
        self._free = True
        self._waiters = _Waiters()

    def __enter__(self) -> None:
        if not self._free:
            self._waiters.wait(lambda: self._free, None)
        self._free = False

    def __exit__(self, *_: object) -> None:
        self._free = True
        self._waiters.wake()


class Condition:
    """threading.Condition. No lock: nobody else runs before its holder waits."""

    def __init__(self) -> None:
        self._waiters = _Waiters()

    def __enter__(self) -> None:
        """Nothing to take."""

    def __exit__(self, *_: object) -> None:
        """Nothing to give back."""

    def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> bool:
        return self._waiters.wait(predicate, timeout)

    def notify_all(self) -> None:
        self._waiters.wake()


class Thread:
    """threading.Thread; it belongs to the process that starts it."""

    def __init__(
        self, target: Callable[..., object], args: tuple[Any, ...] = (), name: str = "", *, daemon: bool = False
    ) -> None:
        self.name = name
        self.daemon = daemon
        self._work: Callable[[], object] = lambda: target(*args)
        self._task: Task | None = None
        self._waiters = _Waiters()

    def start(self) -> None:
        self._task = here().run(self._run)

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._waiters.wake()

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.dead

    def join(self, timeout: float | None = None) -> None:
        self._waiters.wait(lambda: not self.is_alive(), timeout)


class SimpleQueue(Generic[T]):
    """queue.SimpleQueue, and Queue."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._waiters = _Waiters()

    def put(self, item: T) -> None:
        self._items.append(item)
        self._waiters.wake()

    def get(self, *, timeout: float | None = None) -> T:
        if not self._waiters.wait(lambda: self._items, timeout):
            raise queue.Empty
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items

    def qsize(self) -> int:
        return len(self._items)


class Threading:
    """What stands in for the module ``threading``."""

    Condition, Event, Lock, RLock, Thread = Condition, Event, Lock, Lock, Thread

    def __getattr__(self, name: str) -> object:
        return getattr(threading, name)


class Queues:
    """What stands in for the module ``queue``."""

    SimpleQueue, Queue, Empty = SimpleQueue, SimpleQueue, queue.Empty
