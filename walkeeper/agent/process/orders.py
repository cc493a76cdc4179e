"""``walkeeper agent --stop``, ``--reload``, ``--restart``: for agents that ``--detach`` or a callback has started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from walkeeper.agent.process import run
from walkeeper.config import Config
from walkeeper.control import client, paths
from walkeeper.control.server import AgentLock
from walkeeper.errors import AgentError
from walkeeper.lib.clock import SystemClock
from walkeeper.lib.terminal import tell

ANSWER_SECONDS: Final = 10.0
END_SECONDS: Final = 90.0
"""Seconds within which an agent has ended that was told to, with the longest of its usual time-outs."""
PAUSE: Final = 0.1


def stop(source: Path) -> int:
    """The agent of the configuration in that file, which need not be readable, has ended. Raises AgentError."""
    socket = paths.socket_path(source, os.environ)
    lock = Path(paths.lock_path(socket))
    if _is_free(lock):
        return _say("No agent runs on this node.")
    _order(socket, "stop")
    clock = SystemClock()
    until = clock.monotonic() + END_SECONDS
    while not _is_free(lock):
        if clock.monotonic() > until:
            raise AgentError(
                f"agent: it has not ended within {END_SECONDS:g} s", hint="Its log says what it waits for."
            )
        clock.sleep(PAUSE)
    return _say("The agent has ended. A Patroni callback starts it again, unless agent.start_from_callback is false.")


def reload(config: Config) -> int:
    """It reads its configuration again, which could be read here. Raises AgentError."""
    _order(paths.socket_path(config.source, os.environ), "reload")
    return _say("The agent reads its configuration again; its log says so (reloaded).")


def restart(config: Config) -> int:
    """A new one works, with what is installed now. Raises AgentError or ConfigError, before anything ends if it can."""
    run.refuse_root()
    stop(config.source)
    run.main(config, detach=True)
    return _say("A new agent works.")


def _order(socket: str, verb: str) -> None:
    """Raises AgentError, of an agent that has no such order, which 0.1.0 had not, with what does the same."""
    try:
        client.ask(socket, verb, ANSWER_SECONDS)
    except AgentError as error:
        if not str(error).startswith("unknown verb"):
            raise
        raise AgentError(
            f"agent: the one that runs is of an older version, which has no order {verb!r}",
            hint="kill PID ends it, at any moment: walkeeper status has its pid. Then walkeeper agent --detach.",
        ) from None


def _is_free(lock: Path) -> bool:
    try:
        AgentLock(lock).release()
    except AgentError:
        return False
    return True


def _say(text: str) -> int:
    tell(text)
    return 0
