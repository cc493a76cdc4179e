"""That a process does not keep what it has freed, be it large or of many threads; with the C library of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_TUNES = ("MALLOC_", "GLIBC_TUNABLES")
_RESIDENT = """
import re
import threading
from pathlib import Path
from walkeeper.lib.heap import return_large_blocks, share_among_threads

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

"""
_LARGE = """
before = resident()
for _ in range(2):  # glibc changes its mind when it sees the first one go
    block = b"x" * (24 << 20)
    del block
print(resident() - before)
"""
_THREADS = """
kept, size, done = [], 1 << 16, threading.Semaphore(0)

def use():
    blocks = [b"x" * size for _ in range(64)]
    kept.append(blocks.pop())  # above what is freed
    del blocks
    done.release()
    threading.Event().wait()

before = resident()
for _ in range(8):
    threading.Thread(target=use, daemon=True).start()
    done.acquire()
print(resident() - before)
"""


def kept(first: str, then: str) -> int:
    """MiB, by a process that does the one thing first."""
    root = Path(__file__).parents[2]
    said = subprocess.run(
        [sys.executable, "-c", f"{_RESIDENT}\n{first}\n{then}"],
        cwd=root,
        env={name: value for name, value in os.environ.items() if not name.startswith(_TUNES)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(said.stdout)


def test_what_is_large_is_given_back() -> None:
    assert kept("", _LARGE) >= 16
    assert kept("return_large_blocks()", _LARGE) <= 4


def test_what_one_thread_has_freed_the_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")  # of this host, say; the child does not get it
    assert kept("", _THREADS) >= 16
    assert kept("share_among_threads()", _THREADS) <= 8
