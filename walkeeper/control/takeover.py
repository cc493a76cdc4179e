"""``walkeeper takeover``: the takeover that this node's agent refused, and a person's word that the next one may pass that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from walkeeper.control import client, paths
from walkeeper.lib.terminal import answered, tell

SECONDS: Final = 10.0


def main(config: Path, *, accept: bool, store: str | None = None) -> int:
    """0: nothing is refused, or it was accepted; 1: something is refused. ``store``: None is the first of several.

    Raises AgentError.
    """
    reply = client.ask(paths.socket_path(config, os.environ), "takeover", SECONDS, accept=accept, store=store)
    reason, text, hint = (str(reply.get(key) or "") for key in ("reason", "text", "hint"))
    if not reason:
        tell("No takeover is refused on this node.")
        return answered(0)
    if accept:
        tell(f"Accepted, for the next takeover of this agent only: {reason}: {text}")
        return 0
    tell(f"Refused: {reason}: {text}\nHINT: {hint}")
    return 1
