"""Which stores an agent has, in the few characters of a session's name that are left."""

from __future__ import annotations

from walkeeper.core.room import Disk
from walkeeper.core.stores_told import brief, from_brief, which


def test_what_is_told_fits_into_a_sessions_name_and_is_read_there() -> None:
    disk = Disk(100 << 40, 100 << 40, 1 << 30)
    session = f"walkeeper agent 0.2.0 {disk.brief} {brief(['main', 'far'])}"
    assert len(session) <= 63
    assert from_brief(session) == brief(["main", "far"])
    assert Disk.from_brief(session) == disk
    assert from_brief(session[:-1]) == from_brief("walkeeper agent 0.2.0") == ""


def test_the_order_and_what_is_lacking_are_named() -> None:
    names = ("main", "far", "third")
    for told in (("main",), ("far", "main"), ("third", "main", "far")):
        assert which(brief(told), names) == told
    assert which(brief(["main", "other"]), names) == ()
    assert which(brief([]), names) == ()
