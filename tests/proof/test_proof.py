"""The scratch directory, the programs' answers, and what a proof leaves in the store; without a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest

from tests.fixtures.made_backup import ID, LAYOUT, config, made, plan
from tests.parts.processes import wait_until
from tests.twins.memory_store import MemoryStore
from walkeeper.archive import proofs
from walkeeper.archive.open import open_archives
from walkeeper.archive.proofs import newest_proof, write_proof
from walkeeper.core import backup_job
from walkeeper.core import proof as core_proof
from walkeeper.core.floor import moment
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.proof import Proof
from walkeeper.errors import (
    BadBackup,
    CannotRestore,
    CannotTell,
    PostgresError,
    StoreDenied,
    StoreError,
    StoreUnavailable,
)
from walkeeper.lib import events, retry
from walkeeper.postgres.scratch import ScratchServer
from walkeeper.postgres.server import Server
from walkeeper.proof import command, modest, place
from walkeeper.proof import found as remembered
from walkeeper.proof.found import Check, Found, joined, remember
from walkeeper.restore.state import NAME, State, encode
from walkeeper.store.directory.keys import DirectorySettings

PROOF = Proof(backup=str(ID), at="2026-11-28T10:15:00Z", timeline=3, lsn="0/5000028", by="here")


def scratch_server(directory: Path, **programs: str) -> ScratchServer:
    """With those programs, each a line of shell behind what says its version."""
    for name, line in programs.items():
        path = directory / name
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{name} (PostgreSQL) 15.4" && exit\n{line}\n')
        path.chmod(0o755)
    return ScratchServer(directory, 15, directory, directory / "conf", directory, directory, SegmentSize(MIB))


@pytest.mark.parametrize(
    ("line", "state", "text"),
    [
        ("exit 0", "ok", ""),
        ("echo 'heap table \"t\", block 0: broken'; exit 2", "damage", 'heap table "t", block 0: broken'),
        ("echo 'connection refused' >&2; exit 1", "unsure", "it ended with exit code 1: connection refused"),
        ("kill -9 $$", "unsure", "it was ended by signal 9"),
        ("echo 'WARNING: another libc' >&2; echo t; echo ' torn'; exit 2", "damage", "t / torn"),
        ("seq 1 9; exit 2", "damage", "1 / 2 / 3 / 4 / 5 / and 4 lines more"),
    ],
)
def test_what_pg_amcheck_finds_is_damage_and_that_it_cannot_look_is_not(
    tmp_path: Path, line: str, state: str, text: str
) -> None:
    found = command._relations(scratch_server(tmp_path, pg_amcheck=line), "postgres")
    assert (found.state, found.text) == (state, text)


LACKS = (
    'btree index "a.public.i":\n    ERROR:  could not access file "$libdir/citext": No such file or directory\n',
    'btree index "a.public.j":\n    ERROR:  could not load library "x.so": x.so: no symbol\n    HINT:  look\n',
)
TORN = 'heap table "a.public.t", block 0, offset 1:\n    data begins beyond the tuple\n'


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("".join(LACKS), "unsure"),
        (LACKS[0] * 1000, "unsure"),
        (TORN + "".join(LACKS) * 1000, "damage"),
        ("".join(LACKS) + TORN, "damage"),
        (TORN, "damage"),
        ("", "damage"),
    ],
)
def test_an_extension_that_this_host_lacks_is_no_damage(tmp_path: Path, said: str, state: str) -> None:
    (tmp_path / "said").write_text(said)
    server = scratch_server(tmp_path, pg_amcheck=f"cat {tmp_path}/said; exit 2")
    assert command._relations(server, "postgres").state == state


@pytest.mark.parametrize("line", ["kill -9 $$", "exit 137"])
def test_a_program_that_was_killed_has_found_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    store = MemoryStore()
    wanted = plan(made(store, checksums=True), store, tmp_path)
    monkeypatch.setattr(command, "with_retries", lambda _: b"{}")  # PostgreSQL's manifest
    server = scratch_server(tmp_path, pg_checksums=line, pg_verifybackup=line)
    assert command._pages(wanted, server).state == "unsure"
    assert command._as_sent(wanted, server, tmp_path).state == "unsure"
    scratch_server(tmp_path, pg_verifybackup="echo 'checksum mismatch' >&2; exit 1")
    found = command._as_sent(wanted, server, tmp_path)
    assert (found.state, found.text) == ("damage", "checksum mismatch")


def test_a_program_of_another_version_or_none_is_not_missed(tmp_path: Path) -> None:
    assert command._relations(scratch_server(tmp_path), "postgres").state == "absent"
    server = scratch_server(tmp_path, pg_amcheck="exit 2")
    (tmp_path / "pg_amcheck").write_text("#!/bin/sh\necho 'pg_amcheck (PostgreSQL) 14.1'\n")
    assert command._relations(server, "postgres").state == "absent"
    assert command._relations(scratch_server(tmp_path, pg_amcheck="exit 2"), None).state == "absent"


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    said = "echo 'LOG:  hello'; echo 'FATAL:  could not find X'; exit 1"
    with scratch_server(tmp_path, postgres=said) as server:
        assert server._child is not None
        server._child.wait()
        with pytest.raises(CannotTell, match="ended: FATAL:  could not find X"):
            server.ask("select 1", ["postgres"])


def test_a_server_that_crashed_does_not_start_again_and_says_by_what(tmp_path: Path) -> None:
    said = "echo \"$*\"; echo 'LOG:  server process (PID 7) was terminated by signal 11'; exit 1"
    with scratch_server(tmp_path, postgres=said) as server:
        assert server._child is not None
        server._child.wait()
        with pytest.raises(CannotTell, match="terminated by signal 11"):
            server.ask("select 1", ["postgres"])
    assert "-c restart_after_crash=off" in (tmp_path / "server.log").read_text()


def test_how_far_it_has_replayed_stands_in_its_log(tmp_path: Path) -> None:
    at = "LOG:  redo in progress, elapsed time: 1{}.00 s, current LSN: 0/00500{}28"  # as PostgreSQL 19 writes it
    said = "".join(f"echo '{at.format(number, number)}'; " for number in (1, 2))
    with scratch_server(tmp_path, postgres=f"{said}exit 1") as server:
        assert server._child is not None
        server._child.wait()
        assert server.replayed == "0/500228"
    with scratch_server(tmp_path, postgres="exit 1") as server:
        assert server.replayed == ""


def test_a_job_of_the_clusters_is_last_in_line_and_no_faster_than_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    now = 100.0
    monkeypatch.setattr(modest, "time", SimpleNamespace(monotonic=lambda: now, sleep=slept.append))
    store = MemoryStore()
    backup = plan(made(store), store, tmp_path).backup
    pace = modest.Pace(backup.id, backup.bytes, 1000)
    pace.moved(5000)
    now = 104.0
    pace.moved(6000)
    now = 200.0
    pace.moved(6000)
    assert slept == [5.0, 2.0, 0.0]
    slept.clear()
    modest.Pace(backup.id, backup.bytes, None).moved(10**12)
    assert slept == []
    said = (
        "import os\nfrom walkeeper.proof import modest\nmodest.be()\n"
        "print(os.getpriority(os.PRIO_PROCESS, 0), open('/proc/self/oom_score_adj').read(), end='')\n"
        "import shutil, subprocess\n"
        "print(subprocess.run(['ionice'], capture_output=True, text=True).stdout if shutil.which('ionice') else 'idle', end='')"
    )
    ran = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["19", "1000", "idle"]


@pytest.mark.parametrize(("job", "said"), [(True, True), (False, False)])
def test_what_a_job_finds_is_said_where_the_agent_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, job: bool, said: bool
) -> None:
    store = MemoryStore()
    wanted = plan(made(store), store, tmp_path)

    def prove(found: Found, *_: object) -> None:
        found.checks.append(Check("pg_amcheck", "damage", "torn"))

    monkeypatch.setattr(modest, "be", lambda: None)
    monkeypatch.setattr(command, "_planned", lambda *_: wanted)
    monkeypatch.setattr(command, "_prove", prove)
    here = config(tmp_path)
    uid = os.geteuid() or 1000
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr(command, "scratch", lambda *_: nullcontext(tmp_path))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(events, "to_stderr", lambda *_: None)
    assert command.main(here, command.Request(job=job)) == (backup_job.DAMAGED if job else 1)
    assert (f"walkeeper: backup {ID}: pg_amcheck: torn" in capsys.readouterr().err) == said


@pytest.mark.parametrize(
    ("broken", "noted"),
    [
        (("pg_amcheck",), ""),
        (("pg_verifybackup",), "pg_verifybackup: torn"),
        (("pg_amcheck", "pg_checksums"), "pg_checksums: torn"),
    ],
)
def test_p15_what_pg_amcheck_alone_finds_is_told_and_not_held_against_the_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: tuple[str, ...], noted: str
) -> None:
    """On a host with another libc it finds that in each backup, and expire would give up nothing any longer."""
    store = MemoryStore()
    wanted = plan(made(store), store, tmp_path)

    def prove(found: Found, *_: object) -> None:
        found.checks += [Check(name, "damage", "torn") for name in broken]

    uid = os.geteuid() or 1000
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr(command, "_planned", lambda *_: wanted)
    monkeypatch.setattr(command, "_prove", prove)
    monkeypatch.setattr(command, "scratch", lambda *_: nullcontext(tmp_path))
    text, code = command._work(config(tmp_path), command.Request())
    assert code == 1
    assert all(f"DAMAGE    {name}: torn" in text for name in broken)
    found = proofs.damaged(store, LAYOUT)
    assert [*found] == ([str(ID)] if noted else [])
    assert all(why.endswith(f": {noted}") for why in found.values())
    assert newest_proof(store, LAYOUT) is None


@pytest.mark.parametrize(
    ("found", "cleared"),
    [
        ({"pg_amcheck": "damage"}, True),
        ({"pg_amcheck": "unsure"}, True),
        ({"pg_verifybackup": "unsure", "pg_amcheck": "damage"}, False),
        ({"pg_amcheck": "damage", "pg_checksums": "damage"}, False),
    ],
)
def test_p15_damage_that_is_not_there_any_more_is_cleared_on_a_host_where_pg_amcheck_is_never_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], *, cleared: bool
) -> None:
    store = MemoryStore()
    wanted = plan(made(store), store, tmp_path)

    def prove(its: Found, *_: object) -> None:
        its.checks += [Check(name, state, "torn") for name, state in found.items()]

    uid = os.geteuid() or 1000
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr(command, "_planned", lambda *_: wanted)
    monkeypatch.setattr(command, "_prove", prove)
    monkeypatch.setattr(command, "scratch", lambda *_: nullcontext(tmp_path))
    text, _ = command._work(config(tmp_path), command.Request())
    assert "Cleared" not in text
    assert not cleared or [*store.list(LAYOUT.proofs)] == [], "there was nothing to clear"
    before = Proof(**{**_fields(PROOF), "at": "2026-11-28T11:00:00Z", "damage": "restore: a piece is torn"})
    write_proof(store, LAYOUT, before)
    text, code = command._work(config(tmp_path), command.Request())
    assert code == (1 if "damage" in found.values() else 2)
    assert ([*proofs.damaged(store, LAYOUT)] == []) == cleared
    assert ("Cleared" in text and "restore: a piece is torn" in " ".join(text.split())) == cleared
    assert newest_proof(store, LAYOUT) is None


Looked = Literal["ok", "damage", "unsure", "absent"]
BY_FILES, BY_PAGES = "pg_verifybackup", "pg_checksums"


@pytest.mark.parametrize(
    ("trials", "left"),
    [
        ([{BY_PAGES: "damage"}, {BY_FILES: "ok"}], [BY_PAGES]),
        ([{BY_PAGES: "damage"}, *[{BY_FILES: "ok"}] * 30], [BY_PAGES]),
        ([{BY_PAGES: "damage"}, {BY_FILES: "ok"}, {BY_PAGES: "ok"}], []),
        ([{BY_PAGES: "damage"}, {BY_PAGES: "ok"}, *[{BY_FILES: "ok"}] * 30], []),
        ([{BY_PAGES: "damage"}, {BY_FILES: "damage"}, {BY_FILES: "ok"}], [BY_PAGES]),
        ([{BY_PAGES: "damage"}, {BY_FILES: "damage"}, {BY_PAGES: "ok"}], [BY_FILES]),
        ([{BY_PAGES: "damage"}, {BY_FILES: "damage"}, {BY_PAGES: "ok"}, {BY_FILES: "ok"}], []),
        ([{BY_PAGES: "damage"}, {"restore": "damage"}, {BY_FILES: "ok"}], [BY_PAGES]),
        ([{"restore": "damage"}, {}], []),
        ([{BY_PAGES: "damage"}, {"pg_amcheck": "damage"}], [BY_PAGES]),
        ([{BY_PAGES: "damage"}, {"pg_amcheck": "damage", BY_PAGES: "ok"}], []),
        ([{"pg_amcheck": "damage"}, {BY_FILES: "ok"}], []),
    ],
    ids=str,
)
def test_p15_what_a_check_found_counts_until_the_same_check_finds_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: list[dict[str, Looked]], left: list[str]
) -> None:
    """On a host without the program a proof says nothing of that; and a trial ends at the first damage."""
    store = MemoryStore()
    backup = made(store)
    moments = iter(f"2026-11-28T11:00:{second:02}Z" for second in range(60))
    monkeypatch.setattr(remembered, "timestamp", lambda _: next(moments))
    for trial in trials:
        found = Found(plan(backup, store, tmp_path))
        found.checks += [Check(name, state, f"{name} {state}") for name, state in trial.items()]
        worse = [each for each in found.of_the_backup if each.state == "damage"]
        remember(found, damage=joined(worse), besides="" if worse or not found.wrong else joined(found.wrong))
    counts = proofs.against(store, LAYOUT)
    assert [*counts] == ([backup.id] if left else [])
    for newest in counts.values():
        assert [*newest.found_by] == left
        assert all(f"{name} damage" in newest.against for name in left)


def test_damage_that_the_same_check_finds_again_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    wanted = plan(made(store), store, tmp_path)
    moments = iter(f"2026-11-28T11:00:0{second}Z" for second in range(9))
    monkeypatch.setattr(remembered, "timestamp", lambda _: next(moments))
    for _ in range(3):
        found = Found(wanted, checks=[Check("pg_checksums", "damage", "page 7")])
        remember(found, damage=joined(found.checks))
    (newest,) = proofs.against(store, LAYOUT).values()
    assert newest.against == "it was found damaged at 2026-11-28T11:00:02Z: pg_checksums: page 7"
    assert [*newest.found_by] == ["pg_checksums"]


@pytest.mark.parametrize("mine", [{BY_FILES: "ok"}, {BY_FILES: "damage"}, {BY_PAGES: "ok"}], ids=str)
@pytest.mark.parametrize("second", [1, 2, 3])
def test_p15_a_note_that_comes_while_another_trial_is_remembered_counts_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: dict[str, Looked], second: int
) -> None:
    """Two members prove the same backup, and neither has seen the other's: the newest alone is read."""
    store = MemoryStore()
    found = Found(plan(made(store), store, tmp_path))
    found.checks += [Check(name, state, "torn") for name, state in mine.items()]
    note = {"at": f"2026-11-28T11:00:0{second}Z", "damage": "pg_checksums: page 7", "found_by": (BY_PAGES,)}

    def between(call: str, key: str) -> None:
        if call == "create" and key.startswith(LAYOUT.proofs):
            store.before = None
            write_proof(store, LAYOUT, Proof(**{**_fields(PROOF), **note}))

    monkeypatch.setattr(remembered, "timestamp", lambda _: "2026-11-28T11:00:02Z")
    damage = "damage" in mine.values()
    store.before = between
    remember(found, damage=joined(found.checks) if damage else "")
    assert store.before is None
    counts = proofs.against(store, LAYOUT)
    if BY_PAGES not in mine:
        assert "pg_checksums: page 7" in counts[str(ID)].against
        assert [*counts[str(ID)].found_by] == sorted([BY_PAGES, *([BY_FILES] if damage else [])])
        assert ("page 7" in found.stays) == (not damage)
    assert (newest_proof(store, LAYOUT) is None) == damage


