"""What the status of the whole cluster is, from any node. What cannot be learnt is said, not guessed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from walkeeper.archive.contents import Contents
from walkeeper.archive.open import open_archives
from walkeeper.archive.restorable import claimed, summary
from walkeeper.config import Config
from walkeeper.control import client, paths
from walkeeper.core.history import History
from walkeeper.core.hold_slot import SlotState, followed, how_to_make_safe, reached, why_not_gap_safe
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Record
from walkeeper.core.room import Disk
from walkeeper.core.suspicion import covers
from walkeeper.core.synchronous import always_asks, standby_name
from walkeeper.dcs.base import RECORD, Member, RecordStore, Topology
from walkeeper.dcs.claim import Known, decoded
from walkeeper.dcs.patroni import connect
from walkeeper.errors import AgentError, StoreUnavailable, WalkeeperError
from walkeeper.lib.clock import seconds_since, wall_seconds
from walkeeper.lib.deadline import DeadlineExceeded, within
from walkeeper.postgres.server import NOT_THERE, CommitsState, Server, ServerState
from walkeeper.status.ages import ahead_of, described
from walkeeper.status.attention import Remark, about_store, attention, remark
from walkeeper.store.open import url_of

WELL: Final = 0
LOOK: Final = 1
UNKNOWN: Final = 2

ANSWER_SECONDS: Final = 5.0
"""Seconds for the DCS, and then for the members and the store at the same time."""
AGENT_SECONDS: Final = 2.0
"""Seconds for this node's agent."""
_SHOWN: Final = {"name", "pid", "version", "archiving", "timeline", "spool_bytes", "spool_limit"}
"""Of an agent's report."""

_DOWN: Final = "Start it there; if it runs, Patroni's postgresql.connect_address on that node does not lead to it."

_T = TypeVar("_T")


def gather(config: Config) -> dict[str, Any]:
    """Everything that can be learnt within some seconds; what cannot is null, and the reason stands in ``unknown``."""
    unknown: list[Remark] = []
    found: list[Remark] = []
    record, topology = _from_the_dcs(config, unknown, found)
    others = config.of_each_store[1:]
    records = [_record_of(each, topology, unknown, found) for each in others]
    members = topology.members if topology is not None else (_this_node(config),)
    with ThreadPoolExecutor(len(members) + len(others) + 3) as pool:
        gaps = pool.submit(_gaps, config, record, unknown)
        there = [pool.submit(_archive_of, *each, unknown) for each in zip(others, records, strict=True)]
        backups = pool.submit(_backups, config, record, unknown)
        agent = pool.submit(_agent, config, unknown, found)
        looked = list(pool.map(lambda member: _member(config, member, unknown), members))
    ahead = ahead_of([each[0] for each in looked], record)
    judge = _Judge(config, topology, records, unknown, ahead)
    rows = [judge.row(*each, record) for each in looked]
    if any(row["gap_safe"] is False for row in rows):
        # The records were read before the slots, which follow them: they may only seem to be ahead.
        record = _from_the_dcs(config, [], [])[0] or record
        again = (_record_of(each, topology, [], []) or its for each, its in zip(others, records, strict=True))
        records = list(again)
        judge = _Judge(config, topology, records, [], ahead)
        rows = [judge.row(*each, record) for each in looked]
    leader = topology.leader.name if topology is not None and topology.leader is not None else None
    _compare_with_leader(rows, leader)
    with_own_disk(rows, config.node.name, agent.result())
    _look_for_next_wal(config, record, gaps.result() or [], rows)
    status: dict[str, Any] = {
        "scope": config.scope,
        "node": config.node.name,
        "store_name": config.store_name,
        "store": url_of(config.store),
        "record": described(record, ahead),
        "leader": leader,
        "paused": topology.paused if topology is not None else None,
        "hold_slot": {"name": config.hold_slot, "declared": topology is None or config.hold_slot in topology.slots},
        "members": rows,
        "gone": _gone(agent.result(), topology),
        "gaps": gaps.result(),
        "backups": backups.result(),
        "agent": agent.result(),
        "stores": [
            _store(each, its, found.result(), rows, leader)
            for each, its, found in zip(others, records, there, strict=True)
        ],
    }
    found += attention(status)
    status |= {"attention": found, "unknown": sorted(unknown, key=lambda each: each["text"])}
    status["exit_code"] = LOOK if found else UNKNOWN if unknown else WELL
    return status


