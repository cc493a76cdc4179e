"""What Patroni's keys say of the members together."""

from __future__ import annotations

from typing import Any

import pytest

from walkeeper.dcs.base import Leader, Member, Topology


def member(name: str, lsn: int | None, **more: Any) -> Member:
    return Member(name, "replica", "running", "10.0.0.1", 5432, 1, lsn, **more)


def test_how_far_a_member_is_behind_is_told_where_both_keys_say_where_they_are() -> None:
    members = (member("a", 1000), member("b", 400), member("c", None), member("d", 1200))
    topology = Topology(Leader("a"), members, standby_cluster=False, paused=False, slots=())
    assert topology.behind("a") == {"b": 600, "c": None, "d": 0}
    assert topology.behind(None) == {"a": None, "b": None, "c": None, "d": None}


@pytest.mark.parametrize(
    ("tags", "never"),
    [
        ({}, False), ({"nofailover": True}, True), ({"nofailover": "true"}, True), ({"nofailover": False}, False),
        ({"failover_priority": 0}, True), ({"failover_priority": 1}, False),
    ],
)  # fmt: skip
def test_who_is_never_promoted(tags: dict[str, Any], never: bool) -> None:
    assert member("a", 1, tags=tags).nofailover is never


@pytest.mark.parametrize(
    ("dynamic", "off"),
    [
        ({}, False), ({"postgresql": None}, False), ({"postgresql": {}}, False), ({"postgresql": {"use_slots": True}}, False),
        ({"postgresql": {"use_slots": "on"}}, False), ({"postgresql": {"use_slots": False}}, True),
        ({"postgresql": {"use_slots": "Off"}}, True),
    ],
)  # fmt: skip
def test_whether_patroni_drops_every_slot(dynamic: dict[str, Any], off: bool) -> None:
    topology = Topology(Leader("a"), (), standby_cluster=False, paused=False, slots=(), dynamic=dynamic)
    assert topology.slots_off is off