def test_what_deep_found_is_cleared_by_each_proof_and_so_is_what_says_not_by_what_it_was_found() -> None:
    store = MemoryStore()
    note = Proof(**{**_fields(PROOF), "at": "2026-11-28T11:00:00Z", "damage": "verify --deep: a piece is torn"})
    write_proof(store, LAYOUT, note)
    assert [*proofs.damaged(store, LAYOUT)] == [str(ID)]
    write_proof(store, LAYOUT, Proof(**{**_fields(PROOF), "at": "2026-11-28T12:00:00Z"}))
    assert proofs.damaged(store, LAYOUT) == {}


def test_p15_a_proof_says_what_it_could_not_clear_and_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    wanted = plan(made(store), store, tmp_path)
    checks = [Check("pg_checksums", "damage", "page 7")]

    def prove(its: Found, *_: object) -> None:
        its.checks += checks

    uid = os.geteuid() or 1000
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr(command, "_planned", lambda *_: wanted)
    monkeypatch.setattr(command, "_prove", prove)
    monkeypatch.setattr(command, "scratch", lambda *_: nullcontext(tmp_path))
    moments = iter(f"2026-11-28T11:00:0{second}Z" for second in range(9))
    monkeypatch.setattr(remembered, "timestamp", lambda _: next(moments))
    steps: tuple[tuple[Literal["damage", "absent", "ok"], str], ...]
    steps = (("damage", ""), ("absent", "Stays"), ("ok", "Cleared"), ("ok", ""))
    for state, said in steps:
        checks[:] = [Check("pg_checksums", state, "page 7")]
        text, code = command._work(config(tmp_path), command.Request())
        assert code == (1 if state == "damage" else 0)
        assert [word for word in ("Stays", "Cleared") if f"\n{word} " in text] == ([said] if said else []), text
        assert ("pg_checksums: page 7" in proofs.damaged(store, LAYOUT).get(str(ID), "")) == (state != "ok")


