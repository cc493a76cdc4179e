"""What the page shows, gathered from the agent: nothing here asks PostgreSQL, the DCS or the store."""

from __future__ import annotations

import time
from collections.abc import Mapping

from walkeeper.agent.agent import Agent
from walkeeper.agent.http.listing import StoreListing
from walkeeper.agent.http.report import present, report
from walkeeper.agent.members_look import MembersLook, Seen
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.dcs.base import Topology
from walkeeper.lib.clock import timestamp
from walkeeper.page.facts import Claim, Facts, Listing, Row


def facts(agent: Agent, store_listing: StoreListing, members_look: MembersLook) -> Facts:
    now = time.monotonic()
    observation = present(agent, now)
    listing: Listing | None = None
    says = ""
    if observation.record is not None:
        listing, says = store_listing.look(observation.record)
    topology, record = agent.topology, observation.record
    held = None if record is None else agent.shared.holding.position(agent.config.store_name, record)
    archiver = agent.archiver
    return Facts(
        at=timestamp(),
        report=report(agent),
        paused=topology.paused if topology else None,
        members=_rows(topology, observation.leader, members_look.look(topology.members, record, held))
        if topology
        else None,
        claim=_claim(observation.record),
        listing=listing,
        listing_says=says,
        histories={archiver.history.timeline: archiver.history} if archiver else {},
        samples=agent.observer.samples,
        now=now,
    )


def _claim(record: Record | None) -> Claim | None:
    if record is None:
        return None
    start = Segment.parse(record.start, record.size).start
    return Claim(record.size, record.timeline, record.position, start, record.gaps)


def _rows(topology: Topology, leader: str | None, seen: Mapping[str, Seen]) -> tuple[Row, ...]:
    if leader is None and topology.leader is not None:
        leader = topology.leader.name
    behind = topology.behind(leader)
    nothing = Seen(None, None)
    return tuple(
        Row(
            member.name,
            member.role,
            member.replication_state or member.state if member.state == "running" else member.state,
            member.timeline,
            None if member.lsn is None else Lsn(member.lsn),
            behind.get(member.name, 0),
            member.name == leader,
            seen.get(member.name, nothing).safe,
            disk.described() if (disk := seen.get(member.name, nothing).disk) else None,
        )
        for member in sorted(topology.members, key=lambda member: member.name)
    )
