"""A crash, or an error, at every system call with which archive-push touches the store (strace does it to the real process).

Nothing wrong may be left, nothing may be acknowledged that is not durable, and the next call must end well.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.fixtures.pushing import SYSTEM, DataDirectory
from tests.fixtures.tracing import Call, calls_in, strace, why_no_strace
from tests.parts.processes import new_directory
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import fetch
from walkeeper.cli import main as cli
from walkeeper.store.directory import DirectoryStore

SEGMENT: Final = "000000010000000000000005"
CALLS: Final = "openat,mkdir,write,fsync,link,linkat,unlink,unlinkat,rename,setxattr,fsetxattr,flock,stat,newfstatat,fstat,close,getdents64"
QUICK: Final = 14
"""Kills in the quick test, spread evenly over all of them."""

pytestmark = pytest.mark.skipif(why_no_strace() is not None, reason=str(why_no_strace()))


class Traced:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._trace = directory / "trace"
        self.fresh()

    def fresh(self) -> DataDirectory:
        for name in ("data", "store", "run"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        self.data = DataDirectory(self.directory)
        self.data.segment()
        return self.data

    def push(self, *injections: str) -> int:
        arguments = ("archive-push", "--without-agent", "-c", str(self.data.config), f"pg_wal/{SEGMENT}")
        program = (*strace(self._trace, CALLS, *injections), sys.executable, "-B", "-m", "walkeeper")
        return self.data.push(*arguments, program=program).returncode

    def calls(self) -> list[Call]:
        """Those that touch the store, in order, from a run to which nothing happened."""
        self.fresh()
        assert self.push() == 0
        return calls_in(self._trace, self.data.store)

    def stored(self) -> bytes | None:
        if SEGMENT + ".zst" not in self.data.objects():
            return None
        return fetch(DirectoryStore(self.data.store), Layout("demo", None, SYSTEM), Codec(), SEGMENT)

    def check_and_end_well(self, code: int, what: object) -> None:
        """What holds after whatever happened, and that the next call puts all right."""
        plain = (self.data.wal / SEGMENT).read_bytes()
        assert self.stored() in ({plain} if code == 0 else {None, plain}), what
        assert (
            cli.main(["archive-push", "--without-agent", "-c", str(self.data.config), str(self.data.wal / SEGMENT)])
            == 0
        ), what
        assert self.stored() == plain, what
        following = self.data.segment(6).name  # what was left half-written is swept by who stores the next one there
        assert (
            cli.main(["archive-push", "--without-agent", "-c", str(self.data.config), str(self.data.wal / following)])
            == 0
        )
        assert self.data.objects() == [SEGMENT + ".zst", following + ".zst"], what


@pytest.fixture
def traced(short_path: Path) -> Traced:
    return Traced(short_path)


@pytest.fixture(scope="module")
def calls() -> list[Call]:
    """The calls of a run to which nothing happened: the same in every run, but for the paths."""
    return Traced(new_directory("c")).calls()


def test_p1_the_order_is_write_fsync_link_fsync_of_the_directory_and_only_then_an_answer(traced: Traced) -> None:
    calls = traced.calls()
    folder = next(traced.data.store.rglob(SEGMENT + ".zst")).parent

    def last(name: str, part: str) -> int:
        return max(at for at, call in enumerate(calls) if call.name == name and part in call.arguments)

    written = last("write", f"{folder}/.tmp-{SEGMENT}")
    synced = last("fsync", f"{folder}/.tmp-{SEGMENT}")
    linked = max(at for at, call in enumerate(calls) if call.name in {"link", "linkat"} and SEGMENT in call.arguments)
    listed = last("fsync", f"{folder}>")
    assert written < synced < linked < listed
    assert not [call for call in calls[listed:] if call.name in {"write", "link", "linkat", "rename"}]
    above = [f"{parent}>" for parent in folder.parents if parent.is_relative_to(traced.data.store)]
    for directory in above:  # the names of all directories on the way are durable before the object is linked
        assert last("fsync", directory) < linked


def kills(calls: list[Call]) -> list[Call]:
    """Not after every close and stat: between two of these nothing has changed."""
    return [call for call in calls if call.name not in {"fstat", "close", "stat", "newfstatat", "getdents64"}]


def kill_at(traced: Traced, call: Call) -> None:
    traced.fresh()
    code = traced.push(call.killed())
    assert code != 0, call
    traced.check_and_end_well(code, call)


def test_p1_p7_a_kill_at_a_system_call_leaves_nothing_wrong(traced: Traced, calls: list[Call]) -> None:
    changing = kills(calls)
    assert len(changing) > QUICK
    for number in range(QUICK):
        kill_at(traced, changing[number * (len(changing) - 1) // (QUICK - 1)])


@pytest.mark.slow
def test_p1_p7_a_kill_at_any_system_call_leaves_nothing_wrong(traced: Traced, calls: list[Call]) -> None:
    for call in calls:
        kill_at(traced, call)


ERRORS: Final = [
    ("write", "ENOSPC"), ("write", "EIO"), ("fsync", "EIO"), ("fsync", "ENOSPC"), ("link", "EIO"), ("link", "EACCES"),
    ("mkdir", "EACCES"), ("mkdir", "EROFS"), ("openat", "EACCES"), ("openat", "EINTR"), ("write", "EINTR"), ("fsync", "EINTR"),
]  # fmt: skip


def fail_at(traced: Traced, call: Call, error: str) -> None:
    traced.fresh()
    code = traced.push(call.failing(error))
    assert code in range(126), (call, error)
    if error not in {"EINTR", "EACCES"} and call.name in {"write", "fsync", "link"}:
        assert code != 0, (call, error)
    traced.check_and_end_well(code, (call, error))


@pytest.mark.parametrize(("name", "error"), ERRORS)
def test_p1_an_error_of_a_system_call_is_no_success_and_is_made_up_for(
    traced: Traced, calls: list[Call], name: str, error: str
) -> None:
    """At the last call of that name, which is the one with the object itself."""
    wanted = {"link": {"link", "linkat"}}.get(name, {name})
    on_object = [call for call in calls if call.name in wanted]
    fail_at(traced, on_object[-1], error)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "error"), ERRORS)
def test_p1_an_error_at_any_of_them_is_no_success_and_is_made_up_for(
    traced: Traced, calls: list[Call], name: str, error: str
) -> None:
    for call in calls:
        if call.name.startswith(name):
            fail_at(traced, call, error)
