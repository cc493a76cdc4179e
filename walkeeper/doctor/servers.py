"""The members' servers, asked over SQL and over the replication protocol. Reads only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

from walkeeper.config import Config
from walkeeper.core.room import Disk
from walkeeper.core.stores_told import from_brief
from walkeeper.core.synchronous import PREFIX
from walkeeper.dcs.base import Member, Topology
from walkeeper.doctor.facts import MemberFacts, ServerFacts, Unknown
from walkeeper.errors import ConfigError, PostgresError, WalkeeperError
from walkeeper.lib import clock
from walkeeper.postgres.pg_receivewal import find_program, why_refused
from walkeeper.postgres.server import Server

SERVER_SECONDS: Final = 5.0
"""Seconds for each question to a server."""
SECOND_LOOK: Final = 3.0
"""Seconds after which a server without an agent's session is asked again: an agent connects at its next look."""

_SETTINGS: Final = (
    "archive_command",
    "archive_library",
    "archive_mode",
    "full_page_writes",
    "idle_replication_slot_timeout",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "restore_command",
    "summarize_wal",
    "synchronous_commit",
    "synchronous_standby_names",
)

# What any role may see. pg_stat_activity shows application_name to all.
_SURVEY: Final = """
select jsonb_build_object(
  'settings', (select jsonb_object_agg(n, current_setting(n, true)) from unnest(%s::text[]) n),
  'role', current_user,
  'may_replicate', (select rolreplication or rolsuper from pg_roles where rolname = current_user),
  'acknowledging', (select coalesce(jsonb_agg(application_name), '[]')
                      from pg_stat_replication where starts_with(application_name, %s)),
  'receives', exists (select from pg_stat_wal_receiver),
  'started_at', to_char(pg_postmaster_start_time() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
  'now', extract(epoch from clock_timestamp())::float8,
  'archiving_failed', (select case when last_failed_time > coalesce(last_archived_time, '-infinity')
                                   then last_failed_wal end from pg_stat_archiver))"""


def look_at_members(config: Config, topology: Topology | Unknown) -> tuple[MemberFacts, ...]:
    """All members at the same time; only this node where nobody says who they are."""
    known = topology.members if not isinstance(topology, Unknown) else (_this_node(config),)
    leader = topology.leader.name if not isinstance(topology, Unknown) and topology.leader else None
    with ThreadPoolExecutor(max(1, len(known))) as pool:
        return tuple(pool.map(lambda member: _look(config, member, leader), known))


def _this_node(config: Config) -> Member:
    own = config.node.postgresql
    name = config.node.name or "this node"
    return Member(name, "", "", own.host if own else None, own.port if own else None, None, None)


def _look(config: Config, member: Member, leader: str | None) -> MemberFacts:
    here = member.name == (config.node.name or "this node")
    return MemberFacts(
        name=member.name,
        leads=member.name == leader,
        here=here,
        host=member.host,
        port=member.port,
        nofailover=member.nofailover,
        patroni_version=member.patroni_version,
        pending_restart=member.pending_restart,
        server=_ask(config, member, here=here),
    )


def _ask(config: Config, member: Member, *, here: bool) -> ServerFacts | Unknown:
    """This node's server is asked as the agent asks it, which is not always by the address that Patroni tells others."""
    if not here and not (member.host and member.port):
        return Unknown("its key in the DCS has no address")
    try:
        own = config.postgresql
        endpoint = own if here else own.of_member(member.host or "", member.port or 0)
        with closing(Server(endpoint, min(SERVER_SECONDS, config.agent.dcs_timeout))) as server:
            found = survey(server, config.hold_slot)
            if here:
                return replace(found, replication_refused=found.replication_refused or _trial(config, found))
            return found if found.agents else _second_look(server, found)
    except WalkeeperError as problem:
        return Unknown(str(problem))


def _trial(config: Config, found: ServerFacts) -> str | Unknown:
    """pg_receivewal has a libpq of its own, and looks for passwords and keys by itself."""
    if config.receiver == "builtin":
        return ""  # it streams as ``survey`` has connected
    try:
        program = find_program(config.bin_dir, found.state.major)
    except ConfigError:
        return ""  # another rule's
    try:
        return why_refused(program, config.postgresql, found.state.segment_size, clock.SystemClock())
    except PostgresError as problem:
        return Unknown(str(problem))


def _second_look(server: Server, found: ServerFacts) -> ServerFacts:
    time.sleep(SECOND_LOOK)
    agents = server.agents()
    return replace(found, agents=_versions(agents), stores=next(filter(None, map(from_brief, agents)), ""))


def survey(server: Server, hold_slot: str) -> ServerFacts:
    """Everything that rules ask of one server. Raises PostgresError."""
    state = server.state()
    slot = server.slot(hold_slot)
    before = clock.wall_seconds()
    answer: Mapping[str, Any] = server.survey(_SURVEY, list(_SETTINGS), PREFIX)
    after = clock.wall_seconds()
    agents = server.agents()
    settings = {name: value for name, value in answer["settings"].items() if value is not None}
    refused = ""
    try:
        server.replay_timeline()
    except PostgresError as problem:
        refused = str(problem)
    return ServerFacts(
        state=state,
        slot=slot,
        settings=settings,
        role=answer["role"],
        may_replicate=answer["may_replicate"],
        replication_refused=refused,
        agents=_versions(agents),
        disk=next(filter(None, map(Disk.from_brief, agents)), None),
        stores=next(filter(None, map(from_brief, agents)), ""),
        acknowledging=tuple(sorted(answer["acknowledging"])),
        receives=answer["receives"],
        started_at=answer["started_at"],
        clock_ahead=clock.outside(float(answer["now"]), before, after),
        archiving_failed=answer["archiving_failed"] or "",
    )


def _versions(agents: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({name.split(" ")[2] for name in agents}))
