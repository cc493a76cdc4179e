"""What doctor says of a member that was promoted beside the leader, under a number that the archive knows as another server's."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.core.values import control_file, history_text, plain_segment
from tests.twins.memory_store import MemoryStore
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.history import History, Switch, parse_history
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.doctor.branch import newer_branch, other_branch
from walkeeper.doctor.facts import Unknown

SYSTEM: Final = 7300000000000000001
SIZE: Final = SegmentSize(MIB)
OURS: Final = b"1\t0/2B61DE0\tno recovery target specified\n"
NEXT: Final = OURS + b"\n2\t0/3A00000\tno recovery target specified\n"
"""As PostgreSQL writes it: the parent's, an empty line, its own."""
FORK: Final = Lsn(5 * MIB + 100)
TWO: Final = History(2, (Switch(1, FORK),))
SEGMENT: Final = TWO.segment_at(FORK, SIZE)


def record(timeline: int) -> Record:
    return Record(
        system_identifier=str(SYSTEM), segment_size=MIB, timeline=timeline, lsn="0/4000000", start="000000010000000000000001",
        owner="a", session="s",
    )  # fmt: skip


@pytest.fixture
def archive() -> Archive:
    made = Archive(MemoryStore(), Layout("demo", None, SYSTEM), SIZE, Codec())
    made.state_start(Segment(1, 1, SIZE))
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "pg_wal").mkdir()
    (tmp_path / "global").mkdir()
    (tmp_path / "global" / "pg_control").write_bytes(control_file(1, 4 * MIB))
    return tmp_path


@pytest.mark.parametrize(
    ("local", "found"),
    [
        ({}, ""),
        ({2: OURS}, ""),
        ({2: OURS, 3: NEXT}, ""),
        ({2: OURS.replace(b"2B61DE0", b"2439058")}, "timeline 2"),
        ({2: OURS.replace(b"2B61DE0", b"2439058"), 3: NEXT}, "timeline 2"),
        ({2: OURS, 4: b"of a branch that was left"}, ""),
    ],
)
def test_a_history_of_another_branch(archive: Archive, data: Path, local: dict[int, bytes], found: str) -> None:
    archive.archive_history(3, NEXT)
    assert parse_history(3, NEXT).timelines == (1, 2, 3)
    for timeline, content in local.items():
        (data / "pg_wal" / f"{timeline:08X}.history").write_bytes(content)
    assert other_branch(data, archive, record(3)) == found


@pytest.mark.parametrize(
    ("control", "fill", "found"),
    [
        (control_file(2, FORK + 2000), b"w", ""),
        (control_file(2, FORK + 2000), b"x", f"timeline 2, in {SEGMENT.name},"),
        (control_file(2, 9 * MIB), b"x", f"timeline 2, in {SEGMENT.name},"),
        (control_file(1, 4 * MIB, FORK), b"x", ""),  # it may not have come to what that file has
    ],
)
def test_wal_of_another_branch_with_the_very_same_history(
    archive: Archive, data: Path, control: bytes, fill: bytes, found: str
) -> None:
    """Two servers that were promoted where the same leader had died (torture on S3, seed 406)."""
    archive.archive_history(2, history_text(TWO))
    (data / "pg_wal" / "00000002.history").write_bytes(history_text(TWO))
    (data / "global" / "pg_control").write_bytes(control)
    (data / "pg_wal" / SEGMENT.name).write_bytes(plain_segment(SEGMENT, SYSTEM, fill=fill))
    assert other_branch(data, archive, record(2)) == "", "the archive does not have it yet"
    archive.archive_segment(SEGMENT, plain_segment(SEGMENT, SYSTEM), TWO)
    assert other_branch(data, archive, record(2)) == found
    (data / "pg_wal" / SEGMENT.name).unlink()
    assert other_branch(data, archive, record(2)) == "", "it can no longer be told"


def test_wal_of_another_branch_where_the_forks_segment_is_gone(archive: Archive, data: Path) -> None:
    """PostgreSQL had replaced its own history, with another fork, by the archive's (torture on S3, seed 406)."""
    later = TWO.segment_at(Lsn(FORK + MIB), SIZE)
    archive.archive_history(2, history_text(TWO))
    archive.archive_segment(later, plain_segment(later, SYSTEM), TWO)
    (data / "global" / "pg_control").write_bytes(control_file(2, 9 * MIB))
    (data / "pg_wal" / later.name).write_bytes(plain_segment(later, SYSTEM))
    assert other_branch(data, archive, record(2)) == ""
    (data / "pg_wal" / later.name).write_bytes(plain_segment(later, SYSTEM, fill=b"x"))
    assert other_branch(data, archive, record(2)) == f"timeline 2, in {later.name},"
    (data / "global" / "pg_control").write_bytes(control_file(2, later.start))
    assert other_branch(data, archive, record(2)) == "", "it may not have come to what that file has"


def test_the_archives_newest_timeline_that_the_cluster_has_abandoned(archive: Archive) -> None:
    one = msgspec.structs.replace(record(1), lsn=str(Lsn(9 * MIB)))
    assert newer_branch(archive, one) == ""
    archive.archive_history(2, history_text(TWO))
    assert newer_branch(archive, one) == "2"
    assert newer_branch(archive, msgspec.structs.replace(one, lsn="0/500000")) == "", (
        "its owner may be about to take over"
    )
    assert newer_branch(archive, record(2)) == ""
    archive.archive_history(3, history_text(History(3, (Switch(1, Lsn(9 * MIB)),))))
    assert newer_branch(archive, one) == "", "that one goes on with the cluster's, and is newer"


def test_what_cannot_be_read_is_not_known(archive: Archive, data: Path) -> None:
    archive.archive_history(3, NEXT)
    (data / "pg_wal" / "00000002.history").mkdir()
    assert isinstance(other_branch(data, archive, record(3)), Unknown)
    (data / "global" / "pg_control").unlink()
    (data / "pg_wal" / "00000002.history").rmdir()
    assert isinstance(other_branch(data, archive, record(3)), Unknown)
