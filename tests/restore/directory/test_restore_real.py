"""Base backups of a real server, restored to every kind of target, into whatever lies there, and started as people are told to.

All restores but the first go into one directory with --delta, over what the one before has left: a server that was killed.
"""

from __future__ import annotations

import json
import shlex
import signal
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fixtures.bare_host import BareHost, forget_crash
from tests.fixtures.taken import Place, clock_goes_back
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until
from walkeeper.archive import proofs
from walkeeper.archive.open import open_archives
from walkeeper.config import load
from walkeeper.core.backup import Backup
from walkeeper.core.lsn import Lsn
from walkeeper.core.proof import Proof
from walkeeper.errors import CannotRestore, WalkeeperError
from walkeeper.lib.clock import timestamp
from walkeeper.restore import state
from walkeeper.restore.directory import check, choice, here, plan
from walkeeper.restore.directory.model import Request

pytestmark = pytest.mark.postgres

BITES: Final = """
include '/nowhere/else.conf'
data_directory = '/nowhere'
hba_file = '/nowhere/pg_hba.conf'
listen_addresses = '192.0.2.1'
ssl = on
archive_mode = on
archive_command = '/bin/false'
synchronous_standby_names = '*'
primary_conninfo = 'host=192.0.2.1'
recovery_target_name = 'another'
logging_collector = on
log_directory = '/nowhere/log'
"""
"""What Patroni's postgresql.conf has, and what would keep a server from starting, or let it act, on another host."""


class Life:
    """One server's, archived: two backups, and a point between two commits."""

    def __init__(self, server: Postgres) -> None:
        self.server, self.place = server, Place(server)
        self.space = new_directory("ts")
        server.execute(f"CREATE TABLESPACE elsewhere LOCATION '{self.space}'")
        server.execute("CREATE TABLE said (word text) TABLESPACE elsewhere")
        with (server.data / "postgresql.conf").open("a") as conf:
            conf.write(BITES)
        server.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.say("a")
        self.older = self.take()
        self.say("b")
        self.lsn = str(server.value("SELECT pg_current_wal_insert_lsn()"))
        server.execute("SELECT pg_create_restore_point('here'), pg_create_restore_point('twice')")
        self.time = str(server.value("SELECT clock_timestamp()"))
        self.xid = self.say("c")
        clock_goes_back(server)
        self.place.archive_wal()
        self.newer = self.take()
        self.say("d")
        server.execute("SELECT pg_create_restore_point('twice')")
        self.place.archive_wal()
        self.fork()
        self.say("e")
        self.place.archive_wal()
        server.stop()

    def say(self, word: str) -> int:
        """Returns the transaction's number."""
        return int(self.server.value(f"INSERT INTO said VALUES ('{word}') RETURNING pg_current_xact_id()::text"))

    def take(self) -> Backup:
        assert self.place.take() == 0
        return self.place.taken()

    def fork(self) -> None:
        """The server goes on on timeline 2, and with higher limits, at which the recovery of an older backup pauses that lacks them."""
        self.server.stop()
        (self.server.data / "postgresql.auto.conf").write_text("")
        self.server.configure(
            {"restore_command": "/bin/false", "max_connections": "60", "max_locks_per_transaction": "99"}
        )
        (self.server.data / "recovery.signal").touch()
        self.server.start()
        wait_until(lambda: not self.server.value("SELECT pg_is_in_recovery()"), "the promotion")


class Restored(BareHost):
    """A data directory that ``walkeeper restore`` writes, and the server that its printed command starts."""

    def __init__(self, life: Life) -> None:
        super().__init__(life.place)
        self.space = self.directory / "space"
        self.words = ["restore", "--data-dir", str(self.data), f"--tablespace={life.space}={self.space}"]

    def restore(self, *arguments: str) -> dict[str, Any]:
        told = self.run(*self.words, *arguments, "--json")
        assert told.returncode == 0, told.stdout + told.stderr
        return dict(json.loads(told.stdout))

    def said(self, *, paused: bool) -> str:
        """All words, once the recovery is where it should end."""
        ended = "pg_get_wal_replay_pause_state() = 'paused'" if paused else "NOT pg_is_in_recovery()"
        wait_until(lambda: self.value(f"SELECT {ended}"), "the end of the recovery", logs=[self.data / "walkeeper.log"])
        return str(self.value("SELECT string_agg(word, '' ORDER BY word) FROM said"))


