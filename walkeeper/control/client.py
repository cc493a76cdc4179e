"""The client of the agent's control socket. Light: built-in modules only, until there is a reply to read.

An answer counts only from our own user or root (P16): whoever else listens there is ignored, as if no agent ran.
"""

# ruff: noqa: SIM105 - contextlib costs more than all that this module does

from __future__ import annotations

import _socket
import os
import sys
from time import monotonic, sleep

MAX_REPLY = 1024 * 1024
"""Bytes of the longest reply."""

_LONGEST_START = 1000
"""Bytes of what an agent says that does not start."""

_QUEUE_PAUSE = 0.02
_UCRED = 12
"""Bytes: pid, uid, gid of ``struct ucred`` (unix(7))."""


class NoAnswer(Exception):
    """Nobody listens, or the answer did not come in time. ``listening`` says whether there is somebody at all."""

    def __init__(self, text: str, *, listening: bool) -> None:
        super().__init__(text)
        self.listening = listening


def ask(socket_path: str, verb: str, timeout: float, **facts: object) -> dict[str, object]:
    """One request, one reply, within ``timeout`` seconds in all.

    Raises NoAgent when there is no agent, or no answer in time, and AgentError when the answer is an error.
    """
    import json  # noqa: PLC0415 - half of what this program costs, and callbacks do without

    from walkeeper.errors import AgentError, NoAgent  # noqa: PLC0415 - the same

    try:
        reply = json.loads(exchange(socket_path, json.dumps({"verb": verb, **facts}).encode(), timeout))
    except NoAnswer as error:
        hint = "The agent is stuck: its log says more."
        if not error.listening:
            start = "Start the agent: systemctl start walkeeper, or walkeeper agent --detach."
            as_root = "An agent may listen where only PostgreSQL's user looks: sudo -u postgres walkeeper …"
            hint = (start if os.geteuid() else as_root) + _last_start(socket_path)
        raise NoAgent(str(error), hint=hint) from None
    except ValueError:
        raise NoAgent(f"{socket_path}: the answer is not understood") from None
    if not isinstance(reply, dict) or reply.get("ok") is not True:
        answer = reply if isinstance(reply, dict) else {}
        raise AgentError(str(answer.get("error", "the answer is not understood")), hint=str(answer.get("hint", "")))
    return reply


def _last_start(socket_path: str) -> str:
    """What the last agent that a callback started said before it ended, if that was anything: nobody else shows it."""
    from walkeeper.control.paths import start_log_path  # noqa: PLC0415 - callbacks do without

    try:
        with open(start_log_path(socket_path), "rb") as log:
            said = " ".join(log.read(_LONGEST_START).decode("utf-8", "replace").split())
    except OSError:
        return ""
    return f" The last one that a callback started said: {said}" if said else ""


def exchange(socket_path: str, request: bytes, timeout: float) -> bytes:
    """Send one line, and read one. Raises NoAnswer."""
    end = monotonic() + timeout
    connection = _connect(socket_path, end)
    try:
        try:
            connection.sendall(request + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before it was asked, and perhaps told why
        return _read_line(connection, socket_path, end)
    except OSError as error:
        raise NoAnswer(f"{socket_path}: {_reason(error)}", listening=True) from None
    finally:
        connection.close()


def tell(socket_path: str, request: bytes) -> None:
    """Send one line and do not wait for the reply. Raises NoAnswer when nobody listens, and never blocks: an agent that
    is there and has no room for one more client counts as told."""
    try:
        connection = _connect(socket_path, monotonic())
    except NoAnswer as error:
        if error.listening:
            return
        raise
    try:
        connection.send(request + b"\n")
    except OSError as error:
        raise NoAnswer(f"{socket_path}: {_reason(error)}", listening=True) from None
    finally:
        connection.close()


def _connect(socket_path: str, end: float) -> _socket.socket:
    """Waits until ``end`` where the agent is there and its queue is full."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        while True:
            try:
                connection.connect(socket_path)
            except BlockingIOError:
                if monotonic() >= end:
                    raise
                sleep(_QUEUE_PAUSE)
                continue
            _refuse_another_user(connection, socket_path)
            connection.settimeout(max(end - monotonic(), 0))
            return connection
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        nobody = "no agent is running" if os.geteuid() else "no agent listens there, where root looks"
        raise NoAnswer(f"{socket_path}: {nobody}", listening=False) from None
    except OSError as error:
        connection.close()
        raise NoAnswer(f"{socket_path}: {_reason(error)}", listening=True) from None


def _refuse_another_user(connection: _socket.socket, socket_path: str) -> None:
    """Raises NoAnswer where who listens is neither us nor root. Root itself may ask every agent."""
    credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _UCRED)
    uid = int.from_bytes(credentials[4:8], sys.byteorder)
    if uid not in (0, os.geteuid()) and os.geteuid():
        connection.close()
        raise NoAnswer(f"{socket_path}: uid {uid} listens there, which is not this user", listening=False)


def _read_line(connection: _socket.socket, socket_path: str, end: float) -> bytes:
    reply = b""
    while not reply.endswith(b"\n"):
        left = end - monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(65536)
        if not part or len(reply) > MAX_REPLY:
            raise NoAnswer(f"{socket_path}: the agent hung up", listening=True)
        reply += part
    return reply


def _reason(error: OSError) -> str:
    return "no answer in time" if isinstance(error, TimeoutError | BlockingIOError) else error.strerror or "no answer"
