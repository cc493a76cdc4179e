"""walkeeper-restore-wal, what PostgreSQL runs: the segment that lies ready, and the exits that it must never make up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.values import plain_segment
from tests.fixtures.restoring import PLAIN, SCRIPT, SEGMENT, SYSTEM, Node, answering, link, ready
from tests.parts.processes import wait_until
from walkeeper.core.history import History
from walkeeper.core.names import Segment

NOBODY = str(Path("/nonexistent/python"))
FOLLOWING = [Segment(1, SEGMENT.number + ahead, SEGMENT.size) for ahead in (1, 2, 3)]
SERVER = ("postmaster.pid", "standby.signal")


@pytest.fixture
def node(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node(short_path, monkeypatch)
    for segment in FOLLOWING:
        node.archive.archive_segment(segment, plain_segment(segment, SYSTEM), History(1))
    return node


@pytest.fixture
def agent(node: Node) -> Iterator[Node]:
    with answering(node):
        yield node


def wait_ready(node: Node, *segments: Segment) -> None:
    names = [segment.name for segment in segments]
    wait_until(lambda: ready(node) == names, f"{names} ready")


# ------------------------------------------------------------------------------------------------------ what lies ready


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_what_lies_ready_is_put_in_place_without_python(agent: Node, shell: str) -> None:
    agent.server(SERVER)
    assert agent.shell().returncode == 0
    wait_ready(agent, *FOLLOWING)
    done = agent.shell(FOLLOWING[0].name, python=NOBODY, shell=shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert (agent.data / "pg_wal" / "RECOVERYXLOG").read_bytes() == plain_segment(FOLLOWING[0], SYSTEM)
    assert agent.files == ["RECOVERYXLOG"]
    wait_ready(agent, *FOLLOWING[1:])


def test_p6_what_an_earlier_server_left_is_never_looked_at(agent: Node) -> None:
    agent.server(SERVER)
    assert agent.shell().returncode == 0
    wait_ready(agent, *FOLLOWING)
    (agent.data / "postmaster.pid").write_text(f"{os.getpid()}\n{agent.data}\n1700000001\n")
    (agent.data / "pg_wal" / "RECOVERYXLOG").unlink()
    assert agent.shell(FOLLOWING[0].name, python=NOBODY).returncode == 2
    assert agent.files == []


def test_only_a_server_in_its_own_data_directory_is_given_what_lies_ready(agent: Node) -> None:
    """pg_rewind has a whole path, and may be called in another server's data directory."""
    agent.server(SERVER)
    assert agent.shell().returncode == 0
    wait_ready(agent, *FOLLOWING)
    elsewhere = agent.data.parent / "other"
    shutil.copytree(agent.data, elsewhere, ignore=lambda *_: ["postmaster.pid"])
    done = subprocess.run(
        ["sh", SCRIPT, "-c", agent.config, FOLLOWING[0].name, elsewhere / "pg_wal" / "x"],
        cwd=agent.data, env={**os.environ, "WALKEEPER_PYTHON": NOBODY}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert ready(agent) == [segment.name for segment in FOLLOWING]


def test_where_a_rename_does_not_reach_pg_wal_the_shell_finds_nothing_and_the_client_copies(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("walkeeper.restore.cache._mount", lambda directory: (str(directory), 0))
    node.server(SERVER)
    with answering(node):
        assert node.shell().returncode == 0
        cache = node.data.with_name("data.walkeeper") / "restore"
        wait_until(lambda: len([*cache.glob("*/0*")]) == 3, "three ready")
        assert link(node) is None
        asked = len(node.store.calls)
        assert node.shell(FOLLOWING[0].name).returncode == 0
        assert len(node.store.calls) == asked or node.store.calls[asked][1].count(FOLLOWING[0].name) == 0
    assert node.files == ["RECOVERYXLOG"]
    assert not cache.exists()


def test_a_directory_at_the_destination_is_not_moved_into(agent: Node) -> None:
    agent.server(SERVER)
    assert agent.shell().returncode == 0
    wait_ready(agent, *FOLLOWING)
    (agent.data / "pg_wal" / "RECOVERYXLOG").unlink()
    (agent.data / "pg_wal" / "RECOVERYXLOG").mkdir()
    assert agent.shell(FOLLOWING[0].name, python=NOBODY).returncode == 2
    assert list((agent.data / "pg_wal" / "RECOVERYXLOG").iterdir()) == []


# ----------------------------------------------------------------------------------------------------------------- exits


def test_absent_is_1_and_delivered_is_0(agent: Node) -> None:
    agent.server(SERVER)
    assert agent.shell("00000002.history").returncode == 1
    assert agent.shell().returncode == 0
    assert (agent.data / "pg_wal" / "RECOVERYXLOG").read_bytes() == PLAIN


PYTHONS = {
    "missing": None,
    "not executable": "x",
    "of no format": "\0\0\0\0",
    "exits 1": "#!/bin/sh\nexit 1\n",
    "exits 0": "#!/bin/sh\nexit 0\n",
    "exits 127": "#!/bin/sh\nexit 127\n",
    "is killed": "#!/bin/sh\nkill -9 $$\n",
    "aborts": "#!/bin/sh\nkill -6 $$\n",
    "has no library": f"#!/bin/sh\nPYTHONHOME=/nonexistent exec {sys.executable} -c 0\n",
    "short of memory": f'#!/bin/sh\nulimit -v 20000\nexec {sys.executable} "$@"\n',
}


@pytest.mark.parametrize("how", PYTHONS)
@pytest.mark.parametrize(("signals", "expected"), [(("recovery.signal",), 255), (("standby.signal",), 2)])
@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_p6_whatever_python_does_is_neither_0_nor_1(
    node: Node, how: str, signals: tuple[str, ...], expected: int, shell: str
) -> None:
    node.server(("postmaster.pid", *signals))
    python = node.data.parent / "python"
    text = PYTHONS[how]
    if text is not None:
        python.write_text(text)
        python.chmod(0o644 if how == "not executable" else 0o755)
    assert node.shell(python=str(python), shell=shell).returncode == expected
    assert node.files == []


@pytest.mark.parametrize("arguments", [[], ["-c"], ["-c", "x"], ["a"], ["a", "b", "c"], ["-c", "x", "y"]])
@pytest.mark.parametrize(("signals", "expected"), [(("recovery.signal",), 255), (("standby.signal",), 2), ((), 2)])
def test_p6_a_wrong_call_is_neither_0_nor_1(
    tmp_path: Path, arguments: list[str], signals: tuple[str, ...], expected: int
) -> None:
    for name in signals:
        (tmp_path / name).touch()
    for shell in ("dash", "bash"):
        done = subprocess.run([shell, SCRIPT, *arguments], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == expected


def test_p6_a_shell_that_cannot_fork_stops_a_recovery(node: Node) -> None:
    """dash ends with 2 then, which would end the recovery instead."""
    node.server(("postmaster.pid", "recovery.signal"))
    limited = f"ulimit -p 1; . {SCRIPT}" if os.geteuid() else ""
    if not limited:
        pytest.skip("root has no such limit")
    done = subprocess.run(
        ["dash", "-c", limited, str(SCRIPT), "-c", str(node.config), SEGMENT.name, "pg_wal/RECOVERYXLOG"],
        cwd=node.data, env={**os.environ, "WALKEEPER_PYTHON": sys.executable}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "ork" in done.stderr
    assert done.returncode == 255


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_h8_a_death_by_sigterm_looks_like_one(node: Node, shell: str) -> None:
    """Of the whole group, as PostgreSQL does it, of the shell alone, and of the client alone."""
    node.server(SERVER)
    python = node.data.parent / "python"
    python.write_text("#!/bin/sh\necho $$ > started\nexec sleep 60\n")
    python.chmod(0o755)
    for whom in ("group", "shell", "client"):
        (node.data / "started").unlink(missing_ok=True)
        process = subprocess.Popen(
            [shell, SCRIPT, "-c", node.config, SEGMENT.name, "pg_wal/RECOVERYXLOG"],
            cwd=node.data, env={**os.environ, "WALKEEPER_PYTHON": str(python)}, start_new_session=True,
        )  # fmt: skip
        wait_until((node.data / "started").exists, "the client")
        wait_until(lambda: (node.data / "started").read_text().endswith("\n"), "its pid")
        client = int((node.data / "started").read_text())
        if whom == "group":
            os.killpg(process.pid, signal.SIGTERM)
        else:
            os.kill(process.pid if whom == "shell" else client, signal.SIGTERM)
        if whom == "shell" and shell == "bash":
            os.kill(client, signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
        if whom == "shell" and shell == "dash":
            os.kill(client, signal.SIGTERM)


def test_it_finds_the_python_and_the_package_that_it_was_installed_with(tmp_path: Path, agent: Node) -> None:
    """As pip lays them out; by way of a link, as people make them."""
    agent.server(SERVER)
    environment = tmp_path / "venv"
    packages = environment / "lib" / "python3.99" / "site-packages"
    packages.mkdir(parents=True)
    (environment / "bin").mkdir()
    shutil.copytree(SCRIPT.parents[1], packages / "walkeeper")
    shutil.copy(SCRIPT, environment / "bin")
    (environment / "bin" / "walkeeper").write_text(f"#!{sys.executable}\nraise SystemExit(1)\n")
    (tmp_path / "link").symlink_to(environment / "bin" / SCRIPT.name)
    environ = {name: value for name, value in os.environ.items() if name not in ("WALKEEPER_PYTHON", "PYTHONPATH")}
    done = subprocess.run(
        [tmp_path / "link", "-c", agent.config, SEGMENT.name, "pg_wal/RECOVERYXLOG"],
        cwd=agent.data, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_name_of_the_run_directory_that_is_not_ours_to_make_is_not_made(agent: Node) -> None:
    agent.server(SERVER)
    for asked in ("/tmp/ready/x", str(agent.lock), "ready/x", str(agent.lock.parent / "ready" / ".."), 5):
        reply = agent.restoring.answer(
            {"file": SEGMENT.name, "destination": str(agent.data / "pg_wal" / "x"), "pid": os.getpid(), "ready": asked}
        )
        assert reply["delivered"] is True
        assert not agent.lock.is_symlink()
        assert link(agent) is None


SERVER_OF_ITS_OWN = "import os, subprocess, sys; os.setsid(); subprocess.run(sys.argv[1:])"


def test_the_orphan_of_a_killed_server_delivers_nothing_whatever_shells_lie_between(node: Node, tmp_path: Path) -> None:
    """They live on, and wait for what they have started. The server may be back, and wait for another file."""
    node.server(("recovery.signal", "postmaster.pid"))
    asked, answer = threading.Event(), threading.Event()

    def hold(method: str, _: str) -> None:
        if method == "get":
            asked.set()
            answer.wait(60)

    node.store.before = hold
    node.configure(deadline="1min")
    log = tmp_path / "log"
    command = ["sh", str(SCRIPT), "-c", str(node.config), SEGMENT.name, "pg_wal/RECOVERYXLOG"]
    with answering(node), log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER_OF_ITS_OWN, *command],
            cwd=node.data, env={**os.environ, "WALKEEPER_PYTHON": sys.executable}, stderr=output,
        )  # fmt: skip
        assert asked.wait(60)
        server.kill()
        server.wait()
        answer.set()
        wait_until(lambda: "is gone" in log.read_text(), "the orphan's end", logs=[log])
    assert "RECOVERYXLOG" not in node.files
