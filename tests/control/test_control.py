"""The control socket and the agent's lock: what a client may do, what it may cost, and who may ask (fault D7)."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.fixtures.worlds import wait_for
from walkeeper.agent.process import orders
from walkeeper.control import client, paths
from walkeeper.control import server as control
from walkeeper.control.server import AgentLock, ControlServer
from walkeeper.errors import AgentError, WrongCluster

ROOT = Path(__file__).parents[2]

Handlers: TypeAlias = Mapping[str, control.Handler]
Serve: TypeAlias = Callable[..., Path]


def _echo(request: dict[str, Any]) -> Mapping[str, Any]:
    return {"got": request}


def _refuse(_: dict[str, Any]) -> Mapping[str, Any]:
    raise WrongCluster("record: of another cluster", hint="Look.")


@pytest.fixture
def serve(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server; at the end it is closed and its thread has ended."""
    ends: list[Callable[[], None]] = []

    def serve(handlers: Handlers | None = None, *, client_seconds: float = 5.0) -> Path:
        lock = AgentLock(short_path / "a.lock")
        monkeypatch.setattr(control, "CLIENT_SECONDS", client_seconds)
        server = ControlServer(short_path / "a.sock", lock, handlers or {"echo": _echo, "refuse": _refuse})
        server.open()
        thread = threading.Thread(target=server.run)
        thread.start()

        def end() -> None:
            server.close()
            thread.join(30)
            assert not thread.is_alive()
            lock.release()

        ends.append(end)
        return short_path / "a.sock"

    yield serve
    for end in ends:
        end()


