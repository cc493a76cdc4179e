"""``walkeeper agent`` as the process that it is: signals, locks, outages at its start, and what it must never show."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import yaml

from tests.fixtures.agents import Machine, command_line, end, environment_of
from tests.fixtures.worlds import prepare
from tests.parts.binaries import all_postgres
from tests.parts.etcd import Etcd
from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, Postgres
from tests.parts.processes import free_port, new_directory, wait_until
from tests.parts.proxy import Proxy
from walkeeper.agent.process import connects, run
from walkeeper.agent.process.notify import Notifier
from walkeeper.config import Config, load
from walkeeper.errors import AgentError

pytestmark = pytest.mark.postgres
_serial = itertools.count(1)
_LOOKS_OFTEN = (
    "import sys, walkeeper.agent.process.run as run; run.CONNECTS_SECONDS = 0.2; "
    "from walkeeper.cli.main import main; sys.exit(main())"
)
"""At whether the files say otherwise how to connect."""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres(new_directory("m") / "pg", auth="scram-sha-256") as running:
        prepare(running)
        yield running


@pytest.fixture
def machine(server: Postgres, etcd: Etcd) -> Iterator[Machine]:
    """In a cluster of its own."""
    with closing(Machine(f"cluster{next(_serial)}", server, etcd)) as made:
        yield made


# ------------------------------------------------------------------------------------------------------- how it ends


def test_a13_sigterm_ends_it_with_0_and_pg_receivewal_with_it(machine: Machine) -> None:
    agent = machine.start()
    machine.wait_owned()
    machine.wait_archived()
    assert machine.receivers()
    begun = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - begun < 20
    assert not machine.receivers()
    assert not Path(machine.socket).exists()
    assert "agent_stopped code=0" in machine.log.read_text()


@pytest.mark.parametrize("what", ["store", "dcs", "postgresql"])
def test_sigterm_ends_it_within_seconds_whatever_hangs(machine: Machine, what: str) -> None:
    machine.start().stop()  # the store is probed and prepared
    program = None
    if what == "store":
        program = (
            "import sys, time; from walkeeper.store.directory import DirectoryStore as Store\n"
            "create = Store.create\n"
            "Store.create = lambda self, key, *rest: time.sleep(600) if '/wal/' in key else create(self, key, *rest)\n"
            "from walkeeper.cli.main import main; sys.exit(main())"
        )
    agent = machine.start(program=program)
    machine.wait_owned()
    wait_until(machine.receivers, "pg_receivewal")
    if what == "dcs":
        machine.etcd.freeze()
    elif what == "postgresql":
        machine.server.host.pause()
    else:
        machine.server.complete_segments(2)
    try:
        time.sleep(1)
        begun = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - begun < 20
        assert not machine.receivers()
    finally:
        machine.etcd.thaw()
        machine.server.host.resume()


def test_a14_a_storm_of_signals_does_no_harm(machine: Machine) -> None:
    agent = machine.start()
    machine.wait_owned()
    for _ in range(50):
        agent.send(signal.SIGHUP)
        time.sleep(0.002)
    machine.wait_archived()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        agent.send(number)
    assert agent.wait(60) == 0
    assert "Traceback" not in machine.log.read_text()


def test_a8_a_killed_agent_takes_pg_receivewal_along_and_the_next_one_goes_on(machine: Machine) -> None:
    agent = machine.start()
    machine.wait_owned()
    wait_until(machine.receivers, "pg_receivewal")
    agent.send(signal.SIGKILL)
    agent.wait()
    wait_until(lambda: not machine.receivers(), "the end of pg_receivewal")
    assert Path(machine.socket).exists()  # A17: what a crash leaves is replaced
    before = machine.server.complete_segments(2)
    agent = machine.start()
    machine.wait_archived()
    assert set(before) <= set(machine.stored())
    assert machine.report() is not None
    assert agent.stop() == 0


@pytest.mark.parametrize("thread", ["stream", "commit", "control"])
def test_a18_a_thread_that_dies_ends_the_process(machine: Machine, thread: str) -> None:
    patch = {
        "stream": "import walkeeper.agent.archiver.archiver as m; m.Archiver._hand_out = bug",
        "commit": "import walkeeper.agent.archiver.commit as m; m.Commit._write_record = bug",
        "control": "import walkeeper.control.server as m; m.ControlServer._admit = bug",
    }[thread]
    agent = machine.start(
        program="import sys\ndef bug(*_): raise KeyError('a bug')\n"
        f"{patch}\nfrom walkeeper.cli.main import main; sys.exit(main())"
    )
    if thread == "control":
        wait_until(lambda: Path(machine.socket).exists(), "the socket")
        assert machine.report() is None
    assert agent.wait(60) == 1
    died = machine.says("thread_died")
    assert len(died) == 1
    assert f"thread={thread} " in died[0]
    assert "a bug" in died[0]
    assert "HINT" in died[0]
    assert not machine.receivers()


# ------------------------------------------------------------------------------------------------------ configuration


def test_sighup_takes_up_a_changed_configuration_and_keeps_the_old_one_for_a_broken(machine: Machine) -> None:
    agent = machine.start()
    machine.wait_owned()
    wait_until(machine.receivers, "pg_receivewal")
    (old,) = machine.receivers()
    agent.send(signal.SIGHUP)
    machine.wait_says("reloaded changed=False")
    assert machine.receivers() == {old}
    port = free_port()
    machine.configure(listen=f"127.0.0.1:{port}", log_level="debug")
    agent.send(signal.SIGHUP)
    machine.wait_says("reloaded changed=True")
    wait_until(lambda: answers(port), "metrics")
    machine.wait_archived()
    good = machine.config.read_text()
    for number, broken in enumerate(
        (
            good.replace("poll_interval: 200ms", "poll_interval: soon"),
            good.replace("etcd3:", "no_dcs:"),
            good.replace("walkeeper:", "walkeeper:\n  encryption: {recipients: [age1" + "q" * 58 + "]}"),
            "",
        ),
        1,
    ):
        machine.config.write_text(broken)
        agent.send(signal.SIGHUP)
        wait_until(lambda wanted=number: len(machine.says("ERROR reload_failed")) == wanted, "reload_failed")  # type: ignore[misc]
    machine.wait_archived()
    machine.config.write_text(good)
    assert answers(port)
    assert agent.stop() == 0
    assert len(machine.says("agent_started")) == 2


def test_sighup_notices_what_only_patroni_s_part_says(machine: Machine) -> None:
    agent = machine.start()
    machine.wait_owned()
    with Etcd(name="other") as other:
        machine.patroni["etcd3"] = {"host": other.host}
        machine.configure()
        agent.send(signal.SIGHUP)
        machine.wait_says("reloaded changed=True")
        other.put(f"/service/{machine.scope}/leader", "a")
        wait_until(lambda: other.get(f"/service/{machine.scope}/walkeeper"), "a record there", logs=[machine.log])
        assert agent.stop() == 0


def test_sighup_waits_for_threads_that_hang_before_others_take_the_spool(machine: Machine) -> None:
    begin, hangs, go_on = (machine.directory / name for name in ("begin", "hangs", "go-on"))
    agent = machine.start(
        program="import sys, time; from pathlib import Path; from walkeeper.store.directory import DirectoryStore as Store\n"
        "create = Store.create\n"
        "def slow(self, key, *rest):\n"
        f"    if '/wal/' in key and Path({str(begin)!r}).exists():\n"
        f"        Path({str(hangs)!r}).touch()\n"
        f"        while not Path({str(go_on)!r}).exists(): time.sleep(0.05)\n"
        "    create(self, key, *rest)\n"
        "Store.create = slow\n"
        "from walkeeper.cli.main import main; sys.exit(main())"
    )
    machine.wait_owned()
    wait_until(machine.receivers, "pg_receivewal")
    machine.configure(poll_interval="300ms", stop_timeout="200ms")
    begin.touch()
    machine.server.complete_segments(2)
    wait_until(hangs.exists, "an upload that hangs")
    agent.send(signal.SIGHUP)
    machine.wait_says("reloaded changed=True")
    assert len(machine.says("agent_started")) == 1
    go_on.touch()
    machine.wait_archived(1)
    assert len(machine.says("agent_started")) == 2
    assert agent.stop() == 0


def test_after_sighup_threads_that_hang_for_ever_end_the_process(machine: Machine) -> None:
    hangs, go_on = str(machine.directory / "hangs"), str(machine.directory / "go-on")  # what there is before is stored
    agent = machine.start(
        program="import os, sys, time, walkeeper.agent.process.run as run; from walkeeper.store.directory import DirectoryStore\n"
        "run.STUCK_SECONDS = 1\n"
        "create = DirectoryStore.create\n"
        "DirectoryStore.create = lambda self, key, *rest: (\n"
        f"    (open({hangs!r}, 'w'), time.sleep(600)) if '/wal/' in key and os.path.exists({go_on!r}) else create(self, key, *rest))\n"
        "from walkeeper.cli.main import main; sys.exit(main())"
    )
    machine.wait_owned()
    wait_until(machine.receivers, "pg_receivewal")
    machine.configure(poll_interval="300ms", stop_timeout="200ms")
    Path(go_on).touch()
    machine.server.complete_segments(1)
    wait_until(Path(hangs).exists, "an upload that hangs")
    agent.send(signal.SIGHUP)
    assert agent.wait(60) == 1
    assert "threads=upload-" in machine.says("ERROR threads_stuck")[0].replace('"', "")


def test_p10_an_archiver_that_does_not_end_ends_the_process(machine: Machine) -> None:
    """Otherwise no takeover would ever come, and nobody would hear of it."""
    hangs, go_on = str(machine.directory / "hangs"), str(machine.directory / "go-on")  # what there is before is stored
    machine.configure(poll_interval="300ms", stop_timeout="200ms")
    agent = machine.start(
        program="import os, sys, time, walkeeper.agent.agent as m; from walkeeper.store.directory import DirectoryStore\n"
        "m.STUCK_SECONDS = 1\n"
        "create = DirectoryStore.create\n"
        "DirectoryStore.create = lambda self, key, *rest: (\n"
        f"    (open({hangs!r}, 'w'), time.sleep(600)) if '/wal/' in key and os.path.exists({go_on!r}) else create(self, key, *rest))\n"
        "from walkeeper.cli.main import main; sys.exit(main())"
    )
    machine.wait_owned()
    wait_until(machine.receivers, "pg_receivewal")
    Path(go_on).touch()
    machine.server.complete_segments(1)
    wait_until(Path(hangs).exists, "an upload that hangs")
    assert machine.record is not None
    another = msgspec.structs.replace(machine.record, session="another's")
    machine.etcd.put(f"/service/{machine.scope}/walkeeper", another.encode())
    assert agent.wait(30) == 1
    (said,) = machine.says("ERROR threads_stuck")
    assert "threads=upload-" in said.replace('"', "")
    assert "write.py:" in said


def test_sighup_opens_the_log_anew(machine: Machine) -> None:
    log = machine.directory / "agent.log"
    machine.configure(log_file=str(log))
    agent = machine.start()
    machine.wait_says("agent_started", log=log)
    log.rename(machine.directory / "rotated.log")
    agent.send(signal.SIGHUP)
    machine.wait_says("reloaded", log=log)
    assert agent.stop() == 0


def test_a_log_that_cannot_be_written_is_refused_at_the_start_and_at_a_reload(machine: Machine) -> None:
    machine.configure(log_file=str(machine.directory / "missing" / "agent.log"))
    assert machine.start().wait(60) == 2
    assert "missing/agent.log: the log cannot be written" in machine.log.read_text()
    assert "HINT" in machine.log.read_text()
    del machine.walkeeper["agent"]["log_file"]
    machine.configure()
    agent = machine.start()
    machine.wait_owned()
    machine.configure(log_file=str(machine.directory / "missing" / "agent.log"))
    agent.send(signal.SIGHUP)
    machine.wait_says("ERROR reload_failed")
    machine.wait_archived()
    assert agent.stop() == 0


# ------------------------------------------------------------------------------------------------- one agent, any start


def test_a16_a_second_agent_exits_with_1_and_names_the_first(machine: Machine) -> None:
    agent = machine.start()
    machine.wait_ready()
    second = machine.start()
    assert second.wait(60) == 1
    assert f"an agent is already running, pid {agent.pid}" in machine.log.read_text()
    again = subprocess.run(
        [sys.executable, "-m", "walkeeper", "-c", machine.config, "agent", "--detach"],
        env=machine.host.environment(machine.environment()), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert again.returncode == 1
    assert f"already running, pid {agent.pid}" in again.stderr
    assert machine.report() is not None
    assert agent.stop() == 0


def test_two_configurations_do_not_share_a_spool(machine: Machine) -> None:
    agent = machine.start()
    machine.wait_ready()
    other = machine.config.with_name("other.yml")
    other.write_text(machine.config.read_text())
    other.chmod(0o600)
    machine.config = other
    assert machine.start().wait(60) == 1
    assert f"spool/lock: an agent is already running, pid {agent.pid}" in machine.log.read_text()
    assert agent.stop() == 0


def test_detach_returns_when_a_daemon_works(machine: Machine) -> None:
    starter = machine.start("--detach")
    assert starter.wait(60) == 0
    found = machine.report()
    assert found is not None
    pid = found["agent"]["pid"]
    log = machine.spool / "agent.log"
    assert machine.says("agent_started", log)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert os.getsid(pid) != pid  # so that it never gets a terminal
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])  # starts it again if it dies
    for process in (pid, parent):
        assert {str(Path(f"/proc/{process}/fd/{fd}").readlink()) for fd in range(3)} == {"/dev/null"}
    machine.wait_archived()
    end(pid)
    assert machine.says("agent_stopped code=0", log)


def told(machine: Machine, *arguments: str) -> str:
    """What ``walkeeper agent`` says with these; it must exit 0."""
    command = [sys.executable, "-m", "walkeeper", "agent", "-c", machine.config, *arguments]
    return machine.host.run(command, env=machine.environment())


def test_without_a_service_manager_it_is_stopped_reloaded_and_started_again_by_its_own_command(
    machine: Machine,
) -> None:
    assert "No agent runs" in told(machine, "--stop")
    told(machine, "--detach")
    first = machine.wait_ready()["agent"]["pid"]
    machine.configure(poll_interval="300ms")
    told(machine, "--reload")
    machine.wait_says("reloaded changed=True", log=machine.spool / "agent.log")

    def restarted() -> bool:
        """Its socket is away for a moment while it takes up what has changed."""
        with contextlib.suppress(subprocess.CalledProcessError):
            told(machine, "--restart")
            return True
        return False

    wait_until(restarted, "a restart")
    found = machine.report()
    assert found is not None
    assert found["agent"]["pid"] != first
    machine.wait_archived()
    machine.config.write_text("broken: [")
    assert "has ended" in told(machine, "--stop")
    assert machine.report() is None
    assert not machine.host.pids()


def test_an_agent_that_a_service_manager_runs_is_left_to_that(machine: Machine) -> None:
    agent = machine.start()
    machine.wait_ready()
    command = [sys.executable, "-m", "walkeeper", "agent", "-c", str(machine.config), "--stop"]
    done = subprocess.run(
        command, env=machine.host.environment(machine.environment()), capture_output=True, text=True, timeout=30, check=False
    )  # fmt: skip
    assert done.returncode == 1
    assert f"pid {agent.pid} was not started by --detach" in done.stderr
    assert "systemctl" in done.stderr
    told(machine, "--reload")
    machine.wait_says("reloaded")
    assert agent.stop() == 0


def test_detach_tells_why_it_cannot(machine: Machine) -> None:
    machine.spool.mkdir(mode=0o755)
    machine.spool.chmod(0o755)
    assert machine.start("--detach").wait(60) == 1
    assert "mode 0700" in machine.log.read_text()
    assert "HINT" in machine.log.read_text()


def test_a_callback_starts_it_where_that_is_allowed(machine: Machine) -> None:
    """With Patroni's environment: what systemd wants to hear there is about Patroni."""
    callback = [sys.executable, "-m", "walkeeper", "-c", str(machine.config), "callback"]
    systemd = Systemd(str(machine.directory / "n"))
    environment = machine.environment({"NOTIFY_SOCKET": str(machine.directory / "n"), "WATCHDOG_USEC": "100000"})
    machine.configure(start_from_callback=False)
    machine.host.run([*callback, "on_start", "primary", machine.scope], env=environment)
    wait_until(lambda: not machine.host.pids(), "nothing that it started")  # an agent would stay
    machine.configure(start_from_callback=True)
    for action in ("on_start", "on_role_change", "on_role_change"):
        machine.host.run([*callback, action, "primary", machine.scope], env=environment)
    pid = machine.wait_ready()["agent"]["pid"]
    machine.wait_archived()
    log = machine.spool / "agent.log"
    machine.host.run([*callback, "on_role_change", "primary", machine.scope], env=environment)
    machine.wait_says("poked action=on_role_change role=primary", log=log)
    end(pid)
    systemd.close()
    assert systemd.said == []


