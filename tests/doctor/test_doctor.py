"""``walkeeper doctor`` on a real cluster: green when it is well, and each mis-setting really made, found, and fixed by
pasting what the finding says."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
import yaml

from tests.fixtures.worlds import config_of, prepare
from tests.parts.binaries import all_postgres, major_of, postgres_bin
from tests.parts.cluster import HOLD_SLOT, Cluster, Node, callbacks, merged
from tests.parts.etcd import Etcd, etcd_program, least_rights
from tests.parts.postgres import REPLICATOR, SUPERUSER, SUPERUSER_PASSWORD, Postgres
from tests.parts.processes import ON_A_SHARED_DISK, new_directory, wait_until
from tests.parts.scripted_s3 import ScriptedS3, deaf, refuse
from walkeeper.config import Config, load
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.record import Record
from walkeeper.dcs.etcd3 import QUOTA
from walkeeper.dcs.patroni import change_dynamic
from walkeeper.doctor import gather, here, servers, text
from walkeeper.doctor.facts import Facts, MemberFacts, StoreFacts, Unknown
from walkeeper.doctor.rule import Finding, judge
from walkeeper.doctor.rules import dcs, wiring
from walkeeper.errors import DcsError, DcsUnavailable
from walkeeper.lib.units import Seconds
from walkeeper.postgres.server import Server
from walkeeper.store.directory.keys import DirectorySettings

WALKEEPER: Final = "{python} -m walkeeper"
GREEN: Final = ("ok", "info")


class World:
    """Two nodes with walkeeper wired in as a user would."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / "store"
        self.store.mkdir()
        self.cluster = Cluster(
            directory / "cluster",
            nodes=2,
            walkeeper_config={
                "store": {"directory": str(self.store)},
                "agent": {"listen": "off", "poll_interval": "500ms", "dcs_timeout": "2s"},
                "spool": {"limit": "32MiB"},
            },
            callbacks=callbacks(f"{WALKEEPER} callback -c {{config}}"),
            restore_command=f"{WALKEEPER} restore-wal -c {{config}} %f %p",
            settings={"archive_mode": "on", "archive_command": "/bin/true"},
            proxied=True,
        )
        for node in self.cluster.nodes:
            node.env["WALKEEPER_RUN_DIR"] = str(node.socket_dir)

    # ------------------------------------------------------------------------------------------------------ the command

    def environment(self, node: Node) -> dict[str, str]:
        """A shell of the node's: with the programs that a user would find, and psql's way to the leader."""
        port = str(self.cluster.wait_leader().port)
        path = f"{Path(sys.executable).parent}:{self.cluster.bin_dir}:{os.environ['PATH']}"
        login = {"PGHOST": "127.0.0.1", "PGPORT": port, "PGUSER": SUPERUSER, "PGPASSWORD": SUPERUSER_PASSWORD}
        return node.host.environment({**node.env, "PATH": path, **login})

    def run(self, node: Node, *arguments: str) -> tuple[int, str, float]:
        """Exit code, standard output and seconds; nobody is there to be asked."""
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", ON_A_SHARED_DISK, "-c", str(node.config), "doctor", *arguments],
            env=node.host.environment(node.env), cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=90, check=False,
        )  # fmt: skip
        assert done.stderr == ""
        return done.returncode, done.stdout, time.monotonic() - begun

    def ask(self, node: Node) -> list[dict[str, Any]]:
        """In this process, which saves what it costs to start one."""
        before = os.environ.get("WALKEEPER_RUN_DIR")
        os.environ["WALKEEPER_RUN_DIR"] = str(node.socket_dir)
        try:
            facts = gather.gather(load(node.config, {}))
        finally:
            if before is None:
                del os.environ["WALKEEPER_RUN_DIR"]
            else:
                os.environ["WALKEEPER_RUN_DIR"] = before
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("walkeeper.doctor.rules.agents.DISK_SECONDS", 0.0)  # other tests fill it
            return list(text.as_json(facts, judge(facts))["findings"])

    def wait(self, node: Node, rule: str, state: str, about: str | None = None, seconds: float = 120) -> dict[str, Any]:
        """Until a finding of that rule (about that member) is in that state."""
        last: list[dict[str, Any]] = []

        def so() -> dict[str, Any] | None:
            last[:] = [each for each in self.ask(node) if each["rule"] == rule]
            return next((each for each in last if each["state"] == state and about in (None, each["member"])), None)

        try:
            return wait_until(so, f"{rule} {state}", seconds, interval=1, logs=self.cluster.logs())
        except TimeoutError as error:
            error.add_note(json.dumps(last, indent=1))
            raise

    def paste(self, node: Node, finding: dict[str, Any], answers: str = "\ny\n\n") -> None:
        """What a person does: lines of YAML go into patroni.yml, the rest into a shell, where patronictl asks when, and whether: now, and yes."""
        commands = [line for line in finding["fix"] if re.match(r"(patronictl|psql|chmod|chown|/|kill|sleep)", line)]
        lines = [line for line in finding["fix"] if line not in commands and not line.startswith("#")]
        if lines:
            self.paste_yaml(node, "\n".join(lines))
        for command in commands:
            with (node.directory / "pasted.log").open("w+") as log:  # no pipe: an agent in the background would hold it
                done = subprocess.run(
                    ["bash", "-c", command], env=self.environment(node), cwd="/", input=answers, stdout=log, stderr=log,
                    text=True, timeout=120, check=False,
                )  # fmt: skip
                shown = re.search(r"walkeeper (status|backups) ", command)  # whose exit codes tell what is wrong
                assert done.returncode == 0 or shown, (command, Path(log.name).read_text())

    def paste_yaml(self, node: Node, text: str) -> None:
        """A list goes before pg_hba, a mapping over what there is."""
        whole = yaml.safe_load(node.config.read_text())
        part = yaml.safe_load(text)
        if isinstance(part, list):
            whole["postgresql"]["pg_hba"] = [*part, *whole["postgresql"]["pg_hba"]]
        else:
            whole = merged(whole, part)
        node.config.write_text(yaml.safe_dump(whole))

    def fix(self, node: Node, rule: str, about: str | None = None, state: str = "error") -> dict[str, Any]:
        """Wait for the finding, paste its fix, and wait until the rule is content."""
        finding = self.wait(node, rule, state, about)
        self.paste(node, finding)
        self.wait(node, rule, "ok", about)
        return finding

    # ---------------------------------------------------------------------------------------------------- mis-settings

    def rewrite(self, node: Node, change: Callable[[dict[str, Any]], None]) -> None:
        """Edit the node's patroni.yml and let Patroni read it."""
        whole = yaml.safe_load(node.config.read_text())
        change(whole)
        node.config.write_text(yaml.safe_dump(whole))
        node.rest("reload", {}, method="POST")

    def parameters(self, **settings: object) -> None:
        self.cluster.patch_config({"postgresql": {"parameters": settings}})


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World(new_directory("w"))
    with made.cluster:
        leader = made.cluster.wait_leader()
        made.wait(leader, "record_owned", "ok")
        for node in made.cluster.nodes:
            for other in made.cluster.nodes:
                made.wait(node, "agent_runs", "ok", other.name)
                made.wait(node, "gap_safe", "ok", other.name)
        yield made