# --- the DCS --------------------------------------------------------------------------------------------------------


def _from_the_dcs(config: Config, unknown: list[Remark], found: list[Remark]) -> tuple[Record | None, Topology | None]:
    seconds = min(ANSWER_SECONDS, config.agent.dcs_timeout)
    try:
        with closing(connect(config.patroni_config, config.node.name, seconds, config.key(RECORD))) as records:
            topology = records.topology()
            return _record(records, found), topology
    except WalkeeperError as problem:
        unknown.append(remark(f"record and members: {problem}", problem.hint))
        return None, None


def _record(records: RecordStore, found: list[Remark]) -> Record | None:
    claim = decoded(records.read())
    if claim.known is Known.ABSENT:
        found.append(
            remark(
                "there is no record in the DCS: nothing has been archived, or the record was removed",
                "The agent of Patroni's leader makes it. If it does not, walkeeper status there says of that agent why.",
            )
        )
    elif claim.problem is not None:
        found.append(remark(f"the record cannot be read: {claim.why}", claim.problem.hint))
    return claim.record


def _record_of(config: Config, topology: Topology | None, unknown: list[Remark], found: list[Remark]) -> Record | None:
    """That of another store, where the DCS has answered."""
    if topology is None:
        return None
    doubts: list[Remark] = []
    lacks: list[Remark] = []
    record, _ = _from_the_dcs(config, doubts, lacks)
    unknown += about_store(config.store_name, doubts)
    found += about_store(config.store_name, lacks)
    return record


# --- the members ----------------------------------------------------------------------------------------------------


def _this_node(config: Config) -> Member:
    """What is left to look at where nobody says who the members are."""
    own = config.node.postgresql
    return Member(
        name=config.node.name or "this node", role="?", state="?", host=own.host if own else None,
        port=own.port if own else None, timeline=None, lsn=None,
    )  # fmt: skip


_Looked: TypeAlias = tuple[dict[str, Any], ServerState | None, SlotState | None]


def _member(config: Config, member: Member, unknown: list[Remark]) -> _Looked:
    """What the member's PostgreSQL says itself; Patroni's key has only its role and state."""
    row: dict[str, Any] = {
        "name": member.name, "role": member.role, "state": member.state, "timeline": None, "lsn": None, "in_recovery": None,
        "receives": None, "behind_bytes": None, "next_wal": None, "lag_bytes": None, "lag_seconds_at_most": None,
        "hold_slot": None, "held": not member.nofailover, "gap_safe": None, "why": None, "hint": None,
        "disk": None, "commits": None, "clock_ahead_seconds": None,
    }  # fmt: skip
    if not member.host or not member.port:
        unknown.append(remark(f"{member.name}: its address is not known"))
        return row, None, None
    try:
        endpoint = config.postgresql.of_member(member.host, member.port)
        with closing(Server(endpoint, min(ANSWER_SECONDS, config.agent.dcs_timeout))) as server:
            state, ahead = server.state(), server.clock_ahead()
            slot = server.slot(config.hold_slot)
            receives = server.receives() if state.in_recovery else None
            commits = None if state.in_recovery else server.commits(standby_name(state.system_identifier))
            disk = next(filter(None, map(Disk.from_brief, server.agents())), None)
    except WalkeeperError as problem:
        unknown.append(remark(f"{member.name}: {problem}", _DOWN if problem.hint == NOT_THERE else problem.hint))
        return row, None, None
    timeline = member.timeline if state.in_recovery and member.timeline is not None else state.timeline
    row |= {"timeline": timeline, "lsn": str(state.lsn), "in_recovery": state.in_recovery, "receives": receives}
    row["clock_ahead_seconds"] = ahead
    row["disk"] = None if disk is None else disk.described()
    row["commits"] = None if commits is None else _commits(commits, standby_name(state.system_identifier))
    row["held"] = row["held"] or not state.in_recovery
    if receives is not None and member.state == "running":
        row["state"] = "streaming" if receives else "not streaming"
    row["hold_slot"] = None if slot is None or slot.restart_lsn is None else str(slot.restart_lsn)
    return row, state, slot


