"""What commands cost the machine, with all that they leave running in the background: wall time and CPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LEFTOVER_SECONDS: Final = 3.0
"""Seconds for what a command left in the background to end unasked, before it is told to."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_SUBREAPER: Final = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h


def adopt_orphans() -> None:
    """From now on what commands detach becomes this process's child when its parent ends.

    The kernel counts a process's CPU with the one that waits for it, so that nothing is left out, however it was detached.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


class Meter:
    """CPU seconds, user and system, from its making on: of the children that ended, and of ``living``, by pid.

    Children that were there before and live on, as the servers, are not counted unless they are among ``living``.
    """

    def __init__(self, living: Collection[int] = ()) -> None:
        _reap()
        self._before = children()
        self._ended = _children_cpu()
        self._living = {pid: _tree_cpu(pid) for pid in living}

    def read(self) -> float:
        """Ends what was left in the background first. One of ``living`` must live."""
        self._end_background()
        living = sum(_tree_cpu(pid) - before for pid, before in self._living.items())
        return _children_cpu() - self._ended + living

    def _end_background(self) -> None:
        begun = time.monotonic()
        while left := children() - self._before:
            waited = time.monotonic() - begun
            if waited > LEFTOVER_SECONDS:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL if waited > 2 * LEFTOVER_SECONDS else signal.SIGTERM)
            time.sleep(0.02)
            _reap()


def children(pid: int | str = "self") -> set[int]:
    """Of this process, or of another; zombies too."""
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def _tree_cpu(pid: int) -> float:
    """Of a process, of all below it, and of those that they have waited for."""
    below = sum(_tree_cpu(child) for child in children(pid))
    try:
        # After the command's name, which may contain anything: utime, stime, cutime and cstime are fields 14 to 17.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return below
    return below + sum(int(value) for value in fields[11:15]) / _TICKS


def _reap() -> None:
    """Zombies that no Popen waits for: everybody else here waits for its own at once."""
    for pid in children():
        with contextlib.suppress(ChildProcessError, FileNotFoundError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                os.waitpid(pid, os.WNOHANG)


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True, slots=True)
class Call:
    """``wall`` in seconds."""

    code: int
    wall: float


def call(command: str, directory: Path, environment: Mapping[str, str], log: Path) -> Call:
    """As PostgreSQL runs restore_command and archive_command: by a shell, in the data directory."""
    with log.open("ab") as output:
        begun = time.monotonic()
        result = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        )
        return Call(result.returncode, time.monotonic() - begun)