def test_what_a_killed_one_left_is_removed_by_itself(tmp_path: Path) -> None:
    place.clear(config(tmp_path), tmp_path)
    left = _killed(tmp_path)
    place.clear(config(tmp_path), tmp_path)
    assert not left.parent.parent.exists()


CLOSED = 'FATAL: database "template1" is not currently accepting connections'
FULL = 'FATAL: too many connections for role "me"'


@pytest.mark.parametrize(
    ("refusals", "asked"),
    [
        ({("me", "template1"): CLOSED}, "me postgres"),
        ({("me", "template1"): CLOSED, ("me", "postgres"): FULL}, "postgres template1"),
        ({("me", "template1"): 'FATAL: could not open file "global/1": No such file or directory'}, "me postgres"),
        ({("me", "template1"): "FATAL: the database system is starting up"}, None),
        ({("me", "template1"): "FATAL: the database system is not yet accepting connections DETAIL: Consistent"}, None),
        ({("me", "template1"): 'socket "s" failed: No such file or directory Is the server running locally'}, None),
        ({("me", "template1"): "canceling statement due to conflict with recovery"}, None),
    ],
)
def test_a_role_or_a_database_that_is_refused_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: dict[tuple[str, str], str], asked: str | None
) -> None:
    monkeypatch.setattr(Server, "survey", _refusing(refusals))
    with scratch_server(tmp_path, postgres="exec sleep 1000") as server:
        assert server.ask("select 1", ["me", "postgres"]) == asked