@pytest.fixture(scope="module")
def life() -> Iterator[Life]:
    with Postgres(new_directory("p")) as server:
        yield Life(server)


@pytest.fixture(scope="module")
def restored(life: Life) -> Iterator[Restored]:
    found = Restored(life)
    yield found
    found.host.kill9()


@pytest.fixture(autouse=True)
def _kill(restored: Restored) -> Iterator[None]:
    yield
    restored.host.kill9()


def test_p14_what_is_restored_is_what_postgresql_sent(life: Life, restored: Restored) -> None:
    done = restored.restore("--delta", "--backup", life.older.id)
    backups = life.place.backups
    (restored.data / "backup_manifest").write_bytes(backups.read_document(life.older, "manifest", life.older.manifest))
    changed = (
        "postgresql.auto.conf",
        "recovery.signal",
        "tablespace_map",
        state.NAME,
        "walkeeper.conf",
        "walkeeper_hba.conf",
    )
    restored.host.run(
        [life.server.bin_dir / "pg_verifybackup", "-n", *(f"--ignore={name}" for name in changed), restored.data]
    )
    assert done["outcome"] == "restored"
    again = restored.restore("--delta", "--backup", life.older.id)
    assert again["fetched_bytes"] + again["kept_bytes"] > life.older.bytes / 2
    assert again["kept_bytes"] > life.older.bytes / 2  # PostgreSQL's own headers are known to the byte


@pytest.mark.parametrize(
    ("arguments", "words", "backup"),
    [
        (["--to", "latest"], "abcde", "newer"),
        pytest.param(["--to", "latest", "--timeline", "1"], "abcd", "newer", marks=pytest.mark.slow),
        (["--to", "{time}"], "ab", "older"),
        (["--to", "{lsn}"], "ab", "older"),
        pytest.param(["--to", "here"], "ab", "older", marks=pytest.mark.slow),
        pytest.param(["--to", "{xid}", "--backup", "{older}"], "abc", "older", marks=pytest.mark.slow),
        (["--to", "{xid}", "--exclusive", "--action", "promote"], "ab", "older"),
        pytest.param(["--to", "immediate", "--backup", "{older}"], "a", "older", marks=pytest.mark.slow),
    ],
    ids=["latest", "dead branch", "time", "position", "name", "transaction", "before it", "immediate"],
)
def test_every_target_ends_where_a_person_means(
    life: Life, restored: Restored, arguments: list[str], words: str, backup: str
) -> None:
    known = {"time": life.time, "lsn": life.lsn, "xid": life.xid, "older": life.older.id}
    done = restored.restore("--delta", *(each.format(**known) for each in arguments))
    assert done["backup"] == getattr(life, backup).id
    restored.start(done)
    paused = done["recovery"].get("recovery_target_action") == "pause"
    assert restored.said(paused=paused) == words
    assert restored.value("SHOW archive_mode") == "off"
    if paused:
        restored.value("SELECT 1 FROM pg_wal_replay_resume()")
        assert restored.said(paused=False) == words


def test_a_name_that_is_there_twice_is_where_it_was_told_also_from_an_older_backup(
    life: Life, restored: Restored
) -> None:
    note = Proof(backup=life.newer.id, at=timestamp(), timeline=1, lsn="0/0", damage="pg_checksums: block 7")
    store = open_archives(life.place.config).store
    key = proofs.write_proof(store, life.place.layout, note)
    try:
        done = restored.restore("--delta", "--to", "twice")
    finally:
        store.delete(key)
    assert done["backup"] == life.older.id
    restored.start(done)
    assert restored.said(paused=True) == "abcd"