def test_where_nobody_else_would_do_it_an_agent_that_died_is_started_again(machine: Machine) -> None:
    assert machine.start("--detach").wait(60) == 0
    first = machine.wait_ready()["agent"]["pid"]
    machine.wait_archived()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: machine.report() is not None, "another agent")
    second = machine.wait_ready()["agent"]["pid"]
    assert second != first
    machine.wait_archived()
    assert len(machine.receivers()) == 1
    end(second)
    wait_until(lambda: not machine.host.pids(), "nobody who would start it again")  # told to end, it stays ended


def test_started_by_a_callback_it_waits_for_its_spool(machine: Machine) -> None:
    """Nobody would start it again."""
    machine.spool.mkdir(mode=0o755)
    machine.spool.chmod(0o755)
    agent = machine.start("--from-callback")
    assert "HINT" in machine.wait_says("spool_unusable")
    machine.spool.chmod(0o700)
    machine.wait_owned()
    assert len(machine.says("spool_unusable")) == 1
    assert agent.stop() == 0


def test_i6_it_does_not_run_as_root(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(machine.config, {}, for_agent=True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(AgentError, match="root") as caught:
        run.main(config)
    assert caught.value.hint


def test_d12_it_starts_without_anything_that_a_shell_gives(machine: Machine) -> None:
    gone = machine.directory / "gone"
    gone.mkdir()
    command = (
        f"cd {gone} && /bin/rmdir {gone} && exec {sys.executable} -m walkeeper -c {machine.config} agent <&- >&- 2>&-"
    )
    environment = {
        key: value
        for key, value in machine.host.environment(machine.environment()).items()
        if key.startswith(("WALKEEPER_", "PYTHON"))
    }
    environment |= {"LC_ALL": "C", "PATH": "", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    agent = subprocess.Popen(["/bin/sh", "-c", command], env=environment)
    try:
        machine.wait_archived()
        assert machine.report() is not None
    finally:
        agent.terminate()
        assert agent.wait(60) == 0
    assert machine.says("agent_stopped", machine.spool / "agent.log")  # there is no standard error to log to


# ------------------------------------------------------------------------------------------- what is not there (yet)


def test_it_waits_for_postgresql_and_for_etcd(machine: Machine) -> None:
    with Etcd(name="late", start=False) as late, Proxy(machine.server.port) as proxy:
        proxy.cut()
        machine.patroni["etcd3"] = {"host": late.host}
        machine.walkeeper["postgresql"] = {"port": proxy.port}
        machine.configure()
        agent = machine.start()
        assert "HINT" in machine.wait_says("ERROR dcs ")
        assert "Connection refused" in machine.wait_says("ERROR postgresql ")
        assert {problem["what"] for problem in machine.wait_ready()["troubles"]} >= {"postgresql", "dcs"}
        late.start()
        machine.etcd = late
        machine.lead("a")
        machine.wait_says("dcs_over")
        proxy.fix()
        machine.wait_says("postgresql_over")
        machine.wait_archived()
        assert agent.stop() == 0
    assert len(machine.says("ERROR dcs ")) == len(machine.says("ERROR postgresql ")) == 1


@pytest.mark.parametrize("what", ["store", "password", "spool"])
def test_p10_what_it_lacks_is_said_with_a_hint_and_it_recovers_when_that_is_fixed(machine: Machine, what: str) -> None:
    fix: Callable[[], object]
    if what == "store":
        machine.store.rename(machine.directory / "elsewhere")
        fix = lambda: (machine.directory / "elsewhere").rename(machine.store)  # noqa: E731
        word = "store_probe"
    elif what == "password":
        machine.password = "wrong"
        machine.configure()
        word = "postgresql"
    else:
        word = "archiver_spool"
    agent = machine.start()
    if what == "spool":
        machine.wait_archived()
        (machine.spool / "wal").chmod(0o000)
        fix = lambda: (machine.spool / "wal").chmod(0o700)  # noqa: E731
    line = machine.wait_says(f"ERROR {word} ")
    assert "HINT" in line
    assert agent.alive
    found = machine.report()
    assert found is not None
    assert word in {problem["what"] for problem in found["troubles"]}
    if what == "password":
        machine.password = REPLICATOR_PASSWORD
        machine.configure()  # it needs no signal for that
    else:
        fix()
    machine.wait_archived(2)
    assert agent.alive
    assert len(machine.says(f"ERROR {word} ")) == 1
    assert len(machine.says("")) < 60
    assert agent.stop() == 0


def test_a_server_that_is_started_again_is_taken_over_again_without_an_error(machine: Machine) -> None:
    """The session of the takeover before died with the server, while nobody used it."""
    agent = machine.start()
    machine.wait_archived()
    machine.server.restart()
    machine.wait_says("archiver_stopped")
    machine.wait_archived(2)
    assert machine.says("ERROR takeover_failed") == []
    assert agent.stop() == 0


def test_a_password_that_was_rotated_while_sessions_lasted_is_taken_up_and_nothing_else_is(machine: Machine) -> None:
    agent = machine.start(program=_LOOKS_OFTEN)
    machine.wait_archived()
    alter = f"ALTER ROLE {REPLICATOR} PASSWORD '{{}}'"
    drop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
    store = machine.walkeeper["store"]
    try:
        machine.server.execute(alter.format("another one"))
        machine.password = "another one"
        machine.walkeeper["store"] = {"directory": str(machine.directory / "new")}
        machine.configure()
        assert machine.wait_ready()["older_configuration"] is True
        machine.server.execute(drop, [REPLICATOR])
        assert "password authentication failed" in machine.wait_says("ERROR postgresql ")
        time.sleep(1)
        assert machine.says("reloaded") == []  # a store is changed when somebody says so
        machine.walkeeper["store"] = store
        machine.configure()
        machine.wait_archived(2)
        assert machine.wait_ready()["older_configuration"] is False
        assert len(machine.says("connects_otherwise")) == len(machine.says("reloaded changed=True")) == 1
        assert agent.stop() == 0
    finally:
        machine.server.execute(alter.format(REPLICATOR_PASSWORD))


@pytest.mark.parametrize("what", ["log", "port", "name", "password"])
def test_what_is_edited_ahead_or_is_no_way_to_connect_stays_unread_while_the_dcs_is_away(
    server: Postgres, what: str
) -> None:
    with Etcd(name="away") as away, closing(Machine(f"cluster{next(_serial)}", server, away)) as machine:
        agent = machine.start(program=_LOOKS_OFTEN)
        machine.wait_archived()
        if what == "password":
            machine.password = "the next one"
        elif what == "port":
            listen = f"127.0.0.1:{server.port}"
            whole = machine.config.read_text()
            assert listen in whole
        else:
            machine.patroni |= {"log": {"level": "DEBUG"}} if what == "log" else {"name": "b"}
        machine.configure()
        if what == "port":
            machine.config.write_text(whole.replace(listen, f"127.0.0.1:{free_port()}"))
        away.freeze()
        try:
            machine.wait_says("ERROR dcs ")
            there = len(machine.stored())
            server.complete_segments(3)
            wait_until(lambda: len(machine.stored()) >= there + 3, "uploads go on", 40, logs=[machine.log])
        finally:
            away.thaw()
        machine.wait_archived(2)
        assert machine.says("reloaded") == []
        assert agent.stop() == 0


def test_what_counts_without_a_reload_hides_no_other_change(tmp_path: Path) -> None:
    secret, file = tmp_path / "secret", tmp_path / "patroni.yml"

    def read(password: str = "one", kept: str = "first", mode: int = 0o600, bucket: str = "ours") -> Config:
        store = {"bucket": bucket, "access_key_id": "k", "secret_access_key_file": str(secret)}
        whole = {
            "scope": "demo",
            "name": "a",
            "etcd3": {"host": "127.0.0.1:2379"},
            "postgresql": {
                "listen": "127.0.0.1:5432",
                "data_dir": "/nowhere/data",
                "authentication": {"replication": {"username": "r", "password": password}},
            },
            "walkeeper": {"store": {"s3": store}, "spool": {"directory": str(tmp_path / "spool")}},
        }
        for path, text in ((secret, kept * 10), (file, yaml.safe_dump(whole))):
            path.write_text(text)
            path.chmod(mode if path == file else 0o600)
        return load(file, {}, for_agent=True)

    present = read()
    for same in (read(kept="second"), read(mode=0o644)):
        assert same != present
        assert not connects.is_older(present, same)
    for changed in (read(password="two"), read(password="two", kept="second"), read(password="two", mode=0o644)):
        assert connects.is_older(present, changed)
        assert connects.only_otherwise(present, changed)
    assert connects.is_older(present, read(bucket="theirs"))
    assert not connects.only_otherwise(present, read(password="two", bucket="theirs"))


def test_a_member_that_leads_under_another_name_needs_no_signal(machine: Machine) -> None:
    """Patroni was started again in a pause, over a server that went on."""
    agent = machine.start()
    machine.wait_archived()
    machine.patroni["name"] = "b"
    machine.configure()
    machine.lead("b")
    machine.server.complete_segments(1)
    assert "another_leads" in machine.wait_says("ERROR archiver_record ")
    wait_until(lambda: (found := machine.record) and found.owner == "b", "the record is b's", 40, logs=[machine.log])
    machine.wait_archived()
    assert agent.stop() == 0


def test_a_password_of_the_dcs_that_was_rotated_is_taken_up(server: Postgres) -> None:
    with Etcd(name="guarded") as guarded:
        guarded.require_password("of root")
        machine = Machine(f"cluster{next(_serial)}", server, guarded)
        guarded.add_user("keeper", "first", {f"/service/{machine.scope}/": "READWRITE"})
        try:
            machine.patroni["etcd3"] = {"host": guarded.host, "username": "keeper", "password": "first"}
            machine.configure()
            agent = machine.start()
            machine.wait_archived()
            guarded.rpc("/auth/user/changepw", {"name": "keeper", "password": "second"})
            guarded.restart()  # which ends its sessions
            assert "HINT" in machine.wait_says("ERROR dcs ")
            machine.patroni["etcd3"] |= {"password": "second"}
            machine.configure()
            machine.wait_archived(2)
            assert len(machine.says("connects_otherwise")) == 1
            assert agent.stop() == 0
        finally:
            machine.close()


def test_f7_where_only_an_older_pg_receivewal_is_it_names_both_versions_and_recovers(etcd: Etcd) -> None:
    """On a server whose major version no package has installed here."""
    older, major = sorted(major for major in all_postgres() if not Path(f"/usr/lib/postgresql/{major}").exists())[-2:]
    with Postgres(new_directory("m") / "pg", all_postgres()[major], auth="scram-sha-256") as server:
        prepare(server)
        machine = Machine(f"cluster{next(_serial)}", server, etcd)
        program = machine.directory / "bin" / "pg_receivewal"
        program.parent.mkdir()
        program.symlink_to(all_postgres()[older] / "pg_receivewal")
        machine.walkeeper["postgresql"] = {"bin_dir": str(program.parent)}
        machine.configure()
        try:
            agent = machine.start()
            line = machine.wait_says("ERROR takeover_failed ")
            assert f"the server is of PostgreSQL {major}, and {program} is of {older}" in line
            assert f"HINT: Install the client programs of PostgreSQL {major}" in line
            program.unlink()
            program.symlink_to(server.bin_dir / "pg_receivewal")
            machine.wait_archived(2)
            assert len(machine.says("ERROR takeover_failed ")) == 1
            assert agent.stop() == 0
        finally:
            machine.close()


def test_i3_a_real_agents_page_shows_where_the_archive_stands(machine: Machine) -> None:
    port = free_port()
    machine.configure(listen=f"127.0.0.1:{port}")

    def page() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            return str(answer.read().decode())

    with machine.start():
        machine.wait_ready()
        end = machine.wait_archived(3)
        wait_until(lambda: f"<dd>{end}<small>" in page(), "the frontier on the page", logs=[machine.log])
        wait_until(
            lambda: "all well" in page() and "and the store has the rest" in page(), "a listing", logs=[machine.log]
        )
        assert machine.password not in page()


def test_i4_a_metrics_port_that_is_taken_is_told_on_this_node(machine: Machine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        machine.configure(listen=f"127.0.0.1:{taken.getsockname()[1]}")
        agent = machine.start()
        assert "HINT" in machine.wait_says("ERROR metrics_not_served")
        problems = {each["what"]: each["hint"] for each in machine.wait_ready()["troubles"]}
        assert "free port" in problems["metrics_not_served"]
        machine.wait_archived()
        assert agent.stop() == 0


# --------------------------------------------------------------------------------------------------- quiet and discreet


def test_an_idle_agent_logs_nothing_and_no_secret_shows_anywhere(machine: Machine) -> None:
    machine.configure(log_level="debug")
    agent = machine.start()
    machine.wait_archived()
    wait_until(machine.receivers, "pg_receivewal")

    def quiet() -> bool:
        lines = machine.says("")
        time.sleep(3)
        return machine.says("") == lines

    wait_until(quiet, "nothing more to say")
    lines = machine.says("")
    pids = machine.host.pids()
    assert len(pids) >= 2
    for pid in pids:
        assert REPLICATOR_PASSWORD not in command_line(pid)
        assert REPLICATOR_PASSWORD not in environment_of(pid)
    assert REPLICATOR_PASSWORD not in "".join(lines)
    assert not (machine.spool / "pgpass").exists()  # so that none is left after kill -9
    assert agent.stop() == 0


# -------------------------------------------------------------------------------------------------------------- systemd


class Systemd:
    """Listens where ``NOTIFY_SOCKET`` says."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.said: list[str] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while message := self._socket.recv(4096):
            self.said.append(message.decode())

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


def test_i5_systemd_is_told_how_it_goes(machine: Machine) -> None:
    address = str(machine.directory / "n")
    with contextlib.closing(Systemd(address)) as systemd:
        agent = machine.start(env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "600000"})
        wait_until(lambda: systemd.said.count("WATCHDOG=1") >= 3, "WATCHDOG=1")
        agent.send(signal.SIGHUP)
        wait_until(lambda: systemd.said.count("READY=1") == 2, "READY=1 again")
        assert agent.stop() == 0
        said = [message.partition("\n")[0] for message in systemd.said if message != "WATCHDOG=1"]
        assert said == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]


def test_i5_an_abstract_socket_is_told_too() -> None:
    address = f"@walkeeper-test-{os.getpid()}-{next(_serial)}"
    with contextlib.closing(Systemd(address)) as systemd:
        Notifier({"NOTIFY_SOCKET": address}).reloading()
        wait_until(lambda: systemd.said, "RELOADING=1")
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", systemd.said[0])


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "relative", "@nobody", "/" + "x" * 200, "vsock:2:1"])
def test_i5_a_broken_notify_socket_is_never_fatal(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "nonsense"})
    notifier.ready()
    notifier.alive()
    notifier.reloading()
    notifier.stopping()
    assert notifier.watchdog_seconds is None


def test_a_watchdog_that_is_meant_for_another_process_is_none() -> None:
    assert Notifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}).watchdog_seconds is None
    assert Notifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 2


def test_a_stuck_agent_does_not_feed_the_watchdog(machine: Machine) -> None:
    address = str(machine.directory / "n")
    with contextlib.closing(Systemd(address)) as systemd:
        agent = machine.start(
            program="import sys, time, walkeeper.agent.process.run as run, walkeeper.agent.agent as m\n"
            "run.STUCK_SECONDS = 1\n"
            "look = m.Agent._look_and_act\n"
            "def twice(self):\n"
            "    look(self)\n"
            "    time.sleep(600) if self.archiver else None\n"
            "m.Agent._look_and_act = twice\n"
            "from walkeeper.cli.main import main; sys.exit(main())",
            env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "600000"},
        )
        machine.wait_owned()
        time.sleep(2)
        fed = systemd.said.count("WATCHDOG=1")
        time.sleep(1.5)
        assert systemd.said.count("WATCHDOG=1") == fed > 0
        assert agent.stop() == 0


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return b"walkeeper_info" in answer.read()
    except urllib.error.URLError:
        return False
