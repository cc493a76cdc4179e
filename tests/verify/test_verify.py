"""``walkeeper verify`` from listings alone: each kind of damage, and what is none. P4: no gap goes unseen."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures.archives import FOUR, ONE, SYSTEM, THREE, TWO, Built, Verifier
from tests.parts.seaweedfs import SeaweedFS
from walkeeper.archive import contents
from walkeeper.archive.contents import NAMED, Contents
from walkeeper.archive.life import Sign, give
from walkeeper.archive.open import open_archives
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.names import Segment
from walkeeper.errors import StoreDenied, StoreUnavailable
from walkeeper.store.base import ObjectInfo, StoreSettings
from walkeeper.store.directory import DirectoryStore
from walkeeper.verify import command, judge, windows


@pytest.fixture(scope="module")
def seaweedfs() -> Iterator[SeaweedFS]:
    with SeaweedFS() as server:
        yield server


def whole(built: Built) -> None:
    """Timelines 1, 2 and 4 as after two failovers, and 3 that died; the frontier before segment 11."""
    built.put(ONE, *range(3, 7))  # the dead primary was beyond the fork
    built.put_history(TWO, THREE, FOUR)
    built.put(TWO, *range(5, 8))
    built.put(THREE, 7, 8)
    built.put(FOUR, *range(8, 12))
    built.record(4, 11)


def test_a_whole_chain_over_all_timelines_is_sound(built: Built, verify: Verifier) -> None:
    whole(built)
    said = verify()
    assert said.code == 0
    assert said.kinds == []
    assert said.notes == {"orphan", "beyond"}
    found = said.document
    assert found["timelines"] == [1, 2, 4]
    assert (found["start"], found["end_lsn"], found["end_is"]) == ("000000010000000000000003", "0/B00000", "frontier")
    assert found["segments"] == {"expected": 8, "stored": 8}
    assert found["windows"] == [
        {"start_lsn": "0/300000", "end_lsn": "0/B00000", "first": "000000010000000000000003",
         "last": "00000004000000000000000A", "segments": 8, "first_commit": None, "last_commit": None},
    ]  # fmt: skip
    orphans = [(each["first"], each["last"], each["count"]) for each in found["findings"] if each["kind"] == "orphan"]
    assert orphans == [
        ("000000010000000000000005", "000000010000000000000006", 2),
        ("000000030000000000000007", "000000030000000000000008", 2),
    ]
    assert said.finding("beyond")["first"] == "00000004000000000000000B"


def test_p4_a_missing_object_is_a_gap_and_what_it_means_is_said(built: Built, verify: Verifier) -> None:
    whole(built)
    built.replace(built.key(2, 6), None)
    built.replace(built.key(2, 7), None)
    said = verify()
    assert said.code == 1
    assert said.kinds == ["gap"]
    gap = said.finding("gap")
    assert (gap["first"], gap["last"], gap["count"]) == ("000000020000000000000006", "000000020000000000000007", 2)
    assert [(window["start_lsn"], window["end_lsn"]) for window in said.document["windows"]] == [
        ("0/300000", "0/600000"),
        ("0/800000", "0/B00000"),
    ]
    shown = verify(json=False)
    assert shown.code == 1
    assert "DAMAGE    000000020000000000000006 to 000000020000000000000007, 2 segments:" in shown.out
    assert "HINT: Look for them in pg_wal" in shown.out
    assert shown.out.index("DAMAGE") < shown.out.index("NOTE")
    assert max(map(len, shown.out.splitlines())) <= 80 or str(built.config.source.parent) in shown.out
    assert shown.out.endswith("Damaged: no restore crosses what is named above as DAMAGE.\n")


def test_a_recorded_gap_is_told_apart_from_one_that_is_not(built: Built, verify: Verifier) -> None:
    whole(built)
    built.archive.record_gap(built.segment(1, 4), Lsn(5 * MIB))
    built.archive.record_gap(built.segment(2, 6), Lsn(7 * MIB))
    built.replace(built.key(1, 4), None)
    built.replace(built.key(4, 9), None)
    said = verify()
    assert said.code == 1
    assert said.kinds == ["gap_recorded", "gap"]
    assert said.finding("gap_recorded")["first"] == "000000010000000000000004"
    assert said.finding("gap")["first"] == "000000040000000000000009"
    assert said.finding("gap_closed")["first"] == "000000020000000000000006"  # a returning member brought it


def test_p16_a_planted_start_hides_no_hole(built: Built, verify: Verifier) -> None:
    whole(built)
    built.replace(built.key(2, 6), None)
    for name in ("readme.txt", "00000001000000000000000z.json", "000000000000000000000001.json"):
        built.store.create(f"demo/{SYSTEM}/start/{name}", b'{"segment_size": Infinity}', {})
    assert verify().kinds == ["gap"]
    built.archive.state_start(built.segment(4, 9))
    said = verify()
    assert (said.code, said.kinds) == (1, ["gap", "start_in_doubt"])
    assert said.finding("start_in_doubt")["key"] == f"demo/{SYSTEM}/start/000000040000000000000009.json"
    assert said.document["segments"] == {"expected": 8, "stored": 7}
    assert verify(begin="000000040000000000000009").kinds == ["start_in_doubt"]
    built.dcs.wipe()
    assert verify().kinds == ["gap", "start_in_doubt"]
    verify(rebuild=True, json=False)
    assert built.dcs.record is not None
    assert b'"lsn":"0/600000"' in built.dcs.record.document


def test_an_archive_that_was_shortened_begins_with_its_newest_start(built: Built, verify: Verifier) -> None:
    whole(built)
    built.archive.state_start(built.segment(2, 6))
    assert verify().kinds == []  # everything below it is there still
    for timeline, number in ((1, 3), (1, 4), (2, 5)):
        built.replace(built.key(timeline, number), None)
        assert verify().kinds == []
    assert verify().document["segments"] == {"expected": 5, "stored": 5}


def test_a_recorded_gap_that_was_closed_is_no_damage(built: Built, verify: Verifier) -> None:
    whole(built)
    built.archive.record_gap(built.segment(2, 6), Lsn(7 * MIB))
    said = verify()
    assert said.code == 0
    assert "gap_closed" in said.notes


@pytest.mark.parametrize("timeline", [2, 3])
def test_a_missing_history_is_damage_also_of_a_dead_branch(built: Built, verify: Verifier, timeline: int) -> None:
    """PostgreSQL looks for newer timelines one number after the other, and takes the first hole for the end."""
    whole(built)
    built.replace(f"demo/{SYSTEM}/history/{timeline:08X}.history", None)
    said = verify()
    assert said.code == 1
    assert said.kinds == ["history_missing"]
    assert f"timeline {timeline}" in said.finding("history_missing")["text"]
    assert said.document["segments"] == {"expected": 8, "stored": 8}  # the chain is known all the same


def test_without_the_newest_history_what_can_be_followed_is_looked_at(built: Built, verify: Verifier) -> None:
    whole(built)
    built.replace(f"demo/{SYSTEM}/history/00000004.history", None)
    said = verify()
    assert said.code == 1
    assert said.kinds == ["history_missing"]
    assert said.document["timeline"] == 3
    built.replace(f"demo/{SYSTEM}/history/00000002.history", b"not a history\n")
    assert verify().kinds == ["history_missing", "history_damaged"]


def test_histories_from_before_the_archive_began_are_not_needed(built: Built, verify: Verifier) -> None:
    late = History(7, (Switch(5, Lsn(2 * MIB)), Switch(6, Lsn(4 * MIB))))
    six = History(6, (Switch(5, Lsn(2 * MIB)),))
    built.store.delete(f"demo/{SYSTEM}/start/000000010000000000000003.json")
    built.archive.state_start(built.segment(6, 3))
    built.put(six, 3)
    built.put_history(late)
    built.put(late, 4, 5)
    built.record(7, 6)
    said = verify()
    assert (said.code, said.kinds) == (0, [])


def test_one_name_under_two_suffixes_is_told(built: Built, verify: Verifier) -> None:
    whole(built)
    built.store.create(built.key(1, 4, ".zst.age"), b"whatever", {})
    said = verify()
    assert said.code == 0
    assert said.finding("duplicate")["first"] == "000000010000000000000004"


OWN, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.mark.parametrize(
    ("first", "newest", "others", "found"),
    [
        (9000, 0, 60, True),
        (86_500, 86_400, 86_400, True),
        (9000, 0, 3600, False),
        (50, 0, 60, False),  # of a record that was lost a minute ago
        (50, 0, 20, True),
    ],
)
def test_another_cluster_that_lives_in_this_archive_is_an_alarm(
    built: Built, verify: Verifier, first: int, newest: int, others: int, found: bool
) -> None:
    """Seconds since: the owner's first and newest signs of life, and the other's newest; by the store's clock, and not ours."""
    whole(built)
    built.record(4, 11, life=OWN)
    for sign, age in ((Sign(OTHER, 5), others), (Sign(OWN, 1), first), (Sign(OWN, 7), newest)):
        give(built.store, built.archive.layout, sign, "a")
        path = built.config.store.path / built.archive.layout.life(sign.token, sign.number)  # type: ignore[attr-defined]
        os.utime(path, (time.time() - age,) * 2)
    said = verify()
    assert (said.code, "another_cluster" in said.kinds) == ((1, True) if found else (0, False))


