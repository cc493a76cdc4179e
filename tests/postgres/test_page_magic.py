"""The page headers of real segments, of every PostgreSQL that is here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.binaries import all_postgres
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory
from walkeeper.core.history import History
from walkeeper.core.lsn import SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.wal_page import HEADER_SIZE, MAGIC, SegmentHeader, check_header
from walkeeper.errors import BadSegment

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module", params=sorted(all_postgres()), ids=lambda major: f"pg{major}")
def server(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    with Postgres(new_directory("magic"), all_postgres()[request.param]) as running:
        running.complete_segments(2)
        yield running


def header_of(path: Path) -> SegmentHeader:
    with path.open("rb") as file:
        return SegmentHeader.parse(file.read(HEADER_SIZE), path.name)


def test_the_header_says_which_postgresql_wrote_the_segment(server: Postgres) -> None:
    name = server.switch_wal()

    assert header_of(server.pg_wal / name).postgres_major == server.major


def test_name_cluster_and_header_of_a_real_segment_agree(server: Postgres) -> None:
    size = SegmentSize(server.segment_size_mb * 1024 * 1024)
    names = server.complete_segments(2)

    for name in names:
        header = header_of(server.pg_wal / name)
        check_header(header, Segment.parse(name, size), server.system_identifier, History(1))
        assert header.segment_size == size


def test_a_segment_under_another_segments_name_does_not_agree(server: Postgres) -> None:
    size = SegmentSize(server.segment_size_mb * 1024 * 1024)
    one, two = server.complete_segments(2)

    with pytest.raises(BadSegment, match="its first page is that of"):
        check_header(header_of(server.pg_wal / one), Segment.parse(two, size), server.system_identifier, History(1))


def test_every_postgresql_that_is_here_has_a_known_magic() -> None:
    assert set(all_postgres()) <= set(MAGIC.values())
