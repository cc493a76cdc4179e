"""Which backup a restore begins with, and what it refuses: over a store in a directory, without a server."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyrage
import pytest

from tests.core.test_floor import a_floor
from tests.fixtures.archives import ONE, SYSTEM, Built
from tests.fixtures.backed_up import put_backup
from tests.fixtures.two_stores import FAR, TwoStores, is_away, two
from tests.twins.memory_record import MemoryRecord
from walkeeper.archive import proofs
from walkeeper.archive.backups import Backups
from walkeeper.archive.codec import Codec
from walkeeper.archive.expiry import write_floor
from walkeeper.archive.proofs import write_proof
from walkeeper.archive.times import CommitTimes
from walkeeper.core.backup import Backup, BackupId
from walkeeper.core.commits import Commit, since_2000
from walkeeper.core.floor import Below
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.proof import Proof
from walkeeper.errors import CannotRestore, CannotTell, Damaged, Locked, StoreDenied
from walkeeper.lib import retry
from walkeeper.restore import state
from walkeeper.restore.directory import any_store, check, command, damage, here, plan
from walkeeper.restore.directory.model import Plan, Request
from walkeeper.verify import evidence

__all__ = ["two"]

FIRST, SECOND = BackupId("20261126T020000Z", 1, "00000001"), BackupId("20261127T020000Z", 1, "00000002")


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    """Segments 3 to 9, none of which can be read, and two backups."""
    built = Built(tmp_path)
    for number in range(3, 10):
        built.store.create(built.key(1, number), b"w", {})
    built.record(1, 10)
    for id_, number in ((FIRST, 4), (SECOND, 6)):
        backed_up(built, id_, number)
    monkeypatch.setattr(evidence, "open_records", lambda _: MemoryRecord(built.dcs))
    monkeypatch.setattr(here, "programs", lambda *_: None)
    return built


def backed_up(built: Built, id_: BackupId, number: int, at: str = "") -> Backup:
    backups = Backups(built.store, built.archive.layout, built.codec)
    return put_backup(backups, id_, Lsn(number * MIB + 40), Lsn(number * MIB + 256), at=at)


Make = Callable[..., Plan]


@pytest.fixture
def make(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(tell: Callable[[str], None] = lambda _: None, **request: Any) -> Plan:
        return plan.make(built.config, Request(directory=tmp_path / "new", **request), tell)

    monkeypatch.setattr(plan, "_PAUSE", 0)
    monkeypatch.setattr(plan, "_ON_ITS_WAY", 0)
    return make


def test_whether_this_host_can_restore_has_nothing_to_do_with_where_that_is_asked(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by sudo -u postgres in /root, or in a restore that was given up."""
    (tmp_path / state.NAME).write_text("what nobody can read")
    monkeypatch.chdir(tmp_path)
    found: list[Plan] = []
    assert f"has {SECOND}" in check._backup(built.config, None, found)
    assert found


def test_of_two_archives_this_host_is_asked_for_the_one_that_is_named(built: Built) -> None:
    """As after an empty cluster that Patroni made in the place of the one that is gone."""
    built.archive_of(SYSTEM + 1).state_start(built.segment(1, 3))
    built.dcs.wipe()
    (which,) = [each for each in check.look(built.config, None) if each.name == "Backup"]
    assert (which.state, "--system-identifier" in which.hint) == ("unknown", True)
    (found,) = [each for each in check.look(built.config, None, SYSTEM) if each.name == "Backup"]
    assert f"has {SECOND}" in found.text


def test_a_cluster_without_a_backup_that_was_initialised_again_leads_to_those_of_before(
    built: Built, make: Make
) -> None:
    again = SYSTEM + 1
    built.archive_of(again).state_start(built.segment(1, 3))
    built.put(ONE, 3, archive=built.archive_of(again))
    built.record(1, 4, again)
    with pytest.raises(CannotRestore, match=f"demo/{again}/: there is no base backup in it") as told:
        make()
    (named,) = re.findall(r"--system-identifier (\d+)", told.value.hint)
    assert make(system_identifier=int(named)).backup.id == str(SECOND)


def test_a_host_without_the_programs_is_told_before_its_person_types_their_name(make: Make) -> None:
    assert "Programs  PostgreSQL 15 is not found here" in "\n".join(command._told(make(), None))


def test_a_named_backup_that_stopped_after_the_time_is_refused(built: Built, make: Make) -> None:
    for to in ("2026-11-27 01:59:59Z", "2026-11-26 12:00Z"):
        with pytest.raises(CannotRestore, match=f"{SECOND}: it stopped at 2026-11-27T02:00:00") as told:
            make(to=to, backup=str(SECOND))
        assert "Leave --backup out" in told.value.hint
    backed_up(built, undated := BackupId("20261128T020000Z", 1, "00000003"), 8, at="today")
    with pytest.raises(CannotRestore, match="it stopped at today"):
        make(to="2026-11-29 12:00Z", backup=str(undated))


