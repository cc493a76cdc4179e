"""Commits that wait for the store, in words, for status and the page; both have them as the agent reports them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from walkeeper.core.amounts import duration

_STATES: Final = {
    "store": "return when the store has them",
    "waiting": "wait: nothing was acknowledged for {waited}",
    "degraded": "return without the store, which is {waited} behind",
    "none": "nothing is acknowledged yet",
}


def now(found: Mapping[str, Any]) -> str:
    """How they fare, on a node that archives."""
    if found["waited_for"] is False:
        return "do not wait for the store"
    return _STATES[found["state"]].format(waited=duration(found["waited_seconds"] or 0.0))


def more(found: Mapping[str, Any]) -> str:
    """Up to where, and how many wait at this moment."""
    waiting, acknowledged = found["waiting_commits"], found["acknowledged"]
    facts = (
        f"synchronous_standby_names does not demand {found['standby_name']}" if found["waited_for"] is False else "",
        f"acknowledged up to {acknowledged}" if acknowledged else "",
        "how many wait is not known" if waiting is None else f"{waiting} wait now",
    )
    return "; ".join(filter(None, facts))


def kind(found: Mapping[str, Any]) -> str:
    """Of the page's card."""
    if found["waited_for"] is False:
        return "bad"
    return {"store": "", "none": "odd"}.get(found["state"], "bad")
