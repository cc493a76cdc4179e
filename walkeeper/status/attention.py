"""What a person should look at, and what to do about it. Pure: from what was learnt to sentences, each with its hint."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

from walkeeper.core.about import About
from walkeeper.core.amounts import duration, size, to_the_second
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.retention import LATE
from walkeeper.core.room import DISK_SECONDS
from walkeeper.core.store_words import for_store
from walkeeper.core.suspicion import below_reserve

STANDSTILL: Final = 30.0
"""Seconds without a move of the frontier while complete segments wait for it, from which on a person should look."""

CLOCK_SECONDS: Final = 60.0
"""Seconds between two clocks, from which on a person should look; doctor names smaller ones."""

_ENDED: Final = ("crashed", "start failed")
"""Of a server, in Patroni's words, when nobody has stopped it."""

Remark: TypeAlias = dict[str, str]
"""``text`` and ``hint``, which may be empty."""


def remark(text: str, hint: str = "") -> Remark:
    return {"text": text, "hint": hint}


def attention(status: dict[str, Any]) -> list[Remark]:
    """Everything that follows from the facts of ``status``; what could not be learnt is not a reason for alarm here."""
    return [
        *_about_the_owner(status),
        *_standstill(status["record"], status["members"]),
        *_about_gaps(status["gaps"]),
        *about_backups(status.get("backups")),
        *_about_members(status),
        *_about_the_agent(status),
        *_about_other_stores(status),
    ]


def about_store(name: str, found: Iterable[Remark]) -> Iterator[Remark]:
    """What is said of another store than the first, with its name; a command that a hint prints has it as well."""
    for each in found:
        yield remark(f"store {name}: {each['text']}", for_store(each["hint"], name))


def _about_other_stores(status: dict[str, Any]) -> Iterator[Remark]:
    """Each has an archive and a record of its own. What the agents of all report is said once."""
    reported = {each["name"]: each["troubles"] for each in (status["agent"] or {}).get("stores", ())}
    told = {problem["text"] for problem in _problems(status["agent"])}
    for store in status["stores"]:
        problems = [problem for problem in reported.get(store["name"], ()) if problem["text"] not in told]
        its = {**status, **store, "agent": status["agent"] and {"troubles": problems}, "paused": None}
        found = (
            *_about_the_owner(its),
            *_standstill(store["record"], [store]),
            *_about_gaps(store["gaps"]),
            *about_backups(store["backups"]),
            *_about_the_agent(its),
        )
        yield from about_store(store["name"], found)


def _about_gaps(gaps: list[dict[str, Any]] | None) -> Iterator[Remark]:
    for gap in gaps or []:
        if not gap["accepted"]:
            yield remark(
                f"gap on timeline {gap['timeline']}: {gap['start']} to {gap['end']}",
                "Take a base backup now: no restore from an earlier one gets past the gap. Then say that it is known: "
                f"walkeeper gap accept {gap['start']}",
            )


def about_backups(found: dict[str, Any] | None) -> list[Remark]:
    """Of a cluster that has base backups of walkeeper's."""
    return [] if found is None else list(_about_backups(found))


def _about_backups(found: dict[str, Any]) -> Iterator[Remark]:
    if found["damaged"]:
        number = "1 base backup is" if found["damaged"] == 1 else f"{found['damaged']} base backups are"
        yield remark(
            f"{number} damaged",
            "They do not count. walkeeper backups says why, and how one that a trial found damaged is proved again; walkeeper "
            "backup takes another.",
        )
    if not found["complete"] and found["damaged"] + found["incomplete"]:
        yield remark("no base backup is complete: nothing can be restored with walkeeper alone", "walkeeper backup")
    elif found["short"]:
        yield remark(
            f"what can be restored goes {duration((found['window'] or {}).get('seconds') or 0.0)} back, and backup.keep "
            f"promises {duration(found['keep_seconds'])}",
            "A gap, or damage, ends what older backups restore: walkeeper backups shows it. Only time brings it back.",
        )

    if found["overdue"]:
        age = duration((found["newest"] or {}).get("age_seconds") or 0.0)
        yield remark(
            f"the newest base backup is {age} old, and backup.schedule was due twice since",
            "walkeeper status on the node that archives says what the last one failed of; walkeeper backup takes one now.",
        )
    if (found["expire_waits_seconds"] or 0.0) > LATE:
        yield remark(
            f"expire has had something to delete for {duration(found['expire_waits_seconds'])}",
            "walkeeper expire on the node that archives says what, and what it refuses. docs/operations.md, Expire is late.",
        )
    if found["proof_overdue"]:
        proved = found["proved"]
        last = (
            "backups were never proved"
            if proved is None
            else f"the last proof is {duration(proved['age_seconds'])} old"
        )
        yield remark(
            f"{last}, and backup.verify_schedule was due twice since",
            "walkeeper status on the node that archives says what it failed of; walkeeper verify --restore does it now.",
        )


