"""What the status of the whole cluster is, from any node. What cannot be learnt is said, not guessed."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, TypeVar

from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.config import Config
from walkeeper.control import client, paths
from walkeeper.core.hold_slot import SlotState, why_not_gap_safe
from walkeeper.core.record import Record, decode_record
from walkeeper.core.suspicion import covers
from walkeeper.dcs.base import Member, RecordStore, Topology
from walkeeper.dcs.patroni import connect
from walkeeper.errors import AgentError, StoreUnavailable, WalkeeperError
from walkeeper.lib.deadline import Deadline, DeadlineExceeded
from walkeeper.lib.terminal import size
from walkeeper.postgres.server import Server, ServerState
from walkeeper.status.text import understands
from walkeeper.store.open import open_store

WELL: Final = 0
LOOK: Final = 1
UNKNOWN: Final = 2

PATIENCE: Final = 5.0
"""Seconds for the DCS, and then for the members and the store at the same time."""
AGENT_PATIENCE: Final = 2.0
STANDSTILL: Final = 30.0
"""Seconds without a move of the frontier while complete segments wait for it, from which on a person should look."""

_T = TypeVar("_T")


def gather(config: Config) -> dict[str, Any]:
    """Everything that can be learnt within some seconds; what cannot is null, and the reason stands in ``unknown``."""
    unknown: list[str] = []
    attention: list[str] = []
    record, topology = _from_the_dcs(config, unknown, attention)
    members = topology.members if topology is not None else (_this_node(config),)
    with ThreadPoolExecutor(len(members) + 2) as pool:
        gaps = pool.submit(_gaps, config, record, unknown)
        agent = pool.submit(_agent, config, unknown, attention)
        seen = list(pool.map(lambda member: _member(config, member, unknown), members))
    rows = [_judged(row, state, slot, record, unknown) for row, state, slot in seen]
    if any(row["gap_safe"] is False for row in rows):
        # The record was read before the slots, which follow it: they may only seem to be ahead.
        record = _from_the_dcs(config, [], [])[0] or record
        rows = [_judged(row, state, slot, record, []) for row, state, slot in seen]
    status: dict[str, Any] = {
        "scope": config.scope,
        "node": config.node.name,
        "store": _store_url(config),
        "record": _described(record),
        "leader": topology.leader.name if topology is not None and topology.leader is not None else None,
        "paused": topology.paused if topology is not None else None,
        "members": rows,
        "gaps": gaps.result(),
        "agent": agent.result(),
    }
    attention += _attention(status, topology, config.hold_slot)
    status |= {"attention": attention, "unknown": sorted(unknown)}
    status["exit_code"] = LOOK if attention else UNKNOWN if unknown else WELL
    return status


# --- the DCS --------------------------------------------------------------------------------------------------------


def _from_the_dcs(config: Config, unknown: list[str], attention: list[str]) -> tuple[Record | None, Topology | None]:
    try:
        records = connect(config.patroni_config, config.node.name, timeout=min(PATIENCE, config.agent.dcs_timeout))
    except WalkeeperError as problem:
        unknown.append(f"record and members: {problem}")
        return None, None
    try:
        topology = records.topology()
        return _record(records, attention), topology
    except WalkeeperError as problem:
        unknown.append(f"record and members: {problem}")
        return None, None
    finally:
        records.close()


def _record(records: RecordStore, attention: list[str]) -> Record | None:
    found = records.read()
    if found is None:
        attention.append("there is no record in the DCS: nothing has been archived, or the record was removed")
        return None
    try:
        return decode_record(found.document)
    except WalkeeperError as problem:
        attention.append(f"the record cannot be read: {problem}")
        return None


def _described(record: Record | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "system_identifier": record.system_identifier,
        "segment_size": record.segment_size,
        "timeline": record.timeline,
        "frontier": record.lsn,
        "start": record.start,
        "owner": record.owner,
        "gaps_total": record.gaps_total,
        "suspected": [{"timeline": gap.timeline, "start": gap.start, "end": gap.end} for gap in record.suspected],
        "trouble": record.trouble or None,
        "age_seconds": _age(record.updated_at),
    }


def _age(stamp: str) -> float | None:
    """Seconds since a timestamp of another machine's clock: for people only."""
    try:
        then = datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return max(0.0, (datetime.now(UTC) - then).total_seconds())


# --- the members ----------------------------------------------------------------------------------------------------


def _this_node(config: Config) -> Member:
    """What is left to look at where nobody says who the members are."""
    own = config.node.postgresql
    return Member(
        name=config.node.name or "this node", role="?", state="?", host=own.host if own else None,
        port=own.port if own else None, timeline=None, lsn=None,
    )  # fmt: skip


_Seen: TypeAlias = tuple[dict[str, Any], ServerState | None, SlotState | None]


def _member(config: Config, member: Member, unknown: list[str]) -> _Seen:
    """What the member's PostgreSQL says itself; Patroni's key has only its role and state."""
    row: dict[str, Any] = {
        "name": member.name, "role": member.role, "state": member.state, "timeline": None, "lsn": None,
        "in_recovery": None, "lag_bytes": None, "lag_seconds_at_most": None, "hold_slot": None, "gap_safe": None, "why": None,
    }  # fmt: skip
    if not member.host or not member.port:
        unknown.append(f"{member.name}: its address is not known")
        return row, None, None
    try:
        endpoint = replace(config.postgresql, host=member.host, port=member.port)
        server = Server(endpoint, min(PATIENCE, config.agent.dcs_timeout))
        try:
            state = server.state()
            slot = server.slot(config.hold_slot)
        finally:
            server.close()
    except WalkeeperError as problem:
        unknown.append(f"{member.name}: {problem}")
        return row, None, None
    timeline = member.timeline if state.in_recovery and member.timeline is not None else state.timeline
    row |= {"timeline": timeline, "lsn": str(state.lsn), "in_recovery": state.in_recovery}
    row["hold_slot"] = None if slot is None or slot.restart_lsn is None else str(slot.restart_lsn)
    return row, state, slot


