"""Patroni's callbacks: a poke where an agent runs, an agent where none does, and no harm whatever happens (G11, G12, A11)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fixtures.worlds import wait_for
from walkeeper.control import paths
from walkeeper.control.callback import ACTIONS, ROLES
from walkeeper.control.server import AgentLock, ControlServer

ROOT: Final = Path(__file__).parents[2]
CALLBACK: Final = ROOT / "walkeeper" / "control" / "callback.py"
SCRIPTS: Final = ROOT / "patroni_callbacks"

# Stands for the agent: takes the lock and stays, or finds it taken and goes; writes down what it was started with.
FAKE_AGENT: Final = """
import os, sys, time
from pathlib import Path
from walkeeper.control import paths
from walkeeper.control.server import AgentLock
from walkeeper.errors import AgentError
run = Path(os.environ["WALKEEPER_RUN_DIR"])
with open(run / "started", "a") as log:
    log.write(f"{os.getpid()}\\n")
try:
    lock = AgentLock(Path(paths.lock_path(paths.socket_path(sys.argv[sys.argv.index("--config") + 1], os.environ))))
except AgentError as error:
    sys.exit(str(error))
facts = (os.getpid(), os.getppid(), os.getsid(0), os.getcwd(), *(os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)))
text = "\\n".join(str(fact) for fact in (*facts, *sys.argv[1:]))
(run / "running.new").write_text(text)
(run / "running.new").rename(run / "running")
time.sleep(60)
"""


class Node:
    """A run directory and a configuration; a fake agent, if one is started, is ended by its pid."""

    def __init__(self, directory: Path, run: Path) -> None:
        self.run = run
        self.config = directory / "patroni.yml"
        self.config.write_text("scope: demo\n")
        self.package = directory / "fake"
        (self.package / "walkeeper" / "control").mkdir(parents=True)
        for found in [*(ROOT / "walkeeper").iterdir(), *CALLBACK.parent.glob("*.py")]:
            if found.name not in ("control", "__main__.py", "callback.py", "spawn.py", "__pycache__"):
                (self.package / found.relative_to(ROOT)).symlink_to(found)
        for name in ("callback.py", "spawn.py"):  # they look for the package where they really lie
            (self.package / "walkeeper" / "control" / name).write_text((CALLBACK.parent / name).read_text())
        (self.package / "walkeeper" / "__main__.py").write_text(FAKE_AGENT)
        self.socket = Path(paths.socket_path(self.config, {"WALKEEPER_RUN_DIR": str(self.run)}))
        self.environ = {"WALKEEPER_RUN_DIR": str(self.run), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}

    def command(self, *arguments: str) -> list[str]:
        """The callback as Patroni runs it, in a package whose agent is the fake one."""
        callback = self.package / "walkeeper" / "control" / "callback.py"
        return [sys.executable, "-I", "-S", str(callback), str(self.config), *arguments]

    def call(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )

    def started(self) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            return [int(pid) for pid in (self.run / "started").read_text().split()]
        return []

    def running(self) -> list[str]:
        """What the agent that holds the lock wrote down."""
        wait_for((self.run / "running").exists)
        return (self.run / "running").read_text().split("\n")

    def end(self) -> None:
        settle = time.monotonic() + 10
        while any(alive(pid) for pid in self.started()) and time.monotonic() < settle:
            for pid in self.started():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    run = Path(tempfile.mkdtemp(prefix="wk"))  # short: the path of a socket is
    node = Node(tmp_path, run)
    yield node

    def gone() -> bool:
        """Whether no agent was just being started, which would have written into the directory."""
        node.end()
        shutil.rmtree(run, ignore_errors=True)
        return not run.exists()

    wait_for(gone)


@pytest.fixture
def pokes(node: Node) -> Iterator[list[dict[str, Any]]]:
    """An agent's socket, real, which collects what it is poked with."""
    seen: list[dict[str, Any]] = []

    def poke(request: dict[str, Any]) -> dict[str, Any]:
        seen.append(request)
        return {}

    lock = AgentLock(Path(paths.lock_path(str(node.socket))))
    server = ControlServer(node.socket, lock, {"poke": poke})
    server.open()
    thread = threading.Thread(target=server.run)
    thread.start()
    yield seen
    server.close()
    thread.join()
    lock.release()


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_pokes_the_running_agent(node: Node, pokes: list[dict[str, Any]], action: str) -> None:
    done = node.call(action, "replica", "demo")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait_for(lambda: len(pokes) == 1)
    assert pokes == [{"verb": "poke", "action": action, "role": "replica", "scope": "demo"}]
    assert node.started() == []


