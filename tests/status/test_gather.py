"""What status learns from the store: gaps that are open, and whether a replica that fell behind can come back."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.core.values import plain_segment
from tests.fixtures.backed_up import put_backup
from walkeeper.archive.backups import Backups
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.config import Config, load
from walkeeper.core.backup import BackupId
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.dcs.base import Member
from walkeeper.status import attention, gather, rows
from walkeeper.store.directory import DirectoryStore
from walkeeper.store.directory.keys import DirectorySettings

LOST = Segment(1, 5, SegmentSize(MIB))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "store").mkdir()
    file = tmp_path / "patroni.yml"
    file.write_text(f"scope: demo\nwalkeeper:\n  store:\n    directory: {tmp_path / 'store'}\n")
    return load(file, {})


def archive_of(config: Config) -> Archive:
    assert isinstance(config.store, DirectorySettings)
    return Archive(DirectoryStore(config.store.path), Layout("demo", None, 7), LOST.size, Codec())


def record(lsn: int) -> Record:
    return Record(
        system_identifier="7", segment_size=MIB, timeline=1, lsn=str(Lsn(lsn)), start=LOST.name, owner="a", session="s"
    )


def test_status_reports_a_gap_until_it_is_closed(config: Config) -> None:
    """By a returning member."""
    archive = archive_of(config)
    archive.record_gap(LOST, LOST.end)
    unknown: list[dict[str, str]] = []
    assert gather._gaps(config, record(LOST.end), unknown) == [
        {"timeline": 1, "start": "0/500000", "end": "0/600000", "accepted": False}
    ]
    archive.archive_segment(LOST, plain_segment(LOST, 7), History(1))
    assert gather._gaps(config, record(LOST.end), unknown) == []
    assert unknown == []


@pytest.mark.parametrize(
    ("lsn", "changes", "next_wal"),
    [
        (8 * MIB + 100, {}, "archived"),
        (9 * MIB + 100, {}, "absent"),
        (12 * MIB + 100, {}, None),  # the frontier has not passed it: it may come
        (5 * MIB + 100, {}, "gap 0/500000 to 0/600000"),
        (3 * MIB, {}, "gap 0/500000 to 0/600000"),  # a replica below a gap gets no further than that
        (9 * MIB + 100, {"receives": True}, None),
        (9 * MIB + 100, {"behind_bytes": MIB - 1}, None),
        (9 * MIB + 100, {"receives": None, "behind_bytes": None}, None),
    ],
)
def test_a_replica_that_does_not_stream_comes_back_by_the_archive_or_not_at_all(
    config: Config, lsn: int, changes: dict[str, Any], next_wal: str | None
) -> None:
    archive = archive_of(config)
    archive.record_gap(LOST, LOST.end)
    eighth = Segment(1, 8, LOST.size)
    archive.archive_segment(eighth, plain_segment(eighth, 7), History(1))
    now = record(12 * MIB)
    row = {"lsn": str(Lsn(lsn)), "receives": False, "behind_bytes": 9 * MIB, "next_wal": None, **changes}
    gather._look_for_next_wal(config, now, gather._gaps(config, now, []) or [], [row])
    assert row["next_wal"] == next_wal


def test_a_store_that_is_away_is_no_reason_to_call_a_replica_stuck(config: Config, tmp_path: Path) -> None:
    (tmp_path / "store").rename(tmp_path / "away")
    row: dict[str, Any] = {"lsn": "0/900000", "receives": False, "behind_bytes": 9 * MIB, "next_wal": None}
    gather._look_for_next_wal(config, record(12 * MIB), [], [row])
    assert row["next_wal"] is None


def test_of_a_members_server_that_is_down_the_address_is_patronis(config: Config) -> None:
    with config.source.open("a") as file:
        file.write("postgresql:\n  authentication:\n    replication: {username: replicator}\n")
    unknown: list[dict[str, str]] = []
    with socket.socket() as bound:  # and nobody listens
        bound.bind(("127.0.0.1", 0))
        member = Member("node2", "replica", "running", "127.0.0.1", bound.getsockname()[1], 1, None)
        row, *_ = gather._member(load(config.source, {}), member, unknown)
    assert row["timeline"] is None
    (said,) = unknown
    assert said["text"].startswith("node2: postgresql at 127.0.0.1:")
    assert "connect_address" in said["hint"]


def test_status_tells_what_base_backups_restore_and_what_to_look_at(config: Config) -> None:
    backups = Backups(archive_of(config).store, Layout("demo", None, 7), Codec())
    unknown: list[dict[str, str]] = []
    assert gather._backups(config, record(9 * MIB), unknown) is None
    id_ = BackupId("20261128T020000Z", 1, "1a2b3c4d")
    put_backup(backups, id_, Lsn(6 * MIB + 40), Lsn(6 * MIB + 256), at="2026-11-28T02:00:00+00:00")
    found = gather._backups(config, record(9 * MIB), unknown)
    assert found is not None
    assert (found["complete"], found["newest"]["id"], found["short"]) == (1, str(id_), False)
    assert (found["window"]["start_lsn"], found["window"]["end_lsn"]) == ("0/600100", "0/900000")
    assert attention.about_backups(found) == []
    assert unknown == []
    assert gather._backups(config, record(6 * MIB), []) == {
        **found,
        "complete": 0,
        "incomplete": 1,
        "newest": None,
        "window": None,
    }


BACKED: dict[str, Any] = {
    "complete": 14, "damaged": 0, "incomplete": 0, "attempts": 0, "newest": {"id": "x", "stop_at": "", "age_seconds": 25200.0},
    "window": {"timeline": 2, "start_lsn": "0/1A00190", "start_at": "", "end_lsn": "0/2000000", "seconds": 13.7 * 86400},
    "keep_seconds": None, "short": False, "proved": None, "overdue": None, "proof_overdue": None,
    "expire_waits_seconds": 8 * 86400.0,
}  # fmt: skip


def test_backups_are_told_in_words() -> None:
    assert rows.backups({"backups": None}) == []
    assert rows.backups({"backups": BACKED})[0] == "14 complete, the newest 7 h old"
    chained = {**BACKED, "newest": {**BACKED["newest"], "full_age_seconds": 3 * 86400.0}}
    assert (
        rows.backups({"backups": chained})[0]
        == "14 complete, the newest 7 h old (incremental, of a full one 3 days old)"
    )
    assert rows.backups({"backups": BACKED})[1].startswith("0/1A00190 to 0/2000000 can be restored, ")
    assert rows.backups({"backups": BACKED})[2] == "last proved by a real restore: never"
    proved = {**BACKED, "proved": {"age_seconds": 2 * 86400.0}}
    assert rows.backups({"backups": proved})[2] == "last proved by a real restore: 2 days ago"
    others = {**BACKED, "damaged": 1, "attempts": 2, "newest": None, "window": None, "complete": 0}
    assert rows.backups({"backups": others}) == ["0 complete; 1 damaged; 2 attempts"]


JOB: dict[str, Any] = {
    "backup": "x", "due": "2026-11-28T02:00:00Z", "state": "running", "node": "n2", "attempt": 1, "bytes": 0, "of": 0,
    "at": "2026-11-28T02:10:00Z", "why": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (None, "next due 2026-11-29 02:00:00 UTC"),
        ({}, "runs on n2"),
        ({"silent": True}, "began on n2, which no longer says anything of it"),
        ({"bytes": 5 << 30, "of": 9 << 30, "attempt": 2}, "runs on n2, 5 GiB of about 9 GiB, attempt 2"),
        ({"state": "wanted", "node": "", "attempt": 0}, "due since 2026-11-28 02:00:00 UTC, waits for a member"),
        (
            {"state": "wanted", "node": "node2", "attempt": 0, "why": "it lacks a tablespace", "later": True},
            "due since 2026-11-28 02:00:00 UTC, waits for the next base backup; this one cannot be tried: it lacks a tablespace",
        ),
        (
            {"state": "wanted", "why": "no room"},
            "due since 2026-11-28 02:00:00 UTC, waits for a member; the last attempt failed: no room",
        ),
        ({"state": "done"}, "next due 2026-11-29 02:00:00 UTC; the last was done on n2, 2026-11-28 02:10:00 UTC"),
        ({"state": "failed", "why": "no room"}, "next due 2026-11-29 02:00:00 UTC; the last attempt failed: no room"),
    ],
)
@pytest.mark.parametrize("word", ["backup", "proof"])
def test_a_job_is_told_in_words(changes: dict[str, Any] | None, text: str, word: str) -> None:
    job = None if changes is None else {**JOB, **changes}
    agent = {f"{word}_job": job, f"{word}_schedule": {"schedule": "02:00", "next": "2026-11-29T02:00:00Z"}}
    assert rows.backups({"backups": None, "agent": agent}) == [f"scheduled {word} (02:00): {text}"]
    assert rows.backups({"backups": BACKED, "agent": agent})[3:] == [f"scheduled {word} (02:00): {text}"]


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({}, []),
        ({"damaged": 1}, ["1 base backup is damaged"]),
        (
            {"complete": 0, "incomplete": 2},
            ["no base backup is complete: nothing can be restored with walkeeper alone"],
        ),
        ({"complete": 0, "attempts": 1}, []),
        ({"overdue": True}, ["the newest base backup is 7 h old, and backup.schedule was due twice since"]),
        ({"proof_overdue": True}, ["backups were never proved, and backup.verify_schedule was due twice since"]),
        (
            {"proof_overdue": True, "proved": {"age_seconds": 9 * 86400.0}},
            ["the last proof is 9 days old, and backup.verify_schedule was due twice since"],
        ),
        ({"expire_waits_seconds": 9 * 86400.0}, ["expire has had something to delete for 9 days"]),
        ({"expire_waits_seconds": None}, []),
        ({"short": True, "keep_seconds": 30 * 86400.0}, ["what can be restored goes"]),
    ],
)
def test_what_of_backups_wants_a_look(changes: dict[str, Any], texts: list[str]) -> None:
    found = attention.about_backups({**BACKED, **changes})
    assert len(found) == len(texts)
    for remark, text in zip(found, texts, strict=True):
        assert remark["text"].startswith(text)
        assert remark["hint"]
