"""What docs/operations.md tells people to do, done on a real server, a real etcd and a real agent."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.fixtures.agents import SIZE, Machine
from tests.fixtures.worlds import HOLD_SLOT, prepare
from tests.parts.etcd import Etcd
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until
from walkeeper.agent.archiver import audit
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.config import load
from walkeeper.doctor import gather, rules
from walkeeper.doctor.rule import Finding, judge
from walkeeper.store.directory import DirectoryStore

pytestmark = pytest.mark.postgres
_serial = itertools.count(1)


@pytest.fixture
def server() -> Iterator[Postgres]:
    with Postgres(
        new_directory("o") / "pg", auth="scram-sha-256", settings={"min_wal_size": "2MB", "max_wal_size": "8MB"}
    ) as running:
        prepare(running)
        yield running


@pytest.fixture
def machine(server: Postgres, etcd: Etcd) -> Iterator[Machine]:
    """In a cluster of its own."""
    with closing(Machine(f"cluster{next(_serial)}", server, etcd)) as made:
        yield made


def archive_of(machine: Machine, store: Path) -> Archive:
    return Archive(DirectoryStore(store), Layout(machine.scope, None, machine.server.system_identifier), SIZE, Codec())


def unbroken(machine: Machine, store: Path) -> bool:
    """Whether that store by itself has everything from its stated start to the record's frontier."""
    record = machine.record
    history = archive_of(machine, store).contents.history(machine.server.timeline())
    assert record is not None
    assert history is not None
    return archive_of(machine, store).contents.frontier(history) == record.position


def verified(machine: Machine) -> str:
    """What ``walkeeper verify`` prints; it must exit 0."""
    return machine.host.run(
        [sys.executable, "-m", "walkeeper", "-c", machine.config, "verify"], env=machine.environment()
    )


def test_moving_the_archive_to_another_store_loses_nothing(machine: Machine) -> None:
    with machine.start():
        machine.wait_owned()
        machine.wait_archived(3)
    machine.server.complete_segments(3)  # nobody archives; the hold slot keeps them
    target = machine.directory / "other"
    shutil.copytree(machine.store, target)
    machine.walkeeper["store"] = {"directory": str(target)}
    machine.configure()
    before = machine.stored()
    with machine.start():
        machine.wait_owned()
        machine.wait_archived(2)
        assert machine.stored() == before, "the old one is left as it was"
        wait_until(lambda: unbroken(machine, target), "the record to say what is stored")
        assert archive_of(machine, target).contents.gaps() == []
        assert "Sound" in verified(machine)


def test_restarting_the_agent_under_load_loses_nothing(machine: Machine) -> None:
    for _ in range(3):
        with machine.start():
            machine.wait_archived(2)
        machine.server.complete_segments(2)
    with machine.start():
        machine.wait_archived(1)
        wait_until(lambda: unbroken(machine, machine.store), "the record to say what is stored")
        assert archive_of(machine, machine.store).contents.gaps() == []


def test_a_slot_that_was_limited_costs_a_recorded_gap_and_no_more(machine: Machine) -> None:
    server = machine.server
    with machine.start():
        machine.wait_owned()
        machine.wait_archived(2)
    server.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '2MB'")
    server.execute("SELECT pg_reload_conf()")
    server.complete_segments(12)
    server.checkpoint()

    def invalidated() -> bool:
        (status,) = server.execute("SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", [HOLD_SLOT])[0]
        return bool(status == "lost")

    wait_until(invalidated, "the slot to be invalidated")
    server.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
    server.execute("SELECT pg_reload_conf()")
    server.execute("SELECT pg_drop_replication_slot(%s)", [HOLD_SLOT])
    server.physical_slot(HOLD_SLOT)  # as Patroni does by itself
    with machine.start():
        machine.wait_says("gap timeline=1", 60)
        machine.wait_archived(2, 60)
        assert len(archive_of(machine, machine.store).contents.gaps()) == 1
        (finding,) = no_gaps(machine)
        report = wait_until(
            lambda: [
                each for each in (machine.report() or {"troubles": []})["troubles"] if "gap accept" in each["hint"]
            ],
            "the agent's word",
        )
        typed = typed_of(report[0]["hint"], "gap accept")
        assert typed[-1] == finding.fix[-1].split()[-1], "doctor and the agent name the same one"
        assert "accepted" in machine.host.run([*walkeeper(machine), *typed], env=machine.environment())
        assert no_gaps(machine) == []


def no_gaps(machine: Machine) -> list[Finding]:
    """What doctor says of them."""
    assert rules.store  # imported, and so registered
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WALKEEPER_RUN_DIR", str(machine.run_directory))
        findings = judge(gather.gather(load(machine.config, {})))
    return [each for each in findings if each.rule.name == "no_gaps" and each.state != "ok"]


def walkeeper(machine: Machine) -> list[str]:
    return [sys.executable, "-m", "walkeeper", "-c", str(machine.config)]


def typed_of(hint: str, command: str) -> list[str]:
    """The words after the program's name, as a hint prints them."""
    found = re.search(rf"walkeeper ({command}[^ ,.;]*(?: [^ ,.;]+)?)", hint)
    assert found, hint
    return found[1].split()


def test_an_object_that_somebody_deleted_is_handed_in_as_the_hint_says(machine: Machine) -> None:
    with machine.start():
        machine.wait_owned()
        machine.wait_archived(2)
        lost = machine.stored()[-1]
        (path,) = machine.store.rglob(f"{lost}.zst")
        path.unlink()
        program, file = typed_of(audit._HINT, "archive-push")
        typed = [*walkeeper(machine), program, file.replace("SEGMENT", lost)]
        there = shlex.join(["cd", str(machine.server.data)])
        machine.host.run(["sh", "-c", f"{there} && {shlex.join(typed)}"], env=machine.environment())
        assert lost in machine.stored()
        assert "Sound" in verified(machine)


def accept(machine: Machine) -> str:
    """What the command says that the hint names."""
    typed = typed_of(machine.wait_says("takeover_failed reason=wrong_cluster"), "takeover")
    assert typed == ["takeover", "--accept"]
    return machine.host.run([*walkeeper(machine), *typed], env=machine.environment())


def test_after_a_major_upgrade_a_new_archive_begins_when_a_person_says_so_and_the_old_one_goes_on_after_a_rollback(
    machine: Machine,
) -> None:
    with machine.start():
        machine.wait_owned()
        machine.wait_archived(2)
    old = machine.stored()
    with Postgres(new_directory("o") / "upgraded", auth="scram-sha-256") as upgraded:
        prepare(upgraded)
        machine.server, before = upgraded, machine.server
        machine.configure()
        machine.lead("a")
        with machine.start():
            machine.wait_says("takeover_failed reason=wrong_cluster")
            assert "HINT" in machine.wait_says("takeover_failed")
            assert "wrong_cluster" in accept(machine)
            machine.wait_archived(2, 60)
            wait_until(lambda: unbroken(machine, machine.store), "the record to say what is stored")
        machine.server = before
        assert machine.stored() == old
        machine.configure()
        machine.log.write_text("")
        with machine.start():
            machine.wait_says("takeover_failed reason=wrong_cluster")
            assert "wrong_cluster" in accept(machine)
            machine.wait_archived(2, 60)
            wait_until(lambda: unbroken(machine, machine.store), "the record to say what is stored")
            assert archive_of(machine, machine.store).contents.gaps() == []
            assert machine.stored()[: len(old)] == old