@pytest.mark.slow
def test_the_last_position_of_the_archive_can_be_named(restored: Restored) -> None:
    """No record begins there: PostgreSQL itself would not know where to stop."""
    end = restored.restore("--dry-run", "--delta")["end"]
    done = restored.restore("--delta", "--to", end)
    restored.start(done)
    assert restored.said(paused=True) == "abcde"


@pytest.mark.slow
def test_p14_killed_anywhere_postgresql_refuses_it_and_the_same_command_goes_on(life: Life) -> None:
    fresh = Restored(life)
    refused = 0
    for number in range(60):
        process = fresh.begin(*fresh.words, "--to", life.time)
        note = fresh.data / state.NAME
        wait_until(lambda: note.exists() or not process.alive, "the first step", interval=0.001)  # noqa: B023
        try:
            process.wait(timeout=0.01 + 0.02 * number)
        except TimeoutError:
            process.send(signal.SIGKILL)
            process.wait()
        if (fresh.data / "global" / "pg_control").exists():
            break
        refused += 1
    assert refused > 1
    done = fresh.restore("--to", life.time)
    assert done["backup"] == life.older.id
    fresh.start(done)
    assert fresh.said(paused=True) == "ab"
    fresh.host.kill9()


def test_a_disk_that_takes_no_more_ends_it_in_one_line_and_the_same_command_goes_on(life: Life) -> None:
    """The kernel refuses files beyond 64 KiB, as a full disk or a quota does."""
    restored = Restored(life)
    environment = restored.host.environment(restored.env)
    command = f"ulimit -f 128; exec {shlex.join(restored.command(*restored.words))}"
    failed = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, env=environment)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert f"{restored.data}: " in failed.stderr
    assert "File too large" in failed.stderr
    assert "the same command goes on" in " ".join(failed.stderr.split())
    assert not (restored.data / "global/pg_control").exists()
    restored.start(restored.restore())
    assert restored.said(paused=False) == "abcde"
    restored.host.kill9()