def _about_the_owner(status: dict[str, Any]) -> Iterator[Remark]:
    record, leader = status["record"], status["leader"]
    if status["paused"] is not None and leader is None:
        yield remark("Patroni has no leader", "patronictl list shows what its members do.")
    if record is None:
        return
    own = record["owner"] == status["node"] and status["agent"] is not None  # its word is newer, also that all is over
    if record["trouble"] and not own:
        hint = f"walkeeper status on {record['owner']} says what to do." if record["owner"] != status["node"] else ""
        yield remark(f"{record['owner']}, which archives: {record['trouble']}", hint)
    if record["closed_by"] not in (None, record["owner"]):
        yield remark(
            f"{record['closed_by']} has ended the session of {record['owner']}, to be promoted, and has not taken over",
            f"Normal for seconds. If it stays so, Patroni's log on {record['closed_by']} says what pre_promote waits for.",
        )
    elif leader is not None and record["owner"] != leader:
        owns = f"{record['owner']} still owns the record" if record["owner"] else "nobody owns the record yet"
        yield remark(
            f"Patroni's leader is {leader}, and {owns}",
            f"Normal for seconds after a failover. If it stays so, walkeeper status on {leader} says why its agent does not "
            "take over.",
        )


def _standstill(record: dict[str, Any] | None, members: list[dict[str, Any]]) -> Iterator[Remark]:
    """The owner's agent may be dead, and then says nothing."""
    if record is None:
        return
    waiting = max((row["lag_bytes"] for row in members if row["lag_bytes"] is not None), default=0)
    waited = max(
        (row["lag_seconds_at_most"] for row in members if row["lag_seconds_at_most"] is not None), default=None
    )
    stood = record["moved_seconds_ago"] if record["moved_seconds_ago"] is not None else record["age_seconds"]
    if waiting < record["segment_size"] or min(stood or 0, stood if waited is None else waited) < STANDSTILL:  # fmt: skip
        return
    owner = record["owner"] or "the leader"
    because = f", because of what {owner} reports" if record["trouble"] else ""
    yield remark(
        f"the frontier has stood for {duration(stood)}, and {size(waiting)} wait for it{because}",
        "" if because else f"Look at the agent on {owner}: does it run, and what does its log say?",
    )


def _about_members(status: dict[str, Any]) -> Iterator[Remark]:
    scope = status["scope"]
    if not status["members"]:
        yield remark(
            f"no member of a cluster {scope} is in the DCS",
            f"Is {scope} the cluster's scope, and the DCS the right one? patronictl list shows what Patroni sees.",
        )
    for gone in status["gone"]:
        yield remark(
            f"{gone['name']} was a member until {to_the_second(gone['last_seen'])}, and its key in the DCS has expired",
            "Patroni does not run there, or does not reach the DCS. Of a member that was removed on purpose this is said for a "
            "day.",
        )
    for row in status["members"]:
        if row["gap_safe"] is False:
            yield remark(f"{row['name']} is not gap-safe: {row['why']}", row["hint"] or "")
        if row["state"] in _ENDED:
            yield remark(
                f"{row['name']}'s PostgreSQL does not run: Patroni says {row['state']}",
                "Patroni starts it again; its log says why it ended. If its disk is full: docs/operations.md, Disk full.",
            )
        yield from _beside_the_leader(row, status)
        yield from _clock(row)
        yield from _stuck(row, scope)
        yield from _about_commits(row, status)
        yield from _disk_short(row, status)
    slot = status["hold_slot"]
    if not slot["declared"] and status["members"] and status["paused"] is not None:
        yield remark(
            f"Patroni's dynamic configuration does not declare the slot {slot['name']}",
            f"patronictl edit-config --set slots.{slot['name']}.type=physical --force",
        )


