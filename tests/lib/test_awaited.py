"""Calls of a library that awaits: each ends in time, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from walkeeper.lib.awaited import Awaited, Limit, Overdue


def test_a_call_returns_and_raises_what_its_function_does() -> None:
    calls = Awaited("test")

    async def fails(_: Limit) -> None:
        raise TimeoutError("its own")

    async def works(_: Limit) -> str:
        await asyncio.sleep(0)
        return "done"

    assert calls.call(works, 60) == "done"
    with pytest.raises(TimeoutError, match="its own"):
        calls.call(fails, 60)
    calls.end()


def test_a_call_that_is_over_its_time_is_cancelled_beside_others_that_go_on() -> None:
    calls, cancelled, beside = Awaited("test"), threading.Event(), threading.Event()

    async def hangs(_: Limit) -> None:
        try:
            await asyncio.sleep(600)
        finally:
            cancelled.set()

    async def waits(_: Limit) -> str:
        await asyncio.to_thread(beside.wait)
        return "went on"

    said: list[str] = []
    other = threading.Thread(target=lambda: said.append(calls.call(waits, 600)))
    other.start()
    with pytest.raises(Overdue):
        calls.call(hangs, 0.05)
    assert cancelled.is_set()
    beside.set()
    other.join()
    assert said == ["went on"]
    calls.end()


def test_a_call_has_the_time_that_it_earns_and_never_more_than_at_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = Awaited("test")

    async def earns(limit: Limit, stall: float) -> str:
        loop, began, passed = asyncio.get_running_loop(), asyncio.get_running_loop().time(), 0.0
        monkeypatch.setattr(loop, "time", lambda: began + passed)
        for _ in range(4):
            passed += 50
            limit.extend(600)
            await asyncio.sleep(0)
        passed += stall
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "done"

    assert calls.call(lambda limit: earns(limit, 50), 60) == "done"
    with pytest.raises(Overdue):
        calls.call(lambda limit: earns(limit, 70), 60)
    calls.end()


def test_what_runs_at_the_end_and_what_comes_after_it_is_overdue() -> None:
    calls, begun = Awaited("test"), threading.Event()

    async def hangs(_: Limit) -> None:
        begun.set()
        await asyncio.sleep(600)

    said: list[type[BaseException]] = []

    def call() -> None:
        try:
            calls.call(hangs, 600)
        except BaseException as error:  # noqa: BLE001 - the test is about which one
            said.append(type(error))

    running = threading.Thread(target=call)
    running.start()
    begun.wait()
    calls.end()
    running.join()
    call()
    assert said == [Overdue, Overdue]


def test_a_process_ends_beside_a_call_that_hangs() -> None:
    text = """
import asyncio, contextlib, os, threading
from walkeeper.lib.awaited import Awaited, Overdue
calls, begun = Awaited("test"), threading.Event()
async def hangs(_):
    begun.set()
    try:
        await asyncio.sleep(600)
    finally:
        os.write(1, b"cancelled")  # without the lock of sys.stdout, over which a process that ends would abort
def call():
    with contextlib.suppress(Overdue):  # else it is told on stderr, which has such a lock, too
        calls.call(hangs, 600)
threading.Thread(target=call, daemon=True).start()
begun.wait()
"""
    ended = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "cancelled")
