"""restore-wal through the agent: the same three answers, and without an agent the same again."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.core.values import control_file
from tests.fixtures.restoring import PLAIN, SEGMENT, SYSTEM, Node, answering, listening
from tests.twins.memory_record import MemoryRecord
from walkeeper.archive.codec import most
from walkeeper.archive.read import MAX_LABEL_BYTES
from walkeeper.control.server import AgentLock, ControlServer
from walkeeper.restore import client, command, exits
from walkeeper.store.base import MAX_OBJECT, Body


@pytest.fixture
def node(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(short_path, monkeypatch)


@pytest.fixture
def agent(node: Node) -> Iterator[Node]:
    with answering(node):
        yield node


def test_what_is_there_is_delivered_whole(agent: Node) -> None:
    assert agent.restore() == exits.DELIVERED
    assert (agent.data / "pg_wal" / "RECOVERYXLOG").read_bytes() == PLAIN
    assert agent.files == ["RECOVERYXLOG"]


def test_p6_who_restores_another_clusters_archive_is_not_answered_from_this_one(
    agent: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the restore_command of ``walkeeper restore --from`` says it; somebody else is asked then."""
    begun: list[str] = []
    monkeypatch.setattr("walkeeper.restore.host_start.start", lambda _, socket, __: begun.append(socket))
    for name in (SEGMENT.name, "000000010000000000000006"):
        monkeypatch.setenv("PATRONI_SCOPE", "demo")
        assert agent.restore(name) in (exits.DELIVERED, exits.ABSENT)
        assert not begun
        monkeypatch.setenv("PATRONI_SCOPE", "other")
        assert agent.restore(name) is None
        assert len(begun) == 1
        begun.clear()


def test_p6_what_is_proved_absent_is_absent(agent: Node) -> None:
    for name in ("000000010000000000000006", "00000002.history", "00000001.history"):
        assert agent.restore(name) == exits.ABSENT
    assert agent.files == []


@pytest.mark.parametrize("problem", ["down", "no archive", "damaged", "bad name", "another cluster"])
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("recovery.signal", "postmaster.pid"), None),
        (("standby.signal", "postmaster.pid"), exits.ASK_AGAIN),
        (("recovery.signal", "standby.signal"), exits.ASK_AGAIN),
        (("postmaster.pid",), exits.ASK_AGAIN),  # it is being promoted
        ((), None),  # pg_rewind, which does not ask again
    ],
)
def test_p6_what_the_agent_cannot_tell_is_tried_on_in_archive_recovery_and_final_elsewhere(
    agent: Node, problem: str, files: tuple[str, ...], expected: int | None
) -> None:
    agent.server(files)
    name = "../../x" if problem == "bad name" else SEGMENT.name
    if problem == "down":
        agent.store.down = True
    elif problem == "no archive":
        agent.store.objects.clear()
    elif problem == "damaged":
        key = agent.archive.layout.file(SEGMENT, ".zst")
        agent.store.objects[key] = (agent.store.objects[key][0][:-1], {})
    elif problem == "another cluster":
        (agent.data / "global" / "pg_control").write_bytes(struct.pack("=QI", SYSTEM + 1, 1300) + bytes(8000))
    assert agent.restore(name) == expected
    assert agent.files == []


def test_p6_an_outage_is_not_final_for_pg_rewind_on_a_server_that_crashed(agent: Node) -> None:
    """Such a server leaves its postmaster.pid behind, and pg_rewind does not ask again: the slow way tries to the deadline."""
    (agent.data / "postmaster.pid").write_text(f"{2**22 + 1}\n{agent.data}\n1700000000\n")
    agent.store.down = True
    assert agent.restore() is None


