"""The shell script that archive_command runs: when it says yes by itself, and that everything else goes the slow way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.values import plain_segment
from tests.fixtures.pushing import ONE, SCRIPT, SYSTEM, DataDirectory
from walkeeper.agent.markers import Markers
from walkeeper.control import paths
from walkeeper.core.names import Segment

SLOW = 77
"""What the stand-in for Python exits with: nothing but the marker can have made a 0."""
SHELLS = [shell for shell in ("dash", "bash", "busybox", "ksh", "mksh", "yash") if shutil.which(shell)]


class Call:
    """One segment that is archived and marked."""

    def __init__(self, data: DataDirectory) -> None:
        self.data = data
        self.segment = data.segment()
        self.path = data.wal / self.segment.name
        os.utime(self.path, ns=(1_700_000_000_123_456_789,) * 2)
        self.run = data.start_server()
        self.markers = Markers(data.run, data.config)
        self.python = data.run / "python"
        self.python.write_text(f"#!/bin/sh\nexit {SLOW}\n")
        self.python.chmod(0o755)
        self.mark()

    def mark(self) -> bool:
        receipt = self.data.archive().archive_segment(self.segment, self.path.read_bytes(), ONE)
        self.markers.follow(self.run)
        return self.markers.lay(receipt, self.path.stat().st_mtime_ns)

    @property
    def marker(self) -> Path:
        name = str(self.data.config).replace("/", "+")
        return self.data.run / "archived" / name / self.run / self.segment.name

    def __call__(
        self, *arguments: str, script: Path = SCRIPT, shell: tuple[str, ...] = (), **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*shell, str(script), *(arguments or ("-c", str(self.data.config), f"pg_wal/{self.segment.name}"))],
            cwd=self.data.path, env={**self.data.environment, "WALKEEPER_PYTHON": str(self.python), **environment},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip


@pytest.fixture
def call(short_path: Path) -> Call:
    return Call(DataDirectory(short_path))


@pytest.mark.parametrize("shell", SHELLS)
def test_a_marked_segment_is_answered_by_the_shell_alone(call: Call, shell: str) -> None:
    program = ("busybox", "sh") if shell == "busybox" else (shell,)
    coarse = shell == "busybox"  # it compares whole seconds, and so never believes a marker
    assert call(shell=program).returncode == (SLOW if coarse else 0)


def test_as_patroni_calls_it_and_with_the_configuration_in_the_environment(call: Call) -> None:
    assert call("--config", str(call.data.config), str(call.path)).returncode == 0
    assert call(f"pg_wal/{call.segment.name}", WALKEEPER_CONFIG=str(call.data.config)).returncode == 0


def changed(call: Call) -> None:
    with call.path.open("r+b") as file:
        file.write(b"\0")


def older_file(call: Call) -> None:
    call.path.write_bytes(plain_segment(call.segment, SYSTEM, fill=b"x"))
    os.utime(call.path, ns=(1_600_000_000_000_000_000,) * 2)


def younger_by_a_nanosecond(call: Call) -> None:
    os.utime(call.path, ns=(1_700_000_000_123_456_790,) * 2)


def older_by_a_nanosecond(call: Call) -> None:
    os.utime(call.path, ns=(1_700_000_000_123_456_788,) * 2)


def a_link(call: Call) -> None:
    call.path.rename(call.path.with_name("elsewhere"))
    call.path.symlink_to("elsewhere")


def gone(call: Call) -> None:
    call.path.unlink()


def another_start(call: Call) -> None:
    pid_file = call.data.path / "postmaster.pid"
    pid_file.write_text(pid_file.read_text().replace("1700000000", "1700000001"))


def no_server(call: Call) -> None:
    (call.data.path / "postmaster.pid").unlink()


def a_dead_server(call: Call) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    pid_file = call.data.path / "postmaster.pid"
    pid_file.write_text(pid_file.read_text().replace(str(os.getpid()), str(child.pid), 1))
    call.marker.parent.rename(call.marker.parent.with_name(f"{child.pid}-1700000000"))


def a_garbled_pid_file(call: Call) -> None:
    (call.data.path / "postmaster.pid").write_text("\n\n\n")


def a_wiped_run_directory(call: Call) -> None:
    shutil.rmtree(call.data.run / "archived")


def half_a_marker(call: Call) -> None:
    call.marker.with_name(call.marker.name + ".before").unlink()


def the_other_half(call: Call) -> None:
    call.marker.unlink()


def a_link_for_a_marker(call: Call) -> None:
    call.marker.rename(call.marker.with_name("elsewhere"))
    call.marker.symlink_to("elsewhere")


def a_link_for_the_other_half(call: Call) -> None:
    other = call.marker.with_name(call.marker.name + ".before")
    other.rename(other.with_name("elsewhere"))
    other.symlink_to("elsewhere")


def a_link_on_the_way(call: Call) -> None:
    call.marker.parent.rename(call.data.run / "elsewhere")
    call.marker.parent.symlink_to(call.data.run / "elsewhere")


def a_link_at_the_top(call: Call) -> None:
    archived = call.data.run / "archived"
    archived.rename(call.data.run / "elsewhere")
    archived.symlink_to("elsewhere")


def one_of_too_many(call: Call) -> None:
    call.markers.forget_old(0)


def asked_for_by_hand(call: Call) -> None:
    (call.data.wal / "archive_status" / f"{call.segment.name}.ready").unlink()


def a_new_run(call: Call) -> None:
    call.markers.follow("1-2")


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shell != "busybox"])
@pytest.mark.parametrize(
    "happens",
    [changed, older_file, younger_by_a_nanosecond, older_by_a_nanosecond, a_link, gone, another_start, no_server,
     a_dead_server, a_garbled_pid_file, a_wiped_run_directory, half_a_marker, the_other_half, one_of_too_many, a_new_run, asked_for_by_hand,
     a_link_for_a_marker, a_link_for_the_other_half, a_link_on_the_way, a_link_at_the_top],
)  # fmt: skip
def test_p1_a_marker_counts_for_the_very_file_and_server_run_alone(
    call: Call, happens: Callable[[Call], None], shell: str
) -> None:
    happens(call)
    assert call(shell=(shell,)).returncode == SLOW


def test_p1_a_file_that_is_used_again_under_another_name_has_no_marker(call: Call) -> None:
    recycled = Segment(1, 9, call.segment.size)
    call.path.rename(call.data.wal / recycled.name)
    assert call("-c", str(call.data.config), f"pg_wal/{recycled.name}").returncode == SLOW


def test_p1_another_configuration_has_markers_of_its_own(call: Call) -> None:
    other = call.data.config.with_name("other.yml")
    other.write_text(call.data.config.read_text())
    assert call("-c", str(other), f"pg_wal/{call.segment.name}").returncode == SLOW


def test_p1_a_configuration_whose_path_has_a_plus_has_no_markers(call: Call) -> None:
    odd = call.data.config.with_name("a+b.yml")
    markers = Markers(call.data.run, odd)
    markers.follow(call.run)
    receipt = call.data.archive().archive_segment(call.segment, call.path.read_bytes(), ONE)
    assert not markers.lay(receipt, call.path.stat().st_mtime_ns)
    assert call("-c", str(odd), f"pg_wal/{call.segment.name}").returncode == SLOW


def test_p16_what_somebody_else_put_in_the_markers_place_is_not_used(call: Call) -> None:
    """As root it would be another user's directory; here it is a link, and a directory that others may write."""
    archived = call.data.run / "archived"
    archived.rename(call.data.run / "elsewhere")
    archived.symlink_to("elsewhere")
    with pytest.raises(PermissionError, match="not a directory, and somebody put it there"):
        Markers(call.data.run, call.data.config).follow("1-2")
    archived.unlink()
    archived.mkdir()
    archived.chmod(0o777)
    with pytest.raises(PermissionError, match="which lets others write there"):
        Markers(call.data.run, call.data.config).follow("1-2")