def wrong(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What weighs: no remarks, not what is unknown and no error either way, and not how full this machine's disk is."""
    return [
        each
        for each in findings
        if each["state"] not in GREEN
        and not (each["state"] == "unknown" and each["severity"] != "error")
        and each["rule"] != "disk_room"
    ]


@pytest.fixture(autouse=True)
def green(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test leaves the cluster well."""
    yield
    if "world" in request.fixturenames:
        world: World = request.getfixturevalue("world")
        last: list[Any] = []

        def well() -> bool:
            last[:] = [each for node in world.cluster.nodes for each in wrong(world.ask(node))]
            return not last

        try:
            wait_until(well, "all is well again", 240, interval=0.2)
        except TimeoutError as error:
            error.add_note(str(last))
            raise


@pytest.mark.cluster
def test_a_good_cluster_is_green_from_every_node(world: World) -> None:
    before = {node.name: node.config.read_bytes() for node in world.cluster.nodes}
    for node in world.cluster.nodes:
        assert wrong(world.ask(node)) == []
        code, told, _ = world.run(node)
        assert code == 0
        assert re.search(r"^(All well\.|No promise is broken; .*not known\.)$", told, re.MULTILINE)
        assert not re.search(r"^(ERROR|warning) ", told, re.MULTILINE)
        assert "\033" not in told
        world.wait(node, "same_stores", "ok", world.cluster.replicas()[0].name)
    assert {node.name: node.config.read_bytes() for node in world.cluster.nodes} == before
    assert not [path for path in (world.store / "probe").iterdir() if path.name[0] != "."]


@pytest.mark.cluster
def test_the_slot_that_is_not_declared(world: World) -> None:
    leader = world.cluster.wait_leader()
    world.cluster.patch_config({"slots": None})
    finding = world.fix(leader, "slot_declared")
    assert finding["fixable"]
    world.wait(leader, "gap_safe", "ok", world.cluster.replicas()[0].name)


@pytest.mark.cluster
def test_fix_shows_asks_mends_and_has_nothing_to_do_the_second_time(world: World) -> None:
    leader = world.cluster.wait_leader()
    replica = world.cluster.replicas()[0]
    world.cluster.patch_config({"slots": None})
    world.wait(leader, "gap_safe", "error")
    change = f'{{"slots": {{"{HOLD_SLOT}": {{"type": "physical"}}}}}}'

    code, told, _ = world.run(leader, "--fix")
    assert code == 1
    assert change in told
    assert f"  http://127.0.0.1:{leader.rest_port}/patroni (in clear: this is not TLS)" in told
    assert "There is no terminal to ask on" in told
    assert answered(world, leader, "n").count("Left alone.") == 1
    assert leader.rest("config").get("slots") is None
    leader.rest("config", {"pause": True}, method="PATCH")  # adding a slot is safe in a pause

    told = answered(world, replica, "y")
    assert "Do it? [y/N]" in told
    assert f"Done: Patroni's dynamic configuration has {change} now." in told
    assert leader.rest("config")["slots"] == {HOLD_SLOT: {"type": "physical"}}
    code, told, _ = world.run(leader, "--fix", "--yes")
    assert "Done" not in told
    leader.rest("config", {"pause": None}, method="PATCH")


def answered(world: World, node: Node, answer: str) -> str:
    """doctor --fix on a terminal, and this typed there."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            [sys.executable, "-m", "walkeeper", "-c", str(node.config), "doctor", "--fix"],
            env=node.host.environment(node.env), stdin=theirs, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.cluster
def test_use_slots_off_is_mended_by_paste_and_left_alone_in_a_pause(world: World) -> None:
    leader = world.cluster.wait_leader()
    world.cluster.patch_config({"postgresql": {"use_slots": False}, "pause": True})
    world.wait(leader, "use_slots", "error")
    code, told, _ = world.run(leader, "--fix", "--yes")
    assert code == 1
    assert "use_slots: left alone, because Patroni is paused." in told
    world.cluster.patch_config({"pause": None})
    world.fix(leader, "use_slots")


@pytest.mark.cluster
def test_callbacks_that_are_missing_wrong_or_never_called(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "START_GRACE", 1.0)
    node = world.cluster.replicas()[0]

    def without(whole: dict[str, Any]) -> None:
        del whole["postgresql"]["callbacks"]

    original = node.config.read_text()
    world.rewrite(node, without)
    finding = world.fix(node, "callbacks")
    assert "not wired: on_start, on_stop, on_role_change" in finding["text"]
    restart_agent(world, node)
    world.wait(node, "callbacks_called", "unknown")
    node.rest("restart", {})  # Patroni takes them from the dynamic configuration, too
    world.wait(node, "callbacks_called", "ok")
    world.cluster.patch_config({"postgresql": {"callbacks": None}})

    for wrong_one, says in (
        ("/nowhere/walkeeper callback -c {config}", "/nowhere/walkeeper cannot be run"),
        ("{python} -m walkeeper callback -c /etc/other.yml", "it names the configuration /etc/other.yml"),
        ("/bin/true", "'/bin/true' is not walkeeper's"),
    ):
        node.config.write_text(original)

        def other(whole: dict[str, Any], command: str = wrong_one) -> None:
            whole["postgresql"]["callbacks"]["on_start"] = node.fill(command)

        world.rewrite(node, other)
        assert says in world.fix(node, "callbacks")["text"]
    node.config.write_text(original)
    node.rest("reload", {}, method="POST")

    def dead(whole: dict[str, Any]) -> None:
        whole["postgresql"]["callbacks"] = dict.fromkeys(whole["postgresql"]["callbacks"], "/bin/true")

    before = turns(node)
    world.rewrite(node, dead)
    # Until Patroni has read it: what it calls in the meantime would start an agent.
    wait_until(lambda: turns(node) >= before + 3, "Patroni's next turns", logs=[node.log])
    restart_agent(world, node)
    time.sleep(
        3
    )  # a start of PostgreSQL within START_GRACE after the agent's, both in whole seconds, may have come before it
    node.rest("restart", {})
    node.config.write_text(original)  # wired again, and Patroni was not told
    finding = world.wait(node, "callbacks_called", "warning")
    assert "no callback came" in finding["text"]
    world.paste(node, finding)
    node.rest("restart", {})
    assert "on_" in world.wait(node, "callbacks_called", "ok")["text"]


def turns(node: Node) -> int:
    """How often its Patroni has looked around and found nothing to do; before each turn it reads what it was told to reload."""
    return node.log.read_text().count(" no action. ")


def restart_agent(world: World, node: Node) -> None:
    """As its service manager would: no callback has started the new one."""
    end_agent(world, node)
    command = [sys.executable, "-m", "walkeeper", "-c", node.config, "agent", "--detach"]
    node.host.run(command, env=node.env)
    world.wait(node, "agent_runs", "ok", node.name)


def end_agent(world: World, node: Node) -> None:
    """And those that callbacks start which were on their way: of a restart, of a reload that Patroni comes to a second later."""
    lock = next(path for path in node.socket_dir.iterdir() if path.match("patroni.yml-*.lock"))
    ended = ""
    quiet = time.monotonic() + 3
    while time.monotonic() < quiet:
        if (pid := lock.read_text().strip()) not in {"", ended}:
            terminate(int(pid))
            ended, quiet = pid, time.monotonic() + 3
        time.sleep(0.1)
    world.wait(node, "agent_runs", "error", node.name)


def terminate(agent: int) -> None:
    os.kill(agent, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{agent}").exists(), f"the end of agent {agent}")


@pytest.mark.cluster
def test_an_agent_that_does_not_run_is_seen_from_every_node(world: World) -> None:
    leader = world.cluster.wait_leader()
    replica = world.cluster.replicas()[0]
    end_agent(world, replica)
    finding = world.wait(leader, "agent_runs", "error", replica.name)  # without any port of the agent's
    assert finding["fix"][0] == f"# on {replica.name}:"
    world.fix(replica, "agent_runs", replica.name)


@pytest.mark.cluster
def test_an_agent_of_another_version_is_seen_from_every_node(world: World) -> None:
    leader = world.cluster.wait_leader()
    replica = world.cluster.replicas()[0]
    with psycopg.connect(replica.conninfo(), application_name="walkeeper agent 0.0.7"):  # as such an agent's session
        finding = world.wait(leader, "agent_version", "warning", replica.name)
    assert "0.0.7" in finding["text"]
    assert finding["fix"][0] == f"# on {replica.name}:"
    with psycopg.connect(replica.conninfo(), application_name="walkeeper agent 99.0.0"):
        finding = world.wait(leader, "agent_version", "warning", replica.name)
    assert finding["fix"][0].startswith("# on this node, which is behind: install walkeeper 99.0.0")
    before = agent_pid(replica)
    typed = [
        line.replace(str(leader.config), str(replica.config)) for line in finding["fix"]
    ]  # elsewhere it is one path
    world.paste(replica, {**finding, "fix": typed})  # one that is up to date, too, ends and begins
    assert agent_pid(replica) not in {"", before}


def agent_pid(node: Node) -> str:
    return next(path for path in node.socket_dir.iterdir() if path.match("patroni.yml-*.lock")).read_text().strip()


@pytest.mark.cluster
def test_a_restore_command_that_is_missing_or_cannot_run(world: World) -> None:
    replica = world.cluster.replicas()[0]
    original = replica.config.read_text()

    def without(whole: dict[str, Any]) -> None:
        del whole["postgresql"]["recovery_conf"]

    world.rewrite(replica, without)
    world.wait(replica, "restore_command", "warning", replica.name)
    world.wait(world.cluster.wait_leader(), "restore_command", "warning", replica.name)  # seen over SQL
    world.fix(replica, "restore_command", replica.name, "warning")
    world.cluster.patch_config({"postgresql": {"recovery_conf": None}})

    def broken(whole: dict[str, Any]) -> None:
        whole["postgresql"]["recovery_conf"] = {"restore_command": "/nowhere/walkeeper restore-wal %f %p"}

    replica.config.write_text(original)
    world.rewrite(replica, broken)
    world.fix(replica, "restore_command_runs")
    replica.config.write_text(original)
    replica.rest("reload", {}, method="POST")


@pytest.mark.cluster
def test_settings_of_postgresql(world: World) -> None:
    leader = world.cluster.wait_leader()
    replica = world.cluster.replicas()[0]

    world.parameters(max_slot_wal_keep_size="1GB")
    assert "1GB" in world.fix(leader, "max_slot_wal_keep_size", replica.name, "warning")["text"]

    world.parameters(synchronous_standby_names="*")
    wait_until(lambda: leader.value("SHOW synchronous_standby_names") == "*", "the setting is in force")
    leader.execute("SELECT pg_logical_emit_message(true, '', 'a replica confirms it')")
    state = "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'walkeeper'"
    wait_until(lambda: leader.value(state) == "async", "what pg_receivewal is to it")
    assert world.wait(leader, "synchronous_standby_names", "ok", leader.name)
    world.parameters(synchronous_standby_names="walkeeper")
    assert "'walkeeper'" in world.fix(leader, "synchronous_standby_names", leader.name)["text"]

    world.parameters(archive_command=f"cp %p {world.store}/%f")
    assert "walkeeper's own store" in world.fix(leader, "archive_settings", leader.name)["text"]

    world.parameters(archive_command="/bin/false")
    wait_until(lambda: leader.value("SHOW archive_command") == "/bin/false", "the setting is in force")
    leader.execute("SELECT pg_logical_emit_message(true, '', 'x'), pg_switch_wal()")
    world.fix(leader, "archive_command_works", leader.name, "warning")
    world.parameters(archive_command="/bin/true")

    world.parameters(max_wal_senders=3)
    for node in (replica, leader):
        world.paste(leader, world.wait(leader, "pending_restart", "warning", node.name))
    assert "is 3" in world.fix(leader, "max_wal_senders", leader.name, "warning")["text"]


@pytest.mark.cluster
def test_a_member_that_is_never_promoted(world: World) -> None:
    replica = world.cluster.replicas()[0]
    leader = world.cluster.wait_leader()

    def tagged(whole: dict[str, Any]) -> None:
        whole["tags"] = {"nofailover": True}

    world.rewrite(replica, tagged)
    finding = world.wait(leader, "nofailover", "warning", replica.name)
    assert "no other replica could be promoted" in finding["text"]
    assert world.wait(leader, "gap_safe", "ok", replica.name)["text"].startswith("it has the tag nofailover")
    world.paste(replica, finding)
    world.wait(leader, "nofailover", "ok")
    world.wait(leader, "gap_safe", "ok", replica.name)


@pytest.mark.cluster
def test_a_server_that_refuses_replication_or_the_role(world: World) -> None:
    leader = world.cluster.wait_leader()
    replica = world.cluster.replicas()[0]

    def refusing(whole: dict[str, Any]) -> None:
        whole["postgresql"]["pg_hba"].insert(0, f"host replication {REPLICATOR} 127.0.0.1/32 reject")

    original = replica.config.read_text()
    world.rewrite(replica, refusing)
    world.wait(leader, "replication_allowed", "warning", replica.name)
    world.fix(replica, "replication_allowed", replica.name)
    replica.config.write_text(original)
    replica.rest("reload", {}, method="POST")

    leader.execute(f"ALTER ROLE {REPLICATOR} NOREPLICATION")
    world.fix(leader, "role_may_replicate", leader.name)


@pytest.mark.cluster
def test_a_store_that_is_away_or_denies(world: World) -> None:
    leader = world.cluster.wait_leader()
    away = world.store.with_name("away")
    world.store.rename(away)
    finding = world.wait(leader, "store_answers", "error")
    assert str(world.store) in finding["text"]
    away.rename(world.store)

    (world.store / "probe").chmod(0o500)
    world.wait(leader, "store_allows", "error")
    (world.store / "probe").chmod(0o700)

    leader.execute("SELECT pg_logical_emit_message(true, '', 'x'), pg_switch_wal()")
    wait_until(lambda: "the newest" in world.wait(leader, "store_is_the_same", "ok")["text"], "an archived segment")
    for path in world.store.rglob("wal"):
        path.rename(path.with_name("elsewhere"))
    world.wait(leader, "store_is_the_same", "error")
    for path in world.store.rglob("elsewhere"):
        shutil.rmtree(path.with_name("wal"), ignore_errors=True)
        path.rename(path.with_name("wal"))


@pytest.mark.cluster
def test_a_dcs_that_hangs_hangs_nobody(world: World) -> None:
    node = world.cluster.replicas()[0]
    assert node.proxy is not None
    node.proxy.hold()
    code, document, seconds = world.run(node, "--json")
    node.proxy.fix()
    findings = json.loads(document)["findings"]
    states = {each["rule"]: each["state"] for each in findings}
    assert code == 1
    assert states["dcs_answers"] == "error"
    assert {states[rule] for rule in ("compare_and_set", "record_owned", "slot_declared", "no_gaps")} == {"unknown"}
    assert states["wal_level"] == states["spool_private"] == "ok"
    assert seconds < 30


@pytest.mark.cluster
def test_a_spool_that_others_can_read_or_that_has_no_room(world: World) -> None:
    node = world.cluster.replicas()[0]
    spool = load(node.config, {}).spool_directory
    spool.chmod(0o755)
    world.fix(node, "spool_private")
    original = node.config.read_text()
    whole = yaml.safe_load(original)
    whole["walkeeper"]["spool"]["limit"] = "900TiB"
    node.config.write_text(yaml.safe_dump(whole))
    world.wait(node, "agent_configuration", "warning")
    assert "for the spool, and its limit is" in world.fix(node, "spool_room", None, "warning")["text"]
    world.wait(node, "agent_configuration", "ok")  # that fix has told the agent
    node.config.write_text(original)
    world.fix(node, "agent_configuration", None, "warning")


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.skipif(major_of(postgres_bin()) < 15, reason="no base backups before PostgreSQL 15")
def test_what_a_schedule_lacks_is_done_as_it_is_printed(world: World) -> None:
    leader = world.cluster.wait_leader()
    original = leader.config.read_text()
    whole = yaml.safe_load(original)
    proofs = leader.directory / "proofs"
    proofs.mkdir(mode=0o700, exist_ok=True)
    whole["walkeeper"]["backup"] = {"schedule": "02:00", "verify_schedule": "04:00", "verify_directory": str(proofs)}
    leader.config.write_text(yaml.safe_dump(whole))
    assert "none is complete yet" in world.fix(leader, "backup_in_time", state="warning")["text"]
    assert "was ever proved" in world.fix(leader, "restore_proved", state="info")["text"]
    assert world.wait(leader, "base_backup", "ok")["text"].startswith("1 of walkeeper's")
    world.fix(leader, "schedules", state="warning")  # from here on the cluster takes them, at once
    for kept in ("backup", "proof"):  # as if there had been none
        for folder in list(world.store.rglob(kept)):
            shutil.rmtree(folder)
    leader.config.write_text(original)
    reload_agent = [sys.executable, "-m", "walkeeper", "-c", leader.config, "agent", "--reload"]
    leader.host.run(reload_agent, env=leader.env)


def segments(node: Node, count: int) -> None:
    for _ in range(count):
        node.execute("SELECT pg_logical_emit_message(true, '', 'x'), pg_switch_wal()")


@pytest.mark.cluster
@pytest.mark.slow
def test_a_member_is_built_again_and_another_promoted_as_it_is_printed(world: World) -> None:
    """The faults are made up: Patroni heals what can be made quickly. A stuck member is played by ``make incidents``."""
    leader, replica = world.cluster.wait_leader(), world.cluster.replicas()[0]
    facts = gather.gather(load(leader.config, {}))
    assert isinstance(facts.store, StoreFacts)

    def stuck(each: MemberFacts) -> MemberFacts:
        server = each.server
        if each.name != replica.name or isinstance(server, Unknown):
            return each
        return replace(each, server=replace(server, receives=False, state=replace(server.state, lsn=Lsn(0))))

    mark = replica.data / "of-the-old-one"
    mark.touch()
    (finding,) = said(replace(facts, members=tuple(map(stuck, facts.members))), "standby_follows")
    world.paste(leader, finding, answers="y\ny\n")  # it may ask whether a restart is to be given up for it
    wait_until(lambda: not mark.exists(), "the old member's end")
    world.wait(leader, "agent_runs", "ok", replica.name)
    segments(leader, 2)  # it was just built: gap-safe when the frontier has passed where it begins
    world.wait(leader, "gap_safe", "ok", replica.name)

    (finding,) = said(replace(facts, store=replace(facts.store, newer_branch="99")), "newest_timeline")
    world.paste(leader, finding, answers="\n\n\ny\n")
    wait_until(lambda: world.cluster.wait_leader() is replica, "the promotion")


def said(facts: Facts, rule: str) -> list[dict[str, Any]]:
    """What is wrong by that rule."""
    findings = text.as_json(facts, judge(facts))["findings"]
    return [each for each in findings if each["rule"] == rule and each["state"] != "ok"]


# -------------------------------------------------------------------------------------------- parts that need no cluster


def facts_of(config: Config, **facts: Any) -> Facts:
    """Facts of which only those are known."""
    away = Unknown("it is not looked at here")
    known: dict[str, Any] = {
        "config": config, "program": "walkeeper", "version": "1", "uid": os.geteuid(), "servers_uid": os.geteuid(),
        "topology": away, "record": away, "patroni": away, "members": (), "store": away, "spool": away, "agent": away,
    }  # fmt: skip
    return Facts(**{**known, **facts})


def of(facts: Facts, rule: str) -> list[Finding]:
    return [finding for finding in judge(facts) if finding.rule.name == rule]


def surveyed(server: Postgres, directory: Path) -> Facts:
    config = config_of(server, "n1", directory)
    client = Server(config.postgresql, 5)
    try:
        found = servers.survey(client, HOLD_SLOT)
    finally:
        client.close()
    member = MemberFacts(name="n1", leads=True, here=True, server=found)
    return facts_of(config, members=(member,))


@pytest.mark.postgres
def test_a_server_without_wal_to_stream(make_postgres: Callable[..., Postgres], tmp_path: Path) -> None:
    """Patroni itself refuses these settings: hence a server without it."""
    server = make_postgres(settings={"wal_level": "minimal", "max_wal_senders": "0"})
    server.replication_role()
    facts = surveyed(server, tmp_path)
    assert [finding.text for finding in of(facts, "wal_level")] == ["wal_level is minimal"]
    assert [finding.state for finding in of(facts, "max_wal_senders")] == ["error"]
    assert "max_wal_senders" in of(facts, "replication_allowed")[0].text
    assert "--pg max_wal_senders=10" in of(facts, "replication_allowed")[0].fix[0]


@pytest.mark.postgres
@pytest.mark.skipif(18 not in all_postgres(), reason="PostgreSQL 18 is not here")
def test_slots_that_are_invalidated_for_being_idle(make_postgres: Callable[..., Postgres], tmp_path: Path) -> None:
    server = make_postgres(bin_dir=postgres_bin(18), settings={"idle_replication_slot_timeout": "1d"})
    prepare(server)
    facts = surveyed(server, tmp_path)
    assert [finding.text for finding in of(facts, "idle_replication_slot_timeout")] == [
        "idle_replication_slot_timeout is 1d, and the hold slot is idle by design"
    ]


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, s3: ScriptedS3) -> Config:
    path = tmp_path / "patroni.yml"
    path.touch(mode=0o600)
    path.write_text(
        f"scope: demo\nname: n1\netcd3: {{host: '127.0.0.1:9'}}\npostgresql: {{data_dir: {tmp_path}/data}}\n"
        f"walkeeper: {{store: {{directory: {tmp_path}}}}}\n"
    )
    return replace(load(path, {}), store=s3.settings())


RECORD: Final = Record(
    system_identifier="7", segment_size=MIB, timeline=1, lsn="0/900000", start="000000010000000000000003", owner="n1",
    session="s",
)  # fmt: skip


@pytest.mark.real_clock
def test_a_good_bucket_is_good_and_one_that_lacks_the_frontier_is_another(config: Config, s3: ScriptedS3) -> None:
    facts = facts_of(config, store=gather._store(config, RECORD))
    states = {finding.rule.name: finding.state for finding in judge(facts) if finding.rule.area == "Store"}
    assert states.pop("store_is_the_same") == "error"  # the record says that segments are archived; here is none
    assert states.pop("store_keeps_versions") == "unknown"  # this server has no such question
    assert set(states.values()) == {"ok"}
    assert s3.objects == {}


RETENTION = "<Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>30</Days></DefaultRetention></Rule>"


@pytest.mark.parametrize(
    ("versioning", "lock", "says"),
    [
        ("", "", "is gone"),
        ("<Status>Suspended</Status>", "", "is gone"),
        ("<Status>Enabled</Status>", "", "versions are kept"),
        (
            "<Status>Enabled</Status>",
            f"<ObjectLockEnabled>Enabled</ObjectLockEnabled>{RETENTION}",
            "for 30 days (COMPLIANCE)",
        ),
    ],
)
def test_whether_the_bucket_keeps_what_somebody_deletes(
    config: Config, s3: ScriptedS3, versioning: str, lock: str, says: str
) -> None:
    s3.bucket_settings["versioning"] = f"<VersioningConfiguration>{versioning}</VersioningConfiguration>"
    if lock:
        s3.bucket_settings["object-lock"] = f"<ObjectLockConfiguration>{lock}</ObjectLockConfiguration>"
    (finding,) = of(facts_of(config, store=gather._store(config, RECORD)), "store_keeps_versions")
    assert finding.state == ("warning" if says == "is gone" else "ok")
    assert says in finding.text


@pytest.mark.parametrize(
    ("make", "rule", "says"),
    [
        (lambda s3: setattr(s3, "honours_condition", False), "store_creates_only", "it overwrites objects"),
        (lambda s3: setattr(s3, "accepted_key", "another"), "store_allows", "InvalidAccessKeyId"),
        (lambda s3: s3.always("PUT", refuse(503, "SlowDown")), "store_answers", "SlowDown"),
        (lambda s3: setattr(s3, "bucket", "another"), "store_answers", "NoSuchBucket"),
    ],
)
def test_a_bucket_that_is_not_good_for_it(
    config: Config, s3: ScriptedS3, make: Callable[[ScriptedS3], None], rule: str, says: str
) -> None:
    make(s3)
    facts = facts_of(config, store=gather._store(config, RECORD))
    (finding,) = of(facts, rule)
    assert (finding.state, finding.fix[-1].startswith("aws s3 ls --endpoint-url http")) == ("error", True)
    assert says in finding.text
    assert not any(each.state == "ok" for each in (*of(facts, "store_is_the_same"), *of(facts, "no_gaps")))


@pytest.mark.parametrize(("seconds", "state"), [(1000, "error"), (-1000, "error"), (100, "warning"), (0, "ok")])
def test_a_clock_that_the_store_does_not_share(
    config: Config, monkeypatch: pytest.MonkeyPatch, seconds: float, state: str
) -> None:
    really = time.time
    monkeypatch.setattr("walkeeper.lib.clock.wall_seconds", lambda: really() + seconds)
    found = here.look_at_store(config, None)
    assert [finding.state for finding in of(facts_of(config, store=found), "store_clock")] == [state]


def test_a_store_that_hangs_hangs_nobody(config: Config, s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "STORE_SECONDS", 0.3)
    s3.always("PUT", deaf)
    slow = s3.settings(read_timeout=Seconds(20))
    found = gather._store(replace(config, store=slow), RECORD)
    assert isinstance(found, StoreFacts)
    assert [finding.state for finding in of(facts_of(config, store=found), "store_answers")] == ["error"]
    assert [finding.state for finding in of(facts_of(config, store=found), "no_gaps")] == ["unknown"]


def test_a_directory_that_is_no_store_is_an_answer(config: Config, tmp_path: Path) -> None:
    away = replace(config, store=DirectorySettings(tmp_path / "nowhere"))
    facts = facts_of(away, store=gather._store(away, None))
    assert of(facts, "store_answers")[0].state == "error"
    assert str(tmp_path / "nowhere") in of(facts, "store_answers")[0].fix[-1]


def patroni_yml(directory: Path, etcd: Etcd, **credentials: str) -> Config:
    path = directory / "patroni.yml"
    path.touch(mode=0o600)
    whole = {
        "scope": "demo", "name": "n1", "etcd3": {"host": etcd.host, **credentials},
        "postgresql": {"data_dir": str(directory / "data")}, "walkeeper": {"store": {"directory": str(directory)}},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(whole))
    return load(path, {})


def test_a_dcs_that_may_only_be_read(tmp_path: Path) -> None:
    with Etcd() as etcd:
        etcd.put("/service/demo/walkeeper", RECORD.encode())
        config = patroni_yml(tmp_path, etcd)
        assert gather._look_at_dcs(config)[3] == ""
        assert etcd.get("/service/demo/walkeeper") == RECORD.encode()
        etcd.require_password("right")
        etcd.add_user("reader", "pw", {"/service/demo/": "READ"})
        config = patroni_yml(tmp_path, etcd, username="reader", password="pw")
        problem, topology, found, refused = gather._look_at_dcs(config)
        assert problem is None
        facts = facts_of(config, topology=topology, record=gather._decoded(found)[0], compare_and_set=refused)
        (finding,) = of(facts, "compare_and_set")
        assert finding.state == "error"
        assert "permission denied" in finding.text
        program = etcd_program()
        if program is None or not program.with_name("etcdctl").exists():
            pytest.skip("no etcdctl beside etcd")
        line = finding.fix[-1].replace("PATRONIS_ROLE", "reader")
        login = {"ETCDCTL_ENDPOINTS": etcd.url, "ETCDCTL_USER": "root:right"}
        subprocess.run(shlex.split(line), env={"PATH": str(program.parent), **login}, check=True, timeout=30)
        assert gather._look_at_dcs(config)[3] == ""


def test_etcd_that_nobody_compacts_is_told_of_until_the_fix_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps each version of the record. Whoever may do no more than walkeeper sees it, too."""
    monkeypatch.setattr(dcs, "REVISIONS", 3)
    with Etcd() as etcd:
        config = patroni_yml(tmp_path, etcd)

        def found() -> Finding:
            room = gather._room(config)
            assert room is not None
            assert room.stored > 0
            assert room.quota == QUOTA
            (finding,) = of(facts_of(config, dcs_room=room), "etcd_has_room")
            return finding

        assert found().state == "ok", "it is new"
        for _ in range(16):
            etcd.put("/service/demo/walkeeper", b"x" * (MIB // 4))
        assert found().state == "warning"
        etcd.require_password("right")
        etcd.add_user("walkeeper", "pw", least_rights("demo"))
        config = patroni_yml(tmp_path, etcd, username="walkeeper", password="pw")
        finding = found()
        assert finding.state == "warning"
        program = etcd_program()
        if program is None or not program.with_name("etcdctl").exists():
            pytest.skip("no etcdctl beside etcd")
        login = {"ETCDCTL_ENDPOINTS": etcd.url, "ETCDCTL_USER": "root:right"}
        for line in finding.fix[1:]:
            subprocess.run(shlex.split(line), env={"PATH": str(program.parent), **login}, check=True, timeout=30)
        assert found().state == "ok"
        room = gather._room(config)
        assert room is not None
        assert room.stored < MIB, "what was compacted is given back"


def test_a_dcs_that_is_down_is_said_once_and_hides_nothing(tmp_path: Path) -> None:
    with Etcd(start=False) as etcd:
        problem, topology, found, refused = gather._look_at_dcs(patroni_yml(tmp_path, etcd))
    assert isinstance(problem, DcsUnavailable)
    assert all(isinstance(each, Unknown) for each in (topology, found, refused))


class _Api(BaseHTTPRequestHandler):
    """Patroni's REST API with a password, as far as a PATCH goes."""

    def do_PATCH(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        allowed = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"u:p").decode()
        self.server.bodies.append(body if allowed else None)  # type: ignore[attr-defined]
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not to standard error."""


@pytest.mark.parametrize("password", ["p", "wrong"])
def test_the_rest_api_is_used_with_patronis_own_password(tmp_path: Path, password: str) -> None:
    api = HTTPServer(("127.0.0.1", 0), _Api)
    api.bodies = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=api.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    path = tmp_path / "patroni.yml"
    path.write_text(f"restapi: {{authentication: {{username: u, password: {password}}}}}\n")
    url = f"http://127.0.0.1:{api.server_address[1]}/patroni"
    try:
        if password == "p":
            change_dynamic(path, url, {"a": 1})
        else:
            with pytest.raises(DcsError, match="401"):
                change_dynamic(path, url, {"a": 1})
    finally:
        api.shutdown()
        api.server_close()
        thread.join()
    assert api.bodies == [b'{"a": 1}' if password == "p" else None]  # type: ignore[attr-defined]
    with pytest.raises(DcsUnavailable):
        change_dynamic(path, url, {"a": 1})
