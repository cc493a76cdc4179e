"""What the agent should be doing, from what it sees. Level-triggered: no event is needed, none can be missed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Desired(Enum):
    """``WATCH``: archive nothing. ``TAKE_OVER``: become the record's owner. ``GO_ON``: archive as before. ``STOP``: end."""

    WATCH = "watch"
    TAKE_OVER = "take over"
    GO_ON = "go on"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class ServerView:
    """The local server: whether it is in recovery, and its timeline."""

    in_recovery: bool
    timeline: int


@dataclass(frozen=True, slots=True)
class View:
    """One look. None means not known, or not there: ``server`` is down or hangs, ``leads`` could not be read."""

    server: ServerView | None
    leads: bool | None
    standby_cluster: bool
    archiving_timeline: int | None
    fenced: bool
    restarted: bool = False
    """The server was started again since the takeover."""


def desired(view: View) -> Desired:
    """The decision.

    An owner goes on while its server is down (the spool still has WAL), while the DCS is away, in a Patroni pause and
    with Patroni gone: ownership ends by fencing, by a demotion that is seen, or by what wants a new takeover: a new timeline, or
    a new start of the server, whose volume may have gone back.
    """
    if view.archiving_timeline is None:
        return Desired.TAKE_OVER if _is_source(view) and view.leads else Desired.WATCH
    if view.fenced or view.restarted:
        return Desired.STOP
    if view.server is None:
        return Desired.GO_ON
    if view.server.in_recovery and not view.standby_cluster:
        return Desired.STOP
    return Desired.GO_ON if view.server.timeline == view.archiving_timeline else Desired.STOP


def why_stop(view: View) -> str:
    """For people."""
    if view.fenced:
        return "fenced"
    return "the server was started again" if view.restarted else "the server is in recovery or on another timeline"


def _is_source(view: View) -> bool:
    return view.server is not None and (view.standby_cluster or not view.server.in_recovery)


def writes_without_leading(view: View) -> bool:
    """Whether the server accepts writes that nobody archives: two primaries, or a promotion by hand."""
    writable = view.server is not None and not view.server.in_recovery
    return writable and view.leads is False and view.archiving_timeline is None
