"""``walkeeper status`` on a real cluster: what it knows, what it says it does not know, and how soon."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.parts.cluster import HOLD_SLOT, Cluster, Node, callbacks
from tests.parts.processes import CHECKOUT, ON_A_SHARED_DISK, new_directory, wait_until
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.config import load
from walkeeper.control import client
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import ConfigError
from walkeeper.status import gather
from walkeeper.status.attention import remark
from walkeeper.status.text import render
from walkeeper.store.directory import DirectoryStore

WALKEEPER: Final = "{python} -m walkeeper -c {config}"
WIDTH: Final = 100


@dataclass
class Said:
    """What the command finds, and prints with ``--json``."""

    found: dict[str, Any]

    @property
    def code(self) -> int:
        return int(self.found["exit_code"])

    @property
    def unknown(self) -> str:
        return "\n".join(each["text"] for each in self.found["unknown"])

    @property
    def attention(self) -> str:
        return "\n".join(each["text"] for each in self.found["attention"])

    def row(self, node: Node) -> dict[str, Any]:
        return next(row for row in self.found["members"] if row["name"] == node.name)


class World:
    """Three nodes with walkeeper wired in as a user would."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / "store"
        self.store.mkdir()
        self.cluster = Cluster(
            directory / "cluster",
            walkeeper_config={
                "store": {"directory": str(self.store)},
                "agent": {"listen": "127.0.0.1:{metrics_port}", "poll_interval": "500ms", "dcs_timeout": "2s"},
            },
            callbacks=callbacks(f"{WALKEEPER} callback"),
            restore_command=f"{WALKEEPER} restore-wal %f %p",
            proxied=True,
        )
        for node in self.cluster.nodes:
            node.env["WALKEEPER_RUN_DIR"] = str(node.socket_dir)

    def run(self, node: Node, *arguments: str) -> tuple[int, str]:
        """Exit code and standard output; there must be no other."""
        done = subprocess.run(
            [sys.executable, "-c", ON_A_SHARED_DISK, "-c", str(node.config), "status", *arguments],
            env=node.host.environment(node.env), cwd="/", capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.stderr == ""
        return done.returncode, done.stdout

    def told(self, node: Node) -> Said:
        """By the command itself."""
        code, document = self.run(node, "--json")
        said = Said(json.loads(document))
        assert said.code == code
        return said

    def ask(self, node: Node) -> Said:
        """In this process, which saves what it costs to start one."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("WALKEEPER_RUN_DIR", str(node.socket_dir))
            patch.setattr("walkeeper.status.attention.DISK_SECONDS", 0.0)  # other tests fill it
            found = gather.gather(load(node.config, {}))
        return Said(found)

    def wait(self, node: Node, code: int, what: str = "", seconds: float = 120) -> Said:
        """Until it exits with that code and has that to say."""
        last: list[Said] = []

        def so() -> bool:
            last[:] = [self.ask(node)]
            return last[0].code == code and what in f"{last[0].attention}\n{last[0].unknown}"

        try:
            wait_until(so, f"exit {code} and {what!r}", seconds, interval=0.2)
        except TimeoutError as error:
            error.add_note(render(last[0].found))
            raise
        return last[0]


@pytest.fixture
def world() -> Iterator[World]:
    made = World(new_directory("w"))
    with made.cluster:
        yield made


@pytest.mark.cluster
def test_i3_status_tells_what_is_known_and_what_is_not(world: World) -> None:
    cluster = world.cluster
    leader = cluster.wait_leader()
    replica, other = cluster.replicas()

    world.wait(replica, 0)
    wait_until(
        lambda: all(row["disk"] for row in world.ask(replica).found["members"]), "what each says of its disk", 120
    )
    said = world.wait(replica, 0)
    assert said.found["leader"] == said.found["record"]["owner"] == leader.name
    assert [row["gap_safe"] for row in said.found["members"]] == [True] * 3
    assert all(0 < row["disk"]["free"] < row["disk"]["total"] for row in said.found["members"])
    assert [row["timeline"] for row in said.found["members"]] == [1] * 3
    assert all(row["hold_slot"] and row["lag_bytes"] < MIB for row in said.found["members"])
    assert said.found["gaps"] == []
    assert [(row["state"], row["receives"]) for row in said.found["members"] if row["name"] != leader.name] == [
        ("streaming", True)
    ] * 2
    assert all(row["behind_bytes"] < MIB for row in said.found["members"] if row["name"] != leader.name)
    assert said.found["record"]["moved_seconds_ago"] is not None
    leader.execute("CREATE TABLE committed ()")
    wait_until(lambda: bool(world.ask(replica).found["agent"]["last_commit"]), "the last commit, also on a replica")
    code, text = world.run(replica)
    assert code == 0
    assert text.endswith("\nAll well.\n")
    assert re.search(rf"^{leader.name} +leader +running +1  ", text, re.MULTILINE)
    assert max(len(line) for line in text.splitlines() if not line.startswith("Archive")) <= WIDTH
    for node in cluster.nodes:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.metrics_port}/metrics", timeout=30) as answer:
            families = {f.name: f for f in text_string_to_metric_families(answer.read().decode())}
        assert families["walkeeper_archiving"].samples[0].value == (1 if node is leader else 0)
        assert families["walkeeper_gap_safe"].samples[0].value == 1

    cluster.pause(other)  # connections are accepted, and nothing answers
    said = world.told(leader)
    cluster.resume(other)
    assert said.code == 2
    assert f"{other.name}: " in said.unknown
    assert said.row(other)["lsn"] is None
    assert said.row(replica)["gap_safe"] is True

    away = world.store.with_name("away")
    world.store.rename(away)
    said = world.ask(replica)
    assert said.code == 2
    assert said.found["gaps"] is None
    assert str(world.store) in said.unknown
    leader.execute("SELECT pg_logical_emit_message(true, '', 'x'), pg_switch_wal()")
    said = world.wait(replica, 1, f"{leader.name}, which archives: ")  # the owner's problem is seen from any node
    away.rename(world.store)
    world.wait(replica, 0)

    report = world.ask(replica).found["agent"]
    os.kill(report["agent"]["pid"], signal.SIGTERM)
    said = world.wait(replica, 1, "no agent is running")
    assert said.found["agent"] is None
    assert said.row(replica)["gap_safe"] is True
    replica.host.run([sys.executable, "-m", "walkeeper", "-c", replica.config, "agent", "--detach"], env=replica.env)
    world.wait(replica, 0)

    layout = Layout(cluster.scope, None, int(said.found["record"]["system_identifier"]))
    archive = Archive(DirectoryStore(world.store), layout, SegmentSize(MIB), Codec())
    first = Segment(1, 1, SegmentSize(MIB))
    archive.record_gap(first, Lsn(3 * MIB))
    said = world.told(other)
    assert said.code == 1
    assert said.found["gaps"] == [{"timeline": 1, "start": "0/100000", "end": "0/300000", "accepted": False}]
    assert "gap on timeline 1: 0/100000 to 0/300000" in said.attention

    cluster.patch_config({"slots": None})
    said = world.wait(replica, 1, "not gap-safe: it has no hold slot")
    assert f"does not declare the slot {HOLD_SLOT}" in said.attention
    assert [row["gap_safe"] for row in said.found["members"]].count(False) >= 1
    assert re.search(r"  none +NO$", world.run(other)[1], re.MULTILINE)

    assert replica.proxy is not None
    replica.proxy.hold()  # the DCS is silent for that node
    said = world.told(replica)
    assert said.code in (1, 2)
    assert "record and members: etcd3" in said.unknown
    assert said.found["record"] is None
    assert [row["name"] for row in said.found["members"]] == [replica.name]  # what there is to be seen without the DCS
    assert said.row(replica)["lsn"] is not None
    assert said.found["agent"]["agent"]["name"] == replica.name
    wait_until(lambda: "agent on this node, since " in world.told(replica).attention, "its agent notices", 60)
    replica.proxy.fix()


@pytest.mark.cluster
def test_a_member_that_is_never_promoted_is_well_and_one_that_is_gone_is_missed(world: World) -> None:
    cluster = world.cluster
    leader = cluster.wait_leader()
    tagged, other = cluster.replicas()
    world.wait(leader, 0)
    whole = yaml.safe_load(tagged.config.read_text())
    tagged.config.write_text(yaml.safe_dump({**whole, "tags": {"nofailover": True}}))
    tagged.rest("reload", {}, method="POST")
    wait_until(lambda: world.ask(leader).row(tagged)["hold_slot"] is None, "Patroni takes its slot away", 60)
    said = world.wait(leader, 0)
    assert (said.row(tagged)["held"], said.row(tagged)["gap_safe"]) == (False, None)
    world.wait(tagged, 0)  # its own agent agrees

    cluster.kill_host(other)
    cluster.expire_member(other)
    said = world.wait(leader, 1, f"{other.name} was a member until ")
    assert [row["name"] for row in said.found["members"]] == sorted((leader.name, tagged.name))
    cluster.start_node(other)
    world.wait(leader, 0)

    whole = yaml.safe_load(leader.config.read_text())
    elsewhere = leader.config.with_name("elsewhere.yml")
    elsewhere.touch(mode=0o600)
    elsewhere.write_text(yaml.safe_dump({**whole, "scope": "demo-2"}))
    found = gather.gather(load(elsewhere, {}))
    assert "no member of a cluster demo-2 is in the DCS" in {each["text"] for each in found["attention"]}


# -------------------------------------------------------------------------------------------------- without any server


def unreachable(directory: Path) -> Path:
    """A configuration of which nothing answers."""
    path = directory / "patroni.yml"
    path.touch(mode=0o600)
    path.write_text(
        "scope: demo\nname: n1\netcd3: {host: '127.0.0.1:9'}\n"
        f"postgresql: {{listen: '127.0.0.1:9', data_dir: {directory}/data,"
        " authentication: {replication: {username: r, password: p}}}\n"
        f"walkeeper: {{store: {{directory: {directory}/store}}, agent: {{dcs_timeout: 1s}}}}\n"
    )
    return path


def test_where_nothing_answers_all_of_it_is_unknown(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALKEEPER_RUN_DIR", str(short_path))
    found = gather.gather(load(unreachable(short_path), {}))
    assert found["exit_code"] == 2
    assert found["record"] is found["gaps"] is found["agent"] is None
    assert [each["text"].partition(":")[0] for each in found["unknown"]] == [
        "agent on this node",
        "gaps",
        "n1",
        "record and members",
    ]
    text = render(found)
    assert "Frontier  unknown" in text
    assert text.endswith("Not everything is known.")


def test_a_configuration_without_a_dcs_still_gives_a_partial_answer(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WALKEEPER_RUN_DIR", str(short_path))
    path = unreachable(short_path)
    path.write_text(path.read_text().replace("etcd3", "etcd9"))
    found = gather.gather(load(path, {}))
    assert found["exit_code"] == 2
    assert any("names no DCS" in each["text"] for each in found["unknown"])


ROW: Final = {
    "name": "node1", "role": "primary", "state": "running", "timeline": 2, "lsn": "2/4A1F9D88", "in_recovery": False,
    "receives": None, "behind_bytes": None, "next_wal": None, "lag_bytes": 3 * MIB, "lag_seconds_at_most": 95.0,
    "hold_slot": "2/4A000000", "held": True, "gap_safe": True, "why": None, "hint": None,
}  # fmt: skip
REPLICA: Final = {
    **ROW, "name": "node2", "role": "replica", "state": "streaming", "in_recovery": True, "receives": True, "behind_bytes": 0,
}  # fmt: skip
WHOLE: Final[dict[str, Any]] = {
    "scope": "demo", "node": "node1", "store": "s3://our-wal/production", "leader": "node1", "paused": False,
    "hold_slot": {"name": HOLD_SLOT, "declared": True},
    "record": {
        "system_identifier": "7", "segment_size": MIB, "timeline": 2, "frontier": "2/4A000000",
        "start": "000000010000000000000003", "owner": "node1", "closed_by": None, "gaps_total": 0, "suspected": [], "trouble": None, "age_seconds": 1.0,
        "moved_seconds_ago": 5.0, "durability": "local",
    },
    "members": [ROW], "gone": [], "store_name": "main", "stores": [], "gaps": [], "agent": None, "attention": [], "unknown": [], "exit_code": 0,
}  # fmt: skip
PROBLEM: Final = {
    "what": "archiver_store", "reason": "store_denied", "text": "PUT: 403", "hint": "The credentials need s3:PutObject.",
    "since": "2026-11-28T07:00:00Z", "seen_seconds_ago": 1.0, "over_seconds_ago": None,
}  # fmt: skip
REPORT: Final[dict[str, Any]] = {
    "agent": {
        "name": "node1", "pid": 4711, "version": "1", "archiving": True, "timeline": 2, "spool_bytes": 3 * MIB, "spool_limit": 1024 * MIB,
    },
    "troubles": [], "last_error": None, "last_commit": {"time": "2026-11-28T08:10:23.059674Z", "lsn": "2/49FFFF00"},
}  # fmt: skip


@pytest.mark.parametrize("command", [True, False])
def test_the_text_says_what_the_agent_does(command: bool) -> None:
    agent = {**REPORT["agent"], "archiver": "command" if command else "streaming"}
    doing = "takes WAL from pg_wal" if command else "spool 3 MiB of 1 GiB"
    text = render({**WHOLE, "agent": {**REPORT, "agent": agent}})
    assert f"Agent     node1, pid 4711, walkeeper 1: archives timeline 2; {doing}" in text
    handed = {"archive_mode": "on", "archived_count": 1, "failed_count": 2000}
    text = render({**WHOLE, "agent": {**REPORT, "agent": agent, "archive_command": handed}})
    assert "archive_command: 1 file handed over, 2,000 failed calls" in text


def test_a_store_that_cannot_even_be_opened_still_gives_a_partial_answer(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> NoReturn:
        raise ConfigError("store.s3: no credentials")

    monkeypatch.setenv("WALKEEPER_RUN_DIR", str(short_path))
    monkeypatch.setattr("walkeeper.store.open.open_store", broken)
    found = gather.gather(load(unreachable(short_path), {}))
    assert (found["store"], found["exit_code"]) == (None, 2)
    assert "Archive   unknown" in render(found)


def test_an_agent_of_another_version_is_no_traceback(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALKEEPER_RUN_DIR", str(short_path))
    monkeypatch.setattr(client, "ask", lambda *_: {"ok": True, "agent": {"name": "n1"}, "troubles": []})
    found = gather.gather(load(unreachable(short_path), {}))
    assert found["agent"] is None
    (only,) = found["attention"]
    assert only["text"] == "agent on this node: it is of another version of walkeeper, and was not started again since"
    assert only["hint"] == "walkeeper agent --restart, or systemctl restart walkeeper."


def test_a_terminal_that_has_not_every_letter_is_no_traceback(short_path: Path) -> None:
    path = unreachable(short_path)
    path.write_text(path.read_text().replace("name: n1", "name: nöde"), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "walkeeper", "-c", path, "status"],
        env={"PYTHONPATH": str(CHECKOUT), "WALKEEPER_RUN_DIR": str(short_path), "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"\nn?de  " in done.stdout
    assert done.stderr == b""


def test_the_text_is_of_a_width_that_fits_and_prints_no_control_characters() -> None:
    evil = {**REPLICA, "name": "node\x1b[31m2", "lsn": None, "lag_bytes": None, "gap_safe": False}
    long = "node2 is not gap-safe: " + "its hold slot begins at 2/4A000000, after the frontier " * 4
    text = render(
        {
            **WHOLE,
            "members": [ROW, evil],
            "attention": [remark(long), remark("two\nlines", "\x07 " * 100)],
            "exit_code": 1,
            "paused": True,
        }
    )
    assert max(map(len, text.splitlines())) <= WIDTH
    assert all(line.isprintable() for line in text.splitlines())
    assert "node?[31m2" in text
    assert "Cluster   demo, Patroni is paused" in text
    assert text.endswith("Something needs a look.")
