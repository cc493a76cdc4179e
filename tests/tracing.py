"""strace as a source of faults: a kill, or an error, at one system call of a real process. No failpoints in the product."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.parts.processes import wait_until

_LINE: Final = re.compile(r"(\d+)\s+(\w+)\((.*?)(?:\)\s+= (?:-?\d+|\?).*| <unfinished \.\.\.>)$")
"""A call; where another thread's came between, its end is on a line of its own, which is not looked at."""

_HERE: Final = re.compile(r"AT_FDCWD<[^>]*>")


def why_no_strace() -> str | None:
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()}"


@dataclass(frozen=True)
class Call:
    """The ``count``-th call of that name in its thread, which is how strace counts, too."""

    name: str
    count: int
    arguments: str

    def killed(self) -> str:
        """For ``strace``: SIGKILL there."""
        return f"{self.name}:signal=KILL:when={self.count}"

    def failing(self, error: str) -> str:
        """For ``strace``: that error instead of the call."""
        return f"{self.name}:error={error}:when={self.count}"


def strace(trace: Path, names: str, *injections: str) -> tuple[str, ...]:
    """What goes before a command, or before ``-p PID``. ``names``: the calls to look at, with commas between."""
    options = [part for injection in injections for part in ("-e", f"inject={injection}")]
    return ("strace", "-f", "-yy", "-s", "200", "-e", f"trace={names}", *options, "-o", str(trace))


def lines(trace: Path) -> list[str]:
    return trace.read_text(errors="replace").splitlines()


def calls_in(trace: Path, *parts: object) -> list[Call]:
    """Those whose arguments have one of ``parts`` in them, in order, from the trace of a run to which nothing happened."""
    counts: dict[tuple[str, str], int] = {}
    found = []
    for line in lines(trace):
        if match := _LINE.match(line):
            counts[match[1], match[2]] = count = counts.get((match[1], match[2]), 0) + 1
            arguments = _HERE.sub("AT_FDCWD", match[3])
            if any(str(part) in arguments for part in parts):
                found.append(Call(match[2], count, arguments))
    return found


def different(found: Iterable[Call]) -> list[Call]:
    """One of those that strace cannot tell from each other: the same call, counted by two threads."""
    return list({(call.name, call.count): call for call in found}.values())


@contextmanager
def attached(pid: int, trace: Path, names: str, *injections: str) -> Iterator[None]:
    """strace on a process that runs already, all of its threads; counts begin here. It goes on untraced afterwards."""
    command = strace(trace, names, *injections)
    with subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, text=True) as tracer:
        try:
            wait_until(lambda: _traced(pid) or tracer.poll() is not None, f"strace on {pid}", 10)
            assert tracer.poll() is None, tracer.stderr and tracer.stderr.read()
            yield
        finally:
            tracer.terminate()
            tracer.communicate()


def _traced(pid: int) -> bool:
    tasks = [task.joinpath("status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return not any(re.search(r"^TracerPid:\t0$", task, re.MULTILINE) for task in tasks)


def why_not_attached() -> str | None:
    """Why strace may not be put on a process that runs; None if it may."""
    if why := why_no_strace():
        return why
    with subprocess.Popen(["sleep", "60"]) as victim:
        try:
            tried = subprocess.run(
                ["timeout", "1", "strace", "-o", "/dev/null", "-p", str(victim.pid)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        finally:
            victim.kill()
    return None if "ttached" in tried.stderr else f"strace may not attach here: {tried.stderr.strip()}"
