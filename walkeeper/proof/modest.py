"""A proof on a member whose server has better things to do: last in line for the cores, the disks and memory, and no faster than
was said.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from walkeeper.lib import events

_NICE: Final = 19
_LOG_EVERY: Final = 30.0
"""Seconds between two lines of progress."""


def be() -> None:
    """For this process and what it starts, as far as the host allows it. Called before there are other threads."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    with suppress(OSError):  # when memory runs out, the kernel ends this and not the cluster's server
        Path("/proc/self/oom_score_adj").write_text("1000")
    if ionice := shutil.which("ionice"):
        subprocess.run(
            [ionice, "-c", "3", "-p", str(os.getpid())],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


class Pace:
    """Of what is restored: at most ``rate`` bytes a second, where that is limited, and a line of the log now and then."""

    def __init__(self, backup: str, total: int, rate: int | None) -> None:
        self._backup = backup
        self._total = total
        self._rate = rate
        self._began = self._logged = time.monotonic()
        events.info("proof_begins", backup=backup, bytes=total)

    def moved(self, done: int) -> None:
        """That many bytes by now. Waits."""
        now = time.monotonic()
        if self._rate is not None:
            time.sleep(max(0.0, done / self._rate - (now - self._began)))
        if now - self._logged >= _LOG_EVERY:
            self._logged = now
            events.info("proof_goes_on", backup=self._backup, bytes=done, of=self._total)
