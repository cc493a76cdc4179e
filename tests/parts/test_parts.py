"""The test bed itself: if it lies, every other test does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.parts.binaries import CACHE, NEEDED, _unpacked, all_postgres, postgres_bin
from tests.parts.cluster import HOLD_SLOT, Cluster, callbacks, merged
from tests.parts.ledger import Acknowledged, Ledger, of_twins
from tests.parts.postgres import REPLICATOR, Postgres, restore_server
from tests.parts.processes import CHECKOUT, Host, free_port, host, new_directory, wait_until
from tests.parts.proxy import Proxy
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import Lsn

# Forks twice, leaves session and directory, and sleeps: what walkeeper's agent does when a callback starts it.
DETACHED = (
    "import os, sys, time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    os.chdir('/')\n"
    "    if os.fork() == 0:\n"
    "        open(sys.argv[1], 'w').write(str(os.getpid()))\n"
    "        time.sleep(300)\n"
    "    os._exit(0)\n"
)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def detach(machine: Host, mark: Path) -> int:
    """Start DETACHED on a host; its pid."""
    machine.run([sys.executable, "-c", DETACHED, mark])
    wait_until(lambda: mark.exists() and mark.read_text(), "the detached process")
    return int(mark.read_text())


# ---------------------------------------------------------------------------------------------------------- processes


def test_killing_a_host_ends_what_has_detached_itself(short_path: Path) -> None:
    with host("h", short_path) as machine:
        pid = detach(machine, short_path / "pid")
        assert alive(pid)

        killed = machine.kill9()

        assert pid in killed
        assert not alive(pid)


def test_killing_a_host_that_was_interrupted_can_be_begun_again(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has neither mark nor directory, as pg_receivewal, is found by its parent alone."""
    really = os.kill

    def interrupted(pid: int, number: int) -> None:
        really(pid, number)
        if number == signal.SIGKILL:
            raise KeyboardInterrupt

    with host("h", short_path) as machine:
        parent = machine.start(["sh", "-c", f"cd / && env -i sleep 300 & echo $! > {short_path}/pid; wait"])
        wait_until(lambda: (short_path / "pid").exists() and (short_path / "pid").read_text(), "the child")
        child = int((short_path / "pid").read_text())
        wait_until(lambda: machine.pids() == {parent.pid, child}, "both")
        monkeypatch.setattr(os, "kill", interrupted)
        with pytest.raises(KeyboardInterrupt):
            machine.kill9()
        monkeypatch.undo()
        machine.kill9()
        assert not alive(child)
        assert not alive(parent.pid)


def test_killing_a_host_leaves_its_neighbour_alone(short_path: Path) -> None:
    (short_path / "a").mkdir()
    (short_path / "b").mkdir()
    with host("a", short_path / "a") as one, host("b", short_path / "b") as other:
        process = other.start(["sleep", "300"])
        one.start(["sleep", "300"])

        one.kill9()

        assert process.alive
        assert other.pids() == {process.pid}


def test_a_paused_host_stands_still_until_it_is_resumed(short_path: Path) -> None:
    counter = short_path / "counter"
    with host("h", short_path) as machine:
        machine.start(["sh", "-c", f"while :; do echo >>{counter}; sleep 0.02; done"])
        wait_until(counter.exists, "the counter")

        machine.pause()
        time.sleep(0.1)
        before = counter.stat().st_size
        time.sleep(0.2)
        assert counter.stat().st_size == before

        machine.resume()
        wait_until(lambda: counter.stat().st_size > before, "the counter to go on")


def test_a_killed_run_takes_its_processes_and_directory_along(short_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.parts.processes import Host, new_directory\n"
        "directory = new_directory('x')\n"
        "process = Host('h', directory).start(['sleep', '300'])\n"
        "print(process.pid, directory.parent, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment, cwd=short_path
    )
    assert run.returncode == -signal.SIGKILL
    pid, directory = run.stdout.split()

    wait_until(lambda: not alive(int(pid)) and not Path(directory).exists(), "the guard to clear up")


def test_a_port_is_given_once_and_lies_below_those_of_outgoing_connections() -> None:
    ports = [free_port() for _ in range(20)]

    assert len(set(ports)) == 20
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert lowest <= 12_000 or max(ports) < lowest


def test_waiting_in_vain_shows_the_end_of_the_log(short_path: Path) -> None:
    log = short_path / "log"
    log.write_text("the reason\n")

    with pytest.raises(TimeoutError, match=r"(?s)a miracle: not within 0.1 s.*the reason"):
        wait_until(lambda: False, "a miracle", 0.1, logs=[log])


def test_a_proxy_cuts_holds_and_lets_through_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Proxy(server.getsockname()[1]) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), 5) as client:
            peer, _ = server.accept()
            with peer:
                client.sendall(b"one")
                assert peer.recv(10) == b"one"

                proxy.hold()
                client.sendall(b"two")
                peer.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    peer.recv(10)
                proxy.fix()
                peer.settimeout(5)
                assert peer.recv(10) == b"two"

                proxy.cut()
                assert peer.recv(10) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), 5)
        proxy.fix()
        socket.create_connection(("127.0.0.1", proxy.port), 5).close()


