"""pg_receivewal as a child process: started with what was measured to be safe, watched, stopped, never trusted.

It streams without a slot and without fsync: the hold slot protects what is not archived yet, and the spool is a cache.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import Final

from walkeeper.config import PostgresqlSettings
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.wal_page import PAGE_SIZE
from walkeeper.errors import ConfigError, PostgresError
from walkeeper.lib.child import bound
from walkeeper.lib.clock import Clock
from walkeeper.lib.durable import write_all
from walkeeper.postgres import programs
from walkeeper.postgres.server import conninfo, require_auth

WAL_SENDER_TIMEOUT: Final = "10s"
TRIAL_SECONDS: Final = 20.0
_MAX_OUTPUT: Final = 4096
_STOP_TIMEOUT: Final = 5.0

_PASSED_ON: Final = ("PATH", "HOME", "TZ", "LD_LIBRARY_PATH", "KRB5CCNAME")
"""Beside libpq's own, which begin with PG: what is good for SQL is good for pg_receivewal."""
_PASSFILE: Final = "PGPASSFILE"
_SERVICE_FILE: Final = "PGSERVICEFILE"
_SERVICE: Final = "walkeeper"


def find_program(bin_dir: Path | None, server_major: int) -> Path:
    """The first pg_receivewal that is not older than the server: an older one cannot stream from it. Raises ConfigError.

    Looked at are ``bin_dir``, which may be left from before an upgrade, the search path, and where packages of that major are.
    """
    folders = programs.folders(bin_dir, server_major)
    unfit = []
    for folder in folders:
        path = folder / "pg_receivewal"
        if os.access(path, os.X_OK):
            major, said = programs.major_of(path)
            if major is not None and major >= server_major:
                return path
            unfit.append(f"{path} {said}")
    install = (
        f"Install the client programs of PostgreSQL {server_major}, which an agent finds by itself. Or set postgresql.bin_dir to "
        "where they are; an agent that runs is told by walkeeper agent --reload."
    )
    if unfit:
        raise ConfigError(
            f"pg_receivewal: the server is of PostgreSQL {server_major}, and {', '.join(unfit)}",
            hint=install,
        )
    raise ConfigError(
        f"pg_receivewal: not found in {':'.join(map(str, folders))}",
        hint=install,
    )


@dataclass(frozen=True, slots=True)
class Ended:
    """How a pg_receivewal ended that nobody stopped: ``well`` when it got to the last segment it was asked for."""

    well: bool
    said: str
    """Exit code and output, on one line."""


@dataclass(frozen=True, slots=True)
class Written:
    """How far the ``run``-th pg_receivewal has written a file, its write() of the last byte has returned; or what the ``run``-th
    stream of the agent's own receiver has brought of it.
    """

    run: int
    offset: int