@pytest.mark.parametrize("second", [timedelta(0), timedelta(seconds=30), -timedelta(seconds=30)])
@pytest.mark.parametrize("exclusive", [False, True])
def test_a_time_is_before_or_after_a_backup_by_the_transactions_and_not_by_its_hosts_clock(
    built: Built, make: Make, monkeypatch: pytest.MonkeyPatch, second: timedelta, *, exclusive: bool
) -> None:
    """It may have been a replica's, 30 s behind the leader's: then the newest that had stopped by it has a later transaction."""
    wrote = datetime(2026, 11, 27, 2, tzinfo=UTC)
    last = {Lsn(4 * MIB + 256): wrote - timedelta(days=1), Lsn(6 * MIB + 256): wrote + second}

    def before(_: CommitTimes, begin: Lsn, end: Lsn, near: int | None = None) -> Commit | None:
        assert begin == Lsn(4 * MIB + 40)
        return Commit(Lsn(end - 8), end, since_2000(last[end]))

    monkeypatch.setattr(CommitTimes, "last", before)
    monkeypatch.setattr(CommitTimes, "position_of", lambda _, __, begin, ___: Lsn(begin + 8))
    for seconds in (-40, -30, -20, 0, 20, 30, 40):
        at = wrote + timedelta(seconds=seconds)
        chosen = SECOND if at > wrote + second or (at == wrote + second and not exclusive) else FIRST
        assert make(to=at.isoformat(), exclusive=exclusive).backup.id == str(chosen)
        if chosen == FIRST:
            with pytest.raises(CannotRestore, match=f"{SECOND}: it stopped at 2026-11-27T02:00:00"):
                make(to=at.isoformat(), exclusive=exclusive, backup=str(SECOND))
    with pytest.raises(CannotRestore, match=f"before the stop of the oldest complete backup, {FIRST}"):
        make(to="2026-11-26T01:59:59Z")


@pytest.mark.parametrize(
    ("to", "told"), [("2026-11-26 12:00+01", "2026-11-26 11:00:00\\+00"), ("0/500000", "0/500000")]
)
def test_whoever_knows_of_an_older_backup_is_told_why_it_is_not_taken(
    built: Built, make: Make, to: str, told: str
) -> None:
    """And which time was understood, and since when something can be restored."""
    lost(built, 4)
    with pytest.raises(
        CannotRestore, match=f"^--to {told}: .* is before the stop of the oldest complete backup"
    ) as said:
        make(to=to)
    assert "from 0/600100 (2026-11-27 02:00:00 UTC) to 0/A00000 on timeline 1." in said.value.hint
    assert f" {FIRST} is before it, and incomplete: 000000010000000000000004 is missing" in said.value.hint
    with pytest.raises(CannotRestore, match="is before the stop of the oldest complete backup") as said:
        make(to="2026-11-25 12:00Z" if "-" in to else "0/400000")
    assert str(FIRST) not in said.value.hint
    with pytest.raises(CannotRestore, match="beyond 0/A00000") as said:
        make(to="0/A00001")
    assert str(FIRST) not in said.value.hint


def test_a_number_that_is_no_transaction_may_have_been_meant_as_a_time(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CommitTimes, "search", lambda *_: None)
    for to in ("20261127", "Nov 27"):
        with pytest.raises(CannotRestore, match="not in the archive after") as said:
            make(to=to)
        assert "a time is written like '2026-11-27 23:10'" in said.value.hint.lower()


def test_a_restore_whose_backup_is_gone_is_begun_anew_and_only_by_delta(make: Make, tmp_path: Path) -> None:
    """It was killed, and went on weeks later: expire had given the backup up."""
    (tmp_path / "new").mkdir()
    began = state.State(
        asked=make().asked, backup=str(BackupId("20261120T020000Z", 1, "00000009")), timeline=1, recovery={}, pin="",
        began="2026-11-20T12:00:00Z", inode=(tmp_path / "new").stat().st_ino,
    )  # fmt: skip
    (tmp_path / "new" / state.NAME).write_bytes(state.encode(began))
    with pytest.raises(CannotRestore, match="begun there at 2026-11-20T12:00:00Z cannot go on: backup 2026") as said:
        make()
    assert "--delta begins again" in said.value.hint
    with pytest.raises(CannotRestore, match="is being restored there to 'latest', since 2026-11-20T12:00:00Z"):
        make(to="immediate")
    (tmp_path / "new" / "global").mkdir()
    (tmp_path / "new" / "global" / "pg_control").touch()
    with pytest.raises(CannotRestore, match="cannot go on"):
        make()
    (tmp_path / "new" / state.NAME).write_bytes(state.encode(msgspec.structs.replace(began, phase="placing")))
    with pytest.raises(
        CannotRestore, match=r"has restored it, begun at 2026-11-20T12:00:00Z, and could not .*: backup"
    ) as said:
        make()
    assert "what was written there since is gone then" in said.value.hint
    with pytest.raises(CannotRestore, match="was restored there to 'latest', begun at 2026-11-20T12:00:00Z"):
        make(to="immediate")
    anew = make(delta=True)
    assert (anew.backup.id, anew.resumed) == (str(SECOND), None)


def test_what_is_printed_after_a_restore_that_promotes_says_when_it_has(make: Make) -> None:
    """pg_ctl comes back when the server can be read: a dump that is taken then lacks what is not replayed yet."""
    for request in ({"to": "latest"}, {"to": "immediate", "action": "promote"}):
        lines = command._next_steps(make(**request))
        assert any(line.startswith("  psql ") and "pg_is_in_recovery()" in line for line in lines)
        assert "when this says f:" in " ".join(lines)
    assert "pg_is_in_recovery" not in " ".join(command._next_steps(make(to="immediate")))


def test_exclusive_is_for_a_time_or_a_transaction(make: Make) -> None:
    for to in ("latest", "immediate", "name:here", "0/700000"):
        with pytest.raises(CannotRestore, match="--exclusive: it says nothing of"):
            make(to=to, exclusive=True)


def lost(built: Built, number: int) -> str:
    built.store.delete(key := built.key(1, number))
    return key


