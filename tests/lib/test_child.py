"""Processes that end with the thread that started them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.parts.processes import wait_until

PARENT = """
import signal, subprocess, sys, time
from walkeeper.lib.child import bound
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell's & has it
print(subprocess.Popen(bound(["/bin/sleep", "1000"], signal.SIGINT)).pid, flush=True)
time.sleep(1000)
"""


def test_one_whose_parent_ignores_its_signal_ends_by_it_all_the_same() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as lines:
        pid = int(lines.readline())
    process = Path(f"/proc/{pid}")
    wait_until(lambda: "sleep" in (process / "cmdline").read_text().split("\0")[0], "the program")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not process.exists() or "Z" in (process / "stat").read_text().split()[2], "its end")
