"""``walkeeper status``: the whole cluster at a glance, from any node. What cannot be learnt is said, not guessed.

Exit codes: 0 everything is known and well, 1 something needs a look, 2 something could not be learnt.
"""

from __future__ import annotations

import json as json_module
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from walkeeper import ask, rundir
from walkeeper.archive import Archive
from walkeeper.codec import Codec
from walkeeper.config import Config
from walkeeper.core.hold_slot import why_not_gap_safe
from walkeeper.core.record import Record, decode_record
from walkeeper.deadline import Deadline, DeadlineExceeded
from walkeeper.errors import ConfigError, PostgresError, WalkeeperError
from walkeeper.layout import Layout
from walkeeper.postgres import Server
from walkeeper.record.base import Member, RecordStore, Topology
from walkeeper.record.patroni import connect
from walkeeper.store.open import open_store

WELL: Final = 0
LOOK: Final = 1
UNKNOWN: Final = 2

_AGENT_TIMEOUT: Final = 2.0
_STORE_TIMEOUT: Final = 15.0


def main(config: Config, *, json: bool = False) -> int:
    """Print the status; returns the exit code."""
    status = gather(config)
    print(json_module.dumps(status, indent=2) if json else render(status))  # noqa: T201 - it is for standard output
    sys.stdout.flush()
    return int(status["exit_code"])


def gather(config: Config) -> dict[str, Any]:
    """Everything that can be learnt within some seconds; what cannot is null, and the reason stands in ``unknown``."""
    unknown: list[str] = []
    records = connect(config.patroni_config, config.node.name, timeout=config.agent.dcs_timeout)
    record = _record(records, unknown)
    topology = _topology(records, unknown)
    records.close()
    members = _members(config, topology, record, unknown)
    status: dict[str, Any] = {
        "scope": config.scope,
        "record": _described(record),
        "leader": topology.leader.name if topology is not None and topology.leader is not None else None,
        "paused": topology.paused if topology is not None else None,
        "members": members,
        "gaps": _gaps(config, record, unknown),
        "store": open_store(config.store).url,
        "agent": _agent(config, unknown),
        "unknown": unknown,
    }
    status["attention"] = _attention(status, topology, config.hold_slot)
    status["exit_code"] = LOOK if status["attention"] else UNKNOWN if unknown else WELL
    return status


def _record(records: RecordStore, unknown: list[str]) -> Record | None:
    try:
        found = records.read()
        if found is None:
            unknown.append("record: there is none yet in the DCS")
            return None
        return decode_record(found.document)
    except WalkeeperError as problem:
        unknown.append(f"record: {problem}")
        return None


def _topology(records: RecordStore, unknown: list[str]) -> Topology | None:
    try:
        return records.topology()
    except WalkeeperError as problem:
        unknown.append(f"members: {problem}")
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


def _members(
    config: Config, topology: Topology | None, record: Record | None, unknown: list[str]
) -> list[dict[str, Any]]:
    if topology is None or not topology.members:
        return []
    with ThreadPoolExecutor(len(topology.members)) as pool:
        return list(pool.map(lambda member: _member(config, member, record, unknown), topology.members))


def _member(config: Config, member: Member, record: Record | None, unknown: list[str]) -> dict[str, Any]:
    """What the member's PostgreSQL says itself; Patroni's key has only its role and state."""
    row: dict[str, Any] = {
        "name": member.name, "role": member.role, "state": member.state, "timeline": None, "lsn": None, "lag_bytes": None,
        "lag_seconds_at_most": None, "hold_slot": None, "gap_safe": None, "why": None,
    }  # fmt: skip
    if not member.host or not member.port:
        unknown.append(f"{member.name}: its address is not in the DCS")
        return row
    try:
        server = Server(replace(config.postgresql, host=member.host, port=member.port), config.agent.dcs_timeout)
        try:
            state = server.state()
            slot = server.slot(config.hold_slot)
        finally:
            server.close()
    except (PostgresError, ConfigError) as problem:
        unknown.append(f"{member.name}: {problem}")
        return row
    timeline = member.timeline if state.in_recovery and member.timeline is not None else state.timeline
    row |= {"timeline": timeline, "lsn": str(state.lsn), "in_recovery": state.in_recovery}
    row["hold_slot"] = None if slot is None or slot.restart_lsn is None else str(slot.restart_lsn)
    if record is not None:
        lag = max(0, state.lsn - record.position)
        why = why_not_gap_safe(slot, record.position, record.size)
        row |= {"lag_bytes": lag, "gap_safe": why == "", "why": why or None}
        row["lag_seconds_at_most"] = 0.0 if lag < record.segment_size else _age(record.updated_at)
    return row


