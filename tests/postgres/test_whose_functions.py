"""What the agent's session calls is PostgreSQL's, whatever the users of that database have made beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.worlds import HOLD_SLOT, prepare
from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, Postgres
from walkeeper import __version__
from walkeeper.config import PostgresqlSettings
from walkeeper.core.lsn import Lsn
from walkeeper.doctor.servers import survey
from walkeeper.postgres.server import AGENT_APPLICATION, Server

pytestmark = pytest.mark.postgres

_PLANTED = (
    "CREATE TABLE public.called (by text)",
    "GRANT INSERT ON public.called TO PUBLIC",
    # An unknown literal prefers text, and PostgreSQL's own function takes a name.
    """CREATE FUNCTION public.pg_replication_slot_advance(text, pg_lsn, OUT slot_name name, OUT end_lsn pg_lsn)
       LANGUAGE sql AS $$ INSERT INTO public.called VALUES (current_user); SELECT $1::name, $2 $$""",
    """CREATE FUNCTION public.pg_has_role(text, text) RETURNS bool
       LANGUAGE sql AS $$ INSERT INTO public.called VALUES (current_user); SELECT true $$""",
)
"""As any user could up to PostgreSQL 14, and who may create in that schema can in any version."""


@pytest.fixture
def planted(postgres: Postgres) -> Iterator[tuple[Postgres, Server]]:
    prepare(postgres)
    postgres.execute("CREATE ROLE mallory LOGIN")
    postgres.execute("GRANT CREATE ON SCHEMA public TO mallory")
    with postgres.connect("mallory") as mallory:
        for statement in _PLANTED:
            mallory.execute(statement.encode())
    server = Server(PostgresqlSettings("127.0.0.1", postgres.port, REPLICATOR, REPLICATOR_PASSWORD, "postgres", ()), 10)
    yield postgres, server
    server.close()


def test_p16_a_function_that_fits_better_is_not_called(planted: tuple[Postgres, Server]) -> None:
    postgres, server = planted
    before = postgres.restart_lsn(HOLD_SLOT)
    postgres.complete_segments(2)
    server.advance_slot(HOLD_SLOT, Lsn.parse(postgres.lsn()))
    server.commits("walkeeper")
    survey(server, HOLD_SLOT)
    assert postgres.execute("SELECT DISTINCT by FROM public.called") == []
    assert postgres.restart_lsn(HOLD_SLOT) != before


def test_p16_a_search_path_of_the_database_does_not_count(planted: tuple[Postgres, Server]) -> None:
    """Its owner may set one."""
    postgres, server = planted
    postgres.execute("CREATE FUNCTION public.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS $$ SELECT true $$")
    postgres.execute("ALTER DATABASE postgres SET search_path = public, pg_catalog")
    assert not server.state().in_recovery


def test_a_name_that_anybody_may_give_a_session_makes_it_nobodys_agent_or_standby(
    planted: tuple[Postgres, Server],
) -> None:
    postgres, server = planted
    agent = Server(server.settings, 10, AGENT_APPLICATION)
    with (
        postgres.connect("mallory") as one,
        postgres.connect("mallory") as other,
    ):
        one.execute("SET application_name = 'walkeeper agent 9.9 disk=1/9'")
        other.execute("SET application_name = 'walkeeper_00000001'")
        agent.state()
        assert server.agents() == [AGENT_APPLICATION]
        assert survey(server, HOLD_SLOT).agents == (__version__,)
        assert not server.commits("walkeeper_00000001").connected
    agent.close()
