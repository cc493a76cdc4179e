"""Seeding pg_receivewal, and what happens to files that do not belong."""

from __future__ import annotations

import errno
import resource
import shutil
from pathlib import Path

import pytest

from tests.core.values import plain_segment
from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.agent.archiver.spool import Spool
from walkeeper.config import PostgresqlSettings
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.takeover import LocalServer
from walkeeper.errors import ConfigError, PostgresError, SpoolError
from walkeeper.lib.clock import SystemClock
from walkeeper.postgres.pg_receivewal import Receiver
from walkeeper.postgres.wal_file import is_there

SIZE = SegmentSize(MIB)
SYSTEM = 7
TWO = History(2, (Switch(1, Lsn(5 * MIB + 100)),))


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool", 64 * MIB)
    spool.open()
    return spool


def put(spool: Spool, timeline: int, number: int, size: int = MIB, suffix: str = "") -> Path:
    path = spool.wal / (Segment(timeline, number, SIZE).name + suffix)
    path.write_bytes(plain_segment(Segment(timeline, number, SIZE), SYSTEM)[:size])
    return path


def seed(spool: Spool, frontier: Lsn) -> Segment:
    """As the archiver does it: from the first segment of the chain that the spool has not."""
    first = Frontier(TWO, frontier, SIZE).first_missing(spool.complete(SIZE))
    spool.seed(TWO, first)
    return first


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_an_empty_spool_is_seeded_at_the_frontier_never_at_now(spool: Spool) -> None:
    assert seed(spool, Lsn(3 * MIB)) == Segment(1, 3, SIZE)
    assert names(spool.wal) == ["000000010000000000000003.partial"]
    assert (spool.wal / "000000010000000000000003.partial").stat().st_size == 0


def test_the_boundary_segment_is_received_under_the_new_timeline(spool: Spool) -> None:
    assert seed(spool, Lsn(5 * MIB)) == Segment(2, 5, SIZE)


def test_complete_segments_from_the_frontier_on_are_kept_and_not_streamed_again(spool: Spool) -> None:
    put(spool, 1, 3)
    put(spool, 1, 4)
    put(spool, 2, 5)
    assert seed(spool, Lsn(3 * MIB)) == Segment(2, 6, SIZE)
    assert spool.complete(SIZE) == [Segment(1, 3, SIZE), Segment(1, 4, SIZE), Segment(2, 5, SIZE)]


def test_a_segment_below_the_frontier_waits_for_its_removal(spool: Spool) -> None:
    put(spool, 1, 2)
    assert seed(spool, Lsn(3 * MIB)) == Segment(1, 3, SIZE)
    assert Segment(1, 2, SIZE) in spool.complete(SIZE)


@pytest.mark.parametrize(
    ("timeline", "number", "size"),
    [
        (1, 9, MIB),  # a stale higher segment would send pg_receivewal into the future
        (1, 6, MIB),  # the dead primary's own branch
        (2, 7, MIB),  # beyond a hole
        (1, 3, 100),  # truncated under its final name: pg_receivewal would start at "now"
        (1, 3, 0),
        (3, 5, MIB),
    ],
)
def test_what_would_mislead_pg_receivewal_goes_to_quarantine(
    spool: Spool, timeline: int, number: int, size: int
) -> None:
    path = put(spool, timeline, number, size)
    assert seed(spool, Lsn(3 * MIB)) == Segment(1, 3, SIZE)
    assert names(spool.wal) == ["000000010000000000000003.partial"]
    assert names(spool.quarantine) == [path.name]


def test_what_another_cluster_left_under_names_that_come_again_goes_to_quarantine(spool: Spool) -> None:
    """Initialised again, or upgraded: a takeover that was accepted would wait for these for ever."""
    ours, theirs, unread = (put(spool, 1, number) for number in (3, 4, 5))
    theirs.write_bytes(plain_segment(Segment(1, 4, SIZE), SYSTEM + 1))
    unread.write_bytes(bytes(MIB))
    spool.put_strangers_aside(SIZE, SYSTEM)
    assert names(spool.wal) == [ours.name, unread.name]
    assert names(spool.quarantine) == [theirs.name]


def test_a_partial_of_odd_size_is_put_aside_and_the_seed_made_anew(spool: Spool) -> None:
    """What a full disk leaves; pg_receivewal would refuse it for ever."""
    put(spool, 1, 3, 12345, ".partial")
    assert seed(spool, Lsn(3 * MIB)) == Segment(1, 3, SIZE)
    assert names(spool.quarantine) == ["000000010000000000000003.partial"]
    assert (spool.wal / "000000010000000000000003.partial").stat().st_size == 0


