"""``restore-wal`` the light way: ask this node's agent, which has the store open, and put in place what it laid ready.

PostgreSQL runs restore_command once per segment, and a promotion waits for several of them: loading the SDK of a store
each time takes longer than fetching. Where no agent answers, or it cannot tell, ``walkeeper.restore`` does the work itself.
"""

# ruff: noqa: PTH100, PTH104, PTH109, PTH110, PTH118, PTH120 - pathlib costs more than all that this program does

from __future__ import annotations

import os

from walkeeper import ask, rundir

PATIENCE = 2.0
"""Seconds for the agent's answer; after that the work is done here, and what the agent lays ready is swept later."""

DELIVERED = 0
ABSENT = 1
ASK_AGAIN = 2


def restore(config: str, name: str, destination: str) -> int | None:
    """DELIVERED, ABSENT, ASK_AGAIN, or None: it is to be done without the agent.

    That the agent cannot tell is final where PostgreSQL asks again by itself or has the file anyway: on a standby, and
    while one is promoted, which waits for each answer. In archive recovery the slow way tries until its deadline.
    """
    import json  # noqa: PLC0415 - after the modules that are needed in any case

    place = os.path.join(os.getcwd(), destination)
    request = {"verb": "restore", "file": name, "destination": place, "pid": os.getpid()}
    try:
        socket = rundir.socket_path(os.path.abspath(config), os.environ)
        reply = json.loads(ask.exchange(socket, json.dumps(request).encode(), PATIENCE))
        if reply.get("ok") is not True:
            return None if _in_archive_recovery(place) else _ask_again(name, str(reply.get("error")))
        if reply["delivered"] is not True:
            return ABSENT
        os.rename(reply["path"], place)
    except (OSError, ValueError, KeyError, rundir.RunDirectoryError, ask.NoAnswer):
        return None
    return DELIVERED


def _in_archive_recovery(place: str) -> bool:
    data_directory = os.path.dirname(os.path.dirname(place))
    signals = [os.path.exists(os.path.join(data_directory, name)) for name in ("recovery.signal", "standby.signal")]
    return signals == [True, False]


def _ask_again(name: str, error: str) -> int:
    """Into PostgreSQL's log, on one line."""
    text = "".join(c if c.isprintable() else "?" for c in f"walkeeper: {name}: cannot tell: {error}")
    os.write(2, text.encode("utf-8", "replace") + b"\n")
    return ASK_AGAIN
