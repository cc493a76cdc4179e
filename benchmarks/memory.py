"""What a process takes of the machine, from /proc."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from benchmarks.cost import children

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_FIELD: Final = re.compile(r"^(Rss|Pss):\s+(\d+) kB", re.MULTILINE)
_PEAK: Final = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


class Memory:
    """Looks at one process; MiB. PSS counts shared pages in part, RSS in full."""

    def __init__(self, pid: int) -> None:
        self.rss: list[float] = []
        self.pss: list[float] = []
        self._path = Path(f"/proc/{pid}/smaps_rollup")

    def look(self) -> None:
        found = dict(_FIELD.findall(self._path.read_text()))
        self.rss.append(int(found["Rss"]) / 1024)
        self.pss.append(int(found["Pss"]) / 1024)


def peak_mib(pid: int) -> float:
    """The most that a process has had so far, resident; 0.0 for one that is over."""
    found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, of its children, and of those that it has reaped."""
    total = 0.0
    for task in (pid, *children(pid)):
        # After the command's name, which may contain anything: utime, stime, cutime and cstime are fields 14 to 17.
        fields = Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(value) for value in fields[11:15]) / _TICKS
    return total
