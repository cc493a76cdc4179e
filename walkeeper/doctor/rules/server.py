"""PostgreSQL: who may connect, and whether its settings leave walkeeper room."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import partial
from typing import Final

from walkeeper.core.synchronous import always_asks, named, standby_name
from walkeeper.doctor.facts import Facts, MemberFacts, ServerFacts, Unknown, known
from walkeeper.doctor.rule import Good, NotKnown, Rule, Verdict, Wrong
from walkeeper.doctor.rules import each, paste

error = partial(Rule, area="PostgreSQL", severity="error")
warning = partial(Rule, area="PostgreSQL", severity="warning")
OLDEST: Final = 13
NEWEST: Final = 19
APPLICATION: Final = "walkeeper"


@error(
    what="Every member's PostgreSQL lets walkeeper in, over SQL.",
    why="The agent asks its own server where WAL stands and moves the hold slot. Other members are asked when a promoted "
    "node lacks WAL, and by status and doctor.",
    fix="Lines for pg_hba (in Patroni: postgresql.pg_hba) that let the replication user into its database, from every node.",
)
@each.member
def server_answers(facts: Facts, member: MemberFacts) -> Iterator[Verdict]:
    if not isinstance(member.server, Unknown):
        yield Good("it answers")
    elif fix := let_in(facts, member.server.because):
        text = f"it does not let walkeeper's role in: {member.server.because}"
        yield Wrong(text, fix, severity=None if member.here else "warning")
    elif member.here:
        yield Wrong(f"it does not answer: {member.server.because}", (paste.patronictl(facts, "list"),))
    else:
        yield NotKnown(member.server.because)


@error(
    what="Every member's PostgreSQL accepts a replication connection of walkeeper's role.",
    why="WAL is streamed over one: without it nothing is archived. From other members WAL is fetched that a promoted "
    "node no longer has.",
    fix="Lines for pg_hba (in Patroni: postgresql.pg_hba) with the database `replication`; or room in max_wal_senders.",
)
@each.server
def replication_allowed(facts: Facts, member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    refused = known(server.replication_refused)
    if not refused:
        yield Good("it lets walkeeper stream")
        return
    senders = "max_wal_senders" in refused
    wanted = str(max(10, 2 * int(server.settings.get("max_wal_senders", "0"))))
    fix = paste.set_parameter(facts, "max_wal_senders", wanted, restart=True) if senders else let_in(facts, refused)
    yield Wrong(f"it refuses a replication connection: {refused}", fix, severity=None if member.here else "warning")


@error(
    what="walkeeper's role has LOGIN and REPLICATION.",
    why="It streams WAL and moves the hold slot; both need REPLICATION and no more than that.",
    fix="ALTER ROLE … REPLICATION;",
)
@each.server
def role_may_replicate(_: Facts, _member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    if server.may_replicate:
        yield Good(f"the role {server.role} has REPLICATION")
        return
    name = server.role.replace('"', '""')
    fix = shlex.join(["psql", "-c", f'ALTER ROLE "{name}" REPLICATION']) + "   # as a superuser, on the leader"
    yield Wrong(f"the role {server.role} lacks REPLICATION", (fix,))


@error(
    what=f"PostgreSQL is {OLDEST} to {NEWEST}.",
    why=f"Before {OLDEST} the hold slot cannot be kept on replicas as walkeeper needs it; what is newer than {NEWEST} is "
    "archived, and was not tried.",
    fix="Upgrade PostgreSQL, or walkeeper.",
)
@each.server
def server_version(_: Facts, _member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    major = server.state.major
    if major < OLDEST:
        yield Wrong(f"PostgreSQL {major} is too old", ("# upgrade PostgreSQL to 13 or newer",))
    elif major > NEWEST:
        text = f"PostgreSQL {major} is newer than this walkeeper"
        yield Wrong(text, ("# is there a newer walkeeper?",), severity="warning")
    else:
        yield Good(f"PostgreSQL {major}")


@error(
    what="wal_level is replica or logical.",
    why="With minimal there is nothing to stream, and nothing that could be replayed.",
    fix="patronictl edit-config --pg wal_level=replica, and a restart.",
)
@each.server
def wal_level(facts: Facts, _member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    if server.state.wal_level in ("replica", "logical"):
        yield Good(f"wal_level is {server.state.wal_level}")
    else:
        fix = paste.set_parameter(facts, "wal_level", "replica", restart=True)
        yield Wrong(f"wal_level is {server.state.wal_level}", fix)


@error(
    what="max_wal_senders has room for the replicas, for the archiver's stream and for a base backup.",
    why="That stream is one more sender, beside one for each replica. Where they are used up nothing is archived until "
    "one ends. A base backup takes two.",
    fix="patronictl edit-config --pg max_wal_senders=10, and a restart.",
)
@each.server
def max_wal_senders(facts: Facts, _member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    found = int(server.settings["max_wal_senders"])
    needed = len(facts.members)  # a replica for each other member, and the archiver
    fix = paste.set_parameter(facts, "max_wal_senders", str(max(10, needed + 4)), restart=True)
    if found < needed:
        yield Wrong(f"max_wal_senders is {found}, and {needed} are needed", fix)
    elif found < needed + 2:
        text = f"max_wal_senders is {found}: {needed} are needed, and a base backup takes two more"
        yield Wrong(text, fix, severity="warning")
    else:
        yield Good(f"max_wal_senders is {found}, {needed} are needed")


@error(
    what="max_replication_slots has room for the members' slots and the hold slot.",
    why="Without a free place Patroni cannot make the hold slot on that node.",
    fix="patronictl edit-config --pg max_replication_slots=10, and a restart.",
)
@each.server
def max_replication_slots(facts: Facts, _member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    found = int(server.settings["max_replication_slots"])
    needed = len(facts.members)
    if found >= needed:
        yield Good(f"max_replication_slots is {found}, {needed} are needed")
    else:
        fix = paste.set_parameter(facts, "max_replication_slots", str(max(10, needed + 4)), restart=True)
        yield Wrong(f"max_replication_slots is {found}, and {needed} are needed", fix)


@warning(
    what="max_slot_wal_keep_size is -1.",
    why="Beyond that size PostgreSQL invalidates the hold slot and recycles WAL that is not archived: an outage of the store "
    "that lasts longer then is a gap. With -1 the disk of pg_wal is the limit; some prefer the gap to a full disk.",
    fix="patronictl edit-config --pg max_slot_wal_keep_size=-1",
)
@each.server
def max_slot_wal_keep_size(facts: Facts, _member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    found = server.settings.get("max_slot_wal_keep_size", "-1")
    if found == "-1":
        yield Good("max_slot_wal_keep_size is -1")
    else:
        text = f"max_slot_wal_keep_size is {found}: what is beyond it is lost while it is not archived"
        yield Wrong(text, paste.set_parameter(facts, "max_slot_wal_keep_size", "-1"))


@error(
    what="idle_replication_slot_timeout (PostgreSQL 18) is 0.",
    why="Nobody streams from the hold slot, so that to PostgreSQL it is always idle: after that time without a new segment "
    "it is invalidated, and with it goes the WAL that is not archived.",
    fix="patronictl edit-config --pg idle_replication_slot_timeout=0",
)
@each.server
def idle_replication_slot_timeout(facts: Facts, _member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    found = server.settings.get("idle_replication_slot_timeout", "0")
    if found == "0":
        yield Good("slots are not invalidated for being idle")
    else:
        fix = paste.set_parameter(facts, "idle_replication_slot_timeout", "0")
        yield Wrong(f"idle_replication_slot_timeout is {found}, and the hold slot is idle by design", fix)


@error(
    what="synchronous_standby_names names walkeeper's receiver where commits wait for the store, and nowhere else.",
    why="With `durability: store` and without that name no commit waits for the store (a warning). Elsewhere the receiver "
    "reports no flush position, so that PostgreSQL never takes it for the synchronous standby: where it is the only one that "
    "is named, every commit waits for ever. `*` picks among the standbys.",
    fix="With `durability: store`: patronictl edit-config --pg synchronous_standby_names=walkeeper_… (doctor prints the name). "
    "Else leave the parameter to Patroni (synchronous_mode), or name standbys in it.",
)
@each.server
def synchronous_standby_names(facts: Facts, member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    found = server.settings.get("synchronous_standby_names", "")
    own = standby_name(server.state.system_identifier)
    names = named(found)
    if APPLICATION in names or (own in names and not facts.waits_for_store):
        fix = paste.set_parameter(facts, "synchronous_standby_names", own if facts.waits_for_store else "null")
        yield Wrong(f"synchronous_standby_names is {found!r}: walkeeper never confirms a commit", fix)
    elif facts.waits_for_store and member.leads and not always_asks(found, own):
        fix = paste.set_parameter(facts, "synchronous_standby_names", own)
        text = f"synchronous_standby_names is {found!r}: commits do not wait for {own}, which is the store"
        yield Wrong(text, fix, severity="warning")
    elif own in names:
        yield Good("commits wait for the store")
    else:
        yield Good("synchronous_standby_names does not name walkeeper")


@warning(
    what="With `durability: store`, synchronous_commit is neither `off` nor `local`.",
    why="Commits with these do not wait for any standby, nor for the store. A session may choose them for what may be lost.",
    fix="patronictl edit-config --pg synchronous_commit=on",
)
@each.server
def synchronous_commit(facts: Facts, member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    found = server.settings.get("synchronous_commit", "on")
    if facts.waits_for_store and member.leads and found in ("off", "local"):
        fix = paste.set_parameter(facts, "synchronous_commit", "on")
        yield Wrong(f"synchronous_commit is {found}: commits do not wait for the store", fix)
    else:
        yield Good(f"synchronous_commit is {found}")


@error(
    what="At most one walsender has the application_name of walkeeper's receiver.",
    why="Commits believe it. Whoever may replicate can connect with that name, and acknowledge what is stored nowhere.",
    fix="SELECT pg_terminate_backend(…) for those that are not the agent's, and another password for the role.",
)
@each.server
def one_acknowledges(_: Facts, member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    own = standby_name(server.state.system_identifier)
    found = sum(name == own for name in server.acknowledging)
    if found < 2:
        yield Good("no second walsender could acknowledge commits")
        return
    look = shlex.join(["psql", "-c", "SELECT * FROM pg_stat_replication"])
    fix = (f"{look}   # as a superuser, on {member.name}: whose are they?",)
    yield Wrong(f"{found} walsenders are called {own}: each of them can acknowledge commits", fix)


def let_in(facts: Facts, refused: str) -> tuple[str, ...]:
    """What the refusal asks for: a line in pg_hba, a password, the pass phrase of a key; empty where it says none of these."""
    own = facts.config.node.postgresql
    if "pg_hba.conf" in refused:
        return pg_hba(facts, refused)
    if "private key file" in refused:
        return ("# the pass phrase of the key, in patroni.yml: postgresql.authentication.replication.sslpassword",)
    if own is not None and re.search("no password supplied|password authentication", refused):
        return (
            "# the password: postgresql.authentication.replication.password in patroni.yml, or ~/.pgpass of the agent's user:",
            f"# {own.host or 'localhost'}:{own.port}:*:{own.user}:PASSWORD",
        )
    return ()


def pg_hba(facts: Facts, refused: str) -> tuple[str, ...]:
    """The line that the refusal asks for, for patroni.yml: Patroni writes pg_hba.conf where it has a postgresql.pg_hba, and
    leaves it alone where not.
    """
    own = facts.config.node.postgresql
    database, user = (own.dbname, own.user) if own else ("postgres", "replicator")
    database = "replication" if "replication connection" in refused else database
    host = re.search(r'host "([^"]+)"', refused)
    address = _cidr(host[1]) if host else "127.0.0.1/32"
    line = (
        f"local {database} {user} scram-sha-256"
        if address is None
        else f"host {database} {user} {address} scram-sha-256"
    )
    return (
        "# first in postgresql.pg_hba of that node's patroni.yml, or in pg_hba.conf:",
        f"- {line}",
        paste.reload(facts),
    )


def _cidr(host: str) -> str | None:
    """None for the socket of the machine itself, which the server calls ``[local]``."""
    if host.startswith(("/", "[")):
        return None
    return f"{host}/128" if ":" in host else f"{host}/32" if re.fullmatch(r"[\d.]+", host) else host