def _commits(found: CommitsState, standby: str) -> dict[str, Any]:
    """Of a primary: whether its commits wait for the store, how many do now, and whether an agent streams to acknowledge them."""
    waited_for = always_asks(found.standby_names, standby)
    return {
        "waited_for": waited_for,
        "waiting": found.waiting if waited_for else None,
        "acknowledged": found.connected > 0,
        "standby_name": standby,
    }


@dataclass(frozen=True, slots=True)
class _Judge:
    """What follows from the record for a member. ``others``: the records of other stores, which the hold slot follows as well;
    ``ahead``: the owner's clock.
    """

    config: Config
    topology: Topology | None
    others: Sequence[Record | None]
    unknown: list[Remark]
    ahead: float = 0.0

    def row(
        self, row: dict[str, Any], state: ServerState | None, slot: SlotState | None, record: Record | None
    ) -> dict[str, Any]:
        if record is None or state is None:
            return {**row}
        if str(state.system_identifier) != record.system_identifier:
            text = f"{row['name']}: its system identifier {state.system_identifier} is not the record's"
            self.unknown.append(remark(text, "Another cluster's server, or one that was initialised again."))
            return {**row}
        lag = max(0, state.lsn - record.position)
        judged = {
            **row,
            "lag_bytes": lag,
            "lag_seconds_at_most": seconds_since(record.wal_at, self.ahead) if lag else 0.0,
        }
        if row["held"]:
            others = [found for other in self.others if other and (found := reached(record, other)) is not None]
            why = why_not_gap_safe(slot, followed([record.position, *others], self.config.durable_in), record.size)
            judged |= {"gap_safe": why == "", "why": why or None, "hint": self._hint(slot) if why else None}
        return judged

    def _hint(self, slot: SlotState | None) -> str:
        name, topology = self.config.hold_slot, self.topology
        declared = topology is None or name in topology.slots
        return how_to_make_safe(slot, name, declared=declared, slots_off=topology is not None and topology.slots_off)


def _compare_with_leader(rows: list[dict[str, Any]], leader: str | None) -> None:
    """By what the servers say themselves, at nearly the same moment."""
    reach = next((Lsn.parse(row["lsn"]) for row in rows if row["name"] == leader and row["lsn"]), None)
    for row in rows:
        if reach is not None and row["lsn"] is not None and row["name"] != leader:
            row["behind_bytes"] = max(0, reach - Lsn.parse(row["lsn"]))


def with_own_disk(rows: list[dict[str, Any]], name: str | None, agent: dict[str, Any] | None) -> None:
    """As this node's agent measures it: a server that a full disk has stopped does not say it."""
    for row in rows:
        if row["name"] == name and agent is not None:
            row["disk"] = agent.get("disk") or row["disk"]


def _gone(agent: dict[str, Any] | None, topology: Topology | None) -> list[dict[str, str]]:
    """Members that this node's agent has seen, and whose keys have expired."""
    if topology is None:
        return []
    present = {member.name for member in topology.members}
    return [gone for gone in (agent or {}).get("members_gone", []) if gone["name"] not in present]


# --- the store, the agent -------------------------------------------------------------------------------------------


def _store(
    config: Config, record: Record | None, found: dict[str, Any], rows: Sequence[dict[str, Any]], leads: str | None
) -> dict[str, Any]:
    """Another store. ``found``: what is in it; ``leads``: the member that does."""
    leader, ahead = next((row for row in rows if row["name"] == leads), None), ahead_of(rows, record)
    lag = late = None
    if record is not None and leader is not None and leader["lsn"] is not None:
        lag = max(0, Lsn.parse(leader["lsn"]) - record.position)
        late = seconds_since(record.wal_at, ahead) if lag else 0.0
    return {
        "name": config.store_name,
        "url": url_of(config.store),
        "record": described(record, ahead),
        **found,
        "lag_bytes": lag,
        "lag_seconds_at_most": late,
    }


def _archive_of(config: Config, record: Record | None, unknown: list[Remark]) -> dict[str, Any]:
    """Gaps and base backups in another store."""
    doubts: list[Remark] = []
    found = {"gaps": _gaps(config, record, doubts), "backups": _backups(config, record, doubts)}
    unknown += about_store(config.store_name, doubts)
    return found


