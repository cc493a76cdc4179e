"""What the agent says about itself: one dictionary, for its socket, for status and for the metrics."""

from __future__ import annotations

import os
import time
from typing import Any, Final

from walkeeper import __version__
from walkeeper.agent.agent import Agent
from walkeeper.agent.observation import Observation
from walkeeper.agent.problems import Problem
from walkeeper.core.floor import moment
from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Record
from walkeeper.core.store_words import for_store
from walkeeper.core.synchronous import always_asks, standby_name
from walkeeper.dcs.base import BACKUP_JOB, PROOF_JOB
from walkeeper.lib.clock import now_utc

STALE_SECONDS: Final = 30.0
"""Seconds after which an observation is no longer reported as the present."""


def report(agent: Agent) -> dict[str, Any]:
    """A JSON document; positions as PostgreSQL writes them, sizes in bytes, times in seconds, unknown as null.

    What other threads replace is read once.
    """
    now = time.monotonic()
    age = now - agent.observer.observation.at if agent.observer.observation.at else None
    observation = present(agent, now)
    server, slot = observation.server, observation.slot
    disk, topology, last = agent.observer.disk, agent.observer.topology, agent.problems.last
    return {
        "agent": _agent(agent, age),
        "server": None
        if server is None
        else {
            "system_identifier": str(server.system_identifier),
            "in_recovery": server.in_recovery,
            "timeline": server.timeline,
            "lsn": str(server.lsn),
            "major": server.major,
        },
        "leader": observation.leader if observation.leader_known else None,
        "record_known": observation.record_known,
        "record": _record(observation.record),
        "durability": durability(agent, observation),
        "last_commit": _last_commit(agent, observation),
        **_lag(agent, observation),
        "disk": None if disk is None else disk.described(),
        "gap_safe": None if observation.gap_unsafe is None else observation.gap_unsafe == "",
        "hold_slot": None
        if not isinstance(slot, SlotState)
        else {"restart_lsn": _text(slot.restart_lsn), "lost": slot.lost, "active_pid": slot.active_pid},
        "archive_command": None
        if observation.command is None
        else {
            "archive_mode": observation.command.mode,
            "archived_count": observation.command.archived_count,
            "last_archived": observation.command.last_archived,
            "failed_count": observation.command.failed_count,
            "last_failed": observation.command.last_failed,
            "fails": observation.command.fails,
        },
        "suspected": _suspected(agent),
        "backups": _backups(agent),
        **_job(agent, BACKUP_JOB, "backup"),
        **_job(agent, PROOF_JOB, "proof"),
        "troubles": [_problem(problem, now) for problem in agent.problems.open()],
        "last_error": None if last is None else _problem(last, now),
        "refused_total": agent.problems.counts(),
        "members_behind": {} if topology is None else topology.behind(observation.leader),
        "members_gone": [{"name": name, "last_seen": seen} for name, seen in agent.observer.gone.names().items()],
        "stores": [_store(each, now) for each in agent.beside],
    }


def present(agent: Agent, now: float) -> Observation:
    """What the agent saw last; nothing, where that is too long ago. ``now``: of the monotonic clock."""
    seen = agent.observer.observation
    return seen if seen.at and now - seen.at <= STALE_SECONDS else Observation()


def _store(agent: Agent, now: float) -> dict[str, Any]:
    """Of another one of several stores; each key that the whole report has too means the same there."""
    name, observation, archiver = agent.config.store_name, present(agent, now), agent.archiver
    troubles = [_problem(problem, now) for problem in agent.problems.open()]
    return {
        "name": name,
        "url": agent.store.url,
        "archiving": archiver is not None,
        "stored_up_to": _text(archiver.stored_up_to) if archiver is not None else None,
        "record_known": observation.record_known,
        "record": _record(observation.record),
        **_lag(agent, observation),
        "suspected": _suspected(agent),
        "backups": _backups(agent),
        "troubles": [{**each, "hint": for_store(str(each["hint"]), name)} for each in troubles],
    }


def _backups(agent: Agent) -> dict[str, Any] | None:
    archiver = agent.archiver
    return None if archiver is None else agent.backups.summary(archiver.ownership.record)


def _record(record: Record | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "owner": record.owner,
        "timeline": record.timeline,
        "frontier": record.lsn,
        "segment_size": record.segment_size,
        "gaps": record.gaps_total,
        "durability": record.durability or "local",
    }


