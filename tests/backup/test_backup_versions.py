"""A backup and its restore by the documented lines, on each version that is here, and of a table with more than one file."""

from __future__ import annotations

import pytest

from tests.backup.test_backup_real import by_hand
from tests.fixtures.taken import Place
from tests.parts.binaries import all_postgres
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

MAJORS = [major for major in all_postgres() if major >= 15]


@pytest.mark.parametrize("major", MAJORS)
def test_p12_on_every_version_a_backup_restores_by_the_documented_lines(major: int) -> None:
    with Postgres(new_directory("b") / "pg", all_postgres()[major], settings={"wal_keep_size": "256MB"}) as server:
        place = Place(server)
        odd = server.directory / "odd é"
        odd.mkdir()
        server.execute(f"CREATE TABLESPACE odd LOCATION '{odd}'")
        server.execute("CREATE TABLE t TABLESPACE odd AS SELECT generate_series(1, 100000) AS n")
        assert place.take() == 0
        assert place.taken().major == major
        server.execute("INSERT INTO t SELECT 0")
        place.archive_wal()
        with by_hand(place) as restored:
            assert restored.value("SELECT count(*) FROM t") == 100_001


def test_a_table_with_more_than_one_file_comes_back() -> None:
    with Postgres(new_directory("b") / "pg", segment_size_mb=16, settings={"max_wal_size": "4GB"}) as server:
        place = Place(server)
        server.execute("CREATE UNLOGGED TABLE t (n int, m text)")
        server.execute("ALTER TABLE t ALTER m SET STORAGE PLAIN")
        server.execute("INSERT INTO t SELECT g, repeat('x', 3900) FROM generate_series(1, 270000) g")
        server.execute("ALTER TABLE t SET LOGGED")
        file = str(server.value("SELECT pg_relation_filepath('t')"))
        assert (server.data / f"{file}.1").exists()
        assert place.take() == 0
        parts = [part for piece in place.backups.index(place.taken()) for part in piece.parts]
        assert sum(part.length for part in parts if part.path == file) == 1024**3
        assert sum(part.length for part in parts if part.path == f"{file}.1") > 0
        place.archive_wal()
        with by_hand(place) as restored:
            assert restored.value("SELECT count(*), min(n), max(n) FROM t") == server.value(
                "SELECT count(*), min(n), max(n) FROM t"
            )
