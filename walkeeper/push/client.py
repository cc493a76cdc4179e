"""``archive-push`` the light way: ask this node's agent whether the archive has that file, and believe nothing but a yes.

PostgreSQL runs archive_command once per segment: loading the SDK of a store each time takes longer than storing. Where no
agent answers, ``walkeeper.push.command`` does the work itself. Runs without site-packages (``python3 -I -S``).
"""

# ruff: noqa: PTH100, PTH109, SIM105 - pathlib and contextlib cost more than all that this program does

from __future__ import annotations

import os
import sys
from _json import encode_basestring_ascii as quoted  # json itself costs twice what the interpreter does
from time import monotonic

from walkeeper.control import client, paths

ANSWER_SECONDS = 2.0
"""Seconds for each answer of an agent; after that archive-push works without it."""
LONGEST = 60.0
"""Seconds for which an agent may go on saying that the work goes on."""

DONE = 0
FAILED = 1

_YES = b'{"ok": true'


def main(arguments: list[str]) -> int:
    """0, or 1 to 125; asks the agent, and becomes the whole command where that does not answer."""
    try:
        if len(arguments) == 3 and arguments[0] in ("-c", "--config"):
            code = push(arguments[1], arguments[2])
            if code is not None:
                return code
            arguments = ["--without-agent", *arguments]
        _become_command(arguments)
    except BaseException as problem:  # noqa: BLE001 - PostgreSQL's archiver dies of every other exit
        ignore_interrupts()
        complain(f"{type(problem).__name__}: {problem}")
    return FAILED


def push(config: str, path: str) -> int | None:
    """DONE, FAILED (and said why), or None: it is to be done without the agent."""
    try:
        socket = paths.socket_path(os.path.abspath(config), os.environ)
        request = f'{{"verb": "push", "path": {quoted(path)}, "cwd": {quoted(working_directory())}}}'.encode("ascii")
        end = monotonic() + LONGEST
        while True:
            reply = client.exchange(socket, request, ANSWER_SECONDS)
            if reply.startswith(_YES):
                return DONE
            reason, text, hint = _read(reply)
            if not reason:
                return None  # not the answer of an agent that can do this
            if reason != "at_it" or monotonic() > end:
                complain(text, hint)
                return FAILED
    except (OSError, paths.RunDirectoryError, client.NoAnswer):
        return None


def working_directory() -> str:
    """PostgreSQL's data directory, when it calls. One that was removed is like none: no relative path leads anywhere."""
    try:
        return os.getcwd()
    except OSError:
        return "/"


def ignore_interrupts() -> None:
    """One was enough: a second one must not change the exit code."""
    import signal  # noqa: PLC0415 - only where something went wrong

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def complain(text: str, hint: str = "") -> None:
    """One line, into PostgreSQL's log."""
    line = f"walkeeper: archive-push: {text}" + (f" HINT: {hint}" if hint else "")
    line = "".join(c if c.isprintable() else "?" for c in line)
    try:
        os.write(2, line.encode("utf-8", "replace") + b"\n")
    except OSError:
        pass


def _read(reply: bytes) -> tuple[str, str, str]:
    import json  # noqa: PLC0415 - only where something is wrong

    try:
        answer = json.loads(reply)
        return str(answer.get("reason", "")), str(answer["error"]), str(answer.get("hint", ""))
    except (ValueError, KeyError, AttributeError, RecursionError):
        return "", "", ""


def _become_command(arguments: list[str]) -> None:
    """Raises OSError; does not return otherwise."""
    from walkeeper.control.spawn import environment  # noqa: PLC0415 - where an agent answers it is not needed

    program = sys.executable or "/usr/bin/python3"
    command = [program, "-P", "-m", "walkeeper", "archive-push", *arguments]
    os.execve(program, command, environment())  # noqa: S606 - a list, no shell
