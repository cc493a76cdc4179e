"""A crash, or an error, at every system call with which a restored file is placed (strace does it to the real processes).

At the destination there is the whole file or nothing, no exit says *absent*, and the next call must end well.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.core.values import plain_segment
from tests.fixtures.pushing import ONE, DataDirectory
from tests.fixtures.restoring import PLAIN, SEGMENT, SYSTEM, Node, answering, ready
from tests.fixtures.tracing import Call, calls_in, different, strace, why_no_strace
from tests.parts.processes import new_directory, wait_until
from walkeeper.core.history import History
from walkeeper.core.names import Segment
from walkeeper.restore import client
from walkeeper.restore.exits import ABSENT, DELIVERED

NAMES: Final = (
    "openat,read,pread64,write,close,rename,renameat2,link,unlink,unlinkat,mkdir,stat,newfstatat,fstat,getdents64"
)
ERRORS: Final = ("EIO", "ENOSPC", "EINTR", "EACCES")
PLACE: Final = "pg_wal/RECOVERYXLOG"

pytestmark = pytest.mark.skipif(why_no_strace() is not None, reason=str(why_no_strace()))


class Restored:
    """walkeeper.restore.command for a segment that a directory has, in a server's data directory."""

    def __init__(self, directory: Path) -> None:
        self.data = DataDirectory(directory)
        segment = self.data.segment()
        self.name = segment.name
        self.plain = (self.data.wal / self.name).read_bytes()
        self.data.archive().archive_segment(segment, self.plain, ONE)
        (self.data.wal / self.name).unlink()
        (self.data.path / "recovery.signal").touch()
        self._trace = directory / "trace"

    def run(self, *injections: str) -> int:
        command = (sys.executable, "-B", "-m", "walkeeper.restore.command", self.data.config, self.name, PLACE)
        return self._exit([*strace(self._trace, NAMES, *injections), *map(str, command)])

    def calls(self) -> list[Call]:
        """Those that touch the data directory or the store."""
        assert self.run() == client.SAID[DELIVERED]
        found = calls_in(self._trace, self.data.path, self.data.store)
        (self.data.wal / "RECOVERYXLOG").unlink()
        return different(found)

    def check_and_end_well(self, code: int, what: object) -> None:
        whole = {"RECOVERYXLOG": self.plain}
        assert self.placed() in ({}, whole), what
        if code == client.SAID[DELIVERED]:
            assert self.placed() == whole, what
        self.clear()
        assert self.run() == client.SAID[DELIVERED], what
        assert self.placed() == whole, what
        assert len(list(self.data.wal.iterdir())) == 2, what  # archive_status, and no rest of who was killed
        self.clear()

    def placed(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.data.wal.iterdir() if path.name == "RECOVERYXLOG"}

    def clear(self) -> None:
        (self.data.wal / "RECOVERYXLOG").unlink(missing_ok=True)

    def _exit(self, command: list[str]) -> int:
        return subprocess.run(
            command, cwd=self.data.path, env=self.data.environment, capture_output=True, timeout=60, check=False
        ).returncode


@pytest.fixture(scope="module")
def restored() -> Restored:
    return Restored(new_directory("r"))


@pytest.fixture(scope="module")
def calls(restored: Restored) -> list[Call]:
    return restored.calls()


def placing(calls: list[Call]) -> list[Call]:
    """From the first write beside the destination on."""
    first = next(at for at, call in enumerate(calls) if "RECOVERYXLOG" in call.arguments)
    return calls[first:]


def test_p6_the_name_comes_after_the_last_byte_of_the_file(calls: list[Call]) -> None:
    names = [call.name for call in placing(calls)]
    assert "write" in names
    assert "write" not in names[names.index("rename") :]
    assert names.index("close") < names.index("rename")


def test_p6_a_kill_at_any_system_call_of_the_placement_leaves_the_whole_file_or_none(
    restored: Restored, calls: list[Call]
) -> None:
    for call in placing(calls):
        code = restored.run(call.killed())
        assert code not in {DELIVERED, ABSENT, client.SAID[DELIVERED], client.SAID[ABSENT]}, call
        restored.check_and_end_well(code, call)


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS)
def test_p6_no_error_of_any_system_call_is_told_as_the_end_of_the_wal(
    restored: Restored, calls: list[Call], error: str
) -> None:
    for call in calls:
        fail_at(restored, call, error)


def test_p6_no_error_of_a_system_call_is_told_as_the_end_of_the_wal(restored: Restored, calls: list[Call]) -> None:
    """At the first of each name, of those before the placement and of those in it, with one error after the other."""
    firsts = {(call.name, call in placing(calls)): call for call in reversed(calls)}
    for call, error in zip(firsts.values(), itertools.cycle(ERRORS)):
        fail_at(restored, call, error)


def fail_at(restored: Restored, call: Call, error: str) -> None:
    code = restored.run(call.failing(error))
    assert code != client.SAID[ABSENT], (call, error)
    restored.check_and_end_well(code, (call, error))


# ------------------------------------------------------------------------------------- what lies ready, and what is asked for


NEXT: Final = Segment(1, SEGMENT.number + 1, SEGMENT.size)


@pytest.fixture
def node(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A standby whose agent has two segments; to ask for the first makes the second lie ready."""
    made = Node(short_path, monkeypatch)
    made.archive.archive_segment(NEXT, plain_segment(NEXT, SYSTEM), History(1))
    made.server(("postmaster.pid", "standby.signal"))
    with answering(made):
        yield made


def lies_ready(node: Node) -> str:
    assert node.shell().returncode == DELIVERED
    wait_until(lambda: NEXT.name in ready(node), f"{NEXT} ready")
    return NEXT.name


def is_asked_for(node: Node) -> str:
    return SEGMENT.name


@pytest.mark.parametrize("prepare", [lies_ready, is_asked_for])
def test_p6_a_fault_where_a_file_is_handed_over_leaves_it_whole_or_none(
    node: Node, short_path: Path, prepare: Callable[[Node], str]
) -> None:
    """The shell's mv renames what lies ready; what is asked for the agent lays beside the destination, and the client renames it."""
    trace = short_path / "trace"
    place = node.data / PLACE
    assert node.shell(prepare(node), under=strace(trace, NAMES)).returncode == DELIVERED
    renames = different(call for call in calls_in(trace, PLACE) if call.name.startswith("rename"))
    assert renames
    for call in renames:
        for injection in (call.killed(), *map(call.failing, ERRORS)):
            name = prepare(node)
            plain = plain_segment(NEXT, SYSTEM) if name == NEXT.name else PLAIN
            place.unlink(missing_ok=True)
            code = node.shell(name, under=strace(trace, NAMES, injection)).returncode
            assert code != ABSENT, injection
            assert not place.exists() or place.read_bytes() == plain, injection
            assert code != DELIVERED or place.exists(), injection
            assert node.shell(name).returncode == DELIVERED, injection
            assert place.read_bytes() == plain, injection
            assert node.files == ["RECOVERYXLOG"], injection
