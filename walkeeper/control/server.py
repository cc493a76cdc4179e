"""The agent's Unix socket: a line of JSON with a verb comes in, a line of JSON goes out. And the lock: one agent only.

Who may ask: the agent's own user, and root. What a client may cost is limited: the length of its line, its time, and
how many there are at once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

from walkeeper.errors import AgentError, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import SystemClock

MAX_LINE: Final = 64 * 1024
CLIENT_SECONDS: Final = 5.0
"""Seconds for the request to come in, and again for the reply to go out; what the handler takes is not limited."""
MAX_CLIENTS: Final = 32
_QUEUE: Final = 128

_PEER: Final = struct.Struct("iII")  # pid, uid, gid: struct ucred of unix(7)
_FULL: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_FULL_PAUSE: Final = 0.5
LOOK_SECONDS: Final = 5.0
"""Seconds from one check that the socket is still there to the next: /tmp and the like are cleaned."""

Handler: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Takes the request, returns what goes into the reply. A WalkeeperError becomes the reply; anything else is a bug and
reaches ``threading.excepthook``."""


class AgentLock:
    """Held from construction to ``release``, or to the end of the process however it ends. The file itself stays."""

    def __init__(self, path: Path) -> None:
        """Raises AgentError when another process holds it, or when the file cannot be made."""
        self.path = path
        self._descriptor = _locked(path)
        while _inode(path) != os.fstat(self._descriptor).st_ino:  # who had it has just removed the file
            os.close(self._descriptor)
            self._descriptor = _locked(path)
        self.held = True
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    @property
    def is_named(self) -> bool:
        """Whether it is held under its name. Where somebody removed the file, another may hold one of that name by now."""
        return self.held and _inode(self.path) == os.fstat(self._descriptor).st_ino

    def renew(self) -> None:
        """Hold it under its name again, where somebody removed the file. Raises AgentError, as construction does."""
        if self.held and not self.is_named:
            fresh = AgentLock(self.path)
            os.close(self._descriptor)
            self._descriptor = fresh._descriptor

    def release(self) -> None:
        if self.held:
            self.held = False
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class ControlServer:
    """Listens from ``open`` to ``close``; ``run`` is the accepting loop, for a thread of the caller's."""

    def __init__(self, path: Path, lock: AgentLock, handlers: Mapping[str, Handler]) -> None:
        """``lock`` must be held: only its holder may replace the socket that a crash has left."""
        self.path = path
        self._lock = lock
        self._handlers = handlers
        self._clock = SystemClock()
        self._places = threading.BoundedSemaphore(MAX_CLIENTS)
        self._closing = threading.Event()
        self._socket: socket.socket | None = None
        self._inode = 0

    def open(self) -> None:
        """Bind and listen. Raises AgentError."""
        if not self._lock.held:
            raise AgentError(f"{self.path}: the agent's lock is not held")
        fresh = self.path.with_name(self.path.name + ".new")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            fresh.unlink(missing_ok=True)
            listening.bind(str(fresh))
            fresh.chmod(0o600)
            listening.listen(_QUEUE)
            self._inode = fresh.stat().st_ino
            fresh.rename(self.path)  # in one step: nobody meets a socket with another mode, or none where one was
        except OSError as error:
            listening.close()
            raise AgentError(f"{self.path}: no socket can be made there: {error.strerror or error}") from None
        self._socket = listening

    def run(self) -> None:
        """Serve until ``close``. Raises AgentError before ``open``."""
        if self._socket is None:
            raise AgentError(f"{self.path}: not open")
        while not self._closing.is_set():
            try:
                self._socket.settimeout(LOOK_SECONDS)
                client, _ = self._socket.accept()
            except TimeoutError:
                self._renew()
                continue
            except OSError as error:
                if self._closing.is_set():
                    return
                if error.errno == errno.ECONNABORTED:
                    continue
                if error.errno not in _FULL:
                    raise
                events.warning("control_full", error=error.strerror, hint="Raise the limit of open files.")
                self._clock.sleep(_FULL_PAUSE)
                continue
            self._admit(client)

    def close(self) -> None:
        """Stop listening and remove the socket. Requests under way are finished by their own threads."""
        self._closing.set()
        if self._socket is None:
            return
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept
        except OSError as error:
            events.warning("control_shutdown", error=error.strerror)
        self._socket.close()
        if self._lock.held and _inode(self.path) == self._inode:
            self.path.unlink(missing_ok=True)

    def _renew(self) -> None:
        """Make lock and socket again, with their directory, where somebody removed them."""
        if self._closing.is_set() or _inode(self.path) == self._inode:
            return
        gone = self._socket
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.renew()
            self.open()
        except (AgentError, OSError) as problem:
            events.warning(
                "control_socket_gone", error=problem, hint="The run directory must exist and belong to this user."
            )
            return
        if gone is not None:
            gone.close()
        events.warning("control_socket_made_again", path=self.path)

    def _admit(self, client: socket.socket) -> None:
        if not _is_ours(client):
            _refuse(client, "not for this user", "Ask as the agent's user, or as root.")
            return
        if not self._places.acquire(blocking=False):
            _refuse(client, f"busy with {MAX_CLIENTS} clients", "Ask again.")
            return
        thread = threading.Thread(target=self._serve, args=(client,), name="control-client", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._places.release()
            _refuse(client, "no thread can be started", "Ask again.")
            events.warning("control_no_thread", hint="The process is at a limit: look at its tasks and memory.")

    def _serve(self, client: socket.socket) -> None:
        try:
            line = self._receive(client)
            if line is not None:
                self._send(client, self._answer(line))
        finally:
            client.close()
            self._places.release()

    def _receive(self, client: socket.socket) -> bytes | None:
        """The request without its newline, as far as it came; None when there is nobody left to answer."""
        end = self._clock.monotonic() + CLIENT_SECONDS
        received = bytearray()
        while b"\n" not in received and len(received) <= MAX_LINE:
            try:
                client.settimeout(max(end - self._clock.monotonic(), 0.001))
                part = client.recv(MAX_LINE)
            except TimeoutError:
                self._send(client, _error(f"no whole line within {CLIENT_SECONDS:g} s"))
                return None
            except OSError:
                return None
            if not part:
                break
            received += part
        return bytes(received.partition(b"\n")[0])

    def _answer(self, line: bytes) -> dict[str, Any]:
        if len(line) > MAX_LINE:
            return _error(f"a line longer than {MAX_LINE} bytes")
        try:
            request = json.loads(line.decode())
        except (ValueError, RecursionError):
            return _error("not a line of JSON")
        verb = request.get("verb") if isinstance(request, dict) else None
        handler = self._handlers.get(verb) if isinstance(verb, str) else None
        if handler is None:
            return _error(f"unknown verb {ascii(verb)[:100]}", hint=f"There are {', '.join(sorted(self._handlers))}.")
        try:
            return {"ok": True, **handler(request)}
        except WalkeeperError as error:
            return _error(str(error), hint=error.hint) | {"reason": error.reason}

    def _send(self, client: socket.socket, reply: dict[str, Any]) -> None:
        """A client that went away, or does not read, has no claim to more."""
        with contextlib.suppress(OSError):
            client.settimeout(CLIENT_SECONDS)
            client.sendall(json.dumps(reply).encode() + b"\n")


def _error(text: str, *, hint: str = "") -> dict[str, Any]:
    return {"ok": False, "error": text, "hint": hint}


def _is_ours(client: socket.socket) -> bool:
    _, uid, _ = _PEER.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return uid in (0, os.geteuid())


def _refuse(client: socket.socket, text: str, hint: str) -> None:
    """An answer if there is room for it, without waiting."""
    with client, contextlib.suppress(OSError):
        client.setblocking(False)
        client.send(json.dumps(_error(text, hint=hint)).encode() + b"\n")


def _locked(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AgentError(
            f"{path}: it cannot be opened: {error.strerror}",
            hint="The run directory must exist and be the agent's: RuntimeDirectory= in the unit, or WALKEEPER_RUN_DIR.",
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise AgentError(
            f"{path}: an agent is already running, pid {holder}", hint="One agent serves a configuration."
        ) from None
    return descriptor


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return None
