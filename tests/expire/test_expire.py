"""``walkeeper expire`` and ``walkeeper pins`` over a directory store: said, recorded, deleted, refused (P15)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.core.test_floor import a_floor, a_pin
from tests.core.values import control_file, history_text
from tests.fixtures.archives import ONE, SYSTEM, TWO, Built
from tests.fixtures.backed_up import put_backup
from tests.twins.memory_record import MemoryRecord
from walkeeper.archive.backups import Backups
from walkeeper.archive.expiry import read_expiry, read_pins, write_floor, write_pin
from walkeeper.archive.open import open_archives
from walkeeper.archive.proofs import proved_by, write_proof
from walkeeper.archive.restorable import claimed, described, look, summary
from walkeeper.cli.main import parser
from walkeeper.core.backup import Backup, BackupId, Tombstone
from walkeeper.core.floor import FOREVER, written
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.proof import Proof
from walkeeper.core.record import Gap, Record
from walkeeper.core.retention import Policy
from walkeeper.core.windows import Choice, choose
from walkeeper.dcs.claim import unknown
from walkeeper.errors import BadBackup, DcsError, NotAuthentic, StoreDenied, StoreUnavailable
from walkeeper.expire import command, words
from walkeeper.expire.look import CLOCKS
from walkeeper.lib import clock
from walkeeper.store.base import ObjectInfo
from walkeeper.store.directory import DirectoryStore
from walkeeper.store.directory.keys import DirectorySettings
from walkeeper.store.s3.keys import S3Settings

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
OLD, OLDER = BackupId("20261101T020000Z", 1, "00000001"), BackupId("20261102T020000Z", 1, "00000002")
FIRST, SECOND = BackupId("20261113T020000Z", 1, "00000003"), BackupId("20261127T020000Z", 1, "00000004")


class Site:
    """Ten segments, four backups, this node's record and server; nobody waits for a clock."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.built = Built(directory)
        data = directory / "data"
        (data / "global").mkdir(parents=True)
        (data / "global" / "pg_control").write_bytes(control_file(1, 0, system_identifier=SYSTEM))
        node = replace(self.built.config.node, name="node1", data_dir=data)
        self.config = replace(self.built.config, node=node, backup_keep=14 * 86400.0)
        self.now = NOW
        self.ahead = 0.0
        self.stored: dict[str, datetime] = {}
        self.store, self.layout = self.built.store, self.built.archive.layout
        self.backups = Backups(self.store, self.layout, self.built.codec)
        for number in range(3, 14):
            self.store.create(self.built.key(1, number), b"w", {})
        for id_, number in ((OLD, 3), (OLDER, 5), (FIRST, 7), (SECOND, 10)):
            put_backup(self.backups, id_, Lsn(number * MIB + 40), Lsn(number * MIB + 256))
        self.built.record(1, 14)
        monkeypatch.setattr(command, "open_records", lambda _: MemoryRecord(self.built.dcs))
        monkeypatch.setattr(words, "ask_the_dcs", lambda _: unknown(DcsError("away")))
        monkeypatch.setattr("walkeeper.lib.clock.wall_seconds", lambda: datetime.timestamp(self.now))
        monkeypatch.setattr(DirectorySettings, "clock_ahead", lambda _: self.ahead)
        listed = DirectoryStore.list

        def dated(store: DirectoryStore, prefix: str) -> Iterator[ObjectInfo]:
            return (replace(info, modified=self.stored.get(info.key)) for info in listed(store, prefix))  # not today

        monkeypatch.setattr(DirectoryStore, "list", dated)

    def record(self, **changed: Any) -> None:
        found = self.built.dcs.record
        assert found is not None
        self.built.dcs.put(
            msgspec.structs.replace(msgspec.json.decode(found.document, type=Record), **changed).encode()
        )

    def keys(self, place: str) -> list[str]:
        return [info.key.removeprefix(self.layout.root) for info in self.store.list(f"{self.layout.root}{place}")]


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


@pytest.fixture
def run(site: Site, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*, code: int = 0, **request: Any) -> dict[str, Any]:
        capsys.readouterr()
        found = command.main(site.config, command.Request(**{"json": True, **request}))
        printed = json.loads(capsys.readouterr().out)
        assert found == code, printed
        return dict(printed)

    return run


def test_p15_without_apply_it_only_says_what_it_would_do(site: Site, run: Run) -> None:
    before = site.keys("")
    said = run()
    assert said["next_floor"]["backups"] == [str(OLD), str(OLDER)]
    assert (said["next_floor"]["start_lsn"], said["next_floor"]["segments"]) == ("0/700000", 4)
    assert said["oldest"] == str(FIRST)
    assert [(each["start_lsn"], each["end_lsn"]) for each in said["windows"]] == [("0/700100", "0/E00000")]
    assert site.keys("") == before


