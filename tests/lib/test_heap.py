"""That what is large does not stay with a process that has freed it; with the C library of this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_KEPT = """
import re
from pathlib import Path
from walkeeper.lib.heap import return_large_blocks

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

{first}
before = resident()
for _ in range(2):  # glibc changes its mind when it sees the first one go
    block = b"x" * (24 << 20)
    del block
print(resident() - before)
"""


def kept(first: str) -> int:
    """MiB, by a process that does this first."""
    root = Path(__file__).parents[2]
    said = subprocess.run(
        [sys.executable, "-c", _KEPT.format(first=first)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(said.stdout)


def test_what_is_large_is_given_back() -> None:
    assert kept("") >= 16
    assert kept("return_large_blocks()") <= 4
