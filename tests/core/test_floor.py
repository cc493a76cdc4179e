"""Floors and pins: what they say, what they cover, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from walkeeper.core.backup import WalRange
from walkeeper.core.coverage import Range
from walkeeper.core.floor import (
    EVERYTHING,
    MAX_FLOOR_BYTES,
    Below,
    Floor,
    Pin,
    Retained,
    covered,
    decode,
    encode,
    given_up,
    written,
)
from walkeeper.core.lsn import MIB
from walkeeper.errors import BadFloor

ID = "20261128T020000Z-00000003-1a2b3c4d"


def a_floor(**changed: Any) -> Floor:
    fields: dict[str, Any] = {
        "number": 1,
        "at": "2026-11-28T02:00:00Z",
        "grace": 3600,
        "system_identifier": "7",
        "segment_size": MIB,
        "start": "000000030000000000000005",
        "below": (Below(1, EVERYTHING), Below(3, "0/500000")),
        "kept": (WalRange(3, "0/200028", "0/300001"),),
        "backups": (ID,),
        "member": "node1",
    }
    return Floor(**(fields | changed))


def a_pin(**changed: Any) -> Pin:
    fields: dict[str, Any] = {
        "id": "0123456789abcdef-0001",
        "kind": "restore",
        "backup": ID,
        "timeline": 3,
        "lsn": "0/200028",
        "at": "2026-11-28T02:00:00Z",
        "until": "2026-12-05T02:00:00Z",
        "by": "host1, pid 7",
    }
    return Pin(**(fields | changed))


RETAINED = Retained(number=1, backup=ID, at="2026-11-28T02:00:00Z", until="2027-11-28T02:00:00Z")


def test_each_comes_back_as_it_was() -> None:
    assert decode(Floor, encode(a_floor()), "") == a_floor()
    assert decode(Pin, encode(a_pin()), "") == a_pin()
    assert decode(Retained, encode(RETAINED), "") == RETAINED


def test_a_floor_gives_up_what_is_below_it_but_the_segments_that_it_keeps() -> None:
    floor = a_floor()
    assert floor.given_up[3] == [Range(0, 2), Range(4, 5)]
    assert floor.covered[3] == [Range(0, 5)]
    assert floor.given_up[1] == [Range(0, (1 << 64) // MIB - 1)]
    assert floor.first.number == 5
    assert written(floor.stands_from) == "2026-11-28T03:00:00Z"
    later = a_floor(number=2, below=(Below(3, "0/700000"),), kept=())
    assert given_up([floor, later])[3] == [Range(0, 7)]
    assert covered([floor])[3] == [Range(0, 5)]


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (Floor, b""),
        (Floor, b"[" * 100_000),
        (Floor, b" " * (MAX_FLOOR_BYTES + 1)),
        (Floor, encode(a_floor(schema=2))),
        (Floor, encode(a_floor(grace=60))),
        (Floor, encode(a_floor(at="yesterday"))),
        (Floor, encode(a_floor(at="2026-13-28T02:00:00Z"))),
        (Floor, encode(a_floor(segment_size=7))),
        (Floor, encode(a_floor(start="0" * 24))),
        (Floor, encode(a_floor(backups=("../x",)))),
        (Floor, encode(a_floor(below=(Below(0, "0/0"),)))),
        (Pin, encode(a_pin(until="2026-12-05T02:00:01Z"))),
        (Pin, encode(a_pin(until="2026-11-28T01:59:59Z"))),
        (Pin, encode(a_pin(id="../../start/x"))),
        (Retained, encode(a_floor())),
    ],
)
def test_what_cannot_be_relied_on_is_refused_by_its_name(kind: type[Floor], document: bytes) -> None:
    with pytest.raises(BadFloor, match=r"^expire/00000001\.json: "):
        decode(kind, document, "expire/00000001.json")
