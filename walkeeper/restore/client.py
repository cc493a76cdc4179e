"""``restore-wal`` the light way: ask who has the store open, and put in place what is laid ready.

PostgreSQL runs restore_command once per segment, and a promotion waits for several of them: loading the SDK of a store
each time takes longer than fetching. Asked are this node's agent, and on a host without one a process that the first
call starts. Where nobody answers, or cannot tell, ``walkeeper.restore.command`` does the work itself.

Runs alone for ``walkeeper-restore-wal``, without site-packages: ``python3 -I -S …/client.py CONFIG FILE DEST LINK``.
"""

# ruff: noqa: PTH100, PTH104, PTH109, PTH118, PTH120 - pathlib costs more than all that this program does

from __future__ import annotations

import os
import sys
from _json import encode_basestring_ascii as quoted  # json itself costs as much as the interpreter
from _json import scanstring
from time import monotonic

if __name__ == "__main__":  # the script's own directory has modules of other names, and is not on the path under -I
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))

from walkeeper.control import client, paths, spawn
from walkeeper.restore import exits
from walkeeper.restore.asker import Asker
from walkeeper.restore.exits import ABSENT, DELIVERED

ANSWER_SECONDS = 2.0
"""Seconds for each answer; after that the work is done here."""

SAID = {DELIVERED: 10, ABSENT: 11}
"""What the shell is told. Python itself ends with 1 when it cannot begin, which must not be taken for ABSENT."""


_IS_ABSENT = '{"ok": true, "delivered": false}\n'
_LIES_AT = '{"ok": true, "delivered": true, "path": "'


def restore(config: str, name: str, destination: str, link: str = "") -> int | None:
    """One of ``exits``, or None: it is to be done here.

    ``link`` is where the shell looks for what lies ready.

    That nobody can tell is final where PostgreSQL asks again automatically or has the file anyway: on a standby, and
    while one is promoted, which waits for each answer. Otherwise the slow way tries until its deadline.
    """
    place = os.path.join(os.getcwd(), destination)
    begun, asker = monotonic(), Asker()
    try:
        socket, reply = _first_ask(config, name, place, link)
        while reply.get("wait") is True:
            reply = _ask(socket, name, place, link, monotonic() - begun)
        if reply.get("ok") is not True:
            final = reply.get("final") is True or exits.will_ask_again(_data_directory(place))
            return _cannot_tell(name, place, reply) if final else None
        if reply["delivered"] is not True:
            if "note" in reply:
                _say(str(reply["note"]))
            return ABSENT
        if asker.gone:
            return _cannot_tell(name, place, {"error": f"{place}: PostgreSQL, which asked for it, is gone"})
        os.rename(str(reply["path"]), place)
    except (OSError, ValueError, KeyError, paths.RunDirectoryError, client.NoAnswer):
        return None
    return DELIVERED


def _ask(socket: str, name: str, place: str, link: str, waited: float) -> dict[str, object]:
    """One request and its reply. Raises NoAnswer, or ValueError for one that is not understood."""
    said = ("file", name), ("destination", place), ("ready", link), ("scope", os.environ.get("PATRONI_SCOPE", ""))
    texts = ", ".join(f'"{key}": {quoted(text)}' for key, text in said)
    request = f'{{"verb": "restore", {texts}, "pid": {os.getpid()}, "waited": {waited}}}'
    return _understood(client.exchange(socket, request.encode("ascii"), ANSWER_SECONDS).decode())


def _first_ask(config: str, name: str, place: str, link: str) -> tuple[str, dict[str, object]]:
    """Who answers, and the reply. Raises NoAnswer and OSError."""
    agent = paths.socket_path(os.path.abspath(config), os.environ)
    host = paths.restore_socket_path(agent, os.environ)
    for socket in (agent, host):
        try:
            reply = _ask(socket, name, place, link, 0.0)
            if reply.get("elsewhere") is not True:
                return socket, reply
        except client.NoAnswer as nobody:
            if nobody.listening:
                raise
    from walkeeper.restore import host_start  # noqa: PLC0415

    if not host_start.start(config, host, place):
        raise client.NoAnswer(f"{host}: nobody is there", listening=False)
    return host, _ask(host, name, place, link, 0.0)


def _understood(reply: str) -> dict[str, object]:
    """The two usual replies without json."""
    if reply == _IS_ABSENT:
        return {"ok": True, "delivered": False}
    if reply.startswith(_LIES_AT):
        path, _ = scanstring(reply, len(_LIES_AT))
        return {"ok": True, "delivered": True, "path": path}
    import json  # noqa: PLC0415

    found = json.loads(reply)
    if not isinstance(found, dict):
        raise ValueError(reply)  # noqa: TRY004 - it is not a value that is understood
    return found


def _cannot_tell(name: str, place: str, reply: dict[str, object]) -> int:
    """Into PostgreSQL's log, on one line, and the exit that makes it wait."""
    code = exits.cannot_tell(_data_directory(place))
    hint = f" HINT: {reply['hint']}" if reply.get("hint") else ""
    _say(f'restore_failed file={name} exit={code} error="{reply.get("error")}"{hint}')
    return code


def _say(text: str) -> None:
    os.write(2, "".join(c if c.isprintable() else "?" for c in text).encode("utf-8", "replace") + b"\n")


def _data_directory(place: str) -> str:
    return os.path.dirname(os.path.dirname(place))


def main(arguments: list[str]) -> int:
    """For the shell: one of SAID, or anything else for *cannot tell*."""
    config, name, destination, link = arguments
    code = restore(config, name, destination, link)
    if code is None:
        return _become_the_command(config, name, destination)
    return SAID.get(code, code)


def _become_the_command(config: str, name: str, destination: str) -> int:
    """Does not return. Raises OSError."""
    command = [sys.executable, "-P", "-m", "walkeeper.restore.command", config, name, destination]
    return os.execve(sys.executable, command, spawn.environment())  # noqa: S606 - a list, no shell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