def test_p16_a_planted_sign_of_another_cluster_is_no_alarm(built: Built, verify: Verifier) -> None:
    whole(built)
    built.record(4, 11, life=OWN)
    built.config = replace(built.config, authentication_keys=("k" * 64,), authentic_since="000000FF00000000000000FF")
    keyed, layout = open_archives(built.config).store, built.archive.layout
    give(keyed, layout, Sign(OWN, 1), "a")
    built.age(9000, f"life/{OWN}")
    give(keyed, layout, Sign(OWN, 7), "a")
    give(built.store, layout, Sign(OTHER, 5), "planted")
    assert verify().code == 0
    give(keyed, layout, Sign(OTHER, 6), "b")
    assert "another_cluster" in verify().kinds


@pytest.mark.parametrize(
    ("oldest", "newest", "owner", "found"),
    [
        (3600, 30, 10, True),
        (3600, 3000, 10, False),  # it was stopped: what is stored does no harm
        (20, 5, 10, False),  # a failover: the record follows
        (3600, 30, None, False),  # an owner of 0.1.0, which gives no signs
    ],
)
def test_a_timeline_above_the_records_that_grows_is_an_alarm(
    built: Built, verify: Verifier, oldest: int, newest: int, owner: int | None, found: bool
) -> None:
    built.put(ONE, *range(3, 11))
    built.record(1, 11, life=OWN)
    built.put_history(TWO)
    built.put(TWO, 5, 6)
    built.age(oldest, "wal/0000000200000000")
    os.utime(built.config.store.path / built.key(2, 6), (time.time() - newest,) * 2)  # type: ignore[attr-defined]
    if owner is not None:
        give(built.store, built.archive.layout, Sign(OWN, 7), "a")
        built.age(owner, f"life/{OWN}")
    said = verify()
    assert (said.code, "another_timeline_grows" in said.kinds) == ((1, True) if found else (0, False))


