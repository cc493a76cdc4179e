"""verify, list and fetch as commands, on what an agent archived from a real server over a promotion, with a real etcd."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.agents import Machine
from tests.fixtures.worlds import prepare, wait_for
from tests.parts.etcd import Etcd
from tests.parts.postgres import Postgres
from tests.parts.processes import CHECKOUT, new_directory
from walkeeper.core.lsn import Lsn

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """Its agent has ended; the archive is of two timelines, and the server is on the second."""
    settings = {"wal_keep_size": "64MB"}  # what was archived is compared with it
    with Etcd() as etcd, Postgres(new_directory("v") / "pg", auth="scram-sha-256", settings=settings) as server:
        prepare(server)
        made = Machine("verified", server, etcd)
        agent = made.start()
        made.wait_owned()
        server.base_backup(made.directory / "backup")
        made.wait_archived(3)
        server.switch_wal()
        server.stop()
        (server.data / "standby.signal").touch()
        server.start()
        server.promote()
        wait_for(lambda: made.record is not None and made.record.timeline == 2, 40)
        made.wait_archived(3)
        assert agent.stop() == 0
        try:
            yield made
        finally:
            made.close()


def run(machine: Machine, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "walkeeper", "-c", machine.config, *map(str, arguments)],
        env={**os.environ, **machine.environment(), "PYTHONPATH": str(CHECKOUT)},
        capture_output=True, text=True, timeout=120, check=False, **options,
    )  # fmt: skip


def test_real_wal_over_a_switch_and_a_promotion_is_sound_to_its_last_page(machine: Machine) -> None:
    said = run(machine, "verify", "--deep", "--json")
    assert said.returncode == 0, said.stdout + said.stderr
    found = json.loads(said.stdout)
    assert found["timelines"] == [1, 2]
    assert found["record"]["owner"] == "a"
    assert found["end_lsn"] == found["record"]["frontier"]
    (window,) = found["windows"]
    first, last = window["first_commit"]["time"], window["last_commit"]["time"]
    assert machine.server.value("SELECT %s::timestamptz < %s::timestamptz AND %s < now()", [first, last, last])
    assert found["deep"]["segments"] == found["segments"]["expected"] >= 6
    assert [each for each in found["findings"] if each["severity"] != "note"] == []
    assert said.stderr == ""


def test_from_a_real_base_backup(machine: Machine) -> None:
    said = run(machine, "verify", "--from", machine.directory / "backup")
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.endswith("Sound: nothing is missing (--deep looks into the objects too).\n")


def test_fetched_segments_are_what_the_server_has(machine: Machine) -> None:
    stored = machine.stored()
    there = {name: machine.server.pg_wal / name for name in stored if (machine.server.pg_wal / name).exists()}
    assert there
    target = machine.directory / "fetched"
    said = run(machine, "fetch", f"{stored[0]}..{stored[-1]}", target)
    assert said.returncode == 0, said.stderr
    assert (target / "00000002.history").read_bytes() == (machine.server.pg_wal / "00000002.history").read_bytes()
    compared = [name for name, path in there.items() if (target / name).exists() and name[:8] == "00000002"]
    assert compared
    assert all((target / name).read_bytes() == there[name].read_bytes() for name in compared)
    said = run(machine, "list")
    assert said.returncode == 0
    assert "Timeline 2, forked from 1 at " in said.stdout


def test_a_frontier_inside_a_segment_is_borne_out_by_the_real_tail(machine: Machine) -> None:
    agent = machine.start()
    try:
        machine.wait_archived(1)
        machine.server.execute("CREATE TABLE IF NOT EXISTS tail (n int)")
        machine.server.execute("INSERT INTO tail VALUES (1)")
        end = Lsn.parse(machine.server.value("SELECT pg_current_wal_flush_lsn()::text"))
        wait_for(lambda: machine.record is not None and machine.record.position >= end, 40)
    finally:
        assert agent.stop() == 0
    record = machine.record
    assert record is not None
    assert record.position % record.size
    said = run(machine, "verify", "--deep", "--json")
    assert said.returncode == 0, said.stdout + said.stderr
    found = json.loads(said.stdout)
    assert found["end_lsn"] == record.lsn
    assert Lsn.parse(found["tail"]["end_lsn"]) >= record.position
    segment = found["tail"]["segment"]
    said = run(machine, "list")
    assert f"  {segment} up to {found['tail']['end_lsn']}, {found['tail']['pieces']} of them\n" in said.stdout
    (folder,) = machine.store.glob(f"**/tail/{segment}")
    folder.rename(machine.directory / segment)
    try:
        said = run(machine, "verify")
        assert said.returncode == 1, said.stdout + said.stderr
        assert said.stdout.splitlines()[-1].startswith("Damaged:")
        told = " ".join(said.stdout.split())
        assert (
            f"DAMAGE {segment}: the frontier is at {record.lsn}, inside it, and the pieces of its tail are not" in told
        )
    finally:
        (machine.directory / segment).rename(folder)


def test_p11_the_record_is_rebuilt_in_a_real_dcs_and_the_agent_goes_on_from_it(machine: Machine) -> None:
    key = "/service/verified/walkeeper"
    before = machine.record
    assert before is not None
    said = run(machine, "verify", "--rebuild")
    assert said.returncode == 2
    assert "a owns it; nothing was changed" in said.stderr
    assert machine.record == before
    machine.etcd.delete(key)
    said = run(machine, "verify", "--json")
    assert said.returncode == 0
    assert "no_record" in said.stdout
    said = run(machine, "verify", "--rebuild")
    assert said.returncode == 0, said.stderr
    rebuilt = machine.record
    assert rebuilt is not None
    assert (rebuilt.timeline, rebuilt.owner, rebuilt.start) == (2, "", before.start)
    assert rebuilt.position >= before.position.floor(before.size)  # of the tail it claims nothing
    machine.etcd.put(key, "garbage")
    assert run(machine, "verify", "--rebuild").returncode == 0
    agent = machine.start()
    try:
        wait_for(lambda: machine.record is not None and machine.record.owner == "a", 40)
        machine.wait_archived(1)
    finally:
        assert agent.stop() == 0
    said = run(machine, "verify", "--deep")
    assert said.returncode == 0, said.stdout + said.stderr


def test_an_interrupt_ends_a_deep_look_cleanly(machine: Machine) -> None:
    """Its threads are in the middle of a GET that takes longer than anybody waits."""
    begun = machine.directory / "begun"
    slow = (
        "import pathlib, sys, time; from walkeeper.store.directory import DirectoryStore as D; got = D.get\n"
        "def get(self, key, *limit):\n"
        "    if '/wal/' in key: pathlib.Path(sys.argv[1]).touch(); time.sleep(60)\n"
        "    return got(self, key, *limit)\n"
        "D.get = get\n"
        "from walkeeper.cli.main import main; sys.exit(main(sys.argv[2:]))"
    )
    primary, terminal = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", slow, str(begun), "verify", "--deep", "-c", str(machine.config)],
            env={**os.environ, **machine.environment(), "PYTHONPATH": str(CHECKOUT)},
            stdout=subprocess.PIPE, stderr=terminal, text=True,
        ) as process:  # fmt: skip
            wait_for(begun.exists, 40)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 130
            assert out == ""
        os.set_blocking(primary, False)
        try:
            shown = os.read(primary, 65536)
        except BlockingIOError:
            shown = b""
        assert b"Traceback" not in shown
    finally:
        os.close(primary)
        os.close(terminal)