def raw(path: Path, data: bytes, *, close: bool = True, timeout: float = 60) -> dict[str, Any]:
    """Send bytes as they are, and read what comes back until the server hangs up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout)
        client.connect(str(path))
        try:
            client.sendall(data)
            if close:
                client.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has heard enough; its answer is still to be read
        reply = b""
        while not reply.endswith(b"\n") and (part := client.recv(65536)):
            reply += part
    answer: dict[str, Any] = json.loads(reply)
    return answer


def test_a_verb_is_answered_with_what_its_handler_returns(serve: Serve) -> None:
    path = serve()
    assert client.ask(str(path), "echo", 5, role="primary", odd='"\n\x1bü') == {
        "ok": True,
        "got": {"verb": "echo", "role": "primary", "odd": '"\n\x1bü'},
    }


def test_an_error_of_ours_becomes_the_answer_with_its_hint(serve: Serve) -> None:
    with pytest.raises(AgentError, match="record: of another cluster") as caught:
        client.ask(str(serve()), "refuse", 5)
    assert caught.value.hint == "Look."


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "not a line of JSON"),
        (b"\n", "not a line of JSON"),
        (b"\xff\xfe\n", "not a line of JSON"),
        (b"{}\n", "unknown verb None"),
        (b"[]\n", "unknown verb None"),
        (b'{"verb": ["echo"]}\n', "unknown verb ['echo']"),
        (b'{"verb": "frobnicate\\n\\u001b"}\n', r"unknown verb 'frobnicate\n\x1b'"),
        (b"[" * 60_000 + b"\n", "not a line of JSON"),
        (b'{"verb": "echo"', "not a line of JSON"),
        (b"x" * 70_000, "a line longer than 65536 bytes"),
        (b"x" * 70_000 + b"\n", "a line longer than 65536 bytes"),
    ],
)
def test_nonsense_is_answered_with_an_error_and_the_next_client_is_served(
    serve: Serve, data: bytes, expected: str
) -> None:
    path = serve()
    reply = raw(path, data)
    assert reply["ok"] is False
    assert expected in reply["error"]
    assert client.ask(str(path), "echo", 5)["ok"] is True


def test_an_endless_line_is_cut_off_after_64_kib(serve: Serve) -> None:
    path = serve()
    began = time.monotonic()
    assert "longer than" in raw(path, b"x" * 20_000_000, close=False)["error"]
    assert time.monotonic() - began < 20


def test_a_client_that_dribbles_is_cut_off_in_time_and_others_are_not_kept_waiting(serve: Serve) -> None:
    path = serve(client_seconds=1.0)
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow:
        slow.connect(str(path))
        slow.settimeout(0.05)
        reply = b""
        while not reply and time.monotonic() - began < 20:
            slow.send(b"x")
            assert client.ask(str(path), "echo", 5)["ok"] is True
            try:
                reply = slow.recv(4096)
            except TimeoutError:
                continue
    assert b"no whole line within 1 s" in reply
    assert time.monotonic() - began < 20


def test_a_client_that_never_reads_does_not_hold_its_place_for_ever(serve: Serve) -> None:
    path = serve({"much": lambda _: {"text": "x" * 2_000_000}}, client_seconds=0.3)
    with ExitStack() as open_ones:
        for _ in range(control.MAX_CLIENTS):
            deaf = open_ones.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            deaf.connect(str(path))
            deaf.sendall(b'{"verb": "much"}\n')

        def there_is_a_place() -> bool:
            try:
                return bool(json.loads(client.exchange(str(path), b"{}", 2))["error"] == "unknown verb None")
            except client.NoAnswer:  # the machine is busy
                return False

        wait_for(there_is_a_place)


def test_thirty_two_clients_at_once_are_served_and_more_are_refused_until_one_leaves(serve: Serve) -> None:
    path = serve()
    with ExitStack() as open_ones:
        idle = [open_ones.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) for _ in range(32)]
        for client in idle:
            client.connect(str(path))
        wait_for(lambda: "busy with 32 clients" in _answer(path))  # the last ones may still be on their way in
        idle[0].close()
        wait_for(lambda: '"ok": true' in _answer(path))


def test_five_hundred_clients_do_not_hurt_it(serve: Serve) -> None:
    path = serve()
    with ExitStack() as open_ones:
        for _ in range(500):
            client = open_ones.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.connect(str(path))
    wait_for(lambda: '"ok": true' in _answer(path))


def _answer(path: Path) -> str:
    return client.exchange(str(path), b'{"verb": "echo"}', 5).decode()


def test_a_client_that_leaves_before_its_answer_is_not_a_problem(serve: Serve) -> None:
    poked = threading.Event()

    def poke(_: dict[str, Any]) -> Mapping[str, Any]:
        poked.set()
        return {}

    path = serve({"poke": poke, "echo": _echo})
    client.tell(str(path), b'{"verb": "poke"}')
    assert poked.wait(30)
    assert client.ask(str(path), "echo", 5)["ok"] is True


def test_only_the_owner_may_touch_the_socket(serve: Serve) -> None:
    path = serve()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.with_name("a.lock").stat().st_mode) == 0o600
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["a.lock", "a.sock"]


def test_another_user_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    path = serve()
    monkeypatch.setattr("walkeeper.control.server.os.geteuid", lambda: 4_000_000)
    if os.getuid() == 0:
        pytest.skip("root may always ask")
    assert raw(path, b'{"verb": "echo"}\n')["error"] == "not for this user"


def test_a_socket_that_a_crash_left_is_replaced(short_path: Path, serve: Serve) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(short_path / "a.sock"))
    (short_path / "a.sock.new").touch()
    with pytest.raises(AgentError, match="no agent "):
        client.ask(str(short_path / "a.sock"), "echo", 5)
    assert client.ask(str(serve()), "echo", 5)["ok"] is True


@pytest.mark.parametrize(
    ("uid", "said", "hint"),
    [
        (1000, "no agent is running", "Start the agent"),
        (0, "no agent listens there, where root looks", "sudo -u postgres"),
    ],
)
def test_root_is_not_told_that_no_agent_runs_where_another_user_would_see_one(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, said: str, hint: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with pytest.raises(AgentError, match=said) as told:
        client.ask(str(short_path / "a.sock"), "status", 5)
    assert hint in told.value.hint


def test_who_finds_no_agent_is_told_what_the_last_one_said_that_a_callback_started(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = os.geteuid() or 1000
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    path = str(short_path / "a.sock")
    with pytest.raises(AgentError) as nobody:
        client.ask(path, "echo", 5)
    assert nobody.value.hint == "Start the agent: systemctl start walkeeper, or walkeeper agent --detach."
    Path(paths.start_log_path(path)).write_text("walkeeper: WALKEEPER_X: no such setting\nHINT: Did you mean Y?\n")
    with pytest.raises(AgentError) as said:
        client.ask(path, "echo", 5)
    assert said.value.hint.endswith("started said: walkeeper: WALKEEPER_X: no such setting HINT: Did you mean Y?")


def test_without_the_lock_no_socket_is_replaced(short_path: Path) -> None:
    lock = AgentLock(short_path / "a.lock")
    lock.release()
    (short_path / "a.sock").touch()
    with pytest.raises(AgentError, match="the agent's lock is not held"):
        ControlServer(short_path / "a.sock", lock, {}).open()
    assert (short_path / "a.sock").exists()


def test_closing_removes_only_its_own_socket(short_path: Path) -> None:
    lock = AgentLock(short_path / "a.lock")
    server = ControlServer(short_path / "a.sock", lock, {})
    server.open()
    (short_path / "a.sock").unlink()
    (short_path / "a.sock").write_text("somebody else's")
    server.close()
    assert (short_path / "a.sock").exists()
    lock.release()


def test_a_socket_that_cannot_be_made_is_an_error_of_ours(short_path: Path) -> None:
    with AgentLock(short_path / "a.lock") as lock:
        with pytest.raises(AgentError, match="no socket can be made there"):
            ControlServer(short_path / "missing" / "a.sock", lock, {}).open()
        with pytest.raises(AgentError, match="no socket can be made there: AF_UNIX path too long"):
            ControlServer(short_path / ("x" * 120), lock, {}).open()


def test_a_handlers_bug_reaches_the_excepthook_and_hangs_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BaseException | None] = []
    caught = threading.Event()

    def hook(args: threading.ExceptHookArgs) -> None:
        seen.append(args.exc_value)
        caught.set()

    monkeypatch.setattr(threading, "excepthook", hook)

    def broken(_: dict[str, Any]) -> Mapping[str, Any]:
        raise OSError("a bug")

    with pytest.raises(AgentError, match="hung up"):
        client.ask(str(serve({"broken": broken})), "broken", 5)
    assert caught.wait(30)
    assert str(seen[0]) == "a bug"


def test_an_answer_that_does_not_come_in_time_is_an_error(serve: Serve) -> None:
    release = threading.Event()

    def stuck(_: dict[str, Any]) -> Mapping[str, Any]:
        release.wait(60)
        return {}

    path = serve({"stuck": stuck})
    began = time.monotonic()
    with pytest.raises(AgentError, match="no answer in time"):
        client.ask(str(path), "stuck", 0.2)
    assert time.monotonic() - began < 40
    release.set()


def test_an_agent_that_hangs_does_not_hold_up_a_poke(short_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hung:
        hung.bind(str(short_path / "s"))
        hung.listen(1)
        began = time.monotonic()
        for _ in range(20):
            client.tell(str(short_path / "s"), b"{}")
        assert time.monotonic() - began < 40


@pytest.mark.parametrize("reply", [b"nonsense\n", b"[]\n", b"{}\n", b"\xff\n"])
def test_an_answer_that_is_none_is_an_error(short_path: Path, reply: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(short_path / "s"))
        listening.listen(1)

        def answer() -> None:
            client, _ = listening.accept()
            with client:
                client.recv(4096)
                client.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(AgentError, match="not understood"):
            client.ask(str(short_path / "s"), "echo", 5)
        thread.join()


# ------------------------------------------------------------------------------------------------------------ the lock


def test_a_second_agent_is_told_the_pid_of_the_first(short_path: Path) -> None:
    with AgentLock(short_path / "a.lock"), pytest.raises(AgentError) as caught:
        AgentLock(short_path / "a.lock")
    assert f"already running, pid {os.getpid()}" in str(caught.value)
    assert caught.value.exit_code == 1
    AgentLock(short_path / "a.lock").release()


def test_a_lock_ends_with_its_process_however_that_ends(short_path: Path) -> None:
    code = (
        "import sys, os, pathlib; from walkeeper.control.server import AgentLock\n"
        "lock = AgentLock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(short_path / "a.lock")],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(AgentError, match=f"pid {holder.pid}"):
            AgentLock(short_path / "a.lock")
        holder.kill()
        holder.wait()
        AgentLock(short_path / "a.lock").release()


def test_a_lock_that_is_a_link_or_cannot_be_made_is_refused(short_path: Path) -> None:
    (short_path / "target").touch()
    (short_path / "a.lock").symlink_to("target")
    for path in (short_path / "a.lock", short_path / "missing" / "a.lock"):
        with pytest.raises(AgentError, match="cannot be opened"):
            AgentLock(path)


# --------------------------------------------------------------------------------------------------- the run directory


def test_the_variable_names_the_run_directory(short_path: Path) -> None:
    environ = {"WALKEEPER_RUN_DIR": str(short_path)}
    socket_path = paths.socket_path("/etc/patroni.yml", environ)
    assert re.fullmatch(re.escape(str(short_path)) + r"/patroni\.yml-[0-9a-f]{8}\.sock", socket_path)
    assert paths.lock_path(socket_path) == socket_path.removesuffix(".sock") + ".lock"
    with pytest.raises(paths.RunDirectoryError, match="not an absolute path"):
        paths.run_directory({"WALKEEPER_RUN_DIR": "run"})


def test_the_systems_run_directory_is_taken_if_it_may_be_written(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "SYSTEM", str(short_path))
    assert paths.run_directory({}) == str(short_path)


def test_each_configuration_has_a_socket_of_its_own_however_it_is_spelt(short_path: Path) -> None:
    environ = {"WALKEEPER_RUN_DIR": str(short_path)}
    for name in ("a", "b"):
        (short_path / name).mkdir()
        (short_path / name / "patroni.yml").touch()
    (short_path / "link.yml").symlink_to("a/patroni.yml")
    first = paths.socket_path(short_path / "a" / "patroni.yml", environ)
    assert paths.socket_path(short_path / "b" / ".." / "a" / "patroni.yml", environ) == first
    assert paths.socket_path(short_path / "link.yml", environ) == first
    assert paths.socket_path(short_path / "b" / "patroni.yml", environ) != first


def test_a_config_map_that_is_updated_keeps_its_socket(short_path: Path) -> None:
    environ = {"WALKEEPER_RUN_DIR": str(short_path)}
    for version in ("..2026_01", "..2026_02"):
        (short_path / version).mkdir()
        (short_path / version / "patroni.yml").touch()
    (short_path / "patroni.yml").symlink_to("..data/patroni.yml")
    (short_path / "..data").symlink_to("..2026_01")
    before = paths.socket_path(short_path / "patroni.yml", environ)
    (short_path / "..data").unlink()
    (short_path / "..data").symlink_to("..2026_02")
    assert paths.socket_path(short_path / "patroni.yml", environ) == before


def test_a_long_or_odd_name_still_fits_into_a_socket_address() -> None:
    environ = {"WALKEEPER_RUN_DIR": "/run/walkeeper"}
    path = paths.socket_path(f"/etc/{'long' * 50}é\n.yml", environ)
    assert path.isprintable()
    assert path.isascii()
    assert len(path) < 100
    with pytest.raises(paths.RunDirectoryError, match="too long for the path of a socket"):
        paths.socket_path("/etc/patroni.yml", {"WALKEEPER_RUN_DIR": f"/{'x' * 90}"})


def test_a_private_directory_is_made_for_us_alone(short_path: Path) -> None:
    path = short_path / "run"
    assert paths.own_directory(str(path)) == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert paths.own_directory(str(path)) == str(path)


NOBODY = 65534


def give_away(path: Path) -> None:
    """What is root's own is believed: as root it becomes somebody else's."""
    if os.geteuid() == 0:
        os.chown(path, NOBODY, -1)


def test_a_directory_that_others_may_have_made_is_refused(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (short_path / "real").mkdir(mode=0o700)
    (short_path / "link").symlink_to("real")
    (short_path / "file").touch()
    (short_path / "open").mkdir()
    (short_path / "open").chmod(0o770)
    for name, reason in (("link", "not a directory"), ("file", "not a directory"), ("open", "its mode is 0770")):
        with pytest.raises(paths.RunDirectoryError, match=reason):
            paths.own_directory(str(short_path / name))
    give_away(short_path / "real")
    monkeypatch.setattr("walkeeper.control.paths.os.geteuid", lambda: 4_000_000)
    with pytest.raises(paths.RunDirectoryError, match="it belongs to uid"):
        paths.own_directory(str(short_path / "real"))


def test_asking_and_finding_the_socket_need_no_more_than_built_in_modules() -> None:
    code = "import sys; sys.path.append(sys.argv[1]); import walkeeper.control.client, walkeeper.control.paths; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT)], capture_output=True, text=True, check=True
    )
    assert {"json", "re", "socket", "typing", "pathlib", "enum", "logging", "argparse"} & set(
        done.stdout.split()
    ) == set()


def test_nobody_else_may_write_the_run_directory_nor_a_directory_on_its_path(short_path: Path) -> None:
    run = short_path / "a" / "run"
    run.mkdir(parents=True, mode=0o700)
    environ = {"WALKEEPER_RUN_DIR": str(run)}
    assert paths.run_directory(environ) == str(run)  # below /tmp, which is everybody's, and sticky
    for directory in (run, run.parent):
        for mode in (0o770, 0o707):
            directory.chmod(mode)
            with pytest.raises(paths.RunDirectoryError, match=f"{directory}: its mode is {mode:04o}"):
                paths.run_directory(environ)
        directory.chmod(0o700)
    run.parent.chmod(0o1777)
    assert paths.run_directory(environ) == str(run)
    run.chmod(0o1777)
    with pytest.raises(paths.RunDirectoryError, match="its mode is 1777"):
        paths.run_directory(environ)


def test_a_link_on_the_way_to_the_run_directory_must_lead_where_nobody_else_may_write(short_path: Path) -> None:
    (short_path / "real" / "run").mkdir(parents=True, mode=0o700)
    (short_path / "link").symlink_to("real")
    environ = {"WALKEEPER_RUN_DIR": str(short_path / "link" / "run")}
    assert paths.run_directory(environ) == environ["WALKEEPER_RUN_DIR"]
    (short_path / "real").chmod(0o777)
    with pytest.raises(paths.RunDirectoryError, match="its mode is 0777"):
        paths.run_directory(environ)


def test_without_a_systems_directory_it_is_in_our_home_and_another_users_one_is_refused(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "SYSTEM", "/nowhere")
    monkeypatch.setattr(paths, "_homes", lambda _: ["/nowhere", str(short_path)])
    found = Path(paths.run_directory({}))
    assert found == short_path / ".walkeeper" / os.uname().nodename
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    give_away(found.parent)
    monkeypatch.setattr("walkeeper.control.paths.os.geteuid", lambda: 4_000_000)
    with pytest.raises(paths.RunDirectoryError, match="it belongs to uid"):
        paths.run_directory({})
    monkeypatch.setattr(paths, "_homes", lambda _: ["/nowhere"])
    with pytest.raises(paths.RunDirectoryError, match="no home that it may write"):
        paths.run_directory({})


def test_who_listens_for_another_user_is_nobody(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(short_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            listener.listen()  # whose it is, the kernel knows from here on
        finally:
            if root:
                os.seteuid(0)
        client.tell(path, b"{}")
        monkeypatch.setattr("walkeeper.control.client.os.geteuid", lambda: 4_000_000)
        for attempt in (lambda: client.exchange(path, b"{}", 5), lambda: client.tell(path, b"{}")):
            with pytest.raises(client.NoAnswer, match="listens there, which is not this user") as problem:
                attempt()
            assert not problem.value.listening


def test_a_socket_and_a_lock_that_were_removed_are_made_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LOOK_SECONDS", 0.05)
    path = serve()
    lock = path.with_suffix(".lock")
    for left in path.parent.iterdir():
        left.unlink()
    wait_for(path.exists)
    assert client.ask(str(path), "echo", 5)["ok"] is True
    with pytest.raises(AgentError, match=f"already running, pid {os.getpid()}"):
        AgentLock(lock)


def test_an_agent_of_a_version_without_the_order_is_ended_as_the_hint_says(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = serve()  # 0.1.0 knew neither stop nor reload
    monkeypatch.setattr(paths, "socket_path", lambda *_: str(path))
    with pytest.raises(AgentError, match=r"older version.*'stop'") as raised:
        orders.stop(Path("patroni.yml"))
    assert raised.value.hint.startswith("kill PID")