def test_a_server_that_refuses_everybody_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = {("me", "template1"): CLOSED, ("me", "postgres"): FULL}
    monkeypatch.setattr(Server, "survey", _refusing(refusals))
    with scratch_server(tmp_path, postgres="exec sleep 1000") as server, pytest.raises(CannotTell) as told:
        server.ask("select 1", ["me", "me"])
    assert str(told.value).endswith(f"{CLOSED[7:]} / {FULL[7:]}")


def test_a_session_that_replay_has_ended_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals: dict[tuple[str, str], str] = {}
    monkeypatch.setattr(Server, "survey", _refusing(refusals))
    with scratch_server(tmp_path, postgres="exec sleep 1000") as server:
        assert server.ask("select 1", ["me"]) == "me template1"
        refusals["me", "template1"] = "terminating connection due to conflict with recovery"
        assert server.ask("select 1", ["me"]) is None
        refusals.clear()
        assert server.ask("select 1", ["me"]) == "me template1"


def _refusing(refusals: dict[tuple[str, str], str]) -> Any:
    def survey(server: Server, *_: object) -> str:
        who = (server.settings.user, server.settings.dbname)
        if who in refusals:
            raise PostgresError(f"postgresql at s:5432: connection failed: {refusals[who]}")
        return " ".join(who)

    return survey