def _beside_the_leader(row: dict[str, Any], status: dict[str, Any]) -> Iterator[Remark]:
    """Promoted by hand, in a pause for instance. Its own agent says so, too, if it runs; nobody else's does."""
    name, leader = row["name"], status["leader"]
    told = name == status["node"] and any(each["what"] == About.NO_LEADERSHIP for each in _problems(status["agent"]))
    owns = status["record"] is not None and status["record"]["owner"] == name  # a failover that goes on: said already
    if row["in_recovery"] is False and leader not in (None, name) and not told and not owns:
        yield remark(
            f"{name} takes writes, and {leader} leads: what is written there is not archived",
            "Normal for seconds after a failover. If it stays so, it was promoted by hand, or is cut off from the DCS. Keep "
            f"applications away from it: what was written there goes when Patroni rewinds {name}, or builds it again.",
        )


def _clock(row: dict[str, Any]) -> Iterator[Remark]:
    ahead = row.get("clock_ahead_seconds") or 0.0
    if abs(ahead) >= CLOCK_SECONDS:
        yield remark(
            f"the clock of {row['name']} is {duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} this node's",
            "Transactions state the time of the server that commits, and a restore to a time goes by it; what is old enough to "
            "be given up goes by the store's. timedatectl set-ntp true",
        )


def _stuck(row: dict[str, Any], scope: str) -> Iterator[Remark]:
    """A replica that streams comes back automatically, and one whose next WAL is in the archive does so from there."""
    cannot = {
        "gap": "the WAL that it needs next is lost in a gap",
        "absent": "the WAL that it needs next is not in the archive",
    }
    why = cannot.get(str(row["next_wal"]).partition(" ")[0])
    if why is not None:
        yield remark(
            f"{row['name']} is {size(row['behind_bytes'])} behind the leader and does not stream: {why}",
            f"If its leader no longer has that WAL either, build it again: patronictl reinit {scope} {shlex.quote(row['name'])}",
        )


def _about_commits(row: dict[str, Any], status: dict[str, Any]) -> Iterator[Remark]:
    """Where they are to wait for the store, by the server's own word: its agent may be dead, and then says nothing."""
    commits, name = row.get("commits"), row["name"]
    if commits is None:
        return
    if commits["waited_for"] and not commits["acknowledged"]:
        yield remark(
            f"commits on {name} wait, and no agent streams from it to acknowledge them",
            f"Normal for seconds after a failover or a start of the agent. If it stays so, walkeeper status on {name} says "
            "whether the agent runs, and why it does not stream.",
        )
    wanted = status["record"] is not None and status["record"]["durability"] == "store"
    if wanted and not commits["waited_for"] and name == status["leader"]:
        yield remark(
            f"commits on {name} do not wait for the store: synchronous_standby_names does not demand {commits['standby_name']}",
            "durability: store promises it only then. walkeeper doctor prints the line to paste.",
        )


def _disk_short(row: dict[str, Any], status: dict[str, Any]) -> Iterator[Remark]:
    """A database that stops is worse than a gap."""
    disk = row.get("disk")
    if disk is None:
        return
    left = disk["seconds_left"]
    segment = SegmentSize(MIB if status["record"] is None else status["record"]["segment_size"])
    short = below_reserve(disk["free"], disk["total"], segment, disk["growth"])
    if short or (left is not None and left < DISK_SECONDS):
        when = "" if left is None else f", and it is full in {duration(left)} if this goes on"
        ends = ": WAL that is suspected lost is not waited for, and one store is enough" if short else ""
        yield remark(
            f"the disk of pg_wal on {row['name']} has {size(disk['free'])} free{when}{ends}",
            "Make room there, and look at what keeps WAL: what is not archived, and other replication slots. docs/operations.md, "
            "Disk full, says what to do in which order.",
        )


def _problems(agent: dict[str, Any] | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (agent or {}).get("troubles", [])
    return found


def _about_the_agent(status: dict[str, Any]) -> Iterator[Remark]:
    told = {f"{row['name']}: {row['why']}" for row in status["members"] if row["gap_safe"] is False}
    if status["gaps"]:
        told |= {problem["text"] for problem in _problems(status["agent"]) if problem["reason"] == "gap"}
    causes = [(problem["reason"], problem.get("hint")) for problem in _problems(status["agent"])]
    for at, problem in enumerate(_problems(status["agent"])):
        if problem["text"] in told:
            continue  # a member's row, or the gap's own line, says it
        if problem.get("hint") and causes[at] in causes[:at]:
            continue  # a store that is away keeps several from their work
        tried = problem.get("seen_seconds_ago")
        ago = f", last met {duration(tried)} ago" if tried is not None and tried >= STANDSTILL else ""
        yield remark(
            f"agent on this node, since {to_the_second(problem['since'])}{ago}: {problem['text']}",
            problem.get("hint", ""),
        )