# ---------------------------------------------------------------------------------------------------- one PostgreSQL


def test_every_postgresql_found_has_all_programs() -> None:
    assert all_postgres(), "no PostgreSQL at all"
    for directory in all_postgres().values():
        assert all(os.access(directory / program, os.X_OK) for program in NEEDED)
    assert postgres_bin() in all_postgres().values()
    packaged = Path("/usr/lib/postgresql")
    assert not any(found.is_relative_to(packaged) for found in all_postgres().values()), "apt-get may change it"


def test_a_server_that_was_unpacked_is_found_and_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    bin_dir = tmp_path / "19" / "root" / "usr" / "lib" / "postgresql" / "19" / "bin"
    tool = CHECKOUT / "tools" / "postgres-from-debian"
    bin_dir.mkdir(parents=True)
    empty = subprocess.run([tool, "19"], capture_output=True, text=True, check=False)
    assert (empty.returncode, empty.stdout) == (1, "")
    assert "it is there, and has no PostgreSQL 19\nHINT: Remove it" in empty.stderr
    (bin_dir / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 19.0'\n")
    (bin_dir / "postgres").chmod(0o755)
    found = subprocess.run([tool, "19"], capture_output=True, text=True, check=True)
    assert found.stdout == f"{bin_dir}\n"
    consul = tmp_path / "consul" / "root" / "usr" / "bin" / "consul"
    consul.parent.mkdir(parents=True)
    consul.touch(mode=0o755)
    found = subprocess.run([tool, "consul"], capture_output=True, text=True, check=True)
    assert found.stdout == f"{consul.parent}\n"
    assert list(_unpacked()) == [bin_dir]
    unknown = subprocess.run([tool, "12"], capture_output=True, text=True, check=False)
    assert (unknown.returncode, "HINT: Say 13," in unknown.stderr) == (1, True)


@pytest.mark.postgres
def test_a_server_starts_takes_sql_and_archives_nothing(postgres: Postgres) -> None:
    assert postgres.value("SHOW wal_segment_size") == "1MB"
    assert postgres.value("SHOW archive_mode") == "off"
    assert postgres.complete_segments(2)[0] in postgres.segments()
    assert postgres.value("SELECT archived_count FROM pg_stat_archiver") == 0


@pytest.mark.postgres
def test_a_server_with_passwords_takes_the_replication_role(make_postgres: Callable[..., Postgres]) -> None:
    server = make_postgres(auth="scram-sha-256")
    server.replication_role()

    with server.connect(REPLICATOR) as connection:
        connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server.conninfo(REPLICATOR, password="wrong")).close()


@pytest.mark.postgres
def test_killing_a_server_leaves_no_shared_memory_in_the_kernel(postgres: Postgres) -> None:
    def its_segments() -> list[str]:
        segments = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
        return [line for line in segments if line.split()[4] == str(pid)]

    pid = postgres.pid
    assert its_segments()
    postgres.host.kill9()
    assert not its_segments()


@pytest.mark.postgres
def test_killing_a_server_leaves_none_of_its_processes(postgres: Postgres) -> None:
    with postgres.connect():
        killed = postgres.host.pids()
        assert len(killed) > 3, "the postmaster and its children"
        postgres.kill9()

    assert not any(alive(pid) for pid in killed)
    postgres.start()
    assert postgres.value("SELECT 1") == 1


@pytest.mark.postgres
def test_a_base_backup_and_copied_wal_make_a_server_with_every_acknowledged_row(
    make_postgres: Callable[..., Postgres], short_path: Path
) -> None:
    archive = short_path / "archive"
    archive.mkdir()
    server = make_postgres(settings={"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"})
    backup = server.base_backup(short_path / "base")
    with Ledger(server.conninfo(), ballast=50_000, pause=0) as ledger:
        ledger.wait_for(100)
    last = server.switch_wal()
    wait_until((archive / last).exists, "the last segment in the archive")

    restored = restore_server(backup, short_path / "restored", f"cp {archive}/%f %p", bin_dir=server.bin_dir)
    restored.start()
    try:
        wait_until(lambda: restored.value("SELECT NOT pg_is_in_recovery()"), "the end of recovery")
        with restored.connect() as connection:
            assert ledger.compare(connection) == []
            connection.execute("DELETE FROM ledger WHERE id IN (3, 5)")
            assert ledger.compare(connection) == [3, 5]
    finally:
        restored.close()


def test_a_ledger_expects_rows_of_the_history_up_to_the_frontier_only() -> None:
    history = History(3, (Switch(1, Lsn(1000)),))

    def covered(timeline: int, lsn: int) -> bool:
        return Acknowledged(1, timeline, Lsn(lsn), 0.0, 5432).covered_by(history, Lsn(2000))

    assert covered(1, 1000)
    assert not covered(1, 1001), "after the fork: the dead primary's alone"
    assert not covered(2, 900), "a branch that was skipped"
    assert covered(3, 2000)
    assert not covered(3, 2001)
    assert not Acknowledged(1, 1, Lsn(900), 0.0, 5432).covered_by(history, Lsn(800)), "not archived that far"