class Receiver:
    """One pg_receivewal at a time. Start it from a thread that lives as long as the child is to live."""

    def __init__(
        self, program: Path, directory: Path, settings: PostgresqlSettings, passfile: Path, clock: Clock
    ) -> None:
        self._program = program
        self._directory = directory
        self._settings = settings
        self._passfile = passfile
        self._clock = clock
        self._child: subprocess.Popen[bytes] | None = None
        self._output = b""
        self._runs = 0
        self._filled: tuple[int, str] | None = None
        """The file, and the run that writes it, whose zeros are known to be over."""

    @property
    def running(self) -> bool:
        return self._child is not None

    def start(self, last: Segment) -> None:
        """Begin to stream into the directory, from where its seed says, and end with ``last``. Raises PostgresError."""
        try:
            secrets = self._secrets()
        except OSError as error:
            raise PostgresError(
                f"{self._passfile}: {error.strerror}",
                hint="The spool's disk is full, or failed, or its rights were changed.",
            ) from None
        self._output = b""
        try:
            arguments = [
                f"--directory={self._directory}", "--no-loop", "--no-sync", "--no-password", "--status-interval=1",
                f"--dbname={self._conninfo(secrets)}",
                f"--endpos={Lsn(last.end - 1)}",
            ]  # fmt: skip
            self._child = subprocess.Popen(
                bound([self._program, *arguments], SIGINT),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment(secrets),
                start_new_session=True,
                cwd="/",
                pass_fds=[*secrets.values()],
            )
        except OSError as error:
            raise PostgresError(f"pg_receivewal: cannot be started ({error.strerror})") from None
        finally:
            _close(secrets)
        self._runs += 1
        assert self._child.stdout is not None  # noqa: S101 - it is a pipe
        os.set_blocking(self._child.stdout.fileno(), False)

    def written(self, partial: Path, size: int) -> Written | None:
        """How far it has written that ``.partial`` of ``size`` bytes; None where it does not write it, not yet or no longer.

        Safe from every thread. The kernel tells: the position of the descriptor that pg_receivewal writes through. Nothing
        in the file can: it is filled with zeros in advance, or has the bytes of an earlier run. Raises PostgresError.
        """
        child, run = self._child, self._runs
        if child is None:
            return None
        try:
            # In this order: up to PostgreSQL 15 the zeros are written through the same descriptor, page by page, and
            # when the file has its size, that position is one page before the end or at it. The end is never believed, and
            # the other one only after another has been seen in that file: then it is WAL that is written.
            whole = partial.stat().st_size == size
            offset = _position(child.pid, partial.parent.resolve() / partial.name)
        except (FileNotFoundError, ProcessLookupError):
            return None
        except OSError as error:
            raise PostgresError(
                f"pg_receivewal: its descriptors cannot be read ({error.filename}: {error.strerror})",
                hint="/proc must show a user his own processes; without it there is no tail. tail.interval can be off.",
            ) from None
        if not whole or offset in {None, size} or self._runs != run:
            return None
        if offset != size - PAGE_SIZE:
            self._filled = (run, partial.name)
        elif self._filled != (run, partial.name):
            return None
        return Written(run, offset)

    def poll(self) -> Ended | None:
        """None while it runs, or was never started; else how it ended."""
        if self._child is None:
            return None
        self._read_output()
        code = self._child.poll()
        if code is None:
            return None
        self._read_output()
        self._forget()
        return Ended(code == 0, _said(self._output, code))

    def stop(self) -> None:
        """SIGINT, and SIGKILL if that does not help within seconds."""
        if self._child is None:
            return
        self._child.send_signal(2)
        try:
            self._child.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._read_output()
        self._forget()

    def wait(self, timeout: float, cancelled: Callable[[], bool]) -> str:
        """Wait for its own end, at most ``timeout`` seconds or until ``cancelled``; then it is stopped. What it said."""
        deadline = self._clock.monotonic() + timeout
        while self._clock.monotonic() < deadline and not cancelled():
            ended = self.poll()
            if ended is not None:
                return ended.said
            self._clock.sleep(0.02)
        self.stop()
        return "stopped: it did not come to an end"

    def _conninfo(self, secrets: Mapping[str, int]) -> str:
        more = {"options": f"-c wal_sender_timeout={WAL_SENDER_TIMEOUT}", "replication": "true"}
        if _PASSFILE in secrets:
            more["passfile"] = f"/proc/self/fd/{secrets[_PASSFILE]}"
        if _SERVICE_FILE in secrets:
            more["service"] = _SERVICE
        return conninfo(self._settings, **more)

    def _environment(self, secrets: Mapping[str, int]) -> dict[str, str]:
        taken = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("PG")}
        for name in ("PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE"):  # pg_receivewal passes an empty hostaddr over
            taken.pop(name, None)
        # In the environment, where a libpq that is older than 16 takes no offence at it.
        taken |= {"LC_ALL": "C", "PGREQUIREAUTH": require_auth(self._settings)}
        if _PASSFILE in secrets:
            taken.pop("PGPASSWORD", None)  # it would go before the file
        if _SERVICE_FILE in secrets:
            taken[_SERVICE_FILE] = f"/proc/self/fd/{secrets[_SERVICE_FILE]}"
        return taken

    def _secrets(self) -> dict[str, int]:
        """Descriptors of files for libpq, by variable: so that no secret stands in argv or the environment. Raises OSError.

        Where there is no password libpq looks for one itself; only a service file can bring it the pass phrase of a key.
        """
        texts, settings = {}, self._settings
        if settings.password is not None:
            fields = ("*", "*", "*", settings.user, settings.password)
            texts[_PASSFILE] = ":".join(
                re.sub(r"([\\:])", r"\\\1", value) if value != "*" else value for value in fields
            )
        if settings.sslpassword is not None:
            texts[_SERVICE_FILE] = f"[{_SERVICE}]\nsslpassword={settings.sslpassword}"
        opened: dict[str, int] = {}
        try:
            for name, text in texts.items():
                opened[name] = _nameless(self._passfile, text)
        except BaseException:
            _close(opened)
            raise
        return opened

    def _read_output(self) -> None:
        assert self._child is not None  # noqa: S101 - callers looked
        assert self._child.stdout is not None  # noqa: S101 - it is a pipe
        while chunk := self._child.stdout.read(65536):
            self._output = (self._output + chunk)[-_MAX_OUTPUT:]

    def _forget(self) -> None:
        if self._child is not None and self._child.stdout is not None:
            self._child.stdout.close()
        self._child = None


def why_refused(program: Path, settings: PostgresqlSettings, size: SegmentSize, clock: Clock) -> str:
    """What one says that is started as the agent starts it, and that ends where it begins; "" where it may stream, or hangs.

    Raises PostgresError where none can be started.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="walkeeper-") as directory:
            place = Path(directory, "wal")
            place.mkdir()
            receiver = Receiver(program, place, settings, Path(directory, "pgpass"), clock)
            receiver.start(Segment(1, 0, size))
            said = receiver.wait(TRIAL_SECONDS, lambda: False)
    except OSError as error:
        raise PostgresError(f"pg_receivewal: no directory to try it in ({error.strerror})") from None
    return said if said.startswith("rc ") and not said.startswith("rc 0:") else ""


def _position(pid: int, target: Path) -> int | None:
    """Where in that file, named without links, the process writes; None where it does not have it open. Raises OSError."""
    process = Path(f"/proc/{pid}")
    for descriptor in (process / "fd").iterdir():
        try:
            if descriptor.readlink() != target:
                continue
            told = (process / "fdinfo" / descriptor.name).read_text("ascii")
            if descriptor.readlink() == target:  # else the number was given to another file meanwhile
                return int(told.split(maxsplit=2)[1])
        except FileNotFoundError:
            continue
    return None


def _said(output: bytes, code: int) -> str:
    lines = [line.removeprefix("pg_receivewal: ").strip() for line in output.decode("utf-8", "replace").splitlines()]
    return f"rc {code}: {'; '.join(line for line in lines if line) or 'no output'}"


def _close(descriptors: Mapping[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


def _nameless(path: Path, text: str) -> int:
    """A descriptor of a file with that text, which loses its name at once: whatever ends us, nothing of it is left.

    A pipe will not do, as libpq wants a plain file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        path.unlink()
        os.fchmod(descriptor, 0o600)
        write_all(descriptor, f"{text}\n".encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