def test_ordinary_partials_and_histories_are_simply_dropped(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    put(spool, 1, 5, MIB, ".partial")
    put(spool, 1, 3, 0, ".partial")
    put(spool, 1, 6, 24 * 8192, ".partial")  # pg_receivewal was killed while it filled it with zeros
    (spool.wal / "00000002.history").write_text("stale")
    (spool.wal / "00000003.history.tmp").write_text("1\t0/3")  # or while it wrote that
    seed(spool, Lsn(3 * MIB))
    assert names(spool.wal) == ["000000010000000000000003.partial"]
    assert names(spool.quarantine) == []
    assert "spool_" not in caplog.text


def test_unknown_files_are_left_alone_and_reported_once(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("core", "x.partial.tmp", ".swp"):
        (spool.wal / name).write_text("x")
    (spool.wal / "lost+found").mkdir()
    for _ in range(3):
        spool.complete(SIZE)
        seed(spool, Lsn(3 * MIB))
    assert {"core", "x.partial.tmp", ".swp", "lost+found"} <= set(names(spool.wal))
    assert sum("spool_unknown_file" in record.getMessage() for record in caplog.records) == 4


def test_after_a_restart_of_the_machine_nothing_in_it_is_trusted(spool: Spool) -> None:
    put(spool, 1, 3)
    put(spool, 1, 4, MIB, ".partial")
    (spool.directory / "boot").write_text("another boot\n")
    spool.open()
    assert names(spool.wal) == []
    assert names(spool.quarantine) == ["000000010000000000000003"]


def test_the_quarantine_is_bounded_and_the_oldest_goes_first(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 8 * MIB)
    spool.open()
    for number in (7, 8, 9):
        put(spool, 1, number)
        spool.put_aside(Segment(1, number, SIZE).name, "a test")
    assert names(spool.quarantine) == [Segment(1, 8, SIZE).name, Segment(1, 9, SIZE).name]


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_spool_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool").chmod(mode)
    with pytest.raises(ConfigError, match="0700"):
        Spool(tmp_path / "spool", MIB).open()


def test_a_spool_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "spool").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError):
        Spool(tmp_path / "spool", MIB).open()


def test_a_spool_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError) as caught:
        Spool(tmp_path / "file" / "spool", MIB).open()
    assert caught.value.hint


def test_b10_rights_that_were_taken_away_are_named_and_waited_out(spool: Spool) -> None:
    put(spool, 1, 3)
    spool.wal.chmod(0)
    try:
        for act in (lambda: spool.complete(SIZE), spool.used, lambda: seed(spool, Lsn(3 * MIB))):
            with pytest.raises(SpoolError, match=r"Permission denied \(uid \d+, mode 0000\)"):
                act()
        with pytest.raises(SpoolError):
            spool.read(Segment(1, 3, SIZE))
    finally:
        spool.wal.chmod(0o700)
    assert spool.complete(SIZE) == [Segment(1, 3, SIZE)]


def test_a_spool_that_somebody_removed_is_made_again(spool: Spool) -> None:
    shutil.rmtree(spool.directory)
    assert spool.complete(SIZE) == []
    assert seed(spool, Lsn(3 * MIB)) == Segment(1, 3, SIZE)


def test_j13_a_spool_that_was_made_again_is_not_trusted_after_a_crash_of_the_machine(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(spool.directory)
    spool.complete(SIZE)
    put(spool, 1, 3)
    boot = tmp_path / "boot_id"
    boot.write_text("another boot\n")
    monkeypatch.setattr("walkeeper.agent.archiver.spool._BOOT_ID", boot)
    spool.open()
    assert names(spool.wal) == []


def test_files_without_a_marker_of_the_boot_are_not_trusted(spool: Spool) -> None:
    put(spool, 1, 3)
    (spool.directory / "boot").unlink()
    spool.open()
    assert names(spool.wal) == []
    assert names(spool.quarantine) == ["000000010000000000000003"]


def test_many_stale_files_are_put_aside_with_one_line_and_one_look_at_the_quarantine(
    spool: Spool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[None] = []
    monkeypatch.setattr(spool, "_bound_quarantine", lambda: looks.append(None))
    for number in range(1000):
        (spool.wal / Segment(7, 5000 + number, SIZE).name).touch()
    spool.seed(History(1), Segment(1, 5, SIZE))
    assert names(spool.wal) == ["000000010000000000000005.partial"]
    assert len(names(spool.quarantine)) == 1000
    assert len(looks) == 1
    said = [record.getMessage() for record in caplog.records]
    assert [line.split()[:2] for line in said] == [["spool_quarantined", "files=1000"]]


def test_a_link_in_place_of_a_removed_spool_is_named_and_waited_out(spool: Spool, tmp_path: Path) -> None:
    shutil.rmtree(spool.directory)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    spool.directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpoolError, match="spool: ") as problem:
        spool.complete(SIZE)
    assert problem.value.hint


def test_too_many_open_files_are_not_called_a_full_disk(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("walkeeper.agent.archiver.spool.os.scandir", refuse)
    with pytest.raises(SpoolError, match="Too many open files") as problem:
        spool.complete(SIZE)
    assert "limit of open files" in problem.value.hint


def test_f3_a_disk_without_a_free_block_is_a_problem_of_the_receiver_and_ends_no_thread(tmp_path: Path) -> None:
    settings = PostgresqlSettings("127.0.0.1", 5432, "replicator", "secret", "postgres", ())
    receiver = Receiver(Path("/bin/true"), tmp_path, settings, tmp_path / "passfile", SystemClock())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # the kernel refuses each byte of a file, as a full disk does
    try:
        with pytest.raises(PostgresError, match="passfile: File too large"):
            receiver.start(Segment(1, 5, SIZE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_p4_a_segment_that_cannot_be_looked_at_is_not_one_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert is_there(tmp_path / "file")
    assert not is_there(tmp_path / "absent")
    with pytest.raises(PostgresError, match="Not a directory"):
        is_there(tmp_path / "file" / "000000010000000000000005")
    wal = LocalWal(LocalServer(SYSTEM, SIZE, History(1), Lsn(9 * MIB)), {}, tmp_path / "file")
    with pytest.raises(PostgresError):
        wal.has(Segment(1, 5, SIZE))
