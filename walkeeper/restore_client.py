"""``restore-wal`` the light way: ask this node's agent, which has the store open, and put in place what it laid ready.

PostgreSQL runs restore_command once per segment, and a promotion waits for several of them: loading the SDK of a store
each time takes longer than fetching. Where no agent answers, or it cannot tell, ``walkeeper.restore`` does the work itself.
"""

# ruff: noqa: PTH100, PTH104, PTH109, PTH118 - pathlib costs more than all that this program does

from __future__ import annotations

import os

from walkeeper import ask, rundir

PATIENCE = 5.0
"""Seconds for the agent's answer; after that the work is done here, and what the agent lays ready is swept later."""

DELIVERED = 0
ABSENT = 1


def restore(config: str, name: str, destination: str) -> int | None:
    """DELIVERED, ABSENT, or None: it is to be done without the agent."""
    import json  # noqa: PLC0415 - after the modules that are needed in any case

    place = os.path.join(os.getcwd(), destination)
    request = {"verb": "restore", "file": name, "destination": place, "pid": os.getpid()}
    try:
        socket = rundir.socket_path(os.path.abspath(config), os.environ)
        reply = json.loads(ask.exchange(socket, json.dumps(request).encode(), PATIENCE))
        if reply.get("ok") is not True:
            return None
        if reply["delivered"] is not True:
            return ABSENT
        os.rename(reply["path"], place)
    except (OSError, ValueError, KeyError, rundir.RunDirectoryError, ask.NoAnswer):
        return None
    return DELIVERED
