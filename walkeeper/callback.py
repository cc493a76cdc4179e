"""What Patroni runs at on_start, on_stop, on_restart, on_role_change and on_reload: it pokes the agent, or starts one.

    callback.py CONFIG ACTION ROLE SCOPE

The agent looks for itself what there is to do, so a callback that is lost, doubled or killed half-way does no harm, and
nothing here waits: not for the agent, not for the DCS, not for the store. Patroni kills a callback that runs when the
next one comes, and its children with it: an agent is therefore started by a double fork, in a session of its own.

Runs by itself, without site-packages (``python3 -I -S …/callback.py``); that is why it imports so little.
"""

# ruff: noqa: PTH100, PTH119, PTH120, SIM105 - pathlib and contextlib cost more than all that this program does

from __future__ import annotations

import os
import sys
from _json import encode_basestring_ascii as quoted  # json itself costs twice what the interpreter does

if __name__ == "__main__":  # the script's own directory is not on the path under -I, and would be the wrong one without
    sys.path.append(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from walkeeper import ask, rundir

USAGE = "usage: callback CONFIG ACTION ROLE SCOPE   (Patroni adds the last three)"

ACTIONS = ("on_start", "on_stop", "on_restart", "on_role_change", "on_reload")
ROLES = ("primary", "master", "replica", "standby_leader", "demoted", "promoted", "uninitialized")
"""All that Patroni has used so far. Others are passed on with a warning: the agent does not rely on them."""

_LONGEST = 1000  # characters of an argument that are passed on
_SITE = ("site-packages", "dist-packages")


def main(arguments: list[str]) -> int:
    """0, or 2 when it is called wrongly. That no agent could be told or started is a warning: Patroni cannot mend it."""
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
    except (OSError, rundir.RunDirectoryError, ask.NoAnswer) as error:
        _say(f"walkeeper: WARNING the agent was not told of {ascii(action)[:100]}: {error}")
    return 0


def poke_or_start(config: str, action: str, role: str, scope: str) -> None:
    """Raises OSError, RunDirectoryError or NoAnswer."""
    socket = rundir.socket_path(config, os.environ)
    facts = ", ".join(
        f'"{name}": {quoted(value[:_LONGEST])}'
        for name, value in (("action", action), ("role", role), ("scope", scope))
    )
    try:
        ask.tell(socket, f'{{"verb": "poke", {facts}}}'.encode("ascii"))
    except ask.NoAnswer as nobody:
        if nobody.listening:
            raise
        start_agent(config, rundir.start_log_path(socket))


def start_agent(config: str, log: str) -> None:
    """Start an agent that neither this process nor Patroni is the parent of. Raises OSError; returns in the caller only.

    It may find that it is not wanted (``start_from_callback: false``) or that another holds the lock; then it ends.
    """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            _become_agent(config, log)
    except OSError as error:
        _say(f"walkeeper: WARNING no agent can be started: {error}")
    finally:
        os._exit(0)  # also after an error: what follows the call belongs to the caller alone


def _become_agent(config: str, log: str) -> None:
    os.chdir("/")
    os.umask(0o077)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
    null = os.open(os.devnull, os.O_RDWR)
    try:
        out = os.open(log, flags, 0o600)
    except OSError:
        out = null
    null, out = _above_standard(null), _above_standard(out)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.closerange(3, 1024)
    program = sys.executable or "/usr/bin/python3"
    command = [program, "-P", "-m", "walkeeper", "agent", "--from-callback", "--config", config]
    os.execve(program, command, _environment())  # noqa: S606 - a list, no shell


def _above_standard(descriptor: int) -> int:
    """A copy above 2: where 0 to 2 were closed, what is opened takes their numbers."""
    while descriptor <= 2:
        descriptor = os.dup(descriptor)
    return descriptor


def _environment() -> dict[str, str]:
    """So that the agent finds the package also where it is not installed but only lies there."""
    environment = dict(os.environ)
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if os.path.basename(root) not in _SITE:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH", ""))))
    return environment


def _say(text: str) -> None:
    """To standard error, if there is one."""
    try:
        os.write(2, text.encode("utf-8", "replace") + b"\n")
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