def test_p15_the_floor_is_recorded_and_only_a_later_run_deletes_below_it(site: Site, run: Run) -> None:
    run(apply=True)
    assert site.keys("expire/") == ["expire/00000001.json"]
    assert len(site.keys("wal/")) == 11
    site.now += timedelta(minutes=59)
    assert run(apply=True)["deleted"]["objects"] == 0
    site.now += timedelta(minutes=1)
    said = run()
    assert said["going"] == {"segments": 4, "backups": [str(OLD), str(OLDER)]}
    assert len(site.keys("wal/")) == 11
    deleted = run(apply=True)["deleted"]
    assert deleted["backups"] == [str(OLDER), str(OLD)]
    assert [key[-28:-4] for key in site.keys("wal/")] == [site.built.segment(1, n).name for n in range(7, 14)]
    assert site.keys("start/")[-1] == "start/000000010000000000000007.json"
    for id_ in (OLD, OLDER):
        assert site.keys(f"backup/{id_}/") == [f"backup/{id_}/backup.json"]
        assert isinstance(site.backups.read(id_), Tombstone)
    assert site.keys("expire/") == ["expire/00000001.done.json", "expire/00000001.json"]
    again = run(apply=True)
    assert (again["next_floor"], again["deleted"]["objects"]) == (None, 0)


