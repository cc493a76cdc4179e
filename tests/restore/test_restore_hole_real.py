"""Real recoveries that come to a hole in the archive (J11)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.core.values import history_text
from tests.fixtures.archived import BATCH, Archived, archived, rows, wait_rows
from tests.fixtures.restoring import restore_command
from tests.parts.postgres import Postgres, restore_server
from tests.parts.processes import new_directory, wait_until
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.history import History, Switch
from walkeeper.core.names import Segment
from walkeeper.core.wal_records import last_whole
from walkeeper.store.directory import DirectoryStore

pytestmark = pytest.mark.postgres
BATCHES: Final = 6
LOST: Final = 3
"""Which segment, of those that hold a batch each, is missing."""


@pytest.fixture(scope="module")
def archive() -> Archived:
    return archived(1, BATCHES)


@pytest.fixture
def recover(archive: Archived) -> Iterator[Callable[..., Postgres]]:
    """Make a server that recovers from the archive; it is not started."""
    made: list[Postgres] = []
    archive.configure(restore={"deadline": "5s"})

    def make(signal_file: str = "recovery.signal", way: str = "served", **settings: str) -> Postgres:
        server = restore_server(
            archive.backup, new_directory("b") / "pg", restore_command(archive.config, way),
            signal_file=signal_file,  # type: ignore[arg-type]
            settings={"wal_retrieve_retry_interval": "200ms", **settings},
        )  # fmt: skip
        made.append(server)
        return server

    yield make
    for server in made:
        server.close()


@contextmanager
def missing(archive: Archived) -> Iterator[Segment]:
    """One object in the middle, while the context lasts."""
    victim = archive.object(archive.segments[LOST])
    aside = archive.directory / "aside"
    victim.rename(aside)
    try:
        yield Segment.parse(archive.segments[LOST], archive.size)
    finally:
        aside.rename(victim)


def of(archive: Archived) -> Archive:
    layout = Layout("demo", None, archive.system_identifier)
    return Archive(DirectoryStore(archive.store), layout, archive.size, Codec())


def start_in_vain(server: Postgres) -> str:
    """Its log, once it has stopped by itself."""
    server.start(wait=False)
    assert server.process.wait(60) != 0
    log = server.log.read_text()
    assert not (server.pg_wal / "00000002.history").exists()
    return log


def wait_open(server: Postgres) -> None:
    wait_until(lambda: not server.value("SELECT pg_is_in_recovery()"), "the end of recovery", 60, logs=[server.log])


def last_record(archive: Archived) -> str:
    before = Segment.parse(archive.segments[LOST - 1], archive.size)
    plain = Codec().decode(".zst", archive.object(before.name).read_bytes(), before.size)
    found = last_whole(plain, before)
    assert found is not None
    return str(found)


@pytest.mark.parametrize("way", ["served", "alone"])
def test_p6_j11_a_recovery_stops_at_a_hole_and_goes_on_to_the_end_once_it_is_closed(
    archive: Archived, recover: Callable[..., Postgres], way: str
) -> None:
    server = recover(way=way)
    with missing(archive) as lost:
        log = start_in_vain(server)
        assert f"restore_failed file={lost} exit=255" in log
        assert f"the last record before it begins at {last_record(archive)}" in log
        assert "FATAL" in log
    server.start()
    wait_open(server)
    assert rows(server) == archive.rows
    assert server.timeline() == 2


def test_p6_j11_a_recorded_gap_stops_a_recovery_too(archive: Archived, recover: Callable[..., Postgres]) -> None:
    server = recover()
    archive.configure(restore={"deadline": "1h"})
    with missing(archive) as lost:
        of(archive).record_gap(lost, lost.end)
        try:
            log = start_in_vain(server)
            assert f"a gap is recorded from {lost.start} to {lost.end}" in log
        finally:
            for gap in archive.store.rglob("gap/*.json"):
                gap.unlink()


def test_the_target_that_the_line_names_is_reached(archive: Archived, recover: Callable[..., Postgres]) -> None:
    with missing(archive):
        target = last_record(archive)
        server = recover(recovery_target_lsn=target, recovery_target_action="promote", recovery_prefetch="off")
        server.start()
        wait_open(server)
        assert rows(server) == LOST * BATCH


def test_j11_a_standby_keeps_asking_at_a_hole_and_goes_on_once_it_is_closed(
    archive: Archived, recover: Callable[..., Postgres]
) -> None:
    server = recover("standby.signal")
    with missing(archive) as lost:
        server.start()
        wait_rows(server, LOST * BATCH)
        wait_until(lambda: f"hole_in_archive file={lost} exit=1" in server.log.read_text(), "a line", logs=[server.log])
        assert rows(server) == LOST * BATCH
    wait_rows(server, archive.rows)
    assert server.value("SELECT pg_is_in_recovery()")


def test_p6_recovery_along_an_abandoned_branch_ends_where_that_ends(
    archive: Archived, recover: Callable[..., Postgres]
) -> None:
    """Another timeline left it in the last but one of its segments, and has more behind."""
    fork = Segment.parse(archive.segments[-2], archive.size)
    history = History(2, (Switch(1, fork.end),))
    of(archive).archive_history(2, history_text(history))
    later = Segment(2, fork.number + 3, fork.size)
    place: Path = archive.store / of(archive).layout.file(later, ".zst")
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x")
    try:
        server = recover(recovery_target_timeline="1")
        server.start()
        wait_open(server)
        assert rows(server) == archive.rows
    finally:
        place.unlink()
        (archive.store / of(archive).layout.histories / "00000002.history").unlink()
