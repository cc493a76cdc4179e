"""Where the agent's socket and lock are, found without reading the configuration: what runs once per segment asks here.

Light: nothing beyond ``os`` and built-in modules is imported.
"""

# ruff: noqa: PTH102, PTH112, PTH118, PTH119, PTH120, SIM105 - pathlib and contextlib cost more than all that this module does

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
    """``$WALKEEPER_RUN_DIR``, else /run/walkeeper if it is there and ours to write, else /tmp/walkeeper-UID.

    The last is created, and refused unless it is a directory that is ours alone: anybody can put something else there.
    """
    chosen = environ.get(ENVIRONMENT, "")
    if chosen:
        if not chosen.startswith("/"):
            raise RunDirectoryError(f"{ENVIRONMENT}: {chosen!r} is no absolute path")
        return chosen
    if os.path.isdir(SYSTEM) and os.access(SYSTEM, os.W_OK | os.X_OK):
        return SYSTEM
    return _private_directory(f"/tmp/walkeeper-{os.geteuid()}")  # noqa: S108 - its owner and mode are checked


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


def _private_directory(path: str) -> str:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    status = os.lstat(path)
    if status.st_mode & 0o170000 != 0o040000:
        raise RunDirectoryError(f"{path}: it is no directory, and somebody put it there")
    if status.st_uid != os.geteuid():
        raise RunDirectoryError(f"{path}: it belongs to uid {status.st_uid}, not to {os.geteuid()}")
    if status.st_mode & 0o077:
        raise RunDirectoryError(
            f"{path}: its mode is {status.st_mode & 0o7777:04o}, which lets others in; chmod 700 it"
        )
    return path