def test_its_server_ends_with_what_goes_wrong_meanwhile(tmp_path: Path) -> None:
    server = scratch_server(tmp_path, postgres="echo up; exec sleep 1000")
    with pytest.raises(KeyboardInterrupt), server:  # noqa: PT012 - before it is up the signal may be ignored, as nohup begins it
        wait_until(lambda: "up" in server._log.read_text(), "its program")
        raise KeyboardInterrupt
    assert server._child is not None
    assert server._child.returncode == -signal.SIGQUIT


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``nohup`` begins it."""
    handlers: dict[int, Any] = {signal.SIGHUP: signal.SIG_IGN, signal.SIGTERM: signal.SIG_DFL}
    monkeypatch.setattr(signal, "getsignal", handlers.__getitem__)
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(command, "_work", lambda *_: ("", 0))
    monkeypatch.setattr(events, "to_stderr", lambda *_: None)
    assert command.main(config(tmp_path), command.Request()) == 0
    assert handlers == {signal.SIGHUP: signal.SIG_IGN, signal.SIGTERM: command._interrupt}


def test_no_timeout_of_a_role_and_nothing_of_our_own_environment_keeps_a_program_from_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDATABASE", "another")
    ran = scratch_server(tmp_path, tool="env | grep ^PG").run("tool", [])
    assert (ran.code, ran.out.read_text()) == (
        0,
        "PGOPTIONS=-c statement_timeout=0 -c lock_timeout=0 -c lc_messages=C\n",
    )


@pytest.mark.parametrize("pages", ["ok", "damage"])
def test_pages_are_looked_at_where_they_have_checksums(tmp_path: Path, pages: str) -> None:
    store = MemoryStore()
    server = scratch_server(tmp_path, pg_checksums="exit 0" if pages == "ok" else "echo bad; exit 1")
    assert command._pages(plan(made(store, checksums=True), store, tmp_path), server).state == pages
    other = MemoryStore()
    assert command._pages(plan(made(other, checksums=False), other, tmp_path), server).state == "absent"


def test_the_scratch_directory_is_emptied_before_and_gone_after(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    (below / "other").touch()
    with place.scratch(config(tmp_path), below) as found:
        (found / "data" / "base").mkdir(parents=True)
        (found / "data" / "link").symlink_to(below / "other")
        with pytest.raises(CannotRestore, match="another verify --restore"), place.scratch(config(tmp_path), below):
            pass
        assert (found / "data" / "base").exists()
    assert [path.name for path in below.iterdir()] == ["other"]
    left = below / found.name
    (left / "data").mkdir(parents=True)
    left.chmod(0o700)
    with place.scratch(config(tmp_path), below):
        assert not (left / "data").exists()
    assert not left.exists()


@pytest.mark.parametrize("renewed", ["0123456789abcdef-0001", "0123456789abcdef-0002"])
def test_the_pin_of_one_that_was_killed_goes_whatever_comes_of_the_next(tmp_path: Path, renewed: str) -> None:
    here = config(tmp_path)
    store = open_archives(here).store
    for name in (renewed, "fedcba9876543210-0001"):
        store.create(LAYOUT.pin(name), b"{}", {})
    _killed(tmp_path)
    with pytest.raises(StoreUnavailable), place.scratch(here, tmp_path):
        raise StoreUnavailable("while it is planned")
    assert [each.key for each in store.list(LAYOUT.pins)] == [LAYOUT.pin("fedcba9876543210-0001")]


@pytest.mark.parametrize(
    ("problem", "goes_on"), [(StoreUnavailable("it is away"), False), (StoreDenied("pin/: access denied"), True)]
)
def test_what_a_killed_one_left_stays_while_nobody_can_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: StoreError, *, goes_on: bool
) -> None:
    def away(*_: object) -> None:
        raise problem

    monkeypatch.setattr(retry, "_WAIT", 0.0)
    monkeypatch.setattr(place, "open_archives", lambda *_, **__: SimpleNamespace(store=SimpleNamespace(list=away)))
    left = _killed(tmp_path)
    with nullcontext() if goes_on else pytest.raises(StoreUnavailable), place.scratch(config(tmp_path), tmp_path):
        pass
    assert left.exists() != goes_on


def _killed(below: Path) -> Path:
    """A restore's state, as a killed one leaves it."""
    data = below / "walkeeper-verify-demo" / "data"
    data.mkdir(parents=True)
    data.parent.chmod(0o700)
    asked = plan(made(MemoryStore()), MemoryStore(), below).asked
    left = State(
        asked=asked, backup=str(ID), timeline=3, recovery={}, pin="0123456789abcdef-0001", began="",
        inode=data.stat().st_ino,
    )  # fmt: skip
    (data / NAME).write_bytes(encode(left))
    return data / NAME