def test_p1_a_file_that_may_still_be_written_in_the_same_tick_gets_no_marker(call: Call) -> None:
    call.markers.forget_old(0)
    call.path.touch()
    now = call.path.stat().st_mtime_ns
    os.utime(call.path, ns=(now + 10**9,) * 2)  # or a clock that was set back
    assert not call.mark()
    assert call().returncode == SLOW
    assert not list(call.marker.parent.glob(f"{call.segment.name}*.new"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "{config}", "pg_wal/../pg_wal/{name}"),
        ("-c", "{config}", "pg_wal/{name}/"),
        ("-c", "{config}", "./pg_wal/{name}"),
        ("-c", "{config}", "{name}"),
        ("-c", "{config}", ""),
        ("-c", "{relative}", "pg_wal/{name}"),
        ("-c", "{up}", "pg_wal/{name}"),
        ("-c", "", "pg_wal/{name}"),
        ("pg_wal/{name}",),
        (),
    ],
)
def test_what_is_not_called_as_usual_goes_the_slow_way(call: Call, arguments: tuple[str, ...]) -> None:
    config = call.data.config
    facts = {
        "config": config, "name": call.segment.name, "relative": os.path.relpath(config, call.data.path),
        "up": f"{config.parent}/../{config.parent.name}/{config.name}",
    }  # fmt: skip
    filled = [argument.format(**facts) for argument in arguments]
    assert call(*(filled or ["-c"])).returncode == SLOW


