"""Whether the configuration's files say otherwise how PostgreSQL and the DCS are reached, and whether that works.

Who changes a password, a port or a member's name needs no reload then: nobody would miss it before the next takeover, as
sessions last. All else is taken up when somebody says so.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Final

from walkeeper.agent.agent import Agent
from walkeeper.config import Config
from walkeeper.core.about import About
from walkeeper.dcs.patroni import connect
from walkeeper.errors import PostgresError, WalkeeperError
from walkeeper.lib.section import without_secrets_of_files
from walkeeper.postgres.server import Server

_CONNECTIONS: Final = frozenset(
    {About.POSTGRESQL, About.DCS, About.ARCHIVER_RECEIVER, About.ARCHIVER_RECORD, About.NO_LEADERSHIP}
)
"""What a password or a port leads to that was changed since they were read, or a member's name: somebody else leads then."""


def fails(agent: Agent) -> bool:
    return any(
        problem.what in _CONNECTIONS or (problem.what, problem.reason) == (About.TAKEOVER_FAILED, PostgresError.reason)
        for problem in agent.problems.open()
    )


def is_older(present: Config, read: Config) -> bool:
    """Whether a reload would change anything of ours."""
    return _settled(present) != _settled(read)


def only_otherwise(present: Config, read: Config) -> bool:
    """Whether nothing of ours has changed but how PostgreSQL is reached, and the member's name."""
    return _but_for_connections(present) == _but_for_connections(read)


def works(present: Config, read: Config) -> bool:
    """Whether the DCS answers by the new configuration, and by it PostgreSQL answers and who leads has that name, if those have
    changed. So what is edited ahead of the restart that brings it is not taken up, and nothing while the DCS is away: an agent
    that begins then uploads nothing.
    """
    try:
        with closing(connect(read.patroni_config, read.name, read.agent.dcs_timeout)) as record:
            leader = record.leader()
        if read.name != present.name and (leader is None or leader.name != read.name):
            return False
        if read.postgresql != present.postgresql:
            with closing(Server(read.postgresql, read.agent.dcs_timeout)) as server:
                server.state()
    except WalkeeperError:
        return False
    return True


def _settled(config: Config) -> Config:
    """Without what counts without a reload, or for nothing: a store's secret that a file has, and who may read which file."""
    return replace(
        config,
        exposed=(),
        store=without_secrets_of_files(config.store),
        others=tuple(replace(each, settings=without_secrets_of_files(each.settings)) for each in config.others),
    )


def _but_for_connections(config: Config) -> Config:
    return _settled(replace(config, node=replace(config.node, postgresql=None, name=None)))
