"""Processes that stand for machines: each host's processes carry its mark, and all of them die together.

A process that forks twice, as walkeeper's agent does, has no parent to be found by, and PostgreSQL's children overwrite
their environment. So a host's processes are those that have its mark in the environment, or their working directory in
its directory, or one of these as an ancestor.

Whatever this run started is ended by pid: at the end by ``end_run``, and by a guard process if this one is killed.
Only the standard library is used here, because the guard runs this file too.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, Self, TypeVar

MARK: Final = "WALKEEPER_TEST_NODE"
RUN: Final = f"{os.getpid()}-{secrets.token_hex(3)}"
"""Begins the mark of every host of this run."""

CHECKOUT: Final = Path(__file__).resolve().parents[2]
ON_A_SHARED_DISK: Final = (
    "import sys, walkeeper.core.room as room; room.DISK_SECONDS = 0.0; "
    "from walkeeper.cli.main import main; sys.exit(main())"
)
"""For ``python -c``: walkeeper, to which a disk that other tests fill at this moment is nothing to warn of."""
LONGEST_BASE: Final = 60
"""A Unix socket's path has 107 bytes; what is left of them must hold everything below the run's directory."""

IN_MEMORY: Final = Path("/dev/shm")
MEMORY_NEEDED: Final = 8 << 30
"""Bytes: several times what the directories of four workers take together."""

_T = TypeVar("_T")
_serial = itertools.count(1)
_ports: dict[int, socket.socket] = {}
_directories: list[Path] = []


# ---------------------------------------------------------------------------------------------------- looking at /proc
#
# Without pathlib, which would take three times as long: for each server that a test ends all processes are looked at, some times.


def _stat(pid: int) -> tuple[int, str] | None:
    """Parent and state of a process, or None when there is no such process."""
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split(None, 2)
    except OSError:
        return None
    return int(fields[1]), fields[0].decode("ascii")


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _parents(pids: Iterable[int] | None = None) -> dict[int, int]:
    """Every living process, or those of ``pids`` that live, with its parent; zombies are not living."""
    if pids is None:
        pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208
    return {pid: stat[0] for pid in pids if (stat := _stat(pid)) and stat[1] not in "ZX"}


def children(pid: int) -> list[int]:
    """Its living children."""
    return [child for child, parent in _parents().items() if parent == pid]


def _carries(pid: int, mark: bytes, directory: str) -> bool:
    try:
        if os.readlink(f"/proc/{pid}/cwd").startswith(directory):  # noqa: PTH115
            return True
        environment = _read(f"/proc/{pid}/environ")
    except OSError:
        return False
    return b"\0" + mark in b"\0" + environment


def _family(mark: str, directory: Path) -> set[int]:
    """The processes of the host whose mark begins with ``mark``, and their descendants; never this process."""
    wanted, place = f"{MARK}={mark}/".encode(), f"{directory}/"
    parents = _parents()
    found = {pid for pid in parents if _carries(pid, wanted, place)}
    grew = True
    while grew:
        children = {pid for pid, parent in parents.items() if parent in found} - found
        found |= children
        grew = bool(children)
    return found - {os.getpid()}


def describe(pid: int) -> str:
    """A process for people: its number and command line."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        command = "gone"
    return f"{pid} ({command})"


def stands_still(pid: int) -> bool:
    """Whether all its threads are stopped, or it is gone."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return all(task.joinpath("stat").read_text().rpartition(")")[2].split()[0] in "TtZX" for task in tasks)
    except OSError:  # a thread that ends meanwhile, or all of it
        return not Path(f"/proc/{pid}").exists()


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _kill_family(mark: str, directory: Path, timeout: float = 60) -> set[int]:
    """SIGKILL to all of them, and to what they start meanwhile. Returns those that there were."""
    killed: set[int] = set()
    deadline = time.monotonic() + timeout
    while pids := _family(mark, directory):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{mark}: alive after SIGKILL: {', '.join(map(describe, pids))}")
        _signal(pids, signal.SIGSTOP)  # so that none can fork between the look and the kill
        pids |= _family(mark, directory)
        killed |= pids
        _signal(_deepest_first(pids), signal.SIGKILL)
        while _parents(pids) and time.monotonic() < deadline:  # they are few: to look at all others costs more
            time.sleep(0.01)
    _remove_shared_memory(killed)
    return killed


def _deepest_first(pids: Iterable[int]) -> list[int]:
    """Children before their parents, by whom they are found: whoever is interrupted here can begin again."""
    parents = _parents(pids)

    def depth(pid: int) -> int:
        return 1 + depth(parents[pid]) if pid in parents else 0

    return sorted(pids, key=depth, reverse=True)


def _remove_shared_memory(killed: set[int]) -> None:
    """What a killed postmaster leaves in the kernel, and only its next start would remove: of these there are 4096 at most."""
    with contextlib.suppress(FileNotFoundError), Path("/proc/sysvipc/shm").open(encoding="ascii") as shm:
        shm.readline()
        for _, identity, _, _, creator, _, attached, *_ in map(str.split, shm):
            if int(creator) in killed and attached == "0":
                remove = 0  # IPC_RMID of linux/ipc.h
                ctypes.CDLL(None).shmctl(int(identity), remove, None)


# ------------------------------------------------------------------------------------------------------ waiting, ports


def wait_until(
    condition: Callable[[], _T | None],
    what: str,
    timeout: float = 60,
    *,
    interval: float = 0.05,
    logs: Iterable[Path] = (),
) -> _T:
    """The first true value of ``condition``. Raises TimeoutError that names ``what`` and ends with the logs' tails."""
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise TimeoutError("\n".join([f"{what}: not within {timeout:g} s", *map(tail, logs)]))
        time.sleep(interval)