def test_objects_of_other_clusters_names_and_kinds_are_told_and_harmless(built: Built, verify: Verifier) -> None:
    whole(built)
    other = built.archive_of(SYSTEM + 1)
    built.put(ONE, 3, 4, archive=other)
    root = f"demo/{SYSTEM}"
    for key in (
        f"{root}/wal/0000000100000000/README",
        f"{root}/wal/0000000200000000/000000010000000000000009.zst",  # where nothing would look for it
        f"{root}/notes",
        "demo/0/7300000000000000009/wal/0000000100000000/000000010000000000000003.zst",
        "demo/lost+found",
    ):
        built.store.create(key, b"x", {})
    built.store.create(f"{root}/wal/0000000100000000/000000010000000000000005.partial.zst", b"x", {})
    built.store.create(f"{root}/wal/0000000100000000/000000010000000000000005.00000028.backup.zst", b"x", {})
    for piece in range(3):
        built.store.create(f"{root}/tail/00000004000000000000000B/{piece}", b"x", {})
    said = verify()
    assert (said.code, said.kinds) == (0, [])
    assert said.notes == {"orphan", "beyond", "foreign_cluster", "foreign_object", "partial", "tail"}
    assert str(SYSTEM + 1) in said.finding("foreign_cluster")["text"]
    assert [each["count"] for each in said.document["findings"] if each["kind"] == "foreign_object"] == [3, 2]
    assert said.finding("tail")["count"] == 3


def test_an_empty_object_is_damage_without_a_look_inside(built: Built, verify: Verifier) -> None:
    whole(built)
    built.replace(built.key(2, 6), b"")
    said = verify()
    assert said.code == 1
    assert said.finding("object_empty")["key"] == built.key(2, 6)


