"""How many commits wait for a synchronous standby, as the agent's role sees it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, Postgres
from tests.parts.processes import wait_until
from walkeeper.config import PostgresqlSettings
from walkeeper.postgres.server import CommitsState, Server

pytestmark = pytest.mark.postgres
STANDBY = "walkeeper_00000001"


def test_commits_that_wait_are_counted_by_a_role_that_may_see_them_and_are_not_known_to_another(
    postgres: Postgres,
) -> None:
    postgres.replication_role()
    server = Server(
        PostgresqlSettings("127.0.0.1", postgres.port, REPLICATOR, REPLICATOR_PASSWORD, "postgres", ()), 30.0
    )
    postgres.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    postgres.execute("SELECT pg_reload_conf()")
    with ThreadPoolExecutor(1) as pool:
        wait_until(lambda: server.commits(STANDBY) == CommitsState(None, "nobody", connected=0), "the setting")
        waits = pool.submit(postgres.execute, "CREATE TABLE waits (n int)")
        try:
            seen = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            wait_until(lambda: postgres.value(seen) == 1, "a commit that waits")
            assert server.commits(STANDBY) == CommitsState(None, "nobody", connected=0)
            with postgres.connect() as session:
                session.execute("SET synchronous_commit = local")
                session.execute(f"GRANT pg_read_all_stats TO {REPLICATOR}")
            assert server.commits(STANDBY) == CommitsState(1, "nobody", connected=0)
        finally:
            postgres.execute("ALTER SYSTEM RESET synchronous_standby_names")
            postgres.execute("SELECT pg_reload_conf()")
        waits.result(60)
    wait_until(lambda: server.commits(STANDBY) == CommitsState(0, "", connected=0), "the commit's end")
    name = postgres.conninfo(application_name=STANDBY, replication="true")
    with psycopg.connect(name):
        assert server.commits(STANDBY).connected == 1
        with psycopg.connect(name):
            assert server.commits(STANDBY).connected == 2
    server.close()