def test_a_timeline_with_two_writers_is_one_of_twins() -> None:
    def row(number: int, timeline: int, port: int) -> Acknowledged:
        return Acknowledged(number, timeline, Lsn(number), 0.0, port)

    rows = [row(1, 1, 10), row(2, 1, 10), row(3, 2, 10), row(4, 2, 11), row(5, 2, 10), row(6, 3, 11)]
    assert of_twins(rows) == {3, 4, 5}
    assert of_twins(rows[:3]) == set()


# ------------------------------------------------------------------------------------------------- a Patroni cluster


def test_templates_are_filled_and_sections_merged() -> None:
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}, "d": 4}) == {"a": {"b": 1, "c": 3}, "d": 4}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    directory = new_directory("c")
    # The callback notes what it was called with, and stands for one that starts a detached agent.
    script = directory / "callback.py"
    script.write_text(
        "import sys\n"
        "with open(sys.argv[1] + '/callbacks', 'a') as file:\n"
        "    file.write(' '.join(sys.argv[2:]) + '\\n')\n"
        f"sys.argv[1:] = [sys.argv[1] + '/agent.pid']\n{DETACHED}"
    )
    with Cluster(
        directory,
        synchronous=True,
        proxied=True,
        walkeeper_config={"store": {"path": "{directory}/store"}, "metrics_port": "{metrics_port}"},
        callbacks=callbacks(f"{{python}} {script} {{directory}}"),
        restore_command="",
        env={"WK_SPOOL": "/dev/shm"},
    ) as running:
        yield running


@pytest.mark.cluster
def test_three_nodes_come_up_with_the_hold_slot_on_each(cluster: Cluster) -> None:
    leader = cluster.wait_ready()

    assert len(cluster.replicas()) == 2
    assert leader.value("SHOW wal_segment_size") == "1MB"
    assert leader.config.stat().st_mode & 0o777 == 0o600
    sql = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s AND NOT active"
    for node in cluster.nodes:
        wait_until(lambda node=node: node.value(sql, [HOLD_SLOT]) == 1, f"the slot on {node.name}")  # type: ignore[misc]
    assert (
        f"store:\n    path: {leader.directory}/store\n  metrics_port: {leader.metrics_port}"
        in leader.config.read_text()
    )


@pytest.mark.cluster
def test_a_switchover_changes_the_leader_and_calls_back(cluster: Cluster) -> None:
    old = cluster.wait_ready()
    target = cluster.replicas()[0]

    new = cluster.switchover(target)

    assert new is target is not old
    wait_until(lambda: "on_role_change" in (new.directory / "callbacks").read_text(), "the callback")
    cluster.wait_ready(3)


@pytest.mark.cluster
def test_a_failover_loses_nothing_that_was_acknowledged_synchronously(cluster: Cluster) -> None:
    cluster.wait_ready(3)
    with Ledger.light(cluster.conninfo()) as ledger:
        ledger.wait_for(50)
        old, new = cluster.fail_over()
        ledger.wait_for(50)

    assert old.host.pids() == set()
    with new.connect() as connection:
        assert ledger.compare(connection) == []
    assert len({row.timeline for row in ledger.rows()}) == 2
    cluster.start_node(old)
    cluster.wait_ready(3)


@pytest.mark.cluster
def test_killing_a_host_ends_the_agent_that_a_callback_started(cluster: Cluster) -> None:
    cluster.wait_ready(3)
    node = cluster.replicas()[0]
    agent = int((node.directory / "agent.pid").read_text())
    environment = Path(f"/proc/{agent}/environ").read_bytes()
    assert b"WK_SPOOL=/dev/shm" in environment.split(b"\0")

    assert agent in cluster.kill_host(node)

    assert not alive(agent)
    cluster.start_node(node)
    cluster.wait_ready(3)


@pytest.mark.cluster
def test_a_leader_cut_off_from_the_dcs_steps_down_and_comes_back(cluster: Cluster) -> None:
    old = cluster.wait_ready(3)
    assert old.proxy is not None

    old.proxy.cut()
    try:
        wait_until(lambda: not old.writable(), "the old leader to step down", logs=[old.log])
        cluster.expire_leader()
        assert cluster.wait_leader(but_not=old) is not old
    finally:
        old.proxy.fix()

    cluster.wait_ready(3)


@pytest.mark.cluster
def test_the_dynamic_configuration_can_be_changed(cluster: Cluster) -> None:
    cluster.patch_config({"postgresql": {"parameters": {"checkpoint_timeout": "33s"}}})

    def applied() -> bool:
        return all(node.value("SHOW checkpoint_timeout") == "33s" for node in cluster.nodes)

    wait_until(applied, "the new setting on every node")