def test_segments_of_another_size_are_damage(built: Built, verify: Verifier) -> None:
    whole(built)
    built.store.create(f"demo/{SYSTEM}/wal/0000000100000000/000000010000000000001000.zst", b"x", {})
    said = verify()
    assert said.code == 1
    assert said.finding("segment_size")["count"] == 1


# --- without a record -----------------------------------------------------------------------------------------------


def test_without_the_dcs_the_newest_chain_is_looked_at_up_to_its_last_segment(built: Built, verify: Verifier) -> None:
    whole(built)
    built.dcs.down = True
    said = verify()
    assert said.code == 2  # the newest objects may be missing, and nothing says so
    assert (said.document["timeline"], said.document["end_lsn"], said.document["end_is"]) == (
        4,
        "0/C00000",
        "last stored",
    )
    assert "no answer" in said.finding("dcs_silent")["text"]
    built.replace(built.key(2, 6), None)
    assert verify().code == 1  # a gap is a gap, whoever is away


def test_without_the_dcs_a_hole_among_the_newest_may_be_on_its_way(built: Built, verify: Verifier) -> None:
    whole(built)
    built.dcs.wipe()
    built.replace(built.key(4, 10), None)
    said = verify()
    assert said.code == 2
    assert said.kinds == ["maybe_on_its_way"]
    built.replace(built.key(1, 4), None)
    assert verify().code == 1
    built.record(4, 12)
    assert verify().kinds == ["gap", "gap"]  # the record says that it was stored


def test_a_record_that_cannot_be_read_is_said_and_not_believed(built: Built, verify: Verifier) -> None:
    whole(built)
    built.dcs.put(b"garbage")
    said = verify()
    assert said.code == 0
    assert "--rebuild" in said.finding("no_record")["hint"]