def _gaps(config: Config, record: Record | None, unknown: list[Remark]) -> list[dict[str, str | int]] | None:
    """From the store, which has all of them."""
    if record is None:
        unknown.append(remark("gaps: without the record it is not known where to look"))
        return None
    try:
        contents = _contents(config, record)
        gaps, accepted = _within(ANSWER_SECONDS, lambda: (contents.open_gaps(), contents.accepted_gaps()))
    except WalkeeperError as problem:
        unknown.append(remark(f"gaps: {problem}", problem.hint))
        return None
    return [
        {"timeline": gap.timeline, "start": gap.start, "end": gap.end, "accepted": covers(accepted, gap)}
        for gap in gaps
    ]


def _backups(config: Config, record: Record | None, unknown: list[Remark]) -> dict[str, Any] | None:
    """Walkeeper's own, by the record's word about the WAL; None where there are none, or nobody can tell."""
    if record is None:
        return None
    try:
        archives = open_archives(config, to_read=True)
        found = _within(ANSWER_SECONDS, lambda: claimed(archives, record))
    except WalkeeperError as problem:
        unknown.append(remark(f"base backups: {problem}", problem.hint))
        return None
    return summary(found, wall_seconds(), config)


def _contents(config: Config, record: Record) -> Contents:
    return open_archives(config, to_read=True).contents(int(record.system_identifier), record.size)


def _look_for_next_wal(
    config: Config, record: Record | None, gaps: list[dict[str, str | int]], rows: list[dict[str, Any]]
) -> None:
    """Of a replica that does not stream and is more than a segment behind: can the archive bring it on?"""
    if record is None:
        return
    late = [row for row in rows if row["receives"] is False and (row["behind_bytes"] or 0) > record.segment_size]
    try:
        if late:
            _within(ANSWER_SECONDS, lambda: _next_wal(_contents(config, record), record, gaps, late))
    except WalkeeperError:
        return  # whoever asked for the gaps has said it


def _next_wal(contents: Contents, record: Record, gaps: list[dict[str, str | int]], rows: list[dict[str, Any]]) -> None:
    history = History(1) if record.timeline == 1 else contents.history(record.timeline)
    if history is None:
        return
    for row in rows:
        lsn = Lsn.parse(row["lsn"])
        lost = [
            gap for gap in gaps
            if Lsn.parse(str(gap["end"])) > lsn and history.has(int(gap["timeline"]), Lsn.parse(str(gap["start"])))
        ]  # fmt: skip
        segment = history.segment_at(lsn, record.size)
        if lost:
            row["next_wal"] = f"gap {lost[0]['start']} to {lost[0]['end']}"
        elif segment.end <= record.position:
            row["next_wal"] = "archived" if contents.has(segment) else "absent"


def _within(seconds: float, work: Callable[[], _T]) -> _T:
    try:
        return within("store", work, seconds)
    except DeadlineExceeded as problem:
        raise StoreUnavailable(str(problem)) from None


def _agent(config: Config, unknown: list[Remark], found: list[Remark]) -> dict[str, Any] | None:
    """The report of this node's own agent. Whose user we are decides where its socket is looked for."""
    try:
        report = client.ask(paths.socket_path(config.source, os.environ), "status", AGENT_SECONDS)
    except AgentError as problem:
        said = remark(f"agent on this node: {problem}", problem.hint)
        (found if _is_servers_user(config) else unknown).append(said)
    except paths.RunDirectoryError as problem:
        unknown.append(remark(f"agent on this node: {problem}"))
    else:
        if understands(report):
            return report
        found.append(
            remark(
                "agent on this node: it is of another version of walkeeper, and was not started again since",
                "walkeeper agent --restart, or systemctl restart walkeeper.",
            )
        )
    return None


def understands(report: dict[str, Any]) -> bool:
    """Whether an agent's report has what is shown of it: it may be of another version."""
    agent, problems = report.get("agent"), report.get("troubles")
    return isinstance(agent, dict) and agent.keys() >= _SHOWN and isinstance(problems, list)


def _is_servers_user(config: Config) -> bool:
    try:
        return config.data_dir.stat().st_uid == os.geteuid()
    except (WalkeeperError, OSError):
        return False