def test_p15_killed_at_any_delete_the_next_run_goes_on(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    run(apply=True)
    site.now += timedelta(hours=2)
    original = DirectoryStore.delete
    kills = 0
    for survives in range(40):
        left = [survives]

        def delete(self: DirectoryStore, key: str, left: list[int] = left) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            original(self, key)

        monkeypatch.setattr(DirectoryStore, "delete", delete)
        try:
            command.main(site.config, command.Request(apply=True, json=True))
        except Killed:
            kills += 1
            found = look(open_archives(site.config), SYSTEM, site.built.archive.size, None)
            assert [each.id for each in found.windows.complete] == [str(FIRST), str(SECOND)]
            continue
        break
    monkeypatch.setattr(DirectoryStore, "delete", original)
    run(apply=True)
    assert kills
    assert len(site.keys("wal/")) == 7
    assert isinstance(site.backups.read(OLD), Tombstone)
    assert site.keys(f"backup/{OLD}/data") == []


def test_p15_a_backup_that_somebody_commits_again_meanwhile_stays_below_the_floor(site: Site, run: Run) -> None:
    run(apply=True)
    site.now += timedelta(hours=2)
    document = site.backups.read(OLD)
    assert document is not None
    original = Backups.commit

    def commit(self: Backups, found: Any) -> Any:
        if isinstance(found, Tombstone) and found.id == str(OLD):
            original(self, document)  # another runner of the same id, at that very moment
        return original(self, found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backups, "commit", commit)
        run(apply=True)
    assert site.backups.read(OLD) == document
    found = look(open_archives(site.config), SYSTEM, site.built.archive.size, None)
    assert str(OLD) not in [each.id for each in found.windows.complete]


def test_an_object_that_the_store_does_not_let_go_is_retained_and_no_error(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(apply=True)
    site.now += timedelta(hours=2)
    original = DirectoryStore.delete
    locked = site.layout.backup_json(OLD)

    def delete(self: DirectoryStore, key: str) -> None:
        if key in {locked, site.built.key(1, 4)}:
            raise StoreDenied(f"{key}: object lock")
        original(self, key)

    monkeypatch.setattr(DirectoryStore, "delete", delete)
    deleted = run(apply=True)["deleted"]
    assert sorted(deleted["retained"]) == sorted([locked, site.built.key(1, 4)])
    assert deleted["backups"] == [str(OLDER)]
    assert site.keys(f"backup/{OLD}/data") != []  # as long as it says that it is a backup, its pieces stay
    monkeypatch.setattr(DirectoryStore, "delete", original)
    assert run(apply=True)["deleted"]["backups"] == [str(OLD)]
    assert site.keys("expire/")[0] == "expire/00000001.done.json"


def test_it_is_known_for_how_long_expire_has_had_something_to_do_whoever_runs_it(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(**changed: Any) -> float | None:
        document = site.built.dcs.record
        assert document is not None
        archives, config = open_archives(site.config), replace(site.config, **changed)
        found = claimed(archives, msgspec.json.decode(document.document, type=Record))
        told = summary(found, site.now.timestamp(), config)
        assert told is not None
        seconds = told["expire_waits_seconds"]
        return None if seconds is None else round(seconds / 86400, 1)

    assert waits() == 12.4  # OLDER is 14 days old for so long
    assert waits(backup_keep=None) is None
    run()
    assert waits() == 12.4
    run(apply=True)
    assert waits() == 0
    site.now += timedelta(days=10, hours=1)
    assert waits() == waits(backup_keep=None) == 10
    original = DirectoryStore.delete

    def denied(_: DirectoryStore, key: str) -> None:
        raise StoreDenied(f"{key}: no right to delete")

    monkeypatch.setattr(DirectoryStore, "delete", denied)
    run(apply=True)
    assert waits() == 10
    monkeypatch.setattr(DirectoryStore, "delete", original)
    run(apply=True)
    assert waits() == 0


def test_what_is_planted_where_a_floor_is_noted_as_done_ends_no_run(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(*_: object) -> None:
        raise NotAuthentic("expire/00000001.done.json: it has no authentication code")

    monkeypatch.setattr("walkeeper.expire.delete.note_floor", planted)
    run(apply=True)
    site.now += timedelta(hours=2)
    assert run(apply=True)["deleted"]["backups"] == [str(OLDER), str(OLD)]
    assert run(apply=True)["deleted"]["objects"] == 0


def test_p15_a_floor_can_be_revoked_until_its_grace_is_over(
    site: Site, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run(apply=True)
    site.now += timedelta(minutes=30)
    assert words.revoke(site.config) == 0
    assert "Floor 1 is revoked" in capsys.readouterr().out
    site.now += timedelta(hours=2)
    said = run(apply=True)
    assert (said["deleted"]["objects"], said["next_floor"]["number"]) == (0, 2)
    site.now += timedelta(hours=1)
    assert words.revoke(site.config) == 2
    assert "the grace of floor 2 is over" in capsys.readouterr().err
    assert len(site.keys("wal/")) == 11


def test_p15_a_floors_grace_begins_when_the_store_has_it(site: Site, run: Run) -> None:
    """It says when its run began: the deleting below an older one, before it is recorded, can take an hour."""
    run(apply=True)
    site.stored[site.layout.floor(1)] = NOW + timedelta(minutes=50)
    site.now += timedelta(minutes=70)
    assert [each["stands_from"] for each in run()["waiting"]] == ["2026-11-28T13:50:00Z"]
    found = described(look(open_archives(site.config), SYSTEM, site.built.archive.size, None))
    assert found["floor"]["stands_from"] == "2026-11-28T13:50:00Z"
    assert run(apply=True)["deleted"]["objects"] == 0
    assert words.revoke(site.config) == 0


def test_p15_what_was_not_planned_today_is_not_deleted_whatever_a_floor_says(site: Site, run: Run) -> None:
    run(apply=True)
    site.config = replace(site.config, backup_keep=60 * 86400.0)
    site.now += timedelta(hours=2)
    assert run(apply=True)["deleted"]["objects"] == 0
    assert len(site.keys("wal/")) == 11
    assert "expire/00000001.done.json" not in site.keys("expire/")


def test_p15_a_retained_backup_stays_below_the_start_with_its_own_wal(
    site: Site, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words.retain(site.config, str(OLD), datetime(2027, 11, 28, tzinfo=UTC)) == 0
    assert "stays until 2027-11-28 00:00:00 UTC" in capsys.readouterr().out
    run(apply=True)
    site.now += timedelta(hours=2)
    run(apply=True)
    assert [key[-28:-4] for key in site.keys("wal/")] == [
        site.built.segment(1, number).name for number in (3, *range(7, 14))
    ]
    found = look(open_archives(site.config), SYSTEM, site.built.archive.size, None)
    assert [each.id for each in found.windows.complete] == [str(OLD), str(FIRST), str(SECOND)]
    extent = site.built.archive.contents.extent(ONE)
    assert extent == (site.built.segment(1, 7), Lsn(14 * MIB))  # a rebuilt record begins above it
    assert words.retain(site.config, str(OLD), None) == 0
    assert run(apply=True)["next_floor"]["backups"] == [str(OLD)]
    assert words.retain(site.config, str(OLD), FOREVER) == 2
    assert "below the floor" in capsys.readouterr().err


def test_p15_a_day_that_is_over_withdraws_no_earlier_word_and_what_is_retained_is_shown(
    site: Site, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words.retain(site.config, str(SECOND), FOREVER) == 0
    assert f"Backup {SECOND} stays forever, with its own WAL." in capsys.readouterr().out
    for over in (datetime(2025, 12, 31, tzinfo=UTC), datetime(2026, 11, 28, tzinfo=UTC)):
        assert words.retain(site.config, str(SECOND), over) == 2
        assert f"HINT: Name a day that is to come. walkeeper expire --release {SECOND}" in capsys.readouterr().err
    assert words.retain(site.config, str(OLD), datetime(2027, 11, 28, tzinfo=UTC)) == 0
    said = run()
    assert said["retained_until"] == {str(OLD): "2027-11-28T00:00:00Z", str(SECOND): "9999-12-31T00:00:00Z"}
    command.main(site.config, command.Request())
    told = capsys.readouterr().out
    assert f"retained until 2027-11-28 00:00:00 UTC: {OLD}\n" in told
    assert f"retained forever: {SECOND}\n" in told
    child = BackupId("20261103T020000Z", 1, "00000005")
    start, stop = Lsn(5 * MIB + 300), Lsn(5 * MIB + 400)
    put_backup(site.backups, child, start, stop, kind="incremental", parent=str(OLDER))
    assert words.retain(site.config, str(child), FOREVER) == 0
    command.main(site.config, command.Request())
    assert f"retained, as another builds on it: {OLDER}\n" in capsys.readouterr().out
    for each in (SECOND, child):
        assert words.retain(site.config, str(each), None) == 0
    assert [*run()["retained_until"]] == [str(OLD)]


def test_the_newest_full_backup_is_retained_without_its_id(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    child = BackupId("20261128T020000Z", 1, "00000009")
    put_backup(site.backups, child, Lsn(9 * MIB + 300), Lsn(9 * MIB + 400), kind="incremental", parent=str(SECOND))
    assert words.retain(site.config, words.NEWEST, datetime(2027, 11, 28, tzinfo=UTC)) == 0
    assert f"Backup {SECOND} stays until 2027-11-28 00:00:00 UTC" in capsys.readouterr().out
    assert words.retain(site.config, words.NEWEST, timedelta(days=365)) == 0
    assert f"Backup {SECOND} stays until 2027-11-28 12:00:00 UTC" in capsys.readouterr().out
    with pytest.raises(BadBackup, match="newest"):
        words.retain(site.config, words.NEWEST, None)


def test_p15_a_timer_shortens_no_word_that_lasts_longer(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """What a yearly one says of a backup stands, though a monthly one meets the same."""

    def stay() -> list[str]:
        return [each.until for each in read_expiry(site.store, site.layout).retained]

    assert words.retain(site.config, words.NEWEST, FOREVER) == 0
    before, _ = site.keys("expire/"), capsys.readouterr()
    assert words.retain(site.config, words.NEWEST, timedelta(days=30)) == 0
    assert capsys.readouterr().out == f"Backup {SECOND} stays forever, as was said before.\n"
    assert (site.keys("expire/"), stay()) == (before, [written(FOREVER)])
    week = site.now + timedelta(days=7)
    assert words.retain(site.config, str(SECOND), week) == 0  # a person's word of this one counts
    assert stay() == [written(week)]
    assert words.retain(site.config, words.NEWEST, timedelta(days=30)) == 0
    assert stay() == [written(site.now + timedelta(days=30))]
    assert words.retain(site.config, str(SECOND), None) == 0
    assert words.retain(site.config, words.NEWEST, timedelta(days=7)) == 0
    assert stay() == [written(week)]


def test_p15_a_timer_retains_none_that_was_found_damaged(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy for a year has to be one that restores."""
    found = Proof(backup=str(SECOND), at="2026-11-28T02:00:00Z", timeline=1, lsn="0/0", damage="pg_checksums: block 7")
    write_proof(site.store, site.layout, found)
    assert words.retain(site.config, words.NEWEST, FOREVER) == 0
    assert capsys.readouterr().out == f"Backup {FIRST} stays forever, with its own WAL.\n"


def test_without_a_complete_full_backup_none_is_retained(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for key in site.keys("backup/"):
        if key.endswith("backup.json"):
            site.store.delete(f"{site.layout.root}{key}")
    assert words.retain(site.config, words.NEWEST, FOREVER) == 2
    assert "walkeeper: backup newest: no full one is complete\n" in capsys.readouterr().err


def test_how_long_a_backup_stays_is_a_day_or_a_duration() -> None:
    assert words.parse_until("2027-11-28") == datetime(2027, 11, 28, tzinfo=UTC)
    assert words.parse_until("forever") == FOREVER
    assert words.parse_until("365d") == timedelta(days=365)
    with pytest.raises(ValueError, match="d"):
        words.parse_until("soond")


def test_p15_a_pin_holds_what_it_needs_and_people_can_let_it_go(
    site: Site, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    pin = a_pin(backup=str(OLD), timeline=1, lsn="0/300028", at="2026-11-28T11:00:00Z", until="2026-12-01T11:00:00Z")
    write_pin(site.store, site.layout, pin)
    assert run()["next_floor"] is None
    assert words.pins(site.config, None, json=False) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{pin.id}  restore {OLD}",
        f"  until 2026-12-01 11:00:00 UTC; from 0/300028 on timeline 1; {pin.by}",
    ]
    assert words.pins(site.config, pin.id, json=False) == 0
    assert read_pins(site.store, site.layout) == []
    assert run()["next_floor"]["backups"] == [str(OLD), str(OLDER)]
    assert words.pins(site.config, pin.id, json=False) == 2


def test_p15_a_backup_that_is_stored_while_the_wal_is_listed_holds(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began long ago, so that its own WAL lies below everything else that stays."""
    late = BackupId("20261114T020000Z", 1, "0000000a")
    pin = a_pin(backup=str(late), timeline=1, lsn="0/500028", at="2026-11-28T11:00:00Z", until="2026-12-01T11:00:00Z")
    write_pin(site.store, site.layout, pin)
    original = Backups.ids

    def ids(self: Backups) -> list[BackupId]:
        found = original(self)
        site.store.delete(site.layout.pin(pin.id))  # it is stored, and done, right after this listing
        return found

    monkeypatch.setattr(Backups, "ids", ids)
    assert run(apply=True)["next_floor"]["start_lsn"] == "0/500000"


def test_p15_a_pin_that_has_ended_holds_nothing_and_goes_a_week_later(site: Site, run: Run) -> None:
    """As one whose process was killed: an attempt at a backup, and a restore of one that a floor has given up."""
    killed = BackupId("20261119T020000Z", 1, "0000000a")
    site.backups.put_packed_piece(killed, "0" * 64, 5, 5, b"piece")
    until = "2026-11-28T11:59:59Z"
    for token, id_, at in ((1, killed, "2026-11-21T11:59:59Z"), (2, OLD, "2026-11-27T11:00:00Z")):
        pin = a_pin(id=f"0000000{token}-0001", backup=str(id_), timeline=1, lsn="0/300028", at=at, until=until)
        write_pin(site.store, site.layout, pin)
    run(apply=True)
    site.now += timedelta(hours=2)
    assert run(apply=True)["deleted"]["backups"] == [str(OLDER), str(OLD), str(killed)]
    assert site.keys("expire/") == ["expire/00000001.done.json", "expire/00000001.json"]
    assert site.keys(f"backup/{killed}/") == [f"backup/{killed}/backup.json"]
    assert len(site.keys("pin/")) == 2
    site.now += timedelta(days=7)
    run(apply=True)
    assert site.keys("pin/") == []


def test_p15_a_pin_that_comes_after_the_floor_still_holds(site: Site, run: Run) -> None:
    run(apply=True)
    site.now += timedelta(hours=2)
    pin = a_pin(backup=str(OLDER), timeline=1, lsn="0/500028", at="2026-11-28T12:30:00Z", until="2026-12-01T11:00:00Z")
    write_pin(site.store, site.layout, pin)
    assert run(apply=True)["deleted"]["backups"] == [str(OLD)]
    assert site.keys("wal/")[0].endswith(f"{site.built.segment(1, 5)}.zst")


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (lambda site: site.record(owner="node2"), "node2 owns it"),
        (lambda site: site.record(owner=""), "nobody owns it"),
        (lambda site: setattr(site.built.dcs, "down", True), "record in the DCS"),
        (lambda site: site.record(system_identifier="8"), "is of 8"),
        (lambda site: setattr(site, "ahead", 301.0), "clock: the store's is 5 min"),
        (lambda site: setattr(site, "ahead", -400.0), "behind this node's"),
        (lambda site: site.record(suspected=(Gap(1, "0/E00000", "0/F00000"),)), "is suspected lost"),
        (lambda site: site.store.create(f"{site.layout.backups}{OLD}x/".replace("00000001x", "0000000a") + "backup.json",
                                        b"{}", {}), "cannot be used"),
        (lambda site: site.store.create(site.layout.floor(7), b"{}", {}), "00000007.json: it cannot be used"),
        (lambda site: site.store.create(site.layout.pin("01234567-0001"), b"{}", {}), "it cannot be used"),
        (lambda site: site.record(timeline=2), "its history cannot be read"),
        (lambda site: site.record(timeline=2, start=site.built.segment(2, 3).name), "its history cannot be read"),
        (lambda site: write_floor(site.store, site.layout, a_floor(system_identifier=str(SYSTEM), segment_size=2 * MIB)),
         "segments of 2097152 bytes"),
    ],
)  # fmt: skip
def test_p15_what_could_break_a_promise_is_refused_with_a_reason(
    site: Site, what: Callable[[Site], None], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = site.keys("")
    what(site)
    added = set(site.keys("")) - set(before)
    assert command.main(site.config, command.Request(apply=True)) == 2
    said = capsys.readouterr()
    assert text in said.err
    assert "HINT: " in said.err
    assert set(site.keys("")) == {*before, *added}


def test_p15_too_few_backups_and_no_setting_are_refused_with_exit_1(site: Site, run: Run) -> None:
    site.config = replace(site.config, backup_keep=None)
    assert "nothing says what is to be kept" in run(code=1, apply=True)["refused"]
    assert run(number=3)["next_floor"]["backups"] == [str(OLD)]
    site.config = replace(site.config, backup_keep=86400.0)
    for id_ in (OLD, OLDER, FIRST):
        site.store.delete(site.layout.backup_json(id_))
    assert "1 complete full backup is" in run(code=1, apply=True)["refused"]
    assert read_expiry(site.store, site.layout).floors == ()


def test_the_cluster_s_own_run_is_quiet_about_a_young_archive_and_says_each_other_refusal(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    own = command.Request(apply=True, job=str(SECOND))
    gone = {}
    for id_ in (OLD, OLDER, FIRST):
        key = site.layout.backup_json(id_)
        gone[key] = site.store.get(key) or b""
        site.store.delete(key)
    assert command.main(site.config, own) == 0
    assert capsys.readouterr().err == ""
    for key, body in gone.items():
        site.store.create(key, body, {})
    assert command.main(site.config, own) == 0  # a floor is recorded: from now on too few are too few
    for key in gone:
        site.store.delete(key)
    assert command.main(site.config, own) == 1
    assert "walkeeper: retention: 1 complete full backup is on the cluster's chain" in capsys.readouterr().err
    site.config = replace(site.config, backup_keep=None)
    assert command.main(site.config, own) == 1
    assert "nothing says what is to be kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keep", "number", "kept"), [(14.0, None, 30.0), (60.0, None, 60.0), (None, 3, 30.0), (None, None, None)]
)
def test_what_the_store_does_not_let_go_is_not_given_up(
    site: Site, keep: float | None, number: int | None, kept: float | None
) -> None:
    config = replace(
        site.config,
        backup_keep=keep and keep * 86400.0,
        store=S3Settings(bucket="wal", object_lock_days=30),
    )
    assert command.policy_of(config, number) == Policy(timedelta(days=kept) if kept else None, number)


def test_it_is_said_in_words(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(site.config, command.Request())
    said = capsys.readouterr().out
    assert "Keeps     every second of the last 14 days, and 2 full backups at least" in said
    assert "Gives up  WAL before 0/700000, 4 segments" in said
    assert f"          backup {OLD}" in said
    assert "Remains   0/700100 to 0/E00000 on timeline 1" in said
    assert "Nothing was changed." in said
    command.main(site.config, command.Request(apply=True))
    assert "Recorded  floor 1: from 2026-11-28 13:00:00 UTC on --apply deletes below it" in capsys.readouterr().out


def test_gaps_and_tails_below_go_and_those_above_stay(site: Site, run: Run) -> None:
    for number in (4, 9):
        site.store.delete(site.built.key(1, number))
        site.built.archive.record_gap(site.built.segment(1, number), Lsn((number + 1) * MIB))
        site.built.archive.accept_gap(site.built.segment(1, number), Lsn((number + 1) * MIB))
        site.store.create(f"{site.layout.tail(site.built.segment(1, number).name)}00000000-00000100-a.zst", b"x", {})
    site.config = replace(site.config, backup_keep=60.0)
    run(apply=True)
    site.now += timedelta(hours=2)
    run(apply=True)
    for place in ("gap/", "tail/"):
        assert [key for key in site.keys(place) if site.built.segment(1, 4).name in key] == []
        assert [key for key in site.keys(place) if site.built.segment(1, 9).name in key] != []


def test_p15_an_incremental_goes_before_what_it_builds_on_or_both_stay(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the two leaves a full backup, and not an incremental without one."""
    child, grandchild = BackupId("20261103T020000Z", 1, "00000005"), BackupId("20261104T020000Z", 1, "00000006")
    for id_, parent, number in ((child, OLDER, 5), (grandchild, child, 6)):
        put_backup(
            site.backups, id_, Lsn(number * MIB + 300), Lsn(number * MIB + 400), kind="incremental", parent=str(parent)
        )
    assert run(apply=True)["next_floor"]["backups"] == [str(OLD), str(OLDER), str(child), str(grandchild)]
    site.now += timedelta(hours=2)
    locked, original = site.layout.backup_json(grandchild), DirectoryStore.delete

    def delete(self: DirectoryStore, key: str) -> None:
        if key == locked:
            raise StoreDenied(f"{key}: object lock")
        original(self, key)

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryStore, "delete", delete)
        assert run(apply=True)["deleted"]["backups"] == [str(OLD)]
    assert {each.id for each in there(site)} >= {str(OLDER), str(child), str(grandchild)}
    assert run(apply=True)["deleted"]["backups"] == [str(grandchild), str(child), str(OLDER)]


def there(site: Site) -> list[Backup]:
    return [each for id_ in site.backups.ids() if isinstance(each := site.backups.read(id_), Backup)]


def lose(site: Site, id_: BackupId, folder: str = "data/") -> None:
    for key in site.keys(f"backup/{id_}/{folder}"):
        site.store.delete(site.layout.root + key)


def test_p15_backups_whose_pieces_are_gone_do_not_make_older_ones_superfluous(
    site: Site, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    lose(site, FIRST)
    lose(site, SECOND, "manifest-")
    said = run(apply=True)
    assert said["next_floor"] is None
    assert (said["oldest"], [*said["damaged"]]) == (str(OLD), [str(FIRST), str(SECOND)])
    assert command.main(site.config, command.Request()) == 0
    assert f"Damaged {FIRST} does not count: " in " ".join(capsys.readouterr().out.split())
    lose(site, OLDER, "order-")
    assert "1 complete full backup is" in run(code=1, apply=True)["refused"]
    capsys.readouterr()
    command.main(site.config, command.Request(apply=True, job=str(SECOND)))
    said_too = capsys.readouterr()
    assert f"backup {OLDER}: it does not count: " in said_too.err
    assert f"Damaged {OLDER} does not count: " in " ".join(said_too.out.split())
    assert len(site.keys("wal/")) == 11


def test_p15_what_a_floor_gave_up_stays_where_what_was_to_remain_has_lost_pieces_since(site: Site, run: Run) -> None:
    run(apply=True)
    site.now += timedelta(hours=2)
    lose(site, FIRST)
    lose(site, SECOND)
    assert run(apply=True)["deleted"]["objects"] == 0
    assert [each.id for each in there(site)] == [str(OLD), str(OLDER), str(FIRST), str(SECOND)]


def test_p15_a_piece_of_another_size_counts_as_gone_and_one_that_only_a_listing_lacks_does_not(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = DirectoryStore.list
    hidden = site.layout.root + site.keys(f"backup/{SECOND}/data/")[0]

    def late(store: DirectoryStore, prefix: str) -> Iterator[ObjectInfo]:
        return (info for info in listed(store, prefix) if info.key != hidden)

    monkeypatch.setattr(DirectoryStore, "list", late)
    assert run()["damaged"] == {}
    body = site.store.get(hidden) or b""
    site.store.delete(hidden)
    site.store.create(hidden, body + b"x", {})
    assert "pieces of" in run()["damaged"][str(SECOND)]


def test_p15_where_pieces_cannot_be_asked_for_nothing_is_given_up(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = site.layout.root + site.keys(f"backup/{SECOND}/data/")[0]
    site.store.delete(key)

    def head(_: DirectoryStore, asked: str) -> None:
        raise StoreDenied(f"{asked}: 403")

    run(apply=True)
    site.now += timedelta(hours=2)
    monkeypatch.setattr("walkeeper.lib.retry.time.sleep", lambda _: None)
    monkeypatch.setattr(DirectoryStore, "head", head)
    assert command.main(site.config, command.Request(apply=True)) == 2
    assert f"{key}: 403" in capsys.readouterr().err
    assert len(there(site)) == 4


def test_p15_an_incremental_whose_full_backup_has_lost_pieces_is_no_reason_to_give_up_an_older_one(
    site: Site, run: Run
) -> None:
    child, newest = BackupId("20261114T010000Z", 1, "00000005"), BackupId("20261128T010000Z", 1, "00000006")
    put_backup(site.backups, newest, Lsn(11 * MIB), Lsn(11 * MIB + 400))
    put_backup(site.backups, child, Lsn(8 * MIB), Lsn(8 * MIB + 400), kind="incremental", parent=str(FIRST))
    assert run()["oldest"] == str(child)
    lose(site, FIRST)
    assert run()["oldest"] == str(OLDER)


def test_p15_a_clock_that_jumps_makes_nothing_old(site: Site, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """On a directory of its own host: the store's clock is that one, too, and a backup is taken meanwhile."""
    for day in range(14, 27):
        at = Lsn((7 + (day - 14) // 5) * MIB + 4096 * day)
        put_backup(site.backups, BackupId(f"202611{day}T020000Z", 1, "000000aa"), at, Lsn(at + 256))
    pin = a_pin(backup=str(OLD), timeline=1, lsn="0/300028", at="2026-11-28T11:00:00Z", until="2026-12-01T11:00:00Z")
    write_pin(site.store, site.layout, pin)
    killed = BackupId("20261127T040000Z", 1, "0000000a")
    site.backups.put_packed_piece(killed, "0" * 64, 5, 5, b"piece")
    site.now += timedelta(days=365)
    said = run(apply=True)
    assert (said["next_floor"], said["pins"], said["oldest"]) == (None, [pin.id], str(FIRST))
    put_backup(site.backups, BackupId("20271128T130000Z", 1, "000000ab"), Lsn(12 * MIB), Lsn(12 * MIB + 256))
    site.now += timedelta(hours=2)
    said = run(apply=True)
    assert (said["next_floor"], said["oldest"], said["stood"]) == (
        None,
        str(FIRST),
        ["2026-11-27T04:00:00Z", "2027-11-28T13:00:00Z"],
    )
    command.main(site.config, command.Request())
    assert "Time      2026-11-27T04:00:00Z to 2027-11-28T13:00:00Z makes nothing older" in capsys.readouterr().out


def test_p15_a_pin_counts_from_when_the_store_got_it(site: Site, run: Run) -> None:
    """The clock of who restores is eight days behind."""
    pin = a_pin(backup=str(OLD), timeline=1, lsn="0/300028", at="2026-11-20T11:00:00Z", until="2026-11-27T11:00:00Z")
    write_pin(site.store, site.layout, pin)
    site.stored[site.layout.pin(pin.id)] = NOW
    said = run(apply=True)
    assert (said["pins"], said["next_floor"]) == ([pin.id], None)
    site.now += timedelta(days=7, hours=1)
    assert run(apply=True)["next_floor"]["backups"] == [str(OLD), str(OLDER)]


def test_p15_the_clock_of_an_nfs_server_is_the_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DirectorySettings(tmp_path)
    monkeypatch.undo()
    assert abs(settings.clock_ahead() or 0.0) < CLOCKS
    behind = clock.wall_seconds() - 3600
    monkeypatch.setattr("walkeeper.lib.clock.wall_seconds", lambda: behind)
    assert (settings.clock_ahead() or 0.0) > CLOCKS
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreUnavailable, match="gone: No such file or directory") as away:
        DirectorySettings(tmp_path / "gone").clock_ahead()
    assert away.value.hint.startswith("Mount the file system")


def test_p15_a_backup_whose_trial_found_damage_does_not_count(site: Site, run: Run) -> None:
    for id_ in (FIRST, SECOND):
        proof = Proof(backup=str(id_), at="2026-11-28T02:00:00Z", timeline=1, lsn="0/0", damage="pg_verifybackup: torn")
        write_proof(site.store, site.layout, proof)
    said = run(apply=True)
    assert (said["oldest"], said["next_floor"]) == (str(OLD), None)
    assert "pg_verifybackup: torn" in said["damaged"][str(FIRST)]
    sound = Proof(backup=str(FIRST), at="2026-11-28T03:00:00Z", timeline=1, lsn="0/700100")
    write_proof(site.store, site.layout, sound)
    assert run(apply=True)["oldest"] == str(OLDER)


def test_p15_for_a_backup_whose_trial_found_damage_the_command_that_proves_it_again_is_printed(
    site: Site, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for id_ in (OLD, OLDER, FIRST):
        write_proof(
            site.store,
            site.layout,
            Proof(backup=str(id_), at="2026-11-28T02:00:00Z", timeline=1, lsn="0/0", damage="pg_verifybackup: torn"),
        )
    found = run(code=1, apply=True)
    assert "walkeeper expire and walkeeper verify say which backups do not count" in found["hint"]
    assert [*found["prove"]] == [*found["damaged"]] == [str(OLD), str(OLDER), str(FIRST)]
    command.main(site.config, command.Request(apply=True, job=str(SECOND)))
    told = capsys.readouterr()
    for id_, printed in found["prove"].items():
        asked = parser().parse_args(printed.split()[1:])
        chosen = choose(
            look(open_archives(site.config), SYSTEM, site.built.archive.size, None).windows, Lsn.parse(asked.to)
        )
        assert isinstance(chosen, Choice)
        assert chosen.backup.id == id_
        hint = f"HINT: It counts again when it is proved: {printed}. walkeeper backup takes a new one."
        assert f"backup {id_}: it does not count: it was found damaged at" in told.err
        assert hint in told.err
        assert hint in " ".join(told.out.split())


def test_p15_a_backup_of_a_branch_that_was_left_is_proved_again_on_its_timeline(site: Site) -> None:
    site.built.archive.archive_history(2, history_text(TWO))
    there = look(open_archives(site.config), SYSTEM, site.built.archive.size, None).windows
    assert proved_by(there, str(OLD)) == "walkeeper verify --restore --to 0/300100"
    assert proved_by(there, str(FIRST)) == "walkeeper verify --restore --to 0/700100 --timeline 1"
    assert proved_by(there, "20261101T020000Z-00000001-000000ff") == ""


@pytest.mark.parametrize("word_first", [False, True])
def test_p15_a_retained_backup_stays_with_its_wal_though_a_trial_found_damage(
    site: Site, run: Run, *, word_first: bool
) -> None:
    """Whoever said that it stays knows nothing of the trial, and the next one may prove it."""
    found = Proof(backup=str(OLD), at="2026-11-28T02:00:00Z", timeline=1, lsn="0/0", damage="pg_checksums: block 7")
    if not word_first:
        write_proof(site.store, site.layout, found)
    assert words.retain(site.config, str(OLD), FOREVER) == 0
    if word_first:
        write_proof(site.store, site.layout, found)
    said = run(apply=True)
    assert (said["retained"], said["next_floor"]["backups"]) == ([str(OLD)], [str(OLDER)])
    site.now += timedelta(hours=2)
    assert run(apply=True)["deleted"]["backups"] == [str(OLDER)]
    assert [each.id for each in there(site)] == [str(OLD), str(FIRST), str(SECOND)]
    assert [key[-28:-4] for key in site.keys("wal/")] == [
        site.built.segment(1, number).name for number in (3, *range(7, 14))
    ]