def _gaps(config: Config, record: Record | None, unknown: list[str]) -> list[dict[str, str | int]] | None:
    """From the store, which has all of them."""
    if record is None:
        return None
    layout = Layout(config.scope, config.group, int(record.system_identifier))
    deadline = Deadline("store")
    try:
        archive = Archive(open_store(config.store), layout, record.size, Codec())
        gaps = deadline.call(archive.open_gaps, _STORE_TIMEOUT)
    except (WalkeeperError, DeadlineExceeded) as problem:
        unknown.append(f"gaps: {problem}")
        return None
    finally:
        deadline.close()
    return [{"timeline": gap.timeline, "start": gap.start, "end": gap.end} for gap in gaps]


def _agent(config: Config, unknown: list[str]) -> dict[str, Any] | None:
    """The report of this node's own agent."""
    try:
        return ask.ask(rundir.socket_path(config.source, os.environ), "status", _AGENT_TIMEOUT)
    except (WalkeeperError, rundir.RunDirectoryError) as problem:
        unknown.append(f"agent on this node: {problem}")
        return None


def _attention(status: dict[str, Any], topology: Topology | None, hold_slot: str) -> list[str]:
    """What a person should look at, in words."""
    found = []
    record = status["record"]
    if record is not None and record["trouble"]:
        found.append(f"{record['owner']}, which archives: {record['trouble']}")
    if record is not None and status["leader"] is not None and record["owner"] != status["leader"]:
        found.append(f"Patroni's leader is {status['leader']}, and {record['owner']} still owns the record")
    found += [f"gap on timeline {gap['timeline']}: {gap['start']} to {gap['end']}" for gap in status["gaps"] or []]
    found += [f"{row['name']} is not gap-safe: {row['why']}" for row in status["members"] if row["gap_safe"] is False]
    if topology is not None and hold_slot not in topology.slots:
        found.append(f"Patroni's dynamic configuration does not declare the slot {hold_slot}")
    for trouble in (status["agent"] or {}).get("troubles", []):
        found.append(f"agent on this node, since {trouble['since']}: {trouble['text']}")
    return found


# --- for people -----------------------------------------------------------------------------------------------------


def render(status: dict[str, Any]) -> str:
    """The same as text of at most 100 columns or so, without colour."""
    lines = [f"Cluster   {status['scope']}{'   (Patroni is paused)' if status['paused'] else ''}"]
    record = status["record"]
    if record is None:
        lines.append("Frontier  unknown")
    else:
        lines.append(f"Archive   {status['store']}, from {record['start']}")
        moved = f"moved by {record['owner']}{_ago(record['age_seconds'])}"
        lines.append(f"Frontier  {record['frontier']} on timeline {record['timeline']}, {moved}")
    gaps = status["gaps"]
    lines.append(f"Gaps      {'unknown' if gaps is None else 'none' if not gaps else len(gaps)}")
    lines += ["", *_table(status["members"], status["leader"]), ""]
    lines += _agent_lines(status["agent"])
    lines += [f"Look at   {text}" for text in status["attention"]]
    lines += [f"Unknown   {text}" for text in status["unknown"]]
    lines.append(
        {WELL: "All well.", LOOK: "Something needs a look.", UNKNOWN: "Not everything is known."}[status["exit_code"]]
    )
    return "\n".join(lines)


def _table(members: list[dict[str, Any]], leader: str | None) -> list[str]:
    rows = [("MEMBER", "ROLE", "STATE", "TL", "WAL AT", "NOT ARCHIVED", "HOLD SLOT", "GAP-SAFE")]
    for row in members:
        role = "leader" if row["name"] == leader else row["role"]
        lag = "?" if row["lag_bytes"] is None else _bytes(row["lag_bytes"]) + _at_most(row["lag_seconds_at_most"])
        safe = {True: "yes", False: "NO", None: "?"}[row["gap_safe"]]
        rows.append(
            (
                row["name"],
                role,
                row["state"],
                str(row["timeline"] or "?"),
                row["lsn"] or "?",
                lag,
                row["hold_slot"] or "?",
                safe,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _agent_lines(agent: dict[str, Any] | None) -> list[str]:
    if agent is None:
        return ["Agent     no answer on this node"]
    own = agent["agent"]
    doing = f"archives timeline {own['timeline']}" if own["archiving"] else "watches"
    spool = f"spool {_bytes(own['spool_bytes'])} of {_bytes(own['spool_limit'])}"
    return [f"Agent     {own['name']}, pid {own['pid']}, walkeeper {own['version']}: {doing}; {spool}"]


def _at_most(seconds: float | None) -> str:
    return "" if not seconds else f", {seconds:.0f} s"


def _ago(seconds: float | None) -> str:
    return "" if seconds is None else f" {seconds:.0f} s ago"


def _bytes(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    power = min(4, (count.bit_length() - 1) // 10)
    return f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"
