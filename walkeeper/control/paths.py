"""Where the agent's socket and lock are, found without reading the configuration: what runs once per segment asks here.

Light: nothing beyond ``os`` and built-in modules is imported.
"""

# ruff: noqa: PTH102, PTH112, PTH116, PTH118, PTH119, PTH120 - pathlib and contextlib cost more than all that this module does

from __future__ import annotations

import os
from binascii import crc32

ENVIRONMENT = "WALKEEPER_RUN_DIR"
SYSTEM = "/run/walkeeper"

MAX_SOCKET_PATH = 107
"""Bytes: ``sun_path`` less its final zero."""

_NAME_LENGTH = 40
_SAYING = ("WALKEEPER_", "PATRONI_", "AWS_")
_TESTS = "WALKEEPER_TEST_"
_SUFFIX = ".sock"


class RunDirectoryError(Exception):
    """The directory cannot be used. Light programs catch it; `walkeeper` turns it into an AgentError."""


def run_directory(environ: os._Environ[str] | dict[str, str]) -> str:
    """``$WALKEEPER_RUN_DIR``, else /run/walkeeper if it is there and ours to write, else ``.walkeeper/HOST`` in our home.

    The last is created. Whatever lies there is believed (P16): it is refused where anybody but us and root may write it, or
    a directory on its path. Raises RunDirectoryError.
    """
    chosen = environ.get(ENVIRONMENT, "")
    if chosen:
        if not chosen.startswith("/"):
            raise RunDirectoryError(f"{ENVIRONMENT}: {chosen!r} is not an absolute path")
        return _trusted(chosen)
    if os.path.isdir(SYSTEM) and os.access(SYSTEM, os.W_OK | os.X_OK):
        return _trusted(SYSTEM)
    for home in _homes(environ):
        if os.access(home, os.W_OK | os.X_OK):
            return _trusted(own_directory(own_directory(f"{home}/.walkeeper"), os.uname().nodename))
    raise RunDirectoryError(f"{SYSTEM}: it is not there, and this user has no home that it may write")


def own_directory(parent: str, name: str = "") -> str:
    """A directory that is ours alone, made where it is missing. Raises RunDirectoryError for a link, or another's."""
    path = f"{parent}/{name}" if name else parent
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise RunDirectoryError(f"{path}: it cannot be made: {error.strerror}") from None
    status = os.lstat(path)
    if status.st_mode & 0o170000 != 0o040000:
        raise RunDirectoryError(f"{path}: it is not a directory, and somebody put it there")
    _refuse_others(path, status, sticky=False)
    return path


def _trusted(path: str) -> str:
    """The path, if nobody but us and root may write it, or put something else in its place on any step of the way."""
    for end in {path, os.path.realpath(path)}:
        step = end.rstrip("/") or "/"
        last = True
        while True:
            try:
                _refuse_others(step, os.stat(step), sticky=not last)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise RunDirectoryError(f"{step}: {error.strerror}") from None
            if step == "/":
                break
            step, last = os.path.dirname(step), False
    return path


def _refuse_others(path: str, status: os.stat_result, *, sticky: bool) -> None:
    """``sticky``: others may write there, but not rename what is ours, as in /tmp. Root only asks, wherever an agent is."""
    if status.st_uid not in (0, os.geteuid()) and os.geteuid():
        raise RunDirectoryError(f"{path}: it belongs to uid {status.st_uid}, not to {os.geteuid()} or root")
    if status.st_mode & 0o022 and not (sticky and status.st_mode & 0o1000):
        raise RunDirectoryError(f"{path}: its mode is {status.st_mode & 0o7777:04o}, which lets others write there")


def _homes(environ: os._Environ[str] | dict[str, str]) -> list[str]:
    """As the system knows it, so that every program of this user finds the same; then what the environment says."""
    import pwd  # noqa: PLC0415 - seldom needed

    try:
        known = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:  # as in a container that runs as any number
        known = ""
    return [home for home in (known, environ.get("HOME", "")) if home.startswith("/")]


def socket_path(config: str | os.PathLike[str], environ: os._Environ[str] | dict[str, str]) -> str:
    """The control socket of the agent with that configuration. Raises RunDirectoryError."""
    path = f"{run_directory(environ)}/{_name(os.fspath(config))}{_SUFFIX}"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH - len(".new"):
        raise RunDirectoryError(f"{path}: too long for the path of a socket; set {ENVIRONMENT} to a shorter directory")
    return path


def restore_socket_path(socket: str, environ: os._Environ[str] | dict[str, str]) -> str:
    """The socket of the process that serves restore-wal where no agent with that socket runs.

    Another for another environment, which can say all that the configuration can.
    """
    said = sorted(item for item in environ.items() if item[0].startswith(_SAYING) and not item[0].startswith(_TESTS))
    name = crc32(f"{socket} {said}".encode("utf-8", "surrogateescape"))
    return f"{os.path.dirname(socket)}/restore-{name:08x}{_SUFFIX}"


def lock_path(socket: str) -> str:
    """The lock file that goes with a socket."""
    return socket.removesuffix(_SUFFIX) + ".lock"


def start_log_path(socket: str) -> str:
    """Where an agent that a callback started writes until its own log is open."""
    return socket.removesuffix(_SUFFIX) + ".start.log"


def _name(config: str) -> str:
    """Readable, and different for each configuration file however it is spelt."""
    real = os.path.realpath(config)
    if "/.." in real:
        # A ConfigMap of Kubernetes: /etc/x.yml leads to ..2026_01_31_12_00_00/x.yml, which changes with every update.
        real = os.path.join(os.path.realpath(os.path.dirname(config)), os.path.basename(config))
    base = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in os.path.basename(real))
    return f"{base[:_NAME_LENGTH]}-{crc32(os.fsencode(real)):08x}"
