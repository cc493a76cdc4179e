"""This node: spool, agent, programs. And the agents of the other nodes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Final

from walkeeper.core.about import About
from walkeeper.core.amounts import duration, size
from walkeeper.core.room import DISK_SECONDS, LEAST
from walkeeper.core.stores_told import brief, which
from walkeeper.core.suspicion import below_reserve
from walkeeper.doctor import paste
from walkeeper.doctor.facts import AgentFacts, Facts, MemberFacts, ServerFacts, Unknown, known
from walkeeper.doctor.rule import Good, NotKnown, Verdict, Wrong, rule
from walkeeper.doctor.rules import each
from walkeeper.errors import Watching

AREA: Final = "Node"
AGENTS: Final = "Agents"
ELSEWHERE: Final = ("not_gap_safe", "archive_command")
"""Problems of an agent that rules about the servers find themselves: gap_safe, archive_command_works."""


@rule(
    AREA,
    "error",
    what="doctor runs as the agent's user, which is PostgreSQL's.",
    why="As somebody else it sees another socket, other rights and perhaps other credentials than the agent.",
    fix="sudo -u postgres walkeeper doctor",
)
def right_user(facts: Facts) -> Iterator[Verdict]:
    if facts.uid != known(facts.servers_uid):
        yield NotKnown(
            f"this is uid {facts.uid}, and PostgreSQL's and the agent's is {facts.servers_uid}: "
            f"sudo -u '#{facts.servers_uid}' {paste.walkeeper(facts, 'doctor')}"
        )
    else:
        yield Good("this is the agent's user")


@rule(
    AREA,
    "error",
    what="The spool is a directory of the agent's user, with mode 0700.",
    why="WAL holds the data itself. The agent refuses a spool that others can read, or that is not its own.",
    fix="chown postgres: SPOOL && chmod 0700 SPOOL",
)
def spool_private(facts: Facts) -> Iterator[Verdict]:
    spool = known(facts.spool)
    uid = facts.uid if isinstance(facts.servers_uid, Unknown) else facts.servers_uid
    path = shlex.quote(spool.path)
    make = f"install -d -o {uid} -m 0700 {path}   # as root"
    if not spool.exists and spool.creatable:
        yield Good(f"{spool.path} is made at the agent's first start")
    elif not spool.exists:
        yield Wrong(f"{spool.path} is not there, and this user cannot make it", (make,))
    elif not spool.plain:
        yield Wrong(f"{spool.path} is not a directory, or it is a link", (f"rm {path}", make))
    elif spool.uid != uid:
        yield Wrong(f"{spool.path} belongs to uid {spool.uid}, not to {uid}", (f"chown -R {uid} {path}   # as root",))
    elif spool.mode & 0o077:
        yield Wrong(f"the mode of {spool.path} is {spool.mode:04o}", (f"chmod 0700 {path}",))
    else:
        yield Good(f"{spool.path} is the agent's alone")


@rule(
    AREA,
    "error",
    what="The spool's file system has room for its limit.",
    why="A full disk ends pg_receivewal; below the limit streaming only pauses. At least two segments must fit.",
    fix="A larger disk for spool.directory, or a lower spool.limit.",
)
def spool_room(facts: Facts) -> Iterator[Verdict]:
    spool = known(facts.spool)
    this = facts.this
    segment = 16 << 20 if this is None or isinstance(this.server, Unknown) else int(this.server.state.segment_size)
    room, limit = spool.free + spool.used, facts.config.spool_limit
    fix = _limit_fix(facts, max(2 * segment, room // 2))
    if room < 2 * segment:
        yield Wrong(
            f"{size(room)} for the spool: not even two segments fit",
            (f"df {shlex.quote(spool.path)}   # a larger disk, or another spool.directory",),
            severity=None if facts.config.spools else "warning",
        )
    elif limit < 2 * segment:
        yield Wrong(f"spool.limit is {size(limit)}: less than two segments", fix, severity="warning")
    elif room < limit:
        text = f"{size(room)} for the spool, and its limit is {size(limit)}"
        yield Wrong(text, fix, severity="warning")
    else:
        yield Good(f"{size(room)} for a limit of {size(limit)}")


def _limit_fix(facts: Facts, limit: int) -> tuple[str, ...]:
    return (
        f"# in {facts.config.source}; or give the spool a larger disk:",
        *paste.yaml_lines(paste.key(facts, "spool"), {"limit": f"{max(1, limit >> 20)}MiB"}),
        _reload(facts),
    )


@rule(
    AREA,
    "error",
    what="pg_receivewal is there, and at least of the server's version.",
    why="It is what streams the WAL, and what fetches from other members what a promoted node no longer has. With "
    "`receiver: builtin` or `archiver: command` it is a warning, as nothing but the second is lost without it.",
    fix="Install the server's client programs, or set postgresql.bin_dir.",
)
def receiver(facts: Facts) -> Iterator[Verdict]:
    problem = facts.receiver_problem
    if problem is None:
        yield Good("pg_receivewal can be used")
    else:
        yield Wrong(str(problem), (f"# {problem.hint}",), severity=None if facts.config.spools else "warning")


@rule(
    AREA,
    "error",
    what="What is encrypted can be decrypted on this node.",
    why="restore_command on this node reads what every node stored: without encryption.identity_file it can only say "
    "that it cannot tell.",
    fix="encryption.identity_file on every node, readable by PostgreSQL's user alone.",
)
def encryption(facts: Facts) -> Iterator[Verdict]:
    config = facts.config
    if facts.codec_problem is not None:
        hint = facts.codec_problem.hint or f"look at the encryption section in {config.source}"
        yield Wrong(str(facts.codec_problem), (f"# {hint}",))
    elif config.encryption_recipients and config.identity_file is None:
        section = paste.key(facts, "encryption")
        lines = paste.yaml_lines(section, {"identity_file": "/etc/walkeeper/age-key"})
        fix = (f"# the private key of these recipients; in {config.source}:", *lines)
        text = "new objects are encrypted, and this node has no identity_file to read them"
        yield Wrong(text, fix, severity=None if facts.waits_for_store else "warning")
    else:
        yield Good("encrypted" if config.encryption_recipients else "nothing is encrypted")


@rule(
    AREA,
    "warning",
    what="Where objects are encrypted, they carry authentication codes, too.",
    why="The public key is enough to make an object that opens: whoever may create objects decides what is restored.",
    fix="authentication.key_files and authentication.since on every host that archives or restores.",
)
def authentication(facts: Facts) -> Iterator[Verdict]:
    config = facts.config
    if config.authentication_keys:
        yield Good("objects carry codes")
    elif config.encryption_recipients:
        file = "/etc/walkeeper/authentication-key"
        uid = facts.uid if isinstance(facts.servers_uid, Unknown) else facts.servers_uid
        fix = (
            "# one key, the same file on all hosts; as root:",
            f"openssl rand -hex 32 | install -o {uid} -m 0600 /dev/stdin {file}",
            f"# in {config.source}; since: a segment that is still to come on all hosts",
            "# (docs/operations.md, Authentication of objects):",
            *paste.yaml_lines(paste.key(facts, "authentication"), {"key_files": f"[{file}]", "since": '"SEGMENT"'}),
        )
        yield Wrong("objects are encrypted, and nothing shows who made them", fix)
    else:
        yield Good("nothing is encrypted, and objects carry no codes")


@rule(
    AGENTS,
    "error",
    what="An agent runs on every node.",
    why="The leader's archives. The others take over when they are promoted, hand in what an old primary has left, and "
    "serve restore_command.",
    fix="systemctl enable --now walkeeper, or walkeeper agent --detach",
)
@each.member
def agent_runs(facts: Facts, member: MemberFacts) -> Iterator[Verdict]:
    start = paste.walkeeper(facts, "agent", "--detach")
    unit = "systemctl enable --now walkeeper"
    fix = (start + f"   # or {unit}",) if facts.config.agent.start_from_callback else (unit + f"   # or {start}",)
    if member.here and facts.agent_absent:
        yield Wrong("no agent runs", fix)
    elif member.here:
        known(facts.agent)
        yield Good("an agent runs")
    elif known(member.server).agents:
        yield Good("an agent has a session there")
    else:
        text = "no agent has a session there: none runs, or it is not let in"
        yield Wrong(text, (f"# on {member.name}:", *fix))


@rule(
    AGENTS,
    "warning",
    what="The disk of pg_wal has room on every member.",
    why="PostgreSQL stops on a full disk, and what is not archived is kept there: an outage of the store fills it. "
    "With less than a tenth, ten segments, or an hour of WAL free, `gap.patience` and `durable_in` no longer count.",
    fix="df on the disk of pg_wal; docs/operations.md, Disk full.",
)
@each.server
def disk_room(facts: Facts, member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    disk = server.disk
    if disk is None:
        return  # no agent is there, or one of an older version: other rules say so
    left = disk.seconds_left
    text = f"{size(disk.free)} of {size(disk.total)} are free" + (f", full in {duration(left)}" if left else "")
    short = below_reserve(disk.free, disk.total, server.state.segment_size, disk.growth)
    if short:
        text += ": WAL that is suspected lost is not waited for, and one store is enough"
    look = f"df -h {facts.config.node.data_dir or 'DATA_DIRECTORY'}/pg_wal"
    fix = (look if member.here else f"# on {member.name}: {look}",)
    if disk.free < LEAST * server.state.segment_size:
        yield Wrong(text, fix, severity="error")
    elif short or (left is not None and left < DISK_SECONDS):
        yield Wrong(text, fix)
    else:
        yield Good(text)


@rule(
    AGENTS,
    "warning",
    what="All agents are of this version.",
    why="After an upgrade an agent goes on with the old program until it is started again.",
    fix="walkeeper agent --restart, or systemctl restart walkeeper",
)
@each.member
def agent_version(facts: Facts, member: MemberFacts) -> Iterator[Verdict]:
    if member.here and isinstance(facts.agent, AgentFacts):
        found = {str(facts.agent.report["agent"]["version"])}
    else:
        found = set(known(member.server).agents)
    if not found:
        yield NotKnown("no agent was seen there")
    elif found == {facts.version}:
        yield Good(f"walkeeper {facts.version}")
    else:
        text = f"its agent is walkeeper {', '.join(sorted(found))}, and this is {facts.version}"
        newest = max(found, key=_numbers)
        where = f"# on {member.name}:"
        if _numbers(newest) > _numbers(facts.version):
            where = f"# on this node, which is behind: install walkeeper {newest}, and then:"
        yield Wrong(text, (where, _restart(facts)))


def _restart(facts: Facts) -> str:
    own, unit = paste.walkeeper(facts, "agent", "--restart"), "systemctl restart walkeeper"
    return f"{own}   # or {unit}" if facts.config.agent.start_from_callback else f"{unit}   # or {own}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


@rule(
    AGENTS,
    "warning",
    what="All members' agents name the same stores, in the same order.",
    why="Whoever is promoted archives into the stores of its own configuration, and its first is the one that commits wait for: "
    "with `durability: store` it is an error.",
    fix="The same walkeeper.stores on every node, and systemctl reload walkeeper.",
)
@each.server
def same_stores(facts: Facts, member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    here, told = facts.config.stores, server.stores
    if not told:
        yield NotKnown("no agent there says which it has")
    elif told == brief(here):
        yield Good(f"{', '.join(here)}, in this order")
    else:
        names = ", ".join(which(told, here)) or "others, or more"
        fix = (
            f"# in walkeeper.stores of {member.name} and of this node, the same names in the same order; then on both:",
            _reload(facts),
        )
        text = f"its agent's stores are {names}, and this node's configuration names {', '.join(here)}"
        yield Wrong(text, fix, severity="error" if facts.waits_for_store else None)


def _reload(facts: Facts) -> str:
    return f"{paste.walkeeper(facts, 'agent', '--reload')}   # or systemctl reload walkeeper"


@rule(
    AGENTS,
    "error",
    what="This node's agent reports no problem.",
    why="What keeps it from its work stands in its log too, with a HINT.",
    fix="Do what the problem's own hint says.",
)
def agent_troubles(facts: Facts) -> Iterator[Verdict]:
    problems = [each for each in known(facts.agent).report["troubles"] if each.get("what") not in ELSEWHERE]
    causes = [(each.get("reason"), each["hint"]) for each in problems]
    for at, problem in enumerate(problems):
        if problem["hint"] and causes[at] in causes[:at]:
            continue  # a store that is away keeps several from their work
        hint = problem["hint"] or "the agent's log says more"
        breaks = problem.get("what") != About.METRICS_NOT_SERVED and problem.get("reason") != Watching.reason
        text = f"since {problem['since']}: {problem['text']}"
        yield Wrong(text, (f"# {hint}",), severity="error" if breaks else "warning")
    if not problems:
        yield Good("it reports no problem")


@rule(
    AGENTS,
    "warning",
    what="This node's agent works with the configuration as it is now.",
    why="An agent reads its configuration at its start and when it is told to.",
    fix="systemctl reload walkeeper",
)
def agent_configuration(facts: Facts) -> Iterator[Verdict]:
    report, url = known(facts.agent).report, known(facts.store).url
    own = report["agent"]
    if url and own["store"] != url:
        move = (
            f"# is that meant? The archive stays in {own['store']}. To move it: stop the agents of all nodes, copy",
            "# all of it there, let every node's configuration say so, and start them (docs/operations.md, Moving the bucket).",
            f"# If it is not meant, correct the store in {facts.config.source}",
        )
        yield Wrong(f"the agent archives into {own['store']}, and the file says {url}", move)
    elif own["spool_limit"] != facts.config.spool_limit:
        limits = f"{size(own['spool_limit'])}, the file says {size(facts.config.spool_limit)}"
        yield Wrong(f"the agent goes by an older configuration: spool.limit {limits}", (_reload(facts),))
    elif report.get("older_configuration"):
        yield Wrong(f"the agent goes by an older configuration than {facts.config.source} has now", (_reload(facts),))
    else:
        yield Good("it goes by the configuration as it is")
