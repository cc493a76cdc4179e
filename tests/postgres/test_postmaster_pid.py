"""postmaster.pid has one meaning for everybody who reads it: the modules that ask it, and the two scripts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.core.values import plain_segment
from tests.fixtures.pushing import DataDirectory
from tests.fixtures.restoring import SCRIPT as RESTORE
from tests.fixtures.restoring import SEGMENT, SYSTEM
from tests.push.test_push_shell import SLOW, Call
from walkeeper.postgres import postmaster_pid
from walkeeper.postgres.data_directory import is_out_of_recovery, is_starting, is_stopping, run_of, running_server
from walkeeper.restore import exits, host_start

REST: Final = "5432\n/tmp\n*\n1 2\nready   \n"
NOBODY: Final = 2**22 + 1
"""No process has that number: Linux gives out none above 2**22."""

TABLE: Final = {
    "none": None,
    "live": "{live}\n{data}\n1700000000\n" + REST,
    "live, just begun": "{live}\n{data}\n1700000000\n5432\n",
    "of a server that crashed": "{nobody}\n{data}\n1700000000\n" + REST,
    "another program has its number": "{other}\n{data}\n1700000000\n" + REST,
    "in single-user mode": "-{live}\n{data}\n1700000000\n" + REST,
    "empty": "",
    "without a start": "{live}\n{data}\n",
    "with a start that is cut off": "{live}\n{data}\n17000",
    "not a number": "self\n{data}\n1700000000\n" + REST,
    "with a start that is not a number": "{live}\n{data}\nsoon\n" + REST,
    "empty lines": "\n\n\n",
    "process 0": "0\n{data}\n1700000000\n" + REST,
    "a number of a thousand digits": "1" * 1000 + "\n{data}\n1700000000\n" + REST,
}


@pytest.fixture(params=TABLE)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def call(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """A data directory with a segment that is archived and marked; this process works there, as a postmaster does."""
    data = DataDirectory(short_path)
    monkeypatch.chdir(data.path)
    return Call(data)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[int]:
    """A process of ours that is not a server."""
    with subprocess.Popen(["sleep", "600"], cwd=tmp_path) as process:
        yield process.pid
        process.kill()


def lay(data: Path, case: str, other: int) -> bool:
    """Write that one, and say whether a server runs there."""
    content = TABLE[case]
    (data / "postmaster.pid").unlink(missing_ok=True)
    if content is not None:
        text = content.format(live=os.getpid(), nobody=NOBODY, other=other, data=data)
        (data / "postmaster.pid").write_text(text)
    return case.startswith("live")


def test_a_server_runs_where_a_process_of_that_number_works_in_the_data_directory(
    call: Call, other: int, case: str
) -> None:
    data = call.data.path
    runs = lay(data, case, other)
    assert (postmaster_pid.running(str(data)) is not None) == runs
    may_run = case in {"live", "of a server that crashed", "process 0"}  # or one that another PID namespace has
    assert postmaster_pid.socket_directory(str(data)) == ("/tmp" if may_run else "")
    assert (running_server(data) is not None) == runs
    assert run_of(data) == (f"{os.getpid()}-1700000000" if runs else None)
    assert is_out_of_recovery(data) == (case == "live")
    began = runs or case in {"of a server that crashed", "another program has its number", "process 0"}
    assert bool(postmaster_pid.last_run(str(data))) == began
    for signal in ("standby.signal", "recovery.signal"):
        (data / signal).touch()
        assert not is_out_of_recovery(data)
        (data / signal).unlink()
    assert not is_starting(data)
    assert not is_stopping(data)
    assert host_start._of_a_server(str(data / "pg_wal" / "RECOVERYXLOG")) == runs
    assert exits.will_ask_again(str(data)) == runs


def test_p1_the_script_of_archive_command_believes_a_marker_only_of_a_server_that_runs(
    call: Call, other: int, case: str
) -> None:
    runs = lay(call.data.path, case, other)
    (call.marker.parent.parent / f"{other}-1700000000").symlink_to(call.marker.parent)
    (call.marker.parent.parent / f"{NOBODY}-1700000000").symlink_to(call.marker.parent)
    assert call().returncode == (0 if runs else SLOW)


def test_the_script_of_restore_command_takes_what_lies_ready_only_for_a_server_that_runs(
    call: Call, other: int, case: str
) -> None:
    data, run = call.data.path, call.data.run
    runs = lay(data, case, other)
    cache = call.data.path.parent / "cache"
    cache.mkdir()
    (run / "ready").mkdir(mode=0o700)
    (cache / SEGMENT.name).write_bytes(plain_segment(SEGMENT, SYSTEM))
    for pid in (os.getpid(), other, NOBODY, f"-{os.getpid()}"):
        name = f"{pid}.1700000000.{call.data.config}/{data}".replace("/", "+")
        (run / "ready" / name).symlink_to(cache)
    done = subprocess.run(
        ["sh", RESTORE, "-c", str(call.data.config), SEGMENT.name, "pg_wal/RECOVERYXLOG"], cwd=data,
        env={**call.data.environment, "WALKEEPER_PYTHON": "/nonexistent/python"}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == (exits.DELIVERED if runs else exits.ASK_AGAIN)


SIGNALS: Final = [(), ("standby.signal",), ("recovery.signal",), ("recovery.signal", "standby.signal")]


@pytest.mark.parametrize("signals", SIGNALS)
def test_p6_the_script_and_exits_agree_on_what_stops_a_recovery(
    call: Call, other: int, case: str, signals: tuple[str, ...]
) -> None:
    data = call.data.path
    runs = lay(data, case, other)
    for name in signals:
        (data / name).touch()
    done = subprocess.run(
        ["sh", RESTORE, "-c", str(call.data.config), "00000002.history", "pg_wal/RECOVERYHISTORY"], cwd=data,
        env={**call.data.environment, "WALKEEPER_PYTHON": "/nonexistent/python"}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == exits.cannot_tell(str(data)) == exits.cannot_tell(".")
    assert (done.returncode == exits.STOP_RECOVERY) == (signals == ("recovery.signal",))
    assert exits.will_ask_again(str(data)) == ("standby.signal" in signals or (runs and not signals))