def test_each_role_that_patroni_has_used_is_passed_on_without_a_word(node: Node, pokes: list[dict[str, Any]]) -> None:
    for role in ROLES:
        assert node.call("on_role_change", role, "demo").stderr == ""
    wait_for(lambda: len(pokes) == len(ROLES))
    assert [poke["role"] for poke in pokes] == list(ROLES)


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        (("on_fire", "replica", "demo"), "unknown callback action 'on_fire'"),
        (("on_start", "emperor", "demo"), "unknown role 'emperor'"),
        (("on_start", 'a"\n\x1b\\', 'ü"\n'), r"""unknown role 'a"\n\x1b\\'"""),
    ],
)
def test_an_unknown_action_or_role_is_a_warning_and_still_a_poke(
    node: Node, pokes: list[dict[str, Any]], arguments: Sequence[str], warning: str
) -> None:
    done = node.call(*arguments)
    assert done.returncode == 0
    assert f"WARNING {warning}" in done.stderr
    assert done.stderr.count("\n") == 1
    wait_for(lambda: len(pokes) == 1)
    assert (pokes[0]["action"], pokes[0]["role"], pokes[0]["scope"]) == arguments


@pytest.mark.parametrize(
    "arguments", [(), ("on_start",), ("on_start", "replica"), ("a", "b", "c", "d"), ("on_start", "", "x")]
)
def test_a_wrong_call_is_told_how_and_changes_nothing(node: Node, arguments: Sequence[str]) -> None:
    done = node.call(*arguments)
    assert (done.returncode, done.stderr.split()[0]) == (2, "usage:")
    assert node.started() == []


def test_where_no_agent_runs_one_is_started_that_is_nobodys_child(node: Node) -> None:
    done = node.call("on_role_change", "primary", "demo")
    assert (done.returncode, done.stderr) == (0, "")
    pid, parent, session, directory, stdin, stdout, stderr, *arguments = node.running()
    assert arguments == ["agent", "--from-callback", "--config", str(node.config)]
    assert directory == "/"
    assert session not in (pid, str(os.getsid(0)))
    assert int(parent) != os.getpid()
    assert stdin == "/dev/null"
    assert stdout == stderr == paths.start_log_path(str(node.socket))


def test_of_ten_callbacks_at_once_one_agent_remains(node: Node) -> None:
    together = [
        subprocess.Popen(node.command("on_start", "replica", "demo"), env=node.environ, stderr=subprocess.PIPE)
        for _ in range(10)
    ]
    for process in together:
        _, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (0, b"")
    owner = int(node.running()[0])
    wait_for(lambda: len(node.started()) == 10 and sum(alive(pid) for pid in node.started()) == 1)
    assert alive(owner)


def test_a_callback_that_is_killed_at_any_moment_does_no_harm(node: Node) -> None:
    for delay in (0.0, 0.004, 0.008, 0.012, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05):
        with subprocess.Popen(node.command("on_start", "replica", "demo"), env=node.environ) as process:
            time.sleep(delay)
            process.kill()
    assert node.call("on_start", "replica", "demo").returncode == 0
    owner = int(node.running()[0])
    wait_for(lambda: [pid for pid in node.started() if alive(pid)] == [owner])


