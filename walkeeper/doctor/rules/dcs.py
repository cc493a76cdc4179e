"""The DCS and the record in it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import partial
from typing import Final

from walkeeper.core.amounts import duration, size
from walkeeper.core.record import Record
from walkeeper.doctor.facts import AgentFacts, Facts, ServerFacts, Unknown, known
from walkeeper.doctor.rule import Good, NotKnown, Rule, Verdict, Wrong
from walkeeper.doctor.rules import paste
from walkeeper.errors import Watching

error = partial(Rule, area="DCS", severity="error")
warning = partial(Rule, area="DCS", severity="warning")
STANDSTILL: Final = 30.0
REVISIONS: Final = 10_000
"""So many are written in some hours; whoever lets go of old ones has done so by then."""
_ETCDCTL: Final = "etcdctl --command-timeout=600s"
"""By default it gives up after five seconds, in which a large etcd is neither compacted nor copied."""


@error(
    what="The DCS answers, and lets this node read the record, the leader and the members.",
    why="The record is where a promoted node finds out where to go on. While the DCS is away uploads go on and the frontier "
    "waits.",
    fix="Look at the DCS, and at its section in Patroni's configuration.",
)
def dcs_answers(facts: Facts) -> Iterator[Verdict]:
    if facts.dcs_problem is None:
        yield Good("it answers")
    else:
        yield Wrong(str(facts.dcs_problem), _hint(facts.dcs_problem.hint, paste.patronictl(facts, "list")))


@error(
    what="The record's key can be written by compare-and-set.",
    why="That is what fences a stale primary. doctor tries to create the record although it is there: a DCS that does what "
    "it should refuses, and nothing changes.",
    fix="Give Patroni's DCS user the right to write all keys of the cluster, those that begin with `walkeeper` among them.",
    of_each_store=True,
)
def compare_and_set(facts: Facts) -> Iterator[Verdict]:
    found = known(facts.compare_and_set)
    if found:
        yield Wrong(found, _rights(facts))
    else:
        yield Good("a compare-and-set on the record is refused as it should be")


def _rights(facts: Facts) -> tuple[str, ...]:
    config = facts.config
    group = f"/{config.group}" if config.group is not None else ""
    key = f"/{config.namespace}/{config.scope}{group}/walkeeper"
    return (f"# Patroni's DCS user needs to read and write {key} and what begins so; with etcd, as its root:",
            f"etcdctl role grant-permission --prefix PATRONIS_ROLE readwrite {shlex.quote(key)}")  # fmt: skip


@warning(
    what="etcd lets go of what was written over, and is not half full.",
    why="etcd keeps each version of a key until it is compacted, and its default is never. The record is written as often as "
    "once a second, and Patroni writes too. At its quota, 2 GiB by default, etcd takes no more, and Patroni demotes the leader.",
    fix="Automatic compaction in etcd's configuration, and a defragmentation of what it has grown to.",
)
def etcd_has_room(facts: Facts) -> Iterator[Verdict]:
    room = known(facts.dcs_room)
    if room is None:
        yield Good("the DCS is not etcd's API v3")
    elif not room.compacted and room.revision > REVISIONS:
        text = f"it has kept all {room.revision:,} versions of its keys: nobody compacts it, and it has {size(room.stored)}"
        mode = (
            "# of each etcd member, in its configuration: auto-compaction-mode: periodic, auto-compaction-retention: 1h"
        )
        yield Wrong(text, (mode, f"{_ETCDCTL} compact --physical {room.revision}", f"{_ETCDCTL} defrag --cluster"))
    elif room.stored > room.quota // 2:
        text = f"it has {size(room.stored)}, and takes no more at {size(room.quota)}"
        yield Wrong(
            text, ("# the room of what was compacted comes back; what else is in it?", f"{_ETCDCTL} defrag --cluster")
        )
    else:
        yield Good(f"it has {size(room.stored)}, and takes {size(room.quota)}")


@error(
    what="There is a record, its owner is the leader, and it reports no problem.",
    why="Without a record nothing is archived. An owner that is not the leader means that the new leader's agent could not "
    "take over; the problem that it reports keeps the archive from going on.",
    fix="Look at the agent on the leader: it must run there.",
    of_each_store=True,
)
def record_owned(facts: Facts) -> Iterator[Verdict]:
    record, topology = known(facts.record), known(facts.topology)
    leader = topology.leader.name if topology.leader is not None else None
    start = paste.walkeeper(facts, "agent", "--detach") + "   # or systemctl start walkeeper"
    if facts.record_problem:
        yield Wrong(facts.record_problem, (f"# on {leader or 'the leader'}, whose agent makes a new one:", start))
    elif record is None:
        yield _no_record(facts, leader, start)
    elif leader is None:
        yield Wrong("Patroni has no leader", (paste.patronictl(facts, "list"),))
    elif record.owner != leader:
        yield Wrong(
            f"Patroni's leader is {leader}, and {record.owner} still owns the record", (f"# on {leader}:", start)
        )
    elif record.trouble and not _told_by_agent(facts, record):
        fix = f"{paste.walkeeper(facts, 'status')}   # on {record.owner}, whose agent's log says more"
        yield Wrong(f"{record.owner}, which archives, reports: {record.trouble}", (fix,))
    else:
        yield Good(f"{record.owner} owns it, and its frontier is {record.lsn} on timeline {record.timeline}")


@error(
    what="The frontier moves, or nothing waits for it.",
    why="Complete segments that wait longer than seconds mean that the owner's agent is dead, stuck, or cannot store.",
    fix="Look at the owner's agent and its log.",
    of_each_store=True,
)
def frontier_moves(facts: Facts) -> Iterator[Verdict]:
    record = known(facts.record)
    leader = facts.leader
    if record is None or leader is None or isinstance(leader.server, Unknown):
        yield NotKnown("there is no record yet" if record is None else "the leader's server was not seen")
        return
    waiting = leader.server.state.lsn - record.position
    age = facts.record_age
    if waiting < record.segment_size or age is None or age < STANDSTILL:
        yield Good("it moves, or nothing waits for it")
        return
    fix = f"{paste.walkeeper(facts, 'status')}   # on {record.owner}, whose agent's log says more"
    text = f"it has stood for {duration(age)}, and {size(waiting)} wait for it"
    if record.trouble:
        yield Wrong(f"{text}, because of what {record.owner} reports", (fix,), severity="info")
    else:
        yield Wrong(text, (fix,))


def _no_record(facts: Facts, leader: str | None, start: str) -> Wrong:
    """An agent that runs on the leader needs no start: after a watch it takes the archive over, and else it says why not."""
    text, agent = "there is no record, and nothing is archived", facts.agent
    problems = agent.report["troubles"] if isinstance(agent, AgentFacts) else ()
    for problem in problems:
        if problem.get("reason") == Watching.reason:
            return Wrong(f"{text} yet: {problem['text']}", (f"# {problem['hint']}",), severity="warning")
    server = None if facts.leader is None else facts.leader.server
    if isinstance(server, ServerFacts) and server.agents:
        look = f"{paste.walkeeper(facts, 'status')}   # on {leader}, whose agent's log says more"
        watches = "for two and a half minutes after a start it may watch whether somebody else archives there"
        return Wrong(f"{text}: the agent on {leader} runs, and has not taken over; {watches}", (look,))
    return Wrong(text, (f"# on {leader or 'the leader'}:", start))


def _told_by_agent(facts: Facts, record: Record) -> bool:
    """The owner's agent is this node's, and reports all of its problems: the record has one of them, of some seconds ago."""
    if isinstance(facts.agent, Unknown) or record.owner != facts.config.node.name:
        return False
    return bool(facts.agent.report["troubles"])


def _hint(hint: str, command: str) -> tuple[str, ...]:
    return (f"# {hint}", command) if hint else (command,)