def test_a_listing_that_is_late_is_not_believed_about_the_newest(
    built: Built, verify: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(built)
    late, listed = built.key(4, 10), DirectoryStore.list

    def without(store: DirectoryStore, prefix: str) -> Iterator[ObjectInfo]:
        return (info for info in listed(store, prefix) if info.key != late)

    monkeypatch.setattr(DirectoryStore, "list", without)
    assert (verify().code, verify().kinds) == (0, [])


def test_p4_a_listing_that_is_cut_short_makes_no_damage_of_what_is_there_and_hides_none(
    built: Built, verify: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as what it lacks is there, it is asked for by name, however much that is."""
    whole(built)
    listed, has = DirectoryStore.list, Contents.has
    asked: list[Segment] = []

    def cut_short(store: DirectoryStore, prefix: str) -> Iterator[ObjectInfo]:
        return (info for info in listed(store, prefix) if "/wal/" not in info.key and "/history/" not in info.key)

    def counting(there: Contents, segment: Segment) -> bool:
        asked.append(segment)
        return has(there, segment)

    monkeypatch.setattr(DirectoryStore, "list", cut_short)
    monkeypatch.setattr(Contents, "has", counting)
    monkeypatch.setattr(command, "CONFIRMED", 2)
    monkeypatch.setattr(contents, "AT_ONCE", 1)
    assert (verify().code, verify().kinds) == (0, [])
    for timeline, number in ((4, 9), (2, 6)):
        built.store.delete(built.key(timeline, number))
    asked.clear()
    said = verify()
    assert (said.code, {*said.kinds}) == (1, {"gap"})
    assert [each.number for each in asked] == [10, 9, 8, 7, 6]


# --- what is asked for ----------------------------------------------------------------------------------------------


def test_another_timeline_can_be_looked_at(built: Built, verify: Verifier) -> None:
    whole(built)
    said = verify(timeline=3)
    assert (said.code, said.document["end_lsn"]) == (0, "0/900000")
    assert said.document["timelines"] == [1, 2, 3]
    said = verify(timeline=9)
    assert said.code == 2
    assert "no history" in said.document["problem"]


@pytest.mark.parametrize(
    "begin",
    [
        "000000020000000000000006",
        "0/600028",
        "000000020000000000000006.00000028.backup",
        "backup",
        "backup/backup_label",
    ],
)
def test_a_base_backups_start_is_found_however_it_is_named(
    built: Built, verify: Verifier, tmp_path: Path, begin: str
) -> None:
    whole(built)
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "backup_label").write_text(
        "START WAL LOCATION: 0/600028 (file 000000020000000000000006)\nCHECKPOINT LOCATION: 0/600060\nSTART TIMELINE: 2\n"
    )
    built.replace(built.key(1, 4), None)  # from before it: another backup's problem
    said = verify(begin=str(tmp_path / begin) if begin.startswith("backup") else begin)
    assert (said.code, said.document["start"]) == (0, "000000020000000000000006")
    assert said.document["segments"] == {"expected": 5, "stored": 5}


@pytest.mark.parametrize(
    ("begin", "kinds"),
    [
        ("000000010000000000000001", ["before_the_start"]),
        ("000000010000000000000006", ["off_the_chain"]),
        ("00000004000000000000000B", ["not_archived_yet"]),
    ],
)
def test_a_base_backup_that_the_archive_does_not_serve_is_told_why(
    built: Built, verify: Verifier, begin: str, kinds: list[str]
) -> None:
    whole(built)
    said = verify(begin=begin)
    assert (said.code, said.kinds) == (1, kinds)


@pytest.mark.parametrize("begin", ["nonsense", "00000002.history", "0/zz", "../x", ""])
def test_what_names_no_base_backup_is_told_how(built: Built, verify: Verifier, begin: str) -> None:
    whole(built)
    said = verify(begin=begin)
    assert said.code == 2
    assert said.document["problem"]
    assert "HINT: " in said.err


# --- cannot tell ----------------------------------------------------------------------------------------------------


def test_no_archive_there_is_not_a_sound_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Built(tmp_path)
    built.store.delete(f"demo/{SYSTEM}/start/000000010000000000000003.json")
    verify = Verifier(built, capsys, monkeypatch)
    assert verify().code == 2
    assert "no archive there" in verify().document["problem"]
    built.record(1, 4)
    assert verify().code == 2


def test_a_record_of_another_cluster_is_cannot_tell(built: Built, verify: Verifier) -> None:
    whole(built)
    built.record(1, 4, system=SYSTEM + 5)
    said = verify()
    assert said.code == 2
    assert str(SYSTEM) in said.document["problem"]
    assert verify(system_identifier=SYSTEM).code == 0


def test_of_two_archives_one_is_chosen_by_the_record_or_by_hand(built: Built, verify: Verifier) -> None:
    whole(built)
    other = built.archive_of(SYSTEM + 1)
    other.state_start(built.segment(1, 3))
    built.put(ONE, 3, archive=other)
    assert verify().document["system_identifier"] == str(SYSTEM)
    built.dcs.wipe()
    said = verify()
    assert said.code == 2
    assert "--system-identifier" in said.document["hint"]
    assert verify(system_identifier=SYSTEM + 1).document["segments"] == {"expected": 1, "stored": 1}


def test_an_archive_without_a_stated_start_is_damaged_or_cannot_be_told(built: Built, verify: Verifier) -> None:
    whole(built)
    built.store.delete(f"demo/{SYSTEM}/start/000000010000000000000003.json")
    said = verify()
    assert (said.code, said.kinds) == (1, ["start_missing"])
    built.dcs.wipe()
    assert verify().code == 2


@pytest.mark.parametrize("problem", [StoreUnavailable("gone"), StoreDenied("no"), ValueError("a bug")])
@pytest.mark.parametrize("after", [0, 5])
def test_a_listing_that_fails_half_way_is_cannot_tell(
    built: Built, verify: Verifier, monkeypatch: pytest.MonkeyPatch, problem: Exception, after: int
) -> None:
    whole(built)
    listed = DirectoryStore.list

    def fails(store: DirectoryStore, prefix: str) -> Iterator[ObjectInfo]:
        for count, info in enumerate(listed(store, prefix)):
            if count == after:
                raise problem
            yield info

    monkeypatch.setattr(DirectoryStore, "list", fails)
    said = verify()
    assert said.code == 2
    assert str(problem) in said.document["problem"]
    assert "Traceback" not in said.err


def test_many_gaps_are_shown_in_part_and_counted(built: Built, verify: Verifier) -> None:
    built.put(ONE, 3)
    for number in range(5, 67, 2):
        built.store.create(built.key(1, number), b"x", {})
    built.record(1, 67)
    said = verify(json=False)
    assert said.code == 1
    assert "and 22 more of kind gap: --json has them" in said.out
    shown = said.out[said.out.index("WAL  ") : said.out.index("DAMAGE")]
    assert shown.startswith("WAL       22 older windows: --json has them; the newest ones:\n")
    assert "0/4100000 to 0/4200000" in shown
    assert shown.count(" to ") == 10
    assert len([each for each in verify().document["findings"] if each["kind"] == "gap"]) == 32


def test_of_very_many_gaps_some_are_told_and_all_are_counted(
    built: Built, verify: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "MOST", 12)
    monkeypatch.setattr(windows, "TOLD", 12)
    built.put(ONE, 3)
    for number in range(5, 67, 2):
        built.store.create(built.key(1, number), b"x", {})
        built.store.create(built.key(1, number, ".zst.age"), b"x", {})
    built.record(1, 67)
    said = verify()
    assert said.code == 1
    assert said.document["segments"] == {"expected": 64, "stored": 32}
    assert (len(said.document["windows"]), said.document["older_windows"]) == (12, 20)
    assert [each["end_lsn"] for each in said.document["windows"]] == [f"0/{n + 1:X}00000" for n in range(43, 67, 2)]
    for kind, more, severity in (("gap", 20, "damage"), ("duplicate", 19, "note")):
        *told, rest = (each for each in said.document["findings"] if each["kind"] == kind)
        assert [each["more"] for each in told] == [0] * 12
        assert (rest["more"], rest["count"], rest["first"], rest["severity"]) == (more, more, None, severity)
    said = verify(json=False)
    assert "and 22 more of kind gap: --json has the first 12 of all" in said.out
    assert "WAL       22 older windows: --json has the newest 12 of all; the newest ones:\n" in said.out


def test_names_from_elsewhere_cannot_disturb_the_terminal(built: Built, verify: Verifier) -> None:
    whole(built)
    folder = built.config.source.parent / "store" / "demo" / str(SYSTEM) / "wal"
    for number in range(NAMED + 5):
        (folder / f"\x1b[2J{number}").write_bytes(b"x")
    said = verify(json=False)
    assert said.code == 0
    assert "\x1b" not in said.out
    assert "?[2J" in said.out
    assert verify().finding("foreign_object")["count"] == NAMED + 5


# --- on S3, and through the command line ----------------------------------------------------------------------------


@pytest.mark.s3
def test_on_a_real_s3_server_the_same_is_found(
    seaweedfs: SeaweedFS, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: StoreSettings = seaweedfs.settings(prefix="verify")
    built = Built(tmp_path, settings)
    verify = Verifier(built, capsys, monkeypatch)
    whole(built)
    assert (verify(deep=True).code, verify().notes) == (0, {"orphan", "beyond"})
    built.replace(built.key(2, 6), None)
    body = built.body(built.key(4, 9))
    built.replace(built.key(4, 9), body[:-1])
    assert verify().kinds == ["gap", "times_unread"]
    assert verify(deep=True).kinds == ["gap", "object_damaged"]
    seaweedfs.stop()
    try:
        assert verify().code == 2
    finally:
        seaweedfs.start()


def test_the_document_has_a_stable_shape(built: Built, verify: Verifier) -> None:
    whole(built)
    found = verify().document
    assert set(found) == {
        "format", "verdict", "exit_code", "store", "archive", "system_identifier", "segment_size", "record", "timeline",
        "timelines", "start", "start_lsn", "end_lsn", "end_is", "segments", "archive_objects", "archive_bytes", "windows",
        "older_windows", "tail", "deep", "findings", "backups",
    }  # fmt: skip
    assert set(found["findings"][0]) == {"severity", "kind", "text", "hint", "first", "last", "count", "key", "more"}
    documented = (Path(__file__).parents[2] / "docs" / "verify.md").read_text()
    for key in found:
        assert f"`{key}`" in documented, key
    built.dcs.down = True
    built.config.source.unlink()
    assert json.dumps(verify().document)


def test_every_kind_of_finding_is_documented() -> None:
    root = Path(__file__).parents[2]
    text = "".join((root / "walkeeper" / "verify" / name).read_text() for name in ("judge.py", "deep.py", "windows.py"))
    documented = (root / "docs" / "verify.md").read_text()
    kinds = set(re.findall(r'"([a-z]+_[a-z_]+|gap|orphan|before|beyond|duplicate|tail|partial|locked)"', text))
    assert {kind for kind in kinds if f"`{kind}`" not in documented} <= {"backup_label"}