def test_an_agent_outlives_the_callback_whose_whole_tree_patroni_kills(node: Node) -> None:
    process = subprocess.Popen(node.command("on_start", "replica", "demo"), env=node.environ, start_new_session=True)
    owner = int(node.running()[0])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    assert alive(owner)


def test_an_agent_that_hangs_is_not_waited_for_and_not_doubled(node: Node) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hung:
        hung.bind(str(node.socket))
        hung.listen(1)
        for _ in range(5):
            began = time.monotonic()
            assert node.call("on_start", "replica", "demo").returncode == 0
            assert time.monotonic() - began < 40
    assert node.started() == []


def test_it_works_without_a_directory_a_home_a_path_a_locale_and_standard_descriptors(
    node: Node, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = 'cd "$0" && /bin/rmdir "$0" && exec "$@" <&- >&- 2>&-'
    done = subprocess.run(
        ["/bin/sh", "-c", script, str(gone), *node.command("on_start", "replica", "demo")],
        env={"WALKEEPER_RUN_DIR": str(node.run), "PATH": "", "PYTHONUTF8": "0", "LC_ALL": "C"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    _, _, _, directory, stdin, stdout, _, *_ = node.running()
    assert (directory, stdin) == ("/", "/dev/null")
    assert stdout == paths.start_log_path(str(node.socket))


def test_a_relative_configuration_in_a_directory_that_is_gone_is_a_warning(node: Node, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = node.command("on_start", "replica", "demo")
    command[4] = "patroni.yml"
    done = subprocess.run(
        ["/bin/sh", "-c", 'cd "$0" && /bin/rmdir "$0" && exec "$@"', str(gone), *command],
        env=node.environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "WARNING the agent was not told of 'on_start'" in done.stderr


def test_a_run_directory_that_cannot_be_used_is_a_warning(node: Node) -> None:
    node.environ["WALKEEPER_RUN_DIR"] = "relative"
    done = node.call("on_start", "replica", "demo")
    assert done.returncode == 0
    assert "WARNING the agent was not told" in done.stderr


def test_the_log_of_the_start_is_not_written_through_a_link(node: Node, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    Path(paths.start_log_path(str(node.socket))).symlink_to(tmp_path / "precious")
    node.call("on_start", "replica", "demo")
    assert node.running()[5] == "/dev/null"
    assert (tmp_path / "precious").read_text() == "keep"


@pytest.mark.parametrize("action", ACTIONS)
def test_each_script_pokes_the_agent(node: Node, pokes: list[dict[str, Any]], action: str) -> None:
    environ = {**node.environ, "WALKEEPER_PYTHON": sys.executable}
    done = subprocess.run(
        [str(SCRIPTS / action), str(node.config), action, "primary", "demo"],
        env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait_for(lambda: len(pokes) == 1)
    assert pokes[0]["action"] == action


def test_the_scripts_work_when_they_are_copied_to_elsewhere(
    node: Node, pokes: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The package is then found by that Python, not beside the scripts."""
    (tmp_path / "elsewhere").mkdir()
    for script in SCRIPTS.iterdir():
        copy = tmp_path / "elsewhere" / script.name
        copy.write_text(script.read_text())
        copy.chmod(0o755)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -I ] && shift\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        [str(tmp_path / "elsewhere" / "on_stop"), str(node.config), "on_stop", "demoted", "demo"],
        env={**node.environ, "WALKEEPER_PYTHON": str(python)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    wait_for(lambda: len(pokes) == 1)


def test_an_agent_that_cannot_start_says_why_beside_the_socket(node: Node) -> None:
    """The real agent this time, started by the real callback; its configuration names no store."""
    command = [sys.executable, "-I", "-S", str(CALLBACK), str(node.config), "on_start", "replica", "demo"]
    environ = {key: value for key, value in node.environ.items() if key != "PATH"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    log = Path(paths.start_log_path(str(node.socket)))
    wait_for(lambda: log.exists() and "HINT" in log.read_text())
    assert log.read_text().startswith(f"walkeeper: {node.config}: walkeeper.store: missing\nHINT: ")
