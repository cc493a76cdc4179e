"""The histories in pg_wal: what is readable, whoever asks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.core.values import control_file, history_text
from walkeeper.agent.archiver.local_wal import read_local_wal
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import BadHistory, ConfigError, PostgresError
from walkeeper.postgres.data_directory import backup_begins, read_histories
from walkeeper.postgres.server import ServerState
from walkeeper.restore.branch import followed

TWO: Final = History(2, (Switch(1, Lsn(5 * MIB + 100)),))
FOUR: Final = History(4, (Switch(1, Lsn(5 * MIB + 100)), Switch(2, Lsn(8 * MIB))))
DAMAGED: Final = b"2\t0/80"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "pg_wal").mkdir()
    (tmp_path / "global").mkdir()
    (tmp_path / "global" / "pg_control").write_bytes(control_file(4, Lsn(9 * MIB)))
    for history in (TWO, FOUR):
        (tmp_path / "pg_wal" / f"{history.timeline:08X}.history").write_bytes(history_text(history))
    for name in ("00000001.history", "00000000.history", "4.history", "00000004.history.tmp", "0000000G.history"):
        (tmp_path / "pg_wal" / name).write_bytes(DAMAGED)
    return tmp_path


def damage(data: Path, timeline: int, kind: str = "cut short") -> None:
    path = data / "pg_wal" / f"{timeline:08X}.history"
    path.unlink(missing_ok=True)
    if kind == "a directory":
        path.mkdir()
    elif kind == "a link to nowhere":
        path.symlink_to("nowhere")
    else:
        path.write_bytes({"cut short": DAMAGED, "empty": b"", "too long": b"1\t0/10\tx\n" * 100_000}[kind])


def state(timeline: int) -> ServerState:
    return ServerState(1, False, timeline, Lsn(9 * MIB), SegmentSize(MIB), 15, "replica")


@pytest.mark.parametrize("kind", ["cut short", "empty", "too long", "a directory", "a link to nowhere"])
def test_a_damaged_history_of_another_branch_stops_no_takeover(data: Path, kind: str) -> None:
    damage(data, 3, kind)
    local = read_local_wal(data / "pg_wal", state(4))
    assert local.server.history == FOUR
    assert local.histories == {2: history_text(TWO), 4: history_text(FOUR)}


def test_a_damaged_history_of_the_servers_own_timeline_stops_its_takeover(data: Path) -> None:
    damage(data, 4)
    with pytest.raises(BadHistory, match=r"00000004\.history"):
        read_local_wal(data / "pg_wal", state(4))


def test_one_that_is_not_there_yet_is_waited_for(data: Path) -> None:
    with pytest.raises(PostgresError, match=r"00000005\.history: not there"):
        read_local_wal(data / "pg_wal", state(5))


def test_a_takeover_has_nothing_to_do_with_newer_timelines(data: Path) -> None:
    assert read_local_wal(data / "pg_wal", state(2)).histories == {2: history_text(TWO)}


def test_a_pg_wal_that_cannot_be_listed_is_said(data: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_local_wal(data / "elsewhere", state(4))


def test_whom_a_restore_follows_is_read_from_the_same_files(data: Path) -> None:
    damage(data, 3)
    assert sorted(followed(data), key=lambda history: history.timeline) == [TWO, FOUR]
    assert set(read_histories(data / "pg_wal")) == {2, 4}


def label(name: str, checkpoint: Lsn) -> str:
    return f"START WAL LOCATION: 0/28 (file {name})\nCHECKPOINT LOCATION: {checkpoint}\nBACKUP METHOD: streamed\n"


def of_size(data: Path, size: int) -> None:
    (data / "global" / "pg_control").write_bytes(control_file(4, Lsn(9 * MIB), segment_size=size))


@pytest.mark.parametrize("size", [MIB, 16 * MIB, 1024 * MIB])
def test_where_a_base_backup_begins_is_told_with_its_checkpoint(data: Path, size: int) -> None:
    of_size(data, size)
    first, checkpoint = (Segment(3, number, SegmentSize(size)) for number in (4097, 4099))
    (data / "backup_label").write_text(label(first.name, Lsn(checkpoint.start + 96)))
    assert backup_begins(data) == (first, checkpoint)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "START WAL LOCATION: 0/500028 (file 000000010000000000000005)\n",
        label("000000010000000000000005", Lsn(5 * MIB)).replace("0/", "0//"),
        label("000000000000000000000005", Lsn(5 * MIB)),
        label("000000010000000000000000", Lsn(5 * MIB)),
        label("000000010000000000001005", Lsn(5 * MIB)),
    ],
)
def test_what_is_no_backups_beginning_says_nothing(data: Path, text: str) -> None:
    of_size(data, MIB)
    (data / "backup_label").write_text(text)
    assert backup_begins(data) is None


def test_without_a_base_backup_or_its_segment_size_nothing_is_said_of_its_beginning(data: Path) -> None:
    (data / "backup_label").write_text(label("000000010000000000000005", Lsn(5 * MIB)))
    assert backup_begins(data) is None
    of_size(data, MIB)
    assert backup_begins(data) is not None
    (data / "backup_label").unlink()
    assert backup_begins(data) is None
