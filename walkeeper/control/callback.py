"""What Patroni runs at on_start, on_stop, on_restart, on_role_change and on_reload: it pokes the agent, or starts one.

    callback.py CONFIG ACTION ROLE SCOPE

The agent looks for itself what there is to do, so a callback that is lost, doubled or killed half-way does no harm, and
nothing here waits: not for the agent, not for the DCS, not for the store. Patroni kills a callback that runs when the
next one comes, and its children with it: an agent is therefore started by a double fork, in a session of its own.

Runs alone, without site-packages (``python3 -I -S …/callback.py``); that is why it imports so little.
"""

# ruff: noqa: PTH100, PTH120, SIM105 - pathlib and contextlib cost more than all that this program does

from __future__ import annotations

import os
import sys
from _json import encode_basestring_ascii as quoted  # json itself costs twice what the interpreter does

if __name__ == "__main__":  # the script's own directory is not on the path under -I, and would be the wrong one without
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))

from walkeeper.control import client, paths, spawn

USAGE = "usage: callback CONFIG ACTION ROLE SCOPE   (Patroni adds the last three)"

ACTIONS = ("on_start", "on_stop", "on_restart", "on_role_change", "on_reload")
ROLES = ("primary", "master", "replica", "standby_leader", "demoted", "promoted", "uninitialized")
"""The roles that Patroni has used so far. Others are passed on with a warning: the agent does not rely on them."""

_LONGEST = 1000  # characters of an argument that are passed on


def main(arguments: list[str]) -> int:
    """0, or 2 when it is called wrongly. That no agent could be told or started is a warning: Patroni cannot fix it."""
    if len(arguments) != 4 or not all(arguments):
        _say(USAGE)
        return 2
    config, action, role, scope = arguments
    if action not in ACTIONS:
        _say(f"walkeeper: WARNING unknown callback action {ascii(action)[:100]}")
    if role not in ROLES:
        _say(f"walkeeper: WARNING unknown role {ascii(role)[:100]}")
    try:
        poke_or_start(os.path.abspath(config), action, role, scope)
    except (OSError, paths.RunDirectoryError, client.NoAnswer) as error:
        _say(f"walkeeper: WARNING the agent was not told of {ascii(action)[:100]}: {error}")
    return 0


def poke_or_start(config: str, action: str, role: str, scope: str) -> None:
    """Raises OSError, RunDirectoryError or NoAnswer."""
    socket = paths.socket_path(config, os.environ)
    facts = ", ".join(
        f'"{name}": {quoted(value[:_LONGEST])}'
        for name, value in (("action", action), ("role", role), ("scope", scope))
    )
    try:
        client.tell(socket, f'{{"verb": "poke", {facts}}}'.encode("ascii"))
    except client.NoAnswer as nobody:
        if nobody.listening:
            raise
        start_agent(config, paths.start_log_path(socket))


def start_agent(config: str, log: str) -> None:
    """Start an agent that neither this process nor Patroni is the parent of. Raises OSError.

    It may find that it is not wanted (``start_from_callback: false``) or that another holds the lock; then it ends.
    """
    spawn.start(["-m", "walkeeper", "agent", "--from-callback", "--config", config], log)


def _say(text: str) -> None:
    """To standard error, if there is one."""
    try:
        os.write(2, text.encode("utf-8", "replace") + b"\n")
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