def test_what_cannot_end_well_is_refused_before_a_byte_is_written(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Restored(life)
    config = replace(load(fresh.config, {}), bin_dir=life.server.bin_dir)
    for request, reason in [
        (Request(to="0/100"), "before the stop of the oldest complete backup"),
        (Request(to="F/0"), "beyond .*, up to where WAL is stored"),
        (Request(to="2020-01-01 00:00Z"), "before the stop of the oldest complete backup"),
        (Request(to="2100-01-01 00:00Z"), "no transaction ended after that"),
        (Request(to="2026-02-31 00:00"), "not a target"),
        (Request(to="latest", action="pause"), "--action pause"),
        (Request(to="here", exclusive=True), "--exclusive"),
        (Request(to="nowhere"), "not in the archive after"),
        (Request(to="4000000000"), "not in the archive after"),
        (Request(backup="20200101T000000Z-00000001-00000000"), "not in the archive"),
        (Request(backup=life.newer.id, to=life.lsn), "everything from"),
        (Request(timeline="9"), "knows no history"),
        (Request(tablespaces=("7=/x",)), "no such tablespace"),
        (Request(tablespaces=(f"{life.space}={fresh.data}/inside",)), "lies in another"),
        (Request(system_identifier=7), "no archive of system identifier 7"),
        (Request(scope="other"), "no archive"),
        (Request(use="replica"), "where the archive ends is not known"),
        (Request(use="replica", to="immediate"), "has everything"),
        (Request(use="replica", scope="other"), "has everything"),
        (Request(use="bootstrap", action="pause", to="immediate"), "Patroni waits"),
    ]:
        with pytest.raises(WalkeeperError, match=reason) as told:
            plan.make(config, replace(request, directory=fresh.data))
        assert told.value.hint
    assert not fresh.data.exists()
    request = Request(directory=fresh.data, tablespaces=(f"{life.space}={fresh.space}",))
    here.check_place(plan.make(config, request))
    elsewhere = replace(config, scope="mine", node=replace(config.node, data_dir=of_another_cluster(fresh.data.parent)))
    assert plan.make(elsewhere, replace(request, scope="demo")).clone_of.endswith(f"/{life.place.root.name}/")
    assert not plan.make(config, replace(request, scope="demo")).clone_of
    with monkeypatch.context() as patched:  # without a DCS nobody knows where the archive ends
        patched.setattr(choice, "check_replica", lambda *_: None)
        assert plan.make(config, replace(request, use="replica")).recovery == {}  # no timeline: it follows each leader
    bootstrap = plan.make(config, replace(request, to=life.lsn, use="bootstrap"))
    assert bootstrap.recovery["recovery_target_action"] == "promote"
    fresh.data.mkdir()
    (fresh.data / "something").touch()
    for delta, reason in ((False, "not empty"), (True, "not a data directory")):
        with pytest.raises(CannotRestore, match=reason):
            here.check_place(plan.make(config, replace(request, delta=delta)))
    assert [path.name for path in fresh.data.iterdir()] == ["something"]


def of_another_cluster(directory: Path) -> Path:
    """A member's data directory, as far as it is looked at."""
    data = directory / "member"
    (data / "global").mkdir(parents=True)
    (data / "global" / "pg_control").write_bytes(struct.pack("=QI", 4711, 1300) + bytes(8000))
    return data


def test_doctor_says_whether_this_host_can_restore(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Restored(life)
    config = replace(load(fresh.config, {}), bin_dir=life.server.bin_dir)
    good = {each.name: each for each in check.look(config, fresh.data)}
    assert {each.state for each in good.values()} == {"ok"}
    assert list(good) == ["User", "Script", "Backup", "Programs", "Key", "Room"]
    assert life.newer.id in good["Backup"].text
    monkeypatch.setattr(here, "_SPARE", 1 << 60)
    (room,) = [each for each in check.look(config, fresh.data) if each.state != "ok"]
    assert (room.name, room.state) == ("Room", "error")
    assert "are free" in room.text
    life.place.store.rename(life.place.store.with_name("away"))
    (unknown,) = [each for each in check.look(config, fresh.data) if each.state != "ok"]
    life.place.store.with_name("away").rename(life.place.store)
    assert (unknown.name, unknown.hint != "") == ("Backup", True)
    assert not fresh.data.exists()


def test_before_a_hole_everything_up_to_it_can_be_restored_and_nothing_behind_it(
    life: Life, restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_ON_ITS_WAY", 0)
    config = replace(load(restored.config, {}), bin_dir=life.server.bin_dir)
    forget_crash(restored.data)
    request = Request(directory=restored.data, tablespaces=(f"{life.space}={restored.space}",), delta=True)
    whole = plan.make(config, request)
    assert whole.end is not None
    number = Lsn.parse(life.newer.stop.lsn) // life.place.size + 1
    (lost,) = (life.place.root / "wal").glob(f"*/00000001{number:016X}.zst")
    away = lost.with_name("away")
    lost.rename(away)
    try:
        with pytest.raises(CannotRestore, match="not whole") as told:
            plan.make(config, request)
        assert str(Lsn(number * life.place.size)) in told.value.hint
        with pytest.raises(CannotRestore, match="beyond"):
            plan.make(config, replace(request, to=str(whole.end)))
        done = restored.restore("--delta", "--to", str(Lsn(number * life.place.size)))
        assert done["recovery"]["recovery_prefetch"] == "off"
        restored.start(done)
        assert restored.said(paused=True) in ("abc", "abcd")
    finally:
        away.rename(lost)


@pytest.mark.slow
def test_another_clusters_archive_in_the_same_store(restored: Restored) -> None:
    restored.config.write_text(restored.config.read_text().replace("scope: demo", "scope: other"))
    try:
        done = restored.restore("--delta", "--from", "demo")
        restored.start(done)
        assert restored.said(paused=False) == "abcde"
    finally:
        restored.config.write_text(restored.config.read_text().replace("scope: other", "scope: demo"))
