"""What is said to do about a hold slot, done on a real server."""

from __future__ import annotations

import re

import pytest

from tests.fixtures.worlds import HOLD_SLOT, prepare
from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, Postgres
from tests.parts.processes import wait_until
from walkeeper.config import PostgresqlSettings
from walkeeper.core.hold_slot import how_to_make_safe, keeps
from walkeeper.core.lsn import Lsn
from walkeeper.errors import PostgresError
from walkeeper.postgres.server import Server

pytestmark = pytest.mark.postgres


def test_a_slot_that_was_invalidated_is_dropped_as_the_hint_says_by_the_role_that_walkeeper_uses(
    postgres: Postgres,
) -> None:
    prepare(postgres)
    postgres.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '2MB'")
    postgres.execute("SELECT pg_reload_conf()")
    settings = PostgresqlSettings("127.0.0.1", postgres.port, REPLICATOR, REPLICATOR_PASSWORD, "postgres", ())
    server = Server(settings, 10)

    def about_to_be() -> bool:
        postgres.complete_segments(2)
        found = server.slot(HOLD_SLOT)
        assert found is not None
        return found.unreserved and not keeps(found, Lsn.parse(postgres.lsn()))

    def invalidated() -> bool:
        postgres.complete_segments(4)
        postgres.checkpoint()
        found = server.slot(HOLD_SLOT)
        return found is not None and found.lost

    wait_until(about_to_be, "a slot that PostgreSQL no longer keeps", 60)
    wait_until(invalidated, "a lost slot", 60)
    hint = how_to_make_safe(server.slot(HOLD_SLOT), HOLD_SLOT, declared=True)
    statement = re.search(r"SELECT [^:]+", hint)
    assert statement is not None
    with postgres.connect(REPLICATOR) as connection:
        connection.execute(statement[0].encode())
    assert server.slot(HOLD_SLOT) is None  # so that Patroni can make it again
    server.close()


def test_a_role_that_lost_its_right_is_told_what_it_needs(postgres: Postgres) -> None:
    """A server of any version: each words it in its own way."""
    prepare(postgres)
    server = Server(PostgresqlSettings("127.0.0.1", postgres.port, REPLICATOR, REPLICATOR_PASSWORD, "postgres", ()), 10)
    lsn = Lsn.parse(postgres.lsn())
    postgres.execute(f"ALTER ROLE {REPLICATOR} NOREPLICATION")
    for ask in (lambda: server.advance_slot(HOLD_SLOT, lsn), server.replay_timeline):
        with pytest.raises(PostgresError) as caught:
            ask()
        assert "attribute REPLICATION" in caught.value.hint
    postgres.execute(f"ALTER ROLE {REPLICATOR} REPLICATION")
    server.advance_slot(HOLD_SLOT, lsn)
    server.close()
