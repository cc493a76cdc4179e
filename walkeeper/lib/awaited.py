"""For a library that awaits, in a program of threads: one event loop in a thread of its own, and calls that end in time.

A call that is over its time is cancelled, which closes what it waits on: nothing is left behind.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from typing import Final, TypeVar

T = TypeVar("T")

LAST_WORDS: Final = 2.0
"""Seconds that the end of the process waits for the loop to end."""


class Overdue(Exception):
    """The call was cancelled; what it asked for may still have happened."""


class Limit:
    """Of a call that runs."""

    def __init__(self, timeout: asyncio.Timeout, most: float) -> None:
        self._timeout = timeout
        self._most = most

    def extend(self, seconds: float) -> None:
        """More is to come than was known at the beginning. What is left is never more than there was then: a call whose bytes
        came fast, and which then stalls, does not wait for what they have earned.
        """
        until = self._timeout.when()
        if until is not None and not self._timeout.expired():
            self._timeout.reschedule(min(until + seconds, asyncio.get_running_loop().time() + self._most))


class Awaited:
    """Safe for several threads. The loop begins with the first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[Limit], Awaitable[T]], seconds: float) -> T:
        """What ``function`` returns, or raises, when it is awaited. Raises Overdue after ``seconds``, which it may extend, and
        where the end of the process comes first.
        """
        with self._lock:
            if self._ended:
                raise Overdue
            future = asyncio.run_coroutine_threadsafe(_within(function, seconds), self._running())
        try:
            return future.result()
        except CancelledError:
            raise Overdue from None

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name=f"loop-{self._name}", daemon=True)
            self._thread.start()
            atexit.register(self.end)
        return self._loop

    def end(self) -> None:
        """Cancel what runs: a library's own threads must not come back into an interpreter that is taken down."""
        with self._lock:
            self._ended = True
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None and thread.is_alive():
            asyncio.run_coroutine_threadsafe(_cancel_others(), loop).add_done_callback(
                lambda _: loop.call_soon_threadsafe(loop.stop)
            )
            thread.join(LAST_WORDS)
            if not thread.is_alive():
                loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for each in others:
        each.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _within(function: Callable[[Limit], Awaitable[T]], seconds: float) -> T:
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            return await function(Limit(timeout, seconds))
    except TimeoutError:
        if timeout.expired():
            raise Overdue from None
        raise