def test_what_others_may_write_and_a_place_that_is_not_there_are_refused(tmp_path: Path) -> None:
    left = tmp_path / "walkeeper-verify-demo"
    left.mkdir()
    left.chmod(0o755)  # whatever the umask is
    (left / "kept").touch()
    for below, reason in ((tmp_path, "ours alone"), (tmp_path / "nowhere", "No such file")):
        with pytest.raises(CannotRestore, match=reason) as told, place.scratch(config(tmp_path), below):
            pass
        assert "walkeeper verify --restore DIRECTORY" in told.value.hint
    assert (left / "kept").exists()
    left.rename(tmp_path / "another")
    left.symlink_to(tmp_path / "another")
    with pytest.raises(CannotRestore), place.scratch(config(tmp_path), tmp_path):
        pass
    assert (tmp_path / "another" / "kept").exists()


def test_a_disk_that_runs_full_meanwhile_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.check_room(tmp_path)
    monkeypatch.setattr(place, "_SHARE", 1)
    monkeypatch.setattr(place, "_MOST", 1 << 62)
    with pytest.raises(CannotTell, match="nearly full"):
        place.check_room(tmp_path)


def test_a_disk_that_runs_full_while_a_program_looks_ends_that(tmp_path: Path) -> None:
    """Others write there, too: what was restored goes, and they have its room."""

    def runs_full() -> None:
        raise CannotTell("its disk is nearly full")

    server = scratch_server(tmp_path, pg_amcheck="exec sleep 1000")
    server._meanwhile = runs_full
    with pytest.raises(CannotTell, match="nearly full"):
        command._relations(server, "postgres")


