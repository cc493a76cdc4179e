"""``walkeeper backups``: each with its state and why, and what can be restored."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.archives import ONE, SIZE, SYSTEM, TWO, Built, Verifier
from tests.fixtures.backed_up import put_backup, put_piece
from walkeeper.archive.backups import Backups
from walkeeper.archive.expiry import write_retained
from walkeeper.archive.layout import Layout
from walkeeper.archive.proofs import write_proof
from walkeeper.archive.write import Archive
from walkeeper.backup import list_command
from walkeeper.core.backup import BackupId, Tombstone
from walkeeper.core.commits import Commit
from walkeeper.core.floor import Retained
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.names import Segment
from walkeeper.core.proof import Proof
from walkeeper.lib import clock, retry

IDS = [BackupId(f"202611{day}T020000Z", 2, "1a2b3c4d") for day in range(21, 28)]


@pytest.fixture
def built(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Built:
    monkeypatch.setattr(retry, "_WAIT", 0.0)
    monkeypatch.setattr(clock, "wall_seconds", lambda: 1795694400.0)  # 2026-11-26 12:00 UTC
    built = Built(tmp_path)
    Verifier(built, capsys, monkeypatch)  # makes its DCS the one that is found
    built.put(ONE, 3, 4)
    built.put_history(TWO)
    built.put(TWO, *range(5, 9))
    built.record(2, 9)
    return built


def backups_of(built: Built) -> Backups:
    return Backups(built.store, built.archive.layout, built.codec)


def listed(built: Built, capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[int, str]:
    capsys.readouterr()
    config = options.pop("config", built.config)
    code = list_command.main(config, **{"system_identifier": None, "json": False, **options})
    said = capsys.readouterr()
    assert said.err == "" or code == 2
    return code, said.out + said.err


def test_each_backup_is_listed_with_its_state_and_why(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    backups = backups_of(built)
    start, stop = Lsn(6 * MIB + 40), Lsn(6 * MIB + 256)
    put_backup(backups, IDS[0], start, stop, files=1234, bytes=5 * MIB)
    put_backup(backups, IDS[1], start, stop, damage=('checksum verification failed in file "base/5/1", block 3',))
    put_backup(backups, IDS[2], Lsn(8 * MIB + 40), Lsn(9 * MIB + 10))
    backups.commit(Tombstone(id=str(IDS[3]), at="2026-11-25T00:00:00Z", why="never finished"))
    for id_ in IDS[4:6]:
        put_piece(backups, id_, b"x")
    built.store.create(built.archive.layout.backup_json(IDS[6]), b"{", {})
    code, out = listed(built, capsys, json=True)
    found = json.loads(out)
    assert (code, found["exit_code"], found["system_identifier"]) == (0, 0, str(SYSTEM))
    rows = {each["id"]: each for each in found["backups"]}
    assert list(rows) == [str(id_) for id_ in IDS]
    assert [each["state"] for each in rows.values()] == [
        "complete", "damaged", "incomplete", "expired", "attempt", "attempt", "unreadable",
    ]  # fmt: skip
    assert rows[str(IDS[0])]["files"] == 1234
    assert "block 3" in rows[str(IDS[1])]["why"]
    assert [rows[str(id_)]["old"] for id_ in IDS[4:6]] == [True, False]
    assert rows[str(IDS[4])]["pieces"] == 1
    assert [(each["start_lsn"], each["end_lsn"], each["backups"]) for each in found["windows"]] == [
        ("0/600100", "0/900000", [str(IDS[0])])
    ]
    code, out = listed(built, capsys)
    assert code == 0, out
    told = " ".join(out.split())
    assert (
        f"{IDS[0]} full, complete 2026-11-21 02:00:00 UTC, 0 s, from node1, PostgreSQL 15 5 MiB in 1,234 files; "
        in told
    )
    assert f"{IDS[3]} expired never finished" in told
    assert f"{IDS[4]} attempt 1 piece, 14 B stored it was begun more than a day ago; walkeeper backup --resume" in told
    assert told.endswith("Proved never: walkeeper verify --restore does a real restore")
    assert "Restore 0/600100 to 0/900000 on timeline 2 from 2026-11-21 02:00:00 UTC to " in told
    proof = Proof(backup=str(IDS[0]), at="2026-11-25T10:15:00Z", timeline=2, lsn="0/800028")
    write_proof(built.store, built.archive.layout, proof)
    assert json.loads(listed(built, capsys, json=True)[1])["proved"]["at"] == proof.at


def test_of_many_the_older_ones_with_which_all_is_well_have_a_line_each(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    there = backups_of(built)
    many = [BackupId(f"202611{day:02}T020000Z", 2, "1a2b3c4d") for day in range(1, 15)]
    for day, id_ in enumerate(many):
        stop = Lsn(6 * MIB + 256 + day)
        put_backup(
            there, id_, Lsn(6 * MIB), stop, damage=("torn",) if day == 1 else (), bytes=5 * MIB, packed_bytes=2 * MIB
        )
    word = Retained(number=1, backup=str(many[2]), at="2026-11-16T00:00:00Z", until="9999-12-31T00:00:00Z")
    write_retained(built.store, built.archive.layout, word)
    for day in range(1, 6):
        gone = BackupId(f"202610{day:02}T020000Z", 2, "1a2b3c4d")
        there.commit(Tombstone(id=str(gone), at="2026-11-02T02:00:00Z", why="given up"))
    out = listed(built, capsys)[1]
    short = [line for line in out.splitlines() if line.endswith("stored") and not line.startswith(" ")]
    assert [line.partition(" ")[0] for line in short] == [str(many[0]), str(many[3])]
    assert short[0] == f"{many[0]}  full, complete, 5 MiB; 2 MiB stored"
    for id_ in (*many[1:3], *many[4:]):
        assert f"\n\n{id_}  full, " in out
    assert out.count("  expired\n") == 3
    assert "\n\nand 2 older ones that were given up: --json has all\n" in out
    assert len(json.loads(listed(built, capsys, json=True)[1])["backups"]) == 19


def test_p15_a_backup_that_a_trial_found_damaged_is_shown_as_what_it_is_for_expire_and_how_it_is_proved_again(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    there = backups_of(built)
    for id_ in IDS[:2]:
        put_backup(there, id_, Lsn(6 * MIB), Lsn(6 * MIB + 256 * (1 + IDS.index(id_))))
    note = Proof(backup=str(IDS[1]), at="2026-11-25T10:15:00Z", timeline=2, lsn="0/0", damage="pg_checksums: block 7")
    write_proof(built.store, built.archive.layout, note)
    for store, named in (("main", ""), ("far", " --store far")):
        config = replace(built.config, store_name=store)
        rows = json.loads(listed(built, capsys, json=True, config=config)[1])["backups"]
        assert [each["state"] for each in rows] == ["complete", "damaged"]
        assert rows[1]["why"] == "it was found damaged at 2026-11-25T10:15:00Z: pg_checksums: block 7"
        assert [each["prove"] for each in rows] == [None, f"walkeeper verify{named} --restore --to 0/600200"]
        assert f"proved: {rows[1]['prove']}" in " ".join(listed(built, capsys, config=config)[1].split())


@pytest.mark.parametrize(
    ("until", "told"),
    [
        ("2027-11-28T00:00:00Z", "  stays until 2027-11-28 00:00:00 UTC\n"),
        ("9999-12-31T00:00:00Z", "  stays forever\n"),
        ("2026-11-25T00:00:00Z", ""),
    ],
)
def test_how_long_a_backup_is_retained_is_shown(
    built: Built, capsys: pytest.CaptureFixture[str], until: str, told: str
) -> None:
    put_backup(backups_of(built), IDS[0], Lsn(6 * MIB + 40), Lsn(6 * MIB + 256))
    word = Retained(number=1, backup=str(IDS[0]), at="2026-11-21T12:00:00Z", until=until)
    write_retained(built.store, built.archive.layout, word)
    (row,) = json.loads(listed(built, capsys, json=True)[1])["backups"]
    assert row["retained_until"] == (until if told else None)
    shown = listed(built, capsys)[1]
    assert told in shown
    assert ("stays" in shown) == bool(told)


def test_an_archive_without_backups_says_what_takes_one(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = listed(built, capsys)
    assert code == 0
    assert out.splitlines()[1:] == [
        "Backups   none: walkeeper backup takes one, of PostgreSQL 15 and newer", "", "Restore   nothing: no backup is complete"
    ]  # fmt: skip


def test_where_there_is_no_archive_nothing_is_told(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(built, capsys, system_identifier=8)[0] == 2


def test_what_is_damaged_in_names_is_printed_on_one_line(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    backups_of(built).commit(Tombstone(id=str(IDS[0]), at="", why="a\nb\x1b[0m"))
    out = listed(built, capsys)[1]
    assert "\x1b" not in out
    assert "  a b?[0m" in out


@pytest.mark.parametrize(
    ("moved", "told"),
    [
        (timedelta(hours=-5), "the clocks of its server and of the one that commits differ"),
        (timedelta(seconds=-60), "the clocks of its server and of the one that commits differ"),
        (timedelta(seconds=-59), "to times before the last commit, 2026-11-21 01:59:01 UTC"),
        (timedelta(0), "from 2026-11-21 02:00:00 UTC to before the last commit, 2026-11-21 02:00:00 UTC"),
        (timedelta(hours=5), "from 2026-11-21 02:00:00 UTC to before the last commit, 2026-11-21 07:00:00 UTC"),
    ],
)
def test_a_last_commit_from_before_the_backup_is_said_of_the_clocks_and_not_as_a_window(
    built: Built, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, moved: timedelta, told: str
) -> None:
    """But not where one may have come between its stop and when that was read."""
    put_backup(backups_of(built), IDS[0], Lsn(6 * MIB + 40), Lsn(6 * MIB + 256))
    stopped = datetime(2026, 11, 21, 2, tzinfo=UTC)
    made = round((stopped + moved - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)
    monkeypatch.setattr(list_command, "last_commits", lambda *_: [Commit(Lsn(7 * MIB), Lsn(7 * MIB + 40), made)])
    shown = " ".join(listed(built, capsys)[1].split())
    assert told in shown
    assert shown.count("the last commit") == 1


def test_another_clusters_archive_under_the_scope_is_named(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    """It was initialised again, or upgraded: whoever misses a backup finds it there."""
    assert "Another cluster" not in listed(built, capsys)[1]
    other = Archive(built.store, Layout("demo", None, 99), SIZE, built.codec)
    built.store.create(f"{other.layout.root}life/x", b"", {})
    built.store.create("demo/nobody/start/x", b"", {})
    assert json.loads(listed(built, capsys, json=True)[1])["others"] == [], "nothing was begun there"
    other.state_start(Segment(1, 1, SIZE))
    assert json.loads(listed(built, capsys, json=True)[1])["others"] == ["99"]
    assert "Another cluster's archive under this scope: --system-identifier 99\n" in listed(built, capsys)[1]
    assert "system-identifier 73" in listed(built, capsys, system_identifier=99)[1]