@pytest.mark.parametrize("code", [126, 127, 255])
def test_a_broken_installation_is_an_ordinary_failure(call: Call, code: int) -> None:
    call.python.write_text(f"#!/bin/sh\nexit {code}\n")
    a_wiped_run_directory(call)
    assert call().returncode == 1


def test_no_installation_at_all_is_said_with_a_hint(call: Call, tmp_path: Path) -> None:
    lonely = tmp_path / SCRIPT.name
    shutil.copy(SCRIPT, lonely)
    a_wiped_run_directory(call)
    answer = call(script=lonely, PATH="/usr/bin:/bin")
    assert answer.returncode == 1
    assert "HINT: " in answer.stderr


def test_installed_in_a_virtual_environment_it_asks_its_python(call: Call, tmp_path: Path) -> None:
    binaries, site = tmp_path / "bin", tmp_path / "lib" / "python3.99" / "site-packages"
    binaries.mkdir()
    shutil.copytree(SCRIPT.parent.parent, site / "walkeeper")
    shutil.copy(SCRIPT, binaries)
    (binaries / "python3").symlink_to(sys.executable)
    a_wiped_run_directory(call)
    call.data.history()
    path = ":".join(sys.path)
    answer = call(
        "-c", str(call.data.config), "pg_wal/00000002.history", script=binaries / SCRIPT.name, PYTHONPATH=path,
    )  # fmt: skip
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "00000002.history" in call.data.objects()


def test_without_a_run_directory_it_looks_where_the_agent_does(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """In /run/walkeeper, else in our home: told from what it opens."""
    monkeypatch.delenv("WALKEEPER_RUN_DIR", raising=False)
    environment = {name: value for name, value in call.data.environment.items() if name != "WALKEEPER_RUN_DIR"}
    environment["HOME"] = str(call.data.run)
    monkeypatch.setattr(paths, "_homes", lambda environ: [environ["HOME"]])
    answer = subprocess.run(
        ["sh", "-x", str(SCRIPT), "-c", str(call.data.config), f"pg_wal/{call.segment.name}"],
        cwd=call.data.path, env={**environment, "WALKEEPER_PYTHON": str(call.python)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert answer.returncode == SLOW
    traced = SCRIPT.read_text().replace(" 2>/dev/null && exit 0", " && exit 0")
    copy = call.data.run / "traced"
    copy.write_text(traced)
    answer = subprocess.run(
        ["sh", "-x", str(copy), "-c", str(call.data.config), f"pg_wal/{call.segment.name}"],
        cwd=call.data.path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert f"run={paths.run_directory(environment)}\n" in answer.stderr