def _lag(agent: Agent, observation: Observation) -> dict[str, float | None]:
    server, record = observation.server, observation.record
    if server is None or record is None:
        return {"lag_bytes": None, "lag_seconds": None}
    return {"lag_bytes": max(0, server.lsn - record.position), "lag_seconds": agent.observer.lag_seconds()}


def _agent(agent: Agent, age: float | None) -> dict[str, Any]:
    archiver = agent.archiver
    return {
        "name": agent.config.name,
        "scope": agent.config.scope,
        "version": __version__,
        "pid": os.getpid(),
        "started_at": agent.started_at,
        "looked_seconds_ago": age,
        "store": agent.store.url,
        "archiver": agent.config.archiver,
        "archiving": archiver is not None,
        "timeline": archiver.history.timeline if archiver is not None else None,
        "stored_up_to": _text(archiver.stored_up_to) if archiver is not None else None,
        "uploaded_segments": archiver.uploads.count if archiver is not None else 0,
        "uploaded_bytes": archiver.uploads.bytes if archiver is not None else 0,
        "in_flight": sorted(each.name for each in archiver.uploads.in_flight.copy()) if archiver is not None else [],
        "tail_pieces": archiver.tail.uploaded if archiver is not None else 0,
        "tail_bytes": archiver.tail.uploaded_bytes if archiver is not None else 0,
        "spool_bytes": agent.spool_used(),
        "spool_limit": agent.config.spool_limit,
    }


def durability(agent: Agent, observation: Observation) -> dict[str, Any] | None:
    """What commits wait for with ``durability: store``; None without it. On nodes that do not archive only the record says it."""
    if agent.config.durability != "store":
        return None
    archiver = agent.archiver
    synchronous = None if archiver is None else archiver.synchronous
    nothing = None if archiver is None else "none", None, None
    state, acknowledged, waited = nothing if synchronous is None else synchronous.fares()
    server, commits = observation.server, observation.commits
    name = None if server is None else standby_name(server.system_identifier)
    return {
        "state": state,
        "acknowledged": _text(acknowledged),
        "waited_seconds": waited,
        "waiting_commits": None if commits is None else commits.waiting,
        "standby_name": name,
        "waited_for": None if name is None or commits is None else always_asks(commits.standby_names, name),
    }


def _last_commit(agent: Agent, observation: Observation) -> dict[str, str] | None:
    record, server = observation.record, observation.server
    found = agent.last_commit.below(record, server.lsn) if record is not None and server is not None else None
    return None if found is None else {"time": found.when, "lsn": str(found.begin)}


def _job(agent: Agent, key: str, word: str) -> dict[str, Any]:
    """The cluster's job as this agent saw it last, with its schedule; None without a schedule, and before the first is due."""
    known = agent.jobs.get(key)
    job = None if known is None else known.seen
    facts = ("backup", "due", "state", "node", "attempt", "bytes", "of", "at", "why", "later")
    return {
        f"{word}_job": None
        if known is None or job is None
        else {**{fact: getattr(job, fact) for fact in facts}, "silent": known.silent},
        f"{word}_schedule": None
        if known is None
        else known.kind.schedule.described(now_utc(), None if job is None else moment(job.due)),
    }


def _suspected(agent: Agent) -> dict[str, Any] | None:
    """What is suspected lost; None where this node does not archive, or nothing is."""
    archiver = agent.archiver
    missing = archiver.lost.missing if archiver is not None else None
    if missing is None:
        return None
    return {
        "ranges": [
            {"timeline": lost.first.timeline, "start": str(lost.first.start), "end": str(lost.end_lsn)}
            for lost in missing.lost
        ],
        "bytes": sum(lost.end_lsn - lost.first.start for lost in missing.lost),
        "waiting_for": list(missing.waiting_for),
        "until": missing.until,
        "forgotten": list(missing.forgotten),
    }


def _problem(problem: Problem, now: float) -> dict[str, str | float | None]:
    facts = ("what", "reason", "text", "hint", "since")
    return {
        **{fact: getattr(problem, fact) for fact in facts},
        "seen_seconds_ago": max(0.0, now - problem.met_at),
        "over_seconds_ago": None if problem.over_at is None else max(0.0, now - problem.over_at),
    }


def _text(lsn: Lsn | None) -> str | None:
    return None if lsn is None else str(lsn)