@pytest.mark.parametrize("record", [8, 4, None], ids=["at the frontier", "behind it", "no record"])
def test_latest_waits_for_what_is_being_uploaded(
    built: Built, make: Make, monkeypatch: pytest.MonkeyPatch, record: int | None
) -> None:
    """Uploads run side by side: the segment at the frontier is often the last of some that follow each other."""
    built.dcs.down = record is None
    built.record(1, record or 10)
    key = lost(built, 8)
    monkeypatch.setattr(plan, "_ON_ITS_WAY", 60)
    assert make(lambda _: built.store.create(key, b"w", {}), to="latest").end == Lsn(8 * MIB)


@pytest.mark.parametrize(("frontier", "hole", "waits"), [(8, 8, 0), (9, 8, 60), (10, 7, 60), (8, 7, 60)])
def test_latest_is_refused_where_what_is_missing_does_not_come(
    built: Built, make: Make, monkeypatch: pytest.MonkeyPatch, frontier: int, hole: int, waits: int
) -> None:
    """And what the frontier has passed is not waited for."""
    monkeypatch.setattr(plan, "_ON_ITS_WAY", waits)
    built.record(1, frontier)
    lost(built, hole)
    asked: list[str] = []
    with pytest.raises(CannotRestore, match=f"after {Lsn(hole * MIB)} WAL is missing"):
        make(asked.append, to="latest")
    assert asked == []


