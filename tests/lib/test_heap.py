"""That what is large does not stay with a process that has freed it; with the C library of this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_KEPT = """
import re
from pathlib import Path
from walkeeper.lib.heap import keep_large_blocks, return_large_blocks

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

{first}
before = resident()
for _ in range(2):  # glibc changes its mind when it sees the first one go
    block = b"x" * (24 << 20)
    del block
{then}
print(resident() - before)
"""


def kept(first: str, then: str = "") -> int:
    """MiB, by a process that does this first, and that at the end."""
    root = Path(__file__).parents[2]
    said = subprocess.run(
        [sys.executable, "-c", _KEPT.format(first=first, then=then)],
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


def test_while_large_blocks_come_and_go_they_stay_and_then_all_of_it_is_given_back() -> None:
    begin = "return_large_blocks(); keep_large_blocks()"
    assert kept(begin) >= 16
    assert kept(begin, "return_large_blocks()") <= 4
    assert kept(f"{begin}; return_large_blocks()") <= 4