def _judged(
    row: dict[str, Any], state: ServerState | None, slot: SlotState | None, record: Record | None, unknown: list[str]
) -> dict[str, Any]:
    """The row with what follows from the record."""
    if record is None or state is None:
        return row
    if str(state.system_identifier) != record.system_identifier:
        unknown.append(f"{row['name']}: its system identifier {state.system_identifier} is not the record's")
        return row
    lag = max(0, state.lsn - record.position)
    why = why_not_gap_safe(slot, record.position, record.size)
    late = 0.0 if lag < record.segment_size else _age(record.updated_at)
    return {**row, "lag_bytes": lag, "gap_safe": why == "", "why": why or None, "lag_seconds_at_most": late}


# --- the store, the agent -------------------------------------------------------------------------------------------


def _store_url(config: Config) -> str | None:
    try:
        return open_store(config.store).url
    except WalkeeperError:
        return None  # whoever asks it for the gaps says why


def _gaps(config: Config, record: Record | None, unknown: list[str]) -> list[dict[str, str | int]] | None:
    """From the store, which has all of them."""
    if record is None:
        unknown.append("gaps: without the record it is not known where to look")
        return None
    layout = Layout(config.scope, config.group, int(record.system_identifier))
    try:
        archive = Archive(open_store(config.store), layout, record.size, Codec())
        gaps, accepted = _within(PATIENCE, lambda: (archive.open_gaps(), archive.accepted_gaps()))
    except WalkeeperError as problem:
        unknown.append(f"gaps: {problem}")
        return None
    return [
        {"timeline": gap.timeline, "start": gap.start, "end": gap.end, "accepted": covers(accepted, gap)}
        for gap in gaps
    ]


def _within(seconds: float, work: Callable[[], _T]) -> _T:
    deadline = Deadline("store")
    try:
        return deadline.call(work, seconds)
    except DeadlineExceeded as problem:
        raise StoreUnavailable(str(problem)) from None
    finally:
        deadline.close()


def _agent(config: Config, unknown: list[str], attention: list[str]) -> dict[str, Any] | None:
    """The report of this node's own agent. Whose user we are decides where its socket is looked for."""
    try:
        report = client.ask(paths.socket_path(config.source, os.environ), "status", AGENT_PATIENCE)
    except AgentError as problem:
        said = f"agent on this node: {problem}"
        (attention if _is_servers_user(config) else unknown).append(said)
    except paths.RunDirectoryError as problem:
        unknown.append(f"agent on this node: {problem}")
    else:
        if understands(report):
            return report
        attention.append("agent on this node: it is of another version of walkeeper, and was not started again since")
    return None


def _is_servers_user(config: Config) -> bool:
    try:
        return config.data_dir.stat().st_uid == os.geteuid()
    except (WalkeeperError, OSError):
        return False


# --- what a person should look at -----------------------------------------------------------------------------------


def _attention(status: dict[str, Any], topology: Topology | None, hold_slot: str) -> list[str]:
    """In words."""
    found = []
    record, members = status["record"], status["members"]
    if record is not None and record["trouble"]:
        found.append(f"{record['owner']}, which archives: {record['trouble']}")
    if topology is not None and status["leader"] is None:
        found.append("Patroni has no leader")
    if record is not None and status["leader"] is not None and record["owner"] != status["leader"]:
        owns = f"{record['owner']} still owns the record" if record["owner"] else "nobody owns the record yet"
        found.append(f"Patroni's leader is {status['leader']}, and {owns}")
    found += _standstill(record, members)
    for gap in status["gaps"] or []:
        if not gap["accepted"]:
            text = f"gap on timeline {gap['timeline']}: {gap['start']} to {gap['end']}"
            found.append(f"{text}. Take a base backup, then run: walkeeper gap accept {gap['start']}")
    found += [f"{row['name']} is not gap-safe: {row['why']}" for row in members if row["gap_safe"] is False]
    if topology is not None and hold_slot not in topology.slots:
        found.append(f"Patroni's dynamic configuration does not declare the slot {hold_slot}")
    for trouble in (status["agent"] or {}).get("troubles", []):
        found.append(f"agent on this node, since {trouble['since']}: {trouble['text']}")
    return found


def _standstill(record: dict[str, Any] | None, members: list[dict[str, Any]]) -> list[str]:
    """The owner's agent may be dead, and then says nothing."""
    waiting = max((row["lag_bytes"] for row in members if row["lag_bytes"] is not None), default=0)
    if record is None or record["suspected"]:  # then the record says itself what it waits for
        return []
    if waiting < record["segment_size"] or (record["age_seconds"] or 0) < STANDSTILL:
        return []
    stood, waits = f"{record['age_seconds']:.0f} s", size(waiting)
    return [
        f"the frontier has stood for {stood}, and {waits} wait for it: is the agent on {record['owner'] or 'the leader'} well?"
    ]