def test_p9_a_store_that_says_nothing_holds_up_one_call_and_not_each(agent: Node) -> None:
    """A promotion makes several calls in a row."""
    go = threading.Event()

    def say_nothing(*_: str) -> None:
        go.wait(60)

    agent.server(("standby.signal", "postmaster.pid"))
    agent.store.before = say_nothing
    assert agent.restore() == exits.ASK_AGAIN
    asked = len(agent.store.calls)
    for _ in range(5):
        assert agent.restore() == exits.ASK_AGAIN
    assert len(agent.store.calls) == asked
    go.set()


def test_p9_a_store_that_fails_is_left_alone_for_a_moment(agent: Node) -> None:
    agent.server(("standby.signal", "postmaster.pid"))
    agent.store.down = True
    assert agent.restore() == exits.ASK_AGAIN
    asked = len(agent.store.calls)
    for _ in range(5):
        assert agent.restore() == exits.ASK_AGAIN
    assert len(agent.store.calls) == asked


def test_h9_without_an_agent_or_with_a_hung_one_the_slow_way_is_left(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert node.restore() is None
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.3)
    go = threading.Event()

    def hang(_: dict[str, Any]) -> dict[str, Any]:
        go.wait(60)
        return {}

    with AgentLock(node.lock) as lock, listening(ControlServer(node.socket, lock, {"restore": hang})):
        assert node.restore() is None
        go.set()


def test_what_a_dead_client_left_is_swept_by_the_next(agent: Node) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    agent.restoring.answer(
        {"file": SEGMENT.name, "destination": str(agent.data / "pg_wal" / "RECOVERYXLOG"), "pid": gone.pid}
    )
    assert len(agent.files) == 1
    assert agent.restore() == exits.DELIVERED
    assert agent.files == ["RECOVERYXLOG"]


def test_the_command_takes_that_way_and_is_light(agent: Node) -> None:
    """The configured store does not exist: only the agent can have delivered this, and no SDK was loaded."""
    command = [sys.executable, "-X", "importtime", "-m", "walkeeper"]
    arguments = ["restore-wal", "-c", str(agent.config), SEGMENT.name, "pg_wal/RECOVERYXLOG"]
    answer = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert (agent.data / "pg_wal" / "RECOVERYXLOG").read_bytes() == PLAIN
    for heavy in ("msgspec", "yaml", "argparse", "typing", "walkeeper.archive.write"):
        assert f" {heavy}\n" not in answer.stderr


@pytest.mark.parametrize("alone", [False, True])
def test_p16_no_more_of_an_object_is_read_than_a_file_of_this_server_can_have(
    node: Node, monkeypatch: pytest.MonkeyPatch, *, alone: bool
) -> None:
    """A planted one of a gigabyte would take as much memory before it is seen to be none of the archive's."""
    control = control_file(1, SEGMENT.start, system_identifier=SYSTEM, segment_size=SEGMENT.size)
    (node.data / "global" / "pg_control").write_bytes(control)
    node.store.objects[node.archive.layout.file(SEGMENT, ".again.zst")] = (bytes(2 * SEGMENT.size), {})
    limits: dict[str, int] = {}
    get = node.store.get

    def noted(key: str, limit: int = MAX_OBJECT) -> Body | None:
        limits[key.rpartition("/")[2]] = limit
        return get(key, limit)

    monkeypatch.setattr(node.store, "get", noted)
    monkeypatch.setattr(command, "open_all", lambda *_, **__: node.store)
    monkeypatch.setattr(command, "_records", lambda *_: MemoryRecord(node.dcs))
    label = f"{SEGMENT}.00000028.backup"
    with answering(node):
        for name in (SEGMENT.name, label):
            if alone:
                assert command.restore(node.config, name, node.data, {}) == (PLAIN if name == SEGMENT.name else None)
            else:
                assert node.restore(name) == (exits.DELIVERED if name == SEGMENT.name else exits.ABSENT)
    assert limits[f"{SEGMENT}.zst"] == most(SEGMENT.size) < 2 * SEGMENT.size
    assert limits[f"{label}.zst"] == most(MAX_LABEL_BYTES)
