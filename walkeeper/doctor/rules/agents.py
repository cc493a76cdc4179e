"""The agents, on this node and on the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Final

from walkeeper.core.about import About
from walkeeper.core.amounts import duration, size, to_the_second
from walkeeper.core.room import DISK_SECONDS, LEAST
from walkeeper.core.stores_told import brief, which
from walkeeper.core.suspicion import below_reserve
from walkeeper.doctor.facts import AgentFacts, Facts, MemberFacts, ServerFacts, known
from walkeeper.doctor.rule import Good, NotKnown, Rule, Verdict, Wrong
from walkeeper.doctor.rules import each, paste
from walkeeper.errors import Watching

error = partial(Rule, area="Agents", severity="error")
warning = partial(Rule, area="Agents", severity="warning")
ELSEWHERE: Final = ("not_gap_safe", "archive_command")
"""Problems of an agent that rules about the servers find themselves: gap_safe, archive_command_works."""


@error(
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


@warning(
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


@warning(
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


@warning(
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
            paste.reload_agent(facts),
        )
        text = f"its agent's stores are {names}, and this node's configuration names {', '.join(here)}"
        yield Wrong(text, fix, severity="error" if facts.waits_for_store else None)


@error(
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
        text = f"since {to_the_second(problem['since'])}: {problem['text']}"
        yield Wrong(text, (f"# {hint}",), severity="error" if breaks else "warning")
    if not problems:
        yield Good("it reports no problem")


@warning(
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
        yield Wrong(f"the agent goes by an older configuration: spool.limit {limits}", (paste.reload_agent(facts),))
    elif report.get("older_configuration"):
        yield Wrong(
            f"the agent goes by an older configuration than {facts.config.source} has now", (paste.reload_agent(facts),)
        )
    else:
        yield Good("it goes by the configuration as it is")
