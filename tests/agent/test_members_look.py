"""What the page says of the other members: asked beside it, seldom, and forgotten when it is old."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.fixtures.worlds import config_of, wait_for
from tests.twins.hand_clock import HandClock
from walkeeper.agent import members_look
from walkeeper.agent.members_look import FORGOTTEN_SECONDS, REFRESH_SECONDS, MembersLook, Seen
from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.record import Record
from walkeeper.core.room import Disk
from walkeeper.dcs.base import Member
from walkeeper.errors import PostgresError
from walkeeper.postgres.server import ServerState

RECORD = Record(
    system_identifier="7", segment_size=MIB, timeline=1, lsn="0/500000", start="000000010000000000000003", owner="a", session="s",
)  # fmt: skip
DISK = Disk(100 << 20, 900 << 20, 2048.0)


class Server:
    """By its port: a good one, one whose slot is ahead, one that does not answer, another cluster's."""

    asked: list[int] = []  # noqa: RUF012 - a test empties it
    answer = threading.Event()

    def __init__(self, settings: Any, timeout: float) -> None:
        self.port = settings.port

    def state(self) -> ServerState:
        self.answer.wait(30)
        self.asked.append(self.port)
        if self.port == 3:
            raise PostgresError("no answer")
        return ServerState(8 if self.port == 4 else 7, self.port != 1, 1, Lsn(6 * MIB), SegmentSize(MIB), 15, "replica")

    def slot(self, name: str) -> SlotState:
        return SlotState(True, Lsn((8 if self.port == 2 else 4) * MIB), None, False)

    def agents(self) -> list[str]:
        return (
            ["walkeeper agent 0.2.0", f"walkeeper agent 0.2.0 {DISK.brief}"]
            if self.port == 1
            else ["walkeeper agent 0.1.0"]
        )

    def close(self) -> None: ...


def member(name: str, port: int | None, *, nofailover: bool = False) -> Member:
    return Member(name, "replica", "running", "h", port, 1, None, {"nofailover": True} if nofailover else {})


def test_each_is_asked_and_who_does_not_answer_is_left_out(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members_look, "Server", Server)
    Server.asked.clear()
    Server.answer.clear()
    server: Any = type("S", (), {"bin_dir": tmp_path, "data": tmp_path, "port": 1})
    clock = HandClock()
    look = MembersLook(config_of(server, "a", tmp_path), clock)
    members = (
        member("a", 1),
        member("b", 2),
        member("c", 3),
        member("d", None),
        member("e", 2, nofailover=True),
        member("f", 4),
    )
    assert look.look(members, RECORD, RECORD.position) == {}
    Server.answer.set()
    wait_for(lambda: bool(look.look(members, RECORD, RECORD.position)))
    assert look.look(members, RECORD, RECORD.position) == {
        "a": Seen(True, DISK),
        "b": Seen(False, None),
        "e": Seen(None, None),
        "f": Seen(None, None),
    }
    assert sorted(Server.asked) == [1, 2, 2, 3, 4]  # once
    clock.now += REFRESH_SECONDS
    look.look(members, None, None)
    wait_for(
        lambda: look.look(members, None, None).get("a") == Seen(None, DISK)
    )  # what is gap-safe depends on the record
    clock.now += FORGOTTEN_SECONDS
    monkeypatch.setattr(Server, "state", lambda self: (_ for _ in ()).throw(PostgresError("away")))
    assert look.look(members, RECORD, RECORD.position) == {}