def tail(log: Path, lines: int = 30) -> str:
    """The end of a log, under a line with its path."""
    try:
        text = log.read_bytes()[-20_000:].decode("utf-8", "replace")
    except OSError as problem:
        return f"--- {log}: {problem.strerror}"
    return "\n".join([f"--- {log}", *text.splitlines()[-lines:]])


def free_port() -> int:
    """A TCP port of 127.0.0.1 that no other run of this machine is given while this process lives.

    It lies below the range that outgoing connections use, so that a server that is down finds its port free when it
    comes back. What reserves it is an abstract Unix socket, which goes away with the process.
    """
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(10_000, lowest_outgoing) if lowest_outgoing > 12_000 else range(20_000, 60_000)
    for _ in range(1000):
        port = random.choice(candidates)
        if port not in _ports and (reservation := _reserve(port)):
            _ports[port] = reservation
            return port
    raise RuntimeError("no free TCP port on 127.0.0.1")


def _reserve(port: int) -> socket.socket | None:
    reservation = socket.socket(socket.AF_UNIX)
    try:
        reservation.bind(f"\0walkeeper-test-port-{port}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    except OSError:
        reservation.close()
        return None
    return reservation


# -------------------------------------------------------------------------------------------------- one run, its guard


class _Run:
    """The run's directory and its guard. Both come with the first use."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.base: Path | None = None
        """Where that directory is made; None for where temporary files go."""

    @property
    def directory(self) -> Path:
        if self._directory is None:
            base = self.base or Path(tempfile.gettempdir()).resolve()
            base = base if len(str(base)) <= LONGEST_BASE else Path("/tmp")
            self._directory = Path(tempfile.mkdtemp(prefix=f"wk-{RUN}-", dir=base))
            command = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), RUN, str(self._directory)]
            self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, cwd="/")
            atexit.register(self.end)
        return self._directory

    def living(self) -> set[int]:
        return _family(RUN, self._directory) if self._directory else set()

    def end(self) -> list[str]:
        """Kill what is left, remove the directory. Returns the descriptions of what was left."""
        if self._directory is None or self._guard is None or self._guard.stdin is None:
            return []
        left = [describe(pid) for pid in sorted(self.living())]
        _kill_family(RUN, self._directory)
        shutil.rmtree(self._directory, ignore_errors=True)
        self._guard.stdin.close()
        self._guard.wait(timeout=30)
        self._directory = self._guard = None
        return left


_run: Final = _Run()


def die_with_parent() -> None:
    """Have this process killed when the one that started it is gone; the guard then ends what it had started.

    For a worker of pytest-xdist, which otherwise finishes its test first. To be called in the main thread.
    """
    parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
    ctypes.CDLL(None).prctl(parent_death_signal, int(signal.SIGKILL), 0, 0, 0)


def keep_in_memory() -> None:
    """Have this run's directories in memory, where there is room for them. For tests, whose servers come and go.

    Before ext4 takes an inode it looks whether that was freed within the last minutes, at one after the other: with a thousand
    files of each server that ended, this took more CPU than the servers did.
    """
    try:
        disk = os.statvfs(IN_MEMORY)
        available = int(Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]) << 10
    except OSError:
        return
    room = min(disk.f_bavail * disk.f_frsize, available)
    if room >= MEMORY_NEEDED and not disk.f_flag & os.ST_NOEXEC and os.access(IN_MEMORY, os.W_OK | os.X_OK):
        _run.base = IN_MEMORY


def new_directory(name: str, *, kept: bool = False) -> Path:
    """A private directory of this run with a path that is short enough for Unix sockets; it goes when the run ends.

    Unless it is ``kept`` for all its tests, it may go sooner, by ``remove_directories``.
    """
    directory = _run.directory / f"{name}-{next(_serial)}"  # without the dash the 31st "s" is the first "s3"
    directory.mkdir(mode=0o700)
    if not kept:
        _directories.append(directory)
    return directory


def remove_directories() -> None:
    """All that were made until now: nobody needs them any more."""
    while _directories:
        shutil.rmtree(_directories.pop(), ignore_errors=True)


def copy_tree(source: Path, target: Path) -> None:
    """What ``shutil.copytree`` does with a data directory at four times the CPU. ``target`` is not there yet."""
    subprocess.run(["cp", "--archive", "--no-target-directory", source, target], stdin=subprocess.DEVNULL, check=True)


def end_run() -> list[str]:
    """End everything that this run started, by pid, and remove its directories. Returns what was still alive."""
    return _run.end()


def living() -> list[str]:
    """Every process that this run started and that is alive, for people."""
    return [describe(pid) for pid in sorted(_run.living())]


# ----------------------------------------------------------------------------------------------------- process and host


class Process:
    """A direct child in a session of its own, with its output in ``log``. Start it through a Host.

    Leaving the context, or ``close``, kills it if it still runs.
    """

    def __init__(self, args: Sequence[object], log: Path, environment: Mapping[str, str], cwd: Path) -> None:
        self.args = [str(arg) for arg in args]
        self.log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                self.args,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """As ``subprocess`` has it; None while it runs."""
        return self._child.poll()

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def send(self, number: int) -> None:
        self._child.send_signal(number)

    def pause(self) -> None:
        """Returns when all its threads stand still: some run on for a moment after the signal, and may answer."""
        self.send(signal.SIGSTOP)
        wait_until(lambda: stands_still(self.pid), f"{self.args[0]} stands still")

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def wait(self, timeout: float = 60) -> int:
        """Its return code. Raises TimeoutError with the end of its log."""
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.args[0]}: did not end within {timeout:g} s\n{tail(self.log)}") from None

    def stop(self, number: int = signal.SIGTERM, timeout: float = 60) -> int:
        """Ask it to end and wait. Its return code."""
        if self.alive:
            self.send(number)
        return self.wait(timeout)

    def close(self) -> None:
        """SIGKILL if it still runs, and reap it."""
        if self.alive:
            self.send(signal.SIGKILL)
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Host:
    """A machine, as far as tests go: the processes that were started on it, and all that came of them."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory.resolve()
        self.mark = f"{RUN}/{name}-{next(_serial)}"
        self._children: list[Process] = []
        _ = _run.directory  # the guard is there before the first process is

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Ours, with the host's mark, and with the checkout first where Python looks for modules.

        Without libpq's and Patroni's variables: what a developer has set there must not reach the servers.
        """
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "PATRONI_"))}
        path = os.pathsep.join(filter(None, [str(CHECKOUT), ours.get("PYTHONPATH", "")]))
        return {**ours, "PYTHONPATH": path, **(extra or {}), MARK: f"{self.mark}/"}

    def start(
        self,
        args: Sequence[object],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Process:
        """Start a program. ``log`` defaults to the program's name in the host's directory."""
        log = log or self.directory / f"{Path(str(args[0])).name}.log"
        process = Process(args, log, self.environment(env), cwd or self.directory)
        self._children.append(process)
        return process

    def run(self, args: Sequence[object], *, env: Mapping[str, str] | None = None, timeout: float = 60) -> str:
        """Run a program to its end; its standard output. Raises CalledProcessError with a note of what it said.

        What it detaches may keep its output open: that is not waited for.
        """
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            result = subprocess.run(
                [str(arg) for arg in args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=self.environment(env),
                cwd=self.directory,
                timeout=timeout,
                check=False,
            )
            said = [_text(output), _text(errors)]
        if result.returncode:
            error = subprocess.CalledProcessError(result.returncode, result.args, *said)
            error.add_note("".join(said)[-4000:])
            raise error
        return said[0]

    def pids(self) -> set[int]:
        """Everything that runs on it now."""
        return _family(self.mark, self.directory)

    def kill9(self) -> set[int]:
        """The power is gone: SIGKILL to all of it, at once. The pids that there were."""
        killed = _kill_family(self.mark, self.directory)
        for child in self._children:
            child.close()
        self._children.clear()
        return killed

    def pause(self) -> None:
        """SIGSTOP to all of it."""
        _signal(self.pids(), signal.SIGSTOP)

    def resume(self) -> None:
        _signal(self.pids(), signal.SIGCONT)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


@contextlib.contextmanager
def host(name: str, directory: Path) -> Iterator[Host]:
    """A host that is killed, whatever still runs on it, at the end."""
    machine = Host(name, directory)
    try:
        yield machine
    finally:
        machine.kill9()


def _guard(run: str, directory: Path) -> None:
    """Wait until the run's own process is gone, however it went, then end what it left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    if directory.exists():
        _kill_family(run, directory)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    _guard(sys.argv[1], Path(sys.argv[2]))