def test_to_the_position_that_the_hint_names_can_be_restored(
    built: Built, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before what is missing, and where no transaction ended after a time."""
    lost(built, 8)
    monkeypatch.setattr(CommitTimes, "position_of", lambda *_: None)
    monkeypatch.setattr(CommitTimes, "last", lambda *_: None)
    monkeypatch.setattr(plan, "last_record", lambda *_: None)  # these segments cannot be read
    for to in ("latest", "2026-11-29 12:00Z"):
        with pytest.raises(CannotRestore) as told:
            make(to=to)
        named = re.search(r"--to (\S+) restores up to there", told.value.hint)
        assert named
        assert "WAL is missing" in str(told.value)
        assert make(to=named[1]).end == Lsn(8 * MIB)


def test_a_time_behind_all_that_is_stored_is_refused_with_where_that_ends(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CommitTimes, "position_of", lambda *_: None)
    monkeypatch.setattr(CommitTimes, "last", lambda *_: None)
    with pytest.raises(CannotRestore, match="where the WAL ends: there is none"):
        make(to="2026-11-29 12:00Z")


def test_latest_is_refused_at_a_recorded_gap(built: Built, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_ON_ITS_WAY", 60)
    built.record(1, 8)
    lost(built, 8)
    built.archive.record_gap(built.segment(1, 8), Lsn(9 * MIB))
    with pytest.raises(CannotRestore, match="after 0/800000 WAL is missing"):
        make(to="latest")


def test_p15_a_floor_that_is_recorded_while_a_transaction_is_looked_for_counts(
    built: Built, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search may take hours, and only after it the restore is pinned."""
    floor = a_floor(
        system_identifier=str(SYSTEM), start=built.segment(1, 6).name, below=(Below(1, "0/600000"),), kept=()
    )

    def search(_: CommitTimes, begin: Lsn, *__: object) -> Lsn | None:
        write_floor(built.store, built.archive.layout, floor)
        return Lsn(5 * MIB) if begin < 5 * MIB else None

    monkeypatch.setattr(CommitTimes, "search", search)
    with pytest.raises(CannotRestore, match=f"{FIRST}: it is incomplete: its WAL was given up"):
        make(to="xid:4711")


# ---------------------------------------------------------------------------------------------------- pieces are gone


def without_a_piece(built: Built, id_: BackupId) -> str:
    key = min(info.key for info in built.store.list(f"{built.archive.layout.backup(id_)}data/"))
    built.store.delete(key)
    return key


def test_p14_a_backup_that_lacks_a_piece_is_none_and_nothing_is_removed_for_it(
    built: Built, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was complete when it was stored, and somebody has deleted there since."""
    monkeypatch.setattr(plan, "last_record", lambda *_: None)  # these segments cannot be read
    monkeypatch.setattr(CommitTimes, "search", lambda *_: Lsn(7 * MIB))
    key = without_a_piece(built, SECOND)
    for to in ("latest", "0/700000", "xid:4711"):
        chosen = make(to=to)
        assert (chosen.backup.id, chosen.damage, chosen.incomplete) == (
            str(FIRST),
            "",
            f"{SECOND}: {key}: it is not there",
        )
    assert str(SECOND) in _line(chosen, "Not there")
    with pytest.raises(CannotRestore, match=f"--backup {SECOND}: it is damaged: {key}: it is not there"):
        make(backup=str(SECOND))
    assert make(is_trial=True).backup.id == str(SECOND), "what it finds is noted"
    gone = without_a_piece(built, FIRST)
    with pytest.raises(CannotRestore, match="no backup on the chain of timeline 1 is complete") as told:
        make()
    assert f"{FIRST}: {gone}: it is not there" in told.value.hint


def test_p14_an_incremental_is_none_without_the_pieces_that_it_builds_on(built: Built, make: Make) -> None:
    third = BackupId("20261128T020000Z", 1, "00000003")
    backups = Backups(built.store, built.archive.layout, built.codec)
    put_backup(backups, third, Lsn(8 * MIB + 40), Lsn(8 * MIB + 256), parent=str(SECOND), kind="incremental")
    key = without_a_piece(built, SECOND)
    assert make().backup.id == str(FIRST)
    assert make().incomplete == f"{SECOND}: {key}: it is not there; {third} builds on it"


def test_where_the_older_backup_does_not_reach_it_is_said_what_the_newer_one_lacks(built: Built, make: Make) -> None:
    key = without_a_piece(built, SECOND)
    lost(built, 5)
    for request in ({"to": "latest"}, {"use": "replica"}):
        with pytest.raises(CannotRestore, match="0/500000") as told:
            make(**request)
        assert told.value.hint.count(f"{SECOND}: {key}: it is not there") == 1
    assert str(FIRST) in str(told.value), "what ends there is the older one"
    with pytest.raises(CannotRestore, match=f"{key}: it is not there") as told:
        make(backup=str(SECOND))
    assert told.value.hint == "walkeeper verify says which are complete, and what is missing."


@pytest.mark.parametrize("found", [True, False])
def test_whether_this_host_can_restore_names_what_is_wrong_with_a_newer_backup(built: Built, *, found: bool) -> None:
    why = found_damaged(built, SECOND) if found else f"{without_a_piece(built, SECOND)}: it is not there"
    (told,) = [each for each in check.look(built.config, None) if each.name == "Backup"]
    assert told.state == "ok"
    assert told.text.endswith(f"can be restored; not from {SECOND}: {why}")


def without_a_document(built: Built, id_: BackupId, kind: str) -> str:
    (key,) = [info.key for info in built.store.list(f"{built.archive.layout.backup(id_)}{kind}-")]
    built.store.delete(key)
    return key


@pytest.mark.parametrize("kind", ["manifest", "order"])
def test_a_restore_asks_for_nothing_that_it_does_not_read(built: Built, make: Make, kind: str) -> None:
    """One lost manifest would else be one lost backup, and nothing would take it."""
    for id_ in (FIRST, SECOND):
        without_a_document(built, id_, kind)
    assert (make().backup.id, make().incomplete) == (str(SECOND), "")
    assert make(backup=str(FIRST)).backup.id == str(FIRST)


@pytest.mark.parametrize("damaged", [False, True])
def test_p14_a_backup_without_its_index_is_none(built: Built, make: Make, *, damaged: bool) -> None:
    key = without_a_document(built, SECOND, "index")
    if damaged:
        built.store.create(key, built.codec.encode(b"of another\n"), {})
    chosen = make()
    assert chosen.backup.id == str(FIRST)
    assert chosen.incomplete.startswith(f"{SECOND}: {key}: it")


def test_a_backup_that_no_key_here_opens_lacks_nothing(built: Built, make: Make) -> None:
    """What is wrong is the key, which whoever reads the index says: an older backup would be the wrong answer."""
    third = BackupId("20261128T020000Z", 1, "00000003")
    sealed = Codec(recipients=(str(pyrage.x25519.Identity.generate().to_public()),))
    put_backup(Backups(built.store, built.archive.layout, sealed), third, Lsn(8 * MIB + 40), Lsn(8 * MIB + 256))
    chosen = make()
    assert chosen.backup.id == str(third)
    with pytest.raises(Locked):
        here.check_place(chosen)


# ------------------------------------------------------------------------------------------------------ found damaged


def found_damaged(built: Built, id_: BackupId) -> str:
    """As a trial leaves it."""
    note = Proof(backup=str(id_), at="2026-11-28T10:00:00Z", timeline=1, lsn="0/0", damage=f"pg_checksums: {id_.at}")
    write_proof(built.store, built.archive.layout, note)
    return f"it was found damaged at {note.at}: {note.damage}"


def test_an_older_backup_is_taken_where_the_newest_was_found_damaged(
    built: Built, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its WAL reaches the same target; and it is said in one line, which names what takes the newer one."""
    monkeypatch.setattr(plan, "last_record", lambda *_: None)  # these segments cannot be read
    why = found_damaged(built, SECOND)
    for to in ("latest", "0/700000"):
        chosen = make(to=to)
        assert (chosen.backup.id, chosen.damage, chosen.passed_over) == (str(FIRST), "", f"{SECOND}: {why}")
    assert f"Not used  {SECOND}: {why}. --backup takes it".split() == _line(chosen, "Not used").split()
    assert make(to="0/500000").passed_over == "", "the newer one is behind the target"
    named = make(backup=str(SECOND))
    assert (named.backup.id, named.damage, named.passed_over) == (str(SECOND), why, "")
    assert make(is_trial=True).backup.id == str(SECOND), "else nothing ever proves it again"


def test_to_immediate_never_silently_ends_at_an_older_backup(
    built: Built, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies between the two would be missing. The damaged one is restored and said to be; the other way has a name."""
    monkeypatch.setattr(plan, "last_record", lambda *_: None)  # these segments cannot be read
    why = found_damaged(built, SECOND)
    chosen = make(to="immediate")
    assert (chosen.backup.id, chosen.end, chosen.damage) == (str(SECOND), Lsn(6 * MIB + 256), why)
    key = without_a_piece(built, SECOND)
    with pytest.raises(CannotRestore, match=f"--to immediate: .*{SECOND}: {key}: it is not there") as told:
        make(to="immediate")
    named = re.search(r"--to (\S+) restores up to there", told.value.hint)
    assert named
    there = make(to=named[1])
    assert (there.backup.id, there.end) == (str(FIRST), Lsn(6 * MIB + 256))
    assert make(to="immediate", backup=str(FIRST)).end == Lsn(4 * MIB + 256)


def test_what_builds_on_a_damaged_backup_is_passed_over_with_it(built: Built, make: Make) -> None:
    third = BackupId("20261128T020000Z", 1, "00000003")
    backups = Backups(built.store, built.archive.layout, built.codec)
    put_backup(backups, third, Lsn(8 * MIB + 40), Lsn(8 * MIB + 256), parent=str(SECOND), kind="incremental")
    assert make().backup.id == str(third)
    why = found_damaged(built, SECOND)
    assert (make().backup.id, make().passed_over) == (str(FIRST), f"{third}: it builds on {SECOND}: {why}")


def test_a_transaction_that_is_looked_for_is_restored_from_a_sound_backup(
    built: Built, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = found_damaged(built, SECOND)
    monkeypatch.setattr(CommitTimes, "search", lambda *_: Lsn(7 * MIB))
    found = make(to="xid:4711")
    assert (found.backup.id, found.passed_over) == (str(FIRST), f"{SECOND}: {why}")


@pytest.mark.parametrize("to", ["xid:4711", "name:before-the-release"])
def test_the_wal_is_searched_once_however_many_backups_are_passed_over(
    built: Built, make: Make, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """It may take hours. Of a name the one counts that the newest has behind it, and a recovery that begins before ends there."""
    third = BackupId("20261128T020000Z", 1, "00000003")
    backed_up(built, third, 8)
    read: list[tuple[Lsn, Lsn]] = []
    there = [Lsn(8 * MIB + 512)]

    def search(_: CommitTimes, begin: Lsn, end: Lsn, *__: object) -> Lsn | None:
        read.append((begin, end))
        return next((each for each in there if begin < each <= end), None)

    monkeypatch.setattr(CommitTimes, "search", search)
    monkeypatch.setattr(plan, "last_record", lambda *asked: Lsn(asked[-1] - 104))
    for id_ in (SECOND, third):
        without_a_piece(built, id_)
    chosen = make(to=to)
    assert (chosen.backup.id, chosen.end) == (str(FIRST), there[0])
    behind = [] if to.startswith("xid") else [(there[0], Lsn(10 * MIB))]
    assert read == [(Lsn(8 * MIB + 256), Lsn(10 * MIB)), *behind]


def test_of_a_name_that_is_there_twice_the_one_is_meant_that_is_told(
    built: Built, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL takes the first that it meets: one before, where an older backup is taken, or while the backup was made."""
    there = [Lsn(5 * MIB), Lsn(7 * MIB), Lsn(8 * MIB)]

    def search(_: CommitTimes, begin: Lsn, end: Lsn, *__: object) -> Lsn | None:
        return next((each for each in there if begin < each <= end), None)

    monkeypatch.setattr(CommitTimes, "search", search)
    monkeypatch.setattr(plan, "last_record", lambda *asked: Lsn(asked[-1] - 104))
    for id_ in (SECOND, FIRST):
        chosen = make(to="before-the-release")
        assert (chosen.backup.id, chosen.end, chosen.again) == (str(id_), there[1], there[2])
        assert chosen.recovery["recovery_target_lsn"] == str(Lsn(there[1] - 104))
        assert "recovery_target_name" not in chosen.recovery
        told = _line(chosen, "Target")
        assert f"which is at {there[1]} on timeline 1; the name is there again at {there[2]}, where --to" in told
        found_damaged(built, SECOND)
    assert make(to=str(there[2])).end == there[2]
    del there[2]
    assert "again" not in _line(make(to="before-the-release"), "Target")
    older = make(to="before-the-release", backup=str(FIRST))
    assert older.recovery["recovery_target_name"] == "before-the-release", "which is PostgreSQL's to find"
    assert "restore point 'before-the-release', the first of that name behind the backup" in _line(older, "Target")
    monkeypatch.setattr(CommitTimes, "search", lambda *_: Lsn(7 * MIB))
    assert _line(make(to="4711", exclusive=True), "Target").startswith(
        "Target    just before transaction 4711, which is"
    )


def test_what_was_searched_without_success_is_not_searched_again(
    built: Built, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = BackupId("20261128T020000Z", 1, "00000003")
    backed_up(built, third, 8)
    read: list[Lsn] = []

    def search(_: CommitTimes, begin: Lsn, end: Lsn, *__: object) -> Lsn | None:
        read.append(begin)
        return Lsn(7 * MIB) if begin < 7 * MIB <= end else None

    monkeypatch.setattr(CommitTimes, "search", search)
    without_a_piece(built, SECOND)
    assert make(to="xid:4711").backup.id == str(FIRST)
    assert read == [Lsn(8 * MIB + 256), Lsn(6 * MIB + 256)]


@pytest.mark.parametrize("hole", [False, True])
def test_where_no_sound_backup_reaches_the_target_the_damaged_one_is_restored_and_said_to_be(
    built: Built, make: Make, *, hole: bool
) -> None:
    """What is wrong may be one file of thousands, and there is nothing else. A replica has pg_basebackup."""
    why = found_damaged(built, SECOND)
    if hole:
        lost(built, 5)
    else:
        found_damaged(built, FIRST)
    chosen = make()
    assert (chosen.backup.id, chosen.damage, chosen.passed_over) == (str(SECOND), why, "")
    assert _line(chosen, "DAMAGED").startswith(f"DAMAGED   {why[:20]}")
    with pytest.raises(CannotRestore, match=f"--replica: backup {SECOND}.* pg_checksums") as told:
        make(use="replica")
    assert "its next method" in told.value.hint
    (told_by_doctor,) = [each for each in check.look(built.config, None) if each.name == "Backup"]
    assert (told_by_doctor.state, "pg_checksums" in told_by_doctor.text) == ("error", True)


def test_who_may_not_read_the_notes_restores_the_newest(
    built: Built, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    found_damaged(built, SECOND)

    def denied(*_: object) -> None:
        raise StoreDenied("proof/: access denied")

    monkeypatch.setattr(proofs, "listed", denied)
    assert (make().backup.id, make().damage) == (str(SECOND), "")


def _line(chosen: Plan, word: str) -> str:
    lines = [re.sub(r"^ +", " ", line) if line.startswith(" ") else f"\n{line}" for line in command._told(chosen, None)]
    (found,) = [line for line in "".join(lines).split("\n") if line.startswith(word)]
    return found


# ----------------------------------------------------------------------------------------------------- several stores


@pytest.fixture
def stores(two: TwoStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """A plan of any of two stores, which have a backup each."""
    for built, id_ in ((two.main, FIRST), (two.far, SECOND)):
        backed_up(built, id_, 4)
    monkeypatch.setattr(here, "programs", lambda *_: None)
    monkeypatch.setattr(retry, "_WAIT", 0.0)
    monkeypatch.setattr(plan, "_ON_ITS_WAY", 0)
    return lambda **request: any_store.make_of_any(two.config, Request(directory=tmp_path / "new", **request))


def test_the_first_store_that_can_restore_the_target_does(two: TwoStores, stores: Make) -> None:
    assert (stores().config.store_name, stores().backup.id) == ("main", str(FIRST))
    lost(two.main, 5)
    assert stores(to="0/500000").config.store_name == "main"
    assert stores(to="0/580000").config.store_name == FAR, "main has a hole there"
    assert stores(to="immediate", backup=str(SECOND)).config.store_name == FAR
    is_away(two.main)
    assert stores(to="immediate").config.store_name == FAR


def test_latest_is_of_the_store_that_goes_furthest(two: TwoStores, stores: Make) -> None:
    """One that was away has less: the first would end before what is archived."""
    two.far.put(ONE, 6, 7)
    two.far.record(1, 8)
    record = two.far.dcs.record
    assert record is not None
    two.dcs.put(record.document, "walkeeper-far")
    assert (stores().config.store_name, stores().end) == (FAR, Lsn(8 * MIB))
    assert stores(to="0/500000").config.store_name == "main"


def test_the_store_whose_backup_is_sound_is_taken_where_both_reach_the_target(two: TwoStores, stores: Make) -> None:
    found_damaged(two.main, FIRST)
    for to in ("latest", "0/500000"):
        assert (stores(to=to).config.store_name, stores(to=to).damage) == (FAR, "")
    found_damaged(two.far, SECOND)
    for to in ("latest", "0/500000"):
        assert (stores(to=to).config.store_name, stores(to=to).damage[:20]) == ("main", "it was found damaged")


def reaches(two: TwoStores, built: Built, number: int) -> None:
    """Its archive ends behind that segment; main's and far's records lie in one DCS."""
    built.put(ONE, *range(6, number + 1))
    built.record(1, number + 1)
    record = built.dcs.record
    assert record is not None
    two.dcs.put(record.document, "walkeeper" if built is two.main else "walkeeper-far")


@pytest.mark.parametrize("damaged", ["main", FAR])
def test_p14_a_sound_backup_is_taken_whose_wal_joins_that_of_the_store_that_goes_furthest(
    two: TwoStores, stores: Make, damaged: str
) -> None:
    """A recovery reads all stores, so that it ends where it would have. Who is passed over, and why, is on the screen."""
    ill, id_, sound, other, name = (
        (two.main, FIRST, two.far, SECOND, FAR) if damaged == "main" else (two.far, SECOND, two.main, FIRST, "main")
    )
    reaches(two, ill, 7)
    why = found_damaged(ill, id_)
    found = stores()
    assert (found.config.store_name, found.backup.id, found.damage) == (name, str(other), "")
    assert (found.end, found.wal_segments) == (Lsn(8 * MIB), 4)
    said = f"Not used  store {damaged}: {id_}: {why}. --store {damaged} takes it"
    assert _line(found, "Not used").split() == said.split()
    assert command._document(found, "planned")["stores_passed_over"] == [said.removeprefix("Not used  ")]
    reaches(two, sound, 9)
    assert (stores().end, stores().config.store_name) == (Lsn(10 * MIB), name)


def test_a_damaged_backup_is_restored_where_no_sound_one_of_another_store_ends_there(
    two: TwoStores, stores: Make
) -> None:
    """What was archived since would be missing. The other is named: it may be all that one needs."""
    reaches(two, two.main, 9)
    backed_up(two.main, third := BackupId("20261128T020000Z", 1, "00000003"), 8)
    found_damaged(two.main, third)
    lost(two.main, 7)
    found = stores()
    assert (found.config.store_name, found.backup.id, bool(found.damage)) == ("main", str(third), True)
    assert f"store far: {SECOND}, which reaches 0/600000 on timeline 1. --store far takes it" in _line(
        found, "Not used"
    )


def test_a_sound_backup_is_taken_of_a_store_that_knows_less_of_the_timelines(two: TwoStores, stores: Make) -> None:
    """As a recovery finds them in whichever store has them."""
    reaches(two, two.main, 9)
    found_damaged(two.main, FIRST)
    two.main.put_history(there := History(2, (Switch(1, Lsn(0x980000)),)))
    two.main.put(there, 9)
    two.main.record(2, 10)
    record = two.main.dcs.record
    assert record is not None
    two.dcs.put(record.document, "walkeeper")
    found = stores()
    assert (found.config.store_name, found.damage, found.timeline, found.end) == (FAR, "", 2, Lsn(10 * MIB))


@pytest.mark.parametrize("later", [True, False])
def test_to_immediate_no_other_store_silently_ends_earlier(two: TwoStores, stores: Make, *, later: bool) -> None:
    backed_up(two.far if later else two.main, third := BackupId("20261128T020000Z", 1, "00000003"), 5)
    found_damaged(two.main, FIRST if later else third)
    assert stores(to="immediate").config.store_name == (FAR if later else "main")


def test_whoever_met_damage_is_told_which_stores_backup_reaches_the_target(
    two: TwoStores, stores: Make, tmp_path: Path
) -> None:
    """Two stores never have the same backup: each takes its own. What the hint prints is typed, also where no note was left."""
    begun = stores()
    assert begun.config.store_name == "main"
    problem = Damaged("a piece: its content is not what its name says", hint="This backup is damaged.")
    problem.backup = begun.backup.id
    told = damage.instead(two.config, begun.request, begun, problem)
    named = re.match(r"Backup (\S+) of store far .* --backup (\S+) (--delta) ", told.hint)
    assert named
    assert named[1] == named[2] == str(SECOND)
    chosen = stores(backup=named[2], delta=True)
    assert (chosen.config.store_name, chosen.backup.id) == (FAR, str(SECOND))
    found_damaged(two.far, SECOND)
    assert damage.instead(two.config, begun.request, begun, problem) is problem, "that one is damaged as well"
    assert damage.instead(begun.config, begun.request, begun, problem) is problem, "there is no other"


@pytest.mark.parametrize("delta", [False, True])
def test_a_restore_that_met_damage_begins_anew_by_delta_alone(
    two: TwoStores, stores: Make, tmp_path: Path, *, delta: bool
) -> None:
    """Without it the same command goes on: the piece may have been put back. With it, it would meet the same piece again."""
    begun = stores()
    directory = tmp_path / "new"
    directory.mkdir()
    left = state.State(
        asked=begun.asked, backup=begun.backup.id, timeline=1, recovery=begun.recovery, pin="", began="2026-11-28",
        inode=directory.stat().st_ino,
    )  # fmt: skip
    (directory / state.NAME).write_bytes(state.encode(left))
    assert stores(delta=delta).resumed == left
    assert stores(delta=delta).stores_passed_over == (), "that far has not begun it is no news"
    found_damaged(two.main, FIRST)
    chosen = stores(delta=delta)
    assert (chosen.config.store_name, chosen.resumed) == ((FAR, None) if delta else ("main", left))


def without_backups(built: Built) -> None:
    for info in [*built.store.list(f"{built.archive.layout.root}backup/")]:
        built.store.delete(info.key)


def test_p14_a_hole_is_none_where_another_store_has_the_wal(
    two: TwoStores, stores: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recovery reads all stores. While one is away the others are judged without it."""
    reaches(two, two.main, 7)
    lost(two.main, 5)
    without_backups(two.far)
    monkeypatch.setattr(plan, "last_record", lambda *_: None)
    for to in ("latest", "0/780000"):
        found = stores(to=to)
        assert (found.config.store_name, found.backup.id, found.end) == (
            "main", str(FIRST), Lsn(8 * MIB if to == "latest" else 0x780000)
        )  # fmt: skip
        assert found.wal_store.url == f"{two.main.store.url} and {two.far.store.url}"
        assert " ".join(_line(found, "WAL").split()).endswith("no store has all of it")
        assert _line(found, "Not used").startswith(f"Not used  store far: {two.far.store.url}")
    assert stores(to="0/500000").wal_store.url == two.main.store.url, "what one store has is asked of no other"
    with pytest.raises(CannotRestore, match="the archive is not whole: after 0/500000"):
        plan.make(two.config, Request(directory=tmp_path / "new"))
    is_away(two.far)
    with pytest.raises(CannotTell, match="the archive is not whole: after 0/500000"):
        stores()


def test_a_name_whose_newest_restore_point_may_be_behind_a_hole_is_looked_for_in_all_stores(
    two: TwoStores, stores: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    reaches(two, two.main, 9)
    backed_up(two.main, SECOND, 6)
    lost(two.main, 7)
    without_backups(two.far)
    points = [Lsn(0x580000), Lsn(0x880000)]

    def search(_: CommitTimes, begin: Lsn, end: Lsn, *__: object) -> Lsn | None:
        return next((each for each in points if begin < each <= end), None)

    monkeypatch.setattr(CommitTimes, "search", search)
    monkeypatch.setattr(plan, "last_record", lambda *asked: Lsn(asked[-1] - 104))
    found = stores(to="before-the-release")
    assert (found.backup.id, found.end, found.unsearched) == (str(FIRST), points[0], Lsn(7 * MIB))
    assert command._document(found, "planned")["unsearched"] == "0/700000"
    assert "whether the name is there again is not known, as WAL is missing after 0/700000" in _line(found, "Target")
    two.far.put(ONE, 7)
    found = stores(to="before-the-release")
    assert (found.backup.id, found.end, found.unsearched) == (str(SECOND), points[1], None)
    assert "again" not in _line(found, "Target")


@pytest.mark.parametrize("promoted", [False, True])
def test_latest_ends_where_the_stores_together_do(two: TwoStores, stores: Make, *, promoted: bool) -> None:
    """The store with the only backup was away meanwhile: the server goes on with what the other has, and the plan says so."""
    without_backups(two.far)
    if promoted:
        there = History(2, (Switch(1, Lsn(0x580000)),))
        two.far.put_history(there)
        two.far.put(there, 5, 6, 7)
        two.far.record(2, 8)
        record = two.far.dcs.record
        assert record is not None
        two.dcs.put(record.document, "walkeeper-far")
    else:
        reaches(two, two.far, 7)
    found = stores()
    assert (found.config.store_name, found.timeline, found.end) == ("main", 1 + promoted, Lsn(8 * MIB))
    two.dcs.down = True
    found = stores()
    assert (found.config.store_name, found.timeline, found.end) == ("main", 1 + promoted, Lsn(8 * MIB))


def test_p15_what_another_store_is_about_to_delete_fills_no_hole(two: TwoStores, stores: Make) -> None:
    reaches(two, two.main, 7)
    lost(two.main, 5)
    without_backups(two.far)
    floor = a_floor(
        system_identifier=str(SYSTEM), start=two.far.segment(1, 6).name, below=(Below(1, "0/600000"),), kept=()
    )
    write_floor(two.far.store, two.far.archive.layout, floor)
    with pytest.raises(CannotRestore, match="the archive is not whole: after 0/500000"):
        stores()


def test_wal_of_another_branch_with_the_same_number_is_not_joined(two: TwoStores, stores: Make) -> None:
    """Two promotions took number 2, each archived in one store. The server follows the first store's history."""
    for built, at, numbers in ((two.main, 0x580000, (5, 6)), (two.far, 0x440000, (4, 5, 6, 7, 8))):
        built.put_history(there := History(2, (Switch(1, Lsn(at)),)))
        built.put(there, *numbers)
        built.record(2, numbers[-1] + 1)
        assert built.dcs.record is not None
        two.dcs.put(built.dcs.record.document, "walkeeper" if built is two.main else "walkeeper-far")
    found = stores()
    assert (found.timeline, found.end, found.wal_store.url) == (2, Lsn(7 * MIB), two.main.store.url)
    why = "store far: its timeline 2 is another one than store main's: they part at 0/440000"
    assert found.stores_passed_over[-1] == why
    with pytest.raises(CannotRestore, match=f"^store main: --to 0/800000: .*; {why}$") as told:
        stores(to="0/800000")
    assert "out of this host's configuration" in told.value.hint
    without_backups(two.far)
    two.far.put_history(History(3, (Switch(1, Lsn(0x440000)), Switch(2, Lsn(0x900000)))))
    two.far.store.delete(f"{two.far.archive.layout.histories}00000002.history")
    assert stores().end == Lsn(7 * MIB), "a descendant tells as much"


@pytest.mark.parametrize("filled", [False, True])
def test_latest_does_not_end_at_a_gap_that_only_another_store_has_recorded(
    two: TwoStores, stores: Make, monkeypatch: pytest.MonkeyPatch, *, filled: bool
) -> None:
    """restore-wal would refuse it: it looks for gaps in all stores."""
    monkeypatch.setattr(plan, "last_record", lambda *_: None)  # these segments cannot be read
    without_backups(two.far)
    reaches(two, two.far, 7)
    two.far.archive.record_gap(two.far.segment(1, 8), Lsn(9 * MIB))
    if filled:
        two.main.put(ONE, 8)
        assert stores().end == Lsn(9 * MIB)
        return
    with pytest.raises(CannotRestore, match=r"store main: --to latest: .* after 0/800000 WAL is missing") as told:
        stores()
    named = re.search(r"--to (\S+) restores up to there", told.value.hint)
    assert named
    assert stores(to=named[1]).end == Lsn(8 * MIB)


def test_a_replica_comes_from_a_store_that_is_behind_whatever_a_later_one_lacks(two: TwoStores, stores: Make) -> None:
    """A standby gets what no store has from its leader."""
    without_backups(two.far)
    reaches(two, two.far, 9)
    for number in range(3, 8):
        two.far.store.delete(two.far.key(1, number))
    assert stores(use="replica").config.store_name == "main"


def test_of_a_name_the_newest_is_taken_also_where_only_another_store_has_it(
    two: TwoStores, stores: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    reaches(two, two.far, 7)
    points = [Lsn(0x580000), Lsn(0x780000)]

    def search(_: CommitTimes, begin: Lsn, end: Lsn, *__: object) -> Lsn | None:
        return next((each for each in reversed(points) if begin < each <= end), None)

    monkeypatch.setattr(CommitTimes, "search", search)
    monkeypatch.setattr(plan, "last_record", lambda *asked: Lsn(asked[-1] - 104))
    assert (stores(to="before-the-release").config.store_name, stores(to="before-the-release").end) == (FAR, points[1])
    without_backups(two.far)
    assert (stores(to="before-the-release").config.store_name, stores(to="before-the-release").end) == (
        "main",
        points[1],
    )


def test_where_none_can_it_is_said_what_each_said(two: TwoStores, stores: Make) -> None:
    with pytest.raises(CannotRestore) as told:
        stores(to="0/900000")
    assert re.search("store main: .*; store far: ", str(told.value))
    is_away(two.far)
    with pytest.raises(CannotTell, match=r"store main: --to 0/900000: .*; store far: "):
        stores(to="0/900000")
    with pytest.raises(CannotRestore, match=r"^--exclusive: it says nothing of"):
        stores(exclusive=True)
