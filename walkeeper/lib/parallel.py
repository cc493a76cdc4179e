"""The same work on many things at once, with a bounded number of threads. For commands that people run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")

_WAKE_SECONDS: Final = 0.5
"""A signal that comes just before the main thread begins to wait is only seen when that wait ends."""


def in_parallel(work: Callable[[_T], _R], things: Iterable[_T], workers: int) -> Iterator[_R]:
    """``work`` of each thing, as it gets ready, in no order. A thing is only drawn when a thread is free for it.

    What ``work`` or ``things`` raise is raised here and ends all of it. The threads are daemons: an interrupt or the end of
    the process waits for none of them.
    """
    drawn, lock = iter(things), threading.Lock()
    ended = threading.Event()
    results: SimpleQueue[tuple[_R] | BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            while not ended.is_set():
                with lock:
                    thing = next(drawn, ended)
                if isinstance(thing, threading.Event):
                    break
                results.put((work(thing),))
        except BaseException as problem:  # noqa: BLE001 - carried over to the caller
            ended.set()
            results.put(problem)
        results.put(None)

    for number in range(workers):
        threading.Thread(target=run, name=f"parallel-{number}", daemon=True).start()
    try:
        while workers:
            try:
                result = results.get(timeout=_WAKE_SECONDS)
            except Empty:
                continue
            if result is None:
                workers -= 1
            elif isinstance(result, tuple):
                yield result[0]
            else:
                raise result
    finally:
        ended.set()