def test_the_newest_proof_that_can_be_used_counts() -> None:
    store = MemoryStore()
    assert newest_proof(store, LAYOUT) is None
    write_proof(store, LAYOUT, PROOF)
    write_proof(store, LAYOUT, PROOF)
    older = Proof(**{**_fields(PROOF), "at": "2026-11-27T23:59:59Z"})
    write_proof(store, LAYOUT, older)
    assert newest_proof(store, LAYOUT) == PROOF
    store.create(LAYOUT.proof("2026-11-29T00:00:00Z", ID), b"{", {})
    store.create(LAYOUT.proof("2026-11-29T00:00:01Z", ID), b"x" * (core_proof.MAX_PROOF_BYTES + 1), {})
    assert newest_proof(store, LAYOUT) == PROOF
    assert [core_proof.age(PROOF, moment(PROOF.at).timestamp() + seconds) for seconds in (60, -60)] == [60.0, 0.0]


def test_p16_no_name_that_is_planted_hides_a_proof_and_none_is_newer_than_now(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    monkeypatch.setattr(proofs, "now_utc", lambda: moment("2026-11-29T12:00:00Z"))
    write_proof(store, LAYOUT, PROOF)
    for number in range(30):
        store.create(f"{LAYOUT.proofs}z{number}.json", b"{", {})
        store.create(LAYOUT.proof(f"2027-01-01T00:00:{number:02}Z", ID), core_proof.encode(PROOF), {})
        future = Proof(**{**_fields(PROOF), "at": f"2028-01-01T00:00:{number:02}Z"})
        store.create(LAYOUT.proof(future.at, ID), core_proof.encode(future), {})
    for number in range(10):
        store.create(LAYOUT.proof(f"2026-11-29T00:00:{number:02}Z", ID), core_proof.encode(future), {})
    assert newest_proof(store, LAYOUT) == PROOF


def test_how_far_it_came_is_said_as_all_positions_are(tmp_path: Path) -> None:
    store = MemoryStore()
    answers = iter([None, {"recovers": True}, {"recovers": False, "lsn": "0/05000028"}])  # PostgreSQL 19's
    server = cast(Any, SimpleNamespace(ask=lambda *_: next(answers), replayed=""))
    reached = command._recovered(plan(made(store), store, tmp_path), server, tmp_path, cast(Any, None))
    assert reached["lsn"] == "0/5000028"


def test_p15_damage_counts_until_the_same_backup_is_proved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = MemoryStore(), "20261127T020000Z-00000003-1a2b3c4d"
    monkeypatch.setattr(proofs, "now_utc", lambda: moment("2026-11-29T12:00:00Z"))
    write_proof(store, LAYOUT, PROOF)
    assert proofs.damaged(store, LAYOUT) == {}
    found = Proof(**{**_fields(PROOF), "at": "2026-11-28T11:00:00Z", "damage": "restore: a piece is gone"})
    write_proof(store, LAYOUT, found)
    assert newest_proof(store, LAYOUT) == PROOF  # it is no proof
    write_proof(store, LAYOUT, Proof(**{**_fields(PROOF), "at": "2026-11-28T12:00:00Z", "backup": other}))
    store.create(LAYOUT.proof("2026-11-28T13:00:00Z", ID), b"{", {})
    write_proof(store, LAYOUT, Proof(**{**_fields(PROOF), "at": "2027-11-28T12:00:00Z"}))
    assert proofs.damaged(store, LAYOUT) == {
        str(ID): "it was found damaged at 2026-11-28T11:00:00Z: restore: a piece is gone"
    }
    write_proof(store, LAYOUT, Proof(**{**_fields(PROOF), "at": "2026-11-28T14:00:00Z"}))
    assert proofs.damaged(store, LAYOUT) == {}


def _fields(proof: Proof) -> dict[str, Any]:
    return {name: getattr(proof, name) for name in proof.__struct_fields__}


@pytest.mark.parametrize(
    "document",
    [b"", b"{}", b"x" * 70_000, core_proof.encode(PROOF).replace(b"2026-11-28T", b"2026-13-28T"),
     core_proof.encode(PROOF).replace(b'"schema": 1', b'"schema": 2'),
     core_proof.encode(PROOF).replace(str(ID).encode(), b"../../x")],
)  # fmt: skip
def test_p16_a_document_that_says_nothing_of_use_is_refused(document: bytes) -> None:
    with pytest.raises(BadBackup, match="key: "):
        core_proof.decode(document, "key")


def test_without_a_right_to_write_it_is_told_and_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "_WAIT", 0.0)
    store = MemoryStore()
    found = Found(plan(made(store), store, tmp_path))
    found.reached = {"lsn": "0/5000028", "last_commit": None, "databases": ["postgres"], "other_collation": []}
    found.seconds = {"restore": 1, "replay": 2}
    monkeypatch.setattr(store, "create", _denied)
    remember(found)
    assert not found.remembered
    assert newest_proof(store, LAYOUT) is None
    settings = found.plan.config.store
    assert isinstance(settings, DirectorySettings)
    settings.path.rmdir()  # away: it does not tell the time either
    remember(found)
    assert not found.remembered
    settings.path.mkdir()
    monkeypatch.undo()
    remember(found)
    proof = newest_proof(store, LAYOUT)
    assert proof is not None
    assert (proof.backup, proof.lsn, proof.last_commit) == (str(ID), "0/5000028", "")
    told = "\n".join(command._lines(found))
    assert "up to 0/5000028 on timeline 3" in told
    assert told.endswith("gone again.")
    assert "Collation" not in told
    found.reached["other_collation"] = ["orders", "shop"]
    assert "Collation sorted by another version" in "\n".join(command._lines(found))
    assert "database orders, shop" in " ".join("\n".join(command._lines(found)).split())
    found.plan = cast(
        Any, SimpleNamespace(**{**_of(found.plan), "evidence": SimpleNamespace(store=store, layout=LAYOUT)})
    )
    json.dumps({**command._document(found)})


def _of(found: Any) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ("backup", "bytes", "request", "timeline")}


def _denied(*_: object) -> None:
    raise StoreDenied("proof/: access denied")
